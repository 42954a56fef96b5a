//! userfaultfd(2) as VMAs feel it: `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER` (Linux's
//! `fs/userfaultfd.c`).

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{PageRange, TASK_SIZE, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::vma::{Userfault, VmFlags, Vma};

/// `UFFDIO_REGISTER_MODE_MISSING`, `_WP` and `_MINOR`.
const MODES: [(u64, VmFlags); 3] =
    [(1, VmFlags::UFFD_MISSING), (2, VmFlags::UFFD_WP), (4, VmFlags::UFFD_MINOR)];

impl AddressSpace {
    /// Has a userfaultfd told of the faults in a range.
    ///
    /// # Errors
    /// In this order: `EINVAL` no mode or an unknown one, range unaligned, empty or outside the user
    /// half; `ENOMEM` nothing mapped from there on; `EINVAL` nothing in the range, or a VMA that cannot;
    /// `EPERM` one that may never be written; `EBUSY` one that another userfaultfd is told of; `ENOMEM`
    /// too many VMAs. Source: UFFDIO_REGISTER(2const), `userfaultfd_register`.
    pub fn userfault_register(
        &mut self,
        uffd: &Arc<Userfault>,
        start: VirtAddr,
        len: u64,
        mode: u64,
    ) -> CallResult<()> {
        let add = MODES
            .into_iter()
            .filter(|(bit, _)| mode & bit != 0)
            .fold(VmFlags::empty(), |flags, (_, flag)| flags | flag);
        if mode & !7 != 0 || mode == 0 {
            return Err(Errno::EINVAL.into());
        }
        let range = Self::userfault_range(start, len)?;
        if self.vmas.find(start).is_none() {
            return Err(Errno::ENOMEM.into());
        }
        let mut some = false;
        for vma in self.vmas.range(range) {
            some = true;
            if !can_userfault(vma, add) {
                return Err(Errno::EINVAL.into());
            }
            if !vma.flags.contains(VmFlags::MAYWRITE) {
                return Err(Errno::EPERM.into());
            }
            if vma.userfault.as_ref().is_some_and(|other| !Arc::ptr_eq(other, uffd)) {
                return Err(Errno::EBUSY.into());
            }
        }
        if !some {
            return Err(Errno::EINVAL.into());
        }
        self.each_part(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            let registered = vma.userfault.is_some() && vma.flags.contains(add);
            if registered {
                return Ok(part.end());
            }
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.flags = old.difference(VmFlags::UFFD) | add;
            changed.userfault = Some(Arc::clone(uffd));
            Ok(space.modify(changed, old)?)
        })
    }

    /// Has no userfaultfd told of the faults in a range any more.
    ///
    /// # Errors
    /// `EINVAL` range unaligned, empty or outside the user half; `ENOMEM` nothing mapped from there on;
    /// `EINVAL` nothing in the range, or a VMA that never could; `ENOMEM` too many VMAs.
    /// Source: UFFDIO_UNREGISTER(2const), `userfaultfd_unregister`.
    pub fn userfault_unregister(&mut self, start: VirtAddr, len: u64) -> CallResult<()> {
        let range = Self::userfault_range(start, len)?;
        if self.vmas.find(start).is_none() {
            return Err(Errno::ENOMEM.into());
        }
        let mut some = false;
        for vma in self.vmas.range(range) {
            some = true;
            if !can_userfault(vma, vma.flags & VmFlags::UFFD) {
                return Err(Errno::EINVAL.into());
            }
        }
        if !some {
            return Err(Errno::EINVAL.into());
        }
        self.each_part(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.userfault.is_none() {
                return Ok(part.end());
            }
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.flags = old.difference(VmFlags::UFFD);
            changed.userfault = None;
            Ok(space.modify(changed, old)?)
        })
    }

    /// Linux's `validate_range`.
    fn userfault_range(start: VirtAddr, len: u64) -> Result<PageRange, Errno> {
        let aligned = start.is_page_aligned() && VirtAddr::new(len).is_page_aligned() && len > 0;
        let inside = start.get() < TASK_SIZE && len <= TASK_SIZE - start.get();
        let range = PageRange::from_len(start, len).filter(|_| aligned && inside);
        range.ok_or(Errno::EINVAL)
    }

    /// [`Self::walk`], where holes are no error.
    fn each_part(
        &mut self,
        range: PageRange,
        mut visit: impl FnMut(&mut Self, PageRange) -> CallResult<VirtAddr>,
    ) -> CallResult<()> {
        let mut at = range.start();
        while let Some(rest) = PageRange::new(at, range.end()) {
            let Some(vma) = self.vmas.find_intersection(rest) else { break };
            let Some(part) = vma.range().intersect(rest) else { break };
            at = visit(self, part)?.max(part.end());
        }
        Ok(())
    }
}

/// Linux's `vma_can_userfault`: anonymous memory for missing and write-protected pages; shared memory
/// for all three.
fn can_userfault(vma: &Vma, flags: VmFlags) -> bool {
    if vma.flags.contains(VmFlags::DROPPABLE) {
        return false;
    }
    match &vma.backing {
        None => !flags.contains(VmFlags::UFFD_MINOR),
        Some(backing) => backing.is_shared_memory(),
    }
}
