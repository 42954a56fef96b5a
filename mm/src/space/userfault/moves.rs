//! `UFFDIO_MOVE`: the pages of one range for those that wait in another (Linux's `move_pages` of `mm/userfaultfd.c`).
//!
//! ```text
//!   there, of the source                 what comes to the target
//!   nothing                              ENOENT; with ALLOW_SRC_HOLES nothing, and it is passed over
//!   a page of the process's own, alone   it, written as it was, and to be written; of a folio after that is split
//!   one that others have, or had since   EBUSY
//!   the page of zeros                    the page of zeros
//!   a page in the swap area              its place
//!   a guard, a mark                      EFAULT
//!   a huge page                          it, if it goes to nothing of the same alignment; else it is split
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Access, Below, Entry, FlushBatch, Large, Owner, Touch};
use crate::phys::{FrameKind, ReverseOwner};
use crate::space::AddressSpace;
use crate::space::anon::run_of;
use crate::space::huge::span_of;
use crate::space::protect::entry_access;
use crate::userfault::Userfault;
use crate::vma::{VmFlags, Vma};

/// What becomes of pages of the source that are not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holes {
    /// They end the move.
    Refused,
    /// They are passed over (`UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`).
    Allowed,
}

/// Flags of VMAs that both must have or not have.
const ALIKE: VmFlags =
    VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::EXEC).union(VmFlags::LOCKED);

impl AddressSpace {
    /// Moves the pages from `from` on to a range that the userfaultfd is told of, up to the first that cannot; says how
    /// many bytes that is. Who waits for them is woken by the caller.
    ///
    /// # Errors
    /// In this order: `ENOENT` nothing mapped at the start of the target, or the source; `EINVAL` a shared VMA, or one
    /// that ends before; `EINVAL` other rights or locks, no right to write, no memory that could move, another
    /// userfaultfd's target, no anonymous memory. Of the first page: `ENOENT` it is not there; `EEXIST` there is one in
    /// the target; `EBUSY` others have it; `EFAULT` a guard or a mark; `ENOMEM` no memory for a table.
    pub fn userfault_move(
        &mut self,
        uffd: &Arc<Userfault>,
        to: PageRange,
        from: PageRange,
        holes: Holes,
    ) -> CallResult<u64> {
        self.check_move(uffd, to, from)?;
        // What was brought in ahead of a touch is not there.
        self.settle(from)?;
        let mut batch = FlushBatch::new();
        let moved = self.invalidate(from, Invalidation::Clear, |space| {
            space.move_each(to.start(), from, holes, &mut batch)
        });
        self.finish(batch)?;
        moved
    }

    /// Whether both ranges may take part (`validate_move_areas`, and before it).
    fn check_move(&self, uffd: &Arc<Userfault>, to: PageRange, from: PageRange) -> CallResult<()> {
        let target = self.vmas.find_exact(to.start()).ok_or(Errno::ENOENT)?;
        if target.is_private() {
            self.prepare_anon(target)?;
        }
        let source = self.vmas.find_exact(from.start()).ok_or(Errno::ENOENT)?;
        let unfit = VmFlags::PFNMAP | VmFlags::IO | VmFlags::MIXEDMAP | VmFlags::HUGETLB;
        let fits = |vma: &Vma, range: PageRange| {
            vma.is_private()
                && vma.range().covers(range)
                && !vma.flags.intersects(unfit)
                && vma.backing.is_none()
        };
        let fit = fits(source, from)
            && fits(target, to)
            && (source.flags ^ target.flags) & ALIKE == VmFlags::empty()
            && source.flags.contains(VmFlags::WRITE)
            && target.userfault().is_some_and(|own| Arc::ptr_eq(own, uffd));
        if fit { Ok(()) } else { Err(Errno::EINVAL.into()) }
    }

    /// As many bytes as could be moved; the error only if there are none.
    fn move_each(
        &self,
        to: VirtAddr,
        from: PageRange,
        holes: Holes,
        batch: &mut FlushBatch,
    ) -> CallResult<u64> {
        let mut done = 0;
        while done < from.len() {
            let at = Step { to: to.offset(done), from: from.start().offset(done), holes };
            match self.move_one(&at, from.len() - done, batch) {
                Ok(bytes) => done += bytes,
                Err(CallError::Errno(_)) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Moves what is at an address, `left` bytes being left to be moved; says how many it was.
    fn move_one(&self, at: &Step, left: u64, batch: &mut FlushBatch) -> CallResult<u64> {
        if at.holes == Holes::Refused && !self.table.has_directory(at.from) {
            return Err(Errno::ENOENT.into());
        }
        let beside = self.table.large(at.to);
        if beside.as_ref().is_some_and(|large| !large.entry.is_promoted()) {
            return Err(Errno::EEXIST.into());
        }
        if let Some(large) = self.table.large(at.from) {
            let whole = (at.from.get() | at.to.get()).is_multiple_of(TABLE_SPAN)
                && left >= TABLE_SPAN
                && matches!(self.table.below(at.to), Below::Nothing | Below::Vacated);
            if !large.entry.is_promoted() {
                let kind = if self.names_zeros(large.entry) { Huge::Zeros } else { Huge::Own };
                if kind == Huge::Own && !self.is_exclusive(large.entry)? {
                    return Err(Errno::EBUSY.into());
                }
                if whole {
                    self.move_huge(at, &large, kind)?;
                    return Ok(TABLE_SPAN);
                }
            }
            if let Some(span) = span_of(at.from) {
                self.split_large(span)?;
            }
        }
        if matches!(self.table.below(at.from), Below::Nothing | Below::Vacated) {
            if at.holes == Holes::Refused {
                return Err(Errno::ENOENT.into());
            }
            self.make_table(at.from)?;
        }
        if beside.is_some() {
            // It stands for a table that has all its pages.
            return Err(Errno::EEXIST.into());
        }
        self.make_table(at.to)?;
        self.move_page(at, batch)?;
        Ok(PAGE_SIZE)
    }

    /// Makes sure that there is a table, which counts as one.
    fn make_table(&self, page: VirtAddr) -> CallResult<()> {
        self.ensure_table(page)?;
        let _still = self.table.hold_still();
        self.table.slot_to_fill(page);
        Ok(())
    }

    /// Moves a page, or passes a hole over.
    fn move_page(&self, at: &Step, batch: &mut FlushBatch) -> CallResult<()> {
        let slots = || self.table.slot(at.from).zip(self.table.slot(at.to)).ok_or(Errno::EFAULT);
        let (source, target) = slots()?;
        if target.load(Ordering::Acquire) != 0 {
            return Err(Errno::EEXIST.into());
        }
        let entry = Entry::new(source.load(Ordering::Acquire));
        if entry.is_empty() {
            let allowed = at.holes == Holes::Allowed;
            return if allowed { Ok(()) } else { Err(Errno::ENOENT.into()) };
        }
        if let Some(slot) = entry.swap_slot() {
            if self.system.swap().is_none_or(|swap| swap.users(slot) != 1) {
                return Err(Errno::EBUSY.into());
            }
        } else if entry.frame().is_none() {
            return Err(Errno::EFAULT.into());
        } else if !self.names_zeros(entry) {
            if !self.is_exclusive(entry)? {
                return Err(Errno::EBUSY.into());
            }
            if let Some(page) = self.folio_page(at.from, entry) {
                // Of its pages those that are zeros are no pages any more.
                self.split_folio(page)?;
            }
        }
        self.exchange_places(at, source, target, batch);
        Ok(())
    }

    /// Has the entry of one place be the other's. Whoever comes by the reverse map meanwhile waits.
    fn exchange_places(
        &self,
        at: &Step,
        source: &AtomicU64,
        target: &AtomicU64,
        batch: &mut FlushBatch,
    ) {
        let Some(vma) = self.vmas.find_exact(at.to) else { return };
        let _still = self.table.hold_still();
        let old = Entry::new(source.swap(0, Ordering::AcqRel));
        if let Some(frame) = old.frame().filter(|_| old.is_accessed()) {
            batch.lowered(frame);
        }
        if let (Some(slot), Some(swap)) = (old.swap_slot(), self.system.swap()) {
            if let Some(id) = vma.anon() {
                let owner = ReverseOwner { id: id.number(), index: vma.page_index(at.to) };
                swap.move_owner(self.system.frames(), slot, owner);
            }
        } else if let Some(frame) = old.frame().filter(|_| old.owner() == Owner::Process) {
            self.own_pages(vma, at.to, run_of(frame));
        }
        target.store(moved(vma, old).raw(), Ordering::Release);
    }

    /// Moves a huge page to where nothing is, and flushes: what comes to its place next must find nothing of it.
    fn move_huge(&self, at: &Step, large: &Large<'_>, kind: Huge) -> CallResult<()> {
        let vma = self.vmas.find_exact(at.to).ok_or(Errno::ENOENT)?;
        let mut batch = FlushBatch::new();
        self.system.or_reclaim(|| self.table.make_link(at.to, &mut batch))?;
        self.flush(batch)?;
        let mut batch = FlushBatch::new();
        {
            let _still = self.table.hold_still();
            let old = large.update(|old| match kind {
                Huge::Zeros => moved(vma, old),
                // Linux has it written, as it does when it moves by mremap(2).
                Huge::Own => moved(vma, old).touched(Touch::Written),
            });
            if let Some(run) = old.large_run().filter(|_| kind == Huge::Own) {
                self.own_pages(vma, at.to, run);
            }
            self.table.move_large(large, at.to, &mut batch);
        }
        Ok(self.flush(batch)?)
    }

    /// Whether it is the page of zeros, small or huge.
    fn names_zeros(&self, entry: Entry) -> bool {
        let kind = entry.frame().and_then(|frame| self.system.frames().kind(frame));
        kind == Some(FrameKind::Zero)
    }

    /// Whether the process alone has the page, and has had since it may write it (`PageAnonExclusive`).
    fn is_exclusive(&self, entry: Entry) -> Result<bool, Broken> {
        // One that was only read since it came back from the swap area may not be written yet.
        let came_back =
            |frame| self.system.swap().is_some_and(|swap| swap.slot_of(frame).is_some());
        let since =
            entry.is_writable() || entry.is_protected() || entry.frame().is_some_and(came_back);
        self.release_place_of(entry)?;
        Ok(entry.owner() == Owner::Process
            && since
            && self.is_only_owner(entry)
            && self.is_kept(entry))
    }
}

/// What a large entry maps that moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Huge {
    Zeros,
    Own,
}

/// A page that is to be moved.
struct Step {
    to: VirtAddr,
    from: VirtAddr,
    holes: Holes,
}

/// An entry as it is once it has moved to a VMA.
fn moved(vma: &Vma, old: Entry) -> Entry {
    let entry = old.unprotected();
    if entry.frame().is_none() {
        return entry;
    }
    let access = match entry.owner() {
        Owner::Process => entry_access(vma.flags, Owner::Process),
        Owner::Backing => entry_access(vma.flags, Owner::Backing) - Access::WRITE,
    };
    entry.with_access(access).asked_for().touched(Touch::Read)
}
