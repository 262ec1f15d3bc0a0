//! Lowest latency.
//!
//! **How.** It picks the candidate with the lowest average latency. 0 means unknown and counts as the mean of
//! the known ones, rounded down. Ties go to the first.
//!
//! The latency is the time to the first token if that is known of any candidate: what a stream takes after
//! that depends on the length of the answer and on its reader. Otherwise it is the time of whole calls.
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

/// The latency of one candidate in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Latency {
    /// The time of whole calls; 0 for unknown.
    WholeCall(u64),
    /// The time to the first token.
    FirstToken(u64),
}

impl Latency {
    fn of(candidate: &impl Candidate) -> Self {
        match candidate.avg_first_token_us() {
            0 => Self::WholeCall(candidate.avg_latency_us()),
            first_token => Self::FirstToken(first_token),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    /// Whether times to the first token are compared. A candidate without one is then unknown.
    by_first_token: bool,
    first: Option<Position>,
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

    /// Returns this summary with candidates of which no time to the first token is known.
    fn with_unknown(self, others: &Self) -> Self {
        let first_unknown = self.first_unknown.into_iter().chain(others.first).min();
        Self { first_unknown, first: self.first.into_iter().chain(others.first).min(), ..self }
    }
}

impl Rule for LowestLatency {
    type Leaf = Latency;
    type Summary = Summary;

    const SCORE: &'static str = "average latency in µs";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> Latency {
        Latency::of(candidate)
    }

    #[inline]
    fn sum_up(position: Position, latency: Latency) -> Summary {
        let first = Some(position);
        let (by_first_token, latency) = match latency {
            Latency::WholeCall(0) => return Summary { first, first_unknown: first, ..Summary::default() },
            Latency::WholeCall(latency) => (false, u128::from(latency)),
            Latency::FirstToken(latency) => (true, u128::from(latency)),
        };
        let known = FirstLeast::of(position, latency);
        Summary { by_first_token, first, known, first_unknown: None, count: 1, sum: latency }
    }

    #[inline]
    fn join(left: &Summary, right: &Summary) -> Summary {
        match (left.by_first_token, right.by_first_token) {
            (true, false) => return left.with_unknown(right),
            (false, true) => return right.with_unknown(left),
            _ => {}
        }
        Summary {
            by_first_token: left.by_first_token,
            first: left.first.or(right.first),
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
        let latency = if whole.by_first_token { candidate.avg_first_token_us() } else { candidate.avg_latency_us() };
        (if latency == 0 { whole.mean() } else { latency }) as f64
    }
}

/// Picks the candidate with the lowest average latency, ties to the first; None without candidates.
#[must_use]
pub fn lowest_latency(contexts: &[impl Candidate]) -> Option<usize> {
    pick_first::<LowestLatency>(contexts)
}
