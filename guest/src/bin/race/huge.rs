//! A huge page is taken apart and put together again, while one of its pages is written to.
//!
//! ```text
//!   |######## huge page ########|  ── a part goes ──>  |####|        |###W#######|  ── collapse ──>  |##### W ####|
//!            W: written to            beside W, or W itself     (what has gone is zeros)
//! ```

use guest::fault::{self, Answer};
use guest::memory::{self, Move, PAGE, Prot};
use guest::{check, check_eq, must};

use crate::changes::{Change, FAR, HUGE_AT, PAGE_AT, PLACE, Race, number_at};
use crate::pages::{COLLAPSE, DONTNEED, HUGEPAGE, PAGEOUT, advise};
use crate::writer::Word;

/// Bytes and pages of a huge page.
const HUGE: u64 = PAGES * PAGE;
const PAGES: u64 = 512;
/// Pages that have a mark: every so manyth, both neighbours of the one written to, and the last one.
const MARKED: u64 = 16;
/// Where in a page its mark is.
const MARK: u64 = 24;
/// How often the page is made huge, and split, in a round.
const TURNS: u64 = 4;

/// What takes it apart beside the page, or moves it whole. What the page itself suffers is in `CHANGES`.
pub(crate) const SPLITS: [Change; 8] = [
    Race::unmap_beside,
    Race::protect_beside,
    Race::move_beside,
    Race::drop_beside,
    Race::drop_and_unmap,
    Race::page_out_beside,
    Race::move_whole,
    Race::unmap_whole,
];

/// What puts it together.
pub(crate) const COLLAPSES: [Change; 3] =
    [Race::collapse_often, Race::collapse_and_protect, Race::collapse_and_unmap];

/// Some of the huge page's pages.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: u64,
    pages: u64,
}

impl Part {
    const WHOLE: Part = Part { first: 0, pages: PAGES };
    const NONE: Part = Part { first: 0, pages: 0 };

    const fn start(self) -> u64 {
        HUGE_AT + self.first * PAGE
    }

    const fn length(self) -> u64 {
        self.pages * PAGE
    }

    const fn has(self, page: u64) -> bool {
        self.first <= page && page < self.first + self.pages
    }
}

/// The pages that have marks, in order.
fn marked() -> impl Iterator<Item = u64> {
    (0..PAGES).filter(|page| match page {
        &PLACE => false,
        page => page % MARKED == 0 || page.abs_diff(PLACE) == 1 || *page == PAGES - 1,
    })
}

impl Race {
    /// A new huge page, with marks.
    pub(crate) fn map_huge(&mut self) {
        self.pages.map(HUGE_AT, HUGE);
        must!(advise(HUGE_AT, HUGE, HUGEPAGE));
        if self.random.chance(20) {
            // The huge page of zeros first.
            check_eq!(memory::load(HUGE_AT + MARK), 0, "round {}: a new huge page", self.round);
        }
        self.mark();
    }

    fn mark(&self) {
        for page in marked() {
            memory::store(HUGE_AT + page * PAGE + MARK, self.mark_of(page));
        }
    }

    fn mark_of(&self, page: u64) -> u64 {
        self.round << 16 | (page + 1)
    }

    /// All marks are there, but for those of a part.
    fn check_marks(&self, but: Part, what: &str) {
        for page in marked().filter(|&page| !but.has(page)) {
            let found = memory::load(HUGE_AT + page * PAGE + MARK);
            check_eq!(found, self.mark_of(page), "round {}: {what}: page {page}", self.round);
        }
    }

    /// The marks of a part are at a place, or there are zeros.
    fn check_part(&self, at: u64, part: Part, gone: Gone) {
        for page in marked().filter(|&page| part.has(page)) {
            let found = memory::load(at + page * PAGE + MARK);
            let wanted = if gone == Gone::ToZeros { 0 } else { self.mark_of(page) };
            check_eq!(found, wanted, "round {}: page {page} of {part:?}", self.round);
        }
    }

    /// Pages without the one that is written to.
    fn part_beside(&mut self) -> Part {
        let (from, to) = if self.random.chance(50) { (0, PLACE) } else { (PLACE + 1, PAGES) };
        let first = from + self.random.below(to - from);
        Part { first, pages: 1 + self.random.below(to - first) }
    }

    fn unmap_beside(&mut self) {
        let part = self.part_beside();
        self.release(Word::Stays);
        must!(memory::unmap(part.start(), part.length()));
        self.goes_on(part, "munmap beside");
        let first = part.start();
        check_eq!(
            fault::load(first).map_err(|caught| caught.answer()),
            Err(Answer::unmapped(first)),
            "round {}: what was unmapped",
            self.round
        );
    }

    fn protect_beside(&mut self) {
        let part = self.part_beside();
        self.release(Word::Stays);
        must!(memory::protect(part.start(), part.length(), Prot::READ));
        self.goes_on(Part::NONE, "mprotect beside");
        let last = part.start() + part.length() - 8;
        check_eq!(
            fault::store(last, 1).map_err(|caught| caught.answer()),
            Err(Answer::denied(last)),
            "round {}: what was protected",
            self.round
        );
    }

    fn move_beside(&mut self) {
        let part = self.part_beside();
        let to = part.start() + FAR;
        self.release(Word::Stays);
        check_eq!(
            memory::remap(part.start(), part.length(), part.length(), Move::To(to)),
            Ok(to),
            "mremap"
        );
        self.goes_on(part, "mremap beside");
        self.check_part(HUGE_AT + FAR, part, Gone::Away);
        must!(memory::unmap(to, part.length()));
    }

    fn drop_beside(&mut self) {
        let part = self.part_beside();
        self.release(Word::Stays);
        must!(advise(part.start(), part.length(), DONTNEED));
        self.goes_on(part, "MADV_DONTNEED beside");
        self.check_part(HUGE_AT, part, Gone::ToZeros);
    }

    /// The page's new frame, which is nowhere near the others, is taken away too.
    fn drop_and_unmap(&mut self) {
        self.release(Word::MayVanish);
        must!(advise(PAGE_AT, PAGE, DONTNEED));
        self.let_write(self.board.start());
        must!(memory::unmap(PAGE_AT, PAGE));
        let limit = self.board.start();
        self.fill_bait();
        self.faulted(limit, fault::SEGV_MAPERR, "munmap of a page that was dropped");
        self.check_marks(Part { first: PLACE, pages: 1 }, "one dropped and unmapped");
    }

    /// With nowhere to go the pages stay, in small ones.
    fn page_out_beside(&mut self) {
        let part = self.part_beside();
        self.release(Word::Stays);
        must!(advise(part.start(), part.length(), PAGEOUT));
        self.goes_on(Part::NONE, "MADV_PAGEOUT beside");
    }

    fn move_whole(&mut self) {
        let to = HUGE_AT + FAR;
        self.release(Word::Stays);
        check_eq!(memory::remap(HUGE_AT, HUGE, HUGE, Move::To(to)), Ok(to), "mremap");
        let limit = self.board.start();
        let found = number_at(PAGE_AT + FAR);
        self.fill_bait();
        self.faulted(limit, fault::SEGV_MAPERR, "mremap of all");
        check_eq!(number_at(PAGE_AT + FAR), found, "round {}: a word that was moved", self.round);
        self.check_part(to, Part::WHOLE, Gone::Away);
        check_eq!(memory::remap(to, HUGE, HUGE, Move::To(HUGE_AT)), Ok(HUGE_AT), "mremap back");
        self.kept(PAGE_AT, "moved back with all");
        self.check_marks(Part::NONE, "moved back");
    }

    fn unmap_whole(&mut self) {
        self.release(Word::Stays);
        must!(memory::unmap(HUGE_AT, HUGE));
        let limit = self.board.start();
        self.fill_bait();
        self.faulted(limit, fault::SEGV_MAPERR, "munmap of all");
    }

    /// The writer goes on undisturbed, and so does what is around it but for a part.
    fn goes_on(&mut self, but: Part, what: &str) {
        self.fill_bait();
        self.check_marks(but, what);
        let limit = self.board.start();
        self.check_bait();
        self.stop_and_compare(limit);
        self.check_marks(but, what);
    }

    /// Small pages in the place of the huge one: some, or, after it was taken apart, all. The writer is parked.
    fn make_small(&mut self) {
        if self.random.chance(50) {
            self.pages.map(HUGE_AT, HUGE);
            self.mark();
        } else {
            self.take_apart(self.round);
        }
    }

    /// Splits it by one page's protection, for a moment.
    fn take_apart(&self, any: u64) {
        let page = HUGE_AT + (PLACE + 1 + any % 400) * PAGE;
        must!(memory::protect(page, PAGE, Prot::READ));
        must!(memory::protect(page, PAGE, Prot::RW));
    }

    fn collapse(&mut self) {
        let made = advise(HUGE_AT, HUGE, COLLAPSE);
        // Natively others may have a page at that moment, or memory be in pieces.
        check!(
            made.is_ok() || !fault::in_mmvisor(),
            "round {}: MADV_COLLAPSE: {made:?}",
            self.round
        );
        self.fill_bait();
    }

    fn collapse_often(&mut self) {
        self.make_small();
        self.release(Word::Stays);
        let before = self.last();
        let mut gone = Part::NONE;
        for turn in 0..TURNS {
            self.collapse();
            self.check_marks(gone, "MADV_COLLAPSE");
            if turn % 2 == 0 {
                self.take_apart(self.round + turn);
            } else {
                gone = Part { first: 0, pages: 1 + self.round % 40 };
                must!(advise(gone.start(), gone.length(), DONTNEED));
            }
        }
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        check!(before <= found, "round {}: {before} was left behind: {found}", self.round);
        self.check_bait();
        self.stop_and_compare(limit);
        self.check_marks(gone, "after MADV_COLLAPSE");
        self.check_part(HUGE_AT, gone, Gone::ToZeros);
    }

    fn collapse_and_protect(&mut self) {
        self.make_small();
        self.release(Word::Stays);
        self.collapse();
        let (start, length) =
            if self.random.chance(50) { (HUGE_AT, HUGE) } else { (PAGE_AT, PAGE) };
        must!(memory::protect(start, length, Prot::READ));
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        self.faulted(limit, fault::SEGV_ACCERR, "mprotect, collapsed");
        check_eq!(number_at(PAGE_AT), found, "round {}: a read-only word", self.round);
        self.kept(PAGE_AT, "collapsed and read-only");
        self.check_marks(Part::NONE, "collapsed and read-only");
    }

    fn collapse_and_unmap(&mut self) {
        self.make_small();
        self.release(Word::Stays);
        self.collapse();
        must!(memory::unmap(PAGE_AT, PAGE));
        let limit = self.board.start();
        self.fill_bait();
        self.faulted(limit, fault::SEGV_MAPERR, "munmap, collapsed");
        self.check_marks(Part { first: PLACE, pages: 1 }, "collapsed, one unmapped");
    }
}

/// What became of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gone {
    /// It is elsewhere.
    Away,
    /// It was dropped.
    ToZeros,
}
