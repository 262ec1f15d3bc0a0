//! A tree of values over places, each node made of the ones below it.

/// How many children a node has: as many as are read as fast as two, since they lie side by side.
pub(super) const FANOUT: usize = 8;

/// A node: its level, leaves being at 0, and its place there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) level: usize,
    pub(super) place: usize,
}

impl Node {
    pub(super) fn leaf(place: usize) -> Self {
        Self { level: 0, place }
    }

    /// The children of a node above the leaves.
    pub(super) fn children(self) -> impl Iterator<Item = Self> {
        (0..FANOUT).map(move |nth| self.child(nth))
    }

    #[inline]
    pub(super) fn child(self, nth: usize) -> Self {
        Self { level: self.level - 1, place: self.place * FANOUT + nth }
    }

    /// The places of the leaves below.
    pub(super) fn range(self) -> std::ops::Range<usize> {
        let width = FANOUT.pow(u32::try_from(self.level).unwrap_or(0));
        self.place * width..(self.place + 1) * width
    }
}

/// The children of a node. They start with a cache line, so as to lie in as few as they fit.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Children<N>([N; FANOUT]);

/// The nodes of all levels, leaves first. The children of the node at place `p` are the `p`th of the level below.
#[derive(Debug)]
pub(super) struct Nodes<N> {
    children: Vec<Children<N>>,
    /// Where each level starts; the last is the root's.
    starts: Vec<usize>,
    /// What a place without a member holds.
    empty: N,
}

impl<N: Copy + PartialEq> Nodes<N> {
    /// As many leaves as asked for at least, all of them empty.
    pub(super) fn new(leaves: usize, empty: N) -> Self {
        let (mut starts, mut len, mut width) = (vec![0], 0, leaves.max(1));
        while starts.len() == 1 || width > 1 {
            width = width.div_ceil(FANOUT);
            len += width;
            starts.push(len);
        }
        Self { children: vec![Children([empty; FANOUT]); len + 1], starts, empty }
    }

    /// More leaves, the first of them as they are.
    pub(super) fn grown(&self, leaves: usize, join: impl Fn(&N, &N) -> N) -> Self {
        let mut grown = Self::new(leaves, self.empty);
        let level = self.children.iter().take(self.starts.get(1).copied().unwrap_or_default());
        grown.children.iter_mut().zip(level).for_each(|(new, &old)| *new = old);
        grown.join_all(join);
        grown
    }

    /// Puts a leaf in its place, and what follows from it in the nodes above.
    #[inline]
    pub(super) fn put(&mut self, place: usize, leaf: N, join: impl Fn(&N, &N) -> N) {
        let mut node = Node::leaf(place);
        let mut changed = self.set(node, leaf);
        while changed && node.level < self.root().level {
            node = Node { level: node.level + 1, place: node.place / FANOUT };
            changed = self.join(node, &join);
        }
    }

    /// Makes all nodes of their children.
    pub(super) fn join_all(&mut self, join: impl Fn(&N, &N) -> N) {
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
    pub(super) fn set(&mut self, node: Node, value: N) -> bool {
        let (index, nth) = self.index(node);
        match self.children.get_mut(index).and_then(|children| children.0.get_mut(nth)) {
            Some(old) if *old != value => {
                *old = value;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(super) fn root(&self) -> Node {
        Node { level: self.starts.len() - 1, place: 0 }
    }

    /// Among whose children a node is, and which of them.
    #[inline]
    fn index(&self, node: Node) -> (usize, usize) {
        (self.starts.get(node.level).map_or(usize::MAX, |start| start + node.place / FANOUT), node.place % FANOUT)
    }

    #[inline]
    pub(super) fn get(&self, node: Node) -> N {
        let (index, nth) = self.index(node);
        self.children.get(index).and_then(|children| children.0.get(nth)).copied().unwrap_or(self.empty)
    }

    /// The values of the children of a node above the leaves.
    #[inline]
    pub(super) fn children(&self, node: Node) -> &[N] {
        let (index, _) = self.index(node.child(0));
        self.children.get(index).map_or(&[], |children| &children.0)
    }

    pub(super) fn leaves(&self) -> usize {
        self.starts.get(1).map_or(0, |level| level * FANOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
