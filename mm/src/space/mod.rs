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
mod adjust;
mod advise;
mod age;
mod ahead;
mod anon;
mod attach;
mod brk;
mod collapse;
mod control;
mod counters;
mod discard;
mod exec;
mod exit;
mod fault;
mod fields;
mod folio;
mod fork;
mod huge;
mod khugepaged;
mod ksm;
mod layout;
mod link;
mod lock;
mod map;
mod merge_any;
pub(crate) mod migrate;
mod paged;
pub(crate) mod policy;
mod populate;
mod promote;
mod protect;
mod range;
mod relocate;
mod remap;
mod remap_file;
mod residency;
mod seal;
mod shared;
mod stack;
mod swapped;
mod sync;
mod unmap;
mod userfault;
mod users;
mod watched;
mod word;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
mod tests;

pub use advise::Advice;
pub use attach::{AttachAt, AttachFlags};
pub use control::{ADDR_COMPAT_LAYOUT, Dumpable, Mdwe, Modes};
pub use counters::{Counters, FaultCount, PageClass, Resident};
pub use fault::Resolved;
pub use fields::{AUXV_WORDS, LayoutField, NewLayout};
pub use fork::Vcpus;
pub(crate) use ksm::{Looked, Target, ToMerge};
pub use layout::Layout;
pub(crate) use link::maps_of;
pub use map::MapRequest;
pub use merge_any::MergeAny;
pub(crate) use populate::{Populate, not_locked, not_populated};
pub use remap::RemapRequest;
pub use shared::SharedSpace;
pub use stack::Exec;
pub(crate) use userfault::checked_range;
pub use userfault::{Filling, Holes, Protection, Registered};
pub use users::{Left, SpaceHolder, SpaceUser};
pub(crate) use watched::{Spaces, Tour};
pub use word::Word;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr};
use crate::error::Errno;
use crate::paging::{Entry, FlushBatch, Others, PageTable, Replacements};
use crate::phys::AllocError;
use crate::promise::{Payer, Promise};
use crate::rmap::SpaceChains;
use crate::rules::Rule;
use crate::sysctl::Claimant;
use crate::system::System;
use crate::userfault::ToTell;
use crate::vma::account::{Account, is_data};
use crate::vma::limits::{Capabilities, Limits};
use crate::vma::tree::Tree;
use crate::vma::{VmFlags, Vma};
use ahead::Ahead;
use promote::Demotions;

/// A process's address space.
///
/// The fields are protected by the lock around it ([`SharedSpace`]): held shared for faults, which
/// touch only atomics (page-table entries, counters, a VMA's first anonymous identity); held
/// exclusively for everything else.
#[derive(Debug)]
pub struct AddressSpace {
    system: Arc<System>,
    vmas: Tree<Vma>,
    /// Orders spaces: a child's is higher than its parent's.
    number: u64,
    table: Arc<PageTable>,
    layout: Layout,
    account: Account,
    limits: Limits,
    modes: Modes,
    counters: Arc<Counters>,
    ahead: Ahead,
    /// Pages that take the place of others while vCPUs run.
    replacements: Replacements,
    /// How often promoted entries became tables again.
    demotions: Demotions,
    /// Whether there is no memory for a fault, and huge pages are to be split that could then be swapped out.
    ahead_of_killing: AtomicBool,
    /// What it has of anonymous memory, for the reverse map.
    chains: SpaceChains,
    /// How many tasks use it ([`SpaceUser`]); 0 before there is any.
    users: Arc<AtomicU64>,
    /// Whose change is under way.
    by: By,
    /// Whether any of its memory was ever registered with a userfaultfd.
    has_userfaults: bool,
    /// What userfaultfds are to be told when the lock is released.
    to_tell: Vec<ToTell>,
}

/// Who changes a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// One of its users, who has stopped.
    User,
    /// Somebody else, beside all of them.
    Visitor,
}

impl AddressSpace {
    /// An empty address space (Linux's `mm_alloc`).
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for its root.
    pub fn new(system: Arc<System>, limits: Limits) -> Result<Self, AllocError> {
        let table = || PageTable::new(Arc::clone(system.frames()), system.kernel());
        let table = system.or_reclaim(table)?;
        Ok(AddressSpace::over(system, table, limits))
    }

    /// Nothing mapped, over tables that are empty but for the kernel half.
    fn over(system: Arc<System>, table: PageTable, limits: Limits) -> Self {
        AddressSpace {
            number: system.new_space(),
            system,
            vmas: Tree::new(),
            table: Arc::new(table),
            layout: Layout::for_stack_limit(limits.stack.soft),
            account: Account::default(),
            limits,
            modes: Modes::default(),
            counters: Arc::default(),
            ahead: Ahead::default(),
            replacements: Replacements::default(),
            demotions: Demotions::default(),
            ahead_of_killing: AtomicBool::new(false),
            chains: SpaceChains::default(),
            users: Arc::default(),
            by: By::User,
            has_userfaults: false,
            to_tell: Vec::new(),
        }
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
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// How it behaves beyond its VMAs.
    #[must_use]
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// Whether `pages` more with these flags stay within `RLIMIT_AS` and `RLIMIT_DATA` (Linux's
    /// `may_expand_vm`).
    fn may_expand(&self, flags: VmFlags, pages: u64) -> bool {
        let within = |have: u64, limit: u64| {
            have.checked_add(pages).is_some_and(|all| all <= limit >> PAGE_SHIFT)
        };
        let limits = &self.limits;
        if !within(self.account.total, limits.address_space.soft) {
            return false;
        }
        // A soft limit of 0 is the workaround for Valgrind in Linux: then the hard one counts.
        !is_data(flags)
            || !self.rule(Rule::DataLimit)
            || within(self.account.data, limits.data.soft)
            || limits.data.soft == 0 && within(self.account.data, limits.data.hard)
    }

    /// Whether `bytes` more with these flags may be locked (Linux's `mlock_future_ok`).
    fn may_lock(&self, flags: VmFlags, bytes: u64) -> bool {
        !flags.contains(VmFlags::LOCKED)
            || self.limits.may(Capabilities::IPC_LOCK)
            || self.account.locked.saturating_add(bytes >> PAGE_SHIFT)
                <= self.limits.memlock.pages()
    }

    /// Whether the process may lock memory at all (Linux's `can_do_mlock`).
    fn can_lock(&self) -> bool {
        self.limits.memlock.soft != 0 || self.limits.may(Capabilities::IPC_LOCK)
    }

    /// The most VMAs there may be.
    fn max_map_count(&self) -> usize {
        if self.rule(Rule::MapLimit) { self.system.sysctl.max_map_count() } else { usize::MAX }
    }

    /// Promises `pages` more (Linux's `security_vm_enough_memory_mm`).
    fn commit(&self, pages: u64) -> Result<(), Errno> {
        self.system.commit(pages, self.claimant())
    }

    /// Promises several numbers of pages ([`System::commit_each`]).
    fn commit_each(&self, each: impl Iterator<Item = u64> + Clone) -> Result<(), Errno> {
        self.system.commit_each(each, self.claimant())
    }

    fn claimant(&self) -> Claimant {
        Claimant { mapped: self.account.total, capabilities: self.limits.capabilities }
    }

    /// Makes sure that `vmas` more VMAs can be inserted, so that inserting them cannot fail.
    fn reserve(&mut self, vmas: usize) -> Result<(), Errno> {
        if self.system.vma_failures.refuses() {
            return Err(Errno::ENOMEM);
        }
        self.vmas.reserve(vmas).map_err(|_| Errno::ENOMEM)
    }

    /// Whether one of the hidden rules applies.
    fn rule(&self, rule: Rule) -> bool {
        self.system.rules.apply(rule)
    }

    /// Makes sure that there is a last-level table for `addr`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for one, and none to be had.
    fn ensure_table(&self, addr: VirtAddr) -> Result<(), AllocError> {
        self.system.or_reclaim(|| self.table.ensure(addr).map(drop))
    }

    /// Removes the pages of `range` from the page table; the VMAs stay (Linux's `zap_page_range`).
    fn zap(&self, range: PageRange, batch: &mut FlushBatch) {
        self.count_ahead();
        self.drop_large_in(range, batch);
        self.settle_files(range, batch);
        for leaf in self.table.cursor(range) {
            self.drop_entry(leaf.slot, batch);
        }
    }

    /// Empties a leaf entry; its page goes with the batch.
    fn drop_entry(&self, slot: &AtomicU64, batch: &mut FlushBatch) {
        let entry = Entry::new(slot.swap(0, Ordering::AcqRel));
        if entry.swap_slot().is_some() {
            return batch.note(self.system.drop_swapped(entry, &self.counters));
        }
        batch.emptied(entry, self.system.frames());
        self.counters.resident.remove(PageClass::of(entry, self.system.frames()));
    }

    /// Ends an operation: flushes, frees, and now and then returns empty tables.
    #[inline]
    fn finish(&mut self, mut batch: FlushBatch) -> Result<(), crate::error::Broken> {
        if self.table.table_frames() > self.tables_worth_keeping() {
            self.table.reap(&mut batch);
        }
        // An entry that was found swapped out may have a translation still, until then.
        self.system.reclaim.wait_for_flush();
        self.flush(batch)
    }

    /// Flushes a batch of this space's entries, and frees its frames.
    #[inline]
    fn flush(&self, batch: FlushBatch) -> Result<(), crate::error::Broken> {
        // Most calls change no page: a batch moved for nothing is a tenth of their time.
        if batch.is_empty() { Ok(()) } else { self.flush_changes(batch) }
    }

    /// The same with a batch that is not empty.
    fn flush_changes(&self, mut batch: FlushBatch) -> Result<(), crate::error::Broken> {
        batch.set_others(self.others());
        // Without a wait: also under locks that a swap-out needs.
        self.system.flush_now(batch)
    }

    /// Whether vCPUs may run in the space while somebody changes it.
    fn others(&self) -> Others {
        // One that has left stopped before.
        if self.by == By::User && self.users.load(Ordering::Acquire) <= 1 {
            Others::Stopped
        } else {
            Others::In(self.table.root())
        }
    }

    /// A table that was emptied stays linked (see [`PageTable::reap`]) until there are twice as many
    /// as all VMAs could need, and some.
    fn tables_worth_keeping(&self) -> u64 {
        let needed = self.account.total / 512 + 4 * self.vmas.len() as u64;
        256 + 2 * needed
    }
}

impl Payer for AddressSpace {
    fn promise(&self, pages: u64) -> Result<Promise, Errno> {
        self.commit(pages)?;
        Ok(self.system.held(pages))
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
