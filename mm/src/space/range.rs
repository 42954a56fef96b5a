//! Ranges as calls name them. They may pass the user half, where nothing is ever mapped, and begin and
//! end at pages.

use super::AddressSpace;
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr, page_align};
use crate::error::{CallResult, Errno};

/// A range that is not empty and does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CallRange {
    start: VirtAddr,
    end: VirtAddr,
}

/// Whether all of a range was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coverage {
    /// All of it.
    Whole,
    /// Not all.
    Holes,
}

impl CallRange {
    /// `len` bytes, rounded up to pages, at an aligned address; `None` if it is empty.
    ///
    /// # Errors
    /// `EINVAL`: unaligned, the length cannot be rounded, or the range wraps.
    pub(super) fn aligned(addr: VirtAddr, len: u64) -> Result<Option<Self>, Errno> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL);
        }
        CallRange::of_pages(addr, page_align(len).ok_or(Errno::EINVAL)?)
    }

    /// The same for a call to which a length that cannot be rounded is 0.
    ///
    /// # Errors
    /// `EINVAL`: unaligned, or the range wraps.
    pub(super) fn wrapped(addr: VirtAddr, len: u64) -> Result<Option<Self>, Errno> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL);
        }
        CallRange::of_pages(addr, page_align(len).unwrap_or(0))
    }

    /// Whole pages; `None` if it is empty.
    ///
    /// # Errors
    /// `EINVAL`: the range wraps.
    pub(super) fn of_pages(start: VirtAddr, len: u64) -> Result<Option<Self>, Errno> {
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        Ok((start < end).then_some(CallRange { start, end }))
    }

    /// The first address.
    pub(super) fn start(self) -> VirtAddr {
        self.start
    }

    /// The first address past it.
    pub(super) fn end(self) -> VirtAddr {
        self.end
    }

    /// Its part in the user half.
    pub(super) fn user_half(self) -> Option<PageRange> {
        PageRange::new(self.start, self.end.min(VirtAddr::TASK_END))
    }

    /// Its part in a VMA, from `at` on.
    fn part_of(self, vma: PageRange, at: VirtAddr) -> Option<PageRange> {
        PageRange::new(vma.start().max(at), vma.end().min(self.end))
    }
}

impl From<PageRange> for CallRange {
    fn from(range: PageRange) -> Self {
        CallRange { start: range.start(), end: range.end() }
    }
}

/// The pages that `len` bytes at an unaligned `addr` touch (Linux's rounding in `mlock`, whose sum may
/// wrap to nothing).
pub(super) fn touched(addr: VirtAddr, len: u64) -> (VirtAddr, u64) {
    let inside = addr.get() % PAGE_SIZE;
    let len = len.wrapping_add(inside).wrapping_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    (addr.page_floor(), len)
}

impl AddressSpace {
    /// Visits the parts of VMAs in a range, upwards; `visit` answers where the VMA ends that the part
    /// is in then. Holes are passed over (Linux's `madvise_walk_vmas`).
    ///
    /// # Errors
    /// The first of a visit; at the end `ENOMEM` if there was a hole.
    pub(super) fn walk(
        &mut self,
        range: CallRange,
        visit: impl FnMut(&mut Self, PageRange) -> CallResult<VirtAddr>,
    ) -> CallResult<()> {
        match self.walk_parts(range, visit)? {
            Coverage::Whole => Ok(()),
            Coverage::Holes => Err(Errno::ENOMEM.into()),
        }
    }

    /// The same where holes are no error.
    ///
    /// # Errors
    /// The first of a visit.
    pub(super) fn walk_parts(
        &mut self,
        range: CallRange,
        mut visit: impl FnMut(&mut Self, PageRange) -> CallResult<VirtAddr>,
    ) -> CallResult<Coverage> {
        let (mut at, mut coverage) = (range.start, Coverage::Whole);
        while at < range.end {
            self.vmas.aim(at);
            let next = self.vmas.find_range(at).filter(|next| next.start() < range.end);
            let Some(next) = next else { return Ok(Coverage::Holes) };
            if next.start() > at {
                coverage = Coverage::Holes;
            }
            let part = range.part_of(next, at).ok_or(Errno::ENOMEM)?;
            at = visit(self, part)?.max(part.end());
        }
        Ok(coverage)
    }

    /// Whether all of a range is mapped.
    pub(super) fn coverage(&self, range: CallRange) -> Coverage {
        let mut at = range.start;
        while at < range.end {
            match self.vmas.find_exact(at) {
                Some(vma) => at = vma.range().end(),
                None => return Coverage::Holes,
            }
        }
        Coverage::Whole
    }
}
