//! A virtual memory area (Linux's `vm_area_struct`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::flags::VmFlags;
use super::tree::Span;
use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr};
use crate::backing::Backing;

/// Which anonymous memory a VMA's written pages belong to (Linux's `anon_vma`). Two VMAs merge only
/// if they agree, or one of them was never written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnonId(std::num::NonZeroU32);

impl AnonId {
    /// Wraps a number; `None` for 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        std::num::NonZeroU32::new(number).map(AnonId)
    }
}

/// A range of pages with one set of flags and one source of bytes.
///
/// `flags`, `range` and `pgoff` are protected by the address space's lock, held exclusively;
/// `anon` is set once, under the lock held shared.
pub struct Vma {
    range: PageRange,
    /// What may be done with it, and how it behaves.
    pub flags: VmFlags,
    /// The page of the backing that the first page shows, in pages. For anonymous memory the page
    /// number of the address where it was first written (Linux's `vm_pgoff`).
    pub pgoff: u64,
    /// Where the bytes come from; `None` for anonymous memory.
    pub backing: Option<Arc<dyn Backing>>,
    anon: AtomicU32,
}

impl Vma {
    /// Anonymous private memory.
    #[must_use]
    pub fn anonymous(range: PageRange, flags: VmFlags) -> Self {
        let pgoff = range.start().get() >> PAGE_SHIFT;
        Vma { range, flags, pgoff, backing: None, anon: AtomicU32::new(0) }
    }

    /// Pages of a backing, from its page `pgoff` on.
    #[must_use]
    pub fn backed(range: PageRange, flags: VmFlags, backing: Arc<dyn Backing>, pgoff: u64) -> Self {
        Vma { range, flags, pgoff, backing: Some(backing), anon: AtomicU32::new(0) }
    }

    /// The addresses.
    #[must_use]
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Which anonymous memory its written pages belong to; `None` before the first write.
    #[must_use]
    pub fn anon(&self) -> Option<AnonId> {
        AnonId::new(self.anon.load(Ordering::Relaxed))
    }

    /// Sets the anonymous memory's identity if it has none yet (Linux's `anon_vma_prepare`).
    pub fn adopt_anon(&self, id: AnonId) {
        let _ = self.anon.compare_exchange(0, id.0.get(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether writes go to fresh memory of the process's own.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::SHARED)
    }

    /// The backing's page that `addr`, inside the VMA, shows.
    #[must_use]
    pub fn page_index(&self, addr: VirtAddr) -> u64 {
        self.pgoff + (addr.bytes_from(self.range.start()) >> PAGE_SHIFT)
    }

    /// The same memory with other bounds inside or outside the old ones; `pgoff` follows the start.
    pub fn resize(&mut self, range: PageRange) {
        let old = self.range.start().get() >> PAGE_SHIFT;
        let new = range.start().get() >> PAGE_SHIFT;
        // Both sides stay below 2^52; a stack that grows down counts its pgoff down with it.
        self.pgoff = self.pgoff.wrapping_add(new).wrapping_sub(old);
        self.range = range;
    }

    /// The part of this memory in `range`, as a VMA of its own.
    #[must_use]
    pub fn part(&self, range: PageRange) -> Self {
        let mut part = self.clone();
        part.resize(range);
        part
    }

    /// The same memory at another address (Linux's `copy_vma`). An anonymous VMA that was never
    /// written to forgets where it came from.
    #[must_use]
    pub fn moved(&self, range: PageRange) -> Self {
        let mut moved = self.clone();
        moved.range = range;
        if self.backing.is_none() && self.anon().is_none() {
            moved.pgoff = range.start().get() >> PAGE_SHIFT;
        }
        moved
    }
}

impl Clone for Vma {
    fn clone(&self) -> Self {
        Vma {
            range: self.range,
            flags: self.flags,
            pgoff: self.pgoff,
            backing: self.backing.clone(),
            anon: AtomicU32::new(self.anon.load(Ordering::Relaxed)),
        }
    }
}

impl Span for Vma {
    fn range(&self) -> PageRange {
        self.range
    }
}

impl fmt::Debug for Vma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} pgoff {:x} anon {:?}", self.range, self.flags, self.pgoff, self.anon())
    }
}
