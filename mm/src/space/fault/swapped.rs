//! Faults on pages that are in the swap area (Linux's `do_swap_page`).
//!
//! ```text
//!   a frame has it still ────────> that one
//!   none has ────────────────────> read into a fresh one, which all who come for it get
//!
//!   then   this entry alone names the place, and writes   the place is given up, the page may be written
//!          alone, reads                                   read-only, keeps the place: to swap it out again costs
//!                                                         no write, unless it was written
//!          others name it, too                            read-only: who writes copies            (fault/cow)
//! ```
//!
//! An entry is never given a copy at once: an old translation to the page may be left in some vCPU until it is
//! flushed, as the one of any page that is copied is.
//!
//! Where a program goes on page by page, the next ones come along, read together: an exit costs more than a page. They
//! count as resident and accessed, once, as Linux has the pages of files that it maps around a fault; it has these in
//! memory without entries. Under shadow paging a page whose accessed bit is clear costs four times as much when it is
//! touched.

use std::sync::atomic::{AtomicU64, Ordering};

use super::cow::exchange_entry;
use super::{At, no_frame};
use crate::addr::{PAGE_SIZE, SwapSlot, index};
use crate::error::{AccessError, Broken, Fault};
use crate::paging::{Access, AccessKind, Entry, Owner, Touch};
use crate::phys::AllocError;
use crate::space::ahead::{Stretch, Way};
use crate::space::protect::entry_access;
use crate::space::{AddressSpace, PageClass};
use crate::swap::{Keep, Sharing, Swap, Unswappable};

/// Why a page comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    /// It was touched.
    Touched,
    /// One before it was, in the same way.
    Ahead,
}

impl AddressSpace {
    /// Brings in the page of an entry that is in the swap area. A lost race is a fault that comes again.
    pub(super) fn swapped_fault(&self, at: &At<'_>, entry: Entry) -> Result<(), AccessError> {
        let (Some(swap), Some(slot)) = (self.system.swap(), entry.swap_slot()) else {
            return Ok(());
        };
        self.read_cluster(swap, at)?;
        let came = match self.bring_back(swap, slot, at, (at.slot(), entry), Reason::Touched) {
            Ok(came) => came,
            Err(Unswappable::Lost) => return Ok(()),
            Err(Unswappable::Unreadable) => return Err(Fault::NoBacking(at.addr).into()),
            Err(Unswappable::NoFrame(error)) => return Err(no_frame(error, at.addr)),
        };
        let faults = &self.counters.faults;
        faults.swapped.fetch_add(1, Ordering::Relaxed);
        let wanted = self.ahead.stretch(at.page, at.usual_way());
        let wanted = self.bounded(at, wanted);
        let next = self.bring_next(swap, at, wanted)?;
        faults.around.fetch_add(next, Ordering::Relaxed);
        if at.kind == AccessKind::Write && !came.is_writable() {
            return self.raise(at, came);
        }
        self.ahead.came(at.page, Stretch { pages: next + 1, ..wanted });
        Ok(())
    }

    /// Reads the touched page and those that will come with it.
    fn read_cluster(&self, swap: &Swap, at: &At<'_>) -> Result<(), Broken> {
        let wanted = self.bounded(at, self.ahead.next_stretch(at.page, at.usual_way()));
        let entries = (0..index(wanted.pages)).map(|i| at.slot_beside(wanted.way, i));
        let slots = entries.map_while(|slot| Entry::new(slot.load(Ordering::Acquire)).swap_slot());
        let mut slots: Vec<_> = slots.collect();
        if wanted.way == Way::Down {
            // Places ascend with addresses, and what is read together lies side by side.
            slots.reverse();
        }
        let there = Stretch { pages: slots.len() as u64, ..wanted };
        match there.range(at.page).filter(|_| slots.len() > 1) {
            None => Ok(()),
            Some(pages) => swap.read_ahead(self.system.frames(), &slots, |i| {
                self.wish_for(at.vma, pages.start().offset(i as u64 * PAGE_SIZE))
            }),
        }
    }

    /// What of the pages comes at once.
    fn bounded(&self, at: &At<'_>, wanted: Stretch) -> Stretch {
        wanted.at_most(self.system.sysctl.fault_ahead()).at_most(at.room(wanted.way))
    }

    /// The pages next to the one that was touched, as long as they are in the swap area and there is memory. Says how
    /// many.
    fn bring_next(&self, swap: &Swap, at: &At<'_>, wanted: Stretch) -> Result<u64, Broken> {
        let mut came = 0;
        for i in 1..index(wanted.pages) {
            let slot = at.slot_beside(wanted.way, i);
            let entry = Entry::new(slot.load(Ordering::Acquire));
            let Some(of) = entry.swap_slot() else { break };
            match self.bring_back(swap, of, at, (slot, entry), Reason::Ahead) {
                Ok(_) => came += 1,
                Err(Unswappable::NoFrame(AllocError::Broken(broken))) => return Err(broken),
                Err(_) => break,
            }
        }
        Ok(came)
    }

    /// Has an entry name its page again, if it still names the place. Returns it as it is then.
    fn bring_back(
        &self,
        swap: &Swap,
        slot: SwapSlot,
        at: &At<'_>,
        (place, entry): (&AtomicU64, Entry),
        reason: Reason,
    ) -> Result<Entry, Unswappable> {
        let frames = self.system.frames();
        let frame = swap.page(frames, slot, || self.wish_for(at.vma, at.page))?;
        let written = at.kind == AccessKind::Write;
        let keep = if written || self.keeps_in_memory(at.vma) { Keep::No } else { Keep::IfRoom };
        let wanted = entry_access(at.vma.flags, Owner::Process);
        let mut came = Entry::EMPTY;
        frames.map(frame);
        let taken = swap.take(frames, slot, frame, keep, |sharing| {
            let access = if sharing == Sharing::Alone { wanted } else { wanted - Access::WRITE };
            let touch = if sharing == Sharing::Alone { at.kind.touch() } else { Touch::Read };
            let touched = Entry::leaf(frame, Owner::Process, access, touch);
            // What is about to be copied is not touched here.
            let copied = sharing == Sharing::Shared && written;
            came = match reason {
                Reason::Touched if !copied => touched,
                Reason::Ahead if !copied => touched.clean(),
                // The translation that it had before may be there still.
                _ if self.system.reclaim.is_unflushed() => touched.clean().aged(),
                _ => touched.clean().old(),
            };
            came = self.own_entry(at.vma, came).protected_as(entry);
            exchange_entry(place, entry, came)
        });
        if taken? {
            self.counters.swapped.fetch_sub(1, Ordering::Relaxed);
            self.counters.resident.add(PageClass::of(came, frames));
            return Ok(came);
        }
        frames.unmap(frame)?;
        frames.put(frame)?;
        swap.drop_unneeded(frames, &[frame])?;
        Err(Unswappable::Lost)
    }
}
