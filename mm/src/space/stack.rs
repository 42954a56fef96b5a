//! The stack: its first VMA (Linux's `setup_arg_pages`) and its growth on a touch below it
//! (`expand_downwards`).

use std::sync::atomic::Ordering;

use super::AddressSpace;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{AccessError, CallResult, Errno, Fault};
use crate::rules::Rule;
use crate::vma::place::STACK_GUARD_GAP;
use crate::vma::{VmFlags, Vma};

/// How far below the arguments the stack reaches at first.
const STACK_EXPAND: u64 = 128 << 10;

impl AddressSpace {
    /// Maps the stack: `used` bytes of arguments end at `top`, 128 KiB are below them.
    ///
    /// # Errors
    /// `ENOMEM` when something is there already or limits forbid it; `EINVAL` if `top` is unaligned
    /// or past the user half.
    pub fn map_stack(&mut self, top: VirtAddr, used: u64, exec: Exec) -> CallResult<PageRange> {
        let size = used.saturating_add(STACK_EXPAND).min(self.limits.stack.soft.max(PAGE_SIZE));
        let start = top.checked_sub(size).ok_or(Errno::EINVAL)?.page_floor();
        let range = PageRange::new(start, top).ok_or(Errno::EINVAL)?;
        if self.vmas.find_intersection(range).is_some() {
            return Err(Errno::ENOMEM.into());
        }
        let mut flags = VmFlags::READ
            | VmFlags::WRITE
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC
            | VmFlags::GROWSDOWN
            | VmFlags::ACCOUNT;
        flags.set(VmFlags::EXEC, exec == Exec::Allowed);
        self.map_region(Vma::anonymous(range, flags))?;
        Ok(range)
    }

    /// Notes the stack pointer at the program's start; the VMA there is `[stack]` in maps.
    pub fn set_start_stack(&mut self, addr: VirtAddr) {
        self.layout.start_stack = addr;
    }

    /// Grows the VMA above `addr` down to it, if it is one that grows.
    ///
    /// # Errors
    /// `SIGSEGV` with `SEGV_MAPERR` where Linux would not grow it: the VMA above does not grow down,
    /// `RLIMIT_STACK` or `RLIMIT_AS` forbids, or fewer than 256 pages would remain above an
    /// accessible VMA that does not itself grow.
    pub fn grow_stack(&mut self, addr: VirtAddr) -> Result<(), AccessError> {
        let refused = Fault::NotMapped(addr);
        let above = self
            .vmas
            .find(addr)
            .filter(|vma| vma.flags.contains(VmFlags::GROWSDOWN))
            .ok_or(refused)?;
        let old = above.range();
        if old.contains(addr) {
            return Ok(());
        }
        let new = PageRange::new(addr.page_floor(), old.end()).ok_or(refused)?;
        let grown = new.pages() - old.pages();
        let flags = above.flags;
        let too_close = self.rule(Rule::StackGap)
            && self.vmas.prev(old.start()).is_some_and(|below| {
                below.flags.intersects(VmFlags::ACCESS)
                    && !below.flags.contains(VmFlags::GROWSDOWN)
                    && new.start().bytes_from(below.range().end()) < STACK_GUARD_GAP
            });
        if too_close || new.start().get() < self.system.sysctl.mmap_min_addr() {
            return Err(refused.into());
        }
        // Before the limits, and kept if they refuse: so does Linux.
        let prepared = self.prepare_anon(above);
        let refuse = prepared.is_err()
            || grown > above.pgoff
            || !self.may_expand(flags, grown)
            || new.len() > self.limits.stack.soft
            || !self.may_lock(flags, grown << PAGE_SHIFT)
            || self.commit(grown).is_err();
        if refuse {
            return Err(refused.into());
        }
        if !flags.contains(VmFlags::ACCOUNT) {
            // Linux asks all the same, and forgets about it: nobody would ever take this promise back.
            self.system.uncommit(grown);
        }
        // The key of the tree is the start, so a VMA that grows down is taken out and put back.
        if let Some(mut vma) = self.vmas.remove(old.start()) {
            vma.resize(new);
            self.chains.attach(&vma);
            let _ = self.vmas.insert(vma);
            self.account.add(flags, grown);
            self.counters.faults.stack_growth.fetch_add(1, Ordering::Relaxed);
            self.tell_mapped(new.start());
        }
        Ok(())
    }
}

/// Whether the stack may be executed (`PT_GNU_STACK`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exec {
    /// Old programs without a `PT_GNU_STACK` header, or whose header asks for it.
    Allowed,
    /// Everything else.
    Forbidden,
}
