//! mremap(2): Linux's `do_mremap`, `vma_to_resize`, `move_vma`, `move_page_tables`.
//!
//! ```text
//!   shrink:        [AAAAAAAA]        ->  [AAAA]            the tail is unmapped
//!   grow in place: [AAAA]....        ->  [AAAAAAAA]        where nothing is in the way
//!   move:          [AAAA][BB]        ->        [BB] ... [AAAAAAAA]   entries go along, frames stay
//! ```

use std::sync::atomic::Ordering;

use bitflags::bitflags;

use super::AddressSpace;
use crate::addr::{PAGE_SHIFT, PageRange, TASK_SIZE, VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::paging::{Entry, FlushBatch};
use crate::vma::place::{PlaceRequest, PlaceSource, get_unmapped_area};
use crate::vma::split::isolate;
use crate::vma::{MapFlags, VmFlags, Vma};

bitflags! {
    /// `MREMAP_*` of mremap(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RemapFlags: u64 {
        /// The memory may be moved.
        const MAYMOVE = 1;
        /// Exactly to the new address, replacing what is there.
        const FIXED = 2;
        /// The old range stays mapped, empty.
        const DONTUNMAP = 4;
    }
}

/// The arguments of mremap(2).
#[derive(Clone, Copy, Debug)]
pub struct RemapRequest {
    /// Where the memory is.
    pub addr: VirtAddr,
    /// How many bytes it is; rounded up to pages.
    pub old_len: u64,
    /// How many it shall be; rounded up to pages.
    pub new_len: u64,
    /// How.
    pub flags: RemapFlags,
    /// With `FIXED` or `DONTUNMAP`: where to.
    pub new_addr: VirtAddr,
}

/// How many more VMAs than now a move may need while it is under way.
const MOVE_SPARE: usize = 3;

impl AddressSpace {
    /// Resizes or moves memory and returns where it is now.
    ///
    /// # Errors
    /// In this order: `EINVAL` arguments (unaligned, new length 0, target past the end, `FIXED` or
    /// `DONTUNMAP` without `MAYMOVE`, overlap); `EFAULT` nothing mapped there, or the range passes the
    /// end of its VMA; `EINVAL` old length 0 of a private mapping; `EFAULT` a VMA that cannot grow;
    /// `ENOMEM` limits, no room, or it could not grow in place and must not move.
    /// Source: mremap(2), Linux's `mm/mremap.c`.
    pub fn mremap(&mut self, request: &RemapRequest) -> CallResult<VirtAddr> {
        let RemapRequest { addr, flags, new_addr, .. } = *request;
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        // An overflow wraps to 0 in Linux.
        let old_len = page_align(request.old_len).unwrap_or(0);
        let new_len = page_align(request.new_len).unwrap_or(0);
        if new_len == 0 || new_len > TASK_SIZE {
            return Err(Errno::EINVAL.into());
        }
        let elsewhere = flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP);
        if elsewhere {
            check_target(addr, old_len, new_len, flags, new_addr)?;
        }
        let vma = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?.clone();
        if old_len == 0 && !vma.flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
            return Err(Errno::EINVAL.into());
        }
        if elsewhere {
            return self.remap_to(&vma, request, old_len, new_len);
        }
        if new_len <= old_len && old_len > 0 {
            return self.remap_shrink(addr, old_len, new_len);
        }
        self.check_growth(&vma, addr, old_len, new_len)?;
        let old_end = addr.offset(old_len);
        if old_len > 0
            && old_end == vma.range().end()
            && let Some(more) = self.room_above(old_end, new_len - old_len)
        {
            return self.grow_in_place(&vma, addr, more);
        }
        if !flags.contains(RemapFlags::MAYMOVE) {
            return Err(Errno::ENOMEM.into());
        }
        let target = self.place_move(&vma, VirtAddr::ZERO, new_len, MapFlags::empty())?;
        self.move_vma(&vma, addr, old_len, PageRange::from_len(target, new_len), flags)
    }

    fn remap_shrink(&mut self, addr: VirtAddr, old_len: u64, new_len: u64) -> CallResult<VirtAddr> {
        let vma_end = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?.range().end();
        if new_len == old_len {
            // Nothing to do, but the range must be one VMA's.
            let inside = addr.checked_add(old_len).is_some_and(|end| end <= vma_end);
            return if inside { Ok(addr) } else { Err(Errno::EFAULT.into()) };
        }
        if addr.checked_add(new_len).is_none_or(|end| end > vma_end) {
            return Err(Errno::EFAULT.into());
        }
        self.munmap(addr.offset(new_len), old_len - new_len)?;
        Ok(addr)
    }

    /// `MREMAP_FIXED` or `MREMAP_DONTUNMAP`.
    fn remap_to(
        &mut self,
        vma: &Vma,
        request: &RemapRequest,
        old_len: u64,
        new_len: u64,
    ) -> CallResult<VirtAddr> {
        let addr = request.addr;
        let kept = old_len.min(new_len);
        if addr.checked_add(kept).is_none_or(|end| end > vma.range().end()) {
            return Err(Errno::EFAULT.into());
        }
        if new_len > old_len {
            self.check_growth(vma, addr, old_len, new_len)?;
        }
        if self.vmas.len() + MOVE_SPARE >= self.limits.max_map_count {
            return Err(Errno::ENOMEM.into());
        }
        let target = if request.flags.contains(RemapFlags::FIXED) {
            self.munmap(request.new_addr, new_len)?;
            self.place_move(vma, request.new_addr, new_len, MapFlags::FIXED)?
        } else {
            self.place_move(vma, request.new_addr, new_len, MapFlags::empty())?
        };
        if old_len > new_len {
            self.munmap(addr.offset(new_len), old_len - new_len)?;
        }
        let target = PageRange::from_len(target, new_len);
        self.move_vma(vma, addr, kept, target, request.flags)
    }

    /// What Linux's `vma_to_resize` checks before a VMA grows.
    fn check_growth(&self, vma: &Vma, addr: VirtAddr, old: u64, new: u64) -> CallResult<()> {
        if addr.checked_add(old).is_none_or(|end| end > vma.range().end()) {
            return Err(Errno::EFAULT.into());
        }
        if vma.flags.contains(VmFlags::DONTEXPAND) {
            return Err(Errno::EFAULT.into());
        }
        let grown = (new - old) >> PAGE_SHIFT;
        if !self.may_expand(vma.flags, grown) {
            return Err(Errno::ENOMEM.into());
        }
        if vma.flags.contains(VmFlags::ACCOUNT) {
            self.system.guardian.may_commit(grown)?;
        }
        Ok(())
    }

    /// The `len` bytes from `end` on, if nothing is there.
    fn room_above(&self, end: VirtAddr, len: u64) -> Option<PageRange> {
        let more = PageRange::from_len(end, len)?;
        self.vmas.find_intersection(more).is_none().then_some(more)
    }

    fn grow_in_place(
        &mut self,
        vma: &Vma,
        addr: VirtAddr,
        more: PageRange,
    ) -> CallResult<VirtAddr> {
        // The new part goes on where the VMA ends: as a VMA of its own it merges with it.
        let tail = vma.part(more);
        self.insert(tail);
        if vma.flags.contains(VmFlags::LOCKED) {
            self.populate(more)?;
        }
        Ok(addr)
    }

    fn place_move(
        &self,
        vma: &Vma,
        hint: VirtAddr,
        len: u64,
        flags: MapFlags,
    ) -> CallResult<VirtAddr> {
        let source = if vma.backing.is_some() { PlaceSource::File } else { PlaceSource::Anonymous };
        let request = PlaceRequest { hint, len, flags, source };
        Ok(get_unmapped_area(&self.vmas, &self.layout.place, &request)?)
    }

    /// Moves `old_len` bytes at `addr` to the free range `target`.
    fn move_vma(
        &mut self,
        vma: &Vma,
        addr: VirtAddr,
        old_len: u64,
        target: Option<PageRange>,
        flags: RemapFlags,
    ) -> CallResult<VirtAddr> {
        let target = target.ok_or(Errno::ENOMEM)?;
        if self.vmas.len() + MOVE_SPARE >= self.limits.max_map_count {
            return Err(Errno::ENOMEM.into());
        }
        // Old length 0 (of a shared mapping) copies the mapping and moves nothing.
        let old = PageRange::from_len(addr, old_len);
        if let Some(old) = old {
            self.ensure_tables(old, target.start())?;
        }
        let mut moved = vma.clone();
        moved.pgoff = vma.page_index(addr);
        let moved = moved.moved(target);
        self.insert(moved);
        let mut batch = FlushBatch::new();
        if let Some(old) = old {
            self.move_pages(old, target.start(), &mut batch);
            if !flags.contains(RemapFlags::DONTUNMAP) {
                self.remove_vmas(old);
                self.system.observer.unmapped(old);
            } else if self.may_split(old) {
                isolate(&mut self.vmas, old);
                self.modify(old, |vma| vma.flags.remove(VmFlags::LOCKED));
            }
        }
        self.finish(batch)?;
        if vma.flags.contains(VmFlags::LOCKED) {
            self.populate(target)?;
        }
        Ok(target.start())
    }

    /// Makes the tables that the moved entries will need, so that moving them cannot fail.
    fn ensure_tables(&self, old: PageRange, to: VirtAddr) -> CallResult<()> {
        let mut made = None;
        for leaf in self.table.cursor(old) {
            let addr = to.offset(leaf.addr.bytes_from(old.start()));
            let span = addr.get() / crate::addr::TABLE_SPAN;
            if made != Some(span) {
                self.table.ensure(addr)?;
                made = Some(span);
            }
        }
        Ok(())
    }

    /// Moves the entries; the frames stay where they are (`move_page_tables`).
    fn move_pages(&self, old: PageRange, to: VirtAddr, batch: &mut FlushBatch) {
        for leaf in self.table.cursor(old) {
            let addr = to.offset(leaf.addr.bytes_from(old.start()));
            let Some(slot) = self.table.slot(addr) else { continue };
            let entry = Entry::new(leaf.slot.swap(0, Ordering::AcqRel));
            slot.store(entry.raw(), Ordering::Release);
            if let (true, Some(frame)) = (entry.is_accessed(), entry.frame()) {
                batch.lowered(frame);
            }
        }
    }
}

/// Linux's `check_mremap_params` for a target that the program names.
fn check_target(
    addr: VirtAddr,
    old_len: u64,
    new_len: u64,
    flags: RemapFlags,
    new_addr: VirtAddr,
) -> Result<(), Errno> {
    let overlaps = new_addr.get() < addr.get().saturating_add(old_len)
        && addr.get() < new_addr.get().saturating_add(new_len);
    let bad = !new_addr.is_page_aligned()
        || new_addr.get() > TASK_SIZE - new_len
        || !flags.contains(RemapFlags::MAYMOVE)
        || (flags.contains(RemapFlags::DONTUNMAP) && old_len != new_len)
        || overlaps;
    if bad { Err(Errno::EINVAL) } else { Ok(()) }
}
