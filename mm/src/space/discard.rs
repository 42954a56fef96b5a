//! The advice that changes what pages hold (Linux's `madvise_dontneed_free`, `madvise_remove`,
//! `madvise_guard_install` and their like).

use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::advise::{Advice, Kind};
use crate::addr::{PAGE_BYTES, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch};
use crate::rules::Rule;
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// Follows advice about the pages of a part of one VMA; says if it is not about pages.
    pub(super) fn advise_pages(
        &self,
        vma: &Vma,
        part: PageRange,
        advice: Advice,
        batch: &mut FlushBatch,
    ) -> CallResult<Kind> {
        let unfit = |flags: VmFlags| {
            if vma.flags.intersects(flags) { Err(Errno::EINVAL) } else { Ok(()) }
        };
        match advice {
            Advice::DontNeed => {
                unfit(VmFlags::LOCKED | VmFlags::PFNMAP)?;
                self.discard_whole(vma, part, batch)?;
            }
            Advice::DontNeedLocked => {
                unfit(VmFlags::PFNMAP)?;
                self.discard_whole(vma, part, batch)?;
            }
            Advice::Free => {
                unfit(VmFlags::LOCKED | VmFlags::PFNMAP)?;
                if !vma.is_anonymous() {
                    return Err(Errno::EINVAL.into());
                }
                self.free_lazily(part, batch)?;
            }
            Advice::Remove => self.remove_pages(vma, part)?,
            Advice::Cold => {
                unfit(VmFlags::LOCKED | VmFlags::PFNMAP | VmFlags::HUGETLB)?;
                self.cool(vma, part, batch)?;
            }
            Advice::PageOut => {
                unfit(VmFlags::LOCKED | VmFlags::PFNMAP | VmFlags::HUGETLB)?;
                self.page_out(vma, part, batch)?;
            }
            Advice::WillNeed => self.swap_in_ahead(vma, part)?,
            Advice::Collapse => self.collapse(vma, part)?,
            Advice::GuardInstall => {
                unfit(VmFlags::SPECIAL | VmFlags::HUGETLB | VmFlags::LOCKED)?;
                self.install_guards(vma, part, batch)?;
            }
            Advice::GuardRemove => {
                unfit(VmFlags::SPECIAL | VmFlags::HUGETLB)?;
                for leaf in self.table.cursor(part) {
                    if leaf.entry.is_guard() {
                        leaf.slot.store(0, Ordering::Release);
                    }
                }
            }
            _ => return Ok(Kind::Flags),
        }
        Ok(Kind::Pages)
    }

    /// Drops whole pages of a part of a VMA. Who counts in ordinary pages may have asked for a part of a
    /// huge one at the end: that one stays.
    fn discard_whole(&self, vma: &Vma, part: PageRange, batch: &mut FlushBatch) -> CallResult<()> {
        let size = vma.page_size();
        if !part.start().get().is_multiple_of(size) {
            return Err(Errno::EINVAL.into());
        }
        let end = VirtAddr::new(part.end().get() & !(size - 1));
        if let Some(whole) = PageRange::new(part.start(), end) {
            self.split_ends(whole)?;
            self.renew_promises(vma, whole);
            self.discard(vma, whole, batch);
        }
        Ok(())
    }

    /// Drops the pages of a range but not its guards: anonymous memory reads as zeros afterwards.
    fn discard(&self, vma: &Vma, range: PageRange, batch: &mut FlushBatch) {
        self.settle_files(range, batch);
        self.invalidate(range, Invalidation::Clear, |space| {
            space.drop_large_in(range, batch);
            let stays = |entry: Entry| entry.is_guard() && self.rule(Rule::Guard);
            for leaf in space.table.cursor(range).filter(|leaf| !stays(leaf.entry)) {
                space.drop_entry(leaf.slot, batch);
                if vma.backing.is_some() && leaf.entry.is_protected() {
                    // Of an object's page it is known when it comes again (`zap_install_uffd_wp_if_needed`).
                    leaf.slot.store(leaf.entry.left_behind().raw(), Ordering::Release);
                }
            }
            space.table.vacate(range);
        });
    }

    /// `MADV_REMOVE`: the pages of the object itself, wherever they are mapped.
    fn remove_pages(&self, vma: &Vma, part: PageRange) -> CallResult<()> {
        let backing = vma.backing.as_ref().filter(|_| !vma.flags.contains(VmFlags::LOCKED));
        let backing = backing.ok_or(Errno::EINVAL)?;
        if !vma.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
            return Err(Errno::EACCES.into());
        }
        let first = vma.page_index(part.start());
        backing.punch(first..first + part.pages(), &self.system)
    }

    /// From here on a touch is `SEGV_MAPERR`. What was there is gone.
    fn install_guards(&self, vma: &Vma, part: PageRange, batch: &mut FlushBatch) -> CallResult<()> {
        if vma.is_anonymous() {
            // Memory with entries of its own has an identity, in Linux too.
            self.prepare_anon(vma)?;
        }
        self.split_large(part)?;
        let mut tables = part.start().table_floor().get();
        while tables < part.end().get() {
            self.ensure_table(VirtAddr::new(tables.max(part.start().get())))?;
            tables += TABLE_SPAN;
        }
        let pages = (part.start().get()..part.end().get()).step_by(PAGE_BYTES).map(VirtAddr::new);
        self.settle_files(part, batch);
        self.invalidate(part, Invalidation::Clear, |space| {
            let _still = space.table.hold_still();
            for page in pages {
                let Some(slot) = space.table.slot_to_fill(page) else { continue };
                space.drop_entry(slot, batch);
                slot.store(Entry::GUARD.raw(), Ordering::Release);
            }
        });
        Ok(())
    }
}
