//! What is remembered of a page beside the entries that name it (Linux's `folio->flags`).

use bitflags::bitflags;

use super::Frames;
use super::record::Records;
use crate::addr::Frame;

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
    }
}

impl Frames {
    /// What is remembered of a frame in use.
    #[must_use]
    pub fn marks(&self, frame: Frame) -> Marks {
        self.record(frame, Records::marks).unwrap_or_default()
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
