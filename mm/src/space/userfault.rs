//! userfaultfd(2) as VMAs feel it: `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER` (Linux's
//! `fs/userfaultfd.c`).

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
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
    /// half; `ENOMEM` nothing mapped from there on; `EINVAL` nothing in the range, a start within a huge
    /// page of the first VMA, or a VMA that cannot; `EINVAL` an end within one of its huge pages;
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
        let range = self.userfault_range(start, len)?;
        for vma in self.vmas.range(range) {
            if !can_userfault(vma, add) {
                return Err(Errno::EINVAL.into());
            }
            if !vma.flags.contains(VmFlags::MAYWRITE) {
                return Err(Errno::EPERM.into());
            }
            if range.end() <= vma.range().end() && !is_page_of(vma, range.end()) {
                return Err(Errno::EINVAL.into());
            }
            if vma.userfault().is_some_and(|other| !Arc::ptr_eq(other, uffd)) {
                return Err(Errno::EBUSY.into());
            }
        }
        // From here on a first touch is told of.
        self.settle(range)?;
        // Holes are no error.
        let _ = self.walk_parts(range.into(), |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            let registered = vma.userfault().is_some() && vma.flags.contains(add);
            if registered {
                return Ok(part.end());
            }
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.flags = old.difference(VmFlags::UFFD) | add;
            changed.set_userfault(Some(Arc::clone(uffd)));
            space.modify(changed, old)
        })?;
        Ok(())
    }

    /// Has no userfaultfd told of the faults in a range any more.
    ///
    /// # Errors
    /// `EINVAL` range unaligned, empty or outside the user half; `ENOMEM` nothing mapped from there on;
    /// `EINVAL` nothing in the range, or a VMA that never could; `ENOMEM` too many VMAs.
    /// Source: UFFDIO_UNREGISTER(2const), `userfaultfd_unregister`.
    pub fn userfault_unregister(&mut self, start: VirtAddr, len: u64) -> CallResult<()> {
        let range = self.userfault_range(start, len)?;
        for vma in self.vmas.range(range) {
            if !can_userfault(vma, vma.flags & VmFlags::UFFD) {
                return Err(Errno::EINVAL.into());
            }
        }
        // Holes are no error.
        let _ = self.walk_parts(range.into(), |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.userfault().is_none() {
                return Ok(part.end());
            }
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.flags = old.difference(VmFlags::UFFD);
            changed.set_userfault(None);
            space.modify(changed, old)
        })?;
        Ok(())
    }

    /// Linux's `validate_range`, and that something is mapped there.
    fn userfault_range(&self, start: VirtAddr, len: u64) -> Result<PageRange, Errno> {
        let aligned = start.is_page_aligned() && VirtAddr::new(len).is_page_aligned();
        let range = PageRange::from_len(start, len).filter(|_| aligned).ok_or(Errno::EINVAL)?;
        self.vmas.find(start).ok_or(Errno::ENOMEM)?;
        let first = self.vmas.find_intersection(range);
        first.filter(|vma| is_page_of(vma, start)).map(|_| range).ok_or(Errno::EINVAL)
    }
}

/// Whether an address, which may lie outside, is a multiple of the VMA's pages.
fn is_page_of(vma: &Vma, addr: VirtAddr) -> bool {
    addr.get().is_multiple_of(vma.page_size())
}

/// Linux's `vma_can_userfault`: anonymous memory for missing and write-protected pages; shared memory
/// and huge pages for all three.
fn can_userfault(vma: &Vma, flags: VmFlags) -> bool {
    if vma.flags.contains(VmFlags::DROPPABLE) {
        return false;
    }
    match &vma.backing {
        None => !flags.contains(VmFlags::UFFD_MINOR),
        Some(backing) => backing.is_shared_memory() || vma.flags.contains(VmFlags::HUGETLB),
    }
}
