//! Faulting in ahead of the touch (Linux's `mm_populate`, `populate_vma_page_range`).

use super::AddressSpace;
use crate::addr::{PAGE_BYTES, PageRange, VirtAddr};
use crate::error::{AccessError, Broken};
use crate::paging::AccessKind;
use crate::vma::VmFlags;

impl AddressSpace {
    /// Brings in the pages of the range, for writing where the VMA is private and writable, and stops
    /// at the first page that cannot be had: mmap(2) does not report it.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub(super) fn populate(&self, range: PageRange) -> Result<(), Broken> {
        for vma in self.vmas.range(range) {
            let Some(part) = vma.range().intersect(range) else { continue };
            let private_writable = vma.flags.contains(VmFlags::WRITE) && vma.is_private();
            let kind = if private_writable { AccessKind::Write } else { AccessKind::Read };
            let pages = (part.start().get()..part.end().get()).step_by(PAGE_BYTES);
            for page in pages.map(VirtAddr::new) {
                match self.fault(page, kind) {
                    Ok(_) => {}
                    Err(AccessError::Fault(_)) => return Ok(()),
                    Err(AccessError::Broken(broken)) => return Err(broken),
                }
            }
        }
        Ok(())
    }
}
