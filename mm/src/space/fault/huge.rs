//! Faults where a huge page is, or comes (Linux's `do_huge_pmd_anonymous_page`, `do_huge_pmd_wp_page`).
//!
//! ```text
//!   nothing linked ──────────────> read: the huge page of zeros; written: 512 zeroed frames
//!   a table that Linux would have ─> a small page
//!   a table that it has freed ───> the same as nothing, when it is unlinked         (make_way)
//!   a large entry ───────────────> allows the access: spurious
//!                                  its only owner writes: may from now on
//!                                  else: split, and each page for itself            (make_way)
//! ```
//!
//! Without 2 MiB of free memory in one piece the fault goes on with a small page.

use std::sync::atomic::Ordering;

use super::{Resolved, no_frame};
use crate::addr::{FrameRun, VirtAddr};
use crate::error::{AccessError, Broken};
use crate::paging::{Access, AccessKind, Below, Entry, Large, Owner, Touch};
use crate::phys::{AllocError, Contents, FrameKind, Marks, Order};
use crate::space::huge::span_of;
use crate::space::protect::entry_access;
use crate::space::{AddressSpace, PageClass};
use crate::vma::{VmFlags, Vma};

/// What a fault does, as to a huge page.
pub(super) enum Huge {
    /// It is resolved.
    Resolved(Resolved),
    /// Nothing: go on with a small page.
    None,
}

impl AddressSpace {
    /// Resolves a fault by a huge page, or at one.
    pub(super) fn huge_fault(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Huge, AccessError> {
        if let Some(large) = self.table.large(addr) {
            return Ok(Huge::Resolved(self.raise_large(vma, &large, kind)));
        }
        if let Some(backing) = &vma.backing {
            return self.folio_fault(vma, &**backing, addr, kind);
        }
        if !self.wants_huge(vma, addr) {
            return Ok(Huge::None);
        }
        match self.table.below(addr) {
            Below::Large(_) => Ok(Huge::Resolved(Resolved::Done)),
            Below::Nothing => self.bring_in_huge(vma, addr, kind),
            Below::Vacated => Ok(Huge::Resolved(Resolved::NeedsExclusive)),
            Below::Table(_) => Ok(Huge::None),
        }
    }

    /// Brings in a huge page for a write, if there is one; the table has nothing there.
    ///
    /// # Errors
    /// No memory for what goes with it.
    pub(in crate::space) fn bring_in_written(
        &self,
        vma: &Vma,
        addr: VirtAddr,
    ) -> Result<(), AccessError> {
        self.bring_in_huge(vma, addr, AccessKind::Write).map(drop)
    }

    fn bring_in_huge(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Huge, AccessError> {
        let Some(span) = span_of(addr) else { return Ok(Huge::None) };
        self.prepare_anon(vma).map_err(|error| no_frame(error, addr))?;
        let frames = self.system.frames();
        let written = kind == AccessKind::Write;
        let access = vma.flags.page_access();
        let run = if written {
            let wish = self.wish_for_huge(vma, span.start());
            frames.alloc_order_on(FrameKind::Anonymous, Contents::Zeroed, Order::HUGE, wish)
        } else {
            frames.huge_zeros()
        };
        let run = match run {
            Ok(run) => run,
            Err(AllocError::OutOfMemory) => return Ok(Huge::None),
            Err(AllocError::Broken(broken)) => return Err(broken.into()),
        };
        let entry = if written {
            self.own_huge(vma, span.start(), run)
        } else {
            Entry::leaf(run.start, Owner::Backing, access - Access::WRITE, Touch::Read).large()
        };
        match self.map_huge(span.start(), entry, run) {
            Ok(mapped) => {
                // Or another fault was faster: this one comes again.
                self.counters.faults.zero.fetch_add(u64::from(mapped), Ordering::Relaxed);
                Ok(Huge::Resolved(Resolved::Done))
            }
            Err(AllocError::OutOfMemory) => Ok(Huge::None),
            Err(AllocError::Broken(broken)) => Err(broken.into()),
        }
    }

    /// Puts a large entry, which its frames count already, where nothing is linked, and says whether that was so; gives
    /// them up if it was not.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table.
    pub(super) fn map_huge(
        &self,
        addr: VirtAddr,
        entry: Entry,
        run: FrameRun,
    ) -> Result<bool, AllocError> {
        let mapped = self.table.map_large(addr, entry);
        if let Ok(true) = mapped {
            let class = PageClass::of(entry, self.system.frames());
            self.counters.resident.add_pages(class, run.count);
        } else {
            self.forget(run)?;
        }
        mapped
    }

    /// Makes frames the process's own, and says what maps them.
    pub(in crate::space) fn own_huge(&self, vma: &Vma, at: VirtAddr, run: FrameRun) -> Entry {
        let frames = self.system.frames();
        self.own_pages(vma, at, run);
        frames.mark(run.start, Marks::EXCLUSIVE);
        if vma.flags.contains(VmFlags::DROPPABLE) {
            let droppable = |i| frames.mark(run.start.offset(i), Marks::LAZY | Marks::DROPPABLE);
            (0..run.count).for_each(droppable);
        }
        frames.map_run(run);
        let access = vma.flags.page_access();
        let entry = Entry::leaf(run.start, Owner::Process, access, Touch::Written);
        self.own_entry(vma, entry.large())
    }

    /// Gives up frames that never got into the table.
    pub(super) fn forget(&self, run: FrameRun) -> Result<(), Broken> {
        let frames = self.system.frames();
        frames.unmap_run(run)?;
        frames.put_run(run)
    }

    /// A fault on a page that is there. A lost race is a fault that comes again.
    pub(super) fn raise_large(&self, vma: &Vma, large: &Large<'_>, kind: AccessKind) -> Resolved {
        let entry = large.entry;
        let wanted = entry_access(vma.flags, entry.owner());
        let access = if entry.access().contains(kind.needed()) {
            self.counters.faults.spurious.fetch_add(1, Ordering::Relaxed);
            entry.access()
        } else if kind != AccessKind::Write {
            wanted.difference(Access::WRITE) | entry.access() & Access::WRITE
        } else if wanted.contains(Access::WRITE)
            && (entry.owner() == Owner::Backing || self.is_only_owner(entry))
        {
            self.keep(entry);
            wanted
        } else {
            return Resolved::NeedsExclusive;
        };
        let new = entry.with_access(access).touched(kind.touch());
        let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = large.slot.compare_exchange(entry.raw(), new.raw(), done, failed);
        Resolved::Done
    }
}
