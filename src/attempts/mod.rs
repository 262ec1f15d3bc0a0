//! What all attempts of a router share: the budget of further attempts, and the counts.

mod budget;
#[cfg(feature = "python")]
mod counts;

pub use budget::{Budget, BudgetRules};
#[cfg(feature = "python")]
pub(crate) use counts::{AttemptCounts, Counted};
