//! Lowest priority.
//!
//! **How.** Lowest priority number; ties to the first.
//!
//! **When.** One deployment is preferred (cheaper, nearer, already paid for) and the others are spares.
//!
//! **When not.** To share load: equals of the preferred one stand idle until a gate stops it.

use super::candidate::Candidate;
use super::chance::Choice;
use super::first_least::FirstLeast;
use super::pick::pick_first;
use super::rule::Rule;
use crate::base::position::Position;

/// See the module.
#[derive(Debug)]
pub(crate) struct LowestPriority;

impl Rule for LowestPriority {
    type Leaf = u32;
    type Summary = FirstLeast;

    const SCORE: &'static str = "priority";
    const ABSORBS: bool = true;

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u32 {
        candidate.priority()
    }

    #[inline]
    fn sum_up(position: Position, priority: u32) -> Self::Summary {
        FirstLeast::of(position, u128::from(priority))
    }

    #[inline]
    fn join(left: &Self::Summary, right: &Self::Summary) -> Self::Summary {
        left.join(*right)
    }

    #[inline]
    fn replaced(whole: &Self::Summary, old: &Self::Summary, new: &Self::Summary) -> Option<Self::Summary> {
        whole.replaced(*old, *new)
    }

    fn choice(summary: &Self::Summary) -> Choice {
        summary.choice()
    }

    fn score(_: &Self::Summary, candidate: &impl Candidate) -> f64 {
        f64::from(candidate.priority())
    }
}

/// Picks the candidate with the lowest priority number, ties to the first; None without candidates.
#[must_use]
pub fn lowest_priority(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<LowestPriority>(contexts)
}
