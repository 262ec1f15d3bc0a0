//! An index of a group, so that a pick costs the same in a large group as in a small one.
//!
//! The index is a cache: a leaf of its trees is made by the very gate and rule that a walk over the members uses, for a request without
//! wishes. Whoever changes a member's counters renews its leaf afterwards, under the index's lock, from the counters as they are then;
//! so the last to come leaves the latest. What time alone changes is renewed by the next pick at or after that time: each leaf notes
//! until when it holds, and with nothing noted a pick does not read the clock.
//!
//! A request's own wishes narrow what a pick takes from a tree: its size and excluded members by a [`Filter`], its tags by a tree over
//! the members that have them ([`Views`]), once such tags were asked for before.

mod census;
mod nodes;
mod tree;
mod views;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, PoisonError};

use rustc_hash::FxHashSet;

use census::Census;
pub(crate) use census::{Fitness, Peers};
pub(crate) use tree::Filter;
use tree::{Leaf, Tree};
use views::Views;

use crate::clock::{Nanos, Now};
use crate::events::{Event, EventKind};
use crate::health::{BreakerRules, Pool};
use crate::registry::{Entry, Fate};
use crate::select::{Live, Request, Waived, gate_alone, limits_parts, tokens_left};
use crate::state::State;
use crate::strategy::{
    Chance, LeastBusy, LowestLatency, LowestPriority, LowestUsage, Position, RateLimitAware, RoundRobin, Rule, Strategy,
    WeightedRandom,
};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The index of one group. Locked after the group's shard of the registry and before a member's counters.
#[derive(Debug)]
#[repr(align(128))] // so that what picks from two groups write does not share a cache line or its neighbour
pub(crate) struct Index {
    forest: Mutex<AnyForest>,
    /// The counter of round robin; here, since it is written at every turn.
    pub(crate) turn: AtomicU64,
    pool: Pool,
}

impl Index {
    /// Of a group with a strategy and the rules of the breaker, if they are followed.
    pub(crate) fn new(strategy: Strategy, rules: Option<&BreakerRules>) -> Self {
        let forest = Mutex::new(AnyForest::new(strategy, rules));
        Self { forest, turn: AtomicU64::new(0), pool: Pool::default() }
    }

    /// The outcomes of all members.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, AnyForest> {
        self.forest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The position of an entry whose place is still another's: it has no leaf before its group's index is rebuilt.
pub(crate) const NOWHERE: Position = Position::MAX;

/// Where a member's leaf is, and what its index has noted of it, so that a renewal which changes none of that touches no more memory.
/// Written under the index's lock.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) index: Arc<Index>,
    /// The tokens in its leaf, and when time changes that.
    tokens: AtomicU64,
    changes_at: AtomicU64,
    position: AtomicU32,
    /// The views it is in, one bit each.
    views: AtomicU8,
    /// Whether the census knows it as well.
    is_well: AtomicBool,
}

impl Home {
    pub(crate) fn new(index: &Arc<Index>, position: Position) -> Self {
        Self {
            index: Arc::clone(index),
            tokens: AtomicU64::new(0),
            changes_at: AtomicU64::new(Nanos::MAX),
            position: AtomicU32::new(position),
            views: AtomicU8::new(0),
            is_well: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn position(&self) -> Position {
        self.position.load(Ordering::Relaxed)
    }

    /// Its leaf is an empty one at this place, in these views too.
    fn enter(&self, position: Position, views: u8) {
        self.position.store(position, Ordering::Relaxed);
        self.tokens.store(0, Ordering::Relaxed);
        self.changes_at.store(Nanos::MAX, Ordering::Relaxed);
        self.views.store(views, Ordering::Relaxed);
        self.is_well.store(false, Ordering::Relaxed);
    }

    #[inline]
    fn views(&self) -> u8 {
        self.views.load(Ordering::Relaxed)
    }

    fn set_view(&self, nth: usize, is_in: bool) {
        let others = self.views() & !(1 << nth);
        self.views.store(others | u8::from(is_in) << nth, Ordering::Relaxed);
    }

    /// Notes the tokens in its leaf; returns whether they were noted before.
    #[inline]
    fn note_tokens(&self, tokens: u64) -> bool {
        note(&self.tokens, tokens)
    }

    /// Notes when time changes its leaf; returns whether that was noted before.
    #[inline]
    fn note_change(&self, at: Nanos) -> bool {
        note(&self.changes_at, at)
    }
}

#[inline]
fn note(noted: &AtomicU64, value: u64) -> bool {
    let is_noted = noted.load(Ordering::Relaxed) == value;
    if !is_noted {
        noted.store(value, Ordering::Relaxed);
    }
    is_noted
}

/// A forest for whichever strategy.
#[derive(Debug)]
pub(crate) enum AnyForest {
    SimpleShuffle(Forest<WeightedRandom>),
    LeastBusy(Forest<LeastBusy>),
    UsageBased(Forest<LowestUsage>),
    LatencyBased(Forest<LowestLatency>),
    PriorityBased(Forest<LowestPriority>),
    RateLimitAware(Forest<RateLimitAware>),
    RoundRobin(Forest<RoundRobin>),
}

macro_rules! with_forest {
    ($any:expr, $forest:ident => $do:expr) => {
        match $any {
            AnyForest::SimpleShuffle($forest) => $do,
            AnyForest::LeastBusy($forest) => $do,
            AnyForest::UsageBased($forest) => $do,
            AnyForest::LatencyBased($forest) => $do,
            AnyForest::PriorityBased($forest) => $do,
            AnyForest::RateLimitAware($forest) => $do,
            AnyForest::RoundRobin($forest) => $do,
        }
    };
}

impl AnyForest {
    fn new(strategy: Strategy, rules: Option<&BreakerRules>) -> Self {
        let census = Census::new(rules);
        match strategy {
            Strategy::SimpleShuffle => Self::SimpleShuffle(Forest::new(census)),
            Strategy::LeastBusy => Self::LeastBusy(Forest::new(census)),
            Strategy::UsageBased => Self::UsageBased(Forest::new(census)),
            Strategy::LatencyBased => Self::LatencyBased(Forest::new(census)),
            Strategy::PriorityBased => Self::PriorityBased(Forest::new(census)),
            Strategy::RateLimitAware => Self::RateLimitAware(Forest::new(census)),
            Strategy::RoundRobin => Self::RoundRobin(Forest::new(census)),
        }
    }

    /// Picks a member that passes every gate; None if none does, or if only a walk can tell. For `near` see [`Tree::pick`].
    #[inline]
    pub(crate) fn pick<T>(
        &mut self,
        members: &Members<T>,
        filter: &Filter<'_>,
        now: &Now<'_>,
        chance: &Chance<'_>,
        near: impl Fn(Position),
    ) -> Option<Position> {
        with_forest!(self, forest => forest.pick(members, filter, now, chance, near))
    }

    /// Makes the leaf of a member anew.
    #[inline]
    pub(crate) fn renew<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        with_forest!(self, forest => forest.renew(position, member, now));
    }

    /// Gives a member the leaf of its place, whosever that was.
    pub(crate) fn enter<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        with_forest!(self, forest => forest.enter(position, member, now));
    }

    /// Makes the place of a member empty.
    pub(crate) fn clear<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        with_forest!(self, forest => {
            forest.clear(position);
            forest.assess(member, now);
        });
    }

    /// What the members are by their health.
    fn census(&self) -> &Census {
        with_forest!(self, forest => &forest.census)
    }

    /// Tells the members their places and makes all leaves anew.
    pub(crate) fn rebuild<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        with_forest!(self, forest => forest.rebuild(members, now));
    }
}

/// The members of a group by their places; a place is empty once its member has left.
pub(crate) type Members<T> = [Option<Arc<Entry<T>>>];

/// The members that are there, and their places.
#[inline]
pub(crate) fn members<T>(members: &Members<T>) -> impl Iterator<Item = (Position, &Arc<Entry<T>>)> {
    (0..).zip(members).filter_map(|(position, place)| Some((position, place.as_ref()?)))
}

/// A tree over all members, trees over those with some tags, and when their leaves change by themselves.
#[derive(Debug)]
pub(crate) struct Forest<R: Rule> {
    all: Tree<R>,
    views: Views<R>,
    /// What was noted of when leaves change; an entry that `changes` does not confirm is out of date.
    wakes: BinaryHeap<Reverse<(Nanos, Position)>>,
    /// When each leaf changes; [`Nanos::MAX`] if time does not change it.
    changes: Vec<Nanos>,
    /// The earliest time at which some member may have more tokens left than its leaf says.
    refills_at: Nanos,
    /// The places whose members may have more tokens left for some requests than their leaves say.
    least: FxHashSet<Position>,
    census: Census,
}

impl<R: Rule> Forest<R> {
    fn new(census: Census) -> Self {
        let all = Tree::new(0);
        let changes = vec![Nanos::MAX; all.leaves()];
        Self {
            all,
            views: Views::default(),
            wakes: BinaryHeap::new(),
            changes,
            refills_at: Nanos::MAX,
            least: FxHashSet::default(),
            census,
        }
    }

    #[inline]
    fn pick<T>(
        &mut self,
        members: &Members<T>,
        filter: &Filter<'_>,
        now: &Now<'_>,
        chance: &Chance<'_>,
        near: impl Fn(Position),
    ) -> Option<Position> {
        if let Some(&Reverse((at, _))) = self.wakes.peek()
            && now.has_come(at)
        {
            self.wake(members, now);
        }
        // Who is ignored for what is for a walk to find out.
        if self.census.panics {
            return None;
        }
        if filter.tags.is_none() && !filter.lacks_part && self.all.passes_whole(filter) {
            return self.all.pick(chance, near);
        }
        self.pick_filtered(members, filter, now, chance)
    }

    /// Picks where the request takes something away.
    #[cold]
    fn pick_filtered<T>(
        &mut self,
        members: &Members<T>,
        filter: &Filter<'_>,
        now: &Now<'_>,
        chance: &Chance<'_>,
    ) -> Option<Position> {
        // A new minute may have made good what tokens are missing, and a bucket may be full again.
        if self.refills_at != Nanos::MAX && now.has_come(self.refills_at) {
            self.rebuild(members, now);
        }
        if !self.least.is_empty() {
            return None;
        }
        let tree = match filter.tags {
            Some(wishes) => self.views.get(wishes, members, &self.all)?,
            None => &self.all,
        };
        if tree.passes_whole(filter) { tree.pick(chance, |_| ()) } else { tree.pick_filtered(filter, chance) }
    }

    #[inline]
    fn renew<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        if self.renew_leaf(position, member, now) {
            self.assess(member, now);
        }
    }

    /// Returns whether the member's fitness may have changed.
    #[inline]
    fn renew_leaf<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) -> bool {
        if position as usize >= self.all.leaves() {
            self.grow(position as usize + 1);
        }
        let state = &*member.slot;
        let leaf = leaf::<R, T>(member, state, now);
        self.note(position, member, &leaf);
        // The tokens seldom change, and where they lie nothing else is read.
        let (views, same_tokens) = (member.home.views(), member.home.note_tokens(leaf.tokens));
        let put = |tree: &mut Tree<R>| {
            if same_tokens { tree.put_candidate(position, leaf.candidate) } else { tree.put(position, &leaf) }
        };
        put(&mut self.all);
        self.views.renew(views, put);
        self.count(position, member, state, now)
    }

    /// Counts a member by its health; returns whether that may have changed.
    #[inline]
    fn count<T>(&mut self, position: Position, member: &Entry<T>, state: &State, now: &Now<'_>) -> bool {
        let is_as_before = || member.home.is_well.load(Ordering::Relaxed) && state.health.is_well();
        let has_changed = self.census.is_kept && !is_as_before();
        if has_changed {
            self.set_fitness(position, member, Fitness::of(state, now));
        }
        has_changed
    }

    #[cold]
    fn set_fitness<T>(&mut self, position: Position, member: &Entry<T>, fitness: Fitness) {
        member.home.is_well.store(fitness == Fitness::Well, Ordering::Relaxed);
        self.census.set(position, fitness);
    }

    /// Finds out whether the group panics, and notes if that has changed.
    #[cold]
    fn assess<T>(&mut self, member: &Entry<T>, now: &Now<'_>) {
        if self.census.assess(now) {
            let (kind, detail) = if self.census.panics {
                (EventKind::Panic, "too few are in service: health is ignored")
            } else {
                (EventKind::PanicOver, "enough are in service")
            };
            member.common.events.note(|| Event {
                kind,
                deployment_id: None,
                model_name: Arc::clone(member.deployment().shared_model_name()),
                at: now.get(),
                detail: detail.to_owned(),
            });
        }
    }

    fn enter<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        self.clear(position);
        member.home.enter(position, self.views.of_tags(member.deployment().tags()));
        self.renew(position, member, now);
    }

    fn clear(&mut self, position: Position) {
        self.least.remove(&position);
        if let Some(noted) = self.changes.get_mut(position as usize) {
            *noted = Nanos::MAX;
            self.trees().for_each(|tree| tree.put(position, &Leaf::stopped(None)));
            if self.census.is_kept {
                self.census.set(position, Fitness::Nobody);
            }
        }
    }

    /// Notes when a leaf changes.
    #[inline]
    fn note<T>(&mut self, position: Position, member: &Entry<T>, leaf: &Leaf<R::Leaf>) {
        if let Some(at) = leaf.refills_at {
            self.refills_at = self.refills_at.min(at);
        }
        if leaf.is_least {
            self.least.insert(position);
        } else if !self.least.is_empty() {
            self.least.remove(&position);
        }
        let changes_at = leaf.changes_at.unwrap_or(Nanos::MAX);
        if member.home.note_change(changes_at) {
            return;
        }
        if let Some(noted) = self.changes.get_mut(position as usize) {
            *noted = changes_at;
        }
        if changes_at != Nanos::MAX {
            self.wakes.push(Reverse((changes_at, position)));
        }
        // A leaf that changes its time again and again leaves an entry each time; none is dropped before it is due.
        if self.wakes.len() > 2 * self.changes.len() {
            let confirmed = (0..).zip(&self.changes).filter(|&(_, &at)| at != Nanos::MAX);
            self.wakes = confirmed.map(|(position, &at)| Reverse((at, position))).collect();
        }
    }

    /// Renews the leaves whose time has come.
    #[cold]
    fn wake<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        let (mut renewed, mut counted) = (0, None);
        while let Some(&Reverse((at, position))) = self.wakes.peek()
            && at <= now.get()
        {
            self.wakes.pop();
            let noted = self.changes.get_mut(position as usize);
            if let Some(noted) = noted.filter(|noted| **noted == at) {
                *noted = Nanos::MAX;
                if let Some(Some(entry)) = members.get(position as usize) {
                    entry.home.note_change(Nanos::MAX);
                    counted = self.renew_leaf(position, entry, now).then_some(entry).or(counted);
                }
                // A new minute may change most leaves; all at once costs less than many of them one by one.
                renewed += 1;
                if renewed > self.changes.len() / 8 {
                    return self.rebuild(members, now);
                }
            }
        }
        if let Some(entry) = counted {
            self.assess(entry, now);
        }
    }

    #[cold]
    fn grow(&mut self, places: usize) {
        let leaves = places.next_power_of_two();
        self.trees().for_each(|tree| tree.grow(leaves));
        self.changes.resize(self.all.leaves(), Nanos::MAX);
    }

    fn rebuild<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        self.all = Tree::new(members.len());
        self.changes = vec![Nanos::MAX; self.all.leaves()];
        self.refills_at = Nanos::MAX;
        self.wakes.clear();
        self.least.clear();
        self.census.clear();
        self.views.trees().for_each(|(_, tree)| *tree = Tree::new(members.len()));
        for (position, member) in self::members(members) {
            member.home.enter(position, self.views.of_tags(member.deployment().tags()));
            let state = &*member.slot;
            let leaf = leaf::<R, T>(member, state, now);
            self.note(position, member, &leaf);
            self.count(position, member, state, now);
            member.home.note_tokens(leaf.tokens);
            let views = member.home.views();
            self.all.set(position, &leaf);
            self.views.trees().filter(|(bit, _)| views & bit != 0).for_each(|(_, tree)| tree.set(position, &leaf));
        }
        self.trees().for_each(Tree::join_all);
        if let Some((_, member)) = self::members(members).next() {
            self.assess(member, now);
        }
    }

    fn trees(&mut self) -> impl Iterator<Item = &mut Tree<R>> {
        std::iter::once(&mut self.all).chain(self.views.trees().map(|(_, tree)| tree))
    }
}

/// Makes a leaf of what a pick without wishes sees of a member now.
#[inline]
fn leaf<R: Rule, T>(member: &Entry<T>, state: &State, now: &Now<'_>) -> Leaf<R::Leaf> {
    now.take_change();
    if gate_alone(member, state, &Request::default(), Waived::default(), now).is_err() {
        let until = now.take_change();
        return Leaf { is_least: limits_parts(member, state, now), ..Leaf::stopped(until) };
    }
    let candidate = Some(R::leaf(&Live { entry: member, state, now }));
    let changes_at = now.take_change();
    let left = tokens_left(member, state, now);
    Leaf { candidate, tokens: left.tokens, is_least: left.is_least, changes_at, refills_at: left.refills_at }
}

/// Renews the leaf of a member whose counters were changed, wherever it is now.
#[inline]
pub(crate) fn renew<T>(member: &Entry<T>, now: &Now<'_>) {
    change(member, now, |_| ());
}

/// Changes a member's counters and renews its leaf, wherever that is now, under one lock: what is decided by what the others of the
/// group are holds when it is done.
#[inline]
pub(crate) fn change<T, R>(member: &Entry<T>, now: &Now<'_>, change: impl FnOnce(&Peers<'_>) -> R) -> R {
    let mut heir: Arc<Entry<T>>;
    let mut member = member;
    loop {
        let index = &member.home.index;
        let mut forest = index.lock();
        let position = member.home.position();
        // Asked under the lock: whoever replaces or removes the member says so before it touches the tree.
        match member.fate() {
            Fate::Registered => {
                // Without a place of its own it waits for the rebuild, which takes the counters as they are then.
                let place = Some(position).filter(|&position| position != NOWHERE);
                let result = change(&Peers { census: forest.census(), pool: index.pool(), position: place });
                if place.is_some() {
                    forest.renew(position, member, now);
                }
                return result;
            }
            Fate::Replaced(by) => {
                drop(forest);
                heir = by;
                member = &heir;
            }
            Fate::Removed => return change(&Peers { census: forest.census(), pool: index.pool(), position: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock, SECOND};
    use crate::deployment::Deployment;
    use crate::limits::{Limit, LimitKind, Unit};
    use crate::router::{Router, Settings};
    use crate::select::Wishes;

    fn router() -> Router<()> {
        let clock = Clock::Manual(Arc::new(ManualClock::new(0)));
        Router::new(Settings { clock, ..Settings::default() }).unwrap()
    }

    fn with_index<R>(router: &Router<()>, with: impl FnOnce(&mut AnyForest) -> R) -> R {
        router.registry.with_group("model", |_, group| Ok(with(&mut group.index.lock()))).unwrap()
    }

    #[test]
    fn what_is_noted_stays_bounded() {
        let router = router();
        drop(router.add(Deployment::new("a", "model").unwrap(), ()).unwrap());
        for length in 1..10_000 {
            router.cool_down("a", length * SECOND).unwrap();
        }
        assert!(with_index(&router, |index| with_forest!(index, forest => forest.wakes.len())) < 50);
    }

    #[test]
    fn a_bucket_that_is_full_again_needs_no_walk() {
        let clock = Arc::new(ManualClock::new(0));
        let router = Router::new(Settings { clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() }).unwrap();
        let add = |deployment| drop(router.add(deployment, ()).unwrap());
        add(Deployment::new("a", "model").unwrap().with_tpm_limit(Some(10)).unwrap());
        let bucket = Limit::new(Unit::Tokens, 100, 60 * SECOND, LimitKind::Bucket { burst: 100 }).unwrap();
        add(Deployment::new("b", "model").unwrap().with_limits(&[bucket]));
        let request = Request { tokens: 20, split: None, wishes: None };
        drop(router.acquire("model", &request).unwrap());
        for (walks, wait) in [(true, 5 * SECOND), (false, 60 * SECOND)] {
            clock.advance(wait);
            assert!(router.select("model", &request, |_| ()).is_ok());
            assert_eq!(with_index(&router, |index| with_forest!(index, forest => !forest.least.is_empty())), walks);
        }
    }

    #[test]
    fn tag_sets_in_use_have_trees_and_no_others() {
        let router = router();
        let tag = |i: usize| format!("tag {i}");
        for i in 0..40 {
            drop(router.add(Deployment::new(&i.to_string(), "model").unwrap().with_tags([tag(i)]).unwrap(), ()).unwrap());
        }
        let has_tree = |i| with_index(&router, |index| with_forest!(index, forest => forest.views.has(&[tag(i)])));
        let trees = || (0..40).filter(|&i| has_tree(i)).collect::<Vec<_>>();
        let ask = |i: usize| {
            let wishes = Wishes { tags: vec![tag(i)], ..Wishes::default() };
            let picked =
                router.select("model", &Request { tokens: 0, split: None, wishes: Some(Box::new(wishes)) }, ToString::to_string);
            assert_eq!(picked.unwrap(), i.to_string());
        };
        // The first time may be the last.
        (0..40).for_each(ask);
        assert!(trees().is_empty());
        (0..8).chain(0..8).for_each(ask);
        assert_eq!(trees(), (0..8).collect::<Vec<_>>());
        // More sets in turn than there are trees: those that have one keep it.
        (0..20).for_each(|_| (0..12).for_each(ask));
        assert_eq!(trees(), (0..8).collect::<Vec<_>>());
        // One that is asked for while another is not takes its place.
        (0..20).for_each(|_| (1..9).for_each(ask));
        assert_eq!(trees(), (1..9).collect::<Vec<_>>());
        // Nobody asks any more, and keeping the trees up to date costs something.
        (0..10_000).for_each(|_| drop(router.acquire("model", &Request::default()).unwrap()));
        assert!(trees().is_empty());
        (0..2).for_each(|_| (3..5).for_each(ask));
        assert_eq!(trees(), [3, 4]);
    }

    #[test]
    fn a_tag_set_that_is_very_long_is_not_kept() {
        let router = router();
        let tags: Vec<_> = (0..100).map(|i| format!("tag {i}")).collect();
        drop(router.add(Deployment::new("a", "model").unwrap().with_tags(&tags).unwrap(), ()).unwrap());
        let wishes = Wishes { tags: tags.clone(), ..Wishes::default() };
        let request = Request { tokens: 0, split: None, wishes: Some(Box::new(wishes)) };
        (0..3).for_each(|_| drop(router.select("model", &request, ToString::to_string).unwrap()));
        assert!(!with_index(&router, |index| with_forest!(index, forest => forest.views.has(&tags))));
    }
}
