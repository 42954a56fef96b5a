//! What is known of each frame of a block, and may be read and counted without a lock.
//!
//! Each field is an array of its own: fork goes through the counts of many frames, 8 to a cache line.
//!
//! ```text
//!   counts  8 bytes   references and entries            (count)
//!   index   8 bytes   reverse map: page index, and whether there is an owner
//!   owner   4 bytes   reverse map: whose index that is
//!   kind    1 byte    what the frame is used for, and the order of the folio that it is of
//!   marks   1 byte    what is remembered of the page    22 bytes a frame: 0.5 % of it
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::count::{Counted, Counts, Left, Miscounted};
use super::set::FrameSet;
use super::{FrameKind, Marks, Order, SLOTS};

/// Set in a record's index if the frame has an owner.
const OWNED: u64 = 1 << 63;

/// The bits of a record's kind that say what the frame is used for. Those above are its folio's order.
const KIND: u8 = 0xf;

/// Where the reverse map finds the entries that name a frame: a page of some memory (Linux's
/// `folio->mapping` and `folio->index`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReverseOwner {
    /// The anonymous memory's or the backing's number; what it means is its givers' affair.
    pub id: u32,
    /// The page's index in it, in pages of 4 KiB, below 2^63: of anonymous memory where the page lay
    /// when it was first written, divided by the page size; of a backing its offset likewise.
    pub index: u64,
}

/// The records of one block of frames.
#[derive(Debug)]
pub(super) struct Records {
    counts: [Counts; SLOTS],
    index: [AtomicU64; SLOTS],
    owner: [AtomicU32; SLOTS],
    kind: [AtomicU8; SLOTS],
    marks: [AtomicU8; SLOTS],
}

/// A reference that could not be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadSlot {
    pub(super) slot: usize,
    pub(super) why: Miscounted,
}

impl Records {
    /// Of free frames.
    pub(super) fn new() -> Box<Self> {
        Box::new(Records {
            counts: std::array::from_fn(|_| Counts::new()),
            index: [const { AtomicU64::new(0) }; SLOTS],
            owner: [const { AtomicU32::new(0) }; SLOTS],
            kind: [const { AtomicU8::new(0) }; SLOTS],
            marks: [const { AtomicU8::new(0) }; SLOTS],
        })
    }

    /// Makes free frames used, each with one reference. The caller alone knows of them.
    pub(super) fn take(&self, slots: Range<usize>, kind: FrameKind) {
        for slot in slots {
            self.kind[slot].store(kind as u8, Ordering::Relaxed);
            self.index[slot].store(0, Ordering::Relaxed);
            self.marks[slot].store(0, Ordering::Relaxed);
            self.counts[slot].take();
        }
    }

    /// The counts of a slot.
    pub(super) fn counts(&self, slot: usize) -> &Counts {
        &self.counts[slot]
    }

    /// The counts of slots.
    pub(super) fn run(&self, slots: Range<usize>) -> &[Counts] {
        &self.counts[slots]
    }

    /// Gives up one reference to each; says whose last one it was, and at which it had to stop.
    pub(super) fn put(&self, slots: Range<usize>) -> (FrameSet, Option<BadSlot>) {
        let mut freed = FrameSet::EMPTY;
        for slot in slots {
            match self.counts[slot].put() {
                Ok(Left::Some) => {}
                Ok(Left::None) => freed.insert(slot),
                Err(why) => return (freed, Some(BadSlot { slot, why })),
            }
        }
        (freed, None)
    }

    /// The counts now.
    pub(super) fn now(&self, slot: usize) -> Counted {
        self.counts[slot].now()
    }

    /// What the frame is used for, if it is used.
    pub(super) fn kind(&self, slot: usize) -> Option<FrameKind> {
        // The kind is written before the first reference is, and then stays.
        (self.now(slot).references() > 0).then(|| self.kind_last(slot))
    }

    /// What the frame is, or was last, used for.
    fn kind_last(&self, slot: usize) -> FrameKind {
        FrameKind::from_byte(self.kind[slot].load(Ordering::Relaxed) & KIND)
    }

    /// The order of the folio that a frame in use is of; [`Order::PAGE`] for most.
    pub(super) fn order(&self, slot: usize) -> Order {
        let order = self.kind[slot].load(Ordering::Relaxed) >> KIND.count_ones();
        Order::new(order.into()).unwrap_or(Order::PAGE)
    }

    /// Sets it, of a frame that is of none, or of this one: two processes may split their entries of a huge page at once.
    pub(super) fn set_order(&self, slot: usize, order: Order) {
        let order = u8::try_from(order.exponent() << KIND.count_ones()).unwrap_or_default();
        self.kind[slot].fetch_or(order, Ordering::Relaxed);
    }

    /// It is of no folio from now on, whoever has it by now.
    pub(super) fn clear_order(&self, slot: usize) {
        self.kind[slot].fetch_and(KIND, Ordering::Relaxed);
    }

    /// What is remembered of the frame.
    pub(super) fn marks(&self, slot: usize) -> Marks {
        Marks::from_bits_truncate(self.marks[slot].load(Ordering::Relaxed))
    }

    /// Remembers more of it.
    pub(super) fn mark(&self, slot: usize, marks: Marks) {
        self.marks[slot].fetch_or(marks.bits(), Ordering::Relaxed);
    }

    /// Forgets something of it.
    pub(super) fn unmark(&self, slot: usize, marks: Marks) {
        self.marks[slot].fetch_and(!marks.bits(), Ordering::Relaxed);
    }

    /// Says where the reverse map finds the frame from now on.
    pub(super) fn set_owner(&self, slot: usize, owner: ReverseOwner) {
        self.owner[slot].store(owner.id, Ordering::Relaxed);
        self.index[slot].store(owner.index | OWNED, Ordering::Release);
    }

    /// Says that the frame is found at the same index of another memory from now on.
    pub(super) fn move_owner(&self, slot: usize, id: u32) {
        // Mostly it is: then the line stays clean.
        if self.owner[slot].load(Ordering::Relaxed) != id {
            self.owner[slot].store(id, Ordering::Relaxed);
        }
    }

    /// Where the reverse map finds the frame.
    pub(super) fn owner(&self, slot: usize) -> Option<ReverseOwner> {
        let index = self.index[slot].load(Ordering::Acquire);
        let id = self.owner[slot].load(Ordering::Relaxed);
        (index & OWNED != 0).then_some(ReverseOwner { id, index: index & !OWNED })
    }
}
