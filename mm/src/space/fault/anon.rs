//! Anonymous memory that was never touched (Linux's `do_anonymous_page`).
//!
//! A read gets the page of zeros, which all address spaces share; a write gets a frame of its own. Where
//! a program goes on page by page, the next pages come along, unseen until they are touched: see
//! `space/ahead`.

use std::sync::atomic::Ordering;

use super::mthp::Brought;
use super::{At, no_frame};
use crate::addr::{Frame, PAGE_SIZE, VirtAddr, index};
use crate::error::AccessError;
use crate::paging::{Access, AccessKind, Entry, Owner, Touch};
use crate::phys::{Contents, FrameKind, Marks};
use crate::space::AddressSpace;
use crate::space::ahead::{Stretch, Way};
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
        let one = Stretch { way: at.usual_way(), pages: 1 };
        let wanted = if alone { one } else { self.empty_stretch(at) };
        let pages = if written { self.fresh_pages(at, wanted)? } else { self.zeros(at, wanted)? };
        let faults = &self.counters.faults;
        faults.zero.fetch_add(1, Ordering::Relaxed);
        faults.around.fetch_add(pages - 1, Ordering::Relaxed);
        Ok(self.brought_ahead(at.page, Stretch { pages, ..wanted })?)
    }

    /// Which pages to bring in at once: at most as many as are empty from here on.
    fn empty_stretch(&self, at: &At<'_>) -> Stretch {
        if at.vma.flags.intersects(VmFlags::UFFD) {
            // Each page is told of.
            return Stretch { way: at.usual_way(), pages: 1 };
        }
        let wanted = self.ahead.stretch(at.page, at.usual_way());
        let wanted = wanted.at_most(self.system.sysctl.fault_ahead()).at_most(at.room(wanted.way));
        let is_empty = |&i: &u64| at.slot_beside(wanted.way, index(i)).load(Ordering::Relaxed) == 0;
        let empty = (0..wanted.pages).take_while(is_empty).count() as u64;
        Stretch { pages: empty.max(1), ..wanted }
    }

    /// Frames of zeros for up to that many pages. Says how many.
    fn fresh_pages(&self, at: &At<'_>, wanted: Stretch) -> Result<u64, AccessError> {
        let (wish, place) = (self.wish_for(at.vma, at.page), at.frame_place(wanted));
        let run = self
            .system
            .frames()
            .alloc_run_at(FrameKind::Anonymous, Contents::Zeroed, wanted.pages, place, wish)
            .map_err(|error| no_frame(error, at.addr))?;
        let lowest = match wanted.way {
            Way::Up => at.page,
            Way::Down => VirtAddr::new(at.page.get() - (run.count - 1) * PAGE_SIZE),
        };
        self.own_pages(at.vma, lowest, run);
        let access = at.vma.flags.page_access();
        for i in 0..run.count {
            // Downwards too, frames ascend with addresses: neighbours are flushed as one run.
            let place = match wanted.way {
                Way::Up => i,
                Way::Down => run.count - 1 - i,
            };
            let frame = run.start.offset(place);
            let mut marks = Marks::empty();
            marks.set(Marks::LAZY | Marks::DROPPABLE, at.vma.flags.contains(VmFlags::DROPPABLE));
            marks.set(Marks::AHEAD, i > 0);
            self.system.frames().mark(frame, marks);
            self.bring_in(at, (wanted.way, i), frame, Owner::Process, access)?;
        }
        Ok(run.count)
    }

    /// The page of zeros for so many pages. Says how many.
    fn zeros(&self, at: &At<'_>, wanted: Stretch) -> Result<u64, AccessError> {
        let zero = self.system.frames().zero_frame().map_err(|error| no_frame(error, at.addr))?;
        let access = at.vma.flags.page_access() - Access::WRITE;
        for i in 0..wanted.pages {
            self.bring_in(at, (wanted.way, i), zero, Owner::Backing, access)?;
        }
        Ok(wanted.pages)
    }

    /// Installs the `i`th page from the touched one on.
    fn bring_in(
        &self,
        at: &At<'_>,
        (way, i): (Way, u64),
        frame: Frame,
        owner: Owner,
        access: Access,
    ) -> Result<(), AccessError> {
        let slot = at.slot_beside(way, index(i));
        let touch = if i == 0 { at.kind.touch() } else { Touch::Ahead };
        let entry = Entry::leaf(frame, owner, access, touch);
        let own = owner == Owner::Process;
        self.install(slot, if own { self.own_entry(at.vma, entry) } else { entry })
    }
}
