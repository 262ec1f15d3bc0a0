//! Round robin.
//!
//! **How.** A counter per model name, modulo the number of candidates, tells the pick: see `chance`. A single
//! candidate does not advance the counter. Members that a gate stops are no candidates and never come here.
//!
//! **When.** For equal deployments and equal requests: it is the most even spread, and no deployment can
//! attract requests.
//!
//! **When not.** While candidates come and go: the result of the modulo then jumps, and some get more than
//! their share.

use super::candidate::Candidate;
use super::chance::{Chance, Choice};
use super::pick::pick;
use super::rule::Rule;
use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::base::sync::Map;
use crate::base::sync::atomic::AtomicU64;
use crate::facts::{Request, Size};

/// See the module.
#[derive(Debug)]
pub(crate) struct RoundRobin;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    count: u32,
}

impl Rule for RoundRobin {
    type Leaf = ();
    type Summary = Summary;

    const SCORE: &'static str = "share of turns";

    #[inline]
    fn leaf(_: &impl Candidate) {}

    #[inline]
    fn sum_up(_: Position, (): ()) -> Summary {
        Summary { count: 1 }
    }

    #[inline]
    fn join(left: &Summary, right: &Summary) -> Summary {
        Summary { count: left.count.saturating_add(right.count) }
    }

    #[inline]
    fn choice(summary: &Summary) -> Choice {
        match summary.count {
            0 => Choice::Nobody,
            1 => Choice::Only,
            count => Choice::Turn { count: u64::from(count) },
        }
    }

    #[inline]
    fn share(_: &Summary, part: &Summary) -> u64 {
        u64::from(part.count)
    }

    #[inline]
    fn equal_share(whole: &Summary, part: &Summary, count: usize) -> Option<u64> {
        (Self::share(whole, part) == count as u64).then_some(1)
    }

    fn score(whole: &Summary, _: &impl Candidate) -> f64 {
        1.0 / f64::from(whole.count)
    }
}

/// The counters of round robin, one for each model name.
///
/// ```
/// use turnout::{RoundRobinCounters, RoutingContext, strategy::round_robin};
///
/// let (contexts, counters) = ([RoutingContext::new("a"), RoutingContext::new("b")], RoundRobinCounters::new());
/// let turns = [(); 3].map(|()| round_robin("gpt-4o", &contexts, &counters));
/// assert_eq!(turns, [Some(0), Some(1), Some(0)]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobinCounters(Map<String, AtomicU64>);

impl RoundRobinCounters {
    /// Makes counters without any turns so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a model name's counter.
    pub fn set(&self, model_name: &str, turn: u64) {
        self.0.insert(model_name.to_owned(), AtomicU64::new(turn));
    }
}

/// Picks the candidates in turn; None without candidates.
#[must_use]
pub fn round_robin(model_name: &str, contexts: &[impl Candidate], counters: &RoundRobinCounters) -> Option<usize> {
    if !counters.0.contains_key(model_name) {
        counters.0.entry(model_name.to_owned()).or_default();
    }
    let turn = counters.0.get(model_name)?;
    pick::<RoundRobin>(
        contexts,
        &Chance { rng: &Rng::new(Some(0)), next_turn: &turn, peek: false, size: Size::from(&Request::default()) },
    )
}
