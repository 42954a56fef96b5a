//! The shape of the tree: room made before an insertion, siblings joined after a removal.
//!
//! Everything here moves rows between siblings. What their parent covers stays the same, so its own
//! row above stays right: no change goes higher than the parent, except for a split or a join of the
//! parent itself.
//!
//! ```text
//!     a full node                                   a node below MIN
//!       1. a neighbour with room: share evenly        1. both fit into one with room to spare: join
//!       2. else split, and share with the new one     2. else share evenly
//! ```
//!
//! Sharing before splitting keeps nodes seven eighths full where spans are added in order, which is
//! what programs do, and where plain splitting leaves every node half empty.

use super::node::{Inner, Leaf, Node, Row};
use super::{Span, Tree};
use crate::addr::VirtAddr;

impl<V: Span> Tree<V> {
    /// Moves some rows out of the path's leaf, which has too few free; if that takes room further up, makes that room
    /// first and leaves the rest to the next call. Forgets the path.
    pub(super) fn relieve(&mut self) {
        let path = self.path;
        self.forget_path();
        for level in 0..self.height {
            let parent = path.step(level + 1);
            if let Some(left) = self.roomy_pair(level, parent.node, parent.at()) {
                return self.share(level, parent.node, left, parent.floor);
            }
            if !self.inners[parent.node].is_full() {
                return self.split(level, parent.node, parent.at(), parent.floor);
            }
        }
        self.raise();
    }

    /// Two neighbouring children, one of them `slot`, that have room to share: the left one's slot.
    fn roomy_pair(&self, level: usize, parent: u32, slot: usize) -> Option<usize> {
        let parent = &self.inners[parent];
        let max = self.max(level);
        let has_room = |at: usize| self.node_len(level, parent.to(at)) <= max - max / 4;
        if slot > 0 && has_room(slot - 1) {
            Some(slot - 1)
        } else if slot + 1 < parent.len() && has_room(slot + 1) {
            Some(slot)
        } else {
            None
        }
    }

    /// Splits a full root: the tree grows by a level.
    fn raise(&mut self) {
        let level = self.height;
        let mut root = Inner::new();
        root.insert(0, Row { end: self.top, detail: 0, to: self.root });
        self.root = self.inners.put(root);
        self.height += 1;
        self.split(level, self.root, 0, VirtAddr::ZERO);
    }

    /// Splits the child at `slot` in two halves. The parent has room for one more.
    fn split(&mut self, level: usize, parent: u32, slot: usize, floor: VirtAddr) {
        let left = self.inners[parent].to(slot);
        let right =
            if level == 0 { self.new_leaf_after(left) } else { self.inners.put(Inner::new()) };
        let end = self.inners[parent].end(slot);
        self.inners[parent].insert(slot + 1, Row { end, detail: 0, to: right });
        self.share(level, parent, slot, floor);
    }

    /// Shares rows evenly between the children at `slot` and after it.
    fn share(&mut self, level: usize, parent: u32, slot: usize, floor: VirtAddr) {
        let (left, right) = (self.inners[parent].to(slot), self.inners[parent].to(slot + 1));
        let total = self.node_len(level, left) + self.node_len(level, right);
        self.distribute(level, left, right, total / 2);
        self.refresh(level, parent, slot, floor);
        self.refresh(level, parent, slot + 1, floor);
    }

    /// After a removal in the path's leaf: gives it enough rows again, and the nodes above. Forgets the
    /// path.
    pub(super) fn mend(&mut self) {
        let path = self.path;
        self.forget_path();
        for level in 0..self.height {
            let parent = path.step(level + 1);
            let slot = parent.at();
            if self.node_len(level, self.inners[parent.node].to(slot)) >= self.min(level) {
                return;
            }
            let slot = slot.saturating_sub(1);
            let (left, right) =
                (self.inners[parent.node].to(slot), self.inners[parent.node].to(slot + 1));
            if self.node_len(level, left) + self.node_len(level, right) > self.join(level) {
                return self.share(level, parent.node, slot, parent.floor);
            }
            self.join_children(level, parent.node, slot, parent.floor);
        }
        // The root has lost a child. With one left it decides nothing any more.
        if self.height > 0 && self.inners[self.root].len() == 1 {
            self.root = self.inners.take(self.root).to(0);
            self.height -= 1;
        }
    }

    /// Moves all rows of the child after `slot` into the one at `slot`.
    fn join_children(&mut self, level: usize, parent: u32, slot: usize, floor: VirtAddr) {
        let left = self.inners[parent].to(slot);
        let right = self.inners[parent].remove(slot + 1).to;
        let total = self.node_len(level, left) + self.node_len(level, right);
        self.distribute(level, left, right, total);
        if level == 0 {
            self.drop_leaf_after(left, right);
        } else {
            self.inners.take(right);
        }
        self.refresh(level, parent, slot, floor);
    }

    /// Reads a child's end and widest gap anew. `floor` is the parent's.
    fn refresh(&mut self, level: usize, parent: u32, slot: usize, floor: VirtAddr) {
        let inner = &self.inners[parent];
        let (end, gap) = self.end_and_gap(level, inner.to(slot), inner.floor(slot, floor));
        self.inners[parent].set(slot, end, gap);
    }

    /// A node's end and widest gap; `floor` is its own.
    pub(super) fn end_and_gap(&self, level: usize, node: u32, floor: VirtAddr) -> (VirtAddr, u64) {
        if level == 0 {
            let leaf = &self.leaves[node];
            (leaf.last_end(), leaf.widest(floor, u64::MAX))
        } else {
            let inner = &self.inners[node];
            (inner.last_end(), inner.widest())
        }
    }

    pub(super) fn new_leaf_after(&mut self, left: u32) -> u32 {
        let next = self.leaves[left].next;
        let mut leaf = Leaf::new();
        (leaf.prev, leaf.next) = (left, next);
        let right = self.leaves.put(leaf);
        self.leaves[left].next = right;
        if let Some(next) = self.leaves.get_mut(next) {
            next.prev = right;
        }
        right
    }

    fn drop_leaf_after(&mut self, left: u32, right: u32) {
        let next = self.leaves.take(right).next;
        self.leaves[left].next = next;
        if let Some(next) = self.leaves.get_mut(next) {
            next.prev = left;
        }
    }

    pub(super) fn distribute(&mut self, level: usize, left: u32, right: u32, left_len: usize) {
        if level == 0 {
            let (left, right) = self.leaves.pair_mut(left, right);
            Node::distribute(left, right, left_len);
        } else {
            let (left, right) = self.inners.pair_mut(left, right);
            Node::distribute(left, right, left_len);
        }
    }

    pub(super) fn node_len(&self, level: usize, node: u32) -> usize {
        if level == 0 { self.leaves[node].len() } else { self.inners[node].len() }
    }

    fn max(&self, level: usize) -> usize {
        if level == 0 { Leaf::MAX } else { Inner::MAX }
    }

    pub(super) fn min(&self, level: usize) -> usize {
        if level == 0 { Leaf::MIN } else { Inner::MIN }
    }

    fn join(&self, level: usize) -> usize {
        if level == 0 { Leaf::JOIN } else { Inner::JOIN }
    }
}
