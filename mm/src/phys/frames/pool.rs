//! Which block a frame is taken from. All of it is under the allocator's lock.
//!
//! ```text
//!   untaken ──take──> Ready <──> Full      Ready: its free frames are present, so they come first
//!      ^                │ all free         Holes: its free frames were given back, or never touched
//!      │                v                  Tables: the same for tables, wherever its frames are
//!      └─ given back ─ Empty
//! ```
//!
//! A page comes from the first of: `Ready`, `Empty`, a new block (made present as a whole), `Holes`,
//! memory that is yet to be added, any block at all.

use std::collections::BTreeSet;
use std::ops::Range;

use super::block::{ALL, Block, Listed, Shelf, Slots, Want};
use super::kind::{Place, Purpose};
use super::set::FrameSet;
use super::{BLOCK_FRAMES, FrameStats, position};
use crate::addr::{Frame, index};

/// How many pages are handed out before the host is asked for a whole block of them at once.
pub(super) const PAGES_ONE_BY_ONE: u64 = 16;

/// In how many partly used blocks an aligned run is looked for before a new block is begun.
const BLOCKS_SEARCHED: usize = 16;

/// All blocks.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// `None`: the host holds no memory for the block.
    pub(super) blocks: Vec<Option<Block>>,
    pub(super) ready: BTreeSet<usize>,
    holes: BTreeSet<usize>,
    tables: BTreeSet<usize>,
    pub(super) empty: BTreeSet<usize>,
    pub(super) untaken: BTreeSet<usize>,
    /// Frames on their way back to the host.
    pub(super) away: u64,
    pub(super) stats: FrameStats,
}

/// Frames taken, and what is left to do for them without the lock.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) block: usize,
    pub(super) slots: Slots,
    /// Which frames of the block the host is to make present.
    pub(super) populate: Option<Range<usize>>,
}

/// Where frames are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// Where taking them costs least.
    Preferred,
    /// Wherever there are some.
    Anywhere,
}

/// Among which blocks frames are looked for: those of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Within {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Within {
    /// All that there may ever be.
    pub(super) const ALL: Within = Within { start: 0, end: usize::MAX };

    fn has(self, block: usize) -> bool {
        self.start <= block && block < self.end
    }

    /// The first of a set that lies in it.
    fn first_of(self, blocks: &BTreeSet<usize>) -> Option<usize> {
        // With one node it is the first of all, which is found at once.
        let mut those =
            if self == Within::ALL { None } else { Some(blocks.range(Range::from(self))) };
        those.as_mut().map_or_else(|| blocks.first(), Iterator::next).copied()
    }
}

impl From<Range<usize>> for Within {
    fn from(blocks: Range<usize>) -> Self {
        Within { start: blocks.start, end: blocks.end }
    }
}

impl From<Within> for Range<usize> {
    fn from(within: Within) -> Self {
        within.start..within.end
    }
}

impl Pool {
    /// Memory has grown to so many frames; says whether that is more than it was.
    pub(super) fn grow_to(&mut self, frames: u64) -> bool {
        let have = self.blocks.len();
        let blocks = index(frames / BLOCK_FRAMES).max(have);
        self.blocks.resize_with(blocks, || None);
        self.untaken.extend(have..blocks);
        blocks > have
    }

    /// Takes frames out of one block.
    pub(super) fn take(
        &mut self,
        purpose: Purpose,
        want: Want,
        within: Within,
        reach: Reach,
    ) -> Option<Taken> {
        let few = self.stats.pages < PAGES_ONE_BY_ONE && matches!(want, Want::UpTo(_));
        let cheapest: &[Shelf] = match (purpose, few) {
            (Purpose::Tables, _) => &[Shelf::Tables],
            (Purpose::Pages, true) => &[Shelf::Ready, Shelf::Holes],
            (Purpose::Pages, false) => &[Shelf::Ready],
        };
        let rest: &[Shelf] = match (purpose, reach) {
            (Purpose::Tables, Reach::Preferred) => &[],
            (Purpose::Pages, Reach::Preferred) => &[Shelf::Holes],
            (_, Reach::Anywhere) => &[Shelf::Holes, Shelf::Ready, Shelf::Tables],
        };
        let most = if reach == Reach::Preferred { BLOCKS_SEARCHED } else { usize::MAX };
        let block = self
            .search(cheapest, want, within, most)
            .or_else(|| self.begin(purpose, within))
            .or_else(|| self.search(rest, want, within, most))?;
        let ahead = if few { Ahead::Nothing } else { Ahead::of(purpose) };
        self.take_from(block, purpose, want, ahead)
    }

    /// Takes pages at a place, if they are free there.
    pub(super) fn take_at(&mut self, place: Place, most: usize, within: Within) -> Option<Taken> {
        let purpose = Purpose::Pages;
        let (block, slot) = match place {
            Place::Anywhere => return None,
            // A small program does not need a block.
            Place::BlockStart | Place::BlockEnd if self.stats.pages < PAGES_ONE_BY_ONE => {
                return None;
            }
            Place::BlockStart => (self.begin(purpose, within)?, 0),
            Place::BlockEnd => (self.begin(purpose, within)?, ALL.end.checked_sub(most)?),
            Place::Frame(frame) => self.place_of(frame, within)?,
            Place::Before(frame) => {
                let first = frame.number().checked_sub(most as u64)?;
                self.place_of(Frame::new(first), within)?
            }
        };
        self.take_from(block, purpose, Want::From { slot, most }, Ahead::of(purpose))
    }

    /// Where a frame is, if it is for pages.
    fn place_of(&self, frame: Frame, within: Within) -> Option<(usize, usize)> {
        let (block, slot) = position(frame);
        if !within.has(block) {
            return None;
        }
        self.blocks.get(block)?.as_ref().filter(|kept| kept.is_for_pages())?;
        Some((block, slot))
    }

    /// Takes so many whole blocks that lie side by side, the first at a multiple of their number.
    pub(super) fn take_blocks(
        &mut self,
        purpose: Purpose,
        count: usize,
        within: Within,
    ) -> Option<Vec<Taken>> {
        let unused = |block: usize| self.untaken.contains(&block) || self.empty.contains(&block);
        // Not the first block: it has frame 0.
        let (first, end) =
            (within.start.next_multiple_of(count), within.end.min(self.blocks.len()));
        let mut starts =
            (first.max(count)..).step_by(count).take_while(|start| start + count <= end);
        let start = starts.find(|&start| (start..start + count).all(unused))?;
        let whole = Want::Aligned(ALL.len());
        let take = |block| {
            if self.untaken.remove(&block) {
                self.open(block, purpose);
            }
            self.take_from(block, purpose, whole, Ahead::of(purpose))
        };
        (start..start + count).map(take).collect()
    }

    /// Frees frames of a block that are in use.
    pub(super) fn free(&mut self, block: usize, set: FrameSet) {
        if let Some(freed) = self.change(block, |block| block.release(set)) {
            self.stats.pages -= freed.pages;
            self.stats.tables -= freed.tables;
        }
    }

    /// The first block of these shelves, in their order, that has what is wanted. Looks into `most` of
    /// each shelf.
    fn search(&self, shelves: &[Shelf], want: Want, within: Within, most: usize) -> Option<usize> {
        if let Want::UpTo(_) = want {
            let mut listed = shelves.iter().filter_map(|&shelf| self.shelf(shelf));
            return listed.find_map(|blocks| within.first_of(blocks));
        }
        let has = |block: &&usize| match (want, self.blocks.get(**block)) {
            (Want::Aligned(count), Some(Some(block))) => block.free().aligned_run(count).is_some(),
            _ => false,
        };
        let listed = shelves.iter().filter_map(|&shelf| self.shelf(shelf));
        let mut found = listed.map(|blocks| blocks.range(Range::from(within)).take(most).find(has));
        found.find_map(Option::<&usize>::copied)
    }

    /// A block with nothing in use: a kept one, or else a new one.
    fn begin(&mut self, purpose: Purpose, within: Within) -> Option<usize> {
        if let Some(block) = within.first_of(&self.empty) {
            return Some(block);
        }
        let block = within.first_of(&self.untaken)?;
        self.untaken.remove(&block);
        self.open(block, purpose);
        Some(block)
    }

    /// Begins a new block.
    fn open(&mut self, index: usize, purpose: Purpose) {
        self.blocks[index] = Some(Block::new(purpose));
        let frame_zero = if index == 0 { 0..1 } else { 0..0 };
        self.change(index, |block| block.reserve(frame_zero));
        self.stats.taken += BLOCK_FRAMES;
    }

    fn take_from(
        &mut self,
        block: usize,
        purpose: Purpose,
        want: Want,
        ahead: Ahead,
    ) -> Option<Taken> {
        let taken = self.change(block, |place| {
            let new = place.begin(purpose);
            let slots = place.take(want, purpose)?;
            let populate = match ahead {
                Ahead::Nothing => None,
                Ahead::Block if new => Some(place.make_present()),
                Ahead::Block => (!slots.present).then(|| slots.range.clone()),
            };
            Some(Taken { block, slots, populate })
        })??;
        let count = taken.slots.range.len() as u64;
        match purpose {
            Purpose::Pages => self.stats.pages += count,
            Purpose::Tables => self.stats.tables += count,
        }
        self.stats.peak = self.stats.peak.max(self.stats.pages + self.stats.tables);
        Some(taken)
    }

    /// Changes a block, and lists and counts it as what it then is.
    pub(super) fn change<R>(
        &mut self,
        index: usize,
        change: impl FnOnce(&mut Block) -> R,
    ) -> Option<R> {
        let block = self.blocks.get_mut(index)?.as_mut()?;
        let result = change(block);
        let new = Listed { shelf: block.shelf(), idle: block.idle().len() };
        let old = std::mem::replace(&mut block.listed, new);
        self.stats.idle = self.stats.idle + new.idle - old.idle;
        if old.shelf != new.shelf {
            if let Some(blocks) = self.shelf_mut(old.shelf) {
                blocks.remove(&index);
            }
            if let Some(blocks) = self.shelf_mut(new.shelf) {
                blocks.insert(index);
            }
        }
        Some(result)
    }

    fn shelf(&self, shelf: Shelf) -> Option<&BTreeSet<usize>> {
        match shelf {
            Shelf::Full => None,
            Shelf::Ready => Some(&self.ready),
            Shelf::Holes => Some(&self.holes),
            Shelf::Tables => Some(&self.tables),
            Shelf::Empty => Some(&self.empty),
        }
    }

    fn shelf_mut(&mut self, shelf: Shelf) -> Option<&mut BTreeSet<usize>> {
        match shelf {
            Shelf::Full => None,
            Shelf::Ready => Some(&mut self.ready),
            Shelf::Holes => Some(&mut self.holes),
            Shelf::Tables => Some(&mut self.tables),
            Shelf::Empty => Some(&mut self.empty),
        }
    }
}

/// What is made present with the frames that are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ahead {
    /// Nothing, not even they.
    Nothing,
    /// The whole of a new block; of another one what is taken.
    Block,
}

impl Ahead {
    fn of(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Pages => Ahead::Block,
            Purpose::Tables => Ahead::Nothing,
        }
    }
}
