//! Rate-limit aware.
//!
//! **How.** It picks the candidate with the largest distance from its limits. The distance is the smaller of
//! the remaining shares of tokens and of requests. A limit of None or 0 leaves a share of 1. A count above
//! its limit leaves 0. Ties go to the first.
//!
//! **When.** For deployments whose two limits both matter and should be used up evenly.
//!
//! **When not.** With an unlimited deployment in the group: it always has the largest distance and takes
//! everything.

use super::candidate::Candidate;
use super::first_least::{Key, Least};
use super::pick::pick_first;
use crate::limits::Usage;

/// The key of this rule: see the module.
#[derive(Debug)]
pub(crate) struct Distance;

/// See the module.
pub(crate) type RateLimitAware = Least<Distance>;

impl Distance {
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

impl Key for Distance {
    type Leaf = f64;

    const SCORE: &'static str = "remaining share";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> f64 {
        Self::distance(candidate)
    }

    #[inline]
    fn key(distance: f64) -> u128 {
        // Numbers that are not negative have the same order as their bits. With all bits inverted, the
        // largest distance is the least key.
        u128::from(!distance.to_bits())
    }

    fn score(candidate: &impl Candidate) -> f64 {
        Self::distance(candidate)
    }
}

/// Picks the candidate that is farthest from its limits, ties to the first; None without candidates.
#[must_use]
pub fn rate_limit_aware(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<RateLimitAware>(contexts)
}
