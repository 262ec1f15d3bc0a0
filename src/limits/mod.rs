//! Limits: how much may be used in a time, and how much has been used.
//!
//! `rpm_limit` and `tpm_limit` are counted in a deployment's block of counters ([`MinuteWindow`]). All other
//! limits of a provider are [`Limit`]s. A meter of its kind counts each of them. A [`Quota`] is a set of
//! limits that several deployments share. What a provider says about its limits is kept beside them
//! ([`Observations`]).

mod bell;
mod bucket;
mod cap;
mod demand;
mod desk;
mod fixed;
mod hand;
mod ledger;
mod limit;
mod meter;
mod metering;
mod minute;
mod observed;
mod quota;
mod quotas;
mod shortfall;
mod signals;
mod pace;
mod share;
mod sliding;
mod stats;
mod unit;
mod usage;
mod zone;

pub(crate) use cap::Cap;
pub(crate) use demand::Demand;
pub(crate) use ledger::Ledger;
pub use limit::{Limit, LimitKind, Start};
pub(crate) use meter::{Meter, Past};
pub(crate) use metering::{Charges, Metering};
pub(crate) use minute::{Counts, Minute, MinuteWindow, to_next_minute};
pub use observed::Observed;
pub(crate) use observed::{HOLDS, Observations, Reserved};
pub use quota::Quota;
pub(crate) use quotas::{OTHERS, Quotas};
pub use desk::SharingStats;
pub(crate) use desk::{Batch, Desk, Hears, OnLoss};
pub use share::SharedShortfall;
pub(crate) use share::{Share, Terms};
pub(crate) use signals::Heard;
pub use shortfall::{LimitShortfall, ObservedShortfall, Shortfall};
pub use stats::{LimitStats, ObservedStats};
pub use unit::Unit;
pub use usage::Usage;
pub use zone::Zone;
