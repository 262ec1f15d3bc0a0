//! Lowest usage.
//!
//! **How.** Lowest `tpm_current * 100 / tpm_limit` in whole percent; a limit of None or 0 counts as 0; ties
//! to the first.
//!
//! **When.** Deployments with token limits that should fill up together.
//!
//! **When not.** Large limits and few requests: within one percent everything goes to the first. An unlimited
//! deployment always counts as empty and takes everything.

use super::candidate::Candidate;
use super::chance::Choice;
use super::first_least::FirstLeast;
use super::pick::pick_first;
use super::rule::Rule;
use crate::base::position::Position;
use crate::limits::Usage;

/// See the module.
#[derive(Debug)]
pub(crate) struct LowestUsage;

impl LowestUsage {
    /// Returns the used share in whole percent, at most 100 * 2^64.
    #[inline]
    fn percent(usage: Usage) -> u128 {
        match usage.limit {
            None | Some(0) => 0,
            Some(limit) => match usage.current.checked_mul(100) {
                Some(hundredfold) => u128::from(hundredfold / limit),
                None => u128::from(usage.current) * 100 / u128::from(limit),
            },
        }
    }
}

impl Rule for LowestUsage {
    type Leaf = u128;
    type Summary = FirstLeast;

    const SCORE: &'static str = "percent of tokens used";
    const ABSORBS: bool = true;

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u128 {
        Self::percent(candidate.tpm())
    }

    #[inline]
    fn sum_up(position: Position, percent: u128) -> Self::Summary {
        FirstLeast::of(position, percent)
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

    #[allow(clippy::cast_precision_loss)] // for people to read
    fn score(_: &Self::Summary, candidate: &impl Candidate) -> f64 {
        Self::percent(candidate.tpm()) as f64
    }
}

/// Picks the candidate that has used the smallest share of its token limit, ties to the first; None without
/// candidates.
#[must_use]
pub fn lowest_usage(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<LowestUsage>(contexts)
}
