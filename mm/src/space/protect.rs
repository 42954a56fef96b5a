//! mprotect(2): Linux's `do_mprotect_pkey`, `mprotect_fixup`, `change_protection`.

use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::range::{CallRange, Coverage};
use crate::addr::{PageRange, VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Access, Entry, FlushBatch, Owner};
use crate::rules::Rule;
use crate::vma::{Prot, VmFlags, Vma};

impl AddressSpace {
    /// Changes what may be done with the pages of the range. Over a hole it answers `ENOMEM`, and the
    /// part before the hole is changed.
    ///
    /// # Errors
    /// In this order: `EINVAL` both `PROT_GROWS` flags, address unaligned; `ENOMEM` the length wraps;
    /// `EINVAL` unknown bits; `ENOMEM` nothing mapped; `EINVAL` `PROT_GROWSDOWN` on a VMA that does not
    /// grow; then for each VMA `EACCES` what its backing or MDWE forbids, the guardian's veto, `EPERM` sealed, `ENOMEM`
    /// limits. Source: mprotect(2), Linux's `mm/mprotect.c`.
    pub fn mprotect(&mut self, addr: VirtAddr, len: u64, prot: Prot) -> CallResult<()> {
        let grows = prot & (Prot::GROWSDOWN | Prot::GROWSUP);
        let access = prot.difference(grows);
        if grows == Prot::GROWSDOWN | Prot::GROWSUP || !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        if len == 0 {
            return Ok(());
        }
        let len = page_align(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).filter(|&end| end > addr).ok_or(Errno::ENOMEM)?;
        if !(Prot::READ | Prot::WRITE | Prot::EXEC | Prot::SEM).contains(access) {
            return Err(Errno::EINVAL.into());
        }
        // Without them, whether anything is mapped at `addr` shows with the first VMA.
        let start = if grows.is_empty() { addr } else { self.grown_start(addr, end, grows)? };
        if !self.rule(Rule::PartialEffect) && !self.is_mapped(start, end) {
            return Err(Errno::ENOMEM.into());
        }
        let mut batch = FlushBatch::new();
        let result = self.protect_each(start, end, access, &mut batch);
        self.finish(batch)?;
        result
    }

    /// Where a range begins that is to go on to the end of a VMA that grows.
    fn grown_start(&self, addr: VirtAddr, end: VirtAddr, grows: Prot) -> Result<VirtAddr, Errno> {
        let first = self.vmas.find(addr).filter(|vma| vma.range().start() < end);
        let first = first.ok_or(Errno::ENOMEM)?;
        if grows == Prot::GROWSDOWN {
            if !first.flags.contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            return Ok(first.range().start());
        }
        if first.range().start() > addr {
            return Err(Errno::ENOMEM);
        }
        // No x86 VMA grows upwards.
        Err(Errno::EINVAL)
    }

    /// pkey_mprotect(2). This machine has no protection keys: the only key is -1, "as mprotect".
    ///
    /// # Errors
    /// `EINVAL` for any other key, checked where Linux checks it; else as [`Self::mprotect`].
    /// Source: pkey_mprotect(2), `do_mprotect_pkey`.
    pub fn pkey_mprotect(
        &mut self,
        addr: VirtAddr,
        len: u64,
        prot: Prot,
        key: i32,
    ) -> CallResult<()> {
        // Linux looks at the key after the arguments and before the VMAs; a length of 0 comes first.
        if key == -1 || len == 0 || !addr.is_page_aligned() {
            return self.mprotect(addr, len, prot);
        }
        let end = page_align(len).and_then(|len| addr.checked_add(len)).filter(|&end| end > addr);
        if end.is_none() && !prot.contains(Prot::GROWSDOWN | Prot::GROWSUP) {
            return Err(Errno::ENOMEM.into());
        }
        Err(Errno::EINVAL.into())
    }

    fn is_mapped(&self, start: VirtAddr, end: VirtAddr) -> bool {
        let range = CallRange::of_pages(start, end.bytes_from(start)).ok().flatten();
        range.is_none_or(|range| self.coverage(range) == Coverage::Whole)
    }

    /// VMA by VMA, until the end, a hole, or a refusal.
    fn protect_each(
        &mut self,
        start: VirtAddr,
        end: VirtAddr,
        asked: Prot,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        let mut at = start;
        while at < end {
            let vma = self.vmas.aim(at).ok_or(Errno::ENOMEM)?;
            let stop = vma.range().end().min(end);
            let range = PageRange::new(at, stop).ok_or(Errno::ENOMEM)?;
            let mut prot = asked;
            if self.modes.read_implies_exec()
                && asked.contains(Prot::READ)
                && vma.flags.contains(VmFlags::MAYEXEC)
            {
                prot |= Prot::EXEC;
            }
            let flags = vma.flags.difference(VmFlags::ACCESS) | VmFlags::from_prot(prot);
            if !flags.contains(flags.needed_may()) || self.modes.denies_write_exec(vma.flags, flags)
            {
                return Err(Errno::EACCES.into());
            }
            self.system.ask(|guardian| guardian.may_protect(vma, asked, prot))?;
            if vma.flags.contains(VmFlags::SEALED) {
                return Err(Errno::EPERM.into());
            }
            at = if flags == vma.flags {
                stop
            } else {
                let part = vma.part(range);
                self.protect_one(part, flags, batch)?
            };
        }
        Ok(())
    }

    /// Gives a part of one VMA these flags (`mprotect_fixup`). Returns where the VMA ends that it is
    /// part of then.
    fn protect_one(
        &mut self,
        mut part: Vma,
        flags: VmFlags,
        batch: &mut FlushBatch,
    ) -> CallResult<VirtAddr> {
        let (old, range) = (part.flags, part.range());
        let flags = self.charge_protect(&part, flags, range)?;
        let charged = flags.contains(VmFlags::ACCOUNT) && !old.contains(VmFlags::ACCOUNT);
        part.flags = flags;
        let end = match self.modify(part, old) {
            Ok(end) => end,
            Err(error) => {
                if charged {
                    self.system.uncommit(range.pages());
                }
                return Err(error);
            }
        };
        self.invalidate(range, Invalidation::Protection, |space| {
            space.change_pages(range, flags, batch);
        });
        if old.contains(VmFlags::ACCOUNT) && !flags.contains(VmFlags::ACCOUNT) {
            self.system.uncommit(range.pages());
        }
        let becomes_writable = flags.contains(VmFlags::WRITE)
            && old & (VmFlags::WRITE | VmFlags::SHARED | VmFlags::LOCKED) == VmFlags::LOCKED;
        if becomes_writable && let Some(vma) = self.vmas.find_exact(range.start()) {
            // Locked memory shall not fault when it is written.
            let _ = self.populate_part(vma, range)?;
        }
        if let Some(observer) = self.system.observer()
            && let Some(vma) = self.vmas.find_exact(range.start())
        {
            observer.mapped(vma);
        }
        Ok(end)
    }

    /// Checks the limits for the new flags, and settles whether the memory is now accounted for.
    fn charge_protect(&self, vma: &Vma, flags: VmFlags, range: PageRange) -> CallResult<VmFlags> {
        let pages = range.pages();
        let uncharged = VmFlags::ACCOUNT
            | VmFlags::WRITE
            | VmFlags::HUGETLB
            | VmFlags::SHARED
            | VmFlags::NORESERVE;
        if flags.contains(VmFlags::WRITE) {
            if !self.may_expand(flags, pages) && self.may_expand(vma.flags, pages) {
                return Err(Errno::ENOMEM.into());
            }
            if !vma.flags.intersects(uncharged) {
                self.commit(pages)?;
                return Ok(flags | VmFlags::ACCOUNT);
            }
        } else if vma.flags.contains(VmFlags::ACCOUNT)
            && vma.is_anonymous()
            && vma.anon().is_none()
            && self.rule(Rule::Uncharge)
        {
            return Ok(flags.difference(VmFlags::ACCOUNT));
        }
        Ok(flags)
    }

    /// Gives the pages that are there their new permission.
    pub(super) fn change_pages(&self, range: PageRange, flags: VmFlags, batch: &mut FlushBatch) {
        if self.table.has_large() {
            self.change_large(range, flags, batch);
        }
        self.settle_files(range, batch);
        // What is in the swap area has its permission when it comes back.
        let leaves = self.table.cursor(range).filter(|leaf| leaf.entry.frame().is_some());
        for leaf in leaves {
            let access = self.access_now(flags, leaf.entry);
            let changed = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |raw| {
                // Others may take pages away meanwhile.
                let entry = Entry::new(raw);
                entry.frame().map(|_| entry.with_access(access).raw())
            });
            let (Ok(old) | Err(old)) = changed;
            let old = Entry::new(old);
            let lost = old.access().difference(access);
            match old.frame().filter(|_| old.is_accessed()) {
                Some(frame) if lost == Access::WRITE => batch.write_protected(frame),
                Some(frame) if !lost.is_empty() => batch.lowered(frame),
                _ => {}
            }
        }
    }

    /// What an entry lets ring 3 do from now on in a VMA with these flags.
    pub(super) fn access_now(&self, flags: VmFlags, entry: Entry) -> Access {
        let access = entry_access(flags, entry.owner());
        let own = entry.owner() == Owner::Process;
        let kept = || self.is_only_owner(entry) && self.is_kept(entry);
        if own && access.contains(Access::WRITE) && !kept() {
            // The first write copies it, or finds out that it need not.
            return access - Access::WRITE;
        }
        // The first write is noted (`vma_wants_writenotify`).
        let noted = !own && flags.contains(VmFlags::UFFD_WP);
        if noted { access - Access::WRITE } else { access }
    }

    /// [`change_pages`](Self::change_pages) for large entries, none of which reaches beyond the range (`change_huge_pmd`).
    fn change_large(&self, range: PageRange, flags: VmFlags, batch: &mut FlushBatch) {
        for large in self.table.large_in(range) {
            let access = self.access_now(flags, large.entry);
            let old = large.update(|entry| entry.with_access(access));
            let lost = old.access().difference(access);
            match large.run().filter(|_| old.is_accessed()) {
                Some(run) if lost == Access::WRITE => batch.write_protected_run(run),
                Some(run) if !lost.is_empty() => batch.lowered_run(run),
                _ => {}
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
