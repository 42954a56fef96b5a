//! The VMA set: spans of addresses in order, none overlapping, with the free space between them
//! indexed by size. It is to an address space what Linux's maple tree is to `mm_struct`: it answers
//! "which VMA is at this address" and "where is room for this many bytes" in logarithmic time.
//!
//! It is a B+tree. Leaves hold the spans' bounds; the values lie apart, so that a search reads bounds
//! only. A span's key is its **end**: [`find_vma`](Tree::find) is then exactly one descent, to the
//! first key above the address.
//!
//! ```text
//!      inner     ends │  40 │  90 │              one row per child: its last span's end,
//!                gaps │   9 │  20 │              and its widest gap
//!                     ├──┬──┴──┬──┘
//!            ┌───────────┘     └────────┐
//!      leaf  starts │ 5 │ 19 │ 37 │   leaf  starts │ 60 │ 75 │
//!            ends   │10 │ 30 │ 40 │         ends   │ 65 │ 90 │
//!                     │    │    │                    │    │
//!      values        Vma  Vma  Vma                  Vma  Vma
//! ```
//!
//! # Gaps
//!
//! A gap belongs to the span **after** it. A node covers what its spans and their gaps cover: from
//! the end of the span before its first (its *floor*; 0 for the very first) to the end of its last.
//! The coverages of a node's children tile its own; no gap is in two of them, and none is cut.
//!
//! ```text
//!      0    5   10      19  30    37 40         60 65       75    90
//!      ├────█████───────████──────████──────────████────────███████─ ─ ─ open space
//!      └─5──┘   └──9────┘  └──7───┘  └────20────┘  └───10───┘
//!      └────────── first leaf: 9 ───┘└──────── second leaf: 20 ───┘
//! ```
//!
//! So a leaf need not store its gaps (a start minus the end before it), and putting a span into a gap
//! touches one leaf. Taking a leaf's last span, or moving its end, also changes the first gap of the
//! next leaf. The open space past the last span belongs to no node: [`Tree::highest_end`] bounds it.
//!
//! # The last place
//!
//! A call that changes an address space looks at one place many times: what is there, what touches it,
//! then the edits. The way of the last edit is kept (path.rs), and searches in its leaf start there.
//!
//! # Memory
//!
//! Nodes and values lie in arenas (pool.rs). [`Tree::reserve`] takes everything that a number of insertions
//! could need, so that an operation can fail before it has changed anything, and not after. Memory
//! goes back to the allocator with the tree, or with [`Tree::clear`].

mod audit;
mod balance;
mod edit;
mod fill;
mod found;
mod gaps;
mod iter;
mod key;
mod node;
mod path;
mod pool;
mod reserve;
#[cfg(test)]
mod tests;

pub use found::Found;
pub use iter::Iter;
pub use reserve::ReserveError;

use std::fmt;

use crate::addr::{PageRange, VirtAddr};
use key::Key;
use node::{Inner, Leaf};
use path::Path;
use pool::{NIL, Pool, Slot};

/// What a tree can hold: something that occupies a range of addresses.
pub trait Span {
    /// The range, which changes only under [`Tree::update`].
    fn range(&self) -> PageRange;
}

impl Span for PageRange {
    fn range(&self) -> PageRange {
        *self
    }
}

/// A set of spans that do not overlap, in order of their addresses.
pub struct Tree<V> {
    leaves: Pool<Leaf>,
    inners: Pool<Inner>,
    values: Pool<Slot<V>>,
    /// An inner node, or at height 0 a leaf, or `NIL` when there are no spans.
    root: u32,
    /// Levels of inner nodes.
    height: usize,
    /// How many spans.
    len: usize,
    /// The end of the last span; zero without one.
    top: VirtAddr,
    /// The way to where the last change was, or `Path::NONE`.
    path: Path,
    /// A number of spans for which there are inner nodes enough, however few rows each has.
    inners_suffice: usize,
    /// What [`reserve`](Tree::reserve) may not grow beyond, in bytes.
    memory_limit: usize,
}

impl<V: Span> Tree<V> {
    /// A tree without spans. Allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Tree {
            leaves: Pool::new(),
            inners: Pool::new(),
            values: Pool::new(),
            root: NIL,
            height: 0,
            len: 0,
            top: VirtAddr::ZERO,
            path: Path::NONE,
            inners_suffice: 0,
            memory_limit: usize::MAX,
        }
    }

    /// How many spans there are: Linux's `map_count`.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The end of the last span; zero when there are none: Linux's `mm->highest_vm_end`.
    #[must_use]
    pub const fn highest_end(&self) -> VirtAddr {
        self.top
    }

    /// The first span whose end is above `addr`, which may lie below its start: Linux's `find_vma`.
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<&V> {
        self.locate(addr).and_then(|spot| self.value(spot))
    }

    /// Where the span is that [`find`](Self::find) finds, without a look at the span itself: with many
    /// spans, that is one wait for memory less.
    #[must_use]
    pub fn find_range(&self, addr: VirtAddr) -> Option<PageRange> {
        self.locate(addr).and_then(|spot| PageRange::new(spot.start(), spot.end()))
    }

    /// The span that contains `addr`: Linux's `vma_lookup`.
    #[must_use]
    pub fn find_exact(&self, addr: VirtAddr) -> Option<&V> {
        self.locate(addr).filter(|&spot| spot.start() <= addr).and_then(|spot| self.value(spot))
    }

    /// What [`find`](Self::find) finds, and the span before it; the last span when it finds none:
    /// Linux's `find_vma_prev`.
    #[must_use]
    pub fn find_prev(&self, addr: VirtAddr) -> (Option<&V>, Option<&V>) {
        match self.locate(addr) {
            Some(spot) => (self.value(spot), self.before(spot).and_then(|spot| self.value(spot))),
            None => (None, self.last()),
        }
    }

    /// The first span that shares an address with `range`: Linux's `find_vma_intersection`.
    #[must_use]
    pub fn find_intersection(&self, range: PageRange) -> Option<&V> {
        self.locate(range.start())
            .filter(|&spot| spot.start() < range.end())
            .and_then(|spot| self.value(spot))
    }

    /// The last span that ends at or below `start`.
    #[must_use]
    pub fn prev(&self, start: VirtAddr) -> Option<&V> {
        self.find_prev(start).1
    }

    /// The span that ends where `range` starts, and the one that starts where it ends; `range` is free,
    /// or a part of one span. One descent finds both.
    #[must_use]
    pub fn touching(&self, range: PageRange) -> (Option<&V>, Option<&V>) {
        let Some(spot) = self.locate(range.start()) else {
            return (self.last().filter(|_| self.top == range.start()), None);
        };
        let left = self.before(spot).filter(|&spot| spot.end() == range.start());
        let right = if spot.start() <= range.start() { self.after(spot) } else { Some(spot) };
        let right = right.filter(|&spot| spot.start() == range.end());
        (left.and_then(|spot| self.value(spot)), right.and_then(|spot| self.value(spot)))
    }

    /// The span that starts at `start`.
    #[must_use]
    pub fn get(&self, start: VirtAddr) -> Option<&V> {
        self.locate(start).filter(|&spot| spot.start() == start).and_then(|spot| self.value(spot))
    }

    /// The span at the lowest addresses.
    #[must_use]
    pub fn first(&self) -> Option<&V> {
        self.find(VirtAddr::ZERO)
    }

    /// The span at the highest addresses.
    #[must_use]
    pub fn last(&self) -> Option<&V> {
        self.locate(VirtAddr::new(self.top.get().checked_sub(1)?)).and_then(|spot| self.value(spot))
    }

    /// Takes everything out and gives the memory back. A limit set stays.
    pub fn clear(&mut self) {
        *self = Tree { memory_limit: self.memory_limit, ..Tree::new() };
    }

    /// Where the first span is whose end is above `addr`.
    #[inline]
    fn locate(&self, addr: VirtAddr) -> Option<Spot<'_>> {
        if addr >= self.top {
            return None;
        }
        let last = Key::last_at(addr);
        if self.is_on_path(addr) {
            let step = self.path.leaf();
            let leaf = &self.leaves[step.node];
            return Some(Spot { leaf, at: leaf.seek_from(step.at(), last) });
        }
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[node];
            node = inner.to(inner.seek_past(last));
        }
        let leaf = &self.leaves[node];
        Some(Spot { leaf, at: leaf.seek_past(last) })
    }

    fn value(&self, spot: Spot<'_>) -> Option<&V> {
        self.values.get(spot.leaf.to(spot.at)).and_then(Slot::value)
    }

    /// Where the span before that one is.
    fn before<'a>(&'a self, spot: Spot<'a>) -> Option<Spot<'a>> {
        if let Some(at) = spot.at.checked_sub(1) {
            return Some(Spot { at, ..spot });
        }
        let leaf = self.leaves.get(spot.leaf.prev)?;
        Some(Spot { leaf, at: leaf.len() - 1 })
    }

    /// Where the span after that one is.
    fn after<'a>(&'a self, spot: Spot<'a>) -> Option<Spot<'a>> {
        if spot.at + 1 < spot.leaf.len() {
            return Some(Spot { at: spot.at + 1, ..spot });
        }
        self.leaves.get(spot.leaf.next).map(|leaf| Spot { leaf, at: 0 })
    }
}

/// Where a span is: a row of a leaf.
#[derive(Clone, Copy)]
struct Spot<'a> {
    leaf: &'a Leaf,
    at: usize,
}

impl Spot<'_> {
    fn start(self) -> VirtAddr {
        self.leaf.start(self.at)
    }

    fn end(self) -> VirtAddr {
        self.leaf.end(self.at)
    }
}

impl<V: Span> Default for Tree<V> {
    fn default() -> Self {
        Tree::new()
    }
}

impl<V: Span + fmt::Debug> fmt::Debug for Tree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
