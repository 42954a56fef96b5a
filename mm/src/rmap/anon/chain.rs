//! What one address space has of a family of anonymous memory: the VMAs of one identity there (all the
//! `anon_vma_chain`s of these VMAs in Linux).

use std::sync::PoisonError;

use smallvec::SmallVec;

use super::ranges::{Piece, Ranges};
use super::sync::Mutex;

/// Places of nodes in a family. Few processes are more than three forks from where memory was first written.
pub(super) type Nodes = SmallVec<[u32; 4]>;

/// What leads to the entries of a space: its page table.
pub(super) trait Entries {
    /// While it is there, no entry is on its way, or being copied for a child, and no table goes.
    type Still<'a>
    where
        Self: 'a;

    /// Waits until that is so.
    fn hold_still(&self) -> Self::Still<'_>;
}

/// The ranges of one space that have one identity, linked to every node whose pages may be in them.
///
/// A cut or a merge of VMAs does not change it.
#[derive(Debug)]
pub(super) struct Chain<M> {
    /// A child's is higher than its parent's. Never the same in one family.
    pub(super) order: u64,
    /// The nodes, the root first: places in the family.
    pub(super) nodes: Nodes,
    /// The one of them that new pages belong to.
    pub(super) active: u32,
    /// That one's number.
    pub(super) number: u32,
    pub(super) mapper: M,
    /// Held while the reverse map looks at the entries: so a move, which has noted the target before and
    /// gives up the source afterwards, is met before or after. Under it a page table's structure may be
    /// locked.
    ranges: Mutex<Ranges>,
}

impl<M> Chain<M> {
    /// Without ranges so far. Its own node is at `active`, and has this number.
    pub(super) fn new(order: u64, nodes: Nodes, (active, number): (u32, u32), mapper: M) -> Self {
        Chain { order, nodes, active, number, mapper, ranges: Mutex::new(Ranges::default()) }
    }

    /// Notes that pages may be there from now on.
    pub(super) fn add(&self, piece: Piece) {
        self.with(|ranges| {
            if !ranges.covers(piece) {
                ranges.add(piece);
            }
        });
    }

    /// Notes that the entries there are gone. Says whether nothing is left of the chain.
    pub(super) fn remove(&self, piece: Piece) -> bool {
        self.with(|ranges| {
            ranges.remove(piece);
            ranges.is_empty()
        })
    }

    /// Every address, in pages, where the page may be. Nothing is moved away, or given up, while `then` looks.
    pub(super) fn find<T>(
        &self,
        index: u64,
        then: impl FnOnce(&M, &mut dyn Iterator<Item = u64>) -> T,
    ) -> T
    where
        M: Entries,
    {
        self.with(|ranges| {
            // So a move is met before or after, and a fork's copying too.
            let _still = self.mapper.hold_still();
            then(&self.mapper, &mut ranges.find(index))
        })
    }

    /// All ranges, for the audit.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        self.with(|ranges| ranges.pieces())
    }

    fn with<T>(&self, then: impl FnOnce(&mut Ranges) -> T) -> T {
        then(&mut self.ranges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
