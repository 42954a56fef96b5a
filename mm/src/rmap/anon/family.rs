//! Anonymous memory that comes from one first write, through all forks: a tree of nodes (Linux's
//! `anon_vma`s with one root), and which chains are linked to each.
//!
//! ```text
//!   A writes, forks B, B forks C; each has written pages of its own
//!
//!            node     its pages may be in       chain of A: [1]
//!       root  1       A, B, C                   chain of B: [1, 2]
//!             └ 2     B, C                      chain of C: [1, 2, 3]
//!               └ 3   C
//! ```
//!
//! A fork makes a node, but for one case: if a node of the parent's chain is nobody's own any more (its
//! process has ended) and has at most one child, the child's memory takes that one. So there are never more
//! than twice as many nodes as chains, and a family whose parents always end stays small (Linux's
//! `anon_vma_clone`, with `num_children` and `num_active_vmas`). Where a fork server's children are alive,
//! each has a node of its own, and a page that one of them wrote is looked for in that one only.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use smallvec::{SmallVec, smallvec};

use super::chain::{Chain, Nodes};
use super::sync::RwLock;

/// The place of the root.
pub(super) const ROOT: u32 = 0;

/// One family. The lock is Linux's `anon_vma->root->rwsem`:
///
/// - shared: the reverse map is asked where a page is, from the first chain to the last entry;
/// - exclusive: a chain is linked or unlinked. A child's is linked before it gets any entry; chains are
///   unlinked after the entries are gone and before the page table is.
///
/// Nothing is taken under it exclusively but [`AnonVmas`](super::AnonVmas)' table.
#[derive(Debug)]
pub(super) struct Family<M>(RwLock<Tree<M>>);

#[derive(Debug)]
struct Tree<M> {
    /// Most memory is that of one process, or of it and a child.
    nodes: SmallVec<[Option<Node<M>>; 2]>,
    /// Places where no node is.
    vacant: Vec<u32>,
    chains_made: u64,
}

/// A node (Linux's `anon_vma`).
#[derive(Debug)]
struct Node<M> {
    /// What the frames of its pages say.
    number: u32,
    /// The root's is itself.
    parent: u32,
    /// Nodes whose parent this is, the root itself among them: so that it is never taken by a child.
    children: u32,
    /// Chains whose own pages belong here.
    active: u32,
    /// By order: a child's after its parent's.
    chains: SmallVec<[Arc<Chain<M>>; 2]>,
}

impl<M> Family<M> {
    /// Without a root so far.
    pub(super) fn new() -> Self {
        Family(RwLock::new(Tree { nodes: SmallVec::new(), vacant: Vec::new(), chains_made: 0 }))
    }

    /// Makes the root, and the chain of the space in which the memory was first written.
    pub(super) fn found(&self, number: u32, mapper: M) -> Arc<Chain<M>> {
        self.change(|tree| {
            tree.put(Node::new(number, ROOT, 1));
            tree.link(smallvec![ROOT], (ROOT, number), mapper)
        })
    }

    /// Makes the chain of a child whose parent has `parent`. If it needs a node, `number` gives it a number,
    /// from the place where it will be; `None`, and nothing has happened, if there is none.
    pub(super) fn fork(
        &self,
        parent: &Chain<M>,
        mapper: M,
        number: impl FnOnce(u32) -> Option<u32>,
    ) -> Option<Arc<Chain<M>>> {
        self.change(|tree| {
            if let Some(at) = parent.nodes.iter().copied().find(|&at| tree.may_be_taken(at)) {
                let number = tree.node(at)?.number;
                return Some(tree.link(parent.nodes.clone(), (at, number), mapper));
            }
            let at = tree.next_place()?;
            let number = number(at)?;
            tree.put(Node::new(number, parent.active, 0));
            if let Some(parent) = tree.node_mut(parent.active) {
                parent.children += 1;
            }
            let nodes = parent.nodes.iter().copied().chain([at]).collect();
            Some(tree.link(nodes, (at, number), mapper))
        })
    }

    /// Takes a chain out. `freed` is told the numbers of the nodes that have no chain then.
    pub(super) fn unlink(&self, chain: &Chain<M>, mut freed: impl FnMut(u32)) {
        self.change(|tree| {
            if let Some(own) = tree.node_mut(chain.active) {
                own.active -= 1;
            }
            for &at in &chain.nodes {
                let Some(node) = tree.node_mut(at) else { continue };
                if let Ok(place) = node.position(chain.order) {
                    node.chains.remove(place);
                }
                if !node.chains.is_empty() {
                    continue;
                }
                let (number, parent) = (node.number, node.parent);
                freed(number);
                tree.nodes[at as usize] = None;
                tree.vacant.push(at);
                // A parent that went before, in this loop, has nobody to count for.
                if let Some(parent) = tree.node_mut(parent) {
                    parent.children -= 1;
                }
            }
        });
    }

    /// Goes through the chains in which a page of the node at `at` may be, a parent's before its child's.
    /// No chain comes or goes meanwhile. Nothing, if the node has another number by now, or there are more
    /// than `most` chains.
    pub(super) fn each_chain<B>(
        &self,
        at: u32,
        number: u32,
        most: usize,
        then: impl FnMut(&Arc<Chain<M>>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let tree = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match tree.node(at).filter(|node| node.number == number && node.chains.len() <= most) {
            Some(node) => node.chains.iter().try_for_each(then),
            None => ControlFlow::Continue(()),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tree<M>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<M> Tree<M> {
    fn node(&self, at: u32) -> Option<&Node<M>> {
        self.nodes.get(at as usize)?.as_ref()
    }

    fn node_mut(&mut self, at: u32) -> Option<&mut Node<M>> {
        self.nodes.get_mut(at as usize)?.as_mut()
    }

    /// Whether a child's memory may take the node for its own.
    fn may_be_taken(&self, at: u32) -> bool {
        self.node(at).is_some_and(|node| node.active == 0 && node.children < 2)
    }

    /// Where the next node will be.
    fn next_place(&self) -> Option<u32> {
        self.vacant.last().copied().or_else(|| u32::try_from(self.nodes.len()).ok())
    }

    /// Puts a node at the next place.
    fn put(&mut self, node: Node<M>) {
        match self.vacant.pop() {
            Some(at) => self.nodes[at as usize] = Some(node),
            None => self.nodes.push(Some(node)),
        }
    }

    /// `active` is the place of the chain's own node, and its number.
    fn link(&mut self, nodes: Nodes, active: (u32, u32), mapper: M) -> Arc<Chain<M>> {
        self.chains_made += 1;
        let chain = Arc::new(Chain::new(self.chains_made, nodes, active, mapper));
        for &at in &chain.nodes {
            if let Some(node) = self.node_mut(at) {
                // The highest order so far.
                node.chains.push(Arc::clone(&chain));
            }
        }
        if let Some(own) = self.node_mut(active.0) {
            own.active += 1;
        }
        chain
    }
}

impl<M> Node<M> {
    fn new(number: u32, parent: u32, children: u32) -> Self {
        Node { number, parent, children, active: 0, chains: SmallVec::new() }
    }

    fn position(&self, order: u64) -> Result<usize, usize> {
        self.chains.binary_search_by_key(&order, |chain| chain.order)
    }
}

impl<M> Family<M> {
    /// Checks what the counts say against the chains that are there.
    ///
    /// # Errors
    /// A sentence about the first that is wrong.
    pub(super) fn audit(&self) -> Result<(), String> {
        let tree = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (at, node) in tree.nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            let own = |chain: &&Arc<Chain<M>>| chain.active as usize == at;
            let active = node.chains.iter().filter(own).count();
            let parents = tree.nodes.iter().flatten().map(|node| node.parent as usize);
            let children = parents.filter(|&parent| parent == at).count();
            let linked = |chain: &Arc<Chain<M>>| {
                chain.nodes.contains(&node.parent)
                    && chain.nodes.iter().any(|&of| of as usize == at)
            };
            let ordered = node.chains.is_sorted_by(|a, b| a.order < b.order);
            let right = (active, children) == (node.active as usize, node.children as usize)
                && !node.chains.is_empty()
                && node.chains.iter().all(linked)
                && ordered;
            if !right {
                let (is, counts) = ((active, children), (node.active, node.children));
                let (number, chains) = (node.number, node.chains.len());
                return Err(format!(
                    "anonymous memory {number} with {chains} chains (in order: {ordered}): active and \
                     children are {is:?}, it counts {counts:?}"
                ));
            }
        }
        Ok(())
    }
}
