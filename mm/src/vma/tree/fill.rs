//! Many spans at once, in order, into an empty tree: for fork's copy. Nodes are filled one after the other, the
//! levels above built when all leaves are there, instead of a search and a way up for each span.
//!
//! ```text
//!     inner               [ · · · ]
//!                        ╱    │    ╲
//!     leaves   [ seven eighths ] [ seven eighths ] [ rest ]      a rest of too few: shared with the one before
//! ```

use super::node::{Inner, Leaf, Row};
use super::path::MAX_SPANS;
use super::pool::Slot;
use super::{Span, Tree};
use crate::addr::VirtAddr;

/// Rows of a node that is filled: as full as nodes are that spans come into in order.
const fn filled(max: usize) -> usize {
    max - max / 8
}

impl<V: Span> Tree<V> {
    /// Adds spans behind all that are there, to an empty tree: as [inserting](Self::insert) each, and as much memory
    /// has to be [reserved](Self::reserve), but for a fifteenth of the work.
    ///
    /// # Errors
    /// Gives the first span back that does not lie behind the one before it (or would be the 2^29th); those before it
    /// are in the tree. If the tree is not empty, that is the first.
    pub fn fill(&mut self, spans: impl IntoIterator<Item = V>) -> Result<(), V> {
        let is_empty = self.is_empty();
        let (mut leaves, mut refused) = (Vec::new(), None);
        for value in spans {
            let range = value.range();
            if !is_empty || range.start() < self.top || self.len >= MAX_SPANS {
                refused = Some(value);
                break;
            }
            let full =
                leaves.last().is_none_or(|&last| self.leaves[last].len() >= filled(Leaf::MAX));
            if full {
                leaves.push(self.leaf_behind(leaves.last().copied()));
            }
            let to = self.values.put(Slot::Taken(value));
            let row = Row { end: range.end(), detail: range.start(), to };
            if let Some(&last) = leaves.last() {
                self.leaves[last].push(row);
            }
            (self.len, self.top) = (self.len + 1, range.end());
        }
        self.build_above(leaves);
        refused.map_or(Ok(()), Err)
    }

    /// A leaf without rows behind all others.
    fn leaf_behind(&mut self, last: Option<u32>) -> u32 {
        match last {
            Some(last) => self.new_leaf_after(last),
            None => self.leaves.put(Leaf::new()),
        }
    }

    /// The levels above the leaves, which are all there are.
    fn build_above(&mut self, mut nodes: Vec<u32>) {
        self.even_out(&nodes);
        while nodes.len() > 1 {
            nodes = self.level_above(&nodes);
            self.height += 1;
            self.even_out(&nodes);
        }
        if let [root] = nodes[..] {
            self.root = root;
        }
    }

    /// Gives the last of a level's nodes rows enough.
    fn even_out(&mut self, nodes: &[u32]) {
        let [.., left, right] = *nodes else { return };
        let level = self.height;
        if self.node_len(level, right) < self.min(level) {
            let total = self.node_len(level, left) + self.node_len(level, right);
            self.distribute(level, left, right, total / 2);
        }
    }

    /// Inner nodes over the nodes of the level that is the highest so far.
    fn level_above(&mut self, below: &[u32]) -> Vec<u32> {
        let mut floor = VirtAddr::ZERO;
        let mut above = Vec::with_capacity(below.len() / Inner::MIN + 1);
        for children in below.chunks(filled(Inner::MAX)) {
            let mut inner = Inner::new();
            for &to in children {
                let (end, detail) = self.end_and_gap(self.height, to, floor);
                inner.push(Row { end, detail, to });
                floor = end;
            }
            above.push(self.inners.put(inner));
        }
        above
    }
}
