//! The trees of a group, and the times at which their leaves change by themselves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashSet;

use super::leaf::Leaf;
use super::member::{Member, Members, members};
use super::obstacles::{Obstacles, Spent};
use super::paced::Paced;
use super::tree::{Filter, Tree};
use super::views::Views;
use crate::base::clock::Now;
use crate::base::error::Reasons;
use crate::base::position::Position;
use crate::base::time::Nanos;
use crate::health::{Census, Fitness, HealthRules};
use crate::strategy::{Chance, Rule};

/// A tree over all members, trees over the members with some tags, and the times at which leaves change by
/// themselves.
#[derive(Debug)]
pub(crate) struct Forest<R: Rule> {
    all: Tree<R>,
    views: Views<R>,
    /// The times at which leaves change, as they were noted. An entry that `changes` does not confirm is out
    /// of date.
    wakes: BinaryHeap<Reverse<(Nanos, Position)>>,
    /// When each leaf changes; [`Nanos::MAX`] if time does not change it.
    changes: Vec<Nanos>,
    /// The earliest time at which some member may have more tokens left than its leaf says.
    refills_at: Nanos,
    /// The places whose members may have more tokens left for some requests than their leaves say.
    understated: FxHashSet<Position>,
    /// The places whose members are in slow start.
    paced: Paced,
    census: Census,
    /// What stops the members, once requests are refused.
    obstacles: Option<Obstacles>,
    /// How far the wall clock was ahead, as far as was known, when all leaves were made.
    ahead: Nanos,
}

impl<R: Rule> Forest<R> {
    pub(super) fn new(census: Census) -> Self {
        let all = Tree::new(0);
        let changes = vec![Nanos::MAX; all.leaves()];
        Self {
            all,
            views: Views::default(),
            wakes: BinaryHeap::new(),
            changes,
            refills_at: Nanos::MAX,
            understated: FxHashSet::default(),
            paced: Paced::default(),
            census,
            obstacles: None,
            ahead: 0,
        }
    }

    pub(super) fn follow(&mut self, rules: Option<&HealthRules>) {
        self.census.follow(rules);
    }

    /// Returns the count of the members by their health.
    pub(super) fn census(&self) -> &Census {
        &self.census
    }

    #[inline]
    pub(super) fn pick<M: Member>(
        &mut self,
        members: &Members<M>,
        filter: &Filter<'_>,
        now: &Now<'_>,
        chance: &Chance<'_>,
        prefetch: impl Fn(Position),
    ) -> Option<Position> {
        if let Some(&Reverse((at, _))) = self.wakes.peek() {
            if now.has_come(at) {
                self.wake(members, now);
            }
            // When the wall clock is set forward, more than one minute may be over.
            if self.ahead != now.known_ahead() {
                self.rebuild(members, now);
            }
        }
        // In a panic some gates are open; only a walk knows which.
        if !self.census.heeds_health() {
            return None;
        }
        if filter.labels.is_none() && filter.spent == 0 && !filter.lacks_part && self.all.passes_whole(filter) {
            return self.all.pick(chance, prefetch);
        }
        self.pick_filtered(members, filter, now, chance)
    }

    /// Picks where the request itself rules some members out.
    #[cold]
    fn pick_filtered<M: Member>(
        &mut self,
        members: &Members<M>,
        filter: &Filter<'_>,
        now: &Now<'_>,
        chance: &Chance<'_>,
    ) -> Option<Position> {
        // A new minute may have brought the missing tokens, and a bucket may be full again.
        if self.refills_at != Nanos::MAX && now.has_come(self.refills_at) {
            self.rebuild(members, now);
        }
        let is_view = filter.labels.is_some() || filter.spent != 0;
        let tree = if is_view { self.views.get(filter.labels, filter.spent, members, &self.all)? } else { &self.all };
        let is_whole = tree.passes_whole(filter);
        // Where all members have enough, it does not matter that some have more than their leaves say.
        if !self.understated.is_empty() && (filter.lacks_part || !is_whole) {
            return None;
        }
        if is_whole { tree.pick(chance, |_| ()) } else { tree.pick_filtered(filter, chance) }
    }

    /// Returns how many members each gate stops for a request of unknown size, and the earliest time at which
    /// a member may be available. None if a member passes, or if only a walk can tell.
    pub(super) fn refusal<M: Member>(
        &mut self,
        members: &Members<M>,
        spent: Spent<'_>,
        skips: &[Position],
        now: &Now<'_>,
    ) -> Option<(Reasons, Option<Nanos>)> {
        self.wake(members, now);
        if self.ahead != now.known_ahead() {
            self.rebuild(members, now);
        }
        if !self.census.heeds_health() || !self.paced.is_empty() {
            return None;
        }
        let obstacles = self.obstacles.get_or_insert_with(|| Obstacles::new(members, now));
        obstacles.refresh(members, now);
        obstacles.refusal(spent, skips, now.get())
    }

    /// Notes that what stops a member may have changed.
    #[inline]
    fn touch(&mut self, position: Position) {
        if let Some(obstacles) = &mut self.obstacles
            && !obstacles.touch(position)
        {
            self.obstacles = None;
        }
    }

    #[inline]
    pub(super) fn renew<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        if self.renew_leaf(position, member, now) {
            self.assess(member, now);
        }
    }

    /// Renews a leaf. Returns whether the member's fitness may have changed.
    #[inline]
    fn renew_leaf<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) -> bool {
        if position as usize >= self.all.leaves() {
            self.grow(position as usize + 1);
        }
        self.touch(position);
        let leaf = member.leaf::<R>(now);
        self.note(position, member, &leaf);
        // The tokens seldom change. If they do not, the tree of tokens is not touched: it lies apart from
        // what other picks read.
        let (views, same_tokens) = (member.place().views(), member.place().note_tokens(leaf.tokens));
        let put = |tree: &mut Tree<R>| {
            if same_tokens { tree.put_candidate(position, leaf.candidate) } else { tree.put(position, &leaf) }
        };
        put(&mut self.all);
        self.views.renew(views, put);
        self.count(position, member, leaf.is_well, now)
    }

    /// Counts a member by its health. Returns whether its health may have changed.
    #[inline(always)]
    #[allow(clippy::inline_always)] // mostly it only reads three words
    fn count<M: Member>(&mut self, position: Position, member: &M, is_well: bool, now: &Now<'_>) -> bool {
        let is_as_before = member.place().is_known_well() && is_well;
        if !is_as_before {
            self.recount(position, member, now);
        }
        !is_as_before
    }

    #[cold]
    #[inline(never)]
    fn recount<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        let fitness = member.fitness(now);
        member.place().note_well(fitness == Fitness::Well);
        self.census.set(position, fitness);
    }

    /// Finds out whether the group panics, and notes if that has changed.
    #[cold]
    fn assess<M: Member>(&mut self, member: &M, now: &Now<'_>) {
        if self.census.assess(now) {
            member.announce_panic(self.census.panics, now.get());
        }
    }

    pub(super) fn enter<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        self.clear(position);
        member.place().enter(position, self.views.of(member.labels(), member.quotas()));
        self.renew(position, member, now);
    }

    /// Makes the place of a member empty.
    pub(super) fn leave<M: Member>(&mut self, position: Position, member: &M, now: &Now<'_>) {
        self.clear(position);
        self.assess(member, now);
    }

    fn clear(&mut self, position: Position) {
        self.touch(position);
        self.understated.remove(&position);
        self.paced.set(position, None);
        if let Some(noted) = self.changes.get_mut(position as usize) {
            *noted = Nanos::MAX;
            self.trees().for_each(|tree| tree.put(position, &Leaf::stopped(Nanos::MAX)));
            self.census.set(position, Fitness::Nobody);
        }
    }

    /// Notes when a leaf changes.
    #[inline]
    fn note<M: Member>(&mut self, position: Position, member: &M, leaf: &Leaf<R::Leaf>) {
        self.refills_at = self.refills_at.min(leaf.refills_at);
        if leaf.understates {
            self.understated.insert(position);
        } else if !self.understated.is_empty() {
            self.understated.remove(&position);
        }
        if leaf.due_pick != 0 || !self.paced.is_empty() {
            self.paced.set(position, Some(leaf.due_pick).filter(|&pick| pick != 0));
        }
        let changes_at = leaf.changes_at;
        if member.place().note_change(changes_at) {
            return;
        }
        if let Some(noted) = self.changes.get_mut(position as usize) {
            *noted = changes_at;
        }
        if changes_at != Nanos::MAX {
            self.wakes.push(Reverse((changes_at, position)));
        }
        // A leaf that changes its time again and again leaves an entry each time. No entry is dropped before
        // it is due, so there is a bound here.
        if self.wakes.len() > 2 * self.changes.len() {
            let confirmed = (0..).zip(&self.changes).filter(|&(_, &at)| at != Nanos::MAX);
            self.wakes = confirmed.map(|(position, &at)| Reverse((at, position))).collect();
        }
    }

    /// Renews the leaves whose time has come.
    #[cold]
    fn wake<M: Member>(&mut self, members: &Members<M>, now: &Now<'_>) {
        let (mut renewed, mut counted) = (0, None);
        while let Some(&Reverse((at, position))) = self.wakes.peek()
            && at <= now.get()
        {
            self.wakes.pop();
            let noted = self.changes.get_mut(position as usize);
            if let Some(noted) = noted.filter(|noted| **noted == at) {
                *noted = Nanos::MAX;
                if let Some(Some(entry)) = members.get(position as usize) {
                    entry.place().note_change(Nanos::MAX);
                    counted = self.renew_leaf(position, &**entry, now).then_some(entry).or(counted);
                }
                // A new minute may change most leaves. To make all of them anew costs less than to renew many
                // of them one by one.
                renewed += 1;
                if renewed > self.changes.len() / 8 {
                    return self.rebuild(members, now);
                }
            }
        }
        if let Some(entry) = counted {
            self.assess(&**entry, now);
        }
    }

    /// Renews the leaves of members in slow start that are due after this many picks.
    pub(super) fn renew_due<M: Member>(&mut self, picks: u64, members: &Members<M>, now: &Now<'_>) {
        while let Some(position) = self.paced.first_due(picks) {
            self.renew_paced(position, members, now);
        }
    }

    /// Renews the leaves of all members in slow start.
    pub(super) fn renew_all_paced<M: Member>(&mut self, members: &Members<M>, now: &Now<'_>) {
        for position in self.paced.all() {
            self.renew_paced(position, members, now);
        }
    }

    fn renew_paced<M: Member>(&mut self, position: Position, members: &Members<M>, now: &Now<'_>) {
        self.paced.set(position, None);
        if let Some(Some(entry)) = members.get(position as usize) {
            self.renew(position, &**entry, now);
        }
    }

    #[cold]
    fn grow(&mut self, places: usize) {
        let leaves = places.next_power_of_two();
        self.trees().for_each(|tree| tree.grow(leaves));
        self.changes.resize(self.all.leaves(), Nanos::MAX);
    }

    pub(super) fn rebuild<M: Member>(&mut self, members: &Members<M>, now: &Now<'_>) {
        self.all = Tree::new(members.len());
        self.ahead = now.known_ahead();
        self.changes = vec![Nanos::MAX; self.all.leaves()];
        self.refills_at = Nanos::MAX;
        self.wakes.clear();
        self.understated.clear();
        self.paced.clear();
        self.census.clear();
        self.obstacles = None;
        self.views.trees().for_each(|(_, tree)| *tree = Tree::new(members.len()));
        for (position, member) in self::members(members) {
            member.place().enter(position, self.views.of(member.labels(), member.quotas()));
            let member = &**member;
            let leaf = member.leaf::<R>(now);
            self.note(position, member, &leaf);
            self.count(position, member, leaf.is_well, now);
            member.place().note_tokens(leaf.tokens);
            let views = member.place().views();
            self.all.set(position, &leaf);
            self.views.trees().filter(|(bit, _)| views & bit != 0).for_each(|(_, tree)| tree.set(position, &leaf));
        }
        self.trees().for_each(Tree::join_all);
        if let Some((_, member)) = self::members(members).next() {
            self.assess(&**member, now);
        }
    }

    fn trees(&mut self) -> impl Iterator<Item = &mut Tree<R>> {
        std::iter::once(&mut self.all).chain(self.views.trees().map(|(_, tree)| tree))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::member::Place;
    use super::super::obstacle::{Obstacle, QuotaBits};
    use super::*;
    use crate::base::clock::Clock;
    use crate::base::labels::Labels;
    use crate::base::manual_clock::ManualClock;
    use crate::base::rng::Rng;
    use crate::base::sync::atomic::{AtomicU64, Ordering};
    use crate::base::time::SECOND;
    use crate::facts::{Size, Wishes};
    use crate::strategy::{RoundRobin, RoutingContext};

    /// A member with `tokens` left, which understates what is left until a time.
    struct Fake {
        place: Place,
        tags: Vec<Arc<str>>,
        tokens: u64,
        changes_at: AtomicU64,
        understates_until: Nanos,
    }

    impl Fake {
        fn new(position: Position) -> Self {
            let place = Place::new(position);
            Self { place, tags: Vec::new(), tokens: u64::MAX, changes_at: AtomicU64::new(Nanos::MAX), understates_until: 0 }
        }
    }

    impl Member for Fake {
        fn place(&self) -> &Place {
            &self.place
        }

        fn labels(&self) -> Labels<'_> {
            Labels { tags: &self.tags, dialect: None }
        }

        fn fitness(&self, _: &Now<'_>) -> Fitness {
            Fitness::Well
        }

        fn leaf<R: Rule>(&self, now: &Now<'_>) -> Leaf<R::Leaf> {
            let understates = now.get() < self.understates_until;
            Leaf {
                candidate: Some(R::leaf(&RoutingContext::new("fake"))),
                tokens: self.tokens,
                understates,
                is_well: true,
                changes_at: self.changes_at.load(Ordering::Relaxed),
                due_pick: 0,
                refills_at: if understates { self.understates_until } else { Nanos::MAX },
            }
        }

        fn quotas(&self) -> QuotaBits {
            0
        }

        fn obstacle(&self, _: &Now<'_>) -> Obstacle {
            Obstacle { gate: None, frees_at: Some(0), quotas: 0 }
        }

        fn announce_panic(&self, _: bool, _: Nanos) {
            unreachable!("nobody is ever out")
        }
    }

    /// A forest of some members, and all that a pick needs.
    struct Grove {
        forest: Forest<RoundRobin>,
        members: Vec<Option<Arc<Fake>>>,
        clock: Arc<ManualClock>,
        next_turn: AtomicU64,
    }

    impl Grove {
        fn new(fakes: Vec<Fake>) -> Self {
            let mut forest = Forest::new(Census::new(None));
            let clock = Arc::new(ManualClock::new(0));
            let members: Vec<_> = fakes.into_iter().map(|fake| Some(Arc::new(fake))).collect();
            for (position, member) in self::members(&members) {
                forest.enter(position, &**member, &Now::new(&Clock::Manual(Arc::clone(&clock))));
            }
            Self { forest, members, clock, next_turn: AtomicU64::new(0) }
        }

        fn pick(&mut self, tokens: u64, tags: &[String]) -> Option<Position> {
            let wishes = Wishes { tags: tags.to_vec(), ..Wishes::default() };
            let labels = Some(&wishes).filter(|wishes| wishes.asks_for_labels());
            let filter = Filter { tokens, places: None, lacks_part: false, labels, spent: 0 };
            let chance =
                Chance { rng: &Rng::new(Some(0)), next_turn: &self.next_turn, peek: false, size: Size { input: 1, output: 1 } };
            let clock = Clock::Manual(Arc::clone(&self.clock));
            self.forest.pick(&self.members, &filter, &Now::new(&clock), &chance, |_| ())
        }

        fn renew(&mut self, position: Position) {
            let clock = Clock::Manual(Arc::clone(&self.clock));
            if let Some(Some(member)) = self.members.get(position as usize) {
                self.forest.renew(position, &**member, &Now::new(&clock));
            }
        }
    }

    #[test]
    fn what_is_noted_stays_bounded() {
        let mut grove = Grove::new(vec![Fake::new(0)]);
        for length in 1..10_000 {
            grove.members[0].as_ref().unwrap().changes_at.store(length * SECOND, Ordering::Relaxed);
            grove.renew(0);
        }
        assert!(grove.forest.wakes.len() < 50);
    }

    #[test]
    fn a_leaf_that_understates_needs_a_walk_until_it_refills() {
        let full_at = 60 * SECOND;
        let few = Fake { tokens: 10, ..Fake::new(0) };
        let mut grove = Grove::new(vec![few, Fake { tokens: 100, understates_until: full_at, ..Fake::new(1) }]);
        assert_eq!(grove.pick(20, &[]), None);
        grove.clock.set(full_at);
        assert_eq!(grove.pick(20, &[]), Some(1));
        assert!(grove.forest.understated.is_empty());
    }

    fn tag(i: usize) -> String {
        format!("tag {i}")
    }

    #[test]
    fn tag_sets_in_use_have_trees_and_no_others() {
        let fakes = (0..40).zip(0..).map(|(i, position)| Fake { tags: vec![tag(i).into()], ..Fake::new(position) });
        let mut grove = Grove::new(fakes.collect());
        let trees = |grove: &Grove| (0..40).filter(|&i| grove.forest.views.has(&[tag(i)])).collect::<Vec<_>>();
        let ask = |grove: &mut Grove, i: usize| {
            let picked = grove.pick(1, &[tag(i)]);
            assert!(picked.is_none_or(|picked| picked as usize == i));
            assert_eq!(picked.is_some(), grove.forest.views.has(&[tag(i)]));
        };
        // The first time may be the last.
        (0..40).for_each(|i| ask(&mut grove, i));
        assert!(trees(&grove).is_empty());
        (0..8).chain(0..8).for_each(|i| ask(&mut grove, i));
        assert_eq!(trees(&grove), (0..8).collect::<Vec<_>>());
        // More sets are asked for in turn than there are trees. The sets that have a tree keep it.
        (0..20).for_each(|_| (0..12).for_each(|i| ask(&mut grove, i)));
        assert_eq!(trees(&grove), (0..8).collect::<Vec<_>>());
        // A set that is asked for while another set is not takes the other's tree.
        (0..20).for_each(|_| (1..9).for_each(|i| ask(&mut grove, i)));
        assert_eq!(trees(&grove), (1..9).collect::<Vec<_>>());
        // No request asks any more, and keeping the trees up to date costs something.
        (0..10_000).for_each(|i| grove.renew(i % 40));
        assert!(trees(&grove).is_empty());
        (0..2).for_each(|_| (3..5).for_each(|i| ask(&mut grove, i)));
        assert_eq!(trees(&grove), [3, 4]);
    }

    #[test]
    fn a_tag_set_that_is_very_long_is_not_kept() {
        let tags: Vec<_> = (0..100).map(tag).collect();
        let fake = Fake { tags: tags.iter().map(|tag| tag.as_str().into()).collect(), ..Fake::new(0) };
        let mut grove = Grove::new(vec![fake]);
        (0..3).for_each(|_| assert_eq!(grove.pick(1, &tags), None));
        assert!(!grove.forest.views.has(&tags));
    }
}
