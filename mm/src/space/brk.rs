//! brk(2): Linux's `brk` system call and `do_brk_flags`.

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::vma::place::start_gap;
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// Says where the heap begins, empty so far; done once, when a program is loaded.
    pub fn set_start_brk(&mut self, addr: VirtAddr) {
        self.layout.start_brk = addr;
        self.layout.brk = addr;
    }

    /// Moves the end of the heap to `addr`, to the byte, and returns where it is then: the old place
    /// if it could not be moved. This call has no errno.
    ///
    /// It cannot go below the heap's start, over another mapping or its guard gap (one page is kept
    /// free), past `RLIMIT_DATA` or `RLIMIT_AS`. Source: brk(2), Linux's `mm/mmap.c`.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub fn brk(&mut self, addr: VirtAddr) -> Result<VirtAddr, Broken> {
        match self.try_brk(addr) {
            Ok(()) => self.layout.brk = addr,
            Err(CallError::Errno(_)) => {}
            Err(CallError::Broken(broken)) => return Err(broken),
        }
        Ok(self.layout.brk)
    }

    fn try_brk(&mut self, addr: VirtAddr) -> CallResult<()> {
        let (start, old) = (self.layout.start_brk, self.layout.brk);
        if addr < start {
            return Err(Errno::ENOMEM.into());
        }
        if addr.bytes_from(start) > self.limits.data {
            return Err(Errno::ENOMEM.into());
        }
        let new_end = addr.page_ceil().ok_or(Errno::ENOMEM)?;
        let old_end = old.page_ceil().ok_or(Errno::ENOMEM)?;
        if new_end == old_end {
            return Ok(());
        }
        if new_end < old_end {
            return self.munmap(new_end, old_end.bytes_from(new_end));
        }
        let range = PageRange::new(old_end, new_end).ok_or(Errno::ENOMEM)?;
        self.grow_heap(range)
    }

    fn grow_heap(&mut self, range: PageRange) -> CallResult<()> {
        let kept_free = range.end().checked_add(crate::addr::PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let blocked = self.vmas.find(range.start()).is_some_and(|next| kept_free > start_gap(next));
        if blocked {
            return Err(Errno::ENOMEM.into());
        }
        let flags = heap_flags();
        if !self.may_expand(flags, range.pages()) || self.vmas.len() > self.limits.max_map_count {
            return Err(Errno::ENOMEM.into());
        }
        self.system.guardian.may_commit(range.pages())?;
        self.insert(Vma::anonymous(range, flags));
        Ok(())
    }
}

/// Linux's `VM_DATA_DEFAULT_FLAGS | VM_ACCOUNT`.
fn heap_flags() -> VmFlags {
    VmFlags::READ
        | VmFlags::WRITE
        | VmFlags::MAYREAD
        | VmFlags::MAYWRITE
        | VmFlags::MAYEXEC
        | VmFlags::ACCOUNT
}
