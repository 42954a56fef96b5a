//! The pool of huge pages behind `MAP_HUGETLB` and `MFD_HUGETLB` (Linux's hugetlbfs). It is empty so far, as on a
//! host where nobody has asked for any: a map that wants its pages reserved finds none; one that does not
//! (`MAP_NORESERVE`) is there, but no touch of it succeeds. So what such memory has as a file are a length, a
//! hole of that length, and seals.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::seals::{Sealing, Seals};
use super::{Backing, BackingError, BackingName, Placement};
use crate::addr::{Frame, PAGE_SHIFT, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::paging::FlushBatch;
use crate::promise::Payer;
use crate::rmap::ObjectMaps;
use crate::system::System;
use crate::vma::VmFlags;

/// Memory from the pool.
#[derive(Debug)]
pub struct HugePool {
    /// Bytes of a page.
    size: u64,
    /// In bytes.
    len: AtomicU64,
    seals: Sealing,
    name: BackingName,
    /// Over whatever changes it as a file (Linux's `i_rwsem`).
    changing: Mutex<()>,
    maps: ObjectMaps,
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

impl HugePool {
    /// Memory in pages of `size` bytes, named as Linux names the one behind `MAP_HUGETLB`.
    pub(crate) fn new(size: u64, inode: u64) -> Self {
        let path = "/anon_hugepage (deleted)".to_owned();
        HugePool::file(size, BackingName { inode, path, ..BackingName::default() })
    }

    /// The same with a name of its own: a memfd.
    pub(crate) fn file(size: u64, name: BackingName) -> Self {
        HugePool {
            size,
            len: AtomicU64::new(0),
            seals: Sealing::default(),
            name,
            changing: Mutex::default(),
            maps: ObjectMaps::default(),
        }
    }

    /// An empty object as memfd_create(2) makes it, in pages of `size` bytes; maps call it
    /// `/memfd:name (deleted)`.
    #[must_use]
    pub fn memfd(system: &System, name: &str, size: u64) -> Self {
        HugePool::file(size, BackingName::memfd(system, name))
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

    /// Changes its length, in bytes (ftruncate(2)). No page of it is anywhere, so none goes.
    ///
    /// # Errors
    /// In this order: `EINVAL` no whole number of its pages; `EPERM` a seal. Source: `hugetlbfs_setattr` of Linux's
    /// `fs/hugetlbfs/inode.c`.
    pub fn truncate(&self, len: u64) -> Result<(), Errno> {
        let _alone = self.alone();
        if !len.is_multiple_of(self.size) {
            return Err(Errno::EINVAL);
        }
        self.seals.allow_length(self.len(), len)?;
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    /// Would bring the pages of a range of bytes into being (fallocate(2)). There are none.
    ///
    /// # Errors
    /// In this order: `EPERM` sealed against growing; `ENOSPC`. Source: `hugetlbfs_fallocate`.
    pub fn allocate(&self, bytes: Range<u64>) -> Result<(), Errno> {
        let _alone = self.alone();
        self.seals.allow_length(self.len(), bytes.end.max(self.len()))?;
        Err(Errno::ENOSPC)
    }

    /// Makes a hole (`FALLOC_FL_PUNCH_HOLE`), which all of it is.
    ///
    /// # Errors
    /// `EPERM` sealed against writing. Source: `hugetlbfs_punch_hole`.
    pub fn punch_bytes(&self) -> Result<(), Errno> {
        let _alone = self.alone();
        self.seals.allow_write()
    }

    /// Reads from `offset`, in bytes: zeros. Says how many there were before the end (`hugetlbfs_read_iter`).
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> usize {
        let left = self.len().saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        into[..len].fill(0);
        len
    }

    /// Keeps out whoever else wants to change it as a file.
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backing for HugePool {
    fn page(&self, _: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        Err(BackingError::NoPage)
    }

    fn name(&self) -> BackingName {
        self.name.clone()
    }

    fn placement(&self) -> Placement {
        Placement::HugePages(self.size)
    }

    fn check_map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        self.seals.allow_map(flags)
    }

    /// A map that may be written makes it as long as the map is, whatever the seals say (Linux's
    /// `hugetlbfs_file_mmap`).
    fn map(&self, flags: VmFlags, pages: Range<u64>) -> Result<VmFlags, Errno> {
        if !pages.start.is_multiple_of(self.size >> PAGE_SHIFT) {
            return Err(Errno::EINVAL);
        }
        if !flags.contains(VmFlags::NORESERVE) {
            return Err(Errno::ENOMEM);
        }
        if flags.contains(VmFlags::WRITE) {
            let _alone = self.alone();
            self.len.fetch_max(pages.end << PAGE_SHIFT, Ordering::Relaxed);
        }
        Ok(flags | VmFlags::HUGETLB | VmFlags::DONTEXPAND)
    }

    fn may_split(&self, addr: VirtAddr) -> Result<(), Errno> {
        if addr.get().is_multiple_of(self.size) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn punch(&self, _: Range<u64>, _: &System, _: &mut FlushBatch) -> CallResult<()> {
        Ok(self.punch_bytes()?)
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        Some(&self.maps)
    }

    fn has_close_hook(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 21;

    fn pool() -> HugePool {
        HugePool::file(SIZE, BackingName::default())
    }

    #[test]
    fn its_length_is_whole_pages_and_kept_by_seals() {
        let pool = pool();
        assert_eq!(pool.truncate(SIZE + 1), Err(Errno::EINVAL));
        assert_eq!((pool.truncate(3 * SIZE), pool.len()), (Ok(()), 3 * SIZE));
        pool.add_seals(Seals::GROW | Seals::SHRINK).unwrap();
        assert_eq!(pool.truncate(SIZE), Err(Errno::EPERM));
        assert_eq!(pool.truncate(SIZE + 1), Err(Errno::EINVAL), "looked at first");
        assert_eq!(pool.allocate(0..4 * SIZE), Err(Errno::EPERM));
        assert_eq!(pool.allocate(0..3 * SIZE), Err(Errno::ENOSPC));
    }

    #[test]
    fn a_map_that_may_write_makes_it_longer_even_where_a_seal_forbids_that() {
        let pool = pool();
        pool.add_seals(Seals::GROW).unwrap();
        let page = SIZE >> PAGE_SHIFT;
        let read = VmFlags::SHARED | VmFlags::NORESERVE;
        pool.map(read, 0..page).unwrap();
        assert!(pool.is_empty());
        assert_eq!(pool.map(VmFlags::SHARED | VmFlags::WRITE, 0..page), Err(Errno::ENOMEM));
        assert!(pool.is_empty());
        pool.map(read | VmFlags::WRITE, page..2 * page).unwrap();
        assert_eq!(pool.len(), 2 * SIZE);
    }

    #[test]
    fn it_reads_as_zeros_up_to_its_end() {
        let pool = pool();
        pool.truncate(SIZE).unwrap();
        let mut bytes = [7; 8];
        assert_eq!((pool.read_at(SIZE - 5, &mut bytes), bytes), (5, [0, 0, 0, 0, 0, 7, 7, 7]));
        assert_eq!(pool.read_at(SIZE, &mut bytes), 0);
    }
}
