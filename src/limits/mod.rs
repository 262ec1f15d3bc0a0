//! Limits: what may be used in a time, and what has been.
//!
//! `rpm_limit` and `tpm_limit` are counted in a deployment's block of counters ([`MinuteWindow`]); whatever else a provider limits is a
//! [`Limit`], counted by a meter of its kind. A [`Quota`] is a set of limits that several deployments share.

mod bucket;
mod fixed;
mod ledger;
mod limit;
mod meter;
mod minute;
mod sliding;

pub use ledger::LimitStats;
pub(crate) use ledger::{Charges, Ledger, Metering, Quotas, Short};
pub(crate) use limit::Demand;
pub use limit::{Limit, LimitKind, Quota, Start, Unit};
pub(crate) use meter::Meter;
pub use meter::Spent;
pub(crate) use minute::{Counts, Minute, MinuteWindow, to_next_minute};
