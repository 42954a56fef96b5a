//! mmap(2): Linux's `ksys_mmap_pgoff`, `do_mmap` and `mmap_region`.

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr, page_align};
use crate::backing::{Backing, SharedMemory};
use crate::error::{CallResult, Errno};
use crate::paging::FlushBatch;
use crate::vma::place::{PlaceRequest, PlaceSource, get_unmapped_area};
use crate::vma::split::splits_needed;
use crate::vma::{MapFlags, MapType, Prot, VmFlags, Vma};

/// What is mapped.
#[derive(Clone, Debug)]
pub enum MapSource {
    /// Zeros.
    Anonymous,
    /// A backing, from `offset` bytes on, a multiple of the page size.
    Backing {
        /// Where the bytes come from.
        backing: Arc<dyn Backing>,
        /// Bytes from its start.
        offset: u64,
    },
}

/// The arguments of mmap(2).
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Where, exactly or as a hint; 0 for anywhere.
    pub addr: VirtAddr,
    /// How many bytes; rounded up to pages.
    pub len: u64,
    /// What may be done.
    pub prot: Prot,
    /// Shared or private.
    pub kind: MapType,
    /// How.
    pub flags: MapFlags,
    /// What.
    pub source: MapSource,
}

impl AddressSpace {
    /// Maps memory and returns its address. Nothing of it exists until it is touched, except with
    /// `MAP_POPULATE` or `MAP_LOCKED`.
    ///
    /// # Errors
    /// In this order: `EINVAL` length 0; `ENOMEM` length overflows, too many VMAs, no room; `EINVAL`
    /// fixed address unaligned; `EEXIST` with `MAP_FIXED_NOREPLACE`; `EINVAL` shared and growing;
    /// `EOVERFLOW` offset; `ENOMEM` `RLIMIT_AS`, `RLIMIT_DATA`, the commit limit.
    /// Source: mmap(2), `do_mmap` in Linux's `mm/mmap.c`.
    pub fn mmap(&mut self, request: &MapRequest) -> CallResult<VirtAddr> {
        let mut flags = request.flags;
        if request.len == 0 {
            return Err(Errno::EINVAL.into());
        }
        if flags.contains(MapFlags::FIXED_NOREPLACE) {
            flags |= MapFlags::FIXED;
        }
        let hint = if flags.contains(MapFlags::FIXED) {
            request.addr
        } else {
            self.raise_hint(request.addr)
        };
        let len = page_align(request.len).ok_or(Errno::ENOMEM)?;
        let pages = len >> PAGE_SHIFT;
        if let MapSource::Backing { offset, .. } = request.source {
            (offset >> PAGE_SHIFT).checked_add(pages).ok_or(Errno::EOVERFLOW)?;
        }
        if self.vmas.len() > self.limits.max_map_count {
            return Err(Errno::ENOMEM.into());
        }
        let source = match request.source {
            MapSource::Anonymous => PlaceSource::Anonymous,
            MapSource::Backing { .. } => PlaceSource::File,
        };
        let place = PlaceRequest { hint, len, flags, source };
        let addr = get_unmapped_area(&self.vmas, &self.layout.place, &place)?;
        self.system.guardian.may_use_address(addr)?;
        let range = PageRange::from_len(addr, len).ok_or(Errno::ENOMEM)?;
        if flags.contains(MapFlags::FIXED_NOREPLACE) && self.vmas.find_intersection(range).is_some()
        {
            return Err(Errno::EEXIST.into());
        }
        let vma = self.describe(request, flags, range)?;
        self.map_region(vma)?;
        let populate = flags.contains(MapFlags::POPULATE) && !flags.contains(MapFlags::NONBLOCK);
        if populate || flags.contains(MapFlags::LOCKED) {
            self.populate(range)?;
        }
        Ok(addr)
    }

    /// Where `len` bytes of a file would be placed without a hint (`get_unmapped_area`): what the
    /// program loader asks before it maps a program's segments there one by one.
    ///
    /// # Errors
    /// `ENOMEM` when there is no room.
    pub fn free_area(&self, len: u64) -> CallResult<VirtAddr> {
        let len = page_align(len).ok_or(Errno::ENOMEM)?;
        let flags = MapFlags::empty();
        let request = PlaceRequest { hint: VirtAddr::ZERO, len, flags, source: PlaceSource::File };
        Ok(get_unmapped_area(&self.vmas, &self.layout.place, &request)?)
    }

    /// The VMA that the arguments describe.
    fn describe(&self, request: &MapRequest, flags: MapFlags, range: PageRange) -> CallResult<Vma> {
        let mut vm = VmFlags::from_prot(request.prot)
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC;
        vm.set(VmFlags::GROWSDOWN, flags.contains(MapFlags::GROWSDOWN));
        vm.set(VmFlags::LOCKED, flags.contains(MapFlags::LOCKED));
        vm.set(VmFlags::NOHUGEPAGE, flags.contains(MapFlags::STACK));
        vm.set(VmFlags::NORESERVE, flags.contains(MapFlags::NORESERVE));
        let shared = request.kind != MapType::Private;
        if shared {
            vm |= VmFlags::SHARED | VmFlags::MAYSHARE;
        }
        match &request.source {
            MapSource::Anonymous if !shared => Ok(Vma::anonymous(range, vm)),
            MapSource::Anonymous => {
                if vm.contains(VmFlags::GROWSDOWN) {
                    return Err(Errno::EINVAL.into());
                }
                let frames = Arc::clone(self.system.frames());
                let object = SharedMemory::new(frames, range.pages(), self.system.new_inode());
                Ok(Vma::backed(range, vm, Arc::new(object), 0))
            }
            MapSource::Backing { backing, offset } => {
                let pgoff = offset / PAGE_SIZE;
                Ok(Vma::backed(range, vm, Arc::clone(backing), pgoff))
            }
        }
    }

    /// Puts a VMA in place of whatever is there (`mmap_region`).
    pub(super) fn map_region(&mut self, mut vma: Vma) -> CallResult<()> {
        let range = vma.range();
        let replaced: u64 = self
            .vmas
            .range(range)
            .filter_map(|old| old.range().intersect(range))
            .map(PageRange::pages)
            .sum();
        let grows = range.pages() - replaced.min(range.pages());
        if !self.may_expand(vma.flags, grows) {
            return Err(Errno::ENOMEM.into());
        }
        if self.vmas.len() + splits_needed(&self.vmas, range) > self.limits.max_map_count {
            return Err(Errno::ENOMEM.into());
        }
        self.system.guardian.may_map(&vma)?;
        if is_accountable(vma.flags) {
            self.system.guardian.may_commit(range.pages())?;
            vma.flags |= VmFlags::ACCOUNT;
        }
        if replaced > 0 {
            let mut batch = FlushBatch::new();
            self.remove_range(range, &mut batch);
            self.finish(batch)?;
        }
        self.insert(vma);
        Ok(())
    }

    /// Linux's `round_hint_to_min`.
    fn raise_hint(&self, hint: VirtAddr) -> VirtAddr {
        let hint = hint.page_floor();
        if hint != VirtAddr::ZERO && hint.get() < self.limits.mmap_min_addr {
            return VirtAddr::new(self.limits.mmap_min_addr).page_ceil().unwrap_or(hint);
        }
        hint
    }
}

/// Whether a mapping counts against the commit limit (Linux's `accountable_mapping`).
fn is_accountable(flags: VmFlags) -> bool {
    flags & (VmFlags::NORESERVE | VmFlags::SHARED | VmFlags::WRITE) == VmFlags::WRITE
}
