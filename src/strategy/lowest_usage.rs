//! Lowest usage.
//!
//! **How.** It picks the candidate with the lowest `tpm_current * 100 / tpm_limit` in whole percent. A limit
//! of None or 0 counts as 0 percent. Ties go to the first.
//!
//! **When.** For deployments with token limits that should fill up together.
//!
//! **When not.** For large limits and few requests: within one percent everything goes to the first. An
//! unlimited deployment always counts as empty and takes everything.

use super::candidate::Candidate;
use super::first_least::{Key, Least};
use super::pick::pick_first;
use crate::limits::Usage;

/// The key of this rule: see the module.
#[derive(Debug)]
pub(crate) struct PercentUsed;

/// See the module.
pub(crate) type LowestUsage = Least<PercentUsed>;

impl PercentUsed {
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

impl Key for PercentUsed {
    type Leaf = u128;

    const SCORE: &'static str = "percent of tokens used";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u128 {
        Self::percent(candidate.tpm())
    }

    #[inline]
    fn key(percent: u128) -> u128 {
        percent
    }

    #[allow(clippy::cast_precision_loss)] // for people to read
    fn score(candidate: &impl Candidate) -> f64 {
        Self::percent(candidate.tpm()) as f64
    }
}

/// Picks the candidate that has used the smallest share of its token limit, ties to the first; None without
/// candidates.
#[must_use]
pub fn lowest_usage(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<LowestUsage>(contexts)
}
