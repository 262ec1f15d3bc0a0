//! Lowest priority.
//!
//! **How.** It picks the candidate with the lowest priority number. Ties go to the first.
//!
//! **When.** One deployment is preferred (cheaper, nearer, already paid for) and the others are spares.
//!
//! **When not.** To share load: deployments of the same priority stand idle until a gate stops the first.

use super::candidate::Candidate;
use super::first_least::{Key, Least};
use super::pick::pick_first;

/// The key of this rule: see the module.
#[derive(Debug)]
pub(crate) struct Priority;

/// See the module.
pub(crate) type LowestPriority = Least<Priority>;

impl Key for Priority {
    type Leaf = u32;

    const SCORE: &'static str = "priority";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u32 {
        candidate.priority()
    }

    #[inline]
    fn key(priority: u32) -> u128 {
        u128::from(priority)
    }

    fn score(candidate: &impl Candidate) -> f64 {
        f64::from(candidate.priority())
    }
}

/// Picks the candidate with the lowest priority number, ties to the first; None without candidates.
#[must_use]
pub fn lowest_priority(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<LowestPriority>(contexts)
}
