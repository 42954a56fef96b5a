//! Which pages have not been used for longest (Linux's `shrink_active_list`, `shrink_inactive_list`,
//! `folio_check_references`). Instead of two lists there is a mark, and a hand that goes round all frames:
//!
//! ```text
//!                 accessed since the hand was here      not accessed
//!   inactive      referenced ──> active                 not referenced: goes; else not referenced
//!   active        stays                                 inactive
//! ```
//!
//! A new page is inactive, and its first access does not make it referenced twice: what is touched once goes before
//! what is in use. Whether it was accessed its entries say, of all spaces. They are made old as that is asked: they
//! may be cached still, which they remember (`Entry::aged`), and are flushed with the batch, so that the next access
//! shows under shadow paging, too.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use crate::addr::Frame;
use crate::paging::{Entry, FlushBatch};
use crate::phys::{Frames, Marks};
use crate::rmap::Found;
use crate::space::PageClass;
use crate::system::System;

/// How a page was used of late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Age {
    /// It is in use, or was.
    Young,
    /// It may go.
    Old,
    /// It must not go: it is locked, mapped by a large entry, or about to be another one.
    Stays,
}

/// What the entries of a page say.
struct Accesses {
    count: u32,
    stays: bool,
}

impl Frames {
    /// Makes a page a look older of which so many entries were accessed since the last.
    pub(super) fn step_age(&self, frame: Frame, accesses: u32) -> Age {
        let marks = self.marks(frame);
        let (active, referenced) =
            (marks.contains(Marks::ACTIVE), marks.contains(Marks::REFERENCED));
        match accesses {
            0 if active => self.unmark(frame, Marks::ACTIVE),
            0 if referenced => self.unmark(frame, Marks::REFERENCED),
            0 => return Age::Old,
            _ if active => {}
            1 if !referenced => self.mark(frame, Marks::REFERENCED),
            _ => {
                self.mark(frame, Marks::ACTIVE);
                self.unmark(frame, Marks::REFERENCED);
            }
        }
        Age::Young
    }
}

impl System {
    /// Looks how a page was used, and makes it a look older. The caller has a reference.
    pub(super) fn age(&self, frame: Frame, batch: &mut FlushBatch) -> Age {
        let frames = self.frames();
        let marks = frames.marks(frame);
        let held = frames.maps(frame) == 0 && !marks.contains(Marks::SWAP_CACHED);
        if held || marks.contains(Marks::LAZY) {
            // It is no page yet; or goes in another way.
            return Age::Stays;
        }
        let Accesses { count, stays } = self.accesses(frame, batch);
        if stays { Age::Stays } else { frames.step_age(frame, count) }
    }

    fn accesses(&self, frame: Frame, batch: &mut FlushBatch) -> Accesses {
        let mut seen = Accesses { count: 0, stays: false };
        let _ = self.anon().entries_of(self.frames(), frame, |found| {
            let mut entry = self.counted(&found);
            while entry.frame() == Some(frame) {
                if !may_go(entry) {
                    seen.stays = true;
                    return ControlFlow::Break(());
                }
                if !entry.is_referenced() {
                    break;
                }
                match exchange(&found, entry, entry.aged()) {
                    Ok(()) => {
                        batch.lowered(frame);
                        seen.count += 1;
                        break;
                    }
                    Err(now) => entry = now,
                }
            }
            ControlFlow::Continue(())
        });
        seen
    }

    /// An entry that was brought in ahead and has been written since is one like others: it counts from now on.
    pub(super) fn counted(&self, found: &Found<'_>) -> Entry {
        let mut entry = found.entry;
        while entry.is_ahead() && entry.is_dirty() && entry.frame().is_some() {
            match exchange(found, entry, entry.asked_for()) {
                Ok(()) => {
                    entry = entry.asked_for();
                    found.counters.resident.add(PageClass::of(entry, self.frames()));
                }
                Err(now) => entry = now,
            }
        }
        entry
    }
}

/// Whether the page of an entry may be taken away from it.
pub(super) fn may_go(entry: Entry) -> bool {
    !(entry.is_locked() || entry.is_leaving() || entry.is_large() || entry.is_ahead())
}

/// Puts an entry in the place of another one; else it is returned as it is now.
pub(super) fn exchange(found: &Found<'_>, old: Entry, new: Entry) -> Result<(), Entry> {
    let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
    let exchanged = found.slot.compare_exchange(old.raw(), new.raw(), done, failed);
    exchanged.map(drop).map_err(Entry::new)
}
