//! The check of everything the tree believes of itself, against the values.

use super::node::{Inner, Leaf, Node};
use super::pool::{NIL, Slot};
use super::{Span, Tree};
use crate::addr::VirtAddr;

/// What the walk has seen so far.
struct Seen {
    spans: usize,
    leaves: usize,
    inners: usize,
    /// The end of the last span.
    end: VirtAddr,
    /// The last leaf.
    leaf: u32,
}

impl<V: Span> Tree<V> {
    /// Checks order, overlap, keys, gaps, fill, links and free lists. Linear.
    ///
    /// # Errors
    /// What is wrong, and in which node.
    pub fn audit(&self) -> Result<(), String> {
        let mut seen = Seen { spans: 0, leaves: 0, inners: 0, end: VirtAddr::ZERO, leaf: NIL };
        if self.len == 0 {
            expect("the root of an empty tree", self.root, NIL)?;
            expect("the height of an empty tree", self.height, 0)?;
        } else {
            self.audit_node(self.height, self.root, &mut seen)?;
            expect("the leaf after the last", self.leaves[seen.leaf].next, NIL)?;
        }
        self.audit_path()?;
        expect("the number of spans", self.len, seen.spans)?;
        expect("the highest end", self.top, seen.end)?;
        expect("the leaves in use", self.leaves.in_use(), seen.leaves)?;
        expect("the inner nodes in use", self.inners.in_use(), seen.inners)?;
        expect("the values in use", self.values.in_use(), seen.spans)?;
        self.leaves.audit().map_err(|what| format!("leaves: {what}"))?;
        self.inners.audit().map_err(|what| format!("inner nodes: {what}"))?;
        self.values.audit().map_err(|what| format!("values: {what}"))
    }

    /// Checks that the path remembered, if there is one, is what a descent to its leaf finds.
    fn audit_path(&self) -> Result<(), String> {
        let Some(leaf) = self.leaves.get(self.path.leaf().node) else { return Ok(()) };
        let (mut node, mut floor) = (self.root, VirtAddr::ZERO);
        for level in (1..=self.height).rev() {
            let (step, inner) = (self.path.step(level), &self.inners[node]);
            expect("a node of the path", step.node, node)?;
            expect("a row of the path", step.at(), inner.seek(leaf.start(0)))?;
            expect("a floor of the path", step.floor, floor)?;
            (node, floor) = (inner.to(step.at()), inner.floor(step.at(), floor));
        }
        expect("the leaf of the path", self.path.leaf().node, node)?;
        expect("the floor of the path's leaf", self.path.leaf().floor, floor)
    }

    /// Checks what is under a node and says its widest gap.
    fn audit_node(&self, level: usize, node: u32, seen: &mut Seen) -> Result<u64, String> {
        let is_root = level == self.height;
        if level == 0 {
            let leaf = self.leaves.get(node).ok_or_else(|| format!("there is no leaf {node}"))?;
            audit_shape(leaf, if is_root { 1 } else { Leaf::MIN })
                .and_then(|()| self.audit_leaf(node, leaf, seen))
                .map_err(|what| format!("leaf {node}: {what}"))
        } else {
            let inner =
                self.inners.get(node).ok_or_else(|| format!("there is no inner node {node}"))?;
            audit_shape(inner, if is_root { 2 } else { Inner::MIN })
                .and_then(|()| self.audit_inner(level, inner, seen))
                .map_err(|what| format!("inner node {node} at level {level}: {what}"))
        }
    }

    fn audit_leaf(&self, node: u32, leaf: &Leaf, seen: &mut Seen) -> Result<u64, String> {
        expect("the leaf before", leaf.prev, seen.leaf)?;
        if let Some(before) = self.leaves.get(seen.leaf) {
            expect("the link from the leaf before", before.next, node)?;
        }
        (seen.leaf, seen.leaves) = (node, seen.leaves + 1);
        let mut widest = 0;
        for at in 0..leaf.len() {
            let value = self.values.get(leaf.to(at)).and_then(Slot::value);
            let range = value.ok_or_else(|| format!("row {at} has no value"))?.range();
            expect("a start", leaf.start(at), range.start())?;
            expect("an end", leaf.end(at), range.end())?;
            if range.start() < seen.end {
                return Err(format!(
                    "{range} overlaps the span before, which ends at {}",
                    seen.end
                ));
            }
            widest = widest.max(range.start().bytes_from(seen.end));
            seen.end = range.end();
            seen.spans += 1;
        }
        expect(
            "the widest gap as searches compute it",
            leaf.widest(self.floor_of(leaf), u64::MAX),
            widest,
        )?;
        Ok(widest)
    }

    /// The end of the span before a leaf's first.
    fn floor_of(&self, leaf: &Leaf) -> VirtAddr {
        self.leaves.get(leaf.prev).map_or(VirtAddr::ZERO, Node::last_end)
    }

    fn audit_inner(&self, level: usize, inner: &Inner, seen: &mut Seen) -> Result<u64, String> {
        seen.inners += 1;
        for at in 0..inner.len() {
            let widest = self.audit_node(level - 1, inner.to(at), seen)?;
            expect("a child's end", inner.end(at), seen.end)?;
            expect("a child's widest gap", inner.gap(at), widest)?;
        }
        Ok(inner.widest())
    }
}

fn audit_shape<D: Copy + Default, const N: usize>(
    node: &Node<D, N>,
    fewest: usize,
) -> Result<(), String> {
    if !(fewest..=N).contains(&node.len()) {
        return Err(format!("{} rows, where {fewest} to {N} are allowed", node.len()));
    }
    node.audit()
}

fn expect<T: Copy + PartialEq + std::fmt::Debug>(
    what: &str,
    have: T,
    want: T,
) -> Result<(), String> {
    if have == want { Ok(()) } else { Err(format!("{what} is {have:?}, not {want:?}")) }
}
