//! Where in one address space pages may be, by their index: a set of ranges of addresses.
//!
//! How far a page's address lies from its index is its shift. Memory that has not been moved has one shift,
//! however often it was cut; each `mremap` to elsewhere makes one more. Ranges of one shift do not overlap,
//! so of each shift one at most has the page, and one search finds it: an interval tree is not needed.
//!
//! ```text
//!   index      4 5 6 7 8 9
//!   shift 0    [···]   [·]         mapped at 4 .. 7 and 8 .. 10, a hole was cut
//!   shift 16       [·]             page 7 was moved to 23          page 7: looked for in both
//! ```

use std::collections::BTreeMap;

/// An index is below 2^63 ([`ReverseOwner`](crate::phys::ReverseOwner)); sums wrap there.
const INDEX: u64 = (1 << 63) - 1;

/// Adjoining pages. All in pages of 4 KiB, addresses too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// The first address.
    pub(crate) start: u64,
    /// The address after the last.
    pub(crate) end: u64,
    /// What is to be added to an index for the address.
    pub(crate) shift: u64,
}

/// A set of pieces. Those that adjoin and have the same shift are one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ranges {
    /// Almost always.
    One(Piece),
    /// By shift and start: the end. None or several.
    Many(BTreeMap<(u64, u64), u64>),
}

impl Piece {
    /// The addresses from page `start` on, of which the first shows the page `first`.
    pub(crate) fn new(start: u64, pages: u64, first: u64) -> Self {
        Piece { start, end: start + pages, shift: start.wrapping_sub(first) & INDEX }
    }

    /// How many pages.
    pub(crate) fn pages(self) -> u64 {
        self.end - self.start
    }

    pub(crate) fn covers(self, other: Piece) -> bool {
        self.shift == other.shift && self.start <= other.start && other.end <= self.end
    }

    /// Both as one, if nothing is between them.
    fn joined(self, other: Piece) -> Option<Piece> {
        let meet = self.start <= other.end && other.start <= self.end;
        (self.shift == other.shift && meet).then(|| Piece {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
            shift: self.shift,
        })
    }

    /// Where the page is shown, if it is.
    fn find(self, index: u64) -> Option<u64> {
        let page = index.wrapping_add(self.shift) & INDEX;
        (self.start..self.end).contains(&page).then_some(page)
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges::Many(BTreeMap::new())
    }
}

impl Ranges {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Ranges::Many(many) if many.is_empty())
    }

    /// Whether all of the piece is in the set.
    pub(super) fn covers(&self, piece: Piece) -> bool {
        match self {
            Ranges::One(one) => one.covers(piece),
            Ranges::Many(many) => {
                last(many, piece.shift, piece.start).is_some_and(|found| found.covers(piece))
            }
        }
    }

    /// Puts a piece in; what of it was there already stays.
    pub(super) fn add(&mut self, mut piece: Piece) {
        if let Ranges::One(one) = self
            && let Some(both) = one.joined(piece)
        {
            *one = both;
            return;
        }
        self.edit(|many| {
            while let Some(met) = last(many, piece.shift, piece.end)
                && let Some(both) = met.joined(piece)
            {
                many.remove(&(met.shift, met.start));
                piece = both;
            }
            many.insert((piece.shift, piece.start), piece.end);
        });
    }

    /// Takes a piece out; what of it was not there stays so.
    pub(super) fn remove(&mut self, piece: Piece) {
        self.edit(|many| {
            while let Some(met) = last(many, piece.shift, piece.end.saturating_sub(1))
                && met.end > piece.start
            {
                many.remove(&(met.shift, met.start));
                if met.end > piece.end {
                    many.insert((met.shift, piece.end), met.end);
                }
                if met.start < piece.start {
                    many.insert((met.shift, met.start), piece.start);
                }
            }
        });
    }

    /// Every address where the page of this index may be.
    pub(super) fn find(&self, index: u64) -> impl Iterator<Item = u64> {
        let (one, many) = match self {
            Ranges::One(one) => (one.find(index), None),
            Ranges::Many(many) => (None, Some(many)),
        };
        let shifts = many.into_iter().flat_map(shifts);
        let each = shifts.filter_map(move |(many, shift)| {
            last(many, shift, index.wrapping_add(shift) & INDEX)?.find(index)
        });
        one.into_iter().chain(each)
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        match self {
            Ranges::One(one) => vec![*one],
            Ranges::Many(many) => many.iter().map(piece).collect(),
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut BTreeMap<(u64, u64), u64>)) {
        let mut many = match std::mem::take(self) {
            Ranges::One(one) => BTreeMap::from([((one.shift, one.start), one.end)]),
            Ranges::Many(many) => many,
        };
        edit(&mut many);
        *self = match many.iter().next().map(piece) {
            Some(one) if many.len() == 1 => Ranges::One(one),
            _ => Ranges::Many(many),
        };
    }
}

fn piece((&(shift, start), &end): (&(u64, u64), &u64)) -> Piece {
    Piece { start, end, shift }
}

/// The piece of this shift that begins last, at `page` or below.
fn last(many: &BTreeMap<(u64, u64), u64>, shift: u64, page: u64) -> Option<Piece> {
    many.range((shift, 0)..=(shift, page)).next_back().map(piece)
}

/// The shifts that there are, each once.
fn shifts(
    many: &BTreeMap<(u64, u64), u64>,
) -> impl Iterator<Item = (&BTreeMap<(u64, u64), u64>, u64)> {
    // A shift is below 2^63, so there is a next one.
    let from = |shift: u64| many.range((shift, 0)..).next().map(|(&(shift, _), _)| shift);
    std::iter::successors(from(0), move |&shift| from(shift + 1)).map(move |shift| (many, shift))
}
