//! Which pages of an object are one piece of memory (Linux's large folios in a page cache): runs of a power of two
//! pages, at multiples of their length. What is in none is a page of its own.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::phys::BLOCK_FRAMES;

/// Pages that are one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folio {
    /// The first of them.
    pub first: u64,
    /// How many, as a power of two.
    pub order: u32,
}

impl Folio {
    /// A page of its own.
    #[must_use]
    pub fn single(page: u64) -> Self {
        Folio { first: page, order: 0 }
    }

    /// Its pages.
    #[must_use]
    pub fn pages(self) -> Range<u64> {
        self.first..self.first + (1 << self.order)
    }

    /// Whether one large entry can map it.
    #[must_use]
    pub fn is_huge(self) -> bool {
        1 << self.order == BLOCK_FRAMES
    }
}

/// The orders of those of more than one page, by their first ones.
#[derive(Debug, Default)]
pub(super) struct Folios(BTreeMap<u64, u32>);

impl Folios {
    /// The one that a page is in.
    pub(super) fn of(&self, page: u64) -> Folio {
        let last = self.0.range(..=page).next_back();
        let last = last.map(|(&first, &order)| Folio { first, order });
        last.filter(|folio| folio.pages().contains(&page)).unwrap_or(Folio::single(page))
    }

    /// Those that pages of a range are in.
    pub(super) fn within(&self, pages: Range<u64>) -> Vec<Folio> {
        let first = self.of(pages.start).first;
        let all = self.0.range(first..pages.end);
        all.map(|(&first, &order)| Folio { first, order }).collect()
    }

    /// These pages are one from now on.
    pub(super) fn join(&mut self, folio: Folio) {
        self.part(folio.pages());
        self.0.insert(folio.first, folio.order);
    }

    /// A page is its own from now on; what is left on both sides stays together in halves, quarters and so on, as
    /// Linux splits it (`folio_split`). Says what it was in, if that was larger.
    pub(super) fn split_at(&mut self, page: u64) -> Option<Folio> {
        let old = self.of(page);
        self.0.remove(&old.first)?;
        let (mut first, mut order) = (old.first, old.order);
        while order > 0 {
            order -= 1;
            let middle = first + (1 << order);
            let other = if page < middle { middle } else { std::mem::replace(&mut first, middle) };
            if order > 0 {
                self.0.insert(other, order);
            }
        }
        Some(old)
    }

    /// Pages are in none any more, nor is what was together with them.
    pub(super) fn part(&mut self, pages: Range<u64>) {
        let first = self.of(pages.start).first;
        while let Some((&gone, _)) = self.0.range(first..pages.end).next() {
            self.0.remove(&gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(folios: &Folios) -> Vec<(u64, u32)> {
        folios.0.iter().map(|(&first, &order)| (first, order)).collect()
    }

    #[test]
    fn a_page_that_is_split_off_leaves_halves() {
        let mut folios = Folios::default();
        folios.join(Folio { first: 16, order: 4 });
        assert_eq!(folios.split_at(21), Some(Folio { first: 16, order: 4 }));
        assert_eq!(all(&folios), [(16, 2), (22, 1), (24, 3)]);
        assert_eq!(folios.of(20), Folio::single(20));
        assert_eq!(folios.of(31), Folio { first: 24, order: 3 });
        assert_eq!(folios.split_at(21), None);
    }

    #[test]
    fn what_is_parted_is_parted_whole() {
        let mut folios = Folios::default();
        folios.join(Folio { first: 0, order: 2 });
        folios.join(Folio { first: 4, order: 2 });
        folios.join(Folio { first: 8, order: 2 });
        folios.part(5..6);
        assert_eq!(all(&folios), [(0, 2), (8, 2)]);
        folios.join(Folio { first: 0, order: 4 });
        assert_eq!(all(&folios), [(0, 4)]);
        folios.part(15..u64::MAX);
        assert_eq!(all(&folios), []);
    }
}
