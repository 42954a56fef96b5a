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
//! ```
//!
//! So no fault can bring back what is going, and nobody sees a page that the object has given up. Pages
//! are looked for in all ranges, one after the other: it costs some 10 ns for each, against a flush; an
//! interval tree is for the day when single pages are looked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Mapper;
use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch, Leaf, Owner};
use crate::space::PageClass;
use crate::system::System;

/// Whether private copies of an object's pages go with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// They stay: `MADV_REMOVE` (Linux's `unmap_mapping_range` without `even_cows`).
    Stay,
    /// They go: the object has become shorter.
    Go,
}

/// Where the pages of an object are mapped.
#[derive(Debug, Default)]
pub struct ObjectMaps(RwLock<Maps>);

/// By the space's number and the first address. No two of a space overlap.
type Maps = BTreeMap<(u64, VirtAddr), Map>;

/// Addresses of one space that show pages of the object.
#[derive(Debug)]
struct Map {
    range: PageRange,
    /// The page that the first address shows.
    first: u64,
    mapper: Mapper,
}

/// While it is there, no page of the object is taken away.
#[derive(Debug)]
pub struct Held<'a>(#[expect(dead_code, reason = "only to be dropped")] RwLockReadGuard<'a, Maps>);

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
    pub(crate) fn add(&self, mapper: Mapper, range: PageRange, first: u64) {
        let maps = &mut self.change().0;
        let (number, mut whole) = (mapper.number, Map { range, first, mapper });
        let left = maps.range(..(number, range.start())).next_back();
        if let Some((&key, map)) = left
            && let Some(joined) = map.followed_by(number, &whole)
        {
            (whole.range, whole.first) = (joined, map.first);
            maps.remove(&key);
        }
        if let Some(right) = maps.get(&(number, range.end()))
            && let Some(joined) = whole.followed_by(number, right)
        {
            maps.remove(&(number, range.end()));
            whole.range = joined;
        }
        maps.insert((number, whole.range.start()), whole);
    }

    /// Notes that a space shows nothing there any more. The entries are gone.
    pub(crate) fn remove(&self, number: u64, range: PageRange) {
        let maps = &mut self.change().0;
        let before = maps.range(..(number, range.end())).rev();
        let meets = |key: &(u64, VirtAddr), map: &Map| key.0 == number && map.meets(range);
        let met: Vec<_> =
            before.take_while(|(key, map)| meets(key, map)).map(|(&key, _)| key).collect();
        for map in met.iter().filter_map(|key| maps.remove(key)).collect::<Vec<_>>() {
            let (start, end) = (map.range.start(), map.range.end());
            let rest = [PageRange::new(start, range.start()), PageRange::new(range.end(), end)];
            for range in rest.into_iter().flatten() {
                let first = map.index_at(range.start());
                maps.insert(
                    (number, range.start()),
                    Map { range, first, mapper: map.mapper.clone() },
                );
            }
        }
    }

    /// The ranges of one space, with the page that each begins with: for the audit.
    pub(crate) fn of_space(&self, number: u64) -> Vec<(PageRange, u64)> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let own = maps.range((number, VirtAddr::ZERO)..=(number, VirtAddr::TASK_END));
        own.map(|(_, map)| (map.range, map.first)).collect()
    }
}

impl Changing<'_> {
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
        let mut still: Option<(u64, MutexGuard<'_, ()>)> = None;
        for (&(number, _), map) in &*self.0 {
            let Some(part) = map.part_of(pages) else { continue };
            if still.as_ref().is_none_or(|(of, _)| *of != number) {
                // One at a time.
                drop(still.take());
                still = Some((number, map.mapper.table.hold_still()));
            }
            system.invalidate(part, Invalidation::Clear, || {
                for leaf in map.mapper.table.cursor(part) {
                    map.empty(&leaf, copies, system, batch);
                }
            });
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

    /// Both ranges as one, if `next` goes on where this one ends, in memory and in the object.
    fn followed_by(&self, number: u64, next: &Map) -> Option<PageRange> {
        let follows = self.mapper.number == number
            && self.range.end() == next.range.start()
            && self.first.wrapping_add(self.range.pages()) == next.first;
        PageRange::new(self.range.start(), next.range.end()).filter(|_| follows)
    }

    /// Where these pages are shown.
    fn part_of(&self, pages: &Range<u64>) -> Option<PageRange> {
        let end = self.first.saturating_add(self.range.pages());
        let (from, to) = (pages.start.max(self.first), pages.end.min(end));
        let at = |index: u64| self.range.start().offset((index - self.first) << PAGE_SHIFT);
        if from < to { PageRange::new(at(from), at(to)) } else { None }
    }

    /// Empties an entry, whatever becomes of it meanwhile: its space's faults and calls go on.
    fn empty(&self, leaf: &Leaf<'_>, copies: Copies, system: &System, batch: &mut FlushBatch) {
        use std::sync::atomic::Ordering::{AcqRel, Acquire};
        let goes = |entry: Entry| {
            entry.frame().is_some() && (copies == Copies::Go || entry.owner() == Owner::Backing)
        };
        let gone =
            leaf.slot.fetch_update(AcqRel, Acquire, |raw| goes(Entry::new(raw)).then_some(0));
        if let Ok(raw) = gone {
            let entry = Entry::new(raw);
            batch.emptied(entry, system.frames());
            self.mapper.counters.resident.remove(PageClass::of(entry, system.frames()));
        }
    }
}
