//! Faults on pages that are there: copy-on-write and what only looks like it (Linux's `do_wp_page`,
//! `wp_page_copy`, `wp_page_reuse`).
//!
//! ```text
//!   a private page that is written, and is
//!     the backing's, or zeros ──────────> a copy takes its place
//!     anonymous, named elsewhere too ───> a copy takes its place, or the other's (fault/handoff); the last
//!                                         owner keeps it
//!     anonymous, named here alone ──────> may be written from now on, and so its neighbours
//! ```
//!
//! Where a program goes on page by page, the copies of the next pages are made at once: nobody can tell,
//! and a fault costs far more than a page.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{At, next_place, no_frame, page_in_table};
use crate::addr::{Frame, PAGE_SIZE, PageRange, VirtAddr, index};
use crate::error::{AccessError, Broken};
use crate::hooks::Invalidation;
use crate::paging::{Access, AccessKind, Entry, FlushBatch, Others, Owner};
use crate::phys::{Contents, FrameKind, Marks, Place};
use crate::space::ahead::{Stretch, Way};
use crate::space::anon::run_of;
use crate::space::protect::entry_access;
use crate::space::{AddressSpace, PageClass};
use crate::vma::VmFlags;

impl AddressSpace {
    /// There is an entry, but it does not allow the access (or another vCPU was faster).
    pub(super) fn raise(&self, at: &At<'_>, mut entry: Entry) -> Result<(), AccessError> {
        if at.kind == AccessKind::Write && entry.is_accessed() && self.is_file_ahead(entry) {
            // It was read before, and what Linux mapped around it then is there; its entry will not tell that.
            if let Some(page) = PageRange::from_len(at.page, PAGE_SIZE) {
                self.notice_files(page);
            }
            entry = Entry::new(at.slot().load(Ordering::Acquire));
        }
        if entry.access().contains(at.kind.needed()) {
            self.counters.faults.spurious.fetch_add(1, Ordering::Relaxed);
            // What was only brought in ahead is asked for now.
            self.replace(at, entry, entry.touched(at.kind.touch()));
            return Ok(());
        }
        let wanted = entry_access(at.vma.flags, entry.owner());
        if at.kind == AccessKind::Write && entry.is_protected() {
            // It came just now, and a userfaultfd is told of the write: the fault comes again.
            return Ok(());
        }
        if at.kind != AccessKind::Write {
            let access = wanted.difference(Access::WRITE) | entry.access() & Access::WRITE;
            self.replace(at, entry, entry.with_access(access).touched(at.kind.touch()));
            return Ok(());
        }
        let own = entry.owner() == Owner::Process;
        if wanted.contains(Access::WRITE) && !own {
            if let Some(backing) = &at.vma.backing {
                self.prepare(at, &**backing)?;
            }
            if let Some(frame) = entry.frame() {
                self.system.frames().mark(frame, Marks::DIRTY);
            }
            self.replace(at, entry, entry.with_access(wanted).touched(at.kind.touch()));
            return Ok(());
        }
        self.prepare_anon(at.vma).map_err(|error| no_frame(error, at.addr))?;
        if own {
            // A page that moves to another node may be cached as the one that it was: nobody writes the copy before.
            self.system.reclaim.wait_for_flush();
            self.release_place_of(entry)?;
        }
        if own && self.is_only_owner(entry) && self.may_keep(at.page, entry) {
            self.reuse(at, entry, wanted);
            return Ok(());
        }
        // With several nodes it shows which pages have been copied, and for whom.
        let one_node = self.system.frames().nodes().is_one();
        let most = if one_node { self.system.sysctl.fault_ahead() } else { 1 };
        let run = self.ahead.stretch(at.page, at.usual_way()).at_most(most);
        let alone = self.folio_page(at.page, entry).is_none();
        if own && run.pages == 1 && one_node && alone && self.hand_off(at, entry)? {
            // Told as a copy would be. Whoever else in this space copied it meanwhile has the fault come again.
            self.tell_replaced(at.page, || {
                if self.is_only_owner(entry) {
                    self.reuse(at, entry, wanted);
                }
            });
            return Ok(());
        }
        self.copy_pages_from(at, entry, run)
    }

    /// A lost race is a fault that comes again.
    fn replace(&self, at: &At<'_>, old: Entry, new: Entry) {
        if old != new {
            let _ = exchange_entry(at.slot(), old, new);
        }
    }

    /// Lets the process write a page that it alone names, and its neighbours.
    fn reuse(&self, at: &At<'_>, entry: Entry, access: Access) {
        // From the exchange until the page is taken over it must not be given up, and become another's.
        let _still = self.table.hold_still();
        self.reuse_one(at, at.slot(), entry, entry.with_access(access).touched(at.kind.touch()));
        self.reuse_neighbours(at, access);
    }

    /// The entry first: if it is another by now, the page is its former only other owner's, who has given this
    /// one a copy (`fault/handoff`). The caller holds the table still, so that the page is not swapped out and back
    /// after it has been found to be nobody else's: it would keep its place then.
    fn reuse_one(&self, at: &At<'_>, slot: &AtomicU64, old: Entry, new: Entry) {
        if self.is_only_owner(old) && exchange_entry(slot, old, new) {
            self.take_over(at.vma, old);
            self.keep(old);
        }
    }

    /// Lets the process write those of its pages in this table that it alone still names: a fault less
    /// for each.
    fn reuse_neighbours(&self, at: &At<'_>, access: Access) {
        if self.system.sysctl.fault_ahead() == 1 {
            return;
        }
        let place = page_in_table(at.page);
        let (before, after) = (index(at.room(Way::Down)) - 1, index(at.room(Way::Up)) - 1);
        let (below, above) = (place - before..place, place + 1..=place + after);
        for slot in at.words[below].iter().chain(&at.words[above]) {
            let old = Entry::new(slot.load(Ordering::Acquire));
            if is_shared_own(old) && self.is_kept(old) {
                self.reuse_one(at, slot, old, old.with_access(access));
            }
        }
    }

    /// Whether the process alone names the page of an entry, or all of a large one, so that it may write it in
    /// place.
    pub(in crate::space) fn is_only_owner(&self, entry: Entry) -> bool {
        if entry.is_pooled() {
            // The pool's and the entry's.
            return entry.frame().is_some_and(|frame| self.system.frames().references(frame) == 2);
        }
        if let Some(run) = entry.large_run() {
            return self.system.frames().are_exclusive(run);
        }
        entry.frame().is_some_and(|frame| self.system.frames().is_exclusive(frame))
    }

    /// Whether a page was given up by `MADV_FREE`. How many entries name it then decides what becomes of
    /// it, so that it must not be copied before that is asked for.
    pub(in crate::space) fn is_lazy(&self, entry: Entry) -> bool {
        entry.frame().is_some_and(|frame| self.system.frames().marks(frame).contains(Marks::LAZY))
    }

    /// Breaks copy-on-write for a page, and for the next ones where the program goes on page by page.
    /// The old translations must be gone before the call returns: the write that faulted would find the
    /// new page by itself, a read on another vCPU would not.
    fn copy_pages_from(
        &self,
        at: &At<'_>,
        first: Entry,
        wanted: Stretch,
    ) -> Result<(), AccessError> {
        let wanted = wanted.at_most(at.room(wanted.way));
        let copy = |space: &Self| space.break_pages(at, first, wanted);
        let copied = match wanted.range(at.page) {
            Some(pages) => self.invalidate(pages, Invalidation::Clear, copy),
            None => copy(self),
        }?;
        self.ahead.came(at.page, Stretch { pages: copied, ..wanted });
        self.counters.faults.copied.fetch_add(copied.min(1), Ordering::Relaxed);
        self.counters.faults.around.fetch_add(copied.saturating_sub(1), Ordering::Relaxed);
        Ok(())
    }

    /// Copies up to so many pages, and flushes. Says how many; none if another vCPU was faster.
    fn break_pages(&self, at: &At<'_>, first: Entry, wanted: Stretch) -> Result<u64, AccessError> {
        let others = self.others();
        let mut batch = FlushBatch::new();
        // Those whose old translations have to be gone first.
        let mut waiting = Vec::new();
        let mut copied = 0;
        let mut frame_place = at.frame_place(wanted);
        for i in 0..wanted.pages {
            let slot = at.slot_beside(wanted.way, index(i));
            let old = Entry::new(slot.load(Ordering::Acquire));
            // The copy of a page of a folio is of none.
            let next = |old| {
                let shared = is_shared_own(old) && !self.is_only_owner(old) && !self.is_lazy(old);
                shared && self.folio_page(at.page, old).is_none()
            };
            let fits = if copied == 0 { old == first } else { next(old) };
            if !fits {
                break;
            }
            let page = match wanted.way {
                Way::Up => at.page.offset(i * PAGE_SIZE),
                Way::Down => VirtAddr::new(at.page.get() - i * PAGE_SIZE),
            };
            let copy = match self.copy_one(at, page, slot, old, frame_place) {
                Ok(Some(copy)) => copy,
                Ok(None) => break,
                // Memory for the page that was asked for: the others can wait.
                Err(error) if copied == 0 => return Err(error),
                Err(_) => break,
            };
            copied += 1;
            if let Some(frame) = copy.new.frame() {
                frame_place = next_place(wanted.way, frame);
            }
            if others != Others::Stopped && old.is_accessed() {
                waiting.push(copy);
            } else {
                self.exchange(&copy, &mut batch)?;
            }
        }
        if !waiting.is_empty() {
            self.exchange_after_flush(&waiting, &mut batch)?;
        }
        self.flush(batch)?;
        Ok(copied)
    }

    /// Makes the copy of one page; none if its entry has changed. It has a reference to the page until it is in its
    /// place, or given up: else the entry could be gone and back meanwhile, and the frame have been another page's.
    fn copy_one<'a>(
        &self,
        at: &At<'_>,
        page: VirtAddr,
        slot: &'a AtomicU64,
        old: Entry,
        place: Place,
    ) -> Result<Option<Copied<'a>>, AccessError> {
        let frames = self.system.frames();
        let shared = old.frame().filter(|&frame| frames.kind(frame) != Some(FrameKind::Zero));
        if let Some(frame) = shared {
            if !frames.try_get(frame) {
                return Ok(None);
            }
            if slot.load(Ordering::Acquire) != old.raw() {
                frames.put(frame)?;
                return Ok(None);
            }
        }
        let copy = if let Some(frame) = shared {
            match self.copy_of(at, page, frame, place) {
                Ok(copy) => copy,
                Err(error) => {
                    frames.put(frame)?;
                    return Err(error);
                }
            }
        } else {
            let wish = self.wish_for(at.vma, page);
            let fresh = frames.alloc_on(FrameKind::Anonymous, Contents::Zeroed, wish);
            let fresh = fresh.map_err(|error| no_frame(error, at.addr))?;
            self.own_pages(at.vma, page, run_of(fresh));
            fresh
        };
        if at.vma.flags.contains(VmFlags::DROPPABLE) {
            frames.mark(copy, Marks::LAZY | Marks::DROPPABLE);
        }
        let access = entry_access(at.vma.flags, Owner::Process);
        let asked = std::ptr::eq(slot, at.slot());
        if let Some(shared) = shared.filter(|_| !asked) {
            // To all who look it is still the page that it was.
            frames.mark(copy, frames.marks(shared) - Marks::SWAP_CACHED);
        }
        // A page that was accessed will be again: then the hardware need not find out.
        let touched = if asked { old.asked_for().touched(at.kind.touch()) } else { old.recalled() };
        let new = touched.renamed(copy, Owner::Process).with_access(access);
        let new = self.own_entry(at.vma, new);
        // A map of the copy before it is there: from then on somebody may take it away again.
        frames.map(copy);
        Ok(Some(Copied { slot, old, new, held: shared }))
    }

    /// Puts a copy in the place of its page. If another vCPU was faster, the fault comes again.
    fn exchange(&self, copy: &Copied<'_>, batch: &mut FlushBatch) -> Result<(), Broken> {
        if exchange_entry(copy.slot, copy.old, copy.new) {
            return self.copy_is_in(copy, batch);
        }
        self.forget_copy(copy)
    }

    /// The same while other vCPUs run that may have cached the old pages: what they have cached goes first
    /// (`paging/replace`). So what comes into the batch need not be flushed any more.
    fn exchange_after_flush(
        &self,
        copies: &[Copied<'_>],
        batch: &mut FlushBatch,
    ) -> Result<(), Broken> {
        let round = self.replacements.begin();
        let mut old_ones = FlushBatch::new();
        let (out, late): (Vec<&Copied<'_>>, Vec<_>) =
            copies.iter().partition(|copy| round.take_out(copy.slot, copy.old));
        out.iter().filter_map(|copy| copy.old.frame()).for_each(|frame| old_ones.lowered(frame));
        let flushed = self.flush(old_ones);
        for copy in &out {
            round.put_in(copy.slot, if flushed.is_ok() { copy.new } else { copy.old });
        }
        drop(round);
        for copy in late {
            self.forget_copy(copy)?;
        }
        for copy in out {
            match flushed {
                Ok(()) => self.copy_is_in(&Copied { old: copy.old.uncached(), ..*copy }, batch)?,
                Err(_) => self.forget_copy(copy)?,
            }
        }
        flushed
    }

    /// Counts a copy that is in the place of its page.
    fn copy_is_in(&self, copy: &Copied<'_>, batch: &mut FlushBatch) -> Result<(), Broken> {
        let frames = self.system.frames();
        self.counters.resident.remove(PageClass::of(copy.old, frames));
        self.counters.resident.add(PageClass::of(copy.new, frames));
        // What a userfaultfd's page was marked as when it came goes with its entry (`wp_page_copy`).
        batch.emptied(copy.old.clean(), frames);
        copy.held.map_or(Ok(()), |frame| frames.put(frame))
    }

    /// Gives up a copy that never got into the table.
    fn forget_copy(&self, copy: &Copied<'_>) -> Result<(), Broken> {
        let frames = self.system.frames();
        let Some(frame) = copy.new.frame() else { return Ok(()) };
        frames.unmap(frame)?;
        frames.put(frame)?;
        copy.held.map_or(Ok(()), |frame| frames.put(frame))
    }
}

/// A copy of a page, counted as mapped, and where it goes.
#[derive(Clone, Copy)]
struct Copied<'a> {
    slot: &'a AtomicU64,
    old: Entry,
    new: Entry,
    /// The page that was copied, to which there is a reference.
    held: Option<Frame>,
}

/// Says whether the entry was still the old one, and so is the new one now.
pub(super) fn exchange_entry(slot: &AtomicU64, old: Entry, new: Entry) -> bool {
    let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
    slot.compare_exchange(old.raw(), new.raw(), done, failed).is_ok()
}

/// Whether the entry names an anonymous page that may not be written for now.
pub(super) fn is_shared_own(entry: Entry) -> bool {
    entry.owner() == Owner::Process && entry.is_present() && !entry.is_writable()
}
