//! Tiers: a rule among the candidates of the lowest priority number.
//!
//! **How.** A summary holds the lowest priority of its range, and the rule's own summary of the
//! candidates that have it. The join keeps the side with the lower priority, and joins the two where they are
//! equal. So an index keeps tiers as it keeps any rule. The last that leaves a tier makes room for the next
//! one.
//!
//! **When.** Some deployments are preferred and share their load. Others are spares, which share it once none
//! of those is left.

use super::candidate::Candidate;
use super::chance::Choice;
use super::rule::Rule;
use crate::base::position::Position;
use crate::facts::Size;

/// The rule `R` among the candidates of the lowest priority.
#[derive(Debug)]
pub(crate) struct Tiered<R>(std::marker::PhantomData<R>);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary<S> {
    /// The lowest priority of the range; [`NOBODY`] for a range without candidates.
    tier: u64,
    /// The summary of the candidates that have it.
    of_tier: S,
}

/// Above any priority.
const NOBODY: u64 = u64::MAX;

impl<S: Default> Default for Summary<S> {
    fn default() -> Self {
        Self { tier: NOBODY, of_tier: S::default() }
    }
}

impl<R: Rule + std::fmt::Debug> Rule for Tiered<R> {
    type Leaf = (u32, R::Leaf);
    type Summary = Summary<R::Summary>;

    const SCORE: &'static str = R::SCORE;
    const ABSORBS: bool = R::ABSORBS;
    const SHARES_VARY: bool = R::SHARES_VARY;
    const FOLLOWS_WEIGHTS: bool = R::FOLLOWS_WEIGHTS;

    #[inline]
    fn leaf(candidate: &impl Candidate) -> Self::Leaf {
        (candidate.priority(), R::leaf(candidate))
    }

    #[inline]
    fn sum_up(position: Position, (priority, leaf): Self::Leaf) -> Self::Summary {
        Summary { tier: priority.into(), of_tier: R::sum_up(position, leaf) }
    }

    #[inline]
    fn join(left: &Self::Summary, right: &Self::Summary) -> Self::Summary {
        match left.tier.cmp(&right.tier) {
            std::cmp::Ordering::Less => *left,
            std::cmp::Ordering::Equal => Summary { tier: left.tier, of_tier: R::join(&left.of_tier, &right.of_tier) },
            std::cmp::Ordering::Greater => *right,
        }
    }

    /// A part above the tier of the whole changes nothing. Whether a part of the tier was its last one is not
    /// known.
    #[inline]
    fn replaced(whole: &Self::Summary, old: &Self::Summary, new: &Self::Summary) -> Option<Self::Summary> {
        if whole.tier < old.tier.min(new.tier) {
            return Some(*whole);
        }
        if (old.tier, new.tier) != (whole.tier, whole.tier) {
            return None;
        }
        let of_tier = R::replaced(&whole.of_tier, &old.of_tier, &new.of_tier)?;
        Some(Summary { tier: whole.tier, of_tier })
    }

    #[inline]
    fn narrow(summary: Self::Summary, size: Size) -> Self::Summary {
        Summary { of_tier: R::narrow(summary.of_tier, size), ..summary }
    }

    #[inline]
    fn choice(summary: &Self::Summary) -> Choice {
        R::choice(&summary.of_tier)
    }

    #[inline]
    fn share(whole: &Self::Summary, part: &Self::Summary) -> u64 {
        if part.tier == whole.tier { R::share(&whole.of_tier, &part.of_tier) } else { 0 }
    }

    #[inline]
    fn equal_share(whole: &Self::Summary, part: &Self::Summary, count: usize) -> Option<u64> {
        if part.tier == whole.tier { R::equal_share(&whole.of_tier, &part.of_tier, count) } else { None }
    }

    fn competes(whole: &Self::Summary, candidate: &impl Candidate) -> bool {
        whole.tier == u64::from(candidate.priority())
    }

    fn score(whole: &Self::Summary, candidate: &impl Candidate) -> f64 {
        R::score(&whole.of_tier, candidate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Size, Tiered};
    use crate::base::rng::Rng;
    use crate::base::sync::atomic::AtomicU64;
    use crate::facts::Price;
    use crate::strategy::pick::pick;
    use crate::strategy::rule::Rule;
    use crate::strategy::{Chance, Cheapest, LeastBusy, LowestLatency, LowestPriority, LowestUsage, RateLimitAware, RoundRobin};
    use crate::strategy::{RoutingContext, WeightedRandom};

    fn contexts() -> impl Strategy<Value = Vec<RoutingContext>> {
        let one = (0_u32..3, 0_u32..3, 0_u32..3, 0_u64..3).prop_map(|(priority, weight, active_requests, avg_latency_us)| {
            let price = (weight > 0).then(|| Price { input: avg_latency_us, output: active_requests.into() });
            RoutingContext { weight, priority, active_requests, avg_latency_us, price, ..RoutingContext::new("any") }
        });
        proptest::collection::vec(one, 0..9)
    }

    /// Picks twice with the same draw: by tiers, and by the rule alone among those of the lowest priority.
    fn both<R: Rule + std::fmt::Debug>(contexts: &[RoutingContext], seed: u64, turn: u64) -> (Option<usize>, Option<usize>) {
        let lowest = contexts.iter().map(|context| context.priority).min();
        let tier: Vec<_> = (0..contexts.len()).filter(|&nth| Some(contexts[nth].priority) == lowest).collect();
        let of_tier: Vec<_> = tier.iter().map(|&nth| &contexts[nth]).collect();
        let (next_turn, other_turn) = (AtomicU64::new(turn), AtomicU64::new(turn));
        let size = Size { input: 2, output: 1 };
        let tiered = pick::<Tiered<R>>(contexts, &Chance { rng: &Rng::new(Some(seed)), next_turn: &next_turn, peek: false, size });
        let alone = pick::<R>(&of_tier, &Chance { rng: &Rng::new(Some(seed)), next_turn: &other_turn, peek: false, size });
        (tiered, alone.map(|nth| tier[nth]))
    }

    fn sum<R: Rule>(contexts: &[RoutingContext]) -> R::Summary {
        (0..).zip(contexts).fold(R::Summary::default(), |sum, (place, context)| R::join(&sum, &R::sum_up(place, R::leaf(context))))
    }

    proptest! {
        #[test]
        fn the_rule_picks_among_those_of_the_lowest_priority(contexts in contexts(), seed in any::<u64>(), turn in 0_u64..9) {
            macro_rules! check {
                ($($rule:ty),*) => {$(
                    let (tiered, alone) = both::<$rule>(&contexts, seed, turn);
                    prop_assert_eq!(tiered, alone);
                )*};
            }
            check!(WeightedRandom, LeastBusy, LowestUsage, LowestLatency, LowestPriority, RateLimitAware, RoundRobin, Cheapest);
        }

        #[test]
        fn summaries_are_a_monoid_and_what_is_replaced_fits(
            contexts in contexts(),
            at in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
            priority in 0_u32..3,
        ) {
            type R = Tiered<LeastBusy>;
            prop_assume!(!contexts.is_empty());
            let (cut, changes) = (at.index(contexts.len()), other.index(contexts.len()));
            let whole = sum::<R>(&contexts);
            let (before, after) = contexts.split_at(cut);
            let mut shifted = Tiered::<LeastBusy>::join(&sum::<R>(before), &sum::<R>(&[]));
            for (place, context) in (u32::try_from(cut).unwrap()..).zip(after) {
                shifted = R::join(&shifted, &R::sum_up(place, R::leaf(context)));
            }
            prop_assert_eq!(shifted, whole);
            let mut changed = contexts.clone();
            changed[changes].priority = priority;
            let leaf = |contexts: &[RoutingContext]| R::sum_up(u32::try_from(changes).unwrap(), R::leaf(&contexts[changes]));
            if let Some(replaced) = R::replaced(&whole, &leaf(&contexts), &leaf(&changed)) {
                prop_assert_eq!(replaced, sum::<R>(&changed));
            }
        }
    }
}
