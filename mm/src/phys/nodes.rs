//! The virtual NUMA nodes: which node a frame belongs to, and from which nodes frames are asked for.
//!
//! ```text
//!   frames     0            each            2 each                 the end
//!   node       [     0      |       1       |   ...   |   count - 1    ]      blocks are never cut
//! ```
//!
//! All nodes are as far from each other; who finds nothing on one goes on with the next, and from the last one with the
//! first.

use std::ops::Range;

use super::BLOCK_FRAMES;
use crate::addr::{Frame, index};

/// The most nodes that a machine can have.
pub const NODES_MOST: u8 = 8;

/// How a machine's frames are divided among its nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nodes {
    count: u8,
    /// Blocks of each node; the last one has the rest.
    each: u64,
}

/// From which nodes frames are to come (a preferred node and a `nodemask` in Linux).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The node to begin with.
    pub first: u8,
    /// The nodes among which to look, a bit each.
    pub among: u64,
    /// Whether others will do where these have none.
    pub beyond: Beyond,
}

/// Whether a frame of a node that was not asked for will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beyond {
    /// It will, if there is no other.
    AtLast,
    /// There is none then.
    Never,
}

impl Wish {
    /// Frames of any node.
    pub const ANY: Wish = Wish { first: 0, among: !0, beyond: Beyond::AtLast };

    /// Frames of this node, and of no other (`__GFP_THISNODE`).
    #[must_use]
    pub fn only(node: u8) -> Self {
        Wish { first: node, among: 1 << node, beyond: Beyond::Never }
    }
}

impl Nodes {
    /// All frames are of one node.
    pub const ONE: Nodes = Nodes { count: 1, each: u64::MAX / BLOCK_FRAMES };

    /// Divides memory of at most `frames` frames among `count` nodes, from 1 to [`NODES_MOST`]: each has at least a
    /// block, the last ones none if there are fewer blocks.
    #[must_use]
    pub fn new(count: u8, frames: u64) -> Self {
        let count = count.clamp(1, NODES_MOST);
        if count == 1 {
            return Nodes::ONE;
        }
        Nodes { count, each: (frames / BLOCK_FRAMES / u64::from(count)).max(1) }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn count(&self) -> u8 {
        self.count
    }

    /// Whether there is one only: then nobody needs to ask which.
    #[inline]
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.count == 1
    }

    /// The nodes, a bit each.
    #[must_use]
    pub fn mask(&self) -> u64 {
        (1 << self.count) - 1
    }

    /// The node of a frame.
    #[must_use]
    pub fn of(&self, frame: Frame) -> u8 {
        let node = frame.number() / BLOCK_FRAMES / self.each;
        u8::try_from(node).unwrap_or(u8::MAX).min(self.count - 1)
    }

    /// The numbers of a node's frames; of the last one all that there may ever be from its first on.
    #[must_use]
    pub fn frames(&self, node: u8) -> Range<u64> {
        let Range { start, end } = self.blocks(node);
        let number = |block: usize| (block as u64).saturating_mul(BLOCK_FRAMES);
        number(start)..number(end)
    }

    /// The blocks of a node; of the last one all that there may ever be from its first on.
    pub(super) fn blocks(&self, node: u8) -> Range<usize> {
        let first = |node: u8| index(u64::from(node) * self.each);
        let end = if node + 1 == self.count { usize::MAX } else { first(node + 1) };
        first(node)..end
    }

    /// The nodes in the order in which a wish has them tried.
    pub(crate) fn order(&self, wish: Wish) -> impl Iterator<Item = u8> + use<> {
        let Nodes { count, .. } = *self;
        let first = if wish.first < count { wish.first } else { 0 };
        let all = move || (first..count).chain(0..first);
        let is_asked_for = move |node: &u8| wish.among >> node & 1 != 0;
        let others = all().filter(move |node| !is_asked_for(node));
        let rest = if wish.beyond == Beyond::AtLast { usize::from(count) } else { 0 };
        all().filter(is_asked_for).chain(others.take(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_node_has_what_is_left_over_and_blocks_are_not_cut() {
        let nodes = Nodes::new(3, 8 * BLOCK_FRAMES + 7);
        let of = |block: u64| nodes.of(Frame::new(block * BLOCK_FRAMES));
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 100].map(of), [0, 0, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(
            [nodes.blocks(0), nodes.blocks(1), nodes.blocks(2)],
            [0..2, 2..4, 4..usize::MAX]
        );
        assert_eq!([nodes.frames(1), nodes.frames(2)], [1024..2048, 2048..u64::MAX]);
        assert_eq!((nodes.mask(), Nodes::ONE.mask(), Nodes::ONE.blocks(0)), (7, 1, 0..usize::MAX));
    }

    #[test]
    fn nodes_are_tried_from_the_first_on_and_others_last_or_never() {
        let nodes = Nodes::new(4, 64 * BLOCK_FRAMES);
        let order = |first, among, beyond| -> Vec<u8> {
            nodes.order(Wish { first, among, beyond }).collect()
        };
        assert_eq!(order(2, !0, Beyond::AtLast), [2, 3, 0, 1]);
        assert_eq!(order(2, 0b1010, Beyond::AtLast), [3, 1, 2, 0]);
        assert_eq!(order(2, 0b1010, Beyond::Never), [3, 1]);
        assert_eq!(nodes.order(Wish::only(1)).collect::<Vec<_>>(), [1]);
    }
}
