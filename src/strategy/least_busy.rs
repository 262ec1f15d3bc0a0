//! Least busy.
//!
//! **How.** Fewest active requests; ties uniformly at random.
//!
//! **When.** Deployments of about the same size whose latency grows with their load, such as replicas of one engine.
//!
//! **When not.** Deployments of unlike size (it ignores weights), or ones that fail fast without a cooldown: they are never busy.

use super::{Outcome, Rule, pick_drawn};
use crate::context::Candidate;
use crate::rng::Rng;

/// See the module.
pub(crate) struct LeastBusy;

#[derive(Debug, Default)]
pub(crate) struct Summary {
    fewest: u32,
    ties: u64,
    first: usize,
}

impl Rule for LeastBusy {
    type Summary = Summary;

    const SCORE: &'static str = "active requests";

    #[inline]
    fn absorb(summary: &mut Summary, position: usize, candidate: &impl Candidate) {
        let active = candidate.active_requests();
        if summary.ties == 0 || active < summary.fewest {
            *summary = Summary { fewest: active, ties: 1, first: position };
        } else if active == summary.fewest {
            summary.ties += 1;
        }
    }

    fn outcome(summary: &Summary) -> Outcome {
        match *summary {
            Summary { ties: 0, .. } => Outcome::Nobody,
            Summary { ties: 1, first, .. } => Outcome::At(first),
            Summary { ties, first, .. } => Outcome::Draw { total: ties, else_at: first },
        }
    }

    #[inline]
    fn share(summary: &Summary, candidate: &impl Candidate) -> u64 {
        u64::from(candidate.active_requests() == summary.fewest)
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
