//! Faulting in ahead of the touch (Linux's `mm_populate`, `populate_vma_page_range`,
//! `faultin_page_range`).

use std::sync::atomic::Ordering;

use super::range::CallRange;
use super::{AddressSpace, Resolved};
use crate::addr::{PAGE_BYTES, PageRange, VirtAddr};
use crate::error::{AccessError, Broken, CallResult, Errno, Fault};
use crate::paging::{AccessKind, Entry};
use crate::phys::{FrameKind, Marks};
use crate::userfault::Served;
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// Brings in the pages of the range, and stops in each VMA at the first page that cannot be had:
    /// mmap(2) does not report it.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub(super) fn populate_all(&self, range: PageRange) -> Result<(), Broken> {
        for vma in self.vmas.range(range) {
            if let Some(part) = vma.range().intersect(range) {
                let _ = self.populate_part(vma, part)?;
            }
        }
        Ok(())
    }

    /// Brings in the pages of a range that mlock(2) has just locked.
    ///
    /// # Errors
    /// `ENOMEM` a page that cannot be touched, `EAGAIN` no memory for one: mlock's answers.
    pub(super) fn populate_locked(&self, range: CallRange) -> CallResult<()> {
        let Some(range) = range.user_half() else { return Ok(()) };
        for vma in self.vmas.range(range) {
            let Some(part) = vma.range().intersect(range) else { continue };
            match self.populate_part(vma, part)? {
                None => {}
                Some(fault) => return Err(not_locked(fault).into()),
            }
        }
        Ok(())
    }

    /// The entry of a page, also where a large one maps it.
    pub(super) fn entry_at(&self, page: VirtAddr) -> Entry {
        if let Some(large) = self.table.large(page) {
            return large.entry.page_at(page);
        }
        let slot = self.table.slot(page);
        slot.map_or(Entry::EMPTY, |slot| Entry::new(slot.load(Ordering::Acquire)))
    }

    /// The pages of a part of one VMA, for writing where it is private and writable. Answers with the
    /// fault that stopped it.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub(super) fn populate_part(
        &self,
        vma: &Vma,
        part: PageRange,
    ) -> Result<Option<Fault>, Broken> {
        if vma.flags.intersects(VmFlags::LOCKONFAULT | VmFlags::IO | VmFlags::PFNMAP) {
            return Ok(None);
        }
        let kind = populated_for(vma);
        for page in pages(part) {
            match self.populate_page(vma, page, kind) {
                Ok(()) => {}
                Err(AccessError::Fault(fault)) => return Ok(Some(fault)),
                Err(AccessError::Broken(broken)) => return Err(broken),
            }
        }
        Ok(None)
    }

    /// Whether a page is there, for such an access.
    fn is_populated(&self, page: VirtAddr, kind: AccessKind) -> bool {
        let entry = self.entry_at(page);
        !entry.is_ahead() && entry.access().contains(kind.needed())
    }

    /// The first page in a range that is to be populated, of memory that others bring in, and for what.
    pub(super) fn next_to_populate(
        &self,
        range: PageRange,
        populate: Populate,
    ) -> Option<(VirtAddr, AccessKind)> {
        let brought = |vma: &&Vma| {
            is_paged(vma) || vma.userfault().is_some_and(|uffd| uffd.served() == Served::All)
        };
        self.vmas.range(range).filter(brought).find_map(|vma| {
            let kind = match populate {
                Populate::Locked if !vma.flags.contains(VmFlags::LOCKED) => return None,
                Populate::Written if !vma.flags.contains(VmFlags::LOCKED | VmFlags::WRITE) => {
                    return None;
                }
                Populate::For(kind) => kind,
                _ if vma.flags.contains(VmFlags::LOCKONFAULT) => return None,
                Populate::Locked | Populate::Written | Populate::Mapped => populated_for(vma),
            };
            let part = vma.range().intersect(range)?;
            pages(part).find(|&page| !self.is_populated(page, kind)).map(|page| (page, kind))
        })
    }

    /// What of a pager's private memory in a range is locked and may not be written.
    pub(super) fn locked_unwritten(&self, addr: VirtAddr, len: u64) -> Vec<PageRange> {
        if !self.locks_something() {
            return Vec::new();
        }
        let end = addr.checked_add(len).and_then(VirtAddr::page_ceil);
        let Some(range) = end.and_then(|end| PageRange::new(addr, end.min(VirtAddr::TASK_END)))
        else {
            return Vec::new();
        };
        let bits = VmFlags::WRITE | VmFlags::SHARED | VmFlags::LOCKED;
        let locked = |vma: &&Vma| is_paged(vma) && vma.flags & bits == VmFlags::LOCKED;
        self.vmas
            .range(range)
            .filter(locked)
            .filter_map(|vma| vma.range().intersect(range))
            .collect()
    }

    /// One page, as `get_user_pages` has it: what is there is not faulted in, and the page remembers what
    /// the entry then does not tell (`follow_page_pte` with `FOLL_TOUCH`).
    fn populate_page(
        &self,
        vma: &Vma,
        page: VirtAddr,
        kind: AccessKind,
    ) -> Result<(), AccessError> {
        let is_watched = vma.flags.intersects(VmFlags::UFFD);
        if !self.is_populated(page, kind) {
            if is_watched && self.populates_later(vma, page, kind)? {
                return Ok(());
            }
            loop {
                match self.fault(page, kind)? {
                    // What came may be protected.
                    Resolved::Done if is_watched && !self.is_populated(page, kind) => {
                        if self.populates_later(vma, page, kind)? {
                            return Ok(());
                        }
                    }
                    Resolved::Done => break,
                    // Who populates has the lock.
                    Resolved::NeedsExclusive => self.make_way_for_page(vma, page)?,
                    // So nobody can be asked: that is left for when it has not (`SharedSpace::populate_paged`).
                    Resolved::NeedsPage | Resolved::ForHandler => return Ok(()),
                }
            }
        }
        let _held = self.hold(page);
        // Nor is it given up between the look and the mark.
        let _still = self.table.hold_still();
        let frames = self.system.frames();
        let entry = self.entry_at(page);
        if let Some(frame) = entry.frame()
            && frames.kind(frame) != Some(FrameKind::Zero)
        {
            let mut marks = Marks::REFERENCED;
            marks.set(Marks::DIRTY, kind == AccessKind::Write && !entry.is_dirty());
            frames.mark_folio(frame, marks);
        }
        Ok(())
    }

    /// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`: as if each page were touched so.
    ///
    /// # Errors
    /// `ENOMEM` a hole, or no memory; `EINVAL` a VMA that forbids the access; `EFAULT` a touch that
    /// would be a signal. Pages before it have been brought in.
    pub(super) fn populate_for(&self, range: CallRange, kind: AccessKind) -> CallResult<()> {
        let mut at = range.start();
        while at < range.end() {
            let vma = self.vmas.find_exact(at).ok_or(Errno::ENOMEM)?;
            let stop = vma.range().end().min(range.end());
            let needed = if kind == AccessKind::Write { VmFlags::WRITE } else { VmFlags::READ };
            let cannot = vma.flags.intersects(VmFlags::IO | VmFlags::PFNMAP);
            if cannot || !vma.flags.contains(needed) {
                return Err(Errno::EINVAL.into());
            }
            let part = PageRange::new(at, stop).ok_or(Errno::ENOMEM)?;
            for page in pages(part) {
                match self.populate_page(vma, page, kind) {
                    Ok(()) => {}
                    Err(AccessError::Fault(fault)) => return Err(not_populated(fault).into()),
                    Err(AccessError::Broken(broken)) => return Err(broken.into()),
                }
            }
            at = stop;
        }
        Ok(())
    }
}

/// What of pagers' memory is brought in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Populate {
    /// What is locked, but for what comes once it is touched.
    Locked,
    /// What is locked and may be written.
    Written,
    /// All of it (`MAP_POPULATE`).
    Mapped,
    /// The same for such accesses (`MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`).
    For(AccessKind),
}

/// What mlock(2) answers where a page cannot be brought in.
pub(crate) fn not_locked(fault: Fault) -> Errno {
    match fault {
        Fault::OutOfMemory(_) => Errno::EAGAIN,
        _ => Errno::ENOMEM,
    }
}

/// What `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE` answer then.
pub(crate) fn not_populated(fault: Fault) -> Errno {
    match fault {
        Fault::OutOfMemory(_) => Errno::ENOMEM,
        Fault::Poisoned(_) => Errno::EHWPOISON,
        _ => Errno::EFAULT,
    }
}

/// For which access the pages of a VMA are brought in ahead of any.
fn populated_for(vma: &Vma) -> AccessKind {
    let private_writable = vma.flags.contains(VmFlags::WRITE) && vma.is_private();
    if private_writable { AccessKind::Write } else { AccessKind::Read }
}

/// Whether a pager is to be asked for its pages.
fn is_paged(vma: &Vma) -> bool {
    vma.backing.as_ref().is_some_and(|backing| backing.is_paged())
}

fn pages(range: PageRange) -> impl Iterator<Item = VirtAddr> {
    (range.start().get()..range.end().get()).step_by(PAGE_BYTES).map(VirtAddr::new)
}
