//! An index of a group, so that a pick costs the same in a large group as in a small one.
//!
//! A tree over the places of the members, in registration order. A leaf holds the strategy's summary of its member, or that of nobody if
//! a gate stops it; a node holds that of the leaves below it. The root's summary names the pick, or the total to draw from, which then
//! leads down to a leaf.
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
use std::sync::{Arc, PoisonError};

use crate::clock::{Nanos, Now};
use crate::registry::{Entry, Fate, NOWHERE};
use crate::select::{Live, Request, gate, tokens_left};
use crate::strategy::{
    Chance, LeastBusy, LowestLatency, LowestPriority, LowestUsage, Position, RateLimitAware, RoundRobin, Rule, Step, Strategy,
    WeightedRandom,
};
use crate::sync::{Mutex, MutexGuard};

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
    fn join(&self, other: &Self) -> Self {
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

/// How many children a node has: as many as are read as fast as two, since they lie side by side.
const FANOUT: usize = 8;

/// A node: its level, leaves being at 0, and its place there.
#[derive(Debug, Clone, Copy)]
struct Node {
    level: usize,
    place: usize,
}

/// The nodes of all levels, leaves first. The children of the node at place `p` are those at places `p * FANOUT` and on of the level below.
#[derive(Debug)]
struct Nodes<N> {
    values: Vec<N>,
    /// Where each level starts; the last is the root's.
    starts: Vec<usize>,
    /// What a place without a member holds.
    empty: N,
}

impl<N: Copy + PartialEq> Nodes<N> {
    /// As many leaves as asked for at least, all of them empty.
    fn new(leaves: usize, empty: N) -> Self {
        let (mut starts, mut len, mut width) = (Vec::new(), 0, leaves.max(1));
        loop {
            starts.push(len);
            if width == 1 && len > 0 {
                len += 1;
                break;
            }
            // The children of one node lie together, and the root has no more than there are.
            if width > FANOUT {
                width = width.next_multiple_of(FANOUT);
            }
            len += width;
            width = width.div_ceil(FANOUT);
        }
        Self { values: vec![empty; len], starts, empty }
    }

    /// More leaves, the first of them as they are.
    fn grown(&self, leaves: usize, join: impl Fn(&N, &N) -> N) -> Self {
        let mut grown = Self::new(leaves, self.empty);
        grown.values.iter_mut().zip(&self.values).take(self.leaves()).for_each(|(new, &old)| *new = old);
        grown.join_all(join);
        grown
    }

    /// Puts a leaf in its place, and what follows from it in the nodes above.
    #[inline]
    fn put(&mut self, place: usize, leaf: N, join: impl Fn(&N, &N) -> N) {
        let mut node = Node { level: 0, place };
        let mut changed = self.set(node, leaf);
        while changed && node.level < self.root().level {
            node = Node { level: node.level + 1, place: node.place / FANOUT };
            changed = self.join(node, &join);
        }
    }

    /// Makes all nodes of their children.
    fn join_all(&mut self, join: impl Fn(&N, &N) -> N) {
        let mut width = self.leaves();
        for level in 1..=self.root().level {
            width = width.div_ceil(FANOUT);
            for place in 0..width {
                self.join(Node { level, place }, &join);
            }
        }
    }

    /// Makes a node of its children; returns whether that changed it.
    #[inline]
    fn join(&mut self, node: Node, join: impl Fn(&N, &N) -> N) -> bool {
        let joined = self.children(node).iter().fold(self.empty, |joined, child| join(&joined, child));
        self.set(node, joined)
    }

    /// Sets a node; returns whether that changed it.
    #[inline]
    fn set(&mut self, node: Node, value: N) -> bool {
        let index = self.index(node);
        match self.values.get_mut(index) {
            Some(old) if *old != value => {
                *old = value;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn root(&self) -> Node {
        Node { level: self.starts.len() - 1, place: 0 }
    }

    #[inline]
    fn index(&self, node: Node) -> usize {
        self.starts.get(node.level).map_or(usize::MAX, |start| start + node.place)
    }

    /// Where a level ends.
    #[inline]
    fn end(&self, level: usize) -> usize {
        self.starts.get(level.wrapping_add(1)).copied().unwrap_or(self.values.len())
    }

    #[inline]
    fn get(&self, node: Node) -> N {
        let index = self.index(node);
        self.values.get(index).copied().filter(|_| index < self.end(node.level)).unwrap_or(self.empty)
    }

    /// The children of a node above the leaves.
    #[inline]
    fn children(&self, node: Node) -> &[N] {
        let below = node.level.wrapping_sub(1);
        let first = self.index(Node { level: below, place: node.place * FANOUT });
        self.values.get(first..first.saturating_add(FANOUT).min(self.end(below))).unwrap_or_default()
    }

    fn leaves(&self) -> usize {
        self.starts.get(1).copied().unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct Tree<R: Rule> {
    /// What the strategy needs of each node; apart from the tokens, which most picks do not look at below the root.
    summaries: Nodes<R::Summary>,
    tokens: Nodes<TokensLeft>,
    /// What was noted of when leaves change; an entry that `changes` does not confirm is out of date.
    wakes: BinaryHeap<Reverse<(Nanos, Position)>>,
    /// When each leaf changes; [`Nanos::MAX`] if time does not change it.
    changes: Vec<Nanos>,
    /// The earliest time at which some member may have more tokens left than its leaf says.
    refills_at: Nanos,
}

impl<R: Rule> Tree<R> {
    fn new() -> Self {
        Self::with_leaves(0)
    }

    fn with_leaves(leaves: usize) -> Self {
        let summaries = Nodes::new(leaves, R::Summary::default());
        let changes = vec![Nanos::MAX; summaries.leaves()];
        Self {
            summaries,
            tokens: Nodes::new(leaves, TokensLeft::NOBODY),
            wakes: BinaryHeap::new(),
            changes,
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
        let root = self.summaries.root();
        if filter.skips.is_empty() && filter.tokens <= self.tokens.get(root).least {
            let whole = self.summaries.get(root);
            return match chance.step(R::outcome(&whole)) {
                Step::Done(picked) => picked,
                Step::Find { left, .. } => Some(self.find(&whole, left)),
            };
        }
        self.pick_filtered(members, filter, now, chance)
    }

    /// Goes down to the leaf in whose share `left` falls.
    #[inline]
    fn find(&self, whole: &R::Summary, mut left: u64) -> Position {
        let mut node = self.summaries.root();
        while node.level > 0 {
            // Which way a draw leads cannot be foreseen, so no branch: the child is as many to the right as shares end before it.
            let (mut end, mut before, mut nth) = (0, 0, 0);
            for child in self.summaries.children(node) {
                end += R::share(whole, child);
                let is_right = end <= left;
                before = if is_right { end } else { before };
                nth += usize::from(is_right);
            }
            left -= before;
            node = Node { level: node.level - 1, place: node.place * FANOUT + nth.min(FANOUT - 1) };
        }
        position(node.place)
    }

    /// Picks where the filter takes something away.
    #[cold]
    fn pick_filtered<T>(&mut self, members: &Members<T>, filter: &Filter, now: &Now<'_>, chance: &Chance<'_>) -> Option<Position> {
        // Perhaps for a lack of tokens that a new minute has made good.
        if self.refills_at != Nanos::MAX && self.refills_at <= now.get() {
            self.rebuild(members, now);
        }
        let whole = self.sum_up(filter, self.summaries.root());
        match chance.step(R::outcome(&whole)) {
            Step::Done(picked) => picked,
            Step::Find { left, .. } => Some(self.find_filtered(filter, &whole, left)),
        }
    }

    /// Goes down to the leaf in whose share of what the filter leaves `left` falls.
    fn find_filtered(&self, filter: &Filter, whole: &R::Summary, mut left: u64) -> Position {
        let mut node = self.summaries.root();
        while node.level > 0 {
            let mut next = node;
            for child in children(node) {
                next = child;
                let share = R::share(whole, &self.sum_up(filter, child));
                if left < share {
                    break;
                }
                left -= share;
            }
            node = next;
        }
        position(node.place)
    }

    /// Sums up what a filter leaves of a node.
    fn sum_up(&self, filter: &Filter, node: Node) -> R::Summary {
        match self.cut(filter, node) {
            Cut::Nothing => R::Summary::default(),
            Cut::Whole => self.summaries.get(node),
            Cut::Part => {
                children(node).fold(R::Summary::default(), |summary, child| R::join(&summary, &self.sum_up(filter, child)))
            }
        }
    }

    fn cut(&self, filter: &Filter, node: Node) -> Cut {
        let tokens = self.tokens.get(node);
        if tokens.most < filter.tokens {
            return Cut::Nothing;
        }
        let width = FANOUT.pow(u32::try_from(node.level).unwrap_or(0));
        let from = filter.skips.partition_point(|&skip| (skip as usize) < node.place * width);
        let skips = filter.skips.get(from).is_some_and(|&skip| (skip as usize) < (node.place + 1) * width);
        match (tokens.least >= filter.tokens, skips) {
            (true, false) => Cut::Whole,
            _ if node.level > 0 => Cut::Part,
            _ => Cut::Nothing,
        }
    }

    fn renew<T>(&mut self, position: Position, member: &Entry<T>, now: &Now<'_>) {
        self.put(position, &leaf::<R, T>(position, member, now));
    }

    /// Puts a leaf in its place, and what follows from it in the nodes above.
    #[inline]
    fn put(&mut self, position: Position, leaf: &Leaf<R::Summary>) {
        let place = position as usize;
        if place >= self.summaries.leaves() {
            self.grow(place + 1);
        }
        self.note(position, leaf);
        self.summaries.put(place, leaf.summary, R::join);
        self.tokens.put(place, leaf.tokens, TokensLeft::join);
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
            // A leaf that changes its time again and again leaves an entry each time; none is dropped before it is due.
            if self.wakes.len() > 2 * self.changes.len() {
                let confirmed = (0..).zip(&self.changes).filter(|&(_, &at)| at != Nanos::MAX);
                self.wakes = confirmed.map(|(position, &at)| Reverse((at, position))).collect();
            }
        }
    }

    /// Renews the leaves whose time has come.
    #[cold]
    fn wake<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        let mut renewed = 0;
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
                // A new minute may change most leaves; all at once costs less than many of them one by one.
                renewed += 1;
                if renewed > self.changes.len() / 8 {
                    return self.rebuild(members, now);
                }
            }
        }
    }

    #[cold]
    fn grow(&mut self, places: usize) {
        let leaves = places.next_power_of_two();
        self.summaries = self.summaries.grown(leaves, R::join);
        self.tokens = self.tokens.grown(leaves, TokensLeft::join);
        self.changes.resize(self.summaries.leaves(), Nanos::MAX);
    }

    fn rebuild<T>(&mut self, members: &Members<T>, now: &Now<'_>) {
        *self = Self::with_leaves(members.len());
        for (position, member) in (0..).zip(members) {
            if let Some(member) = member {
                let leaf = leaf::<R, T>(position, member, now);
                self.note(position, &leaf);
                let node = Node { level: 0, place: position as usize };
                self.summaries.set(node, leaf.summary);
                self.tokens.set(node, leaf.tokens);
            }
        }
        self.summaries.join_all(R::join);
        self.tokens.join_all(TokensLeft::join);
    }
}

/// The children of a node above the leaves.
fn children(node: Node) -> impl Iterator<Item = Node> {
    (0..FANOUT).map(move |nth| Node { level: node.level - 1, place: node.place * FANOUT + nth })
}

/// A leaf's place as a position: there are no more places than positions.
#[inline]
fn position(place: usize) -> Position {
    Position::try_from(place).unwrap_or(Position::MAX)
}

/// Makes a leaf of what a pick without wishes sees of a member now.
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
            Fate::Registered => {
                // Without a place of its own it waits for the rebuild, which takes the counters as they are then.
                if member.home.position() != NOWHERE {
                    tree.renew(member.home.position(), member, now);
                }
                return;
            }
            Fate::Replaced(by) => {
                drop(tree);
                heir = by;
                member = &heir;
            }
            Fate::Removed => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock, SECOND};
    use crate::deployment::Deployment;
    use crate::router::{Router, Settings};

    #[test]
    fn every_level_has_room_for_the_one_below() {
        for leaves in (0..200).chain([511, 512, 513, 100_000]) {
            let mut nodes = Nodes::new(leaves, 0_u32);
            assert!(nodes.leaves() >= leaves);
            for place in 0..leaves {
                nodes.put(place, 1, |a, b| a + b);
            }
            assert_eq!(nodes.get(nodes.root()) as usize, leaves);
            let grown = nodes.grown(leaves + 1, |a, b| a + b);
            assert_eq!(grown.get(grown.root()) as usize, leaves);
        }
    }

    #[test]
    fn what_is_noted_stays_bounded() {
        let clock = Clock::Manual(Arc::new(ManualClock::new(0)));
        let router = Router::new(Settings { clock, ..Settings::default() }).unwrap();
        drop(router.add(Deployment::new("a", "model").unwrap(), ()).unwrap());
        for length in 1..10_000 {
            router.cool_down("a", length * SECOND).unwrap();
        }
        let noted = router.registry.with_group("model", |_, group| Ok(with_tree!(&*group.index.lock(), tree => tree.wakes.len())));
        assert!(noted.unwrap() < 50);
    }
}
