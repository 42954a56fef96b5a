//! Where what the trace has at an address is in our address space.
//!
//! ```text
//!   trace   |--- A ---|-- B --|           |-- C --|
//!                \        \____________        \
//!   ours    |--- A ---|        |-- C --|  |-- B --|
//! ```
//!
//! Ranges that are neighbours in the trace need not be with us, so a call on a range becomes one for
//! each part that is in one piece. The map also says which addresses the trace has explained at all.

use std::collections::BTreeMap;

use crate::addr::page_align;

/// The map of one address space. All addresses are numbers of the trace or of ours, as named.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// Pieces by their first address in the trace; they do not overlap.
    pieces: BTreeMap<u64, Piece>,
    /// Where the heap starts.
    pub(super) heap: Option<Heap>,
    /// Lengths of attached shared-memory segments, by address in the trace.
    pub(super) attached: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The first address past it, in the trace.
    end: u64,
    /// Its first address with us.
    ours: u64,
}

/// Where the heap starts: the break before it has grown, and the first page boundary from there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heap {
    /// The first break, in the trace and with us; the two need not lie alike in their pages.
    first: (u64, u64),
    /// The page boundary, in the trace.
    pub(super) trace: u64,
    /// The page boundary, with us.
    pub(super) ours: u64,
}

/// A part of a range that is in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its first address in the trace.
    pub(super) start: u64,
    /// Its length in bytes.
    pub(super) len: u64,
    /// Where it is with us; none where the trace has not explained it.
    pub(super) ours: Option<u64>,
}

impl Addresses {
    /// What the trace has at `start` is at `ours`; the length is rounded up to pages.
    pub(super) fn map(&mut self, start: u64, len: u64, ours: u64) {
        self.unmap(start, len);
        if let Some(end) = page_align(len).and_then(|len| start.checked_add(len))
            && end > start
        {
            self.pieces.insert(start, Piece { end, ours });
        }
    }

    /// Nothing is there any more; the length is rounded up to pages.
    pub(super) fn unmap(&mut self, start: u64, len: u64) {
        let end = page_align(len).map_or(u64::MAX, |len| start.saturating_add(len));
        if start >= end {
            return;
        }
        let overlapping: Vec<_> = self.overlapping(start, end).collect();
        for (first, piece) in overlapping {
            self.pieces.remove(&first);
            if first < start {
                self.pieces.insert(first, Piece { end: start, ..piece });
            }
            if piece.end > end {
                let ours = piece.ours.wrapping_add(end - first);
                self.pieces.insert(end, Piece { end: piece.end, ours });
            }
        }
    }

    /// The pieces that reach into a range.
    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, Piece)> + '_ {
        let before = self.pieces.range(..start).next_back();
        let before = before.filter(move |(_, piece)| piece.end > start);
        before
            .into_iter()
            .chain(self.pieces.range(start..end))
            .map(|(first, piece)| (*first, *piece))
    }

    /// Where an address is with us.
    pub(super) fn translate(&self, addr: u64) -> Option<u64> {
        let (first, piece) = self.pieces.range(..=addr).next_back()?;
        (addr < piece.end).then(|| piece.ours.wrapping_add(addr - first))
    }

    /// The parts of a range, in order; none of an empty range, or of one that wraps around.
    pub(super) fn parts(&self, start: u64, len: u64) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let Some(end) = start.checked_add(len) else { return parts };
        let mut add = |part: Part| match parts.last_mut() {
            // Neighbours with us as well.
            Some(last)
                if last.ours.map(|ours| ours.wrapping_add(last.len)) == part.ours
                    && last.ours.is_some() =>
            {
                last.len += part.len;
            }
            _ if part.len == 0 => {}
            _ => parts.push(part),
        };
        let mut at = start;
        for (first, piece) in self.overlapping(start, end) {
            let from = first.max(start);
            add(Part { start: at, len: from - at, ours: None });
            at = piece.end.min(end);
            let ours = piece.ours.wrapping_add(from - first);
            add(Part { start: from, len: at - from, ours: Some(ours) });
        }
        add(Part { start: at, len: end - at, ours: None });
        parts
    }

    /// The one place with us of a whole range.
    pub(super) fn whole(&self, start: u64, len: u64) -> Option<u64> {
        match self.parts(start, len)[..] {
            [Part { ours, .. }] => ours,
            [] => self.translate(start),
            _ => None,
        }
    }

    /// The one place with us of a whole range, holes included: what is free in the trace is taken at the
    /// same address, if nothing of ours that the trace knows is there.
    ///
    /// ```text
    ///   trace   |  hole  |-- A --|  hole  |      A is with us where it is in the trace:
    ///   ours    |        |-- A --|        |      so is the range
    /// ```
    pub(super) fn whole_with_holes(&self, start: u64, len: u64) -> Option<u64> {
        let mut parts = self.parts(start, len.max(1)).into_iter().map(|part| {
            let same = || self.is_free(part.start, part.len).then_some(part.start);
            Some(part.ours.or_else(same)?.wrapping_sub(part.start))
        });
        let distance = parts.next()??;
        parts.all(|other| other == Some(distance)).then(|| start.wrapping_add(distance))
    }

    /// Whether nothing of ours that the trace knows is in a range of ours.
    pub(super) fn is_free(&self, ours: u64, len: u64) -> bool {
        let end = ours.saturating_add(len);
        self.pieces.iter().all(|(first, piece)| {
            let piece_end = piece.ours.saturating_add(piece.end - first);
            piece_end <= ours || end <= piece.ours
        })
    }

    /// The heap starts here, as the first brk says.
    pub(super) fn start_heap(&mut self, trace: u64, ours: u64) {
        let ceil = |addr: u64| page_align(addr).unwrap_or(addr);
        self.heap = Some(Heap { first: (trace, ours), trace: ceil(trace), ours: ceil(ours) });
    }
}

impl Heap {
    /// Where a break is with us.
    pub(super) fn translate(self, addr: u64) -> u64 {
        let (first, our_first) = self.first;
        if addr == first {
            our_first
        } else {
            self.ours.wrapping_add(addr.wrapping_sub(self.trace))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, len: u64, ours: Option<u64>) -> Part {
        Part { start, len, ours }
    }

    #[test]
    fn a_range_has_a_part_for_each_piece_and_each_hole() {
        let mut map = Addresses::default();
        map.map(0x1000, 0x2000, 0xa000);
        map.map(0x3000, 0x1000, 0x5000);
        map.map(0x5000, 1, 0x6000);
        assert_eq!(
            map.parts(0x2000, 0x5000),
            [
                part(0x2000, 0x1000, Some(0xb000)),
                part(0x3000, 0x1000, Some(0x5000)),
                part(0x4000, 0x1000, None),
                part(0x5000, 0x1000, Some(0x6000)),
                part(0x6000, 0x1000, None),
            ]
        );
        assert_eq!(map.translate(0x2fff), Some(0xbfff));
        assert_eq!(map.translate(0x4000), None);
        assert!(map.parts(u64::MAX, 2).is_empty());
    }

    #[test]
    fn pieces_that_are_neighbours_on_both_sides_are_one_part() {
        let mut map = Addresses::default();
        map.map(0x1000, 0x1000, 0xa000);
        map.map(0x2000, 0x1000, 0xb000);
        assert_eq!(map.parts(0x1000, 0x2000), [part(0x1000, 0x2000, Some(0xa000))]);
        assert_eq!(map.whole(0x1800, 0x1000), Some(0xa800));
    }

    #[test]
    fn a_range_with_holes_is_in_one_place_if_all_that_is_in_it_is_where_it_was() {
        let mut map = Addresses::default();
        map.map(0x2000, 0x1000, 0x2000);
        map.map(0x5000, 0x1000, 0x9000);
        assert_eq!(map.whole_with_holes(0x1000, 0x3000), Some(0x1000));
        assert_eq!(map.whole_with_holes(0x5800, 0x100), Some(0x9800));
        // A hole beside what is elsewhere; a hole where we have something.
        assert_eq!(map.whole_with_holes(0x4000, 0x2000), None);
        assert_eq!(map.whole_with_holes(0x8000, 0x2000), None);
        assert_eq!(map.whole_with_holes(u64::MAX, 2), None);
    }

    #[test]
    fn a_hole_cut_into_a_piece_leaves_both_ends() {
        let mut map = Addresses::default();
        map.map(0x1000, 0x3000, 0xa000);
        map.unmap(0x2000, 0x1000);
        assert_eq!(map.translate(0x1000), Some(0xa000));
        assert_eq!(map.translate(0x2000), None);
        assert_eq!(map.translate(0x3000), Some(0xc000));
        assert!(!map.is_free(0xc000, 1));
        assert!(map.is_free(0xb000, 0x1000));
        map.unmap(0, u64::MAX);
        assert_eq!(map.translate(0x3000), None);
    }
}
