//! One node: up to `N` rows in two columns, kept by column so that a search reads nothing but keys.
//!
//! ```text
//!              key: end           and index             detail
//!     leaf     a span's end       its value's index     its start
//!     inner    a child's end      the child's index     the child's widest gap
//!              (its last span's)
//! ```
//!
//! Rows past `len` hold [`Key::NEVER`]. So a search needs no length, and no branch that could
//! be mispredicted: it counts the keys that it passes, always the same number of comparisons, none of which
//! waits for another. The first step asks for all lines at once; with `N = 8k - 1` rows, laid out as they
//! are, the second stays in one cache line.
//!
//! ```text
//!     keys   k0 k1 k2 k3 k4 k5 k6 [k7] │ k8 k9 ... k14 [k15] │ ... [k23] │ k24 ... k30
//!                                  └── 1. which of the closing keys are passed? ──┘
//!            2. how many of the seven others in that group?
//! ```

use std::fmt::Debug;

use super::key::Key;
use super::pool::{NIL, Vacant};
use crate::addr::VirtAddr;

/// Spans in a leaf, which is eight cache lines. With 15 there are more levels and with 63 an insertion
/// moves twice as many bytes; neither was faster.
const LEAF_ROWS: usize = 31;
/// Children of an inner node, which is sixteen cache lines: two levels of them at 65,530 spans. With 31
/// gap searches were a little faster, but there are more levels.
const INNER_ROWS: usize = 63;

/// A node of spans: `detail` is the start.
pub(super) type Leaf = Node<VirtAddr, LEAF_ROWS>;
/// A node of nodes: `detail` is the widest gap in bytes.
pub(super) type Inner = Node<u64, INNER_ROWS>;

/// One row of a node, see the module's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row<D> {
    pub(super) end: VirtAddr,
    pub(super) detail: D,
    pub(super) to: u32,
}

/// The columns and, for leaves, the neighbours in address order.
///
/// A group of eight rows is `keys[8k..8k + 8]`: eight bytes into the node, so that its first seven,
/// which a search reads together, share a line with what closes the group before.
#[repr(C, align(64))]
pub(super) struct Node<D, const N: usize> {
    len: u32,
    /// The leaf below, or `NIL`. Inner nodes do not use it.
    pub(super) prev: u32,
    keys: [Key; N],
    detail: [D; N],
    /// The leaf above, or `NIL`. In a vacant node, the free list.
    pub(super) next: u32,
}

impl<D: Copy + Default, const N: usize> Node<D, N> {
    /// The most rows.
    pub(super) const MAX: usize = N;
    /// The fewest rows, except in the root: three eighths.
    pub(super) const MIN: usize = (N + 1) * 3 / 8;
    /// Two siblings that have together no more rows than this become one when either falls below
    /// `MIN`. A quarter of the node stays free, so that an insertion that follows does not split it.
    pub(super) const JOIN: usize = (N + 1) * 3 / 4;

    const SHAPE_IS_SOUND: () = {
        assert!(N % 8 == 7);
        assert!(N / 2 >= Self::MIN, "both halves of a split have enough rows");
        assert!(Self::JOIN.div_ceil(2) >= Self::MIN, "so have siblings that share evenly");
        assert!(2 * Self::MIN - 1 <= Self::JOIN, "and the smallest siblings can join");
    };

    pub(super) fn new() -> Self {
        let () = Self::SHAPE_IS_SOUND;
        Node { len: 0, prev: NIL, keys: [Key::NEVER; N], detail: [D::default(); N], next: NIL }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == N
    }

    /// The first row whose end is above `addr`; `len` or more if there is none. `addr` is of
    /// the user half.
    ///
    /// Counts the ends at or below `addr`: first those that close a group of eight, which says in which
    /// group the row is, then those in that group.
    #[inline]
    pub(super) fn seek(&self, addr: VirtAddr) -> usize {
        self.seek_past(Key::last_at(addr))
    }

    /// The same: the first row whose key is above `last`.
    #[inline]
    pub(super) fn seek_past(&self, last: Key) -> usize {
        let passed = |at: usize| usize::from(self.keys[at] <= last);
        let group = 8 * (0..N / 8).map(|closing| passed(8 * closing + 7)).sum::<usize>();
        group + (0..7).map(|at| passed(group + at)).sum::<usize>()
    }

    /// The same, for who expects it to be row `at`, and looks there first.
    #[inline]
    pub(super) fn seek_from(&self, at: usize, last: Key) -> usize {
        let is_first = at == 0 || self.keys.get(at - 1).is_some_and(|&before| before <= last);
        let is_it = is_first && self.keys.get(at).is_some_and(|&key| key > last);
        if is_it { at } else { self.seek_past(last) }
    }

    pub(super) fn end(&self, at: usize) -> VirtAddr {
        self.keys[at].end()
    }

    pub(super) fn to(&self, at: usize) -> u32 {
        self.keys[at].to()
    }

    /// The end of the last row. The node is not empty.
    pub(super) fn last_end(&self) -> VirtAddr {
        self.keys[self.len() - 1].end()
    }

    /// Whether the last row's key is above `last`. The node is not empty.
    pub(super) fn reaches_past(&self, last: Key) -> bool {
        self.keys[self.len() - 1] > last
    }

    /// Where the gap before row `at` starts: the end of the row before, or `floor`, where this node's
    /// coverage starts.
    pub(super) fn floor(&self, at: usize, floor: VirtAddr) -> VirtAddr {
        if at == 0 { floor } else { self.keys[at - 1].end() }
    }

    /// Whether so many rows more fit.
    pub(super) fn has_room_for(&self, rows: usize) -> bool {
        self.len() + rows <= N
    }

    /// Puts a row behind all others. The node is not full.
    pub(super) fn push(&mut self, row: Row<D>) {
        let at = self.len();
        self.keys[at] = Key::new(row.end, row.to);
        self.detail[at] = row.detail;
        self.set_len(at + 1);
    }

    /// Puts a row before row `at`. The node is not full.
    pub(super) fn insert(&mut self, at: usize, row: Row<D>) {
        self.insert_all(at, [row]);
    }

    /// Puts rows before row `at`. The node has room for them.
    pub(super) fn insert_all<const K: usize>(&mut self, at: usize, rows: [Row<D>; K]) {
        let len = self.len();
        self.move_up(at..len, K);
        for (at, row) in (at..).zip(rows) {
            self.keys[at] = Key::new(row.end, row.to);
            self.detail[at] = row.detail;
        }
        self.set_len(len + K);
    }

    /// Takes row `at` out.
    pub(super) fn remove(&mut self, at: usize) -> Row<D> {
        let row = Row { end: self.end(at), detail: self.detail[at], to: self.to(at) };
        self.remove_all::<1>(at);
        row
    }

    /// Takes `K` rows out, from row `at` on.
    pub(super) fn remove_all<const K: usize>(&mut self, at: usize) {
        let len = self.len();
        self.keys.copy_within(at + K..len, at);
        self.detail.copy_within(at + K..len, at);
        self.keys[len - K..len].fill(Key::NEVER);
        self.set_len(len - K);
    }

    /// Changes a row's key and detail.
    pub(super) fn set(&mut self, at: usize, end: VirtAddr, detail: D) {
        self.keys[at] = Key::new(end, self.to(at));
        self.detail[at] = detail;
    }

    /// Moves rows between two siblings so that `left` has `left_len` of them.
    ///
    /// ```text
    ///     left [a b c d e f g]  right [ ]         left_len = 3:   [a b c] [d e f g]     a split
    ///     left [a b c]          right [d e]       left_len = 5:   [a b c d e] [ ]       a join
    ///     left [a b]            right [c d e f]   left_len = 3:   [a b c] [d e f]       sharing
    /// ```
    pub(super) fn distribute(left: &mut Self, right: &mut Self, left_len: usize) {
        let (l, r) = (left.len(), right.len());
        let right_len = l + r - left_len;
        if left_len < l {
            let moved = l - left_len;
            right.move_up(0..r, moved);
            right.copy_from(0, left, left_len..l);
            left.keys[left_len..l].fill(Key::NEVER);
        } else {
            let moved = left_len - l;
            left.copy_from(l, right, 0..moved);
            right.keys.copy_within(moved..r, 0);
            right.detail.copy_within(moved..r, 0);
            right.keys[right_len..r].fill(Key::NEVER);
        }
        left.set_len(left_len);
        right.set_len(right_len);
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is at most N")]
    fn set_len(&mut self, len: usize) {
        self.len = len as u32;
    }

    fn move_up(&mut self, rows: std::ops::Range<usize>, by: usize) {
        let to = rows.start + by;
        self.keys.copy_within(rows.clone(), to);
        self.detail.copy_within(rows, to);
    }

    fn copy_from(&mut self, at: usize, other: &Self, rows: std::ops::Range<usize>) {
        let into = at..at + rows.len();
        self.keys[into.clone()].copy_from_slice(&other.keys[rows.clone()]);
        self.detail[into].copy_from_slice(&other.detail[rows]);
    }

    /// Checks what a node can know of itself.
    pub(super) fn audit(&self) -> Result<(), String> {
        let keys = &self.keys[..self.len()];
        if !keys.is_sorted_by(|a, b| a.end() < b.end()) {
            return Err(format!("keys are out of order: {keys:?}"));
        }
        if self.keys[self.len()..].iter().any(|&key| key != Key::NEVER) {
            return Err(format!("a row past the {}th has a key", self.len()));
        }
        Ok(())
    }
}

impl Leaf {
    pub(super) fn start(&self, at: usize) -> VirtAddr {
        self.detail[at]
    }

    /// The wider of the gaps before and after row `at`, in bytes, as far as they belong to this leaf.
    pub(super) fn wider_beside(&self, at: usize, floor: VirtAddr) -> u64 {
        let before = self.start(at).bytes_from(self.floor(at, floor));
        if at + 1 == self.len() {
            return before;
        }
        before.max(self.start(at + 1).bytes_from(self.end(at)))
    }

    /// The widest of the gaps before each row, in bytes; the first of them starts at `floor`. None is wider than
    /// `most`: the search ends at one that is as wide.
    pub(super) fn widest(&self, floor: VirtAddr, most: u64) -> u64 {
        let len = self.len();
        let (starts, floors) = (&self.detail[1..len], &self.keys[..len - 1]);
        let mut widest = self.start(0).bytes_from(floor);
        for (starts, floors) in starts.chunks(8).zip(floors.chunks(8)) {
            if widest >= most {
                break;
            }
            // Two maxima side by side: with one, each step would wait for the one before.
            let (mut odd, mut even) = (0, widest);
            for (start, floor) in starts.chunks(2).zip(floors.chunks(2)) {
                odd = start[0].bytes_from(floor[0].end()).max(odd);
                if let ([_, start], [_, floor]) = (start, floor) {
                    even = start.bytes_from(floor.end()).max(even);
                }
            }
            widest = odd.max(even);
        }
        widest
    }
}

impl Inner {
    pub(super) fn gap(&self, at: usize) -> u64 {
        self.detail[at]
    }

    /// The children's widest gaps.
    pub(super) fn gaps(&self) -> &[u64] {
        &self.detail[..self.len()]
    }

    /// The widest of all gaps below this node, in bytes.
    pub(super) fn widest(&self) -> u64 {
        self.gaps().iter().copied().fold(0, u64::max)
    }
}

impl<D: Copy + Default, const N: usize> Vacant for Node<D, N> {
    fn vacant(next: u32) -> Self {
        Node { next, ..Node::new() }
    }

    fn next_vacant(&self) -> u32 {
        self.next
    }
}
