//! The rules that pick among candidates.
//!
//! A `Rule` sums up candidates. It makes the summary of one candidate, and joins the summaries of two
//! neighbouring ranges. A summary is a few words that either name the pick or ask for a draw. Because
//! summaries combine, the same rule serves two users: a walk over the candidates in registration order, and
//! an index that keeps the summaries of ranges. Both give the same pick.
//!
//! The rules do not decide which members are candidates. The gates do (see `gates`), and the index keeps a
//! leaf of each member that passes them.
//!
//! Each rule has a file of its own and one row of the table in `name.rs`.

mod candidate;
mod chance;
mod cheapest;
mod first_least;
mod least_busy;
mod lowest_latency;
mod lowest_priority;
mod lowest_usage;
mod name;
mod pick;
mod rate_limit_aware;
mod round_robin;
mod rule;
mod tiers;
mod weighted_random;

pub use candidate::{Candidate, RoutingContext};
pub(crate) use chance::Chance;
#[cfg(test)]
pub(crate) use chance::{Choice, Step};
pub(crate) use cheapest::Cheapest;
pub use cheapest::cheapest;
pub(crate) use least_busy::LeastBusy;
pub use least_busy::least_busy;
pub(crate) use lowest_latency::LowestLatency;
pub use lowest_latency::lowest_latency;
pub(crate) use lowest_priority::LowestPriority;
pub use lowest_priority::lowest_priority;
pub(crate) use lowest_usage::LowestUsage;
pub use lowest_usage::lowest_usage;
pub use name::Strategy;
pub(crate) use name::{Order, each_rule};
pub(crate) use pick::Candidates;
pub(crate) use rate_limit_aware::RateLimitAware;
pub use rate_limit_aware::rate_limit_aware;
pub(crate) use round_robin::RoundRobin;
pub use round_robin::{RoundRobinCounters, round_robin};
pub(crate) use rule::{Rule, View};
pub(crate) use tiers::Tiered;
pub(crate) use weighted_random::WeightedRandom;
pub use weighted_random::weighted_random;
