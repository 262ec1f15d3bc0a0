//! Lowest latency.
//!
//! **How.** It picks the candidate with the lowest average latency. 0 means unknown and counts as the mean of
//! the known ones, rounded down. Ties go to the first.
//!
//! **When.** For deployments that differ much and steadily in speed, under light load.
//!
//! **When not.** Under load: an average is one response old. So all requests go to the best deployment until
//! it is the worst. Once one latency is known, an unknown deployment behind it only ties and is not tried.

use super::candidate::Candidate;
use super::chance::Choice;
use super::first_least::FirstLeast;
use super::pick::pick_first;
use super::rule::Rule;
use crate::base::position::Position;

/// See the module.
#[derive(Debug)]
pub(crate) struct LowestLatency;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    known: FirstLeast,
    first_unknown: Option<Position>,
    /// How many latencies are known.
    count: u32,
    /// The sum of the known latencies.
    sum: u128,
}

impl Summary {
    /// Returns what an unknown latency counts as.
    fn mean(&self) -> u64 {
        // A mean of 64-bit numbers has 64 bits.
        u64::try_from(self.sum.checked_div(u128::from(self.count)).unwrap_or(0)).unwrap_or(u64::MAX)
    }
}

impl Rule for LowestLatency {
    type Leaf = u64;
    type Summary = Summary;

    const SCORE: &'static str = "average latency in µs";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> u64 {
        candidate.avg_latency_us()
    }

    #[inline]
    fn sum_up(position: Position, latency: u64) -> Summary {
        match latency {
            0 => Summary { first_unknown: Some(position), ..Summary::default() },
            latency => Summary {
                known: FirstLeast::of(position, u128::from(latency)),
                first_unknown: None,
                count: 1,
                sum: u128::from(latency),
            },
        }
    }

    #[inline]
    fn join(left: &Summary, right: &Summary) -> Summary {
        Summary {
            known: left.known.join(right.known),
            first_unknown: left.first_unknown.or(right.first_unknown),
            count: left.count.saturating_add(right.count),
            sum: left.sum.saturating_add(right.sum),
        }
    }

    #[inline]
    fn choice(summary: &Summary) -> Choice {
        match (summary.known.get(), summary.first_unknown) {
            (None, None) => Choice::Nobody,
            (None, Some(unknown)) => Choice::At(unknown),
            (Some((_, known)), None) => Choice::At(known),
            (Some((latency, known)), Some(unknown)) => {
                // The mean is never below the least. So an unknown candidate wins only if the mean equals the
                // least and its place is earlier.
                Choice::At(if u128::from(summary.mean()) == latency { known.min(unknown) } else { known })
            }
        }
    }

    #[allow(clippy::cast_precision_loss)] // for people to read
    fn score(whole: &Summary, candidate: &impl Candidate) -> f64 {
        match candidate.avg_latency_us() {
            0 => whole.mean() as f64,
            latency => latency as f64,
        }
    }
}

/// Picks the candidate with the lowest average latency, ties to the first; None without candidates.
#[must_use]
pub fn lowest_latency(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<LowestLatency>(contexts)
}
