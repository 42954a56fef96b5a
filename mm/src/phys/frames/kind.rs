//! What frames are used for, and in which sizes they are asked for.

use crate::addr::Frame;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// A page that belongs to the mappings that name it: it may be written by its only owner.
    Anonymous,
    /// A page that belongs to a backing: a private mapping copies it before writing.
    Cached,
    /// The same, of shared memory: it is counted apart (Linux's `folio_test_swapbacked`).
    Shared,
    /// An anonymous page that was merged out of equal ones (Linux's `PageKsm`): everybody copies it before writing.
    Merged,
    /// In a page of the pool of huge pages, whoever uses it. The pool has a reference of its own.
    Huge,
    /// A page table, or another frame that no program may map.
    Table,
    /// The one page of zeros that stands for all that was only read (Linux's `ZERO_PAGE`). Never
    /// counted, never freed, never written.
    Zero,
}

impl FrameKind {
    /// The kind that was stored as this byte.
    pub(super) fn from_byte(byte: u8) -> Self {
        let pages = [Self::Anonymous, Self::Cached, Self::Shared, Self::Merged, Self::Huge];
        let all = pages.into_iter().chain([Self::Zero]);
        all.into_iter().find(|&kind| kind as u8 == byte).unwrap_or(Self::Table)
    }
}

/// What a block is kept for. Tables have blocks of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Pages,
    Tables,
}

impl From<FrameKind> for Purpose {
    fn from(kind: FrameKind) -> Self {
        match kind {
            FrameKind::Anonymous
            | FrameKind::Cached
            | FrameKind::Shared
            | FrameKind::Merged
            | FrameKind::Huge => Purpose::Pages,
            FrameKind::Table | FrameKind::Zero => Purpose::Tables,
        }
    }
}

/// Where frames are best taken: where they are not free, others do as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Wherever it costs least.
    Anywhere,
    /// At the start of a block that nothing was taken of.
    BlockStart,
    /// At the end of one.
    BlockEnd,
    /// From this frame on.
    Frame(Frame),
    /// Those that end where this one begins.
    Before(Frame),
}

/// Whether the caller relies on the bytes of a new frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// All zeros.
    Zeroed,
    /// Anything: the caller overwrites all of it.
    Any,
    /// Nothing: the caller shows a file in its place ([`PhysMemory::show`](crate::phys::PhysMemory::show)).
    Shown,
}

/// The size of a naturally aligned run of frames, as Linux's `order`: 2 to the power of it frames.
///
/// Such a run is no object of its own: each of its frames has a record, so a large page is split by
/// nobody doing anything, and is given up with [`Frames::put_run`](super::Frames::put_run).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Order(u32);

impl Order {
    /// 4 KiB.
    pub const PAGE: Order = Order(0);
    /// 16 KiB: the smallest run that anonymous memory is given in.
    pub const FOUR: Order = Order(2);
    /// 2 MiB: what an entry of the second-lowest table maps (Linux's `HPAGE_PMD_ORDER`).
    pub const HUGE: Order = Order(9);
    /// 1 GiB: what an entry one higher maps.
    pub const GIANT: Order = Order(18);

    /// `None` past 1 GiB.
    #[must_use]
    pub fn new(order: u32) -> Option<Self> {
        (order <= Self::GIANT.0).then_some(Order(order))
    }

    /// Of what power of 2.
    #[must_use]
    pub const fn exponent(self) -> u32 {
        self.0
    }

    /// How many frames that is, and what the first one's number is a multiple of.
    #[must_use]
    pub fn frames(self) -> u64 {
        1 << self.0
    }
}
