//! A descent from the root, remembered: what an edit needs to carry a change back up, and what spares the
//! searches that follow at the same place a descent of their own (a *finger*).

use super::key::{Key, MAX_INDICES};
use super::node::{Inner, Leaf};
use super::pool::NIL;
use super::{Found, Span, Spot, Tree};
use crate::addr::VirtAddr;

/// The most spans a tree holds.
pub(super) const MAX_SPANS: usize = MAX_INDICES;

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

/// Above every address.
const NOWHERE: VirtAddr = VirtAddr::new(u64::MAX);

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
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    steps: [Step; MAX_HEIGHT + 1],
}

impl Path {
    /// No way to anywhere: its leaf covers no address.
    pub(super) const NONE: Path =
        Path { steps: [Step { node: NIL, slot: 0, floor: NOWHERE }; MAX_HEIGHT + 1] };

    pub(super) fn leaf(&self) -> Step {
        self.steps[0]
    }

    pub(super) fn step(&self, level: usize) -> Step {
        self.steps[level]
    }
}

impl<V: Span> Tree<V> {
    /// Remembers the way to `addr`: calls that follow, there or nearby, do not search for it again. A
    /// call that changes an address space looks at the same place many times. Returns the span that
    /// contains `addr`.
    #[inline]
    pub fn aim(&mut self, addr: VirtAddr) -> Option<&V> {
        if addr >= self.top {
            return None;
        }
        let step = self.path_to(addr);
        let spot = Spot { leaf: &self.leaves[step.node], at: step.at() };
        if spot.start() <= addr { self.value(spot) } else { None }
    }

    /// The span that contains `addr`, as [`find_exact`](Self::find_exact) finds it, with the way to its
    /// neighbours.
    #[inline]
    pub fn near(&self, addr: VirtAddr) -> Option<Found<'_, V>> {
        let spot = self.locate(addr).filter(|&spot| spot.start() <= addr)?;
        Found::new(self, spot)
    }

    /// Makes the path lead to another row of its leaf.
    pub(super) fn step_to(&mut self, at: usize) {
        self.path.steps[0].slot = slot(at);
    }

    /// Makes the path lead to the first span whose end is above `addr`; where there is none, to the
    /// place behind the last span. Returns its step in the leaf. The tree is not empty.
    pub(super) fn path_to(&mut self, addr: VirtAddr) -> Step {
        let mut step = if self.is_on_path(addr) { self.path.leaf() } else { self.descend(addr) };
        let leaf = &self.leaves[step.node];
        step.slot = slot(leaf.seek_from(step.at(), Key::last_at(addr)).min(leaf.len()));
        self.path.steps[0] = step;
        step
    }

    /// Whether the path's leaf covers `addr`. Spans of that leaf may have come, gone and changed since the
    /// descent; a change elsewhere has taken the path there, and one of the tree's shape has forgotten it.
    pub(super) fn is_on_path(&self, addr: VirtAddr) -> bool {
        let Step { node, floor, .. } = self.path.leaf();
        floor <= addr
            && self.leaves.get(node).is_some_and(|leaf| leaf.reaches_past(Key::last_at(addr)))
    }

    /// To be called when rows move between nodes.
    pub(super) fn forget_path(&mut self) {
        self.path = Path::NONE;
    }

    /// Leads the path down to the leaf that covers `addr`. Returns the step there, at its first row.
    fn descend(&mut self, addr: VirtAddr) -> Step {
        let mut node = self.root;
        let mut floor = VirtAddr::ZERO;
        for level in (1..=self.height).rev() {
            let inner = &self.inners[node];
            let at = inner.seek(addr).min(inner.len() - 1);
            self.path.steps[level] = Step { node, slot: slot(at), floor };
            floor = inner.floor(at, floor);
            node = inner.to(at);
        }
        Step { node, slot: 0, floor }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a node's row number is at most its size")]
fn slot(at: usize) -> u32 {
    at as u32
}
