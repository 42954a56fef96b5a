//! What is done to all entries of an object's pages, whosever they are: each space's in turn, with its table held still.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use super::{Changing, Copies, Space, Writes};
use crate::addr::{Frame, FrameRun, PAGE_SIZE, PageRange, VirtAddr};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch, Leaf, Owner};
use crate::phys::Marks;
use crate::system::System;

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

    /// Whether an entry keeps this page in memory, in any space.
    pub(crate) fn keeps(&self, page: u64) -> bool {
        self.0.values().any(|space| {
            let table = &space.mapper.table;
            let _still = table.hold_still();
            let mut parts = space.maps().filter_map(|map| map.part_of(&(page..page + 1)));
            parts.any(|part| {
                let keeps = |entry: Entry| entry.owner() == Owner::Backing && entry.is_locked();
                table.cursor(part).any(|leaf| keeps(leaf.entry))
            })
        })
    }

    /// Whether another space than this one has any of these pages in its table.
    pub(crate) fn are_shown_by_others(&self, number: u64, pages: &Range<u64>) -> bool {
        let shows = |entry: Entry| entry.is_resident() && entry.owner() == Owner::Backing;
        self.0.iter().filter(|&(&other, _)| other != number).any(|(_, space)| {
            let table = &space.mapper.table;
            let _still = table.hold_still();
            space.maps().filter_map(|map| map.part_of(pages)).any(|part| {
                table.cursor(part).any(|leaf| shows(leaf.entry))
                    || table.large_in(part).any(|large| shows(large.entry))
            })
        })
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
                        note(shown, age(leaf.slot, |_| true, batch));
                    }
                }
                for large in table.large_in(part) {
                    let accessed = age(large.slot, Entry::is_large, batch);
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
                    for large in table.large_in(part) {
                        space.empty_large(&large, |entry| copies.take(entry), system, batch);
                    }
                });
            }
        }
    }

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
                        space.empty_large(&large, |_| true, system, batch);
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
                        space.empty_large(&large, |_| true, system, batch);
                    }
                });
                space.taken.insert(part.start());
            }
        }
    }
}

/// Has an object's entry forget that it was written. The hardware sets bits meanwhile.
fn clean(leaf: &Leaf<'_>, system: &System, batch: &mut FlushBatch) {
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
fn age(slot: &AtomicU64, is: fn(Entry) -> bool, batch: &mut FlushBatch) -> Option<bool> {
    let of_object =
        |entry: Entry| entry.frame().is_some() && entry.owner() == Owner::Backing && is(entry);
    let young = |raw| {
        let entry = Entry::new(raw);
        let is_young = of_object(entry) && entry.is_referenced() && !entry.is_locked();
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
