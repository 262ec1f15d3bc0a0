//! Rate-limit aware.
//!
//! **How.** Largest distance from the limits, which is the smaller of the remaining shares of tokens and of
//! requests. A limit of None or 0 leaves a share of 1, a count above its limit leaves 0. Ties to the first.
//!
//! **When.** Both limits bind and should be used up evenly.
//!
//! **When not.** With an unlimited deployment in the group: it is always the farthest and takes everything.

use super::candidate::Candidate;
use super::chance::Choice;
use super::first_least::FirstLeast;
use super::pick::pick_first;
use super::rule::Rule;
use crate::base::position::Position;
use crate::limits::Usage;

/// See the module.
#[derive(Debug)]
pub(crate) struct RateLimitAware;

impl RateLimitAware {
    #[inline]
    #[allow(clippy::cast_precision_loss)] // the rule is in doubles
    fn remaining(usage: Usage) -> f64 {
        match usage.limit {
            None | Some(0) => 1.0,
            Some(limit) => limit.saturating_sub(usage.current) as f64 / limit as f64,
        }
    }

    #[inline]
    fn distance(candidate: &impl Candidate) -> f64 {
        Self::remaining(candidate.tpm()).min(Self::remaining(candidate.rpm()))
    }
}

impl Rule for RateLimitAware {
    type Leaf = f64;
    type Summary = FirstLeast;

    const SCORE: &'static str = "remaining share";
    const ABSORBS: bool = true;

    #[inline]
    fn leaf(candidate: &impl Candidate) -> f64 {
        Self::distance(candidate)
    }

    #[inline]
    fn sum_up(position: Position, distance: f64) -> Self::Summary {
        // The bits of numbers that are not negative are in their order; all of them inverted, the largest
        // distance is the least.
        FirstLeast::of(position, u128::from(!distance.to_bits()))
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
        Self::distance(candidate)
    }
}

/// Picks the candidate that is farthest from its limits, ties to the first; None without candidates.
#[must_use]
pub fn rate_limit_aware(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<RateLimitAware>(contexts)
}
