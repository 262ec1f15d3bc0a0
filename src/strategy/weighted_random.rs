//! Weighted random.
//!
//! **How.** Each candidate has the probability weight / total weight; if every weight is 0, all have the same.
//!
//! **When.** The default: needs no state, spreads evenly, cannot herd. Weights say how much larger one deployment is than another.
//!
//! **When not.** It does not notice load or speed: a slow deployment gets its full share and grows a queue.

use super::{Outcome, Rule, pick_drawn};
use crate::context::Candidate;
use crate::rng::Rng;

/// See the module.
pub(crate) struct WeightedRandom;

#[derive(Debug, Default)]
pub(crate) struct Summary {
    count: u64,
    /// Fits: 2^32 candidates of weight 2^32 - 1 do.
    total: u64,
    last: usize,
}

impl Rule for WeightedRandom {
    type Summary = Summary;

    const SCORE: &'static str = "weight";

    #[inline]
    fn absorb(summary: &mut Summary, position: usize, candidate: &impl Candidate) {
        summary.count += 1;
        summary.total = summary.total.saturating_add(u64::from(candidate.weight()));
        summary.last = position;
    }

    fn outcome(summary: &Summary) -> Outcome {
        match *summary {
            Summary { count: 0, .. } => Outcome::Nobody,
            Summary { count: 1, last, .. } => Outcome::At(last),
            Summary { count, total: 0, last } => Outcome::Draw { total: count, else_at: last },
            Summary { total, last, .. } => Outcome::Draw { total, else_at: last },
        }
    }

    #[inline]
    fn share(summary: &Summary, candidate: &impl Candidate) -> u64 {
        if summary.total == 0 { 1 } else { u64::from(candidate.weight()) }
    }

    fn score(_: &Summary, candidate: &impl Candidate) -> f64 {
        f64::from(candidate.weight())
    }
}

/// Picks at random in proportion to the weights, uniformly if all are 0; None without candidates.
#[must_use]
pub fn weighted_random(contexts: &[impl Candidate], rng: &Rng) -> Option<usize> {
    pick_drawn::<WeightedRandom>(contexts, rng)
}
