//! Page faults (Linux's `handle_mm_fault` and below).
//!
//! ```text
//!   no VMA ─────────────> grows down above? ──> NeedsGrowth, else SEGV_MAPERR
//!   VMA forbids ────────> SEGV_ACCERR
//!   entry empty ────────> anonymous: a run of zeroed frames
//!                         backing, read or shared: the backing's frame
//!                         backing, private write:  a copy of the backing's frame
//!   entry there ────────> allows the access: spurious
//!                         own page: raise its permission
//!                         backing's page, private write: replace it by a copy
//! ```
//!
//! Everything here runs under the space's lock held shared. An entry is installed by
//! compare-and-exchange, so of two faults on one page one wins and the other takes its frame back.

use std::sync::atomic::{AtomicU64, Ordering};

use super::protect::entry_access;
use super::{AddressSpace, PageClass};
use crate::addr::{Frame, PAGE_BYTES, PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr, index};
use crate::backing::{Backing, BackingError};
use crate::error::{AccessError, Fault};
use crate::hooks::Invalidation;
use crate::paging::{Access, AccessKind, Entry, FlushBatch, Owner, Touch};
use crate::phys::{AllocError, Contents, FrameKind};
use crate::rules::Rule;
use crate::vma::merge::may_share;
use crate::vma::{Lineage, VmFlags, Vma};

/// How many pages of a file one fault maps, aligned (Linux's `fault_around_bytes`, 64 KiB).
const FILE_AROUND: u64 = 16;

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// The access will succeed when it is tried again.
    Done,
    /// [`grow_stack`](AddressSpace::grow_stack) first, under the exclusive lock; then again.
    NeedsGrowth,
}

impl AddressSpace {
    /// Makes an access at `addr` possible.
    ///
    /// # Errors
    /// The [`Fault`] that the program gets as a signal.
    pub fn fault(&self, addr: VirtAddr, kind: AccessKind) -> Result<Resolved, AccessError> {
        let Some(vma) = self.vmas.find(addr) else { return Err(Fault::NotMapped(addr).into()) };
        if addr < vma.range().start() {
            if vma.flags.contains(VmFlags::GROWSDOWN) {
                return Ok(Resolved::NeedsGrowth);
            }
            return Err(Fault::NotMapped(addr).into());
        }
        if !vma.flags.allows(kind) {
            if kind == AccessKind::Execute && vma.flags.allows(AccessKind::Read) {
                // The processor finds out that a page is not executable when there is one: Linux brings
                // it in first, and what is wrong with that is the answer.
                self.fault(addr, AccessKind::Read)?;
            }
            return Err(Fault::Denied(addr).into());
        }
        let page = addr.page_floor();
        let words = self.table.ensure(page).map_err(|error| no_frame(error, addr))?;
        let slot = &words[page_in_table(page)];
        let at = At { vma, page, addr, kind, slot };
        let entry = Entry::new(slot.load(Ordering::Acquire));
        if entry.is_guard() {
            return Err(Fault::NotMapped(addr).into());
        }
        match (&vma.backing, entry.frame()) {
            (None, None) => self.zero_fault(&at, words)?,
            (Some(backing), None) => self.backed_fault(&at, &**backing, words)?,
            (_, Some(frame)) => self.raise(&at, entry, frame)?,
        }
        if let Some(observer) = self.system.observer() {
            observer.faulted(addr, kind);
        }
        Ok(Resolved::Done)
    }

    /// Anonymous memory that was never touched: a page of zeros, and the next ones too where the
    /// program goes on page by page.
    fn zero_fault(&self, at: &At<'_>, words: &[AtomicU64; 512]) -> Result<(), AccessError> {
        // Memory that is only read has no identity yet: the first write gives it one.
        let written = at.kind == AccessKind::Write;
        if written || self.would_be_huge(at, words) {
            self.prepare_anon(at.vma);
        }
        let window = self.ahead.window(at.addr).min(self.system.sysctl.fault_ahead());
        let place = page_in_table(at.page);
        let downwards = at.vma.flags.contains(VmFlags::GROWSDOWN);
        let empty = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) == 0;
        let room = at.room(downwards).min(window);
        let wanted = if downwards {
            words[..=place].iter().rev().take_while(empty).count() as u64
        } else {
            words[place..].iter().take_while(empty).count() as u64
        };
        let frames = self.system.frames();
        let run = frames
            .alloc_run(FrameKind::Anonymous, Contents::Zeroed, wanted.min(room).max(1))
            .map_err(|error| no_frame(error, at.addr))?;
        let first = if downwards { place + 1 - index(run.count) } else { place };
        let mut access = at.vma.flags.page_access();
        access.set(Access::WRITE, written && access.contains(Access::WRITE));
        for i in 0..run.count {
            let slot = &words[first + index(i)];
            // The next ones as touched as this one (Linux's `map_anon_folio_pte` likewise): a bit that
            // the hardware has to set costs more than the whole page (`GuestMemory`).
            let entry = Entry::leaf(run.start.offset(i), Owner::Process, access, at.touch());
            self.install(slot, entry)?;
        }
        let faults = &self.counters.faults;
        faults.zero.fetch_add(1, Ordering::Relaxed);
        faults.around.fetch_add(run.count - 1, Ordering::Relaxed);
        if downwards {
            self.ahead.brought_down_to(VirtAddr::new(at.page.get() - (run.count - 1) * PAGE_SIZE));
        } else {
            self.ahead.brought_up_to(at.page.offset((run.count - 1) * PAGE_SIZE));
        }
        Ok(())
    }

    /// Whether Linux would bring in a huge page of zeros, which has an identity even if it is only read
    /// (`do_huge_pmd_anonymous_page`): where that was advised, and nothing is there yet.
    fn would_be_huge(&self, at: &At<'_>, words: &[AtomicU64; 512]) -> bool {
        let first = at.page.get() & !(TABLE_SPAN - 1);
        let span = PageRange::from_len(VirtAddr::new(first), TABLE_SPAN);
        at.vma.flags.contains(VmFlags::HUGEPAGE)
            && self.modes.thp_disabled == 0
            && span.is_some_and(|span| at.vma.range().covers(span))
            && words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// A page of a backing that has no entry yet.
    fn backed_fault(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        words: &[AtomicU64; 512],
    ) -> Result<(), AccessError> {
        let frames = self.system.frames();
        let copies = at.kind == AccessKind::Write && at.vma.is_private();
        if copies {
            // Before the backing is asked, so also where it has no such page (`do_cow_fault`).
            self.prepare_anon(at.vma);
        }
        let access = entry_access(at.vma.flags, Owner::Backing);
        let frame = match self.backing_page(at, backing, at.page) {
            Err(error) if at.kind != AccessKind::Write => {
                // Linux looks around before it asks for the page itself (`do_fault_around`).
                self.map_around(at, backing, words, access)?;
                return Err(error);
            }
            page => page?,
        };
        let faults = &self.counters.faults;
        if copies {
            let copied = self.copy_page(at, frame);
            frames.put(frame)?;
            let entry = copied?;
            self.install(at.slot, entry)?;
            faults.copied.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.install(at.slot, Entry::leaf(frame, Owner::Backing, access, at.touch()))?;
        faults.backed.fetch_add(1, Ordering::Relaxed);
        if at.kind == AccessKind::Write {
            // Linux's `do_shared_fault` looks at nothing else.
            return Ok(());
        }
        self.map_around(at, backing, words, access)
    }

    /// Maps the pages around a touched one of a backing, where they can be had. A page that is not
    /// there is left to its own fault.
    fn map_around(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        words: &[AtomicU64; 512],
        access: Access,
    ) -> Result<(), AccessError> {
        let span = FILE_AROUND * PAGE_SIZE;
        let first = at.page.get() & !(span - 1);
        for page in (first..first + span).step_by(PAGE_BYTES).map(VirtAddr::new) {
            let slot = &words[page_in_table(page)];
            if !at.vma.range().contains(page) || slot.load(Ordering::Relaxed) != 0 {
                continue;
            }
            // A file is read ahead; shared memory does not come into being by being near.
            if backing.is_shared_memory() && !backing.is_resident(at.vma.page_index(page)) {
                continue;
            }
            let Ok(frame) = self.backing_page(at, backing, page) else { break };
            // Accessed, as Linux's `set_pte_range` has it.
            let entry = Entry::leaf(frame, Owner::Backing, access, Touch::Read);
            self.install(slot, entry)?;
            self.counters.faults.around.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// There is an entry, but it does not allow the access (or another vCPU was faster).
    fn raise(&self, at: &At<'_>, entry: Entry, frame: Frame) -> Result<(), AccessError> {
        let faults = &self.counters.faults;
        let wanted = entry_access(at.vma.flags, entry.owner());
        if at.kind == AccessKind::Write && !wanted.contains(Access::WRITE) {
            return self.replace_by_copy(at, entry, frame);
        }
        if entry.access().contains(at.needed()) {
            faults.spurious.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if at.kind == AccessKind::Write && entry.owner() == Owner::Process {
            self.prepare_anon(at.vma);
        }
        // A lost race is a fault that comes again.
        let raised = entry.with_access(wanted).touched(at.touch()).raw();
        let _ = at.slot.compare_exchange(entry.raw(), raised, Ordering::AcqRel, Ordering::Relaxed);
        Ok(())
    }

    /// Breaks copy-on-write. The old translation must be gone before the call returns: the write that
    /// faulted would find the new page by itself, a read on another vCPU would not.
    fn replace_by_copy(&self, at: &At<'_>, old: Entry, frame: Frame) -> Result<(), AccessError> {
        self.prepare_anon(at.vma);
        let copy = self.copy_page(at, frame)?;
        let swap = |_: &Self| {
            at.slot.compare_exchange(old.raw(), copy.raw(), Ordering::AcqRel, Ordering::Relaxed)
        };
        let swapped = match PageRange::from_len(at.page, PAGE_SIZE) {
            Some(page) => self.invalidate(page, Invalidation::Clear, swap),
            None => swap(self),
        };
        if swapped.is_err() {
            // The accessed bit or another fault came first: this one comes again.
            return Ok(copy.frame().map_or(Ok(()), |copy| self.system.frames().put(copy))?);
        }
        let class = PageClass::of(Owner::Backing, frame, self.system.frames());
        self.counters.resident.remove(class);
        self.counters.resident.add(PageClass::Own);
        self.counters.faults.copied.fetch_add(1, Ordering::Relaxed);
        let mut batch = FlushBatch::new();
        if old.is_accessed() {
            batch.lowered(frame);
        }
        batch.put_later(frame);
        Ok(self.system.finish(batch)?)
    }

    /// An entry for a private copy of a page.
    fn copy_page(&self, at: &At<'_>, from: Frame) -> Result<Entry, AccessError> {
        let frames = self.system.frames();
        let frame = frames
            .alloc(FrameKind::Anonymous, Contents::Any)
            .map_err(|error| no_frame(error, at.addr))?;
        frames.memory().copy(from, frame);
        let access = entry_access(at.vma.flags, Owner::Process);
        Ok(Entry::leaf(frame, Owner::Process, access, at.touch()))
    }

    fn backing_page(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        page: VirtAddr,
    ) -> Result<Frame, AccessError> {
        let index = at.vma.page_index(page);
        backing.page(index, self).map_err(|error| match error {
            BackingError::NoPage => Fault::NoBacking(at.addr).into(),
            BackingError::OutOfMemory => Fault::OutOfMemory(at.addr).into(),
            BackingError::Broken(broken) => broken.into(),
        })
    }

    /// Installs an entry where nothing is; if something came first, gives the frame back.
    fn install(&self, slot: &AtomicU64, entry: Entry) -> Result<(), AccessError> {
        let Some(frame) = entry.frame() else { return Ok(()) };
        // Told before it is there: from then on another vCPU may take it away again.
        let class = PageClass::of(entry.owner(), frame, self.system.frames());
        match slot.compare_exchange(0, entry.raw(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => self.counters.resident.add(class),
            Err(_) => self.system.frames().put(frame)?,
        }
        Ok(())
    }

    /// Gives a VMA that is about to get its first own page the identity of its anonymous memory; a
    /// neighbour's where the two could be one VMA but for it (`find_mergeable_anon_vma`).
    pub(super) fn prepare_anon(&self, vma: &Vma) {
        if vma.anon().is_some() || !self.rule(Rule::Identity) {
            return;
        }
        let right = self.vmas.get(vma.range().end()).filter(|next| may_share(vma, next));
        let left = self.vmas.prev(vma.range().start()).filter(|prev| may_share(prev, vma));
        let own = |vma: &Vma| vma.anon().filter(|id| id.lineage() == Lineage::Own);
        let neighbour = right.and_then(own).or_else(|| left.and_then(own));
        let neighbour = neighbour.filter(|_| self.rule(Rule::IdentityReuse));
        vma.adopt_anon(neighbour.unwrap_or_else(|| self.system.new_anon(Lineage::Own)));
    }
}

/// A fault and the place it is about.
struct At<'a> {
    vma: &'a Vma,
    page: VirtAddr,
    addr: VirtAddr,
    kind: AccessKind,
    slot: &'a AtomicU64,
}

impl At<'_> {
    fn touch(&self) -> Touch {
        match self.kind {
            AccessKind::Write => Touch::Written,
            AccessKind::Read | AccessKind::Execute => Touch::Read,
        }
    }

    fn needed(&self) -> Access {
        match self.kind {
            AccessKind::Read => Access::READ,
            AccessKind::Write => Access::WRITE,
            AccessKind::Execute => Access::EXECUTE,
        }
    }

    /// How many pages from this one on, itself included, lie in the VMA and in this page's table.
    fn room(&self, downwards: bool) -> u64 {
        let (vma, page) = (self.vma.range(), self.page);
        let table = page.get() & !(TABLE_SPAN - 1);
        if downwards {
            let first = vma.start().get().max(table);
            return (page.get() - first) / PAGE_SIZE + 1;
        }
        let end = vma.end().get().min(table + TABLE_SPAN);
        (end - page.get()) / PAGE_SIZE
    }
}

fn page_in_table(page: VirtAddr) -> usize {
    index((page.get() / PAGE_SIZE) & 511)
}

fn no_frame(error: AllocError, addr: VirtAddr) -> AccessError {
    match error {
        AllocError::OutOfMemory => Fault::OutOfMemory(addr).into(),
        AllocError::Broken(broken) => broken.into(),
    }
}
