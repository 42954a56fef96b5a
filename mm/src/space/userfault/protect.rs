//! `UFFDIO_WRITEPROTECT`: the first write of a page is told (Linux's `mwriteprotect_range`, `uffd_wp_range`).
//!
//! ```text
//!                      protected                         not any more
//!   a page             marked, may not be written        may be, by whom nobody shares it with
//!   in the swap area   marked, and so when it is back    not marked
//!   nothing            a mark alone, of an object's      nothing
//!                      memory or with WP_UNPOPULATED
//! ```

use std::sync::atomic::Ordering;

use crate::addr::{PAGE_BYTES, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch};
use crate::space::AddressSpace;
use crate::userfault::Features;
use crate::vma::{VmFlags, Vma};

/// Whether the first write of a page is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// It is (`UFFDIO_WRITEPROTECT_MODE_WP`).
    On,
    /// It is not.
    Off,
}

impl AddressSpace {
    /// Has the first write of each page of a range told, or not any more. Holes are no error.
    ///
    /// # Errors
    /// `ENOENT` a VMA that is not registered for that, with those before it done, or none at all; `EINVAL` a part of a
    /// page of the pool; `ENOMEM` no memory for a table. Source: UFFDIO_WRITEPROTECT(2const), `mwriteprotect_range`.
    pub fn userfault_protect(
        &mut self,
        range: PageRange,
        protection: Protection,
    ) -> CallResult<()> {
        let mut result = Err(Errno::ENOENT.into());
        let mut batch = FlushBatch::new();
        for vma in self.vmas.range(range) {
            let Some(part) = vma.range().intersect(range) else { continue };
            result = self.protect_part(vma, part, protection, &mut batch);
            if result.is_err() {
                break;
            }
        }
        self.finish(batch)?;
        result
    }

    fn protect_part(
        &self,
        vma: &Vma,
        part: PageRange,
        protection: Protection,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        if !vma.flags.contains(VmFlags::UFFD_WP) {
            return Err(Errno::ENOENT.into());
        }
        if vma.flags.contains(VmFlags::HUGETLB) {
            return Err(Errno::EINVAL.into());
        }
        self.split_ends(part)?;
        match protection {
            Protection::On => {
                if uses_markers(vma) {
                    self.mark_nothing(part, batch)?;
                }
                self.invalidate(part, Invalidation::Protection, |space| {
                    space.protect_pages(part, batch);
                });
            }
            Protection::Off => self.end_protection(part, vma.flags, batch),
        }
        Ok(())
    }

    /// Has nobody told of writes in a part of a VMA with those flags (`uffd_wp_range`): the next write is no fault, but
    /// where it has to be noted.
    pub(super) fn end_protection(&self, part: PageRange, flags: VmFlags, batch: &mut FlushBatch) {
        self.forget_protection(part);
        if !flags.contains(VmFlags::HUGETLB) {
            self.change_pages(part, flags, batch);
        }
    }

    /// Marks what is there.
    fn protect_pages(&self, part: PageRange, batch: &mut FlushBatch) {
        for large in self.table.large_in(part) {
            let old = large.update(Entry::protected);
            if let Some(run) = large.run().filter(|_| old.is_writable() && old.is_accessed()) {
                batch.write_protected_run(run);
            }
        }
        for leaf in self.table.cursor(part) {
            let protected = |raw| {
                let entry = Entry::new(raw);
                (raw != 0 && !entry.is_marker()).then(|| entry.protected().raw())
            };
            let changed = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, protected);
            let Ok(old) = changed.map(Entry::new) else { continue };
            if let Some(frame) = old.frame().filter(|_| old.is_writable() && old.is_accessed()) {
                batch.write_protected(frame);
            }
        }
    }

    /// Puts marks where nothing is. Large entries of objects go: what is there comes again, small.
    fn mark_nothing(&self, part: PageRange, batch: &mut FlushBatch) -> CallResult<()> {
        self.split_large(part)?;
        let mut tables = part.start().table_floor().get();
        while tables < part.end().get() {
            self.ensure_table(VirtAddr::new(tables.max(part.start().get())))?;
            tables += TABLE_SPAN;
        }
        self.settle_files(part, batch);
        let _still = self.table.hold_still();
        let pages = (part.start().get()..part.end().get()).step_by(PAGE_BYTES);
        for page in pages.map(VirtAddr::new) {
            let Some(slot) = self.table.slot_to_fill(page) else { continue };
            // What is there is marked as what it is.
            let _ = slot.compare_exchange(
                Entry::EMPTY.raw(),
                Entry::PROTECTION.raw(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
        Ok(())
    }

    /// Has nobody told of writes in a range. Permissions stay as they are: who writes asks for them.
    pub(in crate::space) fn forget_protection(&self, part: PageRange) {
        for large in self.table.large_in(part) {
            large.update(Entry::unprotected);
        }
        for leaf in self.table.cursor(part) {
            let clear = |raw| {
                let entry = Entry::new(raw);
                entry.is_protected().then(|| entry.unprotected().raw())
            };
            let _ = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, clear);
        }
    }
}

/// Whether pages that are not there can be protected (`userfaultfd_wp_use_markers`).
fn uses_markers(vma: &Vma) -> bool {
    let unpopulated = Features::WP_UNPOPULATED | Features::WP_ASYNC;
    vma.backing.is_some() || vma.userfault().is_some_and(|uffd| uffd.has(unpopulated))
}
