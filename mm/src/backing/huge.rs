//! The pool of huge pages behind `MAP_HUGETLB` (Linux's hugetlbfs). It is empty so far: a map that wants its
//! pages reserved finds none; one that does not (`MAP_NORESERVE`) is there, but no touch of it succeeds.

use std::ops::Range;

use super::{Backing, BackingError, BackingName, Placement};
use crate::addr::{Frame, PAGE_SHIFT, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::paging::FlushBatch;
use crate::promise::Payer;
use crate::system::System;
use crate::vma::VmFlags;

/// Memory from the pool.
#[derive(Debug)]
pub(crate) struct HugePool {
    /// Bytes of a page.
    size: u64,
    name: BackingName,
}

/// Bytes of the huge pages that `MAP_HUGETLB` or `MFD_HUGETLB` asks for by the logarithm, 0 for the default
/// (Linux's `hstate_sizelog`); `None` if there are none of that size.
pub(crate) fn huge_page_size(log2: u64) -> Option<u64> {
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
        HugePool { size, name }
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

    fn map(&self, flags: VmFlags, first: u64) -> Result<VmFlags, Errno> {
        if !first.is_multiple_of(self.size >> PAGE_SHIFT) {
            return Err(Errno::EINVAL);
        }
        if !flags.contains(VmFlags::NORESERVE) {
            return Err(Errno::ENOMEM);
        }
        Ok(flags | VmFlags::HUGETLB | VmFlags::DONTEXPAND)
    }

    fn may_split(&self, addr: VirtAddr) -> Result<(), Errno> {
        if addr.get().is_multiple_of(self.size) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn punch(&self, _: Range<u64>, _: &System, _: &mut FlushBatch) -> CallResult<()> {
        Ok(())
    }

    fn has_close_hook(&self) -> bool {
        true
    }
}
