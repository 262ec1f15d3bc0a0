//! A tree of summaries over the members of a group, or over some of them.
//!
//! A leaf holds what the strategy looks at of its member, or nothing. A node holds the summary of the leaves
//! below it. The root's summary names the pick, or the total to draw from. The draw then leads down to a
//! leaf.
//!
//! Every node also knows the fewest and the most tokens that its members have left. So a request of some size
//! takes or leaves whole ranges. It looks into a range only if some of its members have enough tokens and
//! some have not.

use std::marker::PhantomData;

use super::leaf::Leaf;
use super::nodes::{FANOUT, Keep, Node, Nodes};
use super::obstacle::QuotaBits;
use crate::base::position::Position;
use crate::facts::Wishes;
use crate::strategy::{Chance, Rule, View};

/// For trees of at most this many levels, a search that stops at the right child is faster than one that
/// looks at all children without a branch.
const FEW_LEVELS: usize = 2;

/// What a request wants of a member, beyond passing the gates.
pub(crate) struct Filter<'a> {
    /// Tokens that must be left, at least 1.
    pub(crate) tokens: u64,
    /// The places that are excluded and allowed. Most requests allow all: for them this costs a pointer.
    pub(crate) places: Option<Box<Places>>,
    /// Whether the request has no prompt or no answer: see [`Leaf::understates`].
    pub(crate) lacks_part: bool,
    /// The wishes with the labels that are asked for, if any are.
    pub(crate) labels: Option<&'a Wishes>,
    /// The quotas that stop the request.
    pub(crate) spent: QuotaBits,
}

/// Places of members.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Those that are excluded, in order.
    pub(crate) skips: Vec<Position>,
    /// The only ones that are allowed, in order; None for all.
    pub(crate) only: Option<Vec<Position>>,
}

impl Filter<'_> {
    /// Returns the excluded places below a node.
    fn skips_in(&self, node: Node) -> &[Position] {
        self.places.as_ref().map_or(&[], |places| part(&places.skips, node))
    }

    /// Returns the only places that are allowed below a node; None if all are.
    fn only_in(&self, node: Node) -> Option<&[Position]> {
        self.places.as_ref()?.only.as_ref().map(|only| part(only, node))
    }
}

/// Returns those of some places, given in order, that are below a node.
fn part(places: &[Position], node: Node) -> &[Position] {
    let range = node.range();
    let from = places.partition_point(|&place| (place as usize) < range.start);
    let places = places.get(from..).unwrap_or_default();
    places.get(..places.partition_point(|&place| (place as usize) < range.end)).unwrap_or_default()
}

/// The part of a range that a filter leaves.
enum Cut {
    Nothing,
    Whole,
    Part,
}

/// Keeps the summaries of a rule. A member that a gate stops counts as no member.
#[derive(Debug)]
struct Summaries<R>(PhantomData<R>);

impl<R: Rule> Keep for Summaries<R> {
    type Leaf = Option<R::Leaf>;
    type Sum = R::Summary;

    const NOBODY: Self::Leaf = None;

    #[inline]
    fn nothing() -> R::Summary {
        R::Summary::default()
    }

    #[inline]
    fn sum_up(place: usize, leaf: Self::Leaf) -> R::Summary {
        leaf.map_or_else(R::Summary::default, |leaf| R::sum_up(position(place), leaf))
    }

    #[inline]
    fn join(left: &R::Summary, right: &R::Summary) -> R::Summary {
        R::join(left, right)
    }

    #[inline]
    fn replaced(whole: &R::Summary, old: &R::Summary, new: &R::Summary) -> Option<R::Summary> {
        R::replaced(whole, old, new)
    }
}

/// Keeps the fewest and the most tokens that a member of a range has left. A member without tokens counts as
/// no member.
#[derive(Debug)]
struct Tokens;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    least: u64,
    most: u64,
}

impl Keep for Tokens {
    type Leaf = u64;
    type Sum = Spread;

    const NOBODY: u64 = 0;

    /// Returns bounds that no request fits: a place without a member has no tokens.
    #[inline]
    fn nothing() -> Spread {
        Spread { least: u64::MAX, most: 0 }
    }

    #[inline]
    fn sum_up(_: usize, tokens: u64) -> Spread {
        if tokens == 0 { Self::nothing() } else { Spread { least: tokens, most: tokens } }
    }

    #[inline]
    fn join(left: &Spread, right: &Spread) -> Spread {
        Spread { least: left.least.min(right.least), most: left.most.max(right.most) }
    }
}

#[derive(Debug)]
pub(super) struct Tree<R: Rule> {
    /// What the strategy needs of each node. It lies apart from the tokens: most picks look at those of the
    /// root alone.
    summaries: Nodes<Summaries<R>>,
    tokens: Nodes<Tokens>,
}

impl<R: Rule> Tree<R> {
    pub(super) fn new(leaves: usize) -> Self {
        Self { summaries: Nodes::new(leaves), tokens: Nodes::new(leaves) }
    }

    pub(super) fn leaves(&self) -> usize {
        self.summaries.leaves()
    }

    /// Makes room for more leaves.
    pub(super) fn grow(&mut self, leaves: usize) {
        self.summaries.grow(leaves);
        self.tokens.grow(leaves);
    }

    // --- leaves ---

    /// Puts a leaf in its place and renews the nodes above.
    #[inline]
    pub(super) fn put(&mut self, position: Position, leaf: &Leaf<R::Leaf>) {
        self.summaries.put(position as usize, leaf.candidate);
        self.tokens.put(position as usize, leaf.tokens);
    }

    /// Does what `put` does for a leaf whose tokens have not changed.
    #[inline]
    pub(super) fn put_candidate(&mut self, position: Position, candidate: Option<R::Leaf>) {
        self.summaries.put(position as usize, candidate);
    }

    /// Puts a leaf in its place and leaves the nodes above for [`Tree::join_all`].
    pub(super) fn set(&mut self, position: Position, leaf: &Leaf<R::Leaf>) {
        self.summaries.set(position as usize, leaf.candidate);
        self.tokens.set(position as usize, leaf.tokens);
    }

    /// Copies a leaf of another tree, and leaves the nodes above for [`Tree::join_all`].
    pub(super) fn copy(&mut self, position: Position, other: &Self) {
        let place = position as usize;
        self.summaries.set(place, other.summaries.leaf(place));
        self.tokens.set(place, other.tokens.leaf(place));
    }

    pub(super) fn join_all(&mut self) {
        self.summaries.join_all();
        self.tokens.join_all();
    }

    // --- picks ---

    /// Returns whether a filter's size and exclusions take nothing away.
    #[inline]
    pub(super) fn passes_whole(&self, filter: &Filter<'_>) -> bool {
        filter.places.is_none() && filter.tokens <= self.tokens.get(self.tokens.root()).least
    }

    /// Picks where the filter takes nothing away; None if there is no candidate. Before it knows the pick, it
    /// calls `prefetch` with a place near it. The data that the caller reads there come into the cache while
    /// the tree reads the leaves.
    #[inline]
    pub(super) fn pick(&self, chance: &Chance<'_>, prefetch: impl Fn(Position)) -> Option<Position> {
        R::choose(&Whole { tree: self, prefetch }, chance)
    }

    /// Goes down to the leaf whose share `left` falls into.
    #[inline]
    fn find(&self, whole: &R::Summary, left: u64, prefetch: impl Fn(Position)) -> Position {
        if R::SHARES_VARY && self.summaries.root().level > FEW_LEVELS {
            return self.find_deep(whole, left, prefetch);
        }
        self.descend(whole, left, prefetch, |node, left| {
            self.summaries.position(node, |child| {
                let share = R::share(whole, child);
                let is_here = *left < share;
                *left -= if is_here { 0 } else { share };
                is_here
            })
        })
    }

    /// Does what `find` does, but without a branch at each child: the processor could not predict such
    /// branches.
    #[inline(never)]
    fn find_deep(&self, whole: &R::Summary, left: u64, prefetch: impl Fn(Position)) -> Position {
        self.descend(whole, left, prefetch, |node, left| {
            // The child's number is the number of children whose shares end at or before `left`.
            let (_, before, nth) = self.summaries.fold(node, (0, 0, 0), |(end, before, nth), child| {
                let end = end + R::share(whole, child);
                let is_right = end <= *left;
                (end, if is_right { end } else { before }, nth + usize::from(is_right))
            });
            *left -= before;
            nth
        })
    }

    /// Goes down to a leaf. `child` returns the child of a node that `left` falls to. It subtracts from
    /// `left` the shares before that child.
    #[inline]
    fn descend(
        &self,
        whole: &R::Summary,
        mut left: u64,
        prefetch: impl Fn(Position),
        child: impl Fn(Node, &mut u64) -> usize,
    ) -> Position {
        let mut node = self.summaries.root();
        loop {
            if node.level == 1 {
                prefetch(position(node.child(0).place));
            }
            node = node.child(child(node, &mut left).min(FANOUT - 1));
            if node.level == 0 {
                return position(node.place);
            }
            // If all leaves have the same share, the leaf is known at once. The nodes between, which may not
            // be in the cache, need not be read.
            let range = node.range();
            if let Some(each) = R::equal_share(whole, &self.summaries.get(node), range.len()) {
                return position(range.start + usize::try_from(left / each).unwrap_or(0));
            }
        }
    }

    /// Picks from the members that a filter leaves; None if it leaves none.
    pub(super) fn pick_filtered(&self, filter: &Filter<'_>, chance: &Chance<'_>) -> Option<Position> {
        R::choose(&Filtered { tree: self, filter }, chance)
    }

    /// Goes down to the leaf whose share `left` falls into, among the members that the filter leaves.
    fn find_filtered(&self, filter: &Filter<'_>, whole: &R::Summary, mut left: u64) -> Position {
        let mut node = self.summaries.root();
        while node.level > 0 {
            let mut next = node;
            for child in node.children() {
                next = child;
                let mut part = R::Summary::default();
                self.add_up(filter, child, &mut part);
                let share = R::share(whole, &part);
                if left < share {
                    break;
                }
                left -= share;
            }
            node = next;
        }
        position(node.place)
    }

    /// Adds the members that a filter leaves of a node to the sum of the members before it.
    fn add_up(&self, filter: &Filter<'_>, node: Node, sum: &mut R::Summary) {
        match self.cut(filter, node) {
            Cut::Nothing => {}
            Cut::Whole => *sum = R::join(sum, &self.summaries.get(node)),
            // If a whole range does not change the sum, no part of it does: see `Rule`.
            Cut::Part if R::ABSORBS && R::join(sum, &self.summaries.get(node)) == *sum => {}
            Cut::Part if node.level == 1 => self.add_up_leaves(filter, node, sum),
            Cut::Part => node.children().for_each(|child| self.add_up(filter, child, sum)),
        }
    }

    /// Does what `add_up` does for a node whose children are leaves.
    fn add_up_leaves(&self, filter: &Filter<'_>, node: Node, sum: &mut R::Summary) {
        let mut skips = filter.skips_in(node).iter().map(|&skip| skip as usize).peekable();
        for place in node.range() {
            while skips.next_if(|&skip| skip < place).is_some() {}
            if skips.peek() != Some(&place) && self.tokens.leaf(place) >= filter.tokens {
                *sum = R::join(sum, &Summaries::<R>::sum_up(place, self.summaries.leaf(place)));
            }
        }
    }

    fn cut(&self, filter: &Filter<'_>, node: Node) -> Cut {
        let tokens = self.tokens.get(node);
        let only = filter.only_in(node);
        if tokens.most < filter.tokens || only.is_some_and(<[_]>::is_empty) {
            return Cut::Nothing;
        }
        let is_whole = filter.skips_in(node).is_empty() && only.is_none_or(|only| only.len() == node.range().len());
        match (tokens.least >= filter.tokens, is_whole) {
            (true, true) => Cut::Whole,
            _ if node.level > 0 => Cut::Part,
            _ => Cut::Nothing,
        }
    }
}

/// All members of a tree.
struct Whole<'a, R: Rule, P> {
    tree: &'a Tree<R>,
    /// See [`Tree::pick`].
    prefetch: P,
}

impl<R: Rule, P: Fn(Position)> View<R> for Whole<'_, R, P> {
    #[inline]
    fn whole(&self) -> R::Summary {
        self.tree.summaries.get(self.tree.summaries.root())
    }

    #[inline]
    fn find(&self, whole: &R::Summary, left: u64) -> Option<Position> {
        Some(self.tree.find(whole, left, &self.prefetch))
    }

    #[inline]
    fn leaf(&self, position: Position) -> Option<R::Leaf> {
        self.tree.summaries.leaf(position as usize)
    }
}

/// The members of a tree that a filter leaves.
struct Filtered<'a, R: Rule> {
    tree: &'a Tree<R>,
    filter: &'a Filter<'a>,
}

impl<R: Rule> View<R> for Filtered<'_, R> {
    fn whole(&self) -> R::Summary {
        let mut whole = R::Summary::default();
        self.tree.add_up(self.filter, self.tree.summaries.root(), &mut whole);
        whole
    }

    fn find(&self, whole: &R::Summary, left: u64) -> Option<Position> {
        Some(self.tree.find_filtered(self.filter, whole, left))
    }

    fn leaf(&self, position: Position) -> Option<R::Leaf> {
        self.tree.summaries.leaf(position as usize)
    }
}

/// Converts a leaf's place to a position: there are no more places than positions.
#[inline]
fn position(place: usize) -> Position {
    Position::try_from(place).unwrap_or(Position::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::base::sync::atomic::AtomicU64;
    use crate::base::time::Nanos;
    use crate::facts::Size;
    use crate::strategy::{Candidate, Candidates, Choice, RoutingContext, Step};

    const SIZE: Size = Size { input: 1, output: 1 };

    /// The less busy of two candidates that are drawn. The pick of this rule does not follow from a summary.
    #[derive(Debug)]
    struct TwoChoices;

    impl Rule for TwoChoices {
        type Leaf = u32;
        type Summary = u32;

        const SCORE: &'static str = "active requests";

        fn leaf(candidate: &impl Candidate) -> u32 {
            candidate.active_requests()
        }

        fn sum_up(_: Position, _: u32) -> u32 {
            1
        }

        fn join(left: &u32, right: &u32) -> u32 {
            left + right
        }

        fn choice(count: &u32) -> Choice {
            if *count == 0 { Choice::Nobody } else { Choice::Draw { total: u64::from(*count) } }
        }

        fn choose(view: &impl View<Self>, chance: &Chance<'_>) -> Option<Position> {
            let whole = view.whole();
            let draw = || match chance.step(Self::choice(&whole)) {
                Step::Done(picked) => picked,
                Step::Find(left) => view.find(&whole, left),
            };
            let (one, other) = (draw()?, draw()?);
            if view.leaf(other)? < view.leaf(one)? { Some(other) } else { Some(one) }
        }

        fn share(_: &u32, part: &u32) -> u64 {
            u64::from(*part)
        }

        fn score(_: &u32, candidate: &impl Candidate) -> f64 {
            f64::from(candidate.active_requests())
        }
    }

    #[test]
    fn a_rule_that_compares_leaves_picks_from_a_tree_what_it_picks_from_a_walk() {
        for members in [1, 7, 100] {
            let busy = |place: u32| RoutingContext { active_requests: place % 5, ..RoutingContext::new("candidate") };
            let present = || (0..members).filter(|place| place % 3 != 1).map(|place| (place, busy(place)));
            let mut tree = Tree::<TwoChoices>::new(members as usize);
            for (place, context) in present() {
                let leaf = Leaf { candidate: Some(TwoChoices::leaf(&context)), tokens: 1, ..Leaf::stopped(Nanos::MAX) };
                tree.put(place, &leaf);
            }
            let picks = |pick: &dyn Fn(&Chance<'_>) -> Option<Position>| {
                let (rng, next_turn) = (Rng::new(Some(3)), AtomicU64::new(0));
                let chance = Chance { rng: &rng, next_turn: &next_turn, peek: false, size: SIZE };
                (0..50).map(|_| pick(&chance).unwrap()).collect::<Vec<_>>()
            };
            let by_tree = picks(&|chance| tree.pick(chance, |_| ()));
            let filter = Filter {
                tokens: 1,
                places: Some(Box::new(Places { skips: vec![0], only: None })),
                lacks_part: false,
                labels: None,
                spent: 0,
            };
            assert_eq!(by_tree, picks(&|chance| TwoChoices::choose(&Candidates::new(present(), present, SIZE), chance)));
            let others = || present().filter(|&(place, _)| place != 0);
            if members > 1 {
                let by_filter = picks(&|chance| tree.pick_filtered(&filter, chance));
                assert_eq!(by_filter, picks(&|chance| TwoChoices::choose(&Candidates::new(others(), others, SIZE), chance)));
            }
        }
    }
}
