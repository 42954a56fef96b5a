//! A descent from the root, remembered: what an edit needs to carry a change back up.

use super::node::{Inner, Leaf};
use super::{Span, Tree};
use crate::addr::VirtAddr;

/// The most spans a tree holds. Its indices could name twice as many.
pub(super) const MAX_SPANS: usize = 1 << 31;

/// Levels of inner nodes that can be above the leaves: enough for `MAX_SPANS`.
pub(super) const MAX_HEIGHT: usize = {
    let mut nodes = MAX_SPANS / Leaf::MIN;
    let mut height = 0;
    while nodes > 1 {
        nodes /= Inner::MIN;
        height += 1;
    }
    height
};

/// Where the descent went through one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The node.
    pub(super) node: u32,
    /// The row taken in it.
    pub(super) slot: u32,
    /// Where the node's coverage starts: the end of the span before its first.
    pub(super) floor: VirtAddr,
}

impl Step {
    pub(super) fn at(self) -> usize {
        self.slot as usize
    }
}

/// One step for each level; the leaf is level 0, the root level `height`.
#[derive(Debug)]
pub(super) struct Path {
    steps: [Step; MAX_HEIGHT + 1],
}

impl Path {
    pub(super) fn leaf(&self) -> Step {
        self.steps[0]
    }

    pub(super) fn step(&self, level: usize) -> Step {
        self.steps[level]
    }
}

impl<V: Span> Tree<V> {
    /// The way to the first span whose end is above `addr`. Where there is none, to the place behind
    /// the last span. The tree is not empty.
    pub(super) fn path_to(&self, addr: VirtAddr) -> Path {
        let mut node = self.root;
        let mut floor = VirtAddr::ZERO;
        let mut path = Path { steps: [Step { node, slot: 0, floor }; MAX_HEIGHT + 1] };
        for level in (1..=self.height).rev() {
            let inner = &self.inners[node];
            let at = inner.seek(addr).min(inner.len() - 1);
            path.steps[level] = step(node, at, floor);
            floor = inner.floor(at, floor);
            node = inner.to(at);
        }
        let leaf = &self.leaves[node];
        path.steps[0] = step(node, leaf.seek(addr).min(leaf.len()), floor);
        path
    }
}

fn step(node: u32, at: usize, floor: VirtAddr) -> Step {
    #[expect(clippy::cast_possible_truncation, reason = "a node's row number is at most its size")]
    let slot = at as u32;
    Step { node, slot, floor }
}
