//! The rules that pick among candidates.
//!
//! A rule sums up candidates: the summary of one, and of two neighbours from theirs. A summary is a few words that either name the
//! pick or ask for a draw. Because summaries combine, the same rule serves a walk over the candidates, in registration order, and an
//! index that keeps the summaries of ranges of them; both give the same pick.

mod first_least;
mod least_busy;
mod lowest_latency;
mod lowest_priority;
mod lowest_usage;
mod rate_limit_aware;
mod round_robin;
mod weighted_random;

use std::fmt;
use std::str::FromStr;

use crate::context::Candidate;
use crate::error::Error;
use crate::rng::Rng;
use crate::sync::atomic::{AtomicU64, Ordering};

pub(crate) use least_busy::LeastBusy;
pub use least_busy::least_busy;
pub(crate) use lowest_latency::LowestLatency;
pub use lowest_latency::lowest_latency;
pub(crate) use lowest_priority::LowestPriority;
pub use lowest_priority::lowest_priority;
pub(crate) use lowest_usage::LowestUsage;
pub use lowest_usage::lowest_usage;
pub(crate) use rate_limit_aware::RateLimitAware;
pub use rate_limit_aware::rate_limit_aware;
pub(crate) use round_robin::RoundRobin;
pub use round_robin::{RoundRobinCounters, round_robin};
pub(crate) use weighted_random::WeightedRandom;
pub use weighted_random::weighted_random;

/// The name of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// [`weighted_random`].
    #[default]
    SimpleShuffle,
    /// [`least_busy`].
    LeastBusy,
    /// [`lowest_usage`].
    UsageBased,
    /// [`lowest_latency`].
    LatencyBased,
    /// [`lowest_priority`].
    PriorityBased,
    /// [`rate_limit_aware`].
    RateLimitAware,
    /// [`round_robin`].
    RoundRobin,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SimpleShuffle,
        Self::LeastBusy,
        Self::UsageBased,
        Self::LatencyBased,
        Self::PriorityBased,
        Self::RateLimitAware,
        Self::RoundRobin,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SimpleShuffle => "simple_shuffle",
            Self::LeastBusy => "least_busy",
            Self::UsageBased => "usage_based",
            Self::LatencyBased => "latency_based",
            Self::PriorityBased => "priority_based",
            Self::RateLimitAware => "rate_limit_aware",
            Self::RoundRobin => "round_robin",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = Error;

    /// Reads a name, or one of `LiteLLM`'s spellings.
    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "simple_shuffle" | "simple-shuffle" => Self::SimpleShuffle,
            "least_busy" | "least-busy" => Self::LeastBusy,
            "usage_based" | "usage-based-routing" | "usage-based-routing-v2" => Self::UsageBased,
            "latency_based" | "latency-based-routing" => Self::LatencyBased,
            "priority_based" | "cost_based" | "cost-based-routing" => Self::PriorityBased,
            "rate_limit_aware" => Self::RateLimitAware,
            "round_robin" => Self::RoundRobin,
            _ => {
                let names = Self::ALL.map(Self::name).join(", ");
                return Err(Error::Configuration(format!(
                    "unknown strategy {name:?}: must be one of {names}, or one of LiteLLM's spellings simple-shuffle, least-busy, \
                     usage-based-routing, usage-based-routing-v2, latency-based-routing, cost_based, cost-based-routing"
                )));
            }
        })
    }
}

/// A candidate's place in its group.
pub(crate) type Position = u32;

/// What a summary of all candidates comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is no candidate.
    Nobody,
    /// This one.
    At(Position),
    /// The only one that has a share.
    Only,
    /// At random, each candidate with the probability of its share of the total.
    Draw { total: u64 },
    /// The candidate whose turn it is among `count`.
    Turn { count: u64 },
}

/// How a strategy picks. Its summaries are a monoid: `Default` is that of no candidate, and `join` is associative. A range that leaves a
/// summary as it is when it joins from the right has no part that would not: an index need not look into it.
pub(crate) trait Rule {
    /// What is kept of a candidate: no more than the rule looks at, since there may be very many.
    type Leaf: std::fmt::Debug + Copy + PartialEq + Send;

    /// What is kept of a range of candidates.
    type Summary: std::fmt::Debug + Copy + Default + PartialEq + Send;

    /// What [`Rule::score`] is, in words.
    const SCORE: &'static str;

    /// Whether most ranges leave the summary of what is before them as it is, so that it is worth asking.
    const ABSORBS: bool = false;

    /// Whether candidates have shares of many sizes. How an index looks for the one that was drawn is a matter of speed alone.
    const SHARES_VARY: bool = false;

    /// Looks at a candidate.
    fn leaf(candidate: &impl Candidate) -> Self::Leaf;

    /// Sums up one candidate.
    fn sum_up(position: Position, leaf: Self::Leaf) -> Self::Summary;

    /// Sums up two ranges, `left` being the earlier.
    fn join(left: &Self::Summary, right: &Self::Summary) -> Self::Summary;

    /// The summary of a range in which the part `old` has become `new`, where that follows from these alone.
    fn replaced(_whole: &Self::Summary, _old: &Self::Summary, _new: &Self::Summary) -> Option<Self::Summary> {
        None
    }

    /// What the candidates come to.
    fn outcome(summary: &Self::Summary) -> Outcome;

    /// The part that a range has of the total in [`Outcome::Draw`], the count in [`Outcome::Turn`] or the one of [`Outcome::Only`].
    fn share(_whole: &Self::Summary, _part: &Self::Summary) -> u64 {
        0
    }

    /// The share that each of `count` candidates has in `part` if all of them have the same in `whole`; None if they do not, or if that is
    /// not known. An index then need not look at them.
    fn equal_share(_whole: &Self::Summary, _part: &Self::Summary, _count: usize) -> Option<u64> {
        None
    }

    /// What the rule compares, for people to read.
    fn score(whole: &Self::Summary, candidate: &impl Candidate) -> f64;

    /// The chance that the candidate at `position` is picked. Turns leave nothing to chance: `picked` has it.
    #[allow(clippy::cast_precision_loss)] // for people to read
    fn probability(whole: &Self::Summary, picked: Option<Position>, position: Position, candidate: &impl Candidate) -> f64 {
        match Self::outcome(whole) {
            Outcome::Draw { total } => Self::share(whole, &Self::sum_up(position, Self::leaf(candidate))) as f64 / total as f64,
            Outcome::Nobody | Outcome::At(_) | Outcome::Only | Outcome::Turn { .. } => {
                f64::from(u8::from(picked == Some(position)))
            }
        }
    }
}

/// Where draws and turns come from.
pub(crate) struct Chance<'a> {
    pub(crate) rng: &'a Rng,
    pub(crate) turn: &'a AtomicU64,
    /// Look at the next draw or turn and leave it.
    pub(crate) peek: bool,
}

impl Chance<'_> {
    fn draw(&self, total: u64) -> u64 {
        if self.peek { self.rng.peek_below(total) } else { self.rng.below(total) }
    }

    fn turn(&self, count: u64) -> u64 {
        // The counter wraps around after 2^64 picks.
        let turn = if self.peek { self.turn.load(Ordering::Relaxed) } else { self.turn.fetch_add(1, Ordering::Relaxed) };
        turn.checked_rem(count).unwrap_or(0)
    }
}

/// What is left to do when the summary of all candidates is known.
pub(crate) enum Step {
    /// Nothing: the pick.
    Done(Option<Position>),
    /// Find the candidate in whose share this falls, counted from the first.
    Find(u64),
}

impl Chance<'_> {
    /// Draws or takes a turn, if the outcome asks for it.
    #[inline]
    pub(crate) fn step(&self, outcome: Outcome) -> Step {
        match outcome {
            Outcome::Nobody => Step::Done(None),
            Outcome::At(position) => Step::Done(Some(position)),
            Outcome::Only => Step::Find(0),
            Outcome::Draw { total } => Step::Find(self.draw(total)),
            Outcome::Turn { count } => Step::Find(self.turn(count)),
        }
    }
}

/// Sums up all candidates, in registration order.
#[inline]
pub(crate) fn sum_up_all<R: Rule, C: Candidate>(candidates: impl Iterator<Item = (Position, C)>) -> R::Summary {
    candidates
        .fold(R::Summary::default(), |summary, (position, candidate)| R::join(&summary, &R::sum_up(position, R::leaf(&candidate))))
}

/// Picks one of the candidates that were summed up, by a second walk where the outcome is a draw.
#[inline]
pub(crate) fn settle_on<R: Rule, C: Candidate>(
    summary: &R::Summary,
    candidates: impl Iterator<Item = (Position, C)>,
    chance: &Chance<'_>,
) -> Option<Position> {
    let mut left = match chance.step(R::outcome(summary)) {
        Step::Done(picked) => return picked,
        Step::Find(left) => left,
    };
    let mut last = None;
    for (position, candidate) in candidates {
        let share = R::share(summary, &R::sum_up(position, R::leaf(&candidate)));
        if left < share {
            return Some(position);
        }
        left -= share;
        last = Some(position);
    }
    // The shares have changed meanwhile, and the draw fell off the end.
    last
}

/// Picks from a slice of snapshots.
fn pick<R: Rule>(contexts: &[impl Candidate], chance: &Chance<'_>) -> Option<usize> {
    let candidates = || (0..).zip(contexts);
    let summary = sum_up_all::<R, _>(candidates());
    settle_on::<R, _>(&summary, candidates(), chance).and_then(|position| usize::try_from(position).ok())
}

/// Picks from a slice of snapshots by a rule that takes no turns.
fn pick_drawn<R: Rule>(contexts: &[impl Candidate], rng: &Rng) -> Option<usize> {
    pick::<R>(contexts, &Chance { rng, turn: &AtomicU64::new(0), peek: false })
}

/// Picks from a slice of snapshots by a rule that neither draws nor takes turns.
fn pick_first<R: Rule>(contexts: &[impl Candidate]) -> Option<usize> {
    pick_drawn::<R>(contexts, &Rng::new(Some(0)))
}
