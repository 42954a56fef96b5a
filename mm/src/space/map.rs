//! mmap(2): Linux's `ksys_mmap_pgoff`, `do_mmap` and `mmap_region`.

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr, page_align};
use crate::backing::{Backing, FileMode, HugeMemory, Placement, SharedMemory, huge_page_size};
use crate::error::{CallResult, Errno};
use crate::paging::FlushBatch;
use crate::promise::Payer;
use crate::rules::Rule;
use crate::vma::limits::Capabilities;
use crate::vma::merge::Origin;
use crate::vma::place::{PlaceRequest, PlaceSource, get_unmapped_area};
use crate::vma::{MapFlags, MapType, Prot, VmFlags, Vma};

/// `MAX_LFS_FILESIZE`: no file offset lies beyond.
const MAX_FILE_SIZE: u64 = i64::MAX as u64;

/// The arguments of mmap(2). Bits that are not known stay in `prot` and `flags`: some are ignored,
/// some refused.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Where, exactly or as a hint; 0 for anywhere.
    pub addr: VirtAddr,
    /// How many bytes; rounded up to pages.
    pub len: u64,
    /// What may be done.
    pub prot: Prot,
    /// How; the type is in the low four bits.
    pub flags: MapFlags,
    /// What; `None` for zeros, whatever the flags say.
    pub file: Option<Arc<dyn Backing>>,
    /// From which byte of the file on, a multiple of the page size; ignored without a file.
    pub offset: u64,
}

impl MapRequest {
    /// Anonymous private memory.
    #[must_use]
    pub fn anonymous(addr: VirtAddr, len: u64, prot: Prot, flags: MapFlags) -> Self {
        let flags = flags | MapFlags::ANONYMOUS | MapType::Private.into();
        MapRequest { addr, len, prot, flags, file: None, offset: 0 }
    }
}

impl AddressSpace {
    /// Maps memory and returns its address. Nothing of it exists until it is touched, except with
    /// `MAP_POPULATE` or `MAP_LOCKED`.
    ///
    /// # Errors
    /// In this order: `EINVAL` offset unaligned; the guardian's veto; `EINVAL` length 0; `ENOMEM` length overflows; `EOVERFLOW`
    /// offset; `ENOMEM` too many VMAs, no room; `EINVAL` fixed address unaligned, for
    /// huge pages to theirs; `EPERM` below
    /// `mmap_min_addr`; `EEXIST` with `MAP_FIXED_NOREPLACE`; `EPERM`, `EAGAIN` locking; what the file
    /// forbids (`EOVERFLOW`, `EOPNOTSUPP`, `EACCES`, `EPERM`, `ENODEV`); `EINVAL` the type, or growing
    /// where that cannot be; `EACCES` writable and executable under MDWE; `EPERM` over a sealed VMA;
    /// `ENOMEM` `RLIMIT_AS`, `RLIMIT_DATA`, the commit limit. Nothing has changed then, except that what
    /// shared memory was to replace is gone when its own promise is refused.
    /// Source: mmap(2), Linux's `mm/mmap.c` and `mm/vma.c`.
    pub fn mmap(&mut self, request: &MapRequest) -> CallResult<VirtAddr> {
        if !request.offset.is_multiple_of(1 << PAGE_SHIFT) {
            return Err(Errno::EINVAL.into());
        }
        let mut request = request.clone();
        let page_size = match &request.file {
            Some(file) if is_huge(&**file) => file.page_size(),
            file if request.flags.contains(MapFlags::HUGETLB) => {
                let log2 = (request.flags & MapFlags::HUGE_SIZE).bits() >> 26;
                let pool = huge_page_size(log2).and_then(|size| self.system.huge_pool(size));
                let pool = pool.filter(|_| file.is_none()).ok_or(Errno::EINVAL)?;
                let size = pool.page_size();
                let len = request.len.checked_next_multiple_of(size).unwrap_or(0);
                let memory = HugeMemory::new(pool, len, self.system.new_inode());
                request.file = Some(Arc::new(memory));
                size
            }
            _ => 1,
        };
        // What overflows is no length.
        request.len = request.len.checked_next_multiple_of(page_size).unwrap_or(0);
        self.do_mmap(request)
    }

    /// mmap(2) when the file is known. A length that is not whole huge pages is refused here.
    pub(super) fn do_mmap(&mut self, mut request: MapRequest) -> CallResult<VirtAddr> {
        self.system.ask(|guardian| guardian.may_map(&request))?;
        if request.len == 0 {
            return Err(Errno::EINVAL.into());
        }
        if self.modes.read_implies_exec()
            && request.prot.contains(Prot::READ)
            && !request.file.as_ref().is_some_and(|f| f.mode().contains(FileMode::NOEXEC))
        {
            request.prot |= Prot::EXEC;
        }
        if request.flags.contains(MapFlags::FIXED_NOREPLACE) {
            request.flags |= MapFlags::FIXED;
        }
        if !request.flags.contains(MapFlags::FIXED) {
            request.addr = self.raise_hint(request.addr);
        }
        let (vma, asked) = self.check(&request)?;
        let range = vma.range();
        self.map_region(vma)?;
        let populate = asked.contains(VmFlags::LOCKED)
            || request.flags & (MapFlags::POPULATE | MapFlags::NONBLOCK) == MapFlags::POPULATE;
        if populate {
            self.populate_all(range)?;
        }
        Ok(range.start())
    }

    /// Everything that can be refused before anything changes. Returns the VMA that is to be, and its
    /// flags before the file had its say.
    fn check(&mut self, request: &MapRequest) -> CallResult<(Vma, VmFlags)> {
        let flags = request.flags;
        let len = page_align(request.len).filter(|&len| len != 0).ok_or(Errno::ENOMEM)?;
        let pages = len >> PAGE_SHIFT;
        let mut pgoff = request.offset >> PAGE_SHIFT;
        pgoff.checked_add(pages).ok_or(Errno::EOVERFLOW)?;
        if self.vmas.len() > self.max_map_count() {
            return Err(Errno::ENOMEM.into());
        }
        let mut vm = VmFlags::from_prot(request.prot)
            | VmFlags::from_map(flags)
            | self.modes.default_flags
            | VmFlags::MAY;
        let addr = self.place(request.file.as_ref(), request.addr, len, pgoff, flags)?;
        let range = PageRange::from_len(addr, len).ok_or(Errno::ENOMEM)?;
        self.vmas.aim(addr);
        if flags.contains(MapFlags::FIXED_NOREPLACE) && self.vmas.find_intersection(range).is_some()
        {
            return Err(Errno::EEXIST.into());
        }
        if flags.contains(MapFlags::LOCKED) && !self.can_lock() {
            return Err(Errno::EPERM.into());
        }
        if !self.may_lock(vm, len) {
            return Err(Errno::EAGAIN.into());
        }
        match &request.file {
            Some(file) => {
                let validated = MapFlags::LEGACY | file.validated_flags();
                let all = !self.rule(Rule::Validate);
                let known = if all { MapFlags::from_bits_retain(u64::MAX) } else { validated };
                vm = check_file(&**file, vm, request, known, pgoff, len)?;
            }
            None => {
                vm = check_anonymous(vm, flags)?;
                pgoff = addr.get() >> PAGE_SHIFT;
            }
        }
        // What huge pages there are is counted apart: mode 2 of the commit limit does not matter to them.
        let is_huge = request.file.as_deref().is_some_and(is_huge);
        if flags.contains(MapFlags::NORESERVE)
            && (is_huge || self.system.sysctl.honours_noreserve())
        {
            vm |= VmFlags::NORESERVE;
        }
        if self.modes.denies_write_exec(vm, vm) {
            return Err(Errno::EACCES.into());
        }
        let mut vma = Vma::anonymous(range, vm);
        if request.file.as_deref().is_some_and(is_zeros) {
            vma.pgoff = pgoff;
        } else if let Some(file) = &request.file {
            vma.flags = file.check_map(vm)?;
            vma.backing = Some(Arc::clone(file));
            vma.pgoff = pgoff;
        } else if vm.contains(VmFlags::SHARED) && self.rule(Rule::SharedObject) {
            vma.pgoff = 0;
        }
        if !is_huge {
            vma.flags = self.with_merge_any(vma.flags);
        }
        Ok((vma, vm))
    }

    /// Where a mapping goes (Linux's `__get_unmapped_area`, with the security hook at its end).
    pub(super) fn place(
        &self,
        file: Option<&Arc<dyn Backing>>,
        hint: VirtAddr,
        len: u64,
        pgoff: u64,
        flags: MapFlags,
    ) -> Result<VirtAddr, Errno> {
        let source = match file {
            Some(file) => PlaceSource::File(file.placement(), pgoff),
            None if flags.bits() & 1 != 0 => PlaceSource::SharedAnonymous,
            None if !self.rule(Rule::HugeAlignment) => {
                PlaceSource::File(Placement::Anywhere, pgoff)
            }
            None => PlaceSource::Anonymous,
        };
        // It may be any number.
        let min_addr = VirtAddr::new(self.system.sysctl.mmap_min_addr()).page_ceil();
        let min_addr = min_addr.unwrap_or(VirtAddr::TASK_END).min(VirtAddr::TASK_END);
        let request = PlaceRequest { hint, len, flags, source, min_addr };
        let addr = get_unmapped_area(&self.vmas, &self.layout.place, &request)?;
        if addr < min_addr && !self.limits.may(Capabilities::SYS_RAWIO) {
            return Err(Errno::EPERM);
        }
        self.system.ask(|guardian| guardian.may_use_address(addr))?;
        Ok(addr)
    }

    /// Where `len` bytes of a file would be placed without a hint: what the program loader asks before
    /// it maps a program's segments there one by one.
    ///
    /// # Errors
    /// `ENOMEM` when there is no room.
    pub fn free_area(&self, file: &Arc<dyn Backing>, len: u64) -> CallResult<VirtAddr> {
        let len = page_align(len).ok_or(Errno::ENOMEM)?;
        Ok(self.place(Some(file), VirtAddr::ZERO, len, 0, MapFlags::empty())?)
    }

    /// Puts a VMA in place of whatever is there (`mmap_region`).
    pub(super) fn map_region(&mut self, mut vma: Vma) -> CallResult<()> {
        let range = vma.range();
        self.reserve(3)?;
        let old = self.gather(range)?;
        if !self.may_expand(vma.flags, range.pages() - old.pages) {
            return Err(Errno::ENOMEM.into());
        }
        let mut freed = old.committed;
        if is_accountable(&vma) {
            // What the old mappings had promised pays for the new one.
            let charged = range.pages() - old.committed;
            if charged > 0 {
                self.commit(charged)?;
            }
            freed = 0;
            vma.flags |= VmFlags::ACCOUNT;
        }
        // While what is there still counts, as in Linux.
        let object = self.new_shared_object(&vma);
        let _replaced = self.replaced_by_huge(&vma);
        if old.pages > 0 {
            let mut batch = FlushBatch::new();
            self.remove_gathered(range, &mut batch);
            self.system.uncommit(freed);
            self.finish(batch)?;
        }
        if let Some(object) = object {
            // What was there stays gone if there is none: Linux leaves a hole likewise.
            vma.backing = Some(object?.swappable(&self.system));
        } else if let Some(backing) = &vma.backing {
            // What was there stays gone if this fails: Linux leaves a hole likewise.
            let pages = vma.pgoff..vma.pgoff.saturating_add(range.pages());
            vma.flags = match backing.map(vma.flags, pages) {
                Ok(flags) => flags,
                Err(errno) => {
                    if vma.flags.contains(VmFlags::ACCOUNT) {
                        self.system.uncommit(range.pages());
                    }
                    return Err(errno.into());
                }
            };
            let promised = vma.flags.contains(VmFlags::HUGETLB)
                && !vma.flags.intersects(VmFlags::NORESERVE | VmFlags::MAYSHARE);
            let promise = backing.huge().filter(|_| promised).map(HugeMemory::promise);
            vma.set_promise(promise);
        }
        self.table.vacate(range);
        self.account.add(vma.flags, range.pages());
        self.link(&vma);
        let unlocked =
            vma.flags.contains(VmFlags::LOCKED) && vma.flags.intersects(VmFlags::UNLOCKABLE);
        let apart = vma.backing.is_some() && !self.rule(Rule::FileOffset);
        let start = if apart {
            let _ = self.vmas.insert(vma);
            range.start()
        } else {
            self.insert_merged(vma, Origin::New)
        };
        if unlocked {
            // Only now, as Linux does: what is mapped beside it later finds other flags.
            self.change_flags(start, |flags| flags.difference(VmFlags::LOCKED_MASK));
        }
        self.tell_mapped(start);
        Ok(())
    }

    /// The objects of what a map of huge pages is to replace: what they were promised is promised to nobody else before
    /// the map is there.
    fn replaced_by_huge(&self, vma: &Vma) -> Vec<Arc<dyn Backing>> {
        if !vma.backing.as_deref().is_some_and(is_huge) {
            return Vec::new();
        }
        self.vmas.range(vma.range()).filter_map(|old| old.backing.clone()).collect()
    }

    /// The object behind shared memory without a file, if that is what the VMA is (Linux's
    /// `shmem_zero_setup` and `shmem_acct_size`). Nobody but the VMA has it, so its pages are promised
    /// now or, with `VM_NORESERVE`, one by one.
    fn new_shared_object(&self, vma: &Vma) -> Option<Result<SharedMemory, Errno>> {
        let anonymous = vma.backing.is_none() && vma.flags.contains(VmFlags::SHARED);
        if !anonymous || !self.rule(Rule::SharedObject) {
            return None;
        }
        let (frames, pages) = (Arc::clone(self.system.frames()), vma.range().pages());
        let object = SharedMemory::new(frames, pages, self.system.new_inode());
        Some(if vma.flags.contains(VmFlags::NORESERVE) {
            Ok(object.promised_by_page(self.system.no_promise()))
        } else {
            self.promise(pages).map(|promise| object.promised(promise))
        })
    }

    /// Tells that memory was mapped, which is part of the VMA at `start` now.
    pub(super) fn tell_mapped(&self, start: VirtAddr) {
        let Some(observer) = self.system.observer() else { return };
        let Some(vma) = self.vmas.find_exact(start) else { return };
        observer.mapped(vma);
        if vma.backing.is_some() {
            observer.file_mapped(vma);
        }
    }

    /// Changes a VMA's flags behind the back of merging, and counts it as what it is then.
    pub(super) fn change_flags(&mut self, start: VirtAddr, change: impl Fn(VmFlags) -> VmFlags) {
        let Some(vma) = self.vmas.get(start) else { return };
        let (pages, flags) = (vma.range().pages(), vma.flags);
        self.vmas.update(start, |vma| vma.flags = change(flags));
        self.account.remove(flags, pages);
        self.account.add(change(flags), pages);
    }

    /// Linux's `round_hint_to_min`.
    fn raise_hint(&self, hint: VirtAddr) -> VirtAddr {
        let (hint, min) = (hint.page_floor(), self.system.sysctl.mmap_min_addr());
        if hint != VirtAddr::ZERO && hint.get() < min {
            return VirtAddr::new(min).page_ceil().unwrap_or(hint);
        }
        hint
    }
}

/// What `do_mmap` checks of memory without a file.
fn check_anonymous(vm: VmFlags, flags: MapFlags) -> Result<VmFlags, Errno> {
    let growing = vm.contains(VmFlags::GROWSDOWN);
    match flags.map_type() {
        Some(MapType::Shared) if growing => Err(Errno::EINVAL),
        Some(MapType::Shared) => Ok(vm | VmFlags::SHARED | VmFlags::MAYSHARE),
        Some(MapType::Droppable) => {
            if growing || flags.intersects(MapFlags::LOCKED | MapFlags::HUGETLB) {
                return Err(Errno::EINVAL);
            }
            let wiped = VmFlags::WIPEONFORK | VmFlags::DONTDUMP;
            Ok(vm | VmFlags::DROPPABLE | VmFlags::NORESERVE | wiped)
        }
        Some(MapType::Private) => Ok(vm),
        Some(MapType::SharedValidate) | None => Err(Errno::EINVAL),
    }
}

/// What `do_mmap` checks of a file.
fn check_file(
    file: &dyn Backing,
    mut vm: VmFlags,
    request: &MapRequest,
    known: MapFlags,
    pgoff: u64,
    len: u64,
) -> Result<VmFlags, Errno> {
    let mode = file.mode();
    // Only of files is it known how long they can be.
    let mappable = !mode.contains(FileMode::UNMAPPABLE);
    let most = if mappable { MAX_FILE_SIZE } else { u64::MAX };
    if len > most || pgoff > (most - len) >> PAGE_SHIFT {
        return Err(Errno::EOVERFLOW);
    }
    let kind = request.flags.map_type();
    match kind {
        Some(MapType::Shared | MapType::SharedValidate) => {
            if kind == Some(MapType::SharedValidate) && !known.contains(request.flags) {
                return Err(Errno::EOPNOTSUPP);
            }
            let writable = mode.contains(FileMode::WRITE);
            if request.prot.contains(Prot::WRITE) && !writable
                || mode.contains(FileMode::APPEND_ONLY) && writable
            {
                return Err(Errno::EACCES);
            }
            vm |= VmFlags::SHARED | VmFlags::MAYSHARE;
            if !writable {
                vm -= VmFlags::MAYWRITE | VmFlags::SHARED;
            }
        }
        Some(MapType::Private) => {}
        Some(MapType::Droppable) | None => return Err(Errno::EINVAL),
    }
    if !mode.contains(FileMode::READ) {
        return Err(Errno::EACCES);
    }
    if mode.contains(FileMode::NOEXEC) {
        if vm.contains(VmFlags::EXEC) {
            return Err(Errno::EPERM);
        }
        vm -= VmFlags::MAYEXEC;
    }
    if mode.contains(FileMode::UNMAPPABLE) {
        return Err(Errno::ENODEV);
    }
    if vm.contains(VmFlags::GROWSDOWN) {
        return Err(Errno::EINVAL);
    }
    Ok(vm)
}

/// Whether a mapping counts against the commit limit (Linux's `accountable_mapping`).
fn is_accountable(vma: &Vma) -> bool {
    let counted = VmFlags::NORESERVE | VmFlags::SHARED | VmFlags::WRITE;
    vma.flags & counted == VmFlags::WRITE && !vma.backing.as_deref().is_some_and(is_huge)
}

/// Whether what is mapped of it is anonymous memory.
fn is_zeros(file: &dyn Backing) -> bool {
    file.mode().contains(FileMode::ZEROS)
}

/// Linux's `is_file_hugepages`.
fn is_huge(file: &dyn Backing) -> bool {
    file.page_size() > PAGE_SIZE
}
