//! Addresses and ranges as types, so that a byte count is never taken for an address and an
//! unaligned range cannot be written down.

use std::fmt;
use std::num::NonZeroU64;

/// Bytes in the smallest page, as an exponent of two.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in the smallest page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The same as a length of buffers.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// Bytes that one last-level table maps (512 pages), also the size of a large page.
pub const TABLE_SPAN: u64 = PAGE_SIZE * 512;
/// The end of the user half: Linux's `TASK_SIZE_MAX` with four-level paging. The last page below
/// the canonical hole is never mapped (`SYSRET` with a non-canonical RIP faults in ring 0 on Intel).
pub const TASK_SIZE: u64 = (1 << 47) - PAGE_SIZE;

/// Rounds a length in bytes up to whole pages; `None` where that overflows (Linux's `PAGE_ALIGN`
/// would give 0).
#[must_use]
pub fn page_align(len: u64) -> Option<u64> {
    len.checked_add(PAGE_SIZE - 1).map(|l| l & !(PAGE_SIZE - 1))
}

/// A number as an index or a length: the host has 64 bits, as the guest has.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "asserted here")]
pub const fn index(number: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) }
    number as usize
}

/// The lower half of a word: what counts of an `unsigned int` that came in a register.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "it is what this is for")]
pub const fn low_half(word: u64) -> u32 {
    word as u32
}

/// A virtual address of the guest, in bytes, of any alignment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// Address zero.
    pub const ZERO: VirtAddr = VirtAddr(0);
    /// The first address past the user half.
    pub const TASK_END: VirtAddr = VirtAddr(TASK_SIZE);

    /// Wraps a raw address.
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        VirtAddr(addr)
    }

    /// The raw address.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The start of the page this address lies in.
    #[must_use]
    pub const fn page_floor(self) -> Self {
        VirtAddr(self.0 & !(PAGE_SIZE - 1))
    }

    /// The first address that the same last-level table, or large entry, maps: a multiple of 2 MiB.
    #[must_use]
    pub const fn table_floor(self) -> Self {
        VirtAddr(self.0 & !(TABLE_SPAN - 1))
    }

    /// This address rounded up to a page, or `None` past the end of the address space.
    #[must_use]
    pub fn page_ceil(self) -> Option<Self> {
        page_align(self.0).map(VirtAddr)
    }

    /// Bytes from the start of the page.
    #[must_use]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// Bytes from this address to the end of its page: 1 at least.
    #[must_use]
    pub const fn left_in_page(self) -> usize {
        PAGE_BYTES - index(self.page_offset())
    }

    /// Whether this is a multiple of the page size.
    #[must_use]
    pub const fn is_page_aligned(self) -> bool {
        self.page_offset() == 0
    }

    /// This address plus `bytes`, or `None` on overflow.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(VirtAddr)
    }

    /// This address minus `bytes`, or `None` below zero.
    #[must_use]
    pub fn checked_sub(self, bytes: u64) -> Option<Self> {
        self.0.checked_sub(bytes).map(VirtAddr)
    }

    /// This address plus `bytes`; the caller knows that it does not overflow.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        VirtAddr(self.0 + bytes)
    }

    /// Bytes from `origin` to this address; `origin` is not above it.
    #[must_use]
    pub const fn bytes_from(self, origin: VirtAddr) -> u64 {
        self.0 - origin.0
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An address in the guest's physical memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPhysAddr(u64);

impl GuestPhysAddr {
    /// Wraps a raw guest-physical address.
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        GuestPhysAddr(addr)
    }

    /// The raw address.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame this address lies in.
    #[must_use]
    pub const fn frame(self) -> Frame {
        Frame(self.0 >> PAGE_SHIFT)
    }

    /// Bytes from the start of the frame.
    #[must_use]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl fmt::Debug for GuestPhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpa {:#x}", self.0)
    }
}

/// The number of a place in the swap area, which holds a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SwapSlot(u64);

impl SwapSlot {
    /// Wraps a number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        SwapSlot(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The place `count` further on.
    #[must_use]
    pub const fn offset(self, count: u64) -> Self {
        SwapSlot(self.0 + count)
    }
}

/// A page frame number: a guest-physical address divided by the page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(u64);

impl Frame {
    /// Wraps a page frame number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Frame(number)
    }

    /// The page frame number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The frame's first byte.
    #[must_use]
    pub const fn addr(self) -> GuestPhysAddr {
        GuestPhysAddr(self.0 << PAGE_SHIFT)
    }

    /// The frame `count` further on.
    #[must_use]
    pub const fn offset(self, count: u64) -> Self {
        Frame(self.0 + count)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.0)
    }
}

/// A run of physically contiguous frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRun {
    /// The first frame.
    pub start: Frame,
    /// How many frames.
    pub count: u64,
}

/// Whole pages of virtual addresses, half open: `start` is in it, `end` is not. Never empty, never
/// past the user half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    start: VirtAddr,
    /// Above the start, and so not 0: an `Option` of a range takes no more room.
    end: NonZeroU64,
}

impl PageRange {
    /// From two page-aligned bounds; `None` if they are unaligned, empty, reversed or past
    /// [`TASK_SIZE`].
    #[must_use]
    pub fn new(start: VirtAddr, end: VirtAddr) -> Option<Self> {
        let aligned = start.is_page_aligned() && end.is_page_aligned();
        let fits = aligned && start < end && end <= VirtAddr::TASK_END;
        NonZeroU64::new(end.0).filter(|_| fits).map(|end| PageRange { start, end })
    }

    /// From a page-aligned start and a length in bytes, rounded up to pages.
    #[must_use]
    pub fn from_len(start: VirtAddr, len: u64) -> Option<Self> {
        PageRange::new(start, start.checked_add(page_align(len)?)?)
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// The first address past the range.
    #[must_use]
    pub const fn end(self) -> VirtAddr {
        VirtAddr(self.end.get())
    }

    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u64 {
        self.end.get() - self.start.0
    }

    /// Length in pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.len() >> PAGE_SHIFT
    }

    /// Whether the address lies inside.
    #[must_use]
    pub fn contains(self, addr: VirtAddr) -> bool {
        self.start <= addr && addr < self.end()
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub fn covers(self, other: PageRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether any page is in both.
    #[must_use]
    pub fn overlaps(self, other: PageRange) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// The pages in both, if any.
    #[must_use]
    pub fn intersect(self, other: PageRange) -> Option<PageRange> {
        PageRange::new(self.start.max(other.start), self.end().min(other.end()))
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start.0, self.end.get())
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start.0, self.end.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_align_rounds_up_and_tells_overflow() {
        assert_eq!(page_align(0), Some(0));
        assert_eq!(page_align(1), Some(4096));
        assert_eq!(page_align(4096), Some(4096));
        assert_eq!(page_align(u64::MAX), None);
    }

    #[test]
    fn a_range_is_aligned_nonempty_and_in_the_user_half() {
        let at = VirtAddr::new;
        assert!(PageRange::new(at(0x1000), at(0x1000)).is_none());
        assert!(PageRange::new(at(0x2000), at(0x1000)).is_none());
        assert!(PageRange::new(at(0x1001), at(0x2000)).is_none());
        assert!(PageRange::new(at(0x1000), at(TASK_SIZE + 4096)).is_none());
        assert!(PageRange::from_len(at(0x1000), u64::MAX).is_none());
        assert_eq!(PageRange::from_len(at(0x1000), 1).map(PageRange::pages), Some(1));
    }
}
