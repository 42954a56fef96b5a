//! Walks over the spans in order, from both ends. Leaves are linked, so a step is a step in an array.

use std::fmt;
use std::iter::FusedIterator;

use super::{Span, Spot, Tree};
use crate::addr::{PageRange, VirtAddr};

/// The highest address: below no span's end.
const HIGHEST: VirtAddr = VirtAddr::new(u64::MAX);

/// The spans that overlap a window of addresses, in ascending order: what [`Tree::iter`] and its
/// kin return.
///
/// What is still to come is the window between the two ends, which close in on each other:
///
/// ```text
///      ████   ██████     ███     ████████   ██
///                   low ├──────────────────┤ high
///                        └ front           └ back, found when it is first asked for
/// ```
pub struct Iter<'a, V> {
    tree: &'a Tree<V>,
    low: VirtAddr,
    high: VirtAddr,
    front: Option<Spot<'a>>,
    back: Back<'a>,
}

/// Where the walk from the upper end stands.
#[derive(Clone, Copy)]
enum Back<'a> {
    /// Not looked for: most walks only go up.
    Unknown,
    /// At the next span to come from there.
    At(Option<Spot<'a>>),
}

impl<V: Span> Tree<V> {
    /// All spans.
    pub fn iter(&self) -> Iter<'_, V> {
        self.between(VirtAddr::ZERO, HIGHEST)
    }

    /// The spans that share an address with `range`: Linux's `for_each_vma_range`.
    pub fn range(&self, range: PageRange) -> Iter<'_, V> {
        self.between(range.start(), range.end())
    }

    /// The spans whose end is above `addr`; the first is what [`find`](Self::find) finds.
    pub fn iter_from(&self, addr: VirtAddr) -> Iter<'_, V> {
        self.between(addr, HIGHEST)
    }

    fn between(&self, low: VirtAddr, high: VirtAddr) -> Iter<'_, V> {
        Iter { tree: self, low, high, front: self.locate(low), back: Back::Unknown }
    }
}

impl<'a, V: Span> Iterator for Iter<'a, V> {
    type Item = &'a V;

    fn next(&mut self) -> Option<&'a V> {
        let spot = self.front.filter(|&spot| spot.start() < self.high)?;
        self.low = spot.end();
        self.front = self.tree.after(spot);
        self.tree.value(spot)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.tree.len()))
    }
}

impl<'a, V: Span> DoubleEndedIterator for Iter<'a, V> {
    fn next_back(&mut self) -> Option<&'a V> {
        let at = match self.back {
            Back::At(at) => at,
            Back::Unknown => self.last_starting_below_high(),
        };
        self.back = Back::At(at);
        let spot = at.filter(|&spot| spot.end() > self.low)?;
        self.high = spot.start();
        self.back = Back::At(self.tree.before(spot));
        self.tree.value(spot)
    }
}

impl<V: Span> FusedIterator for Iter<'_, V> {}

impl<'a, V: Span> Iter<'a, V> {
    fn last_starting_below_high(&self) -> Option<Spot<'a>> {
        let tree = self.tree;
        match tree.locate(self.high) {
            Some(spot) if spot.start() < self.high => Some(spot),
            Some(spot) => tree.before(spot),
            None => tree.locate(VirtAddr::new(tree.highest_end().get().checked_sub(1)?)),
        }
    }
}

impl<V> Clone for Iter<'_, V> {
    fn clone(&self) -> Self {
        Iter { ..*self }
    }
}

impl<V: Span + fmt::Debug> fmt::Debug for Iter<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a, V: Span> IntoIterator for &'a Tree<V> {
    type Item = &'a V;
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}
