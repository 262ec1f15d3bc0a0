//! A tree of values over places, each node made of the ones below it.

use std::fmt;

/// How many children a node has. They lie side by side, so eight of them are read as fast as two.
pub(super) const FANOUT: usize = 8;

/// A node: its level, and its place there. Leaves are at level 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) level: usize,
    pub(super) place: usize,
}

impl Node {
    pub(super) fn leaf(place: usize) -> Self {
        Self { level: 0, place }
    }

    /// Returns the children of a node above the leaves.
    pub(super) fn children(self) -> impl Iterator<Item = Self> {
        (0..FANOUT).map(move |nth| self.child(nth))
    }

    #[inline]
    pub(super) fn child(self, nth: usize) -> Self {
        Self { level: self.level - 1, place: self.place * FANOUT + nth }
    }

    /// Returns the places of the leaves below.
    pub(super) fn range(self) -> std::ops::Range<usize> {
        let width = FANOUT.pow(u32::try_from(self.level).unwrap_or(0));
        self.place * width..(self.place + 1) * width
    }
}

/// The values that a tree keeps, of each leaf and of each node above.
pub(super) trait Keep {
    type Leaf: Copy + PartialEq;
    type Sum: Copy + PartialEq;

    /// The value of a place without a member.
    const NOBODY: Self::Leaf;

    /// Returns the sum of nothing.
    fn nothing() -> Self::Sum;

    /// Sums up the leaf of a place.
    fn sum_up(place: usize, leaf: Self::Leaf) -> Self::Sum;

    /// Sums up two ranges. `left` is the earlier one.
    fn join(left: &Self::Sum, right: &Self::Sum) -> Self::Sum;

    /// Returns the sum of a range in which the part `old` has become `new`; None if the sum does not follow
    /// from these alone.
    fn replaced(_whole: &Self::Sum, _old: &Self::Sum, _new: &Self::Sum) -> Option<Self::Sum> {
        None
    }
}

/// The children of a node. They start at a cache line, so that they lie in as few lines as possible.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Children<N>([N; FANOUT]);

/// A place among the children of some node.
struct At {
    block: usize,
    nth: usize,
}

/// The nodes of all levels. The children of the node at place `p` are the `p`th of the level below.
pub(super) struct Nodes<K: Keep> {
    leaves: Vec<Children<K::Leaf>>,
    /// The levels above the leaves, lowest first.
    sums: Vec<Children<K::Sum>>,
    /// Where each of these levels starts. The last level is the root's.
    starts: Vec<usize>,
}

impl<K: Keep> fmt::Debug for Nodes<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("leaves", &self.leaves()).finish_non_exhaustive()
    }
}

impl<K: Keep> Nodes<K> {
    /// Makes at least as many leaves as asked for, all of them empty.
    pub(super) fn new(leaves: usize) -> Self {
        let blocks = leaves.div_ceil(FANOUT).max(1);
        let (mut starts, mut len, mut width) = (vec![0], 0, blocks);
        while width > 1 {
            width = width.div_ceil(FANOUT);
            len += width;
            starts.push(len);
        }
        let sums = vec![Children([K::nothing(); FANOUT]); len + 1];
        Self { leaves: vec![Children([K::NOBODY; FANOUT]); blocks], sums, starts }
    }

    pub(super) fn leaves(&self) -> usize {
        self.leaves.len() * FANOUT
    }

    /// Makes room for more leaves.
    pub(super) fn grow(&mut self, leaves: usize) {
        let mut grown = Self::new(leaves);
        grown.leaves.iter_mut().zip(&self.leaves).for_each(|(new, &old)| *new = old);
        grown.join_all();
        *self = grown;
    }

    // --- changes ---

    /// Puts a leaf in its place and renews the nodes above.
    #[inline]
    pub(super) fn put(&mut self, place: usize, leaf: K::Leaf) {
        let Some(old) = self.set(place, leaf) else { return };
        let (mut old, mut new) = (K::sum_up(place, old), K::sum_up(place, leaf));
        let mut node = Node::leaf(place);
        while node.level < self.root().level {
            node = Node { level: node.level + 1, place: node.place / FANOUT };
            let whole = self.get(node);
            let replaced = K::replaced(&whole, &old, &new).unwrap_or_else(|| self.joined(node));
            if replaced == whole {
                return;
            }
            self.set_sum(node, replaced);
            (old, new) = (whole, replaced);
        }
    }

    /// Puts a leaf in its place and leaves the nodes above for [`Nodes::join_all`]. Returns the old leaf, if
    /// it was a different one.
    #[inline]
    pub(super) fn set(&mut self, place: usize, leaf: K::Leaf) -> Option<K::Leaf> {
        let old = self.leaves.get_mut(place / FANOUT)?.0.get_mut(place % FANOUT)?;
        (*old != leaf).then(|| std::mem::replace(old, leaf))
    }

    /// Makes all nodes from their children.
    pub(super) fn join_all(&mut self) {
        let mut width = self.leaves();
        for level in 1..=self.root().level {
            width = width.div_ceil(FANOUT);
            for place in 0..width {
                let node = Node { level, place };
                self.set_sum(node, self.joined(node));
            }
        }
    }

    #[inline]
    fn set_sum(&mut self, node: Node, sum: K::Sum) {
        let at = self.at(node);
        if let Some(old) = self.sums.get_mut(at.block).and_then(|block| block.0.get_mut(at.nth)) {
            *old = sum;
        }
    }

    /// Returns the sum of a node's children.
    #[inline]
    fn joined(&self, node: Node) -> K::Sum {
        self.fold(node, K::nothing(), |joined, child| K::join(&joined, child))
    }

    // --- reading ---

    #[inline]
    pub(super) fn root(&self) -> Node {
        Node { level: self.starts.len(), place: 0 }
    }

    /// Returns where a node above the leaves is.
    #[inline]
    fn at(&self, node: Node) -> At {
        let start = self.starts.get(node.level.wrapping_sub(1)).copied().unwrap_or(usize::MAX / 2);
        At { block: start + node.place / FANOUT, nth: node.place % FANOUT }
    }

    #[inline]
    pub(super) fn leaf(&self, place: usize) -> K::Leaf {
        self.leaves.get(place / FANOUT).and_then(|block| block.0.get(place % FANOUT)).copied().unwrap_or(K::NOBODY)
    }

    #[inline]
    pub(super) fn get(&self, node: Node) -> K::Sum {
        if node.level == 0 {
            return K::sum_up(node.place, self.leaf(node.place));
        }
        let at = self.at(node);
        self.sums.get(at.block).and_then(|block| block.0.get(at.nth)).copied().unwrap_or_else(K::nothing)
    }

    /// Folds the children of a node above the leaves, in order.
    #[inline]
    pub(super) fn fold<A>(&self, node: Node, init: A, mut with: impl FnMut(A, &K::Sum) -> A) -> A {
        if node.level == 1 {
            self.leaf_children(node).fold(init, |folded, sum| with(folded, &sum))
        } else {
            self.sum_children(node).iter().fold(init, with)
        }
    }

    /// Finds the first child for which `is_it` holds, of a node above the leaves. Returns the number of
    /// children a node has if there is none.
    #[inline]
    pub(super) fn position(&self, node: Node, mut is_it: impl FnMut(&K::Sum) -> bool) -> usize {
        let found = if node.level == 1 {
            self.leaf_children(node).position(|sum| is_it(&sum))
        } else {
            self.sum_children(node).iter().position(is_it)
        };
        found.unwrap_or(FANOUT)
    }

    #[inline]
    fn leaf_children(&self, node: Node) -> impl Iterator<Item = K::Sum> {
        let leaves = self.leaves.get(node.place).map_or(&[][..], |block| &block.0);
        leaves.iter().zip(node.child(0).place..).map(|(&leaf, place)| K::sum_up(place, leaf))
    }

    #[inline]
    fn sum_children(&self, node: Node) -> &[K::Sum] {
        self.sums.get(self.at(node.child(0)).block).map_or(&[], |block| &block.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts.
    struct Count;

    impl Keep for Count {
        type Leaf = bool;
        type Sum = usize;

        const NOBODY: bool = false;

        fn nothing() -> usize {
            0
        }

        fn sum_up(_: usize, leaf: bool) -> usize {
            usize::from(leaf)
        }

        fn join(left: &usize, right: &usize) -> usize {
            left + right
        }
    }

    #[test]
    fn every_level_has_room_for_the_one_below() {
        for leaves in (0..200).chain([511, 512, 513, 100_000]) {
            let mut nodes = Nodes::<Count>::new(leaves);
            assert!(nodes.leaves() >= leaves);
            for place in 0..leaves {
                nodes.put(place, true);
            }
            assert_eq!(nodes.get(nodes.root()), leaves);
            nodes.grow(leaves + 1);
            assert_eq!(nodes.get(nodes.root()), leaves);
        }
    }
}
