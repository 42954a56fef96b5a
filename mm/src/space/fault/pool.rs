//! Faults on memory in huge pages of the pool (Linux's `hugetlb_fault`, `hugetlb_no_page`, `hugetlb_wp`).
//!
//! ```text
//!   no entry ──> one was taken from the process in this VMA: SIGBUS
//!                the object has the page: that; a private map may not write it
//!                past the object's end: SIGBUS
//!                a fresh page of zeros: the object's, or a private map's own; SIGBUS if there is none
//!   entry ─────> allows the access: spurious
//!                shared, or the only owner writes: may from now on
//!                else, under the exclusive lock: a copy                           (make_way)
//!                      none left, but it was promised the page: taken from the others who have it
//!                      none left: SIGBUS
//! ```
//!
//! A page of 1 GiB is 512 large entries: all of them are there, or none.

use std::sync::atomic::Ordering;

use super::{Resolved, no_frame};
use crate::addr::{FrameRun, PageRange, TABLE_SPAN, VirtAddr};
use crate::backing::{HugeMemory, Pages, Taker};
use crate::error::{AccessError, Broken, Fault};
use crate::hooks::Invalidation;
use crate::paging::{Access, AccessKind, Below, Entry, FlushBatch, Large, Owner};
use crate::phys::{AllocError, BLOCK_FRAMES};
use crate::rmap::{Held, ObjectMaps};
use crate::space::protect::entry_access;
use crate::space::{AddressSpace, PageClass, maps_of};
use crate::vma::{VmFlags, Vma};

/// Where the large entries of a huge page are.
fn spans(whole: PageRange) -> impl Iterator<Item = VirtAddr> {
    (0..whole.len() / TABLE_SPAN).map(move |i| whole.start().offset(i * TABLE_SPAN))
}

/// The part of a huge page that each of its large entries maps.
fn parts(whole: PageRange, run: FrameRun) -> impl Iterator<Item = (VirtAddr, FrameRun)> {
    let starts = (0..).map(move |i| run.start.offset(i * BLOCK_FRAMES));
    spans(whole).zip(starts.map(|start| FrameRun { start, count: BLOCK_FRAMES }))
}

/// A fault on a huge page that is not there.
struct Missing<'a> {
    vma: &'a Vma,
    memory: &'a HugeMemory,
    /// The addresses of the page.
    whole: PageRange,
    addr: VirtAddr,
    kind: AccessKind,
}

impl AddressSpace {
    /// Resolves a fault in a VMA of huge pages.
    pub(super) fn pool_fault(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Resolved, AccessError> {
        let none = || AccessError::from(Fault::NoBacking(addr));
        let memory = vma.backing.as_ref().and_then(|backing| backing.huge()).ok_or_else(none)?;
        let whole = memory.around(addr).ok_or_else(none)?;
        let held = maps_of(vma).map(ObjectMaps::hold);
        let mut pages = memory.pages();
        let resolved = match self.table.large(addr) {
            Some(large) => self.raise_large(vma, &large, kind),
            None if self.was_taken(vma, held.as_ref()) => return Err(none()),
            None if spans(whole).any(|at| !matches!(self.table.below(at), Below::Nothing)) => {
                Resolved::NeedsExclusive
            }
            None => {
                let missing = Missing { vma, memory, whole, addr, kind };
                self.bring_in_pooled(&missing, &mut pages)?;
                Resolved::Done
            }
        };
        if let (Resolved::Done, Some(observer)) = (resolved, self.system.observer()) {
            observer.faulted(addr, kind);
        }
        Ok(resolved)
    }

    /// Whether a page of the VMA was given back to who had been promised it (`HPAGE_RESV_UNMAPPED`): what was in it
    /// must not be zeros all of a sudden.
    fn was_taken(&self, vma: &Vma, held: Option<&Held<'_>>) -> bool {
        held.is_some_and(|held| held.was_taken(self.number, vma.range()))
    }

    fn bring_in_pooled(&self, at: &Missing<'_>, pages: &mut Pages) -> Result<(), AccessError> {
        let &Missing { vma, memory, whole, addr, kind } = at;
        let (frames, faults) = (self.system.frames(), &self.counters.faults);
        let index = memory.index_at(vma, addr);
        let shared = vma.flags.contains(VmFlags::MAYSHARE);
        let (run, owner, fault) = match pages.get(index) {
            Some(run) => (run, Owner::Backing, &faults.backed),
            None if index >= memory.len().div_ceil(memory.size()) => {
                return Err(Fault::NoBacking(addr).into());
            }
            None => {
                if !shared {
                    self.prepare_anon(vma).map_err(|error| no_frame(error, addr))?;
                }
                let run = memory.take(pages, index, Taker::of(vma));
                let run = run.ok_or(Fault::NoBacking(addr))?;
                memory.zero(run);
                if shared {
                    pages.insert(index, run);
                    (run, Owner::Backing, &faults.backed)
                } else {
                    self.own_pages(vma, whole.start(), run);
                    (run, Owner::Process, &faults.zero)
                }
            }
        };
        if owner == Owner::Backing {
            frames.get_run(run);
        }
        let mut access = entry_access(vma.flags, owner);
        if owner == Owner::Process && kind != AccessKind::Write {
            access.remove(Access::WRITE);
        }
        let entry = Entry::leaf(run.start, owner, access, kind.touch());
        let mapped = self.map_pooled(whole, run, entry);
        if mapped.is_err() && owner == Owner::Process {
            memory.renew_promise(vma, addr);
        }
        mapped.map_err(|error| no_frame(error, addr))?;
        fault.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Maps a huge page, whose first entry is given; if that fails, none of it, and the reference is given up.
    fn map_pooled(&self, whole: PageRange, run: FrameRun, first: Entry) -> Result<(), AllocError> {
        let frames = self.system.frames();
        frames.map_run(run);
        let mut batch = FlushBatch::new();
        let mut failed = None;
        for (at, part) in parts(whole, run) {
            let entry = first.renamed(part.start, first.owner()).pooled();
            let mapped = match failed {
                None => self.table.map_large(at, entry),
                Some(_) => Ok(false),
            };
            match mapped {
                Ok(true) => {
                    self.counters.resident.add_pages(Some(PageClass::Huge), BLOCK_FRAMES);
                    continue;
                }
                // Nothing was linked there, and all faults on the object take turns.
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
            frames.unmap_run(part)?;
            frames.put_run(part)?;
        }
        if let Some(error) = failed {
            self.drop_large_in(whole, &mut batch);
            self.flush(batch)?;
            return Err(error);
        }
        Ok(())
    }

    /// Does what a fault on a page of the pool needs the exclusive lock for: copies it, or takes away an empty table
    /// that is in its place.
    ///
    /// # Errors
    /// The fault that the program gets: `SIGBUS` where there is no page for the copy.
    pub(in crate::space) fn make_way_in_pool(
        &self,
        vma: &Vma,
        memory: &HugeMemory,
        addr: VirtAddr,
    ) -> Result<(), AccessError> {
        let Some(whole) = memory.around(addr) else { return Ok(()) };
        if self.table.large(addr).is_some() {
            return self.copy_pooled(vma, memory, whole, addr);
        }
        self.settle(whole)?;
        let mut batch = FlushBatch::new();
        spans(whole).for_each(|at| self.table.unlink_empty(at, &mut batch));
        Ok(self.flush(batch)?)
    }

    /// Copies a page that the process may not write (`hugetlb_wp`).
    fn copy_pooled(
        &self,
        vma: &Vma,
        memory: &HugeMemory,
        whole: PageRange,
        addr: VirtAddr,
    ) -> Result<(), AccessError> {
        let held = maps_of(vma).map(ObjectMaps::hold);
        let mut pages = memory.pages();
        // Somebody may have taken it away meanwhile.
        let Some(first) = self.table.large(whole.start()) else { return Ok(()) };
        let Some(start) = first.entry.frame() else { return Ok(()) };
        let (frames, old) = (self.system.frames(), FrameRun { start, count: whole.pages() });
        let own = first.entry.owner() == Owner::Process;
        if own && frames.maps(start) == 1 || vma.flags.contains(VmFlags::MAYSHARE) {
            // The fault comes again, once more where the others' flush is not done yet.
            return Ok(());
        }
        let promised = own && vma.promise().is_some();
        let taker = if promised { Taker::Again } else { Taker::of(vma) };
        let taken = memory.take(&mut pages, memory.index_at(vma, addr), taker);
        drop(pages);
        let Some(new) = taken else {
            drop(held);
            if !promised {
                return Err(Fault::NoBacking(addr).into());
            }
            return Ok(self.take_from_others(vma, old, whole)?);
        };
        if let Err(error) = self.prepare_anon(vma) {
            frames.put_run(new)?;
            return Err(no_frame(error, addr));
        }
        self.own_pages(vma, whole.start(), new);
        for i in 0..new.count {
            frames.memory().copy(old.start.offset(i), new.start.offset(i));
        }
        frames.map_run(new);
        self.invalidate(whole, Invalidation::Clear, |space| {
            space.exchange_pooled(vma, whole, new)
        })?;
        self.counters.faults.copied.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a copy in the place of its page. No vCPU has the old translation when the first can have the new one.
    fn exchange_pooled(&self, vma: &Vma, whole: PageRange, new: FrameRun) -> Result<(), Broken> {
        let frames = self.system.frames();
        let access = entry_access(vma.flags, Owner::Process);
        let mut batch = FlushBatch::new();
        let emptied: Vec<(Large<'_>, Entry)> = (self.table.large_in(whole))
            .map(|large| {
                let old = large.update(|_| Entry::EMPTY);
                batch.emptied_large(old, frames);
                (large, old)
            })
            .collect();
        self.flush(batch)?;
        for ((large, old), (_, part)) in emptied.iter().zip(parts(whole, new)) {
            let entry = old.renamed(part.start, Owner::Process).with_access(access).pooled();
            large.slot.store(entry.raw(), Ordering::Release);
        }
        Ok(())
    }

    /// Takes the page from all others who have it: there is none for a copy, and this process was promised one.
    fn take_from_others(&self, vma: &Vma, run: FrameRun, whole: PageRange) -> Result<(), Broken> {
        let mut batch = FlushBatch::new();
        let Some(maps) = maps_of(vma) else { return Ok(()) };
        let page = vma.page_index(whole.start());
        let mut maps = maps.change();
        // Calls of the others find no entry, and wait for the flush.
        let _unflushed = self.system.reclaim.unflushed();
        maps.take_from_others(run, page, self.number, &self.system, &mut batch);
        self.flush(batch)
    }

    /// Before the pages of a range are dropped that stays mapped: those that nobody else has are promised to it anew
    /// (`vma_add_reservation`).
    pub(in crate::space) fn renew_promises(&self, vma: &Vma, range: PageRange) {
        let Some(memory) = vma.backing.as_ref().and_then(|backing| backing.huge()) else { return };
        for large in self.table.large_in(range) {
            let first = large.addr.get().is_multiple_of(memory.size());
            let own = large.entry.owner() == Owner::Process;
            if first && own && self.is_only_owner(large.entry) {
                memory.renew_promise(vma, large.addr);
            }
        }
    }
}
