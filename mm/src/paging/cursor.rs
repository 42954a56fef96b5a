//! A cursor over the leaf entries of a range.
//!
//! Protocol: the cursor goes upwards, once. It skips holes a whole table at a time, at whatever level
//! the hole is. It holds no lock: the caller holds the address space's, exclusively where it removes
//! or lowers entries, shared where it only looks. An entry may gain accessed and dirty bits between
//! two looks, so it is changed by [`AtomicU64::swap`] or compare-and-exchange, never by a store.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::Entry;
use super::table::{PageTable, entry_span, index};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::phys::Words;

/// A leaf entry found by a [`Cursor`].
#[derive(Debug)]
pub struct Leaf<'a> {
    /// The page's first address.
    pub addr: VirtAddr,
    /// Where the entry is.
    pub slot: &'a AtomicU64,
    /// The entry as it was found.
    pub entry: Entry,
}

/// Walks the non-empty leaf entries of a range, upwards.
#[derive(Debug)]
pub struct Cursor<'a> {
    table: &'a PageTable,
    at: u64,
    end: u64,
    /// The last-level table that `at` lies in, once it was found.
    words: Option<&'a Words>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(table: &'a PageTable, range: PageRange) -> Self {
        Cursor { table, at: range.start().get(), end: range.end().get(), words: None }
    }

    /// Finds the table for `at`, or moves `at` past the hole it lies in.
    fn descend(&mut self) -> Option<&'a Words> {
        let addr = VirtAddr::new(self.at);
        let mut frame = self.table.root();
        for level in (2..=4).rev() {
            match self.table.child(frame, index(addr, level)) {
                Some(child) => frame = child,
                None => {
                    let span = entry_span(level);
                    self.at = (self.at & !(span - 1)) + span;
                    return None;
                }
            }
        }
        Some(self.table.memory().words(frame))
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = Leaf<'a>;

    fn next(&mut self) -> Option<Leaf<'a>> {
        while self.at < self.end {
            let words = match self.words {
                Some(words) => words,
                None => match self.descend() {
                    Some(words) => words,
                    None => continue,
                },
            };
            let addr = VirtAddr::new(self.at);
            let at = index(addr, 1);
            self.at += PAGE_SIZE;
            self.words = (at != 511).then_some(words);
            let slot = &words[at];
            let entry = Entry::new(slot.load(Ordering::Acquire));
            if !entry.is_empty() {
                return Some(Leaf { addr, slot, entry });
            }
        }
        None
    }
}
