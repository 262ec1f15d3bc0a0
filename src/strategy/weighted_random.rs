//! Weighted random.
//!
//! **How.** It draws a candidate. The probability of each is its weight divided by the total weight. If every
//! weight is 0, all have the same probability.
//!
//! **When.** It is the default: it needs no state, spreads evenly, and never sends all requests to one
//! deployment. Weights say how much larger one deployment is than another.
//!
//! **When not.** It does not notice load or speed: a slow deployment gets its full share and grows a queue.

use super::candidate::Candidate;
use super::chance::Choice;
use super::pick::pick_drawn;
use super::rule::Rule;
use crate::base::position::Position;
use crate::base::rng::Rng;

/// See the module.
#[derive(Debug)]
pub(crate) struct WeightedRandom;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    /// The sum of the weights. It fits 64 bits: 2^32 candidates of weight 2^32 - 1 do.
    total: u64,
    count: u32,
    /// The weight of each candidate if all have the same, and 0 if not.
    each: u32,
}

impl Rule for WeightedRandom {
    type Leaf = u32;
    type Summary = Summary;

    const SCORE: &'static str = "weight";
    const SHARES_VARY: bool = true;
    const FOLLOWS_WEIGHTS: bool = true;

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u32 {
        candidate.weight()
    }

    #[inline]
    fn sum_up(_: Position, weight: u32) -> Summary {
        Summary { total: u64::from(weight), count: 1, each: weight }
    }

    #[inline]
    fn join(left: &Summary, right: &Summary) -> Summary {
        let each = match (left.count, right.count) {
            (_, 0) => left.each,
            (0, _) => right.each,
            _ if left.each == right.each => left.each,
            _ => 0,
        };
        Summary { total: left.total.saturating_add(right.total), count: left.count.saturating_add(right.count), each }
    }

    #[inline]
    fn choice(summary: &Summary) -> Choice {
        match *summary {
            Summary { count: 0, .. } => Choice::Nobody,
            Summary { count: 1, .. } => Choice::Only,
            Summary { total: 0, count, .. } => Choice::Draw { total: u64::from(count) },
            Summary { total, .. } => Choice::Draw { total },
        }
    }

    #[inline]
    fn share(whole: &Summary, part: &Summary) -> u64 {
        if whole.total == 0 { u64::from(part.count) } else { part.total }
    }

    #[inline]
    fn equal_share(_: &Summary, part: &Summary, count: usize) -> Option<u64> {
        (part.count as usize == count && part.each > 0).then_some(u64::from(part.each))
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
