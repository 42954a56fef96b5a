//! Anonymous memory that was never touched (Linux's `do_anonymous_page`).
//!
//! A read gets the page of zeros, which all address spaces share; a write gets a frame of its own. Where
//! a program goes on page by page, the next pages come along, unseen until they are touched: see
//! `space/ahead`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::mthp::Brought;
use super::{At, Way, no_frame, page_in_table};
use crate::addr::{Frame, PAGE_SIZE, PageRange, VirtAddr, index};
use crate::error::AccessError;
use crate::paging::{Access, AccessKind, Entry, Owner, Touch};
use crate::phys::{Contents, FrameKind, Marks, Place};
use crate::space::AddressSpace;
use crate::vma::VmFlags;

impl AddressSpace {
    pub(super) fn anonymous_fault(&self, at: &At<'_>) -> Result<(), AccessError> {
        let written = at.kind == AccessKind::Write;
        // Memory that is only read has no identity yet: the first write gives it one.
        if written {
            self.prepare_anon(at.vma).map_err(|error| no_frame(error, at.addr))?;
        }
        let orders = self.folio_orders(at.vma);
        if written && !orders.is_empty() && self.mthp_fault(at, orders)? == Brought::Folio {
            return Ok(());
        }
        // Pages of several nodes come one by one; so do those of which several are wanted, but not here.
        let alone = !orders.is_empty() || self.interleaves(at.vma, at.page);
        let wanted = if alone { 1 } else { self.empty_run(at) };
        let pages = if written { self.fresh_pages(at, wanted)? } else { self.zeros(at, wanted)? };
        let faults = &self.counters.faults;
        faults.zero.fetch_add(1, Ordering::Relaxed);
        faults.around.fetch_add(pages - 1, Ordering::Relaxed);
        let beside = (pages - 1) * PAGE_SIZE;
        match at.way() {
            Way::Down => {
                let first = VirtAddr::new(at.page.get() - beside);
                self.ahead.expect(VirtAddr::new(first.get().wrapping_sub(PAGE_SIZE)));
                self.brought_ahead(PageRange::from_len(first, beside))?;
            }
            Way::Up => {
                self.ahead.expect(at.page.offset(pages * PAGE_SIZE));
                self.brought_ahead(PageRange::from_len(at.page.offset(PAGE_SIZE), beside))?;
            }
        }
        Ok(())
    }

    /// How many pages to bring in at once: at most as many as are empty from here on.
    fn empty_run(&self, at: &At<'_>) -> u64 {
        if at.vma.flags.intersects(VmFlags::UFFD) {
            // Each page is told of.
            return 1;
        }
        let window = self.ahead.window(at.addr).min(self.system.sysctl.fault_ahead());
        let most = index(window.min(at.room(at.way())));
        let place = page_in_table(at.page);
        let empty = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) == 0;
        let run = match at.way() {
            Way::Up => at.words[place..].iter().take(most).take_while(empty).count(),
            Way::Down => at.words[..=place].iter().rev().take(most).take_while(empty).count(),
        };
        (run as u64).max(1)
    }

    /// Frames of zeros for the page and up to `wanted - 1` beside it. Says how many.
    fn fresh_pages(&self, at: &At<'_>, wanted: u64) -> Result<u64, AccessError> {
        let wish = self.wish_for(at.vma, at.page);
        let place = match at.way() {
            Way::Up => at.frame_place(at.page, wanted),
            Way::Down => Place::Anywhere,
        };
        let run = self
            .system
            .frames()
            .alloc_run_at(FrameKind::Anonymous, Contents::Zeroed, wanted, place, wish)
            .map_err(|error| no_frame(error, at.addr))?;
        let lowest = match at.way() {
            Way::Up => at.page,
            Way::Down => VirtAddr::new(at.page.get() - (run.count - 1) * PAGE_SIZE),
        };
        self.own_pages(at.vma, lowest, run);
        let access = at.vma.flags.page_access();
        for i in 0..run.count {
            // Downwards too, frames ascend with addresses: neighbours are flushed as one run.
            let place = match at.way() {
                Way::Up => i,
                Way::Down => run.count - 1 - i,
            };
            let frame = run.start.offset(place);
            let mut marks = Marks::empty();
            marks.set(Marks::LAZY | Marks::DROPPABLE, at.vma.flags.contains(VmFlags::DROPPABLE));
            marks.set(Marks::AHEAD, i > 0);
            self.system.frames().mark(frame, marks);
            self.bring_in(at, i, frame, Owner::Process, access)?;
        }
        Ok(run.count)
    }

    /// The page of zeros for the page and `wanted - 1` beside it. Says how many.
    fn zeros(&self, at: &At<'_>, wanted: u64) -> Result<u64, AccessError> {
        let zero = self.system.frames().zero_frame().map_err(|error| no_frame(error, at.addr))?;
        let access = at.vma.flags.page_access() - Access::WRITE;
        for i in 0..wanted {
            self.bring_in(at, i, zero, Owner::Backing, access)?;
        }
        Ok(wanted)
    }

    /// Installs the `i`th page from the touched one on.
    fn bring_in(
        &self,
        at: &At<'_>,
        i: u64,
        frame: Frame,
        owner: Owner,
        access: Access,
    ) -> Result<(), AccessError> {
        let place = page_in_table(at.page);
        let slot = match at.way() {
            Way::Up => &at.words[place + index(i)],
            Way::Down => &at.words[place - index(i)],
        };
        let touch = if i == 0 { at.kind.touch() } else { Touch::Ahead };
        let entry = Entry::leaf(frame, owner, access, touch);
        let own = owner == Owner::Process;
        self.install(slot, if own { self.own_entry(at.vma, entry) } else { entry })
    }
}
