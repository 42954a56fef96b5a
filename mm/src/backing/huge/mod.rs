//! Memory in huge pages of the pool: what is behind `MAP_HUGETLB` and `MFD_HUGETLB` (Linux's hugetlbfs,
//! `fs/hugetlbfs/inode.c` and `mm/hugetlb.c`).
//!
//! ```text
//!   shared map, memfd   its pages are the object's, by their index; promised: indices of the object, since the
//!                       first map of them (`promised`), until they go or it ends
//!   private map         its pages are its own, but for those that the object has already; promised: each map for
//!                       itself (`promise`)
//!   MAP_NORESERVE       nothing is promised: a touch takes a page that nobody was promised, or is a SIGBUS
//! ```
//!
//! All faults on an object's memory take turns, so that no two take a page for one place.

mod pool;
mod promise;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use pool::{HugePool, HugePoolStats};
pub use promise::HugePromise;

use pool::Claim;

use super::seals::{Sealing, Seals};
use super::shared::{inside, parts};
use super::{Backing, BackingError, BackingName, Length, Placement};
use crate::addr::{Frame, FrameRun, PAGE_SHIFT, PageRange, VirtAddr};
use crate::error::{Broken, CallResult, Errno};
use crate::phys::Frames;
use crate::promise::Payer;
use crate::rmap::{Copies, ObjectMaps};
use crate::system::System;
use crate::vma::{VmFlags, Vma};

/// Memory in huge pages.
#[derive(Debug)]
pub struct HugeMemory {
    pool: Arc<HugePool>,
    /// In bytes.
    len: AtomicU64,
    seals: Sealing,
    name: BackingName,
    /// Over whatever changes it as a file (Linux's `i_rwsem`).
    changing: Mutex<()>,
    maps: ObjectMaps,
    /// Held while a fault looks for a page and maps it (Linux's `hugetlb_fault_mutex_table`). Under the maps; the
    /// promises and the pool come under it.
    pages: Mutex<Pages>,
}

/// Its pages, by their index in huge pages.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Those that are there; it has a reference to each.
    present: BTreeMap<u64, FrameRun>,
    /// Those that somebody has been promised since they went last, or that came unpromised (the inode's `resv_map`):
    /// the ones that are not there are reserved.
    promised: BTreeSet<u64>,
}

/// Who takes a page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Taker<'a> {
    /// The object, for all who share it.
    Object,
    /// A private map, with what it has been promised.
    Map(Option<&'a HugePromise>),
    /// A private map that has its page, and is to copy it: what it was promised was for that page.
    Again,
}

impl<'a> Taker<'a> {
    /// Who takes the first page of a VMA for a place.
    pub(crate) fn of(vma: &'a Vma) -> Self {
        if vma.flags.contains(VmFlags::MAYSHARE) {
            return Taker::Object;
        }
        Taker::Map(vma.promise().map(|promise| &**promise))
    }
}

impl Pages {
    /// The page of an index, if it is there.
    pub(crate) fn get(&self, index: u64) -> Option<FrameRun> {
        self.present.get(&index).copied()
    }

    /// Gives the object a page, with the reference of the caller's.
    pub(crate) fn insert(&mut self, index: u64, run: FrameRun) {
        self.present.insert(index, run);
    }

    /// Promises the pages of a range that are not promised yet.
    fn reserve(&mut self, range: Range<u64>, pool: &HugePool) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        let have = self.promised.range(range.clone()).count() as u64;
        pool.reserve(range.end - range.start - have)?;
        self.promised.extend(range);
        Ok(())
    }

    /// Gives up the pages of a range; who has them mapped still has them. What was promised there and has not come
    /// stays so.
    fn forget(&mut self, range: Range<u64>, frames: &Frames) -> Result<(), Broken> {
        while let Some((&index, &run)) = self.present.range(range.clone()).next() {
            self.present.remove(&index);
            self.promised.remove(&index);
            frames.put_run(run)?;
        }
        Ok(())
    }

    /// Takes back what is promised from an index on.
    fn unreserve_from(&mut self, index: u64, pool: &HugePool) {
        let gone = self.promised.split_off(&index);
        let open = gone.iter().filter(|index| !self.present.contains_key(index)).count();
        pool.unreserve(open as u64);
    }

    /// How many pages are promised, and not there.
    fn open(&self) -> u64 {
        (self.promised.len() - self.present.len().min(self.promised.len())) as u64
    }
}

/// Bytes of the huge pages that `MAP_HUGETLB` or `MFD_HUGETLB` asks for by the logarithm, 0 for the default
/// (Linux's `hstate_sizelog`); `None` if there are none of that size.
#[must_use]
pub fn huge_page_size(log2: u64) -> Option<u64> {
    match log2 {
        0 | 21 => Some(1 << 21),
        30 => Some(1 << 30),
        _ => None,
    }
}

impl HugeMemory {
    /// Memory of `len` bytes, named as Linux names the one behind `MAP_HUGETLB`.
    pub(crate) fn new(pool: &Arc<HugePool>, len: u64, inode: u64) -> Self {
        let path = "/anon_hugepage (deleted)".to_owned();
        let name = BackingName { inode, path, ..BackingName::default() };
        HugeMemory::of(pool, len, name)
    }

    /// Memory of no length with a name of its own: a memfd.
    pub(crate) fn file(pool: &Arc<HugePool>, name: BackingName) -> Self {
        HugeMemory::of(pool, 0, name)
    }

    fn of(pool: &Arc<HugePool>, len: u64, name: BackingName) -> Self {
        HugeMemory {
            pool: Arc::clone(pool),
            len: AtomicU64::new(len),
            seals: Sealing::default(),
            name,
            changing: Mutex::default(),
            maps: ObjectMaps::default(),
            pages: Mutex::default(),
        }
    }

    /// An empty object as memfd_create(2) makes it, in pages of the pool of this size; maps call it
    /// `/memfd:name (deleted)`.
    #[must_use]
    pub fn memfd(system: &System, name: &str, pool: &Arc<HugePool>) -> Self {
        HugeMemory::file(pool, BackingName::memfd(system, name))
    }

    /// A segment's memory (shmget(2) with `SHM_HUGETLB`), all of which is promised unless `flags` say
    /// [`VmFlags::NORESERVE`].
    ///
    /// # Errors
    /// `ENOMEM` there are not so many pages.
    pub(crate) fn segment(
        pool: &Arc<HugePool>,
        len: u64,
        name: BackingName,
        flags: VmFlags,
    ) -> Result<Self, Errno> {
        let memory = HugeMemory::of(pool, len, name);
        let _ = memory.map(flags | VmFlags::MAYSHARE, 0..len >> PAGE_SHIFT)?;
        Ok(memory)
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether its length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of it are there.
    #[must_use]
    pub fn present(&self) -> u64 {
        self.pages().present.len() as u64 * self.size()
    }

    /// What can no longer be done to it.
    #[must_use]
    pub fn seals(&self) -> Seals {
        self.seals.now()
    }

    /// Adds seals.
    ///
    /// # Errors
    /// As of [`SharedMemory::add_seals`](super::SharedMemory::add_seals).
    pub fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        let _alone = self.alone();
        self.seals.add(seals, &self.maps)
    }

    /// Changes its length, in bytes (ftruncate(2)). What lies past the new end is gone, wherever it is mapped,
    /// private copies too, and is promised to nobody.
    ///
    /// # Errors
    /// In this order: `EINVAL` no whole number of its pages; `EPERM` a seal. Source: `hugetlbfs_setattr`,
    /// `hugetlb_vmtruncate` of Linux's `fs/hugetlbfs/inode.c`.
    pub fn truncate(&self, len: u64, system: &System) -> CallResult<()> {
        let _alone = self.alone();
        {
            let maps = self.maps.change();
            if !len.is_multiple_of(self.size()) {
                return Err(Errno::EINVAL.into());
            }
            let old = self.len();
            self.seals.allow_length(old, len)?;
            self.len.store(len, Ordering::Relaxed);
            if len < old {
                let mut pages = self.pages();
                let first = len / self.size();
                pages.unreserve_from(first, &self.pool);
                pages.forget(first..u64::MAX, self.pool.frames())?;
                system.zap_now(&maps, &(len >> PAGE_SHIFT..u64::MAX), Copies::Go)?;
            }
        }
        Ok(())
    }

    /// Brings the pages of a range of bytes into being (fallocate(2)). Those before one that cannot be had stay.
    ///
    /// # Errors
    /// In this order: `EPERM` sealed against growing; `ENOSPC` no page that nobody else was promised. Source:
    /// `hugetlbfs_fallocate`.
    pub fn allocate(&self, bytes: Range<u64>, length: Length) -> CallResult<()> {
        let _alone = self.alone();
        let end = bytes.end.max(self.len());
        self.seals.allow_length(self.len(), end)?;
        let _held = self.maps.hold();
        let mut pages = self.pages();
        for index in bytes.start / self.size()..bytes.end.div_ceil(self.size()) {
            if pages.get(index).is_none() {
                let run = self.take(&mut pages, index, Taker::Object).ok_or(Errno::ENOSPC)?;
                self.zero(run);
                pages.insert(index, run);
            }
        }
        if length == Length::Grows {
            self.len.fetch_max(end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes a hole (`FALLOC_FL_PUNCH_HOLE`): whole pages go, wherever they are mapped, private copies too; what is
    /// left of others at its ends is zeros.
    ///
    /// # Errors
    /// `EPERM` sealed against writing. Source: `hugetlbfs_punch_hole`.
    pub fn punch_bytes(&self, bytes: Range<u64>, system: &System) -> CallResult<()> {
        let _alone = self.alone();
        let maps = self.maps.change();
        self.seals.allow_write()?;
        let first = bytes.start.div_ceil(self.size());
        let last = bytes.end / self.size();
        let mut pages = self.pages();
        if first > last {
            self.clear(&pages, bytes);
            return Ok(());
        }
        self.clear(&pages, bytes.start..first * self.size());
        self.clear(&pages, last * self.size()..bytes.end);
        if first < last {
            pages.forget(first..last, self.pool.frames())?;
            let small = |index: u64| index * (self.size() >> PAGE_SHIFT);
            system.zap_now(&maps, &(small(first)..small(last)), Copies::Go)?;
        }
        Ok(())
    }

    /// Makes bytes of one page zeros, if it is there (`hugetlbfs_zero_partial_page`).
    fn clear(&self, pages: &Pages, bytes: Range<u64>) {
        let Some(run) = pages.get(bytes.start / self.size()) else { return };
        let from = bytes.start % self.size();
        let len = usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(0);
        let memory = self.pool.frames().memory();
        for part in parts(from, len) {
            let zeros = vec![0; part.bytes.len()];
            memory.write(inside(run.start.offset(part.page), part.from), &zeros);
        }
    }

    /// Reads from `offset`, in bytes; says how many there were before the end (`hugetlbfs_read_iter`). A page that
    /// is not there reads as zeros.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> usize {
        let _held = self.maps.hold();
        let pages = self.pages();
        let left = self.len().saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let memory = self.pool.frames().memory();
        let of_huge = self.size() >> PAGE_SHIFT;
        for part in parts(offset, len) {
            let bytes = &mut into[part.bytes];
            match pages.get(part.page / of_huge) {
                Some(run) => {
                    let frame = run.start.offset(part.page % of_huge);
                    memory.read(inside(frame, part.from), bytes);
                }
                None => bytes.fill(0),
            }
        }
        len
    }

    /// Keeps out whoever else wants to change it as a file.
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its pages: nobody else's fault takes one meanwhile. While its maps are held.
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a page.
    pub(crate) fn size(&self) -> u64 {
        self.pool.page_size()
    }

    /// The addresses of the whole page at `addr`, which lies in a VMA of it.
    pub(crate) fn around(&self, addr: VirtAddr) -> Option<PageRange> {
        PageRange::from_len(VirtAddr::new(addr.get() & !(self.size() - 1)), self.size())
    }

    /// The index of the huge page that `addr` of a VMA shows.
    pub(crate) fn index_at(&self, vma: &Vma, addr: VirtAddr) -> u64 {
        vma.page_index(addr) / (self.size() >> PAGE_SHIFT)
    }

    /// The indices of the pages that a VMA shows.
    fn shown_by(&self, vma: &Vma) -> Range<u64> {
        let first = self.index_at(vma, vma.range().start());
        first..first + vma.range().len() / self.size()
    }

    /// Takes a page of the pool for an index (`alloc_hugetlb_folio`), whatever is in it. `None` if there is none.
    pub(crate) fn take(&self, pages: &mut Pages, index: u64, taker: Taker<'_>) -> Option<FrameRun> {
        let claim = match taker {
            Taker::Object if pages.promised.contains(&index) => Claim::Promised,
            Taker::Map(Some(promise)) => promise.claim(index),
            Taker::Object | Taker::Map(None) | Taker::Again => Claim::None,
        };
        let run = self.pool.take(claim)?;
        match taker {
            Taker::Object => _ = pages.promised.insert(index),
            Taker::Map(Some(promise)) => promise.keep(index),
            Taker::Map(None) | Taker::Again => {}
        }
        Some(run)
    }

    /// Fills a page with zeros.
    pub(crate) fn zero(&self, run: FrameRun) {
        let memory = self.pool.frames().memory();
        (0..run.count).for_each(|i| memory.zero(run.start.offset(i)));
    }

    /// What a private map, for which pages have been reserved by [`map`](Backing::map), has been promised.
    pub(crate) fn promise(&self) -> Arc<HugePromise> {
        Arc::new(HugePromise::new(&self.pool))
    }

    /// A private page that a VMA with a promise gives up, and that will be free, is promised to it anew.
    pub(crate) fn renew_promise(&self, vma: &Vma, addr: VirtAddr) {
        if let Some(promise) = vma.promise() {
            promise.renew(self.index_at(vma, addr));
        }
    }

    /// A VMA goes: what it was promised and has not got is anybody's again.
    pub(crate) fn close(&self, vma: &Vma) {
        if let Some(promise) = vma.promise() {
            promise.give_back(self.shown_by(vma));
        }
    }

    /// How many pages are promised to a VMA that are still to come: for the audit.
    pub(crate) fn promised_to(&self, vma: &Vma) -> u64 {
        vma.promise().map_or(0, |promise| promise.open(self.shown_by(vma)))
    }

    /// How many pages are promised to the object that are still to come: for the audit.
    pub(crate) fn promised(&self) -> u64 {
        self.pages().open()
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        let mut pages = std::mem::take(&mut *self.pages());
        pages.unreserve_from(0, &self.pool);
        if let Err(broken) = pages.forget(0..u64::MAX, self.pool.frames()) {
            log::error!("huge pages cannot be given up: {broken}");
        }
    }
}

impl Backing for HugeMemory {
    /// It has none of that size.
    fn page(&self, _: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        Err(BackingError::NoPage)
    }

    fn name(&self) -> BackingName {
        self.name.clone()
    }

    fn placement(&self) -> Placement {
        Placement::HugePages(self.size())
    }

    fn check_map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        self.seals.allow_map(flags)
    }

    /// Promises the pages, if that is asked for. A map that may be written makes it as long as the map is, whatever
    /// the seals say (Linux's `hugetlbfs_file_mmap`).
    fn map(&self, flags: VmFlags, pages: Range<u64>) -> Result<VmFlags, Errno> {
        let small = self.size() >> PAGE_SHIFT;
        if !pages.start.is_multiple_of(small) {
            return Err(Errno::EINVAL);
        }
        let huge = pages.start / small..pages.end / small;
        let _alone = self.alone();
        let promised = !flags.contains(VmFlags::NORESERVE);
        if promised && flags.contains(VmFlags::MAYSHARE) {
            self.pages().reserve(huge, &self.pool)?;
        } else if promised {
            self.pool.reserve(huge.end - huge.start)?;
        }
        if flags.contains(VmFlags::WRITE) {
            self.len.fetch_max(pages.end << PAGE_SHIFT, Ordering::Relaxed);
        }
        Ok(flags | VmFlags::HUGETLB | VmFlags::DONTEXPAND)
    }

    fn may_split(&self, addr: VirtAddr) -> Result<(), Errno> {
        if addr.get().is_multiple_of(self.size()) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn is_resident(&self, index: u64) -> bool {
        self.pages().get(index / (self.size() >> PAGE_SHIFT)).is_some()
    }

    fn punch(&self, pages: Range<u64>, system: &System) -> CallResult<()> {
        self.punch_bytes(pages.start << PAGE_SHIFT..pages.end << PAGE_SHIFT, system)
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        Some(&self.maps)
    }

    fn huge(&self) -> Option<&HugeMemory> {
        Some(self)
    }

    fn has_close_hook(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
