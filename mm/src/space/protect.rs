//! mprotect(2): Linux's `do_mprotect_pkey`, `mprotect_fixup`, `change_protection`.

use std::sync::atomic::Ordering;

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::paging::{Access, Entry, FlushBatch, Owner};
use crate::vma::split::isolate;
use crate::vma::{Prot, VmFlags, Vma};

impl AddressSpace {
    /// Changes what may be done with the pages of the range. Over a hole it answers `ENOMEM`, and the
    /// part before the hole is changed.
    ///
    /// # Errors
    /// In this order: `EINVAL` both `PROT_GROWS` flags, address unaligned; `ENOMEM` the length wraps;
    /// `EINVAL` unknown bits; `ENOMEM` nothing mapped; `EINVAL` `PROT_GROWSDOWN` on a VMA that does not
    /// grow; then for each VMA `EACCES` what its backing forbids, `ENOMEM` limits.
    /// Source: mprotect(2), Linux's `mm/mprotect.c`.
    pub fn mprotect(&mut self, addr: VirtAddr, len: u64, prot: u64) -> CallResult<()> {
        let grows = Prot::GROWSDOWN | Prot::GROWSUP;
        let asked = Prot::from_bits_retain(prot);
        if asked.contains(grows) || !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        if len == 0 {
            return Ok(());
        }
        let len = page_align(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).filter(|&end| end > addr).ok_or(Errno::ENOMEM)?;
        let access = asked.difference(grows);
        if !(Prot::READ | Prot::WRITE | Prot::EXEC | Prot::SEM).contains(access) {
            return Err(Errno::EINVAL.into());
        }
        let first = self.vmas.find(addr).ok_or(Errno::ENOMEM)?;
        let start = if asked.contains(Prot::GROWSDOWN) {
            if first.range().start() >= end {
                return Err(Errno::ENOMEM.into());
            }
            if !first.flags.contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL.into());
            }
            first.range().start()
        } else {
            addr
        };
        if asked.contains(Prot::GROWSUP) && first.range().start() <= addr {
            return Err(Errno::EINVAL.into());
        }
        let mut batch = FlushBatch::new();
        let result = self.protect_each(start, end, VmFlags::from_prot(access), &mut batch);
        self.finish(batch)?;
        result
    }

    /// VMA by VMA, until the end, a hole, or a refusal.
    fn protect_each(
        &mut self,
        start: VirtAddr,
        end: VirtAddr,
        access: VmFlags,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        let mut at = start;
        while at < end {
            let vma = self.vmas.find_exact(at).ok_or(Errno::ENOMEM)?;
            let stop = vma.range().end().min(end);
            let range = PageRange::new(at, stop).ok_or(Errno::ENOMEM)?;
            let flags = vma.flags.difference(VmFlags::ACCESS) | access;
            if !flags.contains(flags.needed_may()) {
                return Err(Errno::EACCES.into());
            }
            if flags != vma.flags {
                let flags = self.charge_protect(vma, flags, range)?;
                if !self.may_split(range) {
                    return Err(Errno::ENOMEM.into());
                }
                isolate(&mut self.vmas, range);
                self.modify(range, |vma| vma.flags = flags);
                self.change_pages(range, flags, batch);
                self.system.observer.protected(range);
            }
            at = stop;
        }
        Ok(())
    }

    /// Checks the limits for the new flags, and settles whether the memory is now accounted for.
    fn charge_protect(&self, vma: &Vma, flags: VmFlags, range: PageRange) -> CallResult<VmFlags> {
        let pages = range.pages();
        let uncharged = VmFlags::ACCOUNT | VmFlags::WRITE | VmFlags::SHARED | VmFlags::NORESERVE;
        if flags.contains(VmFlags::WRITE) {
            if !self.may_expand(flags, pages) && self.may_expand(vma.flags, pages) {
                return Err(Errno::ENOMEM.into());
            }
            if !vma.flags.intersects(uncharged) {
                self.system.guardian.may_commit(pages)?;
                return Ok(flags | VmFlags::ACCOUNT);
            }
        } else if vma.flags.contains(VmFlags::ACCOUNT)
            && vma.backing.is_none()
            && vma.anon().is_none()
        {
            return Ok(flags.difference(VmFlags::ACCOUNT));
        }
        Ok(flags)
    }

    /// Gives the pages that are there their new permission.
    fn change_pages(&self, range: PageRange, flags: VmFlags, batch: &mut FlushBatch) {
        for leaf in self.table.cursor(range) {
            let access = entry_access(flags, leaf.entry.owner());
            let changed = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |raw| {
                Some(Entry::new(raw).with_access(access).raw())
            });
            let (Ok(old) | Err(old)) = changed;
            let old = Entry::new(old);
            if old.is_accessed()
                && !access.contains(old.access())
                && let Some(frame) = old.frame()
            {
                batch.lowered(frame);
            }
        }
    }
}

/// What an entry for a page of the owner lets ring 3 do in a VMA with these flags: a private mapping
/// may not write the backing's own page.
pub(super) fn entry_access(flags: VmFlags, owner: Owner) -> Access {
    let access = flags.page_access();
    if owner == Owner::Backing && !flags.contains(VmFlags::SHARED) {
        return access.difference(Access::WRITE);
    }
    access
}
