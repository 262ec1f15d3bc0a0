//! A tree of summaries over the members of a group, or over some of them.
//!
//! A leaf holds the strategy's summary of its member, or that of nobody; a node holds that of the leaves below it. The root's summary
//! names the pick, or the total to draw from, which then leads down to a leaf.
//!
//! Besides, every node knows the fewest and the most tokens that its members have left, so that a request of some size takes or leaves
//! whole ranges and looks into those only where some have enough and some have not.

use super::nodes::{FANOUT, Node, Nodes};
use crate::clock::Nanos;
use crate::select::Wishes;
use crate::strategy::{Chance, Position, Rule, Step};

/// What a request wants beyond passing the gates.
pub(crate) struct Filter<'a> {
    /// Tokens that must be left, at least 1.
    pub(crate) tokens: u64,
    /// Places that are excluded, in order.
    pub(crate) skips: Vec<Position>,
    /// Has the tags that are asked for, if any are.
    pub(crate) tags: Option<&'a Wishes>,
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
pub(super) struct Leaf<S> {
    pub(super) summary: S,
    /// The tokens it has left; 0 if a gate stops it.
    pub(super) tokens: u64,
    /// When time alone changes the summary; None if it does not.
    pub(super) changes_at: Option<Nanos>,
    /// When time alone changes the tokens that are left; None if it does not.
    pub(super) refills_at: Option<Nanos>,
}

impl<S: Default> Default for Leaf<S> {
    fn default() -> Self {
        Self { summary: S::default(), tokens: 0, changes_at: None, refills_at: None }
    }
}

impl<S> Leaf<S> {
    fn tokens_left(&self) -> TokensLeft {
        if self.tokens == 0 { TokensLeft::NOBODY } else { TokensLeft { least: self.tokens, most: self.tokens } }
    }
}

#[derive(Debug)]
pub(super) struct Tree<R: Rule> {
    /// What the strategy needs of each node; apart from the tokens, which most picks do not look at below the root.
    summaries: Nodes<R::Summary>,
    tokens: Nodes<TokensLeft>,
}

impl<R: Rule> Tree<R> {
    pub(super) fn new(leaves: usize) -> Self {
        Self { summaries: Nodes::new(leaves, R::Summary::default()), tokens: Nodes::new(leaves, TokensLeft::NOBODY) }
    }

    pub(super) fn leaves(&self) -> usize {
        self.summaries.leaves()
    }

    /// Makes room for more leaves.
    pub(super) fn grow(&mut self, leaves: usize) {
        self.summaries = self.summaries.grown(leaves, R::join);
        self.tokens = self.tokens.grown(leaves, TokensLeft::join);
    }

    // --- leaves ---

    /// Puts a leaf in its place, and what follows from it in the nodes above.
    #[inline]
    pub(super) fn put(&mut self, position: Position, leaf: &Leaf<R::Summary>) {
        self.summaries.put(position as usize, leaf.summary, R::join);
        self.tokens.put(position as usize, leaf.tokens_left(), TokensLeft::join);
    }

    /// As `put`, for a leaf whose tokens are those that are there.
    #[inline]
    pub(super) fn put_summary(&mut self, position: Position, summary: R::Summary) {
        self.summaries.put(position as usize, summary, R::join);
    }

    /// Puts a leaf in its place and leaves the nodes above for [`Tree::join_all`].
    pub(super) fn set(&mut self, position: Position, leaf: &Leaf<R::Summary>) {
        let node = Node::leaf(position as usize);
        self.summaries.set(node, leaf.summary);
        self.tokens.set(node, leaf.tokens_left());
    }

    /// Takes over a leaf of another tree and leaves the nodes above for [`Tree::join_all`].
    pub(super) fn copy(&mut self, position: Position, other: &Self) {
        let node = Node::leaf(position as usize);
        self.summaries.set(node, other.summaries.get(node));
        self.tokens.set(node, other.tokens.get(node));
    }

    pub(super) fn join_all(&mut self) {
        self.summaries.join_all(R::join);
        self.tokens.join_all(TokensLeft::join);
    }

    // --- picks ---

    /// Whether a filter's size and exclusions take nothing away.
    #[inline]
    pub(super) fn passes_whole(&self, filter: &Filter<'_>) -> bool {
        filter.skips.is_empty() && filter.tokens <= self.tokens.get(self.tokens.root()).least
    }

    /// Picks where the filter takes nothing away; None if there is nobody.
    #[inline]
    pub(super) fn pick(&self, chance: &Chance<'_>) -> Option<Position> {
        let whole = self.summaries.get(self.summaries.root());
        match chance.step(R::outcome(&whole)) {
            Step::Done(picked) => picked,
            Step::Find(left) => Some(self.find(&whole, left)),
        }
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
            node = node.child(nth.min(FANOUT - 1));
            // Where all have the same share, the leaf is known without a look at what lies between, which may not be in the cache.
            let range = node.range();
            if let Some(each) = R::equal_share(whole, &self.summaries.get(node), range.len()) {
                return position(range.start + usize::try_from(left / each).unwrap_or(0));
            }
        }
        position(node.place)
    }

    /// Picks from what a filter leaves; None if that is nobody.
    pub(super) fn pick_filtered(&self, filter: &Filter<'_>, chance: &Chance<'_>) -> Option<Position> {
        let mut whole = R::Summary::default();
        self.add_up(filter, self.summaries.root(), &mut whole);
        match chance.step(R::outcome(&whole)) {
            Step::Done(picked) => picked,
            Step::Find(left) => Some(self.find_filtered(filter, &whole, left)),
        }
    }

    /// Goes down to the leaf in whose share of what the filter leaves `left` falls.
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

    /// Adds what a filter leaves of a node to the sum of what is before it.
    fn add_up(&self, filter: &Filter<'_>, node: Node, sum: &mut R::Summary) {
        let cut = self.cut(filter, node);
        if matches!(cut, Cut::Nothing) {
            return;
        }
        // What all of a range does not change, no part of it does: see `Rule::join`.
        let joined = R::join(sum, &self.summaries.get(node));
        if joined == *sum {
            return;
        }
        match cut {
            Cut::Part => node.children().for_each(|child| self.add_up(filter, child, sum)),
            _ => *sum = joined,
        }
    }

    fn cut(&self, filter: &Filter<'_>, node: Node) -> Cut {
        let tokens = self.tokens.get(node);
        if tokens.most < filter.tokens {
            return Cut::Nothing;
        }
        let range = node.range();
        let from = filter.skips.partition_point(|&skip| (skip as usize) < range.start);
        let skips = filter.skips.get(from).is_some_and(|&skip| (skip as usize) < range.end);
        match (tokens.least >= filter.tokens, skips) {
            (true, false) => Cut::Whole,
            _ if node.level > 0 => Cut::Part,
            _ => Cut::Nothing,
        }
    }
}

/// A leaf's place as a position: there are no more places than positions.
#[inline]
fn position(place: usize) -> Position {
    Position::try_from(place).unwrap_or(Position::MAX)
}
