//! Limits: how much may be used in a time, and how much has been used.
//!
//! `rpm_limit` and `tpm_limit` are counted in a deployment's block of counters ([`MinuteWindow`]). All other
//! limits of a provider are [`Limit`]s. A meter of its kind counts each of them. A [`Quota`] is a set of
//! limits that several deployments share. What a provider says about its limits is kept beside them
//! ([`Observations`]).
//!
//! Where processes share limits, each holds pieces of them:
//!
//! | file | idea |
//! |---|---|
//! | `desk.rs` | the talk of a router with its store: batches of messages, and what their answers bring |
//! | `share.rs` | what this process holds of one owner's limits, on the way of a request |
//! | `correspond.rs` | what it says of an owner to the store, and takes (`talk.rs`: the state of that) |
//! | `hand.rs` | the pieces of one limit (`piece.rs`: their words, `shape.rs`: how windows follow each other) |
//! | `pace.rs` | how fast a limit is used, and so how much to hold |
//! | `signals.rs`, `tell.rs` | what processes tell each other beside limits |
//! | `store_time.rs`, `bell.rs` | the store's time, and what wakes the carrier of the talk |

#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python has stores that may be lost"))]
mod bell;
mod bucket;
mod cap;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python has stores that may be lost"))]
mod correspond;
mod demand;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python has stores that may be lost"))]
mod desk;
mod fixed;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python has stores that may be lost"))]
mod hand;
mod ledger;
mod limit;
mod meter;
mod metering;
mod minute;
mod observed;
mod pace;
mod piece;
mod quota;
mod quotas;
mod shape;
#[cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python has stores that may be lost"))]
mod share;
mod shortfall;
mod signals;
mod sliding;
mod stats;
mod store_time;
mod talk;
mod tell;
mod unit;
mod usage;
mod zone;

pub(crate) use cap::Cap;
pub(crate) use demand::Demand;
#[cfg_attr(not(feature = "python"), allow(unused_imports, reason = "only Python carries batches"))]
pub(crate) use desk::Batch;
pub use desk::SharingStats;
pub(crate) use desk::{Desk, Hears, OnLoss};
pub(crate) use ledger::Ledger;
pub use limit::{Limit, LimitKind, Start};
pub(crate) use meter::{Meter, Past};
pub(crate) use metering::{Charges, Metering};
pub(crate) use minute::{Counts, Minute, MinuteWindow, to_next_minute};
pub use observed::Observed;
pub(crate) use observed::{HOLDS, Observations, Reserved};
pub use quota::Quota;
pub(crate) use quotas::{OTHERS, Quotas};
pub(crate) use share::Share;
pub use share::SharedShortfall;
pub use shortfall::{LimitShortfall, ObservedShortfall, Shortfall};
pub(crate) use signals::Heard;
pub use stats::{LimitStats, ObservedStats};
pub(crate) use talk::Terms;
pub use unit::Unit;
pub use usage::Usage;
pub use zone::Zone;
