//! mlock(2), mlock2(2), munlock(2), mlockall(2), munlockall(2): Linux's `mm/mlock.c`.

use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::range::{CallRange, touched};
use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::paging::{Entry, Owner};
use crate::rules::Rule;
use crate::vma::limits::Capabilities;
use crate::vma::{VmFlags, Vma};

/// `MLOCK_ONFAULT`.
const MLOCK_ONFAULT: u64 = 1;
/// `MCL_CURRENT`.
const MCL_CURRENT: u64 = 1;
/// `MCL_FUTURE`.
const MCL_FUTURE: u64 = 2;
/// `MCL_ONFAULT`.
const MCL_ONFAULT: u64 = 4;

impl AddressSpace {
    /// Locks the pages that the range touches in memory; with `MLOCK_ONFAULT` those that are there, and
    /// the others once they come.
    ///
    /// # Errors
    /// In this order: `EINVAL` unknown flags; `EPERM` may not lock; `ENOMEM` past `RLIMIT_MEMLOCK`;
    /// `EINVAL` the range wraps; `ENOMEM` a hole (what is before it is locked), or too many VMAs; then,
    /// all being locked, `ENOMEM` a page that cannot be touched, `EAGAIN` no memory for one.
    /// Source: mlock(2), Linux's `do_mlock`.
    pub fn mlock2(&mut self, addr: VirtAddr, len: u64, flags: u64) -> CallResult<()> {
        if flags & !MLOCK_ONFAULT != 0 {
            return Err(Errno::EINVAL.into());
        }
        let mut add = VmFlags::LOCKED;
        add.set(VmFlags::LOCKONFAULT, flags & MLOCK_ONFAULT != 0);
        if !self.can_lock() {
            return Err(Errno::EPERM.into());
        }
        let (start, len) = touched(addr, len);
        if !self.limits.may(Capabilities::IPC_LOCK) {
            let limit = self.limits.memlock.pages();
            let mut locked = (len >> PAGE_SHIFT).saturating_add(self.account.locked);
            if locked > limit {
                locked -= self.locked_in(start, len);
            }
            if locked > limit {
                return Err(Errno::ENOMEM.into());
            }
        }
        let Some(range) = CallRange::of_pages(start, len)? else { return Ok(()) };
        self.set_locked(range, add)?;
        let result = self.populate_locked(range);
        if result.is_err() && !self.rule(Rule::LockStays) {
            self.set_locked(range, VmFlags::empty())?;
        }
        result
    }

    /// Unlocks the pages that the range touches.
    ///
    /// # Errors
    /// `EINVAL` the range wraps; `ENOMEM` a hole (what is before it is unlocked), or too many VMAs.
    /// Source: munlock(2).
    pub fn munlock(&mut self, addr: VirtAddr, len: u64) -> CallResult<()> {
        let (start, len) = touched(addr, len);
        let Some(range) = CallRange::of_pages(start, len)? else { return Ok(()) };
        self.set_locked(range, VmFlags::empty())
    }

    /// Locks everything mapped (`MCL_CURRENT`), everything that will be (`MCL_FUTURE`), or each page
    /// once it comes (`MCL_ONFAULT` with one of them).
    ///
    /// # Errors
    /// In this order: `EINVAL` flags; `EPERM` may not lock; `ENOMEM` all mapped memory is more than
    /// `RLIMIT_MEMLOCK`. Source: mlockall(2), Linux's `apply_mlockall_flags`.
    pub fn mlockall(&mut self, flags: u64) -> CallResult<()> {
        let known = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
        if flags == 0 || flags & !known != 0 || flags == MCL_ONFAULT {
            return Err(Errno::EINVAL.into());
        }
        if !self.can_lock() {
            return Err(Errno::EPERM.into());
        }
        if flags & MCL_CURRENT != 0
            && self.account.total > self.limits.memlock.pages()
            && !self.limits.may(Capabilities::IPC_LOCK)
        {
            return Err(Errno::ENOMEM.into());
        }
        let mut add = VmFlags::LOCKED;
        add.set(VmFlags::LOCKONFAULT, flags & MCL_ONFAULT != 0);
        let defaults = &mut self.modes.default_flags;
        defaults.remove(VmFlags::LOCKED_MASK);
        if flags & MCL_FUTURE != 0 {
            defaults.insert(add);
        }
        if flags & MCL_CURRENT != 0 {
            self.lock_all(add);
            if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
                self.populate_all(all)?;
            }
        }
        Ok(())
    }

    /// Unlocks everything.
    pub fn munlockall(&mut self) {
        self.modes.default_flags.remove(VmFlags::LOCKED_MASK);
        self.lock_all(VmFlags::empty());
    }

    /// Whether anything is locked.
    pub(super) fn locks_something(&self) -> bool {
        self.account.locked > 0
    }

    /// Every VMA, whatever becomes of the others.
    fn lock_all(&mut self, add: VmFlags) {
        let mut at = VirtAddr::ZERO;
        while let Some(vma) = self.vmas.find(at) {
            let range = vma.range();
            at = self.set_locked_one(range, add).unwrap_or(range.end()).max(range.end());
        }
    }

    /// Linux's `apply_vma_lock_flags`: VMA by VMA, until a hole.
    fn set_locked(&mut self, range: CallRange, add: VmFlags) -> CallResult<()> {
        let mut at = range.start();
        while at < range.end() {
            let vma = self.vmas.find_exact(at).ok_or(Errno::ENOMEM)?;
            let stop = vma.range().end().min(range.end());
            let part = PageRange::new(at, stop).ok_or(Errno::ENOMEM)?;
            at = self.set_locked_one(part, add)?;
        }
        Ok(())
    }

    /// A part of one VMA (`mlock_fixup`). Returns where the VMA ends that it is part of then.
    fn set_locked_one(&mut self, part: PageRange, add: VmFlags) -> CallResult<VirtAddr> {
        let vma = self.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
        let flags = vma.flags.difference(VmFlags::LOCKED_MASK) | add;
        if flags == vma.flags || vma.flags.intersects(VmFlags::UNLOCKABLE) {
            return Ok(part.end());
        }
        let end = self.modify_flags(part, flags)?;
        self.note_locked(part, flags);
        Ok(end)
    }

    /// Notes at pages which could be given up, from outside even, that their memory is locked, or is no longer.
    pub(super) fn note_locked(&self, part: PageRange, flags: VmFlags) {
        let locked = flags.contains(VmFlags::LOCKED);
        let noted = |entry: Entry| if locked { entry.locked() } else { entry.unlocked() };
        // The entries of a huge page have the note when it is split, before which none of it goes.
        self.table.large_in(part).for_each(|large| _ = large.update(noted));
        let Some(vma) = self.vmas.find_exact(part.start()) else { return };
        for leaf in self.table.cursor(part) {
            if !self.could_go(vma, leaf.entry) && !leaf.entry.is_locked() {
                continue;
            }
            // The hardware sets bits meanwhile, and the page may be given up.
            let _ = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |raw| {
                let entry = Entry::new(raw);
                entry.frame().map(|_| noted(entry).raw())
            });
        }
    }

    /// Whether a page could be given up but for a lock on it.
    fn could_go(&self, vma: &Vma, entry: Entry) -> bool {
        match entry.owner() {
            Owner::Process => self.system.swap().is_some() || self.is_lazy(entry),
            Owner::Backing => self.object_page_could_go(vma, entry),
        }
    }

    /// How many pages of the range are locked already (`count_mm_mlocked_page_nr`).
    fn locked_in(&self, start: VirtAddr, len: u64) -> u64 {
        let end = VirtAddr::new(start.get().saturating_add(len)).min(VirtAddr::TASK_END);
        let Some(range) = PageRange::new(start, end) else { return 0 };
        self.vmas
            .range(range)
            .filter(|vma| vma.flags.contains(VmFlags::LOCKED))
            .filter_map(|vma| vma.range().intersect(range))
            .map(PageRange::pages)
            .sum()
    }
}
