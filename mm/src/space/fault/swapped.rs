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

use super::cow::exchange_entry;
use super::{At, no_frame};
use crate::error::{AccessError, Fault};
use crate::paging::Touch;
use crate::paging::{Access, AccessKind, Entry, Owner};
use crate::space::protect::entry_access;
use crate::space::{AddressSpace, PageClass};
use crate::swap::{Keep, Sharing, Unswappable};
use std::sync::atomic::Ordering;

impl AddressSpace {
    /// Brings in the page of an entry that is in the swap area. A lost race is a fault that comes again.
    pub(super) fn swapped_fault(&self, at: &At<'_>, entry: Entry) -> Result<(), AccessError> {
        let (Some(swap), Some(slot)) = (self.system.swap(), entry.swap_slot()) else {
            return Ok(());
        };
        let frames = self.system.frames();
        let frame = match swap.page(frames, slot) {
            Ok(frame) => frame,
            Err(Unswappable::Lost) => return Ok(()),
            Err(Unswappable::Unreadable) => return Err(Fault::NoBacking(at.addr).into()),
            Err(Unswappable::NoFrame(error)) => return Err(no_frame(error, at.addr)),
        };
        let written = at.kind == AccessKind::Write;
        let keep = if written || self.keeps_in_memory(at.vma) { Keep::No } else { Keep::IfRoom };
        let wanted = entry_access(at.vma.flags, Owner::Process);
        let mut came = Entry::EMPTY;
        frames.map(frame);
        let taken = swap.take(frames, slot, frame, keep, |sharing| {
            let (access, touch) = match sharing {
                Sharing::Alone => (wanted, at.kind.touch()),
                Sharing::Shared => (wanted - Access::WRITE, Touch::Read),
            };
            came = self.own_entry(at.vma, Entry::leaf(frame, Owner::Process, access, touch));
            exchange_entry(at.slot(), entry, came)
        });
        if !taken? {
            frames.unmap(frame)?;
            frames.put(frame)?;
            swap.drop_unneeded(frames, &[frame])?;
            return Ok(());
        }
        self.counters.swapped.fetch_sub(1, Ordering::Relaxed);
        self.counters.resident.add(PageClass::of(came, frames));
        self.counters.faults.swapped.fetch_add(1, Ordering::Relaxed);
        if written && !came.is_writable() { self.raise(at, came) } else { Ok(()) }
    }
}
