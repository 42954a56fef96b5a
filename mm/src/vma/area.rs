//! A virtual memory area (Linux's `vm_area_struct`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::flags::VmFlags;
use super::rare::Rare;
use super::tree::Span;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr, low_half};
use crate::backing::Backing;

/// Which anonymous memory a VMA's written pages belong to (Linux's `anon_vma`): a node of the reverse map
/// ([`AnonVmas`](crate::rmap::AnonVmas)). Two VMAs merge only if they agree, or one of them was never
/// written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnonId {
    number: std::num::NonZeroU32,
    lineage: Lineage,
}

/// Whether the memory came to the process by fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lineage {
    /// Its first page was written in this process (in Linux: the VMA's `anon_vma_chain` has one link).
    Own,
    /// It was there when the process was forked. Such memory takes no new neighbours in: it would
    /// burden the ancestors' reverse map with them.
    Inherited,
}

impl AnonId {
    /// Wraps a number; `None` for 0.
    #[must_use]
    pub fn new(number: u32, lineage: Lineage) -> Option<Self> {
        std::num::NonZeroU32::new(number).map(|number| AnonId { number, lineage })
    }

    /// The identity of a node of the reverse map.
    pub(crate) fn of(number: std::num::NonZeroU32, lineage: Lineage) -> Self {
        AnonId { number, lineage }
    }

    /// The number of its node in the reverse map.
    pub(crate) fn number(self) -> u32 {
        self.number.get()
    }

    /// Whether it came by fork.
    #[must_use]
    pub fn lineage(self) -> Lineage {
        self.lineage
    }

    fn to_word(self) -> u64 {
        let inherited = match self.lineage {
            Lineage::Own => 0,
            Lineage::Inherited => 1 << 32,
        };
        u64::from(self.number.get()) | inherited
    }

    fn from_word(word: u64) -> Option<Self> {
        let lineage = if word >> 32 == 0 { Lineage::Own } else { Lineage::Inherited };
        AnonId::new(low_half(word), lineage)
    }
}

/// A range of pages with one set of flags and one source of bytes.
///
/// All fields but one are protected by the address space's lock, held exclusively; the anonymous
/// identity is set once, under the lock held shared. It is one cache line.
#[repr(align(64))]
pub struct Vma {
    range: PageRange,
    /// What may be done with it, and how it behaves.
    pub flags: VmFlags,
    /// The page of the backing that the first page shows, in pages. For anonymous memory the page
    /// number of the address where it was first written (Linux's `vm_pgoff`).
    pub pgoff: u64,
    /// Where the bytes come from, as one open file; `None` for anonymous memory (Linux's `vm_file`).
    pub backing: Option<Arc<dyn Backing>>,
    /// `None` if it would be empty.
    pub(super) rare: Option<Arc<Rare>>,
    anon: AtomicU64,
}

impl Vma {
    /// Anonymous private memory.
    #[must_use]
    pub fn anonymous(range: PageRange, flags: VmFlags) -> Self {
        Vma {
            range,
            flags,
            pgoff: range.start().get() >> PAGE_SHIFT,
            backing: None,
            rare: None,
            anon: AtomicU64::new(0),
        }
    }

    /// Pages of a backing, from its page `pgoff` on.
    #[must_use]
    pub fn backed(range: PageRange, flags: VmFlags, backing: Arc<dyn Backing>, pgoff: u64) -> Self {
        Vma { pgoff, backing: Some(backing), ..Vma::anonymous(range, flags) }
    }

    /// The addresses.
    #[must_use]
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Which anonymous memory its written pages belong to; `None` before the first write.
    #[must_use]
    pub fn anon(&self) -> Option<AnonId> {
        AnonId::from_word(self.anon.load(Ordering::Relaxed))
    }

    /// Sets the anonymous memory's identity if it has none yet (Linux's `anon_vma_prepare`).
    pub fn adopt_anon(&self, id: AnonId) {
        let word = id.to_word();
        let _ = self.anon.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sets or takes away the anonymous memory's identity.
    pub fn set_anon(&mut self, id: Option<AnonId>) {
        *self.anon.get_mut() = id.map_or(0, AnonId::to_word);
    }

    /// The same memory as a child has it, which locks nothing, and of the pool of huge pages is promised nothing
    /// (Linux's `dup_mmap`, `hugetlb_dup_vma_private`). All at once: what is changed after it was written is waited for.
    pub(crate) fn for_child(&self, anon: Option<AnonId>) -> Self {
        Vma {
            range: self.range,
            flags: self.flags - (VmFlags::LOCKED_MASK | VmFlags::UFFD),
            pgoff: self.pgoff,
            backing: self.backing.clone(),
            rare: self.rare.as_ref().and_then(Rare::for_child),
            anon: AtomicU64::new(anon.map_or(0, AnonId::to_word)),
        }
    }

    /// Whether writes go to fresh memory of the process's own.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::SHARED)
    }

    /// Whether there is no backing: private memory of zeros (Linux's `vma_is_anonymous`).
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.backing.is_none()
    }

    /// Bytes of a page of it (Linux's `vma_kernel_pagesize`): more than one of the machine's where it is of
    /// huge pages of the pool.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.backing.as_ref().map_or(PAGE_SIZE, |backing| backing.page_size())
    }

    /// The backing's page that `addr`, inside the VMA, shows.
    #[must_use]
    pub fn page_index(&self, addr: VirtAddr) -> u64 {
        self.pgoff.wrapping_add(addr.bytes_from(self.range.start()) >> PAGE_SHIFT)
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
        if self.is_anonymous() && self.anon().is_none() {
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
            rare: self.rare.clone(),
            anon: AtomicU64::new(self.anon.load(Ordering::Relaxed)),
        }
    }
}

impl Span for Vma {
    fn range(&self) -> PageRange {
        self.range
    }
}

/// Also in the tree, where a range that cannot be 0 tells a slot in use from a vacant one.
#[cfg(not(interleave))]
const _: () = assert!(size_of::<Option<Vma>>() == 64);

impl fmt::Debug for Vma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} pgoff {:x}", self.range, self.flags, self.pgoff)?;
        match self.anon() {
            Some(AnonId { number, lineage }) => write!(f, " anon {number} {lineage:?}"),
            None => Ok(()),
        }
    }
}
