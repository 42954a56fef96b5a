//! shmat(2) and shmdt(2): Linux's `do_shmat`, `ksys_shmdt`.

use std::sync::Arc;

use bitflags::bitflags;

use super::AddressSpace;
use super::link::segment_of;
use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr, page_align};
use crate::backing::{Backing, FileMode, OpenFile};
use crate::error::{CallError, CallResult, Errno};
use crate::segments::Segment;
use crate::space::MapRequest;
use crate::vma::merge::same;
use crate::vma::{MapFlags, MapType, Prot, Vma};

bitflags! {
    /// How a segment is attached (`SHM_*` of shmat(2)). Other bits are ignored.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AttachFlags: u32 {
        /// To be read only, for ever.
        const RDONLY = 0o10_000;
        /// The address is rounded down to a page.
        const RND = 0o20_000;
        /// In the place of what is there.
        const REMAP = 0o40_000;
        /// To be executed, too.
        const EXEC = 0o100_000;
    }
}

impl AttachFlags {
    /// What of a segment's mode they ask for, for everybody.
    #[must_use]
    pub fn asked(self) -> u32 {
        let write = if self.contains(Self::RDONLY) { 0 } else { 0o222 };
        let execute = if self.contains(Self::EXEC) { 0o111 } else { 0 };
        0o444 | write | execute
    }
}

/// Where a segment is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachAt {
    /// Wherever there is room.
    Anywhere,
    /// There, where nothing is.
    Free(VirtAddr),
    /// There, whatever is there.
    Instead(VirtAddr),
}

impl AttachAt {
    /// As shmat(2) has it.
    ///
    /// # Errors
    /// `EINVAL` unaligned, and not to be rounded; [`AttachFlags::REMAP`] without an address.
    pub fn new(addr: VirtAddr, flags: AttachFlags) -> Result<Self, Errno> {
        let place = match addr {
            at if at.is_page_aligned() => at,
            at if flags.contains(AttachFlags::RND) => at.page_floor(),
            _ => return Err(Errno::EINVAL),
        };
        match flags.contains(AttachFlags::REMAP) {
            true if place == VirtAddr::ZERO => Err(Errno::EINVAL),
            true => Ok(AttachAt::Instead(place)),
            false if addr == VirtAddr::ZERO => Ok(AttachAt::Anywhere),
            // Nobody looks there.
            false if place == VirtAddr::ZERO => Ok(AttachAt::Instead(place)),
            false => Ok(AttachAt::Free(place)),
        }
    }
}

impl AddressSpace {
    /// Attaches a segment, all of it, and returns where.
    ///
    /// # Errors
    /// In this order: `EINVAL` the end overflows, or something is there; as of [`mmap`](Self::mmap).
    pub fn attach(
        &mut self,
        segment: &Arc<Segment>,
        at: AttachAt,
        flags: AttachFlags,
    ) -> CallResult<VirtAddr> {
        let (mut prot, mut mode) = (Prot::READ, FileMode::READ);
        if !flags.contains(AttachFlags::RDONLY) {
            prot |= Prot::WRITE;
            mode |= FileMode::WRITE;
        }
        if flags.contains(AttachFlags::EXEC) {
            prot |= Prot::EXEC;
        }
        let len = segment.mapped_len();
        let shared = MapFlags::from(MapType::Shared);
        let (addr, flags) = match at {
            AttachAt::Anywhere => (VirtAddr::ZERO, shared),
            AttachAt::Instead(addr) => (addr, shared | MapFlags::FIXED),
            AttachAt::Free(addr) => {
                addr.checked_add(len).ok_or(Errno::EINVAL)?;
                let taken = PageRange::from_len(addr, len).filter(|_| addr < VirtAddr::TASK_END);
                if taken.is_some_and(|range| self.vmas.find_intersection(range).is_some()) {
                    return Err(Errno::EINVAL.into());
                }
                (addr, shared | MapFlags::FIXED)
            }
        };
        let file: Arc<dyn Backing> = Arc::new(OpenFile::of_segment(Arc::clone(segment), mode));
        self.do_mmap(MapRequest { addr, len, prot, flags, file: Some(file), offset: 0 })
    }

    /// Takes off the segment that was attached at `addr`: of the first VMA from there on that shows what would be there of
    /// a segment at `addr`, and of all later ones of the same shmat(2) that do.
    ///
    /// # Errors
    /// `EINVAL` unaligned, or there is none. Sealed memory stays, without an error.
    pub fn detach(&mut self, addr: VirtAddr) -> CallResult<()> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        let all = PageRange::new(addr, VirtAddr::TASK_END).ok_or(Errno::EINVAL)?;
        let shows = |vma: &Vma| {
            let from = vma.range().start().get().checked_sub(addr.get());
            from.is_some_and(|bytes| bytes >> PAGE_SHIFT == vma.pgoff)
        };
        let first = self.vmas.range(all).find(|vma| segment_of(vma).is_some() && shows(vma));
        let first = first.ok_or(Errno::EINVAL)?;
        let (file, range) = (first.backing.clone(), first.range());
        let len = segment_of(first).map_or(0, Segment::mapped_len);
        self.take_off(range)?;
        // No piece of it lies further away.
        let end = page_align(len).and_then(|len| addr.checked_add(len));
        let end = end.map_or(VirtAddr::TASK_END, |end| end.min(VirtAddr::TASK_END));
        let mut rest = PageRange::new(range.end(), end);
        while let Some(part) = rest {
            let Some(vma) = self.vmas.find_intersection(part) else { break };
            let range = vma.range();
            if range.end() > end {
                break;
            }
            if same(vma.backing.as_ref(), file.as_ref()) && shows(vma) {
                self.take_off(range)?;
            }
            rest = PageRange::new(range.end(), end);
        }
        Ok(())
    }

    fn take_off(&mut self, range: PageRange) -> CallResult<()> {
        match self.unmap(range) {
            Err(CallError::Errno(_)) => Ok(()),
            unmapped => unmapped,
        }
    }
}
