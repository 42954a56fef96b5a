//! userfaultfd(2) in an address space: `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER`, and the end of a userfaultfd (Linux's
//! `fs/userfaultfd.c`).
//!
//! ```text
//!   asked     is a fault told, and why                                    (`handle_userfault`)
//!   fill      pages for those that wait, from who serves them             UFFDIO_COPY, ZEROPAGE, CONTINUE, POISON
//!   moves     the pages of another range for those that wait               UFFDIO_MOVE
//!   protect   the first write of a page is told                           UFFDIO_WRITEPROTECT
//!   events    what else is told: forks, moves, pages that go              UFFD_FEATURE_EVENT_*
//! ```

mod asked;
mod events;
mod fill;
mod moves;
mod protect;

use std::sync::Arc;

pub(super) use events::Moved;
pub use fill::Filling;
pub use moves::Holes;
pub use protect::Protection;

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::paging::FlushBatch;
use crate::userfault::Userfault;
use crate::vma::{VmFlags, Vma};

/// `UFFDIO_REGISTER_MODE_MISSING`, `_WP` and `_MINOR`.
const MODES: [(u64, VmFlags); 3] =
    [(1, VmFlags::UFFD_MISSING), (2, VmFlags::UFFD_WP), (4, VmFlags::UFFD_MINOR)];

/// What memory the registered range has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registered {
    /// None in pages of the pool.
    Small,
    /// Some in pages of the pool.
    Pooled,
}

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
    ) -> CallResult<Registered> {
        let add = MODES
            .into_iter()
            .filter(|(bit, _)| mode & bit != 0)
            .fold(VmFlags::empty(), |flags, (_, flag)| flags | flag);
        if mode & !7 != 0 || mode == 0 {
            return Err(Errno::EINVAL.into());
        }
        let range = self.userfault_range(start, len)?;
        let mut registered = Registered::Small;
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
            if vma.flags.contains(VmFlags::HUGETLB) {
                registered = Registered::Pooled;
            }
        }
        // From here on a first touch is told of.
        self.settle(range)?;
        self.has_userfaults = true;
        // Holes are no error.
        let _ = self.walk_parts(range.into(), |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            let registered = vma.userfault().is_some() && vma.flags.contains(add);
            if registered {
                return Ok(part.end());
            }
            space.set_userfault(part, Some(uffd), add)
        })?;
        Ok(registered)
    }

    /// Has no userfaultfd told of the faults in a range any more. Those that wait for a missing page in it are tried
    /// again.
    ///
    /// # Errors
    /// `EINVAL` range unaligned, empty or outside the user half; `ENOMEM` nothing mapped from there on;
    /// `EINVAL` nothing in the range, a VMA that never could, or that another userfaultfd is told of; `ENOMEM` too many
    /// VMAs. Source: UFFDIO_UNREGISTER(2const), `userfaultfd_unregister`.
    pub fn userfault_unregister(
        &mut self,
        uffd: &Arc<Userfault>,
        start: VirtAddr,
        len: u64,
    ) -> CallResult<()> {
        let range = self.userfault_range(start, len)?;
        for vma in self.vmas.range(range) {
            if !can_userfault(vma, vma.flags & VmFlags::UFFD) {
                return Err(Errno::EINVAL.into());
            }
            if vma.userfault().is_some_and(|other| !Arc::ptr_eq(other, uffd)) {
                return Err(Errno::EINVAL.into());
            }
        }
        // Holes are no error.
        let _ = self.walk_parts(range.into(), |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.userfault().is_none() {
                return Ok(part.end());
            }
            if vma.flags.contains(VmFlags::UFFD_MISSING) {
                uffd.wake(part);
            }
            space.set_userfault(part, None, VmFlags::empty())
        })?;
        Ok(())
    }

    /// Has nobody told any more of what a userfaultfd was told of, which nobody has open (`userfaultfd_release_all`).
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn userfault_release(&mut self, uffd: &Arc<Userfault>) -> Result<(), Broken> {
        let own = |vma: &&Vma| vma.userfault().is_some_and(|other| Arc::ptr_eq(other, uffd));
        let ranges: Vec<PageRange> = self.vmas.iter().filter(own).map(Vma::range).collect();
        for range in ranges {
            match self.set_userfault(range, None, VmFlags::empty()) {
                Ok(_) => {}
                // Whole VMAs need no other ones.
                Err(CallError::Errno(errno)) => {
                    log::warn!("{range:?} stays registered: {errno}");
                }
                Err(CallError::Broken(broken)) => return Err(broken),
            }
        }
        Ok(())
    }

    /// Gives a part of a VMA another userfaultfd. Returns where the VMA ends that it is part of then.
    fn set_userfault(
        &mut self,
        part: PageRange,
        uffd: Option<&Arc<Userfault>>,
        add: VmFlags,
    ) -> CallResult<VirtAddr> {
        let vma = self.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
        let old = vma.flags;
        let mut changed = vma.part(part);
        changed.flags = old.difference(VmFlags::UFFD) | add;
        changed.set_userfault(uffd.map(Arc::clone));
        if old.contains(VmFlags::UFFD_WP) && !add.contains(VmFlags::UFFD_WP) {
            self.split_ends(part)?;
            let mut batch = FlushBatch::new();
            self.end_protection(part, old, &mut batch);
            self.finish(batch)?;
        }
        self.modify(changed, old)
    }

    /// Has nobody told any more of what happens in a VMA that moves, or was moved to (`userfaultfd_reset_ctx`).
    pub(super) fn drop_userfault(&mut self, start: VirtAddr) {
        let Some(vma) = self.vmas.get(start).filter(|vma| vma.userfault().is_some()) else {
            return;
        };
        if vma.flags.contains(VmFlags::UFFD_WP) {
            self.forget_protection(vma.range());
        }
        self.vmas.update(start, |vma| {
            vma.set_userfault(None);
            vma.flags.remove(VmFlags::UFFD);
        });
    }

    /// Linux's `validate_range`, and that something is mapped there.
    fn userfault_range(&self, start: VirtAddr, len: u64) -> Result<PageRange, Errno> {
        let range = checked_range(start, len)?;
        self.vmas.find(start).ok_or(Errno::ENOMEM)?;
        let first = self.vmas.find_intersection(range);
        first.filter(|vma| is_page_of(vma, start)).map(|_| range).ok_or(Errno::EINVAL)
    }
}

/// The range that an ioctl names (Linux's `validate_range`).
///
/// # Errors
/// `EINVAL` unaligned, empty or outside the user half.
pub(crate) fn checked_range(start: VirtAddr, len: u64) -> Result<PageRange, Errno> {
    let aligned = start.is_page_aligned() && VirtAddr::new(len).is_page_aligned();
    PageRange::from_len(start, len).filter(|_| aligned).ok_or(Errno::EINVAL)
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
