//! The routing core of `turnout`: it picks one deployment of a model for every request.
//!
//! A [`Router`] holds [`Deployment`]s in groups, one a model name. [`Router::select`] picks one; [`Router::acquire`] picks one and
//! reserves a request in flight, one request and the estimated tokens of this minute, in all three or in none, and returns a
//! [`Lease`] that ends exactly once. [`Router::explain`] runs the same code and tells what it saw.
//!
//! ```
//! use turnout::{Deployment, Request, Router, Settings};
//!
//! let router = Router::new(Settings::default())?;
//! router.add(Deployment::new("azure-eu", "gpt-4o")?.with_rpm_limit(Some(1))?, ())?;
//! let lease = router.acquire("gpt-4o", &Request::default())?;
//! assert_eq!(lease.deployment().id(), "azure-eu");
//! assert!(router.acquire("gpt-4o", &Request::default()).is_err());
//! lease.success(Some(412), None, None);
//! # Ok::<(), turnout::Error>(())
//! ```
//!
//! The crate has no Python in it unless the feature `python` is on, which adds the extension module `turnout._core`.

mod clock;
mod context;
mod deployment;
mod error;
mod events;
mod explain;
mod group;
mod health;
mod index;
mod learn;
mod lease;
mod limits;
mod outcome;
#[cfg(feature = "python")]
mod python;
mod registry;
mod rng;
mod router;
mod select;
mod state;
pub mod strategy;
mod sync;
mod wait;

pub use clock::{Clock, ManualClock, Nanos, SystemClock, nanos, reading};
pub use context::{Candidate, RoutingContext, Usage};
pub use deployment::Deployment;
pub use error::{Error, Reasons, TooLarge, Unavailable, UnknownDeployment, UnknownModel};
pub use events::{Event, EventKind, Subscription};
pub use explain::{Explanation, Verdict};
pub use health::{BreakerRules, Cause, FailureKind, HealthRules, Status};
pub use learn::{Lack, Learning, Observed, ObservedStats};
pub use lease::Lease;
pub use limits::{Limit, LimitKind, LimitStats, Quota, Spent, Start, Unit};
pub use registry::{Attachment, Entry, Removed};
pub use rng::{Rng, after_fork};
pub use router::{Router, Settings};
pub use select::{Refusal, Request, Wishes};
pub use state::{Metrics, Stats};
pub use strategy::{RoundRobinCounters, Strategy};
pub use wait::{Patience, Turn, Waiter, Waiting};
