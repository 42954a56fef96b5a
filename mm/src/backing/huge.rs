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
}

impl HugePool {
    /// Memory in pages of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        HugePool { size }
    }
}

impl Backing for HugePool {
    fn page(&self, _: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        Err(BackingError::NoPage)
    }

    fn name(&self) -> BackingName {
        BackingName { path: "/anon_hugepage (deleted)".to_owned(), ..BackingName::default() }
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
