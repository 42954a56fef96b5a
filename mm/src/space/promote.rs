//! Promoted entries (`paging/promote`): when tables become such, and when they become tables again.
//!
//! ```text
//!   fork ──> a fresh root ── a table of 512 pages side by side, all written ──> one entry
//!   mprotect, munmap, exit, DONTNEED, the next fork, a write by its only owner:    the one entry is changed
//!   a write while others name the pages, and whatever looks at a single page:     a table again    (demote)
//! ```
//!
//! The child has tables: which of its pages it will access must be told apart.

use std::sync::atomic::{AtomicU64, Ordering};

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr, index};
use crate::error::Broken;
use crate::paging::{Entry, FlushBatch};
use crate::phys::BLOCK_FRAMES;
use crate::vma::{VmFlags, Vma};

/// How many promoted entries became tables again by faults since the last fork. Each such flushes everything, so
/// each takes as many more along as there were before.
#[derive(Debug, Default)]
pub(super) struct Demotions(AtomicU64);

impl Demotions {
    /// Begins anew.
    pub(super) fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl AddressSpace {
    /// The tables of a space that is forked which large entries could stand for from now on.
    pub(super) fn promotable(&self, child: &AddressSpace) -> Vec<VirtAddr> {
        if self.system.swap().is_some() {
            // They could not go there.
            return Vec::new();
        }
        let fit = |vma: &&Vma| {
            let unfit = VmFlags::SPECIAL | VmFlags::HUGETLB | VmFlags::UFFD | VmFlags::WIPEONFORK;
            vma.range().pages() >= BLOCK_FRAMES
                && vma.anon().is_some()
                && vma.backing.is_none()
                && !vma.flags.intersects(unfit | VmFlags::DROPPABLE)
        };
        let vmas = child.vmas.iter().filter(fit);
        vmas.flat_map(|vma| self.table.promotable(vma.range())).collect()
    }

    /// Makes the promoted entries of a range tables again, also those that reach beyond it, and flushes.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(super) fn demote(&self, range: PageRange) -> Result<(), Broken> {
        self.split_those(range, Entry::is_promoted)
    }

    /// Makes the promoted entry at `addr` a table again, and others like it, first those above: who writes pages of
    /// a fork now will write more of them.
    pub(super) fn demote_from(&self, addr: VirtAddr, batch: &mut FlushBatch) -> Result<(), Broken> {
        let so_far = self.demotions.0.load(Ordering::Relaxed);
        let above = PageRange::new(addr, VirtAddr::TASK_END);
        let below = PageRange::new(VirtAddr::ZERO, addr);
        let all = above.into_iter().chain(below).flat_map(|range| self.table.large_in(range));
        let shared = all.filter(|large| large.entry.is_promoted() && !large.entry.is_writable());
        let mut count = 0;
        for large in shared.take(index(so_far.max(1))) {
            self.table.split_to_copy(&large, batch)?;
            count += 1;
        }
        self.demotions.0.store(so_far + count, Ordering::Relaxed);
        Ok(())
    }
}
