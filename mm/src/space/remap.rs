//! mremap(2): Linux's `do_mremap`, `check_prep_vma`, `mremap_to`, `remap_move`.
//!
//! ```text
//!   shrink:        [AAAAAAAA]        ->  [AAAA]            the tail is unmapped
//!   grow in place: [AAAA]....        ->  [AAAAAAAA]        where nothing is in the way
//!   move:          [AAAA][BB]        ->        [BB] ... [AAAAAAAA]   entries go along, frames stay
//!   move several:  [AA][B]..[CC]     ->  (nothing)  ... [AA][B]..[CC]    same size, fixed target only
//! ```
//!
//! `move_vma` and what is below it are in `space/relocate`.

use bitflags::bitflags;

use super::AddressSpace;
use super::link::segment_of;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, TASK_SIZE, VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::rules::Rule;
use crate::vma::merge::Origin;
use crate::vma::{MapFlags, VmFlags, Vma};

bitflags! {
    /// `MREMAP_*` of mremap(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct RemapFlags: u64 {
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
    /// `MREMAP_*`.
    pub flags: u64,
    /// With `FIXED` or `DONTUNMAP`: where to.
    pub new_addr: VirtAddr,
}

/// A move or resize whose arguments have been checked; lengths are whole pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remap {
    pub(super) addr: VirtAddr,
    pub(super) old_len: u64,
    pub(super) new_len: u64,
    pub(super) flags: RemapFlags,
    pub(super) new_addr: VirtAddr,
    /// How many bytes were cut off already.
    pub(super) cut: u64,
}

/// How many VMAs below the limit a move stays while it is under way.
pub(super) const MOVE_SPARE: usize = 3;

impl Remap {
    /// Whether the target is the program's choice or at least not the old place.
    fn has_target(&self) -> bool {
        self.flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP)
    }

    /// Whether nothing but the place changes: then several VMAs move together.
    fn only_moves(&self) -> bool {
        self.flags.contains(RemapFlags::FIXED) && self.old_len == self.new_len
    }

    fn shrinks(&self) -> bool {
        self.old_len > self.new_len
    }

    /// The same of pages of this size (Linux's `align_hugetlb`): huge ones are moved and cut off whole.
    ///
    /// # Errors
    /// `EINVAL` where huge pages do not begin at the addresses, also at a target without a flag that asks for
    /// it, or would become more.
    fn of_pages(self, size: u64) -> Result<Self, Errno> {
        if size == PAGE_SIZE {
            return Ok(self);
        }
        let round = |len: u64| len.checked_next_multiple_of(size).unwrap_or(0);
        let aligned = |addr: VirtAddr| addr.get().is_multiple_of(size);
        let (old_len, new_len) = (round(self.old_len), round(self.new_len));
        if !aligned(self.addr) || !aligned(self.new_addr) || new_len > old_len {
            return Err(Errno::EINVAL);
        }
        Ok(Remap { old_len, new_len, ..self })
    }

    /// By how many bytes it grows.
    pub(super) fn growth(&self) -> u64 {
        self.new_len.saturating_sub(self.old_len)
    }
}

impl AddressSpace {
    /// Resizes or moves memory and returns where it is now.
    ///
    /// # Errors
    /// In this order: `EINVAL` arguments (unknown flags, unaligned, new length 0, target past the end,
    /// `FIXED` or `DONTUNMAP` without `MAYMOVE`, overlap); `ENOMEM` too many VMAs; `EFAULT` nothing
    /// mapped there; `EPERM` sealed; `EINVAL` huge pages that would be cut or
    /// become more; `EINVAL` old length 0 of a private mapping, `DONTUNMAP` of a
    /// mapping that cannot; `EFAULT` the range passes the end of its VMA; `EINVAL` its offset wraps;
    /// `EFAULT` a VMA that cannot grow; `EAGAIN` locking; `ENOMEM` limits, no room, or it could not grow
    /// in place and must not move. Source: mremap(2), Linux's `mm/mremap.c`.
    pub fn mremap(&mut self, request: &RemapRequest) -> CallResult<VirtAddr> {
        let remap = self.check_params(request)?;
        if remap.only_moves() && self.rule(Rule::SeveralMove) {
            return self.move_several(&remap);
        }
        let vma = self.vmas.find_exact(remap.addr).ok_or(Errno::EFAULT)?;
        let remap = self.check_vma(vma, remap)?;
        let locked = vma.flags.contains(VmFlags::LOCKED);
        let addr = if remap.has_target() { self.remap_to(remap)? } else { self.remap_at(remap)? };
        if locked
            && let Some(grown) = PageRange::from_len(addr.offset(remap.old_len), remap.growth())
        {
            self.populate_all(grown)?;
        }
        Ok(addr)
    }

    /// Linux's `check_mremap_params`.
    fn check_params(&self, request: &RemapRequest) -> Result<Remap, Errno> {
        let flags = RemapFlags::from_bits(request.flags).ok_or(Errno::EINVAL)?;
        // An overflow wraps to 0.
        let remap = Remap {
            addr: request.addr,
            old_len: page_align(request.old_len).unwrap_or(0),
            new_len: page_align(request.new_len).unwrap_or(0),
            flags,
            new_addr: request.new_addr,
            cut: 0,
        };
        let Remap { addr, old_len, new_len, new_addr, .. } = remap;
        if !addr.is_page_aligned() || new_len == 0 || new_len > TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        if !remap.has_target() {
            return Ok(remap);
        }
        let overlaps = addr.get().wrapping_add(old_len) > new_addr.get()
            && new_addr.get().wrapping_add(new_len) > addr.get();
        if new_addr.get() > TASK_SIZE - new_len
            || !new_addr.is_page_aligned()
            || !flags.contains(RemapFlags::MAYMOVE)
            || flags.contains(RemapFlags::DONTUNMAP) && old_len != new_len
            || overlaps
        {
            return Err(Errno::EINVAL);
        }
        // Both ends may have to be cut, and then the move needs its spare ones.
        if self.vmas.len() + 2 + MOVE_SPARE >= self.max_map_count() {
            return Err(Errno::ENOMEM);
        }
        Ok(remap)
    }

    /// Linux's `check_prep_vma`. Returns the move or resize of whole pages of the VMA.
    fn check_vma(&self, vma: &Vma, remap: Remap) -> Result<Remap, Errno> {
        if vma.flags.contains(VmFlags::SEALED) {
            return Err(Errno::EPERM);
        }
        let remap = remap.of_pages(vma.page_size())?;
        self.check_change(vma, &remap)?;
        Ok(remap)
    }

    /// Whether the VMA may be moved or resized so.
    fn check_change(&self, vma: &Vma, remap: &Remap) -> Result<(), Errno> {
        if !remap.has_target() && remap.growth() == 0 {
            return Ok(());
        }
        let fixed_size = vma.flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP);
        if remap.old_len == 0 && !vma.flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE)
            || remap.flags.contains(RemapFlags::DONTUNMAP) && fixed_size
        {
            return Err(Errno::EINVAL);
        }
        // What is cut off may lie in other VMAs.
        let old_len = remap.old_len.min(remap.new_len);
        let old_len = if remap.shrinks() { old_len } else { remap.old_len };
        if old_len > vma.range().end().bytes_from(remap.addr) {
            return Err(Errno::EFAULT);
        }
        if remap.new_len == old_len {
            return Ok(());
        }
        let pgoff = vma.page_index(remap.addr);
        pgoff.checked_add(remap.new_len >> PAGE_SHIFT).ok_or(Errno::EINVAL)?;
        if fixed_size {
            return Err(Errno::EFAULT);
        }
        if !self.may_lock(vma.flags, remap.growth()) {
            return Err(Errno::EAGAIN);
        }
        if !self.may_expand(vma.flags, remap.growth() >> PAGE_SHIFT) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// All VMAs of the range, each to the same distance (`remap_move`). On an error those before stay
    /// moved.
    fn move_several(&mut self, remap: &Remap) -> CallResult<VirtAddr> {
        let old = PageRange::from_len(remap.addr, remap.old_len).ok_or(Errno::EFAULT)?;
        let (mut from, mut result) = (old.start(), None);
        while let Some(vma) = self.next_to_move(from, old)? {
            let part = vma.range().intersect(old).ok_or(Errno::EFAULT)?;
            let single =
                vma.userfault().is_some() || !vma.flags.intersection(VmFlags::UFFD).is_empty();
            if result.is_none() && part.start() > old.start()
                || single && (result.is_some() || vma.range().end() < old.end())
            {
                return Err(Errno::EFAULT.into());
            }
            let one = Remap {
                addr: part.start(),
                old_len: part.len(),
                new_len: part.len(),
                new_addr: remap.new_addr.offset(part.start().bytes_from(old.start())),
                ..*remap
            };
            let one = self.check_vma(vma, one)?;
            let addr = self.remap_to(one)?;
            result.get_or_insert(addr);
            from = part.end();
        }
        Ok(result.ok_or(Errno::EFAULT)?)
    }

    /// The first VMA from `from` on that has a part in `old`.
    fn next_to_move(&self, from: VirtAddr, old: PageRange) -> Result<Option<&Vma>, Errno> {
        let Some(rest) = PageRange::new(from, old.end()) else { return Ok(None) };
        Ok(self.vmas.find_intersection(rest))
    }

    /// `MREMAP_FIXED` or `MREMAP_DONTUNMAP` (`mremap_to`).
    fn remap_to(&mut self, mut remap: Remap) -> CallResult<VirtAddr> {
        let fixed = remap.flags.contains(RemapFlags::FIXED);
        if fixed {
            self.munmap(remap.new_addr, remap.new_len)?;
            // That may have unmapped a part of the VMA itself.
            self.vmas.find_exact(remap.addr).ok_or(Errno::EFAULT)?;
        }
        if remap.shrinks() {
            let rest = remap.old_len - remap.new_len;
            self.munmap(remap.addr.offset(remap.new_len), rest)?;
            remap.old_len = remap.new_len;
            remap.cut = rest;
        }
        let vma = self.vmas.find_exact(remap.addr).ok_or(Errno::EFAULT)?;
        if remap.flags.contains(RemapFlags::DONTUNMAP)
            && !self.may_expand(vma.flags, remap.old_len >> PAGE_SHIFT)
        {
            return Err(Errno::ENOMEM.into());
        }
        let how = if fixed { MapFlags::FIXED } else { MapFlags::empty() };
        remap.new_addr = self.place_move(vma, &remap, remap.new_addr, how)?;
        self.move_vma(&remap)
    }

    /// Without a target (`mremap_at`).
    fn remap_at(&mut self, mut remap: Remap) -> CallResult<VirtAddr> {
        if remap.shrinks() {
            let rest = remap.old_len - remap.new_len;
            self.munmap(remap.addr.offset(remap.new_len), rest)?;
            return Ok(remap.addr);
        }
        if remap.growth() == 0 {
            return Ok(remap.addr);
        }
        if self.grow_in_place(&remap)? {
            return Ok(remap.addr);
        }
        if !remap.flags.contains(RemapFlags::MAYMOVE) {
            return Err(Errno::ENOMEM.into());
        }
        let vma = self.vmas.find_exact(remap.addr).ok_or(Errno::EFAULT)?;
        remap.new_addr = self.place_move(vma, &remap, VirtAddr::ZERO, MapFlags::empty())?;
        self.move_vma(&remap)
    }

    /// Grows the VMA where it is, if the range goes to its end and nothing is behind it
    /// (`expand_vma_in_place`). Returns whether it did.
    fn grow_in_place(&mut self, remap: &Remap) -> CallResult<bool> {
        let vma = self.vmas.find_exact(remap.addr).ok_or(Errno::EFAULT)?;
        let (whole, flags) = (vma.range(), vma.flags);
        if whole.end().bytes_from(remap.addr) != remap.old_len {
            return Ok(false);
        }
        let more = PageRange::from_len(whole.end(), remap.growth());
        let more = more.filter(|more| more.end() <= VirtAddr::TASK_END);
        let Some(more) = more.filter(|&more| self.vmas.find_intersection(more).is_none()) else {
            return Ok(false);
        };
        let whole_len = more.end().bytes_from(whole.start());
        if self.place(None, whole.start(), whole_len, 0, MapFlags::FIXED).is_err() {
            return Ok(false);
        }
        let tail = vma.part(more);
        if flags.contains(VmFlags::ACCOUNT) {
            self.commit(more.pages())?;
        }
        // The new part goes on where the VMA ends: as a VMA of its own it merges with it.
        if self.merge_new(&tail, Origin::Extension).is_none() {
            if flags.contains(VmFlags::ACCOUNT) {
                self.system.uncommit(more.pages());
            }
            return Err(Errno::ENOMEM.into());
        }
        self.link(&tail);
        if let Some(segment) = segment_of(&tail) {
            segment.merged();
        }
        self.account.add(flags, more.pages());
        Ok(true)
    }

    /// Where the memory goes (`vrm_set_new_addr`).
    fn place_move(
        &self,
        vma: &Vma,
        remap: &Remap,
        hint: VirtAddr,
        how: MapFlags,
    ) -> Result<VirtAddr, Errno> {
        let shared = if vma.flags.contains(VmFlags::MAYSHARE) { 1 } else { 0 };
        let how = how | MapFlags::from_bits_retain(shared);
        let pgoff = vma.page_index(remap.addr);
        self.place(vma.backing.as_ref(), hint, remap.new_len, pgoff, how)
    }
}
