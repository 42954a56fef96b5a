//! Address spaces (Linux's `mm_struct`): one file per operation.
//!
//! An operation plans, then commits. While planning it may fail and nothing has changed; committing
//! changes VMAs and page-table entries, gathers a [`FlushBatch`] and ends
//! by finishing it. What Linux leaves half done on an error is left so here too, and the operation
//! says it.
//!
//! ```text
//!   call ──> check arguments ──> plan: splits, limits, tables ──> commit ──> finish the batch
//!                 │ errno              │ errno                      (cannot fail but by Broken)
//! ```

mod access;
mod advise;
mod brk;
mod counters;
mod exit;
mod fault;
mod map;
mod populate;
mod protect;
mod remap;
mod shared;
mod stack;
mod unmap;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
mod tests;

pub use advise::Advice;
pub use counters::{Counters, FaultCount, Resident};
pub use fault::Resolved;
pub use map::{MapRequest, MapSource};
pub use remap::{RemapFlags, RemapRequest};
pub use shared::SharedSpace;
pub use stack::Exec;

use std::sync::Arc;

use crate::addr::{PageRange, VirtAddr};
use crate::error::Errno;
use crate::paging::{FlushBatch, PageTable};
use crate::phys::AllocError;
use crate::system::System;
use crate::vma::account::Account;
use crate::vma::limits::Limits;
use crate::vma::place::PlaceLayout;
use crate::vma::tree::Tree;
use crate::vma::{VmFlags, Vma, merge};
use counters::Ahead;

/// The fields of `mm_struct` that say where things are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Where mappings are placed.
    pub place: PlaceLayout,
    /// Where the heap begins.
    pub start_brk: VirtAddr,
    /// Where the heap ends, to the byte.
    pub brk: VirtAddr,
    /// The stack pointer at the program's start.
    pub start_stack: VirtAddr,
}

/// A process's address space.
///
/// The fields are protected by the lock around it ([`SharedSpace`]): held shared for faults, which
/// touch only atomics (page-table entries, counters, a VMA's first anonymous identity); held
/// exclusively for everything else.
#[derive(Debug)]
pub struct AddressSpace {
    system: Arc<System>,
    vmas: Tree<Vma>,
    table: PageTable,
    layout: Layout,
    account: Account,
    limits: Limits,
    counters: Counters,
    ahead: Ahead,
}

impl AddressSpace {
    /// An empty address space (Linux's `mm_alloc`).
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for its root.
    pub fn new(system: Arc<System>, limits: Limits) -> Result<Self, AllocError> {
        let table = PageTable::new(Arc::clone(system.frames()), system.kernel())?;
        let layout = Layout {
            place: PlaceLayout::for_stack_limit(limits.stack),
            start_brk: VirtAddr::ZERO,
            brk: VirtAddr::ZERO,
            start_stack: VirtAddr::ZERO,
        };
        Ok(AddressSpace {
            system,
            vmas: Tree::new(),
            table,
            layout,
            account: Account::default(),
            limits,
            counters: Counters::default(),
            ahead: Ahead::default(),
        })
    }

    /// The machine it belongs to.
    #[must_use]
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// Its VMAs.
    #[must_use]
    pub fn vmas(&self) -> &Tree<Vma> {
        &self.vmas
    }

    /// Its page table.
    #[must_use]
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Pages mapped, by what they are for.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Its limits, to be changed (setrlimit(2)). They hold from the next call on.
    pub fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Pages resident and faults taken.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether `pages` more with these flags stay within `RLIMIT_AS` and `RLIMIT_DATA` (Linux's
    /// `may_expand_vm`).
    fn may_expand(&self, flags: VmFlags, pages: u64) -> bool {
        use crate::addr::PAGE_SHIFT;
        use crate::vma::account::is_data;
        let within = |have: u64, limit: u64| have.saturating_add(pages) <= limit >> PAGE_SHIFT;
        within(self.account.total, self.limits.address_space)
            && (!is_data(flags) || within(self.account.data, self.limits.data))
    }

    /// Adds a VMA where nothing is.
    fn insert(&mut self, vma: Vma) {
        self.account.add(vma.flags, vma.range().pages());
        self.system.observer.mapped(&vma);
        merge::insert_merged(&mut self.vmas, vma);
    }

    /// Changes each VMA of `range`, whose ends are VMA boundaries, and merges what has become equal.
    fn modify(&mut self, range: PageRange, change: impl Fn(&mut Vma)) {
        let starts: Vec<VirtAddr> = self.vmas.range(range).map(|vma| vma.range().start()).collect();
        for start in starts {
            let Some(mut vma) = self.vmas.remove(start) else { continue };
            let pages = vma.range().pages();
            self.account.remove(vma.flags, pages);
            change(&mut vma);
            self.account.add(vma.flags, pages);
            merge::insert_merged(&mut self.vmas, vma);
        }
    }

    /// Removes the pages of `range` from the page table; the VMAs stay (Linux's `zap_page_range`).
    fn zap(&self, range: PageRange, batch: &mut FlushBatch) {
        for leaf in self.table.cursor(range) {
            let entry =
                crate::paging::Entry::new(leaf.slot.swap(0, std::sync::atomic::Ordering::AcqRel));
            let Some(frame) = entry.frame() else { continue };
            if entry.is_accessed() {
                batch.lowered(frame);
            }
            batch.put_later(frame);
            self.counters.resident.remove(entry.owner());
        }
    }

    /// Ends an operation: flushes, frees, and now and then returns empty tables.
    fn finish(&mut self, mut batch: FlushBatch) -> Result<(), crate::error::Broken> {
        if self.table.table_frames() > self.tables_worth_keeping() {
            self.table.reap(&mut batch);
        }
        self.system.finish(batch)
    }

    /// A table that was emptied stays linked (see [`PageTable::reap`]) until there are twice as many
    /// as all VMAs could need, and some.
    fn tables_worth_keeping(&self) -> u64 {
        let needed = self.account.total / 512 + 4 * self.vmas.len() as u64;
        256 + 2 * needed
    }
}

/// Linux answers a call that finds no memory for its own records with `ENOMEM`.
impl From<AllocError> for crate::error::CallError {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::OutOfMemory => Errno::ENOMEM.into(),
            AllocError::Broken(broken) => broken.into(),
        }
    }
}
