//! Pages of pagers, and of who serves a userfaultfd, that are brought in ahead of a touch: what an exclusive change of a space
//! has to leave out, because they are not asked under a lock. Who has let go of it goes on here, page by page; what is locked is not evicted
//! meanwhile, since its VMA says so by then.

use super::populate::Populate;
use super::{AddressSpace, MapRequest, SharedSpace};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{AccessError, Broken, CallResult, Fault};
use crate::userfault::Accessor;
use crate::vma::MapFlags;

impl SharedSpace {
    /// [`mmap`](super::AddressSpace::mmap), and what it is to bring in of a pager's memory. The caller has no lock.
    ///
    /// # Errors
    /// As of mmap.
    pub(crate) fn map_and_populate(&self, request: &MapRequest) -> CallResult<VirtAddr> {
        const ASKED: MapFlags = MapFlags::POPULATE.union(MapFlags::NONBLOCK);
        let (mapped, locked) = self.change_and_tell(|space| {
            let mapped = space.mmap(request);
            (mapped, space.locks_something())
        });
        let populate = if request.flags & ASKED == MapFlags::POPULATE {
            Populate::Mapped
        } else if locked {
            Populate::Locked
        } else {
            return mapped;
        };
        let addr = mapped?;
        self.populate_all_paged(addr, request.len, populate)?;
        Ok(addr)
    }

    /// [`mprotect`](super::AddressSpace::mprotect) of a range, and what it is to bring in of a pager's memory: what is
    /// locked and private may be written without a fault. The caller has no lock.
    ///
    /// # Errors
    /// As of mprotect.
    pub(crate) fn protect_and_populate(
        &self,
        addr: VirtAddr,
        len: u64,
        protect: impl FnOnce(&mut AddressSpace) -> CallResult<()>,
    ) -> CallResult<()> {
        let (protected, before) = {
            let mut space = self.change();
            let before = space.locked_unwritten(addr, len);
            (protect(&mut space), before)
        };
        for part in before {
            self.populate_all_paged(part.start(), part.len(), Populate::Written)?;
        }
        protected
    }

    /// Brings in what is left out of a range, up to the first page that cannot be had: the fault that it was.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub(crate) fn populate_paged(
        &self,
        addr: VirtAddr,
        len: u64,
        populate: Populate,
    ) -> Result<Option<Fault>, Broken> {
        {
            let space = self.look();
            if space.system().pagers.is_empty() && !space.has_userfaults {
                return Ok(None);
            }
        }
        let end = addr.checked_add(len).and_then(VirtAddr::page_ceil);
        let end = end.unwrap_or(VirtAddr::TASK_END).min(VirtAddr::TASK_END);
        let mut at = addr.page_floor();
        loop {
            let next = PageRange::new(at, end)
                .and_then(|range| self.look().next_to_populate(range, populate));
            let Some((page, kind)) = next else { return Ok(None) };
            match self.fault_for(page, kind, Accessor::Call) {
                // Once: it may have been taken away again.
                Ok(()) => at = page.offset(PAGE_SIZE),
                Err(AccessError::Fault(fault)) => return Ok(Some(fault)),
                Err(AccessError::Broken(broken)) => return Err(broken),
            }
        }
    }

    /// The same, in each VMA up to the first page that cannot be had.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub(crate) fn populate_all_paged(
        &self,
        addr: VirtAddr,
        len: u64,
        populate: Populate,
    ) -> Result<(), Broken> {
        let end = addr.checked_add(len).unwrap_or(VirtAddr::TASK_END);
        let mut at = addr;
        while at < end
            && let Some(fault) = self.populate_paged(at, end.bytes_from(at), populate)?
        {
            let space = self.look();
            let vma = space.vmas().find_exact(fault.address());
            at = vma.map_or(fault.address().offset(PAGE_SIZE), |vma| vma.range().end());
        }
        Ok(())
    }
}
