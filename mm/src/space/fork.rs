//! fork(2): Linux's `dup_mm` and `dup_mmap`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::counters::{Counted, PageClass};
use crate::addr::{PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr, index};
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch, ForkedPages, ForkedRoot, Leaf, Owner, PageTable};
use crate::phys::{BLOCK_FRAMES, Marks};
use crate::vma::tree::Tree;
use crate::vma::{VmFlags, Vma};

/// Whether vCPUs may run in a space while it is forked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vcpus {
    /// They may: what they may not write any more is flushed.
    Running,
    /// None does, and each will be given the space's root anew before it runs again, which may be another
    /// one then ([`ForkedRoot`]).
    Stopped,
}

impl AddressSpace {
    /// A copy of the address space for a child process: the same VMAs, but for those that
    /// `MADV_DONTFORK` keeps back; `MADV_WIPEONFORK` makes empty. Locks are not inherited.
    ///
    /// Pages are not copied: both name them, and who writes one first gets a copy of his own.
    ///
    /// # Errors
    /// `ENOMEM`: the commit limit, or no memory for a VMA or a table; nothing is left behind.
    /// Source: fork(2), `dup_mmap` in Linux's `mm/mmap.c`.
    pub fn fork(&mut self, vcpus: Vcpus) -> CallResult<Self> {
        let system = Arc::clone(&self.system);
        system.or_reclaim(|| self.try_fork(vcpus))
    }

    fn try_fork(&mut self, vcpus: Vcpus) -> CallResult<Self> {
        let table = PageTable::new(Arc::clone(self.system.frames()), self.system.kernel())?;
        let mut child = AddressSpace::over(Arc::clone(&self.system), table, self.limits);
        child.layout = self.layout.clone();
        child.modes = self.modes.inherited();
        if let Err(error) = self.copy_into(&mut child, vcpus) {
            child.abandon()?;
            return Err(error);
        }
        Ok(child)
    }

    /// Fills the child. If that fails, the parent is as it was, and the child to be given up.
    fn copy_into(&mut self, child: &mut AddressSpace, vcpus: Vcpus) -> CallResult<()> {
        child.reserve(self.vmas.len())?;
        self.copy_vmas(child)?;
        self.demotions.begin();
        if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
            self.settle(all)?;
        }
        let table = Arc::clone(&self.table);
        // Who takes an object's pages away comes to the parent before or after, and then to the child.
        let still = table.hold_still();
        let (root, promotable) = match vcpus {
            Vcpus::Running => (ForkedRoot::Kept, Vec::new()),
            Vcpus::Stopped => self.forked_root(child),
        };
        match root {
            ForkedRoot::Kept => {
                let mut batch = FlushBatch::new();
                let copied = self.copy_pages(&self.table, child, &mut batch);
                drop(still);
                // Also of what is being swapped out: the parent must not write by an old translation what is the
                // child's, too.
                self.system.reclaim.wait_for_flush();
                self.flush(batch)?;
                copied
            }
            ForkedRoot::Fresh => {
                let fresh = self.table.renewed(&promotable)?;
                // Nothing in it was ever cached, so nothing comes into the batch.
                let copied = self.copy_pages(&fresh, child, &mut FlushBatch::new());
                if let Err(error) = copied {
                    fresh.discard()?;
                    return Err(error);
                }
                let mut tables = FlushBatch::new();
                self.table.replace_by(fresh).retire(&mut tables);
                Ok(self.system.retire(tables)?)
            }
        }
    }

    /// What becomes of the root, and the tables that large entries stand for in a fresh one.
    fn forked_root(&self, child: &AddressSpace) -> (ForkedRoot, Vec<VirtAddr>) {
        let promotable = self.promotable(child);
        let root = self.system.forked_root(ForkedPages {
            pages: self.counters.resident.total(),
            large: self.table.large_entries() * BLOCK_FRAMES,
            promotable: promotable.len() as u64 * BLOCK_FRAMES,
        });
        (root, promotable)
    }

    fn copy_vmas(&self, child: &mut AddressSpace) -> CallResult<()> {
        // Its memory is reserved; nobody looks for a VMA of the child's before all are there.
        let mut vmas = std::mem::take(&mut child.vmas);
        let mut refused = None;
        let kept = self.vmas.iter().filter(|vma| !vma.flags.contains(VmFlags::DONTCOPY));
        let copies = kept
            .map_while(|vma| self.copy_vma(vma, child).map_err(|error| refused = Some(error)).ok());
        if vmas.fill(copies).is_err() {
            refused = Some(Errno::ENOMEM.into());
        }
        if refused.is_none() && self.has_userfaults {
            refused = self.copy_userfaults(&mut vmas, child).err().map(Into::into);
        }
        for copy in vmas.iter() {
            child.account.add(copy.flags, copy.range().pages());
            child.link(copy);
        }
        let counted = vmas.iter().filter(|vma| vma.flags.contains(VmFlags::ACCOUNT));
        let promised = self.commit_each(counted.map(|vma| vma.range().pages()));
        child.vmas = vmas;
        refused.map_or(Ok(promised?), Err)
    }

    /// A VMA as the child gets it, but for its userfaultfd.
    fn copy_vma(&self, vma: &Vma, child: &AddressSpace) -> CallResult<Vma> {
        // Changed in no way after it is made: what is written in parts and then moved as a whole is waited for.
        Ok(vma.for_child(self.branch(vma, child)?))
    }

    /// The userfaultfds of a child's VMAs.
    fn copy_userfaults(&self, vmas: &mut Tree<Vma>, child: &mut AddressSpace) -> Result<(), Errno> {
        let watched = self.vmas.iter().filter(|vma| vma.userfault().is_some());
        for vma in watched.filter(|vma| !vma.flags.contains(VmFlags::DONTCOPY)) {
            let mut inherited = Ok(());
            vmas.update(vma.range().start(), |copy| {
                inherited = child.inherit_userfault(vma, copy);
            });
            inherited?;
        }
        Ok(())
    }

    /// Gives the child the entries of `table` that it would otherwise not find again (`copy_page_range`).
    /// Pages of the process's own may be written by neither from now on: who writes first copies.
    fn copy_pages(
        &self,
        table: &PageTable,
        child: &AddressSpace,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        // Linux's `vma_needs_copy`: what was never written to is not looked at.
        let needed = |vma: &&Vma| {
            let kept = vma.anon().is_some() || vma.flags.contains(VmFlags::MAYBE_GUARD);
            let kept = kept || vma.flags.contains(VmFlags::UFFD_WP);
            kept && !vma.flags.contains(VmFlags::WIPEONFORK)
        };
        for vma in child.vmas.iter().filter(needed) {
            let mut share = |space: &Self| space.copy_part(table, child, vma, batch);
            // Where both share the pages until one writes (`is_cow_mapping`).
            let may = vma.flags & (VmFlags::SHARED | VmFlags::MAYWRITE);
            if may == VmFlags::MAYWRITE {
                self.invalidate(vma.range(), Invalidation::Fork, share)?;
            } else {
                share(self)?;
            }
        }
        Ok(())
    }

    /// The entries of one VMA.
    fn copy_part(
        &self,
        table: &PageTable,
        child: &AddressSpace,
        vma: &Vma,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        let mut counted = Counted::default();
        let copied = self.copy_entries(table, child, vma, &mut counted, batch);
        child.counters.swapped.fetch_add(counted.swapped, Ordering::Relaxed);
        child.counters.resident.add_all(counted);
        copied
    }

    fn copy_entries(
        &self,
        table: &PageTable,
        child: &AddressSpace,
        vma: &Vma,
        counted: &mut Counted,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        self.copy_large(table, child, vma, counted, batch)?;
        if vma.range().pages() >= BLOCK_FRAMES {
            // Also tables that hold nothing: where they are no huge page comes.
            for addr in table.tables_in(vma.range()) {
                child.table.ensure(addr)?;
            }
        }
        let (frames, mut last) = (self.system.frames(), None);
        // Objects know of the child by now: who changes one must not take a table for empty that is about to be filled.
        let _still = child.table.hold_still();
        let watched = vma.flags.contains(VmFlags::UFFD_WP);
        for leaf in table.cursor(vma.range()) {
            if leaf.entry == Entry::PROTECTION && !watched {
                continue;
            }
            if let Some(frame) = leaf.entry.frame().filter(|_| frames.has_folios()) {
                frames.unmark(frame, Marks::EXCLUSIVE);
            }
            let span = leaf.addr.get() / TABLE_SPAN;
            let words = match last {
                Some((of, words)) if of == span => words,
                // Where the parent has a table, no large entry was copied.
                _ => match child.table.ensure(leaf.addr)? {
                    Some(words) => words,
                    None => continue,
                },
            };
            last = Some((span, words));
            let copy = self.share_page(&leaf, batch);
            // What is written to shared memory is noted where it was written.
            let shared = vma.flags.contains(VmFlags::SHARED);
            let copy = if shared { copy.clean() } else { copy };
            let copy = if watched { copy } else { copy.unprotected() };
            counted.add(PageClass::of(copy, frames));
            counted.swapped += u64::from(copy.swap_slot().is_some());
            words[index((leaf.addr.get() / PAGE_SIZE) & 511)].store(copy.raw(), Ordering::Release);
        }
        Ok(())
    }

    /// The large entries of one VMA, none of which reaches beyond it (`copy_huge_pmd`).
    fn copy_large(
        &self,
        table: &PageTable,
        child: &AddressSpace,
        vma: &Vma,
        counted: &mut Counted,
        batch: &mut FlushBatch,
    ) -> CallResult<()> {
        let frames = self.system.frames();
        // What an object has the child asks it for.
        for large in table.large_in(vma.range()).filter(|large| !self.is_of_object(large.entry)) {
            let old = large.update(Entry::read_only);
            let Some(run) = old.large_run() else { continue };
            if old.is_writable() && old.is_accessed() {
                batch.write_protected_run(run);
            }
            frames.dup_run(run);
            let marked = if frames.has_folios() { run.count } else { 1 };
            (0..marked).for_each(|i| frames.unmark(run.start.offset(i), Marks::EXCLUSIVE));
            let copy = old.read_only().old().unlocked();
            let watched = vma.flags.contains(VmFlags::UFFD_WP);
            let copy = if watched { copy } else { copy.unprotected() };
            let copied = match copy.is_promoted() {
                // The child will access one page or another: it needs an entry for each.
                true => child.table.map_small(large.addr, copy),
                false => child.table.map_large(large.addr, copy),
            };
            match copied {
                Ok(true) => counted.add_pages(PageClass::of(copy, frames), run.count),
                Ok(false) | Err(_) => {
                    frames.unmap_run(run)?;
                    frames.put_run(run)?;
                    return Err(Errno::ENOMEM.into());
                }
            }
        }
        Ok(())
    }

    /// Makes a page one of both: the parent may not write it any more. Returns the child's entry, which
    /// nobody has touched yet.
    fn share_page(&self, leaf: &Leaf<'_>, batch: &mut FlushBatch) -> Entry {
        let mut entry = leaf.entry;
        let Some(frame) = entry.frame() else {
            self.dup_swapped(entry);
            return entry;
        };
        self.system.frames().dup(frame);
        if entry.owner() == Owner::Process && entry.is_writable() {
            let lowered = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |raw| {
                Some(Entry::new(raw).read_only().raw())
            });
            let (Ok(raw) | Err(raw)) = lowered;
            entry = Entry::new(raw).read_only();
            if entry.is_accessed() {
                batch.write_protected(frame);
            }
        }
        entry.old().unlocked()
    }
}
