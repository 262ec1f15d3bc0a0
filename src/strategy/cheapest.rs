//! Cheapest.
//!
//! **How.** It picks the candidate whose tokens cost least for this request. Ties are drawn, each with the
//! same probability. A candidate without prices comes after all that have some.
//!
//! A request of which only the whole size is known, or not even that, counts as one half prompt and one half
//! answer.
//!
//! **When.** The deployments have different prices, and the cheapest one that has room will do.
//!
//! **When not.** For deployments of different speed or quality: it looks at prices alone.
//!
//! **Index.** What is least depends on the request, so a summary keeps all prices, each with the number of
//! candidates that have it. It has room for a few prices. A group with more of them is walked. A part of a
//! range never has more prices than the range, so where the whole is known its parts are.

use super::candidate::Candidate;
use super::chance::{Chance, Choice};
use super::pick::pick;
use super::rule::Rule;
use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::base::sync::atomic::AtomicU64;
use crate::facts::{Price, Size};

/// How many prices a summary has room for.
const MOST: usize = 6;

/// Above any price that can be given.
const UNKNOWN: Price = Price { input: u64::MAX, output: u64::MAX };

/// See the module.
#[derive(Debug)]
pub(crate) struct Cheapest;

/// The candidates with one price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Class {
    price: Price,
    members: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Summary {
    /// The candidates by their prices, in the order of the prices.
    Prices([Option<Class>; MOST]),
    /// There are more prices.
    TooMany,
    /// What requests of one size cost at least, and how many candidates cost that.
    Of { size: Size, cost: u128, members: u32 },
}

impl Default for Summary {
    fn default() -> Self {
        Self::Prices([None; MOST])
    }
}

impl Summary {
    /// Adds the candidates of one price.
    fn with(self, class: Class) -> Self {
        let Self::Prices(mut classes) = self else { return self };
        let key = |price: Price| (price.input, price.output);
        // The order makes equal summaries equal.
        let place = classes.iter().flatten().take_while(|known| key(known.price) < key(class.price)).count();
        let has_room = classes.last().is_some_and(Option::is_none);
        match classes.get_mut(place..) {
            Some([Some(known), ..]) if known.price == class.price => known.members = known.members.saturating_add(class.members),
            Some(after @ [_, ..]) if has_room => {
                after.rotate_right(1);
                after.iter_mut().take(1).for_each(|first| *first = Some(class));
            }
            _ => return Self::TooMany,
        }
        Self::Prices(classes)
    }

    /// Returns what a request of some size costs at least, and how many candidates cost that.
    fn least(&self, size: Size) -> Option<(u128, u32)> {
        match *self {
            Self::Prices(classes) => classes.into_iter().flatten().fold(None, |least: Option<(u128, u32)>, class| {
                let cost = class.price.cost(size);
                match least {
                    Some((known, _)) if known < cost => least,
                    Some((known, members)) if known == cost => Some((cost, members.saturating_add(class.members))),
                    _ => Some((cost, class.members)),
                }
            }),
            Self::Of { cost, members, .. } => Some((cost, members)),
            Self::TooMany => None,
        }
    }
}

impl Rule for Cheapest {
    type Leaf = Price;
    type Summary = Summary;

    const SCORE: &'static str = "expected cost";

    #[inline]
    fn leaf(candidate: &impl Candidate) -> Price {
        candidate.price().unwrap_or(UNKNOWN)
    }

    #[inline]
    fn sum_up(_: Position, price: Price) -> Summary {
        let mut classes = [None; MOST];
        classes[0] = Some(Class { price, members: 1 });
        Summary::Prices(classes)
    }

    fn join(left: &Summary, right: &Summary) -> Summary {
        match (left, right) {
            (_, Summary::Prices(classes)) => classes.iter().flatten().fold(*left, |sum, &class| sum.with(class)),
            (Summary::Prices([None, ..]), Summary::Of { .. }) => *right,
            (&Summary::Of { size, cost, members }, &Summary::Of { cost: other, members: others, .. }) => match cost.cmp(&other) {
                std::cmp::Ordering::Less => *left,
                std::cmp::Ordering::Equal => Summary::Of { size, cost, members: members.saturating_add(others) },
                std::cmp::Ordering::Greater => *right,
            },
            _ => Summary::TooMany,
        }
    }

    #[inline]
    fn narrow(summary: Summary, size: Size) -> Summary {
        summary.least(size).map_or(summary, |(cost, members)| Summary::Of { size, cost, members })
    }

    #[inline]
    fn choice(summary: &Summary) -> Choice {
        match *summary {
            Summary::Prices(_) | Summary::TooMany => Choice::Nobody,
            Summary::Of { members: 1, .. } => Choice::Only,
            Summary::Of { members, .. } => Choice::Draw { total: u64::from(members) },
        }
    }

    #[inline]
    fn share(whole: &Summary, part: &Summary) -> u64 {
        let Summary::Of { size, cost, .. } = *whole else { return 0 };
        part.least(size).filter(|&(least, _)| least == cost).map_or(0, |(_, members)| u64::from(members))
    }

    #[inline]
    fn equal_share(whole: &Summary, part: &Summary, count: usize) -> Option<u64> {
        (Self::share(whole, part) == count as u64).then_some(1)
    }

    fn score(whole: &Summary, candidate: &impl Candidate) -> f64 {
        match (whole, candidate.price()) {
            (Summary::Of { size, .. }, Some(price)) => price.cost_in_units(*size),
            _ => f64::INFINITY,
        }
    }
}

/// Picks the candidate that costs least for a request of some size, ties at random; None without candidates.
#[must_use]
pub fn cheapest(contexts: &[impl Candidate], size: Size, rng: &Rng) -> Option<usize> {
    pick::<Cheapest>(contexts, &Chance { rng, next_turn: &AtomicU64::new(0), peek: false, size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(prices: &[(u64, u64)]) -> Summary {
        prices
            .iter()
            .fold(Summary::default(), |sum, &(input, output)| Cheapest::join(&sum, &Cheapest::sum_up(0, Price { input, output })))
    }

    proptest! {
        #[test]
        fn summaries_are_a_monoid_that_knows_the_least_cost_of_any_request(
            prices in proptest::collection::vec((0_u64..4, 0_u64..3), 0..12),
            at in any::<prop::sample::Index>(),
            input in 1_u64..5,
            output in 1_u64..5,
        ) {
            let (before, after) = prices.split_at(at.index(prices.len() + 1));
            let whole = sum(&prices);
            prop_assert_eq!(Cheapest::join(&sum(before), &sum(after)), whole);
            let size = Size { input, output };
            let costs: Vec<_> = prices.iter().map(|&(input, output)| Price { input, output }.cost(size)).collect();
            let least = costs.iter().min().map(|&least| (least, costs.iter().filter(|&&cost| cost == least).count()));
            if whole == Summary::TooMany {
                prop_assert!(prices.iter().collect::<std::collections::HashSet<_>>().len() > MOST);
            } else {
                prop_assert_eq!(whole.least(size).map(|(cost, members)| (cost, members as usize)), least);
            }
            // A walk narrows one candidate after the other, and has room for any prices.
            let walked = prices.iter().fold(Summary::default(), |sum, &(input, output)| {
                Cheapest::join(&sum, &Cheapest::narrow(Cheapest::sum_up(0, Price { input, output }), size))
            });
            prop_assert_eq!(walked.least(size).map(|(cost, members)| (cost, members as usize)), least);
        }
    }

    #[test]
    fn as_many_prices_as_there_is_room_for_are_kept_apart() {
        let apart = |count: u64| sum(&(0..count).map(|nth| (nth / 2, nth)).collect::<Vec<_>>());
        assert!(matches!(apart(MOST as u64), Summary::Prices(_)));
        assert_eq!(apart(MOST as u64 + 1), Summary::TooMany);
    }
}
