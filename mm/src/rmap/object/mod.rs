//! Where the pages of an object are mapped (Linux's `i_mmap` of an inode, with its `i_mmap_rwsem` and
//! `invalidate_lock`).
//!
//! What is noted is which addresses of which space show which pages, and not VMAs: neither a cut nor a merge
//! changes it, nor any call that leaves memory where it is. Adjoining ranges are one.
//!
//! ```text
//!   mmap, a target of mremap, fork's child     add
//!   munmap, a source of mremap, exit           remove
//!   a fault, the host's own access             hold, shared: from the look for the page to the entry, or
//!                                              to the last byte
//!   ftruncate, MADV_REMOVE                     change, exclusive: the pages go, then the entries go
//!   swapping out                               change, exclusive: the entries go, then the pages go
//! ```
//!
//! So no fault can bring back what is going, and nobody sees a page that the object has given up. Pages
//! are looked for in all ranges, one after the other: it costs some 10 ns for each, against a flush; an
//! interval tree is for the day when single pages are looked for.

mod changing;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Mapper;
use crate::addr::{Frame, PAGE_SHIFT, PageRange, VirtAddr};
use crate::paging::{Entry, FlushBatch, Large, Leaf, Owner};
use crate::phys::BLOCK_FRAMES;
use crate::space::PageClass;
use crate::system::System;
use crate::vma::VmFlags;

/// Whether private copies of an object's pages go with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// They stay: `MADV_REMOVE` (Linux's `unmap_mapping_range` without `even_cows`).
    Stay,
    /// They stay, and so do entries whose page must stay in memory: it is swapped out.
    StayAndLocked,
    /// They go: the object has become shorter.
    Go,
}

impl Copies {
    /// Whether an entry that shows a page of the object, or a copy of one, goes with it.
    fn take(self, entry: Entry) -> bool {
        let page = entry.frame().is_some() || entry.swap_slot().is_some();
        // Private huge pages of the pool go, too.
        let of_object = entry.owner() == Owner::Backing || entry.is_pooled();
        match self {
            Copies::Stay => page && of_object,
            Copies::StayAndLocked => page && of_object && !entry.is_locked(),
            // And what was said to be lost.
            Copies::Go => page || entry.is_poison(),
        }
    }
}

/// Whether memory that shows an object may ever write it: what a seal against writing has to know (Linux's
/// `i_mmap_writable`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writes {
    /// It is private, or was opened for reading.
    Never,
    /// It is shared, and may be made writable if it is not.
    Perhaps,
}

impl Writes {
    /// As a VMA's flags have it.
    pub(crate) fn of(flags: VmFlags) -> Self {
        let shared = flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE);
        if shared { Writes::Perhaps } else { Writes::Never }
    }
}

/// Where the pages of an object are mapped.
#[derive(Debug, Default)]
pub struct ObjectMaps(RwLock<Maps>);

/// By the space's number.
type Maps = BTreeMap<u64, Space>;

/// What one space shows of the object.
#[derive(Debug)]
struct Space {
    mapper: Mapper,
    /// By the first address. No two overlap.
    ranges: BTreeMap<VirtAddr, Shown>,
    /// Where huge pages of the pool were taken from it, so that the process which was promised them could go on.
    taken: BTreeSet<VirtAddr>,
}

/// What a range shows, in 16 bytes: there is one for most VMAs.
#[derive(Clone, Copy, Debug)]
struct Shown {
    end: VirtAddr,
    /// The page that the first address shows; the highest bit is [`Writes`].
    first: u64,
}

impl Shown {
    /// No page has so high a number.
    const WRITES: u64 = 1 << 63;

    fn new(map: Map) -> Self {
        let writes = if map.writes == Writes::Perhaps { Self::WRITES } else { 0 };
        Shown { end: map.range.end(), first: map.first & !Self::WRITES | writes }
    }

    fn from(self, start: VirtAddr) -> Option<Map> {
        let writes = if self.first & Self::WRITES == 0 { Writes::Never } else { Writes::Perhaps };
        let range = PageRange::new(start, self.end)?;
        Some(Map { range, first: self.first & !Self::WRITES, writes })
    }
}

/// Addresses that show pages of the object.
#[derive(Clone, Copy, Debug)]
struct Map {
    range: PageRange,
    /// The page that the first address shows.
    first: u64,
    writes: Writes,
}

/// While it is there, no page of the object is taken away.
#[derive(Debug)]
pub struct Held<'a>(RwLockReadGuard<'a, Maps>);

/// The right to take pages away: nobody brings in any meanwhile.
#[derive(Debug)]
pub(crate) struct Changing<'a>(RwLockWriteGuard<'a, Maps>);

impl ObjectMaps {
    /// Keeps the object's pages and the entries that name them. Under the lock of the space, and not twice.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for those who hold the object, and keeps others out. No space's lock may be taken meanwhile.
    pub(crate) fn change(&self) -> Changing<'_> {
        Changing(self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a space shows the pages from `first` on. Before there can be entries.
    pub(crate) fn add(&self, mapper: &Mapper, range: PageRange, first: u64, writes: Writes) {
        let maps = &mut self.change().0;
        let fresh =
            || Space { mapper: mapper.clone(), ranges: BTreeMap::new(), taken: BTreeSet::new() };
        maps.entry(mapper.number).or_insert_with(fresh).add(Map { range, first, writes });
    }

    /// Notes that a space shows nothing there any more. The entries are gone. Says whether it is shown elsewhere.
    pub(crate) fn remove(&self, number: u64, range: PageRange) -> bool {
        let maps = &mut self.change().0;
        if let Some(space) = maps.get_mut(&number) {
            space.remove(range);
            if space.ranges.is_empty() {
                maps.remove(&number);
            }
        }
        !maps.is_empty()
    }

    /// What was taken from a space at these addresses was taken at others, which are as many: they have moved.
    pub(crate) fn move_taken(&self, number: u64, old: PageRange, to: VirtAddr) {
        let maps = &mut self.change().0;
        if let Some(space) = maps.get_mut(&number) {
            let moved: Vec<VirtAddr> = space.taken_in(old).collect();
            for addr in moved {
                space.taken.remove(&addr);
                space.taken.insert(to.offset(addr.bytes_from(old.start())));
            }
        }
    }

    /// The ranges of one space, with the page that each begins with: for the audit.
    pub(crate) fn of_space(&self, number: u64) -> Vec<(PageRange, u64)> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let own = maps.get(&number).into_iter().flat_map(Space::maps);
        own.map(|map| (map.range, map.first)).collect()
    }
}

impl Held<'_> {
    /// Whether a huge page was taken from a space at any of these addresses.
    pub(crate) fn was_taken(&self, number: u64, range: PageRange) -> bool {
        self.0.get(&number).is_some_and(|space| space.taken_in(range).next().is_some())
    }

    /// How many entries name a frame as this page of the object, in all spaces.
    pub(crate) fn entries_of(&self, page: u64, frame: Frame) -> u32 {
        let mut count = 0;
        for space in self.0.values() {
            let table = &space.mapper.table;
            let _still = table.hold_still();
            for part in space.maps().filter_map(|map| map.part_of(&(page..page + 1))) {
                let named = table.cursor(part).filter(|leaf| leaf.entry.frame() == Some(frame));
                count += u32::try_from(named.count()).unwrap_or(u32::MAX);
            }
        }
        count
    }
}

impl Space {
    fn maps(&self) -> impl Iterator<Item = Map> + '_ {
        self.ranges.iter().filter_map(|(&start, shown)| shown.from(start))
    }

    fn insert(&mut self, map: Map) {
        self.ranges.insert(map.range.start(), Shown::new(map));
    }

    /// The range that begins last below `end`.
    fn last_below(&self, end: VirtAddr) -> Option<Map> {
        self.ranges.range(..end).next_back().and_then(|(&start, shown)| shown.from(start))
    }

    fn add(&mut self, mut whole: Map) {
        let (start, end) = (whole.range.start(), whole.range.end());
        if let Some(left) = self.last_below(start)
            && let Some(range) = left.followed_by(&whole)
        {
            self.ranges.remove(&left.range.start());
            whole = Map { range, ..left };
        }
        let right = self.ranges.get(&end).and_then(|shown| shown.from(end));
        if let Some(range) = right.and_then(|right| whole.followed_by(&right)) {
            self.ranges.remove(&end);
            whole.range = range;
        }
        self.insert(whole);
    }

    fn remove(&mut self, range: PageRange) {
        if !self.taken.is_empty() {
            self.taken.retain(|&addr| !range.contains(addr));
        }
        while let Some(map) = self.last_below(range.end()).filter(|map| map.meets(range)) {
            self.ranges.remove(&map.range.start());
            if let Some(right) = PageRange::new(range.end(), map.range.end()) {
                self.insert(Map { range: right, first: map.index_at(right.start()), ..map });
            }
            if let Some(left) = PageRange::new(map.range.start(), range.start()) {
                self.insert(Map { range: left, ..map });
            }
        }
    }

    fn taken_in(&self, range: PageRange) -> impl Iterator<Item = VirtAddr> + '_ {
        self.taken.range(range.start()..range.end()).copied()
    }

    /// Empties the entry of a huge page of the pool, or of a part of one.
    fn empty_large(
        &self,
        large: &Large<'_>,
        goes: impl Fn(Entry) -> bool,
        system: &System,
        batch: &mut FlushBatch,
    ) {
        let old = self.mapper.table.take_large(large, goes, batch);
        let class = PageClass::of(old, system.frames());
        self.mapper.counters.resident.remove_pages(class, BLOCK_FRAMES);
    }

    /// Empties an entry that `goes`, whatever becomes of it meanwhile: its space's faults and calls go on. Returns it if
    /// it did.
    fn empty(
        &self,
        leaf: &Leaf<'_>,
        goes: impl Fn(Entry) -> bool,
        system: &System,
        batch: &mut FlushBatch,
    ) -> Option<Entry> {
        use std::sync::atomic::Ordering::{AcqRel, Acquire};
        let goes = |raw| {
            let entry = Entry::new(raw);
            goes(entry).then_some(entry.left_behind().raw())
        };
        let entry = leaf.slot.fetch_update(AcqRel, Acquire, goes).ok().map(Entry::new)?;
        if entry.swap_slot().is_some() {
            batch.note(system.drop_swapped(entry, &self.mapper.counters));
        } else if entry.frame().is_some() {
            batch.emptied(entry, system.frames());
            self.mapper.counters.resident.remove(PageClass::of(entry, system.frames()));
        }
        Some(entry)
    }
}

impl Map {
    fn meets(&self, range: PageRange) -> bool {
        self.range.intersect(range).is_some()
    }

    /// The page that an address in the range shows.
    fn index_at(&self, addr: VirtAddr) -> u64 {
        self.first.wrapping_add(addr.bytes_from(self.range.start()) >> PAGE_SHIFT)
    }

    /// Both ranges as one, if `next` goes on where this one ends, in memory and in the object, alike.
    fn followed_by(&self, next: &Map) -> Option<PageRange> {
        let follows = self.range.end() == next.range.start()
            && self.first.wrapping_add(self.range.pages()) == next.first
            && self.writes == next.writes;
        PageRange::new(self.range.start(), next.range.end()).filter(|_| follows)
    }

    /// Where these pages are shown.
    fn part_of(&self, pages: &Range<u64>) -> Option<PageRange> {
        let end = self.first.saturating_add(self.range.pages());
        let (from, to) = (pages.start.max(self.first), pages.end.min(end));
        let at = |index: u64| self.range.start().offset((index - self.first) << PAGE_SHIFT);
        if from < to { PageRange::new(at(from), at(to)) } else { None }
    }
}
