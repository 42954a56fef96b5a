//! munmap(2): Linux's `do_vmi_munmap`, `vms_gather_munmap_vmas`, `unmap_region`, `free_pgtables`.

use super::AddressSpace;
use super::adjust::NewHalf;
use crate::addr::{PageRange, TASK_SIZE, VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::FlushBatch;
use crate::vma::VmFlags;

/// What lies in a range that is to be unmapped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gathered {
    /// Pages mapped.
    pub(super) pages: u64,
    /// Pages promised.
    pub(super) committed: u64,
}

impl AddressSpace {
    /// Unmaps all pages of the range; holes in it are no error.
    ///
    /// # Errors
    /// In this order: `EINVAL` address unaligned, length 0, or the range passes the end of the user
    /// half; `ENOMEM` a VMA would have to be cut in two and there are `max_map_count` already; `EPERM`
    /// a VMA is sealed. On an error nothing is unmapped, but the first VMA may have been cut.
    /// Source: munmap(2), `do_vmi_munmap` in Linux's `mm/vma.c`.
    pub fn munmap(&mut self, addr: VirtAddr, len: u64) -> CallResult<()> {
        if !addr.is_page_aligned()
            || addr > VirtAddr::TASK_END
            || len > TASK_SIZE - addr.get().min(TASK_SIZE)
        {
            return Err(Errno::EINVAL.into());
        }
        let len = page_align(len).ok_or(Errno::EINVAL)?;
        let range = PageRange::from_len(addr, len).ok_or(Errno::EINVAL)?;
        self.unmap(range)
    }

    /// munmap of a range that is one.
    pub(super) fn unmap(&mut self, range: PageRange) -> CallResult<()> {
        self.reserve(2)?;
        let old = self.gather(range)?;
        if old.pages == 0 {
            return Ok(());
        }
        let mut batch = FlushBatch::new();
        self.remove_gathered(range, &mut batch);
        self.system.uncommit(old.committed);
        self.finish(batch)?;
        Ok(())
    }

    /// Cuts VMAs at the ends of the range, so that each is wholly inside or wholly outside, and counts
    /// those inside. The tree must have room for two more.
    pub(super) fn gather(&mut self, range: PageRange) -> CallResult<Gathered> {
        self.vmas.aim(range.start());
        let Some(first) = self.vmas.find_intersection(range) else {
            return Ok(Gathered::default());
        };
        if first.range().start() < range.start() {
            // One VMA that becomes two, and no VMA that goes: the count would stay above its limit.
            if range.end() < first.range().end() && self.vmas.len() >= self.max_map_count() {
                return Err(Errno::ENOMEM.into());
            }
            if first.flags.contains(VmFlags::SEALED) {
                return Err(Errno::EPERM.into());
            }
            self.split_at(range.start(), NewHalf::Lower)?;
        }
        let mut gathered = Gathered::default();
        let mut end = range.end();
        for vma in self.vmas.range(range) {
            if vma.flags.contains(VmFlags::SEALED) {
                return Err(Errno::EPERM.into());
            }
            let pages = vma.range().intersect(range).map_or(0, PageRange::pages);
            gathered.pages += pages;
            if vma.flags.contains(VmFlags::ACCOUNT) {
                gathered.committed += pages;
            }
            end = vma.range().end();
        }
        if end > range.end() {
            self.split_at(range.end(), NewHalf::Upper)?;
        }
        Ok(gathered)
    }

    /// Removes VMAs and pages of a range whose ends are VMA boundaries.
    pub(super) fn remove_gathered(&mut self, range: PageRange, batch: &mut FlushBatch) {
        self.note_unmapped(range);
        self.invalidate(range, Invalidation::Unmap, |space| {
            space.tell_files_unmapped(range);
            space.zap(range, batch);
            space.table.vacate(range);
        });
        self.remove_vmas(range);
    }

    /// Tells that the files' memory in a range is being unmapped, whose ends are VMA boundaries.
    pub(super) fn tell_files_unmapped(&self, range: PageRange) {
        let Some(observer) = self.system.observer() else { return };
        for vma in self.vmas.range(range).filter(|vma| vma.backing.is_some()) {
            observer.file_unmapped(vma, vma.range());
        }
    }

    /// Changes entries of a range so that translations become invalid, and tells so before and after.
    pub(super) fn invalidate<T>(
        &self,
        range: PageRange,
        why: Invalidation,
        change: impl FnOnce(&Self) -> T,
    ) -> T {
        self.system.invalidate(range, why, || change(self))
    }

    /// Removes the VMAs of a range whose ends are VMA boundaries, and whose pages are gone already.
    pub(super) fn remove_vmas(&mut self, range: PageRange) {
        let mut rest = Some(range);
        while let Some(vma) = rest.and_then(|rest| self.vmas.find_intersection(rest)) {
            let (start, end) = (vma.range().start(), vma.range().end());
            if let Some(vma) = self.vmas.remove(start) {
                self.unlink(&vma);
                self.account.remove(vma.flags, vma.range().pages());
            }
            rest = PageRange::new(end, range.end());
        }
        if let Some(observer) = self.system.observer() {
            observer.unmapped(range);
        }
    }
}
