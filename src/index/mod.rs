//! An index of a group, so that a pick costs the same in a large group as in a small one.
//!
//! The index is a cache. The leaves of its trees are made by the gates and the rule that a walk over the
//! members uses, for a request without wishes ([`Member::leaf`]). A thread that changes a member's counters
//! renews the member's leaf afterwards. It does so under the index's lock, from the counters as they are
//! then. So the last renewal leaves the latest leaf.
//!
//! Time alone changes some leaves. Each leaf notes until when it holds, and the next pick at or after that
//! time renews it. If no such time is noted, a pick does not read the clock.
//!
//! A request's own wishes narrow what a pick takes from a tree. A [`Filter`] holds the request's size and the
//! excluded members. For the request's tags there is a tree over the members that have them ([`views`]), if
//! such tags were asked for before. The same holds for the quotas that are spent. If nobody can serve, the
//! index says why ([`obstacles`]).

mod forest;
mod leaf;
mod member;
mod nodes;
mod obstacle;
mod obstacles;
mod paced;
mod ramp;
mod tree;
mod views;

use crate::base::clock::Now;
use crate::base::error::Reasons;
use crate::base::position::Position;
use crate::base::sync::atomic::AtomicU64;
use crate::base::sync::{Mutex, MutexGuard, hold};
use crate::base::time::Nanos;
use crate::health::{Census, HealthRules, Pool};
use crate::strategy::{Chance, Order, Rule, Strategy, Tiered, each_rule};

use forest::Forest;
pub(crate) use leaf::Leaf;
pub(crate) use member::{Member, Members, Place, members};
pub(crate) use obstacle::{Obstacle, QuotaBits};
pub(crate) use obstacles::Spent;
pub(crate) use ramp::Ramp;
pub(crate) use tree::{Filter, Places};

/// The index of one group. Locked after the group's shard of the registry and before a member's counters.
#[derive(Debug)]
#[repr(align(128))] // so that picks from two groups never write to one cache line or to its neighbour
pub(crate) struct Index {
    forest: Mutex<AnyForest>,
    pub(crate) words: Words,
}

/// The words of a group: its counts as a whole, beside those of its members. A rule that remembers something
/// of its group has its words here.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The counter of round robin. It lies here because every turn writes it.
    pub(crate) next_turn: AtomicU64,
    /// The outcomes of all members.
    pub(crate) pool: Pool,
    /// The picks while members are in slow start.
    pub(crate) ramp: Ramp,
}

impl Index {
    /// Makes the index of a group with a strategy and the rules of `Health`, if they are followed.
    pub(crate) fn new(order: Order, rules: Option<&HealthRules>) -> Self {
        let forest = AnyForest::new(order, Census::new(rules));
        Self { forest: Mutex::new(forest), words: Words { ramp: Ramp::new(order.strategy), ..Words::default() } }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, AnyForest> {
        hold(&self.forest)
    }
}

macro_rules! any_forest {
    ($( $(#[$doc:meta])* $variant:ident: $rule:ident, $name:literal [$($spelling:literal),*]; )*) => {
        /// A forest for any strategy.
        #[derive(Debug)]
        pub(crate) enum Forests<A: Among> {
            $( $variant(Forest<A::Of<crate::strategy::$rule>>), )*
        }

        impl<A: Among> Forests<A> {
            fn new(strategy: Strategy, census: Census) -> Self {
                match strategy {
                    $( Strategy::$variant => Self::$variant(Forest::new(census)), )*
                }
            }
        }
    };
}
each_rule!(any_forest);

/// Among whom a rule picks.
pub(crate) trait Among: std::fmt::Debug {
    /// The rule that does so.
    type Of<R: Rule + std::fmt::Debug>: Rule + std::fmt::Debug;
}

/// Among all candidates.
#[derive(Debug)]
pub(crate) enum All {}

impl Among for All {
    type Of<R: Rule + std::fmt::Debug> = R;
}

/// Among those of the lowest priority.
#[derive(Debug)]
pub(crate) enum LowestTier {}

impl Among for LowestTier {
    type Of<R: Rule + std::fmt::Debug> = Tiered<R>;
}

/// A forest for any strategy, with or without tiers.
#[derive(Debug)]
pub(crate) enum AnyForest {
    Flat(Forests<All>),
    Tiers(Forests<LowestTier>),
}

impl AnyForest {
    pub(crate) fn new(order: Order, census: Census) -> Self {
        if order.tiers {
            Self::Tiers(Forests::new(order.strategy, census))
        } else {
            Self::Flat(Forests::new(order.strategy, census))
        }
    }
}

macro_rules! match_forest {
    ({ $forests:expr, $forest:ident => $do:expr }
     $( $(#[$doc:meta])* $variant:ident: $rule:ident, $name:literal [$($spelling:literal),*]; )*) => {
        match $forests {
            $( Forests::$variant($forest) => $do, )*
        }
    };
}

/// Evaluates an expression with the forest of any rule.
macro_rules! with_forest {
    ($any:expr, $forest:ident => $do:expr) => {
        match $any {
            AnyForest::Flat(forests) => each_rule!(match_forest { forests, $forest => $do }),
            AnyForest::Tiers(forests) => each_rule!(match_forest { forests, $forest => $do }),
        }
    };
}

impl AnyForest {
    /// Picks a member that passes every gate; None if there is none, or if only a walk can tell. For
    /// `prefetch` see `Tree::pick`.
    #[inline]
    pub(crate) fn pick<M: Member>(
        &mut self,
        members: &Members<M>,
        filter: &Filter<'_>,
        now: &Now<'_>,
        chance: &Chance<'_>,
        prefetch: impl Fn(Position),
    ) -> Option<Position> {
        with_forest!(self, forest => forest.pick(members, filter, now, chance, prefetch))
    }

    /// Returns why a request of unknown size is refused: see `Forest::refusal`.
    pub(crate) fn refusal<M: Member>(
        &mut self,
        members: &Members<M>,
        spent: Spent<'_>,
        skips: &[Position],
        now: &Now<'_>,
    ) -> Option<(Reasons, Option<Nanos>)> {
        with_forest!(self, forest => forest.refusal(members, spent, skips, now))
    }

    /// Makes the leaf of a member anew.
    #[inline]
    pub(crate) fn renew<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        with_forest!(self, forest => forest.renew(position, member, now));
    }

    /// Renews the leaves of members in slow start that are candidates again after this many picks.
    pub(crate) fn renew_due<M: Member>(&mut self, picks: u64, members: &Members<M>, now: &Now<'_>) {
        with_forest!(self, forest => forest.renew_due(picks, members, now));
    }

    /// Renews the leaves of all members in slow start.
    pub(crate) fn renew_all_paced<M: Member>(&mut self, members: &Members<M>, now: &Now<'_>) {
        with_forest!(self, forest => forest.renew_all_paced(members, now));
    }

    /// Gives a member the leaf of its place. The place may have been another member's.
    pub(crate) fn enter<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        with_forest!(self, forest => forest.enter(position, member, now));
    }

    /// Makes the place of a member empty.
    pub(crate) fn leave<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        with_forest!(self, forest => forest.leave(position, member, now));
    }

    /// Follows the rules of `Health` from now on, or none if the router follows others. The caller rebuilds.
    pub(crate) fn follow(&mut self, rules: Option<&HealthRules>) {
        with_forest!(self, forest => forest.follow(rules));
    }

    /// Returns the count of the members by their health.
    pub(crate) fn census(&self) -> &Census {
        with_forest!(self, forest => forest.census())
    }

    /// Tells the members their places and makes all leaves anew.
    pub(crate) fn rebuild<M: Member>(&mut self, members: &Members<M>, now: &Now<'_>) {
        with_forest!(self, forest => forest.rebuild(members, now));
    }
}
