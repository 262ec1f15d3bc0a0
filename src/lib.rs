//! The routing core of `turnout`: it picks one deployment of a model for every request.
//!
//! A [`Router`] holds [`Deployment`]s in groups, one for each model name. [`Router::select`] picks one.
//! [`Router::acquire`] picks one and reserves three things, all or none: a place in flight, one request and
//! the estimated tokens of this minute. It returns a [`Lease`] that ends exactly once. [`Router::explain`]
//! runs the same code and tells what it saw.
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
//! The crate has no Python in it unless the feature `python` is on. That feature adds the extension module
//! `turnout._core`.

mod attempts;
mod base;
mod counters;
mod facts;
mod gates;
mod group;
mod health;
mod index;
mod lease;
mod limits;
mod pick;
#[cfg(feature = "python")]
mod python;
mod registry;
mod router;
#[cfg_attr(not(feature = "python"), allow(dead_code, unused_imports, reason = "only Python reads headers so far"))]
mod said;
mod settings;
mod shared;
mod sharing;
#[cfg_attr(not(feature = "python"), allow(dead_code, unused_imports, reason = "only Python has stores so far"))]
mod stores;
pub mod strategy;
mod wait;
#[cfg_attr(not(feature = "python"), allow(dead_code, unused_imports, reason = "only Python reads bodies so far"))]
mod wire;

pub use attempts::{Budget, BudgetRules};
pub use base::clock::{Clock, SystemClock};
pub use base::error::{Error, Reasons, TooLarge, Unavailable, UnknownDeployment, UnknownModel};
pub use base::events::{Event, EventKind, Subscription};
pub use base::fork::after_fork;
pub use base::gate::Gate;
pub use base::labels::Dialect;
pub use base::manual_clock::ManualClock;
pub use base::rng::Rng;
pub use base::time::{Nanos, nanos, reading};
pub use facts::{Deployment, Learning, Price, Request, Size, Waiting, Wishes};
pub use gates::Refusal;
pub use group::{Attachment, Entry, Metrics, Removed, Stats};
pub use health::{Cause, FailureKind, HealthRules, MinuteRules, Rules, Scope, Status};
pub use lease::Lease;
pub use limits::{
    Limit, LimitKind, LimitShortfall, LimitStats, Observed, ObservedShortfall, ObservedStats, Quota, SharedShortfall, SharingStats,
    Shortfall, Start, Unit, Usage, Zone,
};
pub use pick::{Explanation, Verdict};
pub use registry::Changed;
pub use router::Router;
pub use settings::Settings;
pub use sharing::{Memory, Sharing};
pub use strategy::{Candidate, RoundRobinCounters, RoutingContext, Strategy};
pub use wait::{Patience, Progress, Waiter};
