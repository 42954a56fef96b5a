//! brk(2): Linux's `brk` system call and `do_brk_flags`.

use super::AddressSpace;
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::vma::merge::{Origin, merge_left};
use crate::vma::place::start_gap;
use crate::vma::{MapFlags, VmFlags, Vma};

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
    /// free), past `RLIMIT_DATA`, `RLIMIT_AS` or what may be locked. Source: brk(2), Linux's
    /// `mm/mmap.c`.
    ///
    /// # Errors
    /// [`Broken`] only.
    pub fn brk(&mut self, addr: VirtAddr) -> Result<VirtAddr, Broken> {
        match self.try_brk(addr) {
            Ok(()) | Err(CallError::Errno(_)) => {}
            Err(CallError::Broken(broken)) => return Err(broken),
        }
        Ok(self.layout.brk)
    }

    fn try_brk(&mut self, addr: VirtAddr) -> CallResult<()> {
        let (start, old) = (self.layout.start_brk, self.layout.brk);
        if addr < start {
            return Err(Errno::ENOMEM.into());
        }
        let data = self.layout.end_data.get().saturating_sub(self.layout.start_data.get());
        let soft = self.limits.data.soft;
        if soft != crate::vma::limits::UNLIMITED
            && addr.bytes_from(start).saturating_add(data) > soft
        {
            return Err(Errno::ENOMEM.into());
        }
        let new_end = addr.page_ceil().ok_or(Errno::ENOMEM)?;
        let old_end = old.page_ceil().ok_or(Errno::ENOMEM)?;
        if new_end < old_end {
            let range = PageRange::new(new_end, old_end).ok_or(Errno::ENOMEM)?;
            self.vmas.find_intersection(range).ok_or(Errno::ENOMEM)?;
            self.unmap(range)?;
        } else if new_end > old_end {
            let range = PageRange::new(old_end, new_end).ok_or(Errno::ENOMEM)?;
            self.grow_heap(range)?;
            self.layout.brk = addr;
            if self.modes.default_flags.contains(VmFlags::LOCKED) {
                self.populate_all(range)?;
            }
        }
        self.layout.brk = addr;
        Ok(())
    }

    /// `VM_DATA_DEFAULT_FLAGS`.
    fn data_default_flags(&self) -> VmFlags {
        if self.modes.read_implies_exec() {
            VmFlags::DATA_DEFAULT | VmFlags::EXEC
        } else {
            VmFlags::DATA_DEFAULT
        }
    }

    fn grow_heap(&mut self, range: PageRange) -> CallResult<()> {
        self.place(None, range.start(), range.len(), 0, MapFlags::FIXED)?;
        if !self.may_lock(self.modes.default_flags, range.len()) {
            return Err(Errno::EAGAIN.into());
        }
        let kept_free = range.end().checked_add(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let blocked = self.vmas.find(range.start()).is_some_and(|next| kept_free > start_gap(next));
        if blocked {
            return Err(Errno::ENOMEM.into());
        }
        let flags = self.data_default_flags() | VmFlags::ACCOUNT | self.modes.default_flags;
        if !self.may_expand(flags, range.pages()) || self.vmas.len() > self.max_map_count() {
            return Err(Errno::ENOMEM.into());
        }
        self.reserve(1)?;
        self.commit(range.pages())?;
        let flags = self.with_merge_any(flags);
        let vma = Vma::anonymous(range, flags);
        self.account.add(flags, range.pages());
        // The heap grows only itself: it takes in neither what lies below its start, such as the
        // program's own zeros, nor what lies above.
        let before = self.vmas.prev(range.start());
        let heap = before.is_some_and(|prev| prev.range().end() > self.layout.start_brk);
        let merged = if heap { merge_left(&mut self.vmas, &vma, Origin::New) } else { None };
        self.counters.merges.count(merged.map(|merged| merged.how));
        if merged.is_none() {
            let _ = self.vmas.insert(vma);
        } else {
            self.attach_at(range.start());
        }
        self.tell_mapped(range.start());
        Ok(())
    }
}
