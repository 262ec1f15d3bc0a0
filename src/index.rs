//! An index of a group, so that a pick costs the same in a large group as in a small one.
//!
//! A complete binary tree over the places of the members, in registration order. A leaf holds the strategy's summary of its member, or
//! that of nobody if a gate stops it; a node holds that of the leaves below it. The root's summary names the pick, or the total to
//! draw from, which then leads down to a leaf.
//!
//! The index is a cache: a leaf is made by the very gate and rule that a walk over the members uses, for a request without wishes.
//! Whoever changes a member's counters renews its leaf afterwards, under the index's lock, from the counters as they are then; so the
//! last to come leaves the latest. What time alone changes is renewed by the next pick at or after that time: each leaf notes until
//! when it holds, and with nothing noted a pick does not read the clock.
//!
//! A request's own wishes narrow what a pick takes from the tree ([`Filter`]): tokens by the fewest and the most tokens that members
//! have left, noted in every node; excluded members by their places. Requests with tags walk instead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{Nanos, Now};
use crate::registry::{Entry, Fate};
use crate::select::{Live, Request, gate, tokens_left};
use crate::strategy::{
    Chance, LeastBusy, LowestLatency, LowestPriority, LowestUsage, Position, RateLimitAware, RoundRobin, Rule, Step, Strategy,
    WeightedRandom,
};

/// The index of one group. Locked after the group's shard of the registry and before a member's counters.
#[derive(Debug)]
#[repr(align(128))] // so that the locks of two groups do not share a cache line or its neighbour
pub(crate) struct Index(Mutex<AnyTree>);

impl Index {
    pub(crate) fn new(strategy: Strategy) -> Self {
        Self(Mutex::new(AnyTree::new(strategy)))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, AnyTree> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tree for whichever strategy.
#[derive(Debug)]
pub(crate) enum AnyTree {
    SimpleShuffle(Tree<WeightedRandom>),
    LeastBusy(Tree<LeastBusy>),
    UsageBased(Tree<LowestUsage>),
    LatencyBased(Tree<LowestLatency>),
    PriorityBased(Tree<LowestPriority>),
    RateLimitAware(Tree<RateLimitAware>),
    RoundRobin(Tree<RoundRobin>),
}

macro_rules! with_tree {
    ($any:expr, $tree:ident => $do:expr) => {
        match $any {
            AnyTree::SimpleShuffle($tree) => $do,
            AnyTree::LeastBusy($tree) => $do,
            AnyTree::UsageBased($tree) => $do,
            AnyTree::LatencyBased($tree) => $do,
            AnyTree::PriorityBased($tree) => $do,
            AnyTree::RateLimitAware($tree) => $do,
            AnyTree::RoundRobin($tree) => $do,
        }
    };
}

impl AnyTree {
    fn new(strategy: Strategy) -> Self {
        match strategy {
            Strategy::SimpleShuffle => Self::SimpleShuffle(Tree::new()),
            Strategy::LeastBusy => Self::LeastBusy(Tree::new()),
            Strategy::UsageBased => Self::UsageBased(Tree::new()),
            Strategy::LatencyBased => Self::LatencyBased(Tree::new()),
            Strategy::PriorityBased => Self::PriorityBased(Tree::new()),
            Strategy::RateLimitAware => Self::RateLimitAware(Tree::new()),
            Strategy::RoundRobin => Self::RoundRobin(Tree::new()),
        }
    }

    /// Picks a member that passes every gate; None if none does.
    #[inline]
    pub(crate) fn pick<T>(
        &mut self,
        members: &Members<T>,
        filter: &Filter,
        now: &Now<'_>,
        chance: &Chance<'_>,
    ) -> Option<Position> {
        with_tree!(self, tree => tree.pick(members, filter, now, chance))
    }

    /// Makes the leaf of a member anew.
    #[inline]
    pub(crate) fn renew<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        with_tree!(self, tree => tree.renew(position, member, now));
    }

    /// Makes a place empty.
    pub(crate) fn clear(&mut self, position: Position) {
        with_tree!(self, tree => tree.put(position, &Leaf::default()));
    }

    /// Makes all leaves anew.
    pub(crate) fn rebuild<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        with_tree!(self, tree => tree.rebuild(members, now));
    }
}

/// The members of a group by their places; a place is empty once its member has left.
pub(crate) type Members<T> = [Option<Arc<Entry<T>>>];

/// What a request wants beyond passing the gates.
pub(crate) struct Filter {
    /// Tokens that must be left, at least 1.
    pub(crate) tokens: u64,
    /// Places that are excluded, in order.
    pub(crate) skips: Vec<Position>,
}

/// What a filter makes of a range.
enum Cut {
    Nothing,
    Whole,
    Part,
}

/// The fewest and the most tokens that a member of a range has left.
#[derive(Debug, Clone, Copy, PartialEq)]
struct TokensLeft {
    least: u64,
    most: u64,
}

impl TokensLeft {
    /// Of nobody: any request is too large for it.
    const NOBODY: Self = Self { least: u64::MAX, most: 0 };

    #[inline]
    fn join(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}

/// What a pick without wishes makes of a member, and how long that holds.
#[derive(Debug)]
struct Leaf<S> {
    summary: S,
    tokens: TokensLeft,
    /// When time alone changes the summary; None if it does not.
    changes_at: Option<Nanos>,
    /// When time alone changes the tokens that are left; None if it does not.
    refills_at: Option<Nanos>,
}

impl<S: Default> Default for Leaf<S> {
    fn default() -> Self {
        Self { summary: S::default(), tokens: TokensLeft::NOBODY, changes_at: None, refills_at: None }
    }
}

/// Node 1 is the root, the children of node `i` are `2 * i` and `2 * i + 1`, and the leaf of place `p` is `leaves + p`.
#[derive(Debug)]
pub(crate) struct Tree<R: Rule> {
    /// What the strategy needs of each node; apart from the tokens, which most picks do not look at below the root.
    summaries: Vec<R::Summary>,
    tokens: Vec<TokensLeft>,
    /// How many leaves there are, a power of two.
    leaves: usize,
    /// What was noted of when leaves change; an entry that `changes` does not confirm is out of date.
    wakes: BinaryHeap<Reverse<(Nanos, Position)>>,
    /// When each leaf changes; [`Nanos::MAX`] if time does not change it.
    changes: Vec<Nanos>,
    /// The earliest time at which some member may have more tokens left than its leaf says.
    refills_at: Nanos,
}

impl<R: Rule> Tree<R> {
    fn new() -> Self {
        Self {
            summaries: vec![R::Summary::default(); 2],
            tokens: vec![TokensLeft::NOBODY; 2],
            leaves: 1,
            wakes: BinaryHeap::new(),
            changes: vec![Nanos::MAX],
            refills_at: Nanos::MAX,
        }
    }

    #[inline]
    fn pick<T>(&mut self, members: &Members<T>, filter: &Filter, now: &Now<'_>, chance: &Chance<'_>) -> Option<Position> {
        if let Some(&Reverse((at, _))) = self.wakes.peek()
            && at <= now.get()
        {
            self.wake(members, now);
        }
        if filter.skips.is_empty() && filter.tokens <= self.tokens(1).least {
            let root = self.summary(1);
            return match chance.step(R::outcome(&root)) {
                Step::Done(picked) => picked,
                Step::Find { left, .. } => Some(self.find(&root, left)),
            };
        }
        self.pick_filtered(members, filter, now, chance)
    }

    /// Goes down to the leaf in whose share `left` falls.
    #[inline]
    fn find(&self, root: &R::Summary, mut left: u64) -> Position {
        let mut at = 1;
        while at < self.leaves {
            at *= 2;
            let share = R::share(root, &self.summary(at));
            // Which way a draw leads cannot be foreseen, so no branch: a mask of all ones where it leads to the right.
            let right = u64::from(left >= share).wrapping_neg();
            left -= share & right;
            at += usize::from(right != 0);
        }
        place(at - self.leaves)
    }

    /// Picks where the filter takes something away.
    #[cold]
    fn pick_filtered<T>(&mut self, members: &Members<T>, filter: &Filter, now: &Now<'_>, chance: &Chance<'_>) -> Option<Position> {
        // Perhaps for a lack of tokens that a new minute has made good.
        if self.refills_at != Nanos::MAX && self.refills_at <= now.get() {
            self.rebuild(members, now);
        }
        let root = self.sum_up(filter, 1, 0..self.leaves);
        match chance.step(R::outcome(&root)) {
            Step::Done(picked) => picked,
            Step::Find { left, .. } => Some(self.find_filtered(filter, &root, left)),
        }
    }

    /// Goes down to the leaf in whose share of what the filter leaves `left` falls.
    fn find_filtered(&self, filter: &Filter, root: &R::Summary, mut left: u64) -> Position {
        let (mut at, mut places) = (1, 0..self.leaves);
        while at < self.leaves {
            let middle = places.start + places.len() / 2;
            let share = R::share(root, &self.sum_up(filter, at * 2, places.start..middle));
            if left < share {
                (at, places) = (at * 2, places.start..middle);
            } else {
                left -= share;
                (at, places) = (at * 2 + 1, middle..places.end);
            }
        }
        place(places.start)
    }

    /// Sums up what a filter leaves of a node and its places.
    fn sum_up(&self, filter: &Filter, at: usize, places: Range<usize>) -> R::Summary {
        match self.cut(filter, at, &places) {
            Cut::Nothing => R::Summary::default(),
            Cut::Whole => self.summary(at),
            Cut::Part => {
                let middle = places.start + places.len() / 2;
                R::join(&self.sum_up(filter, at * 2, places.start..middle), &self.sum_up(filter, at * 2 + 1, middle..places.end))
            }
        }
    }

    fn cut(&self, filter: &Filter, at: usize, places: &Range<usize>) -> Cut {
        let tokens = self.tokens(at);
        if tokens.most < filter.tokens {
            return Cut::Nothing;
        }
        let from = filter.skips.partition_point(|&skip| (skip as usize) < places.start);
        let skips = filter.skips.get(from).is_some_and(|&skip| (skip as usize) < places.end);
        match (tokens.least >= filter.tokens, skips) {
            (true, false) => Cut::Whole,
            _ if places.len() > 1 => Cut::Part,
            _ => Cut::Nothing,
        }
    }

    #[inline]
    fn summary(&self, at: usize) -> R::Summary {
        self.summaries.get(at).copied().unwrap_or_default()
    }

    #[inline]
    fn tokens(&self, at: usize) -> TokensLeft {
        self.tokens.get(at).copied().unwrap_or(TokensLeft::NOBODY)
    }

    fn renew<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        self.put(position, &leaf::<R, T>(position, member, now));
    }

    /// Puts a leaf in its place, and what follows from it in the nodes above.
    #[inline]
    fn put(&mut self, position: Position, leaf: &Leaf<R::Summary>) {
        let place = position as usize;
        if place >= self.leaves {
            self.grow(place + 1);
        }
        self.note(position, leaf);
        let mut at = self.leaves + place;
        let (mut summary, mut tokens) = (leaf.summary, leaf.tokens);
        while self.set(at, summary, tokens) && at > 1 {
            at /= 2;
            summary = R::join(&self.summary(at * 2), &self.summary(at * 2 + 1));
            tokens = self.tokens(at * 2).join(self.tokens(at * 2 + 1));
        }
    }

    /// Sets a node; returns whether that changed it.
    #[inline]
    fn set(&mut self, at: usize, summary: R::Summary, tokens: TokensLeft) -> bool {
        let (Some(old_summary), Some(old_tokens)) = (self.summaries.get_mut(at), self.tokens.get_mut(at)) else { return false };
        let changes = *old_summary != summary || *old_tokens != tokens;
        if changes {
            (*old_summary, *old_tokens) = (summary, tokens);
        }
        changes
    }

    /// Notes when a leaf changes.
    #[inline]
    fn note(&mut self, position: Position, leaf: &Leaf<R::Summary>) {
        if let Some(at) = leaf.refills_at {
            self.refills_at = self.refills_at.min(at);
        }
        let changes_at = leaf.changes_at.unwrap_or(Nanos::MAX);
        if let Some(noted) = self.changes.get_mut(position as usize)
            && *noted != changes_at
        {
            *noted = changes_at;
            if changes_at != Nanos::MAX {
                self.wakes.push(Reverse((changes_at, position)));
            }
        }
    }

    /// Renews the leaves whose time has come.
    #[cold]
    fn wake<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        // A new minute may change most leaves at once; taking them one by one then costs more than all of them together.
        if self.wakes.len() > self.leaves / 8 {
            return self.rebuild(members, now);
        }
        while let Some(&Reverse((at, position))) = self.wakes.peek()
            && at <= now.get()
        {
            self.wakes.pop();
            let noted = self.changes.get_mut(position as usize);
            if let Some(noted) = noted.filter(|noted| **noted == at) {
                *noted = Nanos::MAX;
                if let Some(Some(member)) = members.get(position as usize) {
                    self.renew(position, member, now);
                }
            }
        }
    }

    #[cold]
    fn grow(&mut self, places: usize) {
        let leaves = places.next_power_of_two();
        let (summaries, tokens) = (self.summaries.split_off(self.leaves), self.tokens.split_off(self.leaves));
        self.summaries.resize(leaves, R::Summary::default());
        self.summaries.extend(summaries);
        self.summaries.resize(leaves * 2, R::Summary::default());
        self.tokens.resize(leaves, TokensLeft::NOBODY);
        self.tokens.extend(tokens);
        self.tokens.resize(leaves * 2, TokensLeft::NOBODY);
        self.leaves = leaves;
        self.changes.resize(leaves, Nanos::MAX);
        self.join_all();
    }

    fn rebuild<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        self.leaves = members.len().next_power_of_two();
        self.summaries.clear();
        self.summaries.resize(self.leaves * 2, R::Summary::default());
        self.tokens.clear();
        self.tokens.resize(self.leaves * 2, TokensLeft::NOBODY);
        self.changes.clear();
        self.changes.resize(self.leaves, Nanos::MAX);
        self.wakes.clear();
        self.refills_at = Nanos::MAX;
        for (position, member) in (0..).zip(members) {
            if let Some(member) = member {
                let leaf = leaf::<R, T>(position, member, now);
                self.note(position, &leaf);
                self.set(self.leaves + position as usize, leaf.summary, leaf.tokens);
            }
        }
        self.join_all();
    }

    fn join_all(&mut self) {
        for at in (1..self.leaves).rev() {
            let summary = R::join(&self.summary(at * 2), &self.summary(at * 2 + 1));
            self.set(at, summary, self.tokens(at * 2).join(self.tokens(at * 2 + 1)));
        }
    }
}

/// A leaf's place as a position: there are no more places than positions.
#[inline]
fn place(index: usize) -> Position {
    Position::try_from(index).unwrap_or(Position::MAX)
}

#[inline]
fn leaf<R: Rule, T>(position: Position, member: &Entry<T>, now: &Now<'_>) -> Leaf<R::Summary> {
    let state = &*member.slot;
    now.take_change();
    if gate(member, state, &Request::default(), now).is_err() {
        return Leaf { changes_at: now.take_change(), ..Leaf::default() };
    }
    let summary = R::sum_up(position, &Live { entry: member, state, now });
    let changes_at = now.take_change();
    let (tokens, refills_at) = tokens_left(member, state, now);
    Leaf { summary, tokens: TokensLeft { least: tokens, most: tokens }, changes_at, refills_at }
}

/// Renews the leaf of a member whose counters were changed, wherever it is now.
#[inline]
pub(crate) fn renew<T>(member: &Entry<T>, now: &Now<'_>) {
    let mut heir: Arc<Entry<T>>;
    let mut member = member;
    loop {
        let mut tree = member.home.index.lock();
        // Asked under the lock: whoever replaces or removes the member says so before it touches the tree.
        match member.fate() {
            Fate::Registered => return tree.renew(member.home.position(), member, now),
            Fate::Replaced(by) => {
                drop(tree);
                heir = by;
                member = &heir;
            }
            Fate::Removed => return,
        }
    }
}
