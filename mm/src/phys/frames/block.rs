//! One block of 2 MiB: which of its frames are used, and which of them the host holds memory for.
//!
//! ```text
//!              never handed out        handed out      free again        given back
//!   used             -                     x                -                -
//!   present    x if made present           x                x                -
//!   dirty            -                     x                x                -
//!                    └──────── idle ───────────────────────┘  (present, but not used)
//! ```

use std::ops::Range;

use super::SLOTS;
use super::kind::Purpose;
use super::set::FrameSet;

/// All slots of a block.
pub(super) const ALL: Range<usize> = 0..SLOTS;

/// A block that the host holds memory for.
#[derive(Debug)]
pub(super) struct Block {
    purpose: Purpose,
    /// Frames in use.
    used: FrameSet,
    /// Which of them are counted as tables: also in a block for pages, when memory is short.
    tables: FrameSet,
    /// Frames that the host holds memory for.
    present: FrameSet,
    /// Which of them may hold other bytes than zeros.
    dirty: FrameSet,
    /// Frames on their way back to the host: free, but not to be used.
    away: FrameSet,
    /// As what the pool has it; kept by the pool.
    pub(super) listed: Listed,
}

/// How a block is listed and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub(super) shelf: Shelf,
    /// How many of its frames are idle.
    pub(super) idle: u64,
}

/// Where a block is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shelf {
    /// Nowhere: it has no free frame.
    Full,
    /// Pages, with free frames that are present.
    Ready,
    /// Pages, with free frames that the host would have to find memory for.
    Holes,
    /// Tables, with free frames.
    Tables,
    /// Nothing of it is in use.
    Empty,
}

/// Which free frames are wanted of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// Contiguous ones, at least one and at most so many.
    UpTo(usize),
    /// Exactly so many, a power of two, and aligned to it.
    Aligned(usize),
    /// Contiguous ones from that slot on, at least one and at most so many.
    From { slot: usize, most: usize },
}

/// Frames taken out of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Slots {
    pub(super) range: Range<usize>,
    /// Which of them may hold other bytes than zeros.
    pub(super) dirty: FrameSet,
    /// Whether the host holds memory for all of them.
    pub(super) present: bool,
}

/// How many frames became free, by what they are counted as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Freed {
    pub(super) pages: u64,
    pub(super) tables: u64,
}

impl Block {
    /// A block that the host holds no memory for yet.
    pub(super) fn new(purpose: Purpose) -> Self {
        let none = FrameSet::EMPTY;
        let listed = Listed { shelf: Shelf::Full, idle: 0 };
        Block { purpose, present: none, used: none, tables: none, dirty: none, away: none, listed }
    }

    /// An empty block serves this purpose from now on. Says whether it is a new one.
    pub(super) fn begin(&mut self, purpose: Purpose) -> bool {
        if self.is_unused() {
            self.purpose = purpose;
        }
        self.is_gone()
    }

    /// All of it is being made present; says which slots that are.
    pub(super) fn make_present(&mut self) -> Range<usize> {
        self.present = FrameSet::FULL;
        ALL
    }

    /// Whether it is kept for pages.
    pub(super) fn is_for_pages(&self) -> bool {
        self.purpose == Purpose::Pages
    }

    /// Frames that can be handed out.
    pub(super) fn free(&self) -> FrameSet {
        FrameSet::FULL.without(self.used).without(self.away)
    }

    /// Which of them the host holds memory for.
    pub(super) fn idle(&self) -> FrameSet {
        self.free().and(self.present)
    }

    /// Where the block belongs.
    pub(super) fn shelf(&self) -> Shelf {
        if self.free().is_empty() {
            Shelf::Full
        } else if self.is_unused() {
            Shelf::Empty
        } else {
            match self.purpose {
                Purpose::Tables => Shelf::Tables,
                Purpose::Pages if self.idle().is_empty() => Shelf::Holes,
                Purpose::Pages => Shelf::Ready,
            }
        }
    }

    /// Whether nothing of it is in use or on its way back.
    fn is_unused(&self) -> bool {
        self.used.is_empty() && self.away.is_empty()
    }

    /// Whether there is no reason to keep it.
    pub(super) fn is_gone(&self) -> bool {
        self.is_unused() && self.present.is_empty()
    }

    /// Frames that are never handed out nor counted.
    pub(super) fn reserve(&mut self, slots: Range<usize>) {
        self.used = self.used.with(FrameSet::of(slots));
    }

    /// Takes free frames, present ones first; `None` if there are none such.
    pub(super) fn take(&mut self, want: Want, counted: Purpose) -> Option<Slots> {
        let (free, idle) = (self.free(), self.idle());
        let range = match want {
            Want::UpTo(most) if idle.is_empty() => free.first_run(most),
            Want::UpTo(most) => idle.first_run(most),
            Want::Aligned(count) => free.aligned_run(count),
            Want::From { slot, most } => free.run_at(slot, most),
        }?;
        let set = FrameSet::of(range.clone());
        let taken = Slots {
            range,
            dirty: self.dirty.and(set),
            present: set.without(self.present).is_empty(),
        };
        self.used = self.used.with(set);
        if counted == Purpose::Tables {
            self.tables = self.tables.with(set);
        }
        self.present = self.present.with(set);
        self.dirty = self.dirty.with(set);
        Some(taken)
    }

    /// Frees frames that are in use.
    pub(super) fn release(&mut self, set: FrameSet) -> Freed {
        let tables = self.tables.and(set);
        self.used = self.used.without(set);
        self.tables = self.tables.without(set);
        Freed { pages: set.len() - tables.len(), tables: tables.len() }
    }

    /// Sends all idle frames on their way back to the host; says which.
    pub(super) fn send_idle(&mut self) -> FrameSet {
        let idle = self.idle();
        self.away = self.away.with(idle);
        idle
    }

    /// Sends the whole of an empty block on its way back to the host.
    pub(super) fn send_all(&mut self) {
        self.away = FrameSet::FULL;
    }

    /// Frames have arrived at the host; says how many.
    pub(super) fn arrived(&mut self, set: FrameSet) -> u64 {
        let count = self.away.and(set).len();
        self.away = self.away.without(set);
        self.present = self.present.without(set);
        self.dirty = self.dirty.without(set);
        count
    }
}
