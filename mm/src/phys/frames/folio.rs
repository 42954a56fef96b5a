//! Runs of frames that are one page to Linux (a large folio) and have an entry each: a fault has brought them in at once,
//! or a huge page's entry was split.
//!
//! Each frame keeps its own counts, so such a run is given up page by page like any other. But what is remembered of
//! one of them is remembered of all, and some calls care whether all of it is there: so each says how large the run
//! is that it is of. As runs are aligned, and two of a size never overlap, that tells which the others are.

use std::sync::atomic::Ordering;

use super::record::Records;
use super::{FrameKind, Frames, Marks, Order};
use crate::addr::{Frame, FrameRun};

impl Frames {
    /// Whether there were ever any.
    #[inline]
    pub(crate) fn has_folios(&self) -> bool {
        self.folios.load(Ordering::Relaxed)
    }

    /// Makes an aligned run of frames that are of none one, and remembers this of each: of new frames before they have
    /// entries, of a huge page's before it is mapped in small ones.
    pub(crate) fn make_folio(&self, run: FrameRun, order: Order, marks: Marks) {
        self.folios.store(true, Ordering::Relaxed);
        for i in 0..run.count {
            self.record(run.start.offset(i), |records, slot| records.set_order(slot, order));
            self.mark(run.start.offset(i), marks);
        }
    }

    /// The run that a frame in use is of, if it is of one. Some of its frames may be other pages by now.
    #[must_use]
    pub(crate) fn folio(&self, frame: Frame) -> Option<FrameRun> {
        let order = self.record(frame, Records::order).filter(|&order| order > Order::PAGE)?;
        let start = Frame::new(frame.number() & !(order.frames() - 1));
        Some(FrameRun { start, count: order.frames() })
    }

    /// Those of its frames that are still of it.
    pub(crate) fn pages_of(&self, folio: FrameRun) -> impl Iterator<Item = Frame> + '_ {
        let all = (0..folio.count).map(move |i| folio.start.offset(i));
        all.filter(move |&frame| {
            self.kind(frame) == Some(FrameKind::Anonymous) && self.folio(frame) == Some(folio)
        })
    }

    /// How many entries name pages of it (`folio_large_mapcount`).
    pub(crate) fn maps_of_folio(&self, folio: FrameRun) -> u64 {
        self.pages_of(folio).map(|frame| u64::from(self.maps(frame))).sum()
    }

    /// Remembers more of a page, and so of all that it is one with.
    pub(crate) fn mark_folio(&self, frame: Frame, marks: Marks) {
        // Then the others have them, too.
        if self.marks(frame).contains(marks) {
            return;
        }
        match self.folio(frame) {
            Some(folio) => self.pages_of(folio).for_each(|frame| self.mark(frame, marks)),
            None => self.mark(frame, marks),
        }
    }

    /// Forgets something of them.
    pub(crate) fn unmark_folio(&self, frame: Frame, marks: Marks) {
        match self.folio(frame) {
            Some(folio) => self.pages_of(folio).for_each(|frame| self.unmark(frame, marks)),
            None => self.unmark(frame, marks),
        }
    }

    /// Makes pages of its own of all that there still is of a folio.
    pub(crate) fn split_folio(&self, folio: FrameRun) {
        self.pages_of(folio).for_each(|frame| self.leave_folio(frame));
    }

    /// A page is of no folio any more.
    pub(crate) fn leave_folio(&self, frame: Frame) {
        self.record(frame, Records::clear_order);
    }
}
