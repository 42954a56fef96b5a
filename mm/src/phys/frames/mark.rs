//! What is remembered of a page beside the entries that name it (Linux's `folio->flags`).

use std::ops::Range;

use bitflags::bitflags;

use super::record::Records;
use super::{BLOCK_FRAMES, FrameKind, Frames, frames_of, position};
use crate::addr::{Frame, index};

bitflags! {
    /// What is remembered of a page. A frame that is handed out has none.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Marks: u8 {
        /// Written through an entry that does not tell any more (`PG_dirty`).
        const DIRTY = 1;
        /// Used by something else than its entries, or through one that is gone (`PG_referenced`).
        const REFERENCED = 2;
        /// Its bytes need not be kept, as long as nobody writes it (`PG_swapbacked` clear).
        const LAZY = 4;
        /// Nor if somebody does (`VM_DROPPABLE` of all memory that it is in).
        const DROPPABLE = 8;
        /// It was brought in ahead of a touch. It may have been touched since: its entry tells.
        const AHEAD = 16;
        /// It may have a place in the swap area, with the same bytes (`PG_swapcache`): the swap area tells.
        const SWAP_CACHED = 32;
        /// It was found in use again and again (`PG_active`).
        const ACTIVE = 64;
        /// Of a page of a folio: its process may write it in place, whoever else has others of it (`PG_anon_exclusive`).
        const EXCLUSIVE = 128;
    }
}

impl Frames {
    /// What is remembered of a frame in use.
    #[must_use]
    pub fn marks(&self, frame: Frame) -> Marks {
        self.record(frame, Records::marks).unwrap_or_default()
    }

    /// The first of these frames, by number, that is in use for this. Others may change that at any time.
    pub(crate) fn next_of(&self, frames: Range<u64>, kind: FrameKind) -> Option<Frame> {
        self.next_where(frames, |records, slot| records.kind(slot) == Some(kind))
    }

    /// The first of these frames, by number, that has one of the marks. Others may change that at any time, and a
    /// free frame has those that it had.
    pub(crate) fn next_marked(&self, frames: Range<u64>, marks: Marks) -> Option<Frame> {
        self.next_where(frames, |records, slot| records.marks(slot).intersects(marks))
    }

    fn next_where(
        &self,
        frames: Range<u64>,
        fits: impl Fn(&Records, usize) -> bool,
    ) -> Option<Frame> {
        let mut at = frames.start;
        while at < frames.end {
            let (block, first) = position(Frame::new(at));
            let end = frames.end.min(at - first as u64 + BLOCK_FRAMES);
            let mut slots = first..first + index(end - at);
            let records = self.records.find(block);
            let found = records.and_then(|records| slots.find(|&slot| fits(records, slot)));
            if let Some(slot) = found {
                return Some(frames_of(block, &(slot..slot)).start);
            }
            at = end;
        }
        None
    }

    /// Remembers more of a frame in use.
    pub fn mark(&self, frame: Frame, marks: Marks) {
        // Mostly it is remembered already, and then the line stays shared.
        if !self.marks(frame).contains(marks) {
            self.record(frame, |records, slot| records.mark(slot, marks));
        }
    }

    /// Forgets something of a frame in use.
    pub fn unmark(&self, frame: Frame, marks: Marks) {
        if self.marks(frame).intersects(marks) {
            self.record(frame, |records, slot| records.unmark(slot, marks));
        }
    }
}
