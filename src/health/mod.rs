//! Health: what takes a deployment out, for how long, and how it comes back.
//!
//! A deployment follows one of two sets of [`Rules`]. Those of `Health` ([`HealthRules`]) are the default.
//! Those of the minute ([`MinuteRules`]) are litellm-rs's. Both write the same few words, the [`Vitals`]. A
//! pick reads nothing else of a deployment that is well. The other counters of the first set lie in the
//! [`Breaker`].

mod breaker;
mod cause;
mod census;
mod domain;
mod failure;
mod health_rules;
mod minute_rules;
mod named_wait;
mod pool;
mod ring;
mod rules;
mod slow_start;
mod vitals;

pub(crate) use breaker::{Breaker, BreakerStats};
pub use cause::Cause;
pub(crate) use census::{Census, Fitness, Peers};
pub(crate) use domain::{Domain, Domains};
pub(crate) use failure::Failure;
pub use failure::{FailureKind, Scope};
pub use health_rules::HealthRules;
pub use minute_rules::MinuteRules;
pub(crate) use named_wait::NamedWait;
pub(crate) use pool::Pool;
pub(crate) use ring::Tally;
pub use rules::Rules;
pub(crate) use slow_start::Slice;
pub use vitals::Status;
pub(crate) use vitals::{Vitals, has_come, smooth};
