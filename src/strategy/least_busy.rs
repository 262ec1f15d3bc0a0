//! Least busy.
//!
//! **How.** Fewest active requests; ties uniformly at random.
//!
//! **When.** Deployments of about the same size whose latency grows with their load, such as replicas of one engine.
//!
//! **When not.** Deployments of unlike size (it ignores weights), or ones that fail fast without a cooldown: they are never busy.

use super::{Outcome, Position, Rule, pick_drawn};
use crate::context::Candidate;
use crate::rng::Rng;

/// See the module.
#[derive(Debug)]
pub(crate) struct LeastBusy;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    fewest: u32,
    /// How many have that few; 0 without candidates.
    ties: u32,
}

impl Rule for LeastBusy {
    type Leaf = u32;
    type Summary = Summary;

    const SCORE: &'static str = "active requests";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u32 {
        candidate.active_requests()
    }

    #[inline]
    fn sum_up(_: Position, active_requests: u32) -> Summary {
        Summary { fewest: active_requests, ties: 1 }
    }

    #[inline]
    fn join(left: &Summary, right: &Summary) -> Summary {
        if right.ties == 0 || (left.ties != 0 && left.fewest < right.fewest) {
            *left
        } else if left.ties == 0 || right.fewest < left.fewest {
            *right
        } else {
            Summary { ties: left.ties.saturating_add(right.ties), ..*left }
        }
    }

    #[inline]
    fn outcome(summary: &Summary) -> Outcome {
        match *summary {
            Summary { ties: 0, .. } => Outcome::Nobody,
            Summary { ties: 1, .. } => Outcome::Only,
            Summary { ties, .. } => Outcome::Draw { total: u64::from(ties) },
        }
    }

    #[inline]
    fn share(whole: &Summary, part: &Summary) -> u64 {
        if part.fewest == whole.fewest { u64::from(part.ties) } else { 0 }
    }

    #[inline]
    fn equal_share(whole: &Summary, part: &Summary, count: usize) -> Option<u64> {
        (Self::share(whole, part) == count as u64).then_some(1)
    }

    fn score(_: &Summary, candidate: &impl Candidate) -> f64 {
        f64::from(candidate.active_requests())
    }
}

/// Picks the candidate with the fewest active requests, ties at random; None without candidates.
#[must_use]
pub fn least_busy(contexts: &[impl Candidate], rng: &Rng) -> Option<usize> {
    pick_drawn::<LeastBusy>(contexts, rng)
}
