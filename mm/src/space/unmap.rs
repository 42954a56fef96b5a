//! munmap(2): Linux's `do_vmi_munmap`, `unmap_region`, `free_pgtables`.

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::paging::FlushBatch;
use crate::vma::split::{isolate, splits_needed};

impl AddressSpace {
    /// Unmaps all pages of the range; holes in it are no error.
    ///
    /// # Errors
    /// `EINVAL`: address unaligned, length 0, or the range passes the end of the user half. `ENOMEM`:
    /// a VMA would have to be cut in two and there are `max_map_count` already; nothing has changed.
    /// Source: munmap(2), `do_vmi_munmap` in Linux's `mm/vma.c`.
    pub fn munmap(&mut self, addr: VirtAddr, len: u64) -> CallResult<()> {
        let range = PageRange::from_len(addr, len).ok_or(Errno::EINVAL)?;
        let Some(first) = self.vmas.find_intersection(range) else { return Ok(()) };
        let cut_in_two = first.range().start() < range.start() && first.range().end() > range.end();
        if cut_in_two && self.vmas.len() >= self.limits.max_map_count {
            return Err(Errno::ENOMEM.into());
        }
        let mut batch = FlushBatch::new();
        self.remove_range(range, &mut batch);
        self.finish(batch)?;
        Ok(())
    }

    /// Whether isolating `range` stays within `max_map_count`.
    pub(super) fn may_split(&self, range: PageRange) -> bool {
        self.vmas.len() + splits_needed(&self.vmas, range) <= self.limits.max_map_count
    }

    /// Removes VMAs and pages of the range.
    pub(super) fn remove_range(&mut self, range: PageRange, batch: &mut FlushBatch) {
        self.zap(range, batch);
        self.remove_vmas(range);
        self.system.observer.unmapped(range);
    }

    /// Removes the VMAs of the range, whose pages are gone already.
    pub(super) fn remove_vmas(&mut self, range: PageRange) {
        isolate(&mut self.vmas, range);
        while let Some(vma) = self.vmas.find_intersection(range) {
            let start = vma.range().start();
            if let Some(vma) = self.vmas.remove(start) {
                self.account.remove(vma.flags, vma.range().pages());
            }
        }
    }
}
