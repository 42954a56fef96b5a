//! Walks over the entries of a range.
//!
//! Protocol: a walk goes upwards, once. It skips holes a whole table at a time, at whatever level
//! the hole is. It holds no lock: the caller holds the address space's, exclusively where it removes
//! or lowers entries, shared where it only looks. An entry may gain accessed and dirty bits between
//! two looks, so it is changed by [`AtomicU64::swap`] or compare-and-exchange, never by a store.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::Entry;
use super::large::Large;
use super::table::{Below, PageTable, entry_span, index};
use crate::addr::{PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr};
use crate::phys::Words;

/// A last-level entry found by a [`Cursor`].
#[derive(Debug)]
pub struct Leaf<'a> {
    /// The page's first address.
    pub addr: VirtAddr,
    /// Where the entry is.
    pub slot: &'a AtomicU64,
    /// The entry as it was found.
    pub entry: Entry,
}

/// A page found by a [`Look`].
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The page's first address.
    pub addr: VirtAddr,
    /// Its entry; of one that a large entry maps [`Entry::page_at`].
    pub entry: Entry,
}

/// Walks the non-empty last-level entries of a range, upwards; passes over large ones.
#[derive(Debug)]
pub struct Cursor<'a>(Walk<'a>);

impl<'a> Cursor<'a> {
    pub(super) fn new(table: &'a PageTable, range: PageRange) -> Self {
        Cursor(Walk::new(table, range))
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = Leaf<'a>;

    #[inline]
    fn next(&mut self) -> Option<Leaf<'a>> {
        loop {
            match self.0.next_below()? {
                At::Table(words) => {
                    if let Some(leaf) = self.0.next_leaf(words) {
                        return Some(leaf);
                    }
                }
                At::Large(_) => self.0.pass_table(),
            }
        }
    }
}

/// Walks all pages of a range that there is an entry for, upwards.
#[derive(Debug)]
pub struct Look<'a>(Walk<'a>);

impl<'a> Look<'a> {
    pub(super) fn new(table: &'a PageTable, range: PageRange) -> Self {
        Look(Walk::new(table, range))
    }

    /// The next large entry.
    pub(super) fn next_large(&mut self) -> Option<Large<'a>> {
        loop {
            let below = self.0.next_below()?;
            let addr = VirtAddr::new(self.0.at).table_floor();
            self.0.pass_table();
            if let At::Large(slot) = below {
                let entry = Entry::new(slot.load(Ordering::Acquire));
                return Some(Large { addr, slot, entry });
            }
        }
    }
}

impl Look<'_> {
    /// The next address that a last-level table maps.
    pub(super) fn next_table(&mut self) -> Option<VirtAddr> {
        loop {
            let below = self.0.next_below()?;
            let addr = VirtAddr::new(self.0.at);
            self.0.pass_table();
            if let At::Table(_) = below {
                return Some(addr);
            }
        }
    }
}

impl Iterator for Look<'_> {
    type Item = Seen;

    fn next(&mut self) -> Option<Seen> {
        loop {
            match self.0.next_below()? {
                At::Table(words) => {
                    if let Some(Leaf { addr, entry, .. }) = self.0.next_leaf(words) {
                        return Some(Seen { addr, entry });
                    }
                }
                At::Large(slot) => {
                    let addr = VirtAddr::new(self.0.at);
                    self.0.at += PAGE_SIZE;
                    let entry = Entry::new(slot.load(Ordering::Acquire));
                    return Some(Seen { addr, entry: entry.page_at(addr) });
                }
            }
        }
    }
}

/// Walks the parts of a range that last-level tables and large entries map, upwards.
#[derive(Debug)]
pub struct Linked<'a>(Walk<'a>);

impl<'a> Linked<'a> {
    pub(super) fn new(table: &'a PageTable, range: PageRange) -> Self {
        Linked(Walk::new(table, range))
    }
}

impl Iterator for Linked<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        self.0.next_below()?;
        let start = VirtAddr::new(self.0.at);
        self.0.pass_table();
        PageRange::new(start, VirtAddr::new(self.0.at.min(self.0.end)))
    }
}

/// What a walk has come to.
#[derive(Clone, Copy, Debug)]
enum At<'a> {
    /// A last-level table.
    Table(&'a Words),
    /// A large entry.
    Large(&'a AtomicU64),
}

#[derive(Debug)]
struct Walk<'a> {
    table: &'a PageTable,
    at: u64,
    end: u64,
    /// The last-level table that `at` lies in, once it was found.
    words: Option<&'a Words>,
}

impl<'a> Walk<'a> {
    fn new(table: &'a PageTable, range: PageRange) -> Self {
        Walk { table, at: range.start().get(), end: range.end().get(), words: None }
    }

    /// What `at` lies in, or the next thing after it.
    #[inline]
    fn next_below(&mut self) -> Option<At<'a>> {
        while self.at < self.end {
            if let Some(words) = self.words {
                return Some(At::Table(words));
            }
            if let Some(below) = self.descend() {
                return Some(below);
            }
        }
        None
    }

    /// Finds what `at` lies in, or moves `at` past the hole there.
    fn descend(&mut self) -> Option<At<'a>> {
        let addr = VirtAddr::new(self.at);
        let mut frame = self.table.root();
        for level in [4, 3] {
            match self.table.child(frame, index(addr, level)) {
                Some(child) => frame = child,
                None => {
                    self.pass(entry_span(level));
                    return None;
                }
            }
        }
        let slot = &self.table.memory().words(frame)[index(addr, 2)];
        match self.table.read_link(slot) {
            Below::Table(words) => Some(At::Table(words)),
            Below::Large(_) => Some(At::Large(slot)),
            Below::Nothing | Below::Vacated => {
                self.pass_table();
                None
            }
        }
    }

    fn pass(&mut self, span: u64) {
        self.at = (self.at & !(span - 1)) + span;
        self.words = None;
    }

    fn pass_table(&mut self) {
        self.pass(TABLE_SPAN);
    }

    /// The next entry of this table that is not empty.
    #[inline]
    fn next_leaf(&mut self, words: &'a Words) -> Option<Leaf<'a>> {
        while self.at < self.end {
            let addr = VirtAddr::new(self.at);
            let at = index(addr, 1);
            self.at += PAGE_SIZE;
            self.words = (at != 511).then_some(words);
            let slot = &words[at];
            let entry = Entry::new(slot.load(Ordering::Acquire));
            if !entry.is_empty() {
                return Some(Leaf { addr, slot, entry });
            }
            if at == 511 {
                break;
            }
        }
        None
    }
}
