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

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Mapper;
use crate::addr::{Frame, FrameRun, PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch, Large, Leaf, Owner};
use crate::phys::{BLOCK_FRAMES, Marks};
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
        page && match self {
            Copies::Stay => of_object,
            Copies::StayAndLocked => of_object && !entry.is_locked(),
            Copies::Go => true,
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

impl Changing<'_> {
    /// Whether any memory that shows the object may write it.
    pub(crate) fn may_be_written(&self) -> bool {
        self.0.values().flat_map(Space::maps).any(|map| map.writes == Writes::Perhaps)
    }

    /// Has the entries of these pages forget that they were written, in all spaces; their frames remember it. Once the
    /// batch is flushed, whoever writes one has it noted anew.
    pub(crate) fn clean(&self, pages: &Range<u64>, system: &System, batch: &mut FlushBatch) {
        for space in self.0.values() {
            let table = &space.mapper.table;
            batch.reaches_elsewhere();
            let _still = table.hold_still();
            for part in space.maps().filter_map(|map| map.part_of(pages)) {
                for leaf in table.cursor(part) {
                    clean(&leaf, system, batch);
                }
            }
        }
    }

    /// Makes the entries of pages old, in all spaces. Says of each, in the order of `pages`, which ascend, how many were
    /// accessed; `None` if one keeps it in memory.
    pub(crate) fn age(&self, pages: &[u64], batch: &mut FlushBatch) -> Vec<Option<u32>> {
        let mut ages = vec![Some(0); pages.len()];
        let (Some(&first), Some(&last)) = (pages.first(), pages.last()) else { return ages };
        for space in self.0.values() {
            let table = &space.mapper.table;
            batch.reaches_elsewhere();
            let _still = table.hold_still();
            for map in space.maps() {
                let Some(part) = map.part_of(&(first..last + 1)) else { continue };
                let mut note = |shown: PageRange, accessed: Option<bool>| {
                    let first = map.index_at(shown.start());
                    let of = pages.partition_point(|&page| page < first)
                        ..pages.partition_point(|&page| page < first + shown.pages());
                    for age in &mut ages[of] {
                        *age = age.zip(accessed).map(|(all, one)| all + u32::from(one));
                    }
                };
                for leaf in table.cursor(part) {
                    let shown = PageRange::from_len(leaf.addr, PAGE_SIZE);
                    let asked = pages.binary_search(&map.index_at(leaf.addr)).is_ok();
                    if let Some(shown) = shown.filter(|_| asked) {
                        note(shown, age(leaf.slot, batch));
                    }
                }
                for large in table.large_in(part) {
                    let accessed = age(large.slot, batch);
                    let shown = large.range().and_then(|span| span.intersect(part));
                    shown.into_iter().for_each(|shown| note(shown, accessed));
                }
            }
        }
        ages
    }

    /// Empties the entries of these pages, in all spaces; the batch is to be flushed by the caller. The
    /// object must not find the pages any more.
    ///
    /// A parent's entries go before its child's: a fork that is under way copies them before, and then they
    /// are found in the child, or not at all.
    pub(crate) fn zap(
        &self,
        pages: &Range<u64>,
        copies: Copies,
        system: &System,
        batch: &mut FlushBatch,
    ) {
        for space in self.0.values() {
            let mut parts = space.maps().filter_map(|map| map.part_of(pages)).peekable();
            if parts.peek().is_none() {
                continue;
            }
            let table = &space.mapper.table;
            batch.reaches_elsewhere();
            // One space's at a time.
            let _still = table.hold_still();
            for part in parts {
                system.invalidate(part, Invalidation::Clear, || {
                    for leaf in table.cursor(part) {
                        space.empty(&leaf, |entry| copies.take(entry), system, batch);
                    }
                    for large in table.large_in(part).filter(|large| copies.take(large.entry)) {
                        space.empty_large(&large, system, batch);
                    }
                });
            }
        }
    }
}

impl Changing<'_> {
    /// Empties the entries that name a frame as this page of the object, in all spaces, and tells of each: the space's
    /// number, the address, the entry as it was. The batch is to be flushed by the caller.
    pub(crate) fn take_out(
        &self,
        page: u64,
        frame: Frame,
        system: &System,
        batch: &mut FlushBatch,
        mut tell: impl FnMut(u64, VirtAddr, Entry),
    ) {
        let goes = |entry: Entry| entry.frame() == Some(frame) && entry.owner() == Owner::Backing;
        batch.reaches_elsewhere();
        for (&number, space) in &*self.0 {
            let table = &space.mapper.table;
            // One space's at a time.
            let _still = table.hold_still();
            for part in space.maps().filter_map(|map| map.part_of(&(page..page + 1))) {
                system.invalidate(part, Invalidation::Clear, || {
                    for leaf in table.cursor(part) {
                        if let Some(entry) = space.empty(&leaf, goes, system, batch) {
                            tell(number, leaf.addr, entry);
                        }
                    }
                    // Who has it together with others comes for it again.
                    for large in table.large_in(part) {
                        space.empty_large(&large, system, batch);
                    }
                });
            }
        }
    }

    /// Has the tables that hold nothing, and would be about these pages, not count as tables any more
    /// ([`PageTable::vacate`](crate::paging::PageTable::vacate)), in all spaces (`retract_page_tables`).
    pub(crate) fn vacate(&self, pages: &Range<u64>) {
        for space in self.0.values() {
            let table = &space.mapper.table;
            let _still = table.hold_still();
            let parts = space.maps().filter_map(|map| map.part_of(pages));
            parts.for_each(|part| table.vacate(part));
        }
    }

    /// Empties all entries for a private huge page, which is at this page of the object, but for one space's
    /// (`unmap_ref_private`): it is taken from the others, whose next touch is a `SIGBUS`. The batch is to be
    /// flushed by the caller.
    pub(crate) fn take_from_others(
        &mut self,
        run: FrameRun,
        page: u64,
        number: u64,
        system: &System,
        batch: &mut FlushBatch,
    ) {
        for (_, space) in self.0.iter_mut().filter(|(other, _)| **other != number) {
            let parts: Vec<PageRange> =
                space.maps().filter_map(|map| map.part_of(&(page..page + run.count))).collect();
            let table = Arc::clone(&space.mapper.table);
            batch.reaches_elsewhere();
            let _still = table.hold_still();
            for part in parts {
                let named = table.large(part.start()).and_then(|large| large.run());
                if named.map(|named| named.start) != Some(run.start) {
                    continue;
                }
                system.invalidate(part, Invalidation::Clear, || {
                    for large in table.large_in(part) {
                        space.empty_large(&large, system, batch);
                    }
                });
                space.taken.insert(part.start());
            }
        }
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
    fn empty_large(&self, large: &Large<'_>, system: &System, batch: &mut FlushBatch) {
        let old = self.mapper.table.take_large(large, batch);
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
        let goes = |raw| goes(Entry::new(raw)).then_some(0);
        let entry = leaf.slot.fetch_update(AcqRel, Acquire, goes).ok().map(Entry::new)?;
        if entry.swap_slot().is_some() {
            batch.note(system.drop_swapped(entry, &self.mapper.counters));
        } else {
            batch.emptied(entry, system.frames());
            self.mapper.counters.resident.remove(PageClass::of(entry, system.frames()));
        }
        Some(entry)
    }
}

/// Has an object's entry forget that it was written. The hardware sets bits meanwhile.
fn clean(leaf: &Leaf<'_>, system: &System, batch: &mut FlushBatch) {
    use std::sync::atomic::Ordering::{AcqRel, Acquire};
    let written = |raw| {
        let entry = Entry::new(raw);
        let of_object = entry.frame().is_some() && entry.owner() == Owner::Backing;
        (of_object && entry.is_dirty()).then(|| entry.clean().raw())
    };
    let Ok(old) = leaf.slot.fetch_update(AcqRel, Acquire, written) else { return };
    if let Some(frame) = Entry::new(old).frame() {
        system.frames().mark(frame, Marks::DIRTY);
        batch.lowered(frame);
    }
}

/// Makes an object's entry old; says whether it was accessed. `None` if its page must stay in memory.
fn age(slot: &AtomicU64, batch: &mut FlushBatch) -> Option<bool> {
    use std::sync::atomic::Ordering::{AcqRel, Acquire};
    let of_object = |entry: Entry| entry.frame().is_some() && entry.owner() == Owner::Backing;
    let young = |raw| {
        let entry = Entry::new(raw);
        let is_young = of_object(entry) && entry.is_young() && !entry.is_locked();
        is_young.then(|| entry.aged().raw())
    };
    match slot.fetch_update(AcqRel, Acquire, young) {
        Ok(old) => {
            let old = Entry::new(old);
            match old.large_run() {
                Some(run) => batch.lowered_run(run),
                None => old.frame().into_iter().for_each(|frame| batch.lowered(frame)),
            }
            Some(true)
        }
        Err(raw) => {
            let stays = of_object(Entry::new(raw)) && Entry::new(raw).is_locked();
            (!stays).then_some(false)
        }
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
