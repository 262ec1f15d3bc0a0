//! Least busy.
//!
//! **How.** It picks the candidate with the fewest active requests. Ties are drawn, each with the same
//! probability.
//!
//! **When.** For deployments of about the same size whose latency grows with their load, such as replicas of
//! one engine.
//!
//! **When not.** For deployments of unlike size: it ignores weights. For deployments that fail fast without a
//! cooldown: they are never busy.

use super::candidate::Candidate;
use super::chance::Choice;
use super::pick::pick_drawn;
use super::rule::Rule;
use crate::base::position::Position;
use crate::base::rng::Rng;

/// See the module.
#[derive(Debug)]
pub(crate) struct LeastBusy;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The fewest active requests; the largest number if there is no candidate.
    fewest: u32,
    /// How many candidates have that few; 0 if there is none.
    ties: u32,
}

impl Default for Summary {
    fn default() -> Self {
        Self { fewest: u32::MAX, ties: 0 }
    }
}

impl LeastBusy {
    /// Returns how many candidates of a part are among the fewest of the whole.
    #[inline]
    fn ties(whole: Summary, part: Summary) -> u32 {
        if part.fewest == whole.fewest { part.ties } else { 0 }
    }
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
        // There is no branch here: the processor cannot predict which side has fewer.
        let fewest = left.fewest.min(right.fewest);
        let whole = Summary { fewest, ties: 0 };
        Summary { ties: Self::ties(whole, *left).saturating_add(Self::ties(whole, *right)), ..whole }
    }

    #[inline]
    fn replaced(whole: &Summary, old: &Summary, new: &Summary) -> Option<Summary> {
        if new.fewest < whole.fewest {
            return Some(*new);
        }
        let ties = whole.ties.checked_sub(Self::ties(*whole, *old))?.saturating_add(Self::ties(*whole, *new));
        // If no such candidate is left, other candidates have the fewest.
        (ties > 0).then_some(Summary { fewest: whole.fewest, ties })
    }

    #[inline]
    fn choice(summary: &Summary) -> Choice {
        match *summary {
            Summary { ties: 0, .. } => Choice::Nobody,
            Summary { ties: 1, .. } => Choice::Only,
            Summary { ties, .. } => Choice::Draw { total: u64::from(ties) },
        }
    }

    #[inline]
    fn share(whole: &Summary, part: &Summary) -> u64 {
        u64::from(Self::ties(*whole, *part))
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
