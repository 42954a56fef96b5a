//! The search for free space: Linux's `mas_empty_area` and `mas_empty_area_rev`.
//!
//! A child whose widest gap is too narrow is passed over. One that has a wide enough gap inside the
//! limits ends the search for sure; only the two children that the limits cut can disappoint, because
//! their gap may lie, or reach, outside. So at most two paths are followed down, whatever the size.
//!
//! ```text
//!     children      │  a  │  b  │  c  │  d  │  e  │  f  │      highest_gap looks at e, d, c, b
//!                          ├─────────────────┤
//!                         low               high
//! ```

use super::node::Leaf;
use super::{Span, Tree};
use crate::addr::{VirtAddr, page_align};

/// What is looked for: `len` free bytes in `[low, high)`, which is at least that large.
#[derive(Clone, Copy)]
struct Wanted {
    len: u64,
    low: VirtAddr,
    high: VirtAddr,
}

impl Wanted {
    /// With the limits moved inwards to pages and below the end of the user half. `None` if nothing
    /// can fit.
    fn new(len: u64, low: VirtAddr, high: VirtAddr) -> Option<Self> {
        let wanted = Wanted {
            len: page_align(len)?,
            low: low.page_ceil()?,
            high: high.min(VirtAddr::TASK_END).page_floor(),
        };
        (len > 0 && wanted.high.checked_sub(wanted.len)? >= wanted.low).then_some(wanted)
    }

    /// The highest place in the gap.
    fn highest_in(self, floor: VirtAddr, ceiling: VirtAddr) -> Option<VirtAddr> {
        if ceiling.checked_sub(self.len)? < floor {
            return None;
        }
        let addr = ceiling.min(self.high).checked_sub(self.len)?;
        (addr >= floor.max(self.low)).then_some(addr)
    }

    /// The lowest place in the gap.
    fn lowest_in(self, floor: VirtAddr, ceiling: VirtAddr) -> Option<VirtAddr> {
        if ceiling.checked_sub(self.len)? < floor {
            return None;
        }
        let addr = floor.max(self.low);
        (addr.checked_add(self.len)? <= ceiling.min(self.high)).then_some(addr)
    }

    /// Whether gaps that end at or below `ceiling` are all too low.
    fn is_above(self, ceiling: VirtAddr) -> bool {
        ceiling <= self.low
    }

    /// Whether gaps that start at or above `floor` are all too high.
    fn is_below(self, floor: VirtAddr) -> bool {
        floor >= self.high
    }
}

impl<V: Span> Tree<V> {
    /// The highest `a` such that `[a, a + len)` is free and within `[low, high)`; `len` in bytes, a
    /// multiple of the page size. `None` if there is no such place, or `len` is 0. Guard gaps and
    /// alignment are the caller's: it asks for more, or again with another limit.
    ///
    /// Never past [`VirtAddr::TASK_END`]. Unaligned arguments give aligned answers: `len` is rounded
    /// up, the limits inwards.
    #[must_use]
    pub fn highest_gap(&self, len: u64, low: VirtAddr, high: VirtAddr) -> Option<VirtAddr> {
        let wanted = Wanted::new(len, low, high)?;
        if let Some(addr) = wanted.highest_in(self.top, VirtAddr::TASK_END) {
            return Some(addr);
        }
        self.highest_below(self.height, self.root, VirtAddr::ZERO, wanted)
    }

    /// The lowest such place; otherwise as [`highest_gap`](Self::highest_gap).
    #[must_use]
    pub fn lowest_gap(&self, len: u64, low: VirtAddr, high: VirtAddr) -> Option<VirtAddr> {
        let wanted = Wanted::new(len, low, high)?;
        if wanted.low < self.top
            && let Some(addr) = self.lowest_below(self.height, self.root, VirtAddr::ZERO, wanted)
        {
            return Some(addr);
        }
        wanted.lowest_in(self.top, VirtAddr::TASK_END)
    }

    /// The highest place under a node of that level, which is not empty.
    fn highest_below(
        &self,
        level: usize,
        node: u32,
        floor: VirtAddr,
        wanted: Wanted,
    ) -> Option<VirtAddr> {
        if level == 0 {
            return highest_in_leaf(&self.leaves[node], floor, wanted);
        }
        let inner = &self.inners[node];
        let mut rows =
            last_row_reaching(inner.last_end(), inner.len(), wanted, |addr| inner.seek(addr)) + 1;
        while let Some(at) = last_wide(&inner.gaps()[..rows], wanted.len) {
            if wanted.is_above(inner.end(at)) {
                return None;
            }
            let found = self.highest_below(level - 1, inner.to(at), inner.floor(at, floor), wanted);
            if found.is_some() {
                return found;
            }
            rows = at;
        }
        None
    }

    /// The lowest place under a node of that level, whose last span ends above the lower limit.
    fn lowest_below(
        &self,
        level: usize,
        node: u32,
        floor: VirtAddr,
        wanted: Wanted,
    ) -> Option<VirtAddr> {
        if level == 0 {
            return lowest_in_leaf(&self.leaves[node], floor, wanted);
        }
        let inner = &self.inners[node];
        let mut from = inner.seek(wanted.low);
        while let Some(at) = first_wide(inner.gaps(), from, wanted.len) {
            let floor = inner.floor(at, floor);
            if wanted.is_below(floor) {
                return None;
            }
            let found = self.lowest_below(level - 1, inner.to(at), floor, wanted);
            if found.is_some() {
                return found;
            }
            from = at + 1;
        }
        None
    }
}

/// The last row whose gaps can lie below the upper limit: the one that reaches it, or the last.
fn last_row_reaching(
    last_end: VirtAddr,
    len: usize,
    wanted: Wanted,
    seek: impl FnOnce(VirtAddr) -> usize,
) -> usize {
    match wanted.high.checked_sub(1) {
        Some(addr) if addr < last_end => seek(addr),
        _ => len - 1,
    }
}

/// The last of the gaps that is wide enough.
fn last_wide(gaps: &[u64], len: u64) -> Option<usize> {
    let mut chunks = gaps.rchunks_exact(8);
    let mut above = gaps.len();
    for chunk in chunks.by_ref() {
        above -= 8;
        if any_wide(chunk, len) {
            return chunk.iter().rposition(|&gap| gap >= len).map(|at| above + at);
        }
    }
    chunks.remainder().iter().rposition(|&gap| gap >= len)
}

/// The first of the gaps from row `from` on that is wide enough.
fn first_wide(gaps: &[u64], from: usize, len: u64) -> Option<usize> {
    let mut chunks = gaps.get(from..)?.chunks_exact(8);
    let mut below = from;
    for chunk in chunks.by_ref() {
        if any_wide(chunk, len) {
            return chunk.iter().position(|&gap| gap >= len).map(|at| below + at);
        }
        below += 8;
    }
    chunks.remainder().iter().position(|&gap| gap >= len).map(|at| below + at)
}

/// Whether any gap is wide enough. Lengths are below 2^63, so the sign of a difference tells; unlike a
/// comparison of 64-bit numbers, every x86-64 can do that for several at once.
fn any_wide(gaps: &[u64], len: u64) -> bool {
    gaps.iter().fold(u64::MAX, |signs, gap| signs & gap.wrapping_sub(len)) >> 63 == 0
}

fn highest_in_leaf(leaf: &Leaf, floor: VirtAddr, wanted: Wanted) -> Option<VirtAddr> {
    let last = last_row_reaching(leaf.last_end(), leaf.len(), wanted, |addr| leaf.seek(addr));
    // What is before a span that ends at or below the lower limit is too low.
    let first = leaf.seek(wanted.low);
    (first..=last).rev().find_map(|at| wanted.highest_in(leaf.floor(at, floor), leaf.start(at)))
}

fn lowest_in_leaf(leaf: &Leaf, floor: VirtAddr, wanted: Wanted) -> Option<VirtAddr> {
    for at in leaf.seek(wanted.low)..leaf.len() {
        let floor = leaf.floor(at, floor);
        if wanted.is_below(floor) {
            return None;
        }
        let found = wanted.lowest_in(floor, leaf.start(at));
        if found.is_some() {
            return found;
        }
    }
    None
}
