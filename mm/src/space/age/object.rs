//! The same advice for folios of shared memory (the rest of `madvise_cold_or_pageout_pte_range`).
//!
//! ```text
//!   another space shows any of it          nothing
//!   not all of it is shown in the range    it is taken apart, and nobody shows any of it
//!   all of it is, by one large entry       MADV_COLD: as if never accessed; MADV_PAGEOUT: nobody shows it
//!   all of it is, by small ones            as pages of their own
//! ```

use std::ops::Range;

use crate::addr::{PAGE_SIZE, PageRange};
use crate::backing::{Folio, SharedMemory};
use crate::error::Broken;
use crate::paging::{Entry, FlushBatch, Large, Owner};
use crate::space::AddressSpace;
use crate::vma::Vma;

/// How a range shows a folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    /// Some pages of it.
    InPart,
    /// All of it, by one large entry.
    Large,
    /// All of it, by small ones.
    Small,
}

/// A folio that is shown in a range.
struct Piece<'a> {
    memory: &'a SharedMemory,
    folio: Folio,
    /// The pages that the range has of it.
    range: PageRange,
    shown: Shown,
}

impl AddressSpace {
    /// `MADV_COLD` of folios. Returns the object's pages that are left alone.
    pub(super) fn cool_objects(
        &self,
        vma: &Vma,
        part: PageRange,
        batch: &mut FlushBatch,
    ) -> Result<Vec<Range<u64>>, Broken> {
        self.follow_advice(vma, part, |piece| {
            if !piece.memory.is_shown_by_others(piece.folio, self.number()) {
                for large in self.large_of_object(piece.range) {
                    large.run().into_iter().for_each(|run| self.cool_one(&large, run, batch));
                }
            }
            Ok(())
        })
    }

    /// `MADV_PAGEOUT` of folios. Returns the object's pages that are left alone; adds to `gone` those that nobody shows
    /// any more.
    pub(super) fn page_out_objects(
        &self,
        vma: &Vma,
        part: PageRange,
        gone: &mut Vec<u64>,
    ) -> Result<Vec<Range<u64>>, Broken> {
        self.follow_advice(vma, part, |Piece { memory, folio, .. }| {
            if memory.unmap_folio(*folio, self.number(), &self.system)? {
                gone.extend(folio.pages());
            }
            Ok(())
        })
    }

    /// Takes apart what is shown in part, and does with what one large entry shows what is to be done.
    fn follow_advice(
        &self,
        vma: &Vma,
        part: PageRange,
        mut with_large: impl FnMut(&Piece<'_>) -> Result<(), Broken>,
    ) -> Result<Vec<Range<u64>>, Broken> {
        let mut left = Vec::new();
        for piece in self.pieces(vma, part) {
            let Piece { memory, folio, shown, .. } = piece;
            match shown {
                Shown::Small => {}
                Shown::Large => with_large(&piece)?,
                Shown::InPart => {
                    if !memory.take_apart(folio, self.number(), &self.system)? {
                        left.push(folio.pages());
                    }
                }
            }
        }
        Ok(left)
    }

    /// The folios of a VMA's object that a part of it shows.
    fn pieces<'a>(&self, vma: &'a Vma, part: PageRange) -> Vec<Piece<'a>> {
        let Some(memory) = vma.backing.as_ref().and_then(|backing| backing.shared_memory()) else {
            return Vec::new();
        };
        let first = vma.page_index(part.start());
        let folios = memory.folios(first..first + part.pages());
        let pieces = folios.into_iter().filter_map(|folio| {
            let pages = folio.pages();
            let start = part.start().offset(pages.start.saturating_sub(first) * PAGE_SIZE);
            let end = pages.end.min(first + part.pages()) - first;
            let range = PageRange::new(start, part.start().offset(end * PAGE_SIZE))?;
            let shown = self.how_shown(range, pages.end - pages.start)?;
            Some(Piece { memory, folio, range, shown })
        });
        pieces.collect()
    }

    /// How a range shows a folio of so many pages, if it shows any of it.
    fn how_shown(&self, range: PageRange, pages: u64) -> Option<Shown> {
        let whole = range.pages() == pages;
        if self.large_of_object(range).next().is_some() {
            return Some(if whole { Shown::Large } else { Shown::InPart });
        }
        let of_object = |entry: Entry| entry.owner() == Owner::Backing && entry.frame().is_some();
        let count = self.table.cursor(range).filter(|leaf| of_object(leaf.entry)).count() as u64;
        match count {
            0 => None,
            _ if count == pages => Some(Shown::Small),
            _ => Some(Shown::InPart),
        }
    }

    fn large_of_object(&self, range: PageRange) -> impl Iterator<Item = Large<'_>> {
        self.table.large_in(range).filter(|large| self.is_of_object(large.entry))
    }
}
