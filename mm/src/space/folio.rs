//! Folios of several pages, between a page and a huge page (Linux's multi-size THP): which pages of one are where, who
//! has it, and its split.
//!
//! ```text
//!                ┌─ a fault brings all of it in (fault/folio); each page has its entry
//!   one folio ───┤  munmap, mremap, mprotect, fork, a copy: page by page, it stays one
//!                └─ MADV_FREE, COLD, PAGEOUT    all of it, side by side: as one
//!                                               a part, others have it too: nothing
//!                                               a part: it is split, and what of it is zeros names the page of zeros
//! ```
//!
//! What is remembered of one of its pages is remembered of all. Only the marks and the split make it one: its frames are
//! counted, copied and given up like any others.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::AddressSpace;
use crate::addr::{Frame, FrameRun, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::Broken;
use crate::paging::{Entry, Leaf, Owner};
use crate::phys::Marks;
use crate::vma::VmFlags;

/// A page of a folio, and where the space has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FolioPage {
    addr: VirtAddr,
    frame: Frame,
    folio: FrameRun,
}

/// Pages of a folio that lie side by side, within a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    first: FolioPage,
    pages: u64,
}

impl Piece {
    /// Whether that is all of it (`madvise_folio_pte_batch`).
    pub(super) fn is_whole(&self) -> bool {
        self.first.frame == self.first.folio.start && self.pages == self.first.folio.count
    }

    /// Its first page.
    pub(super) fn first(&self) -> FolioPage {
        self.first
    }

    pub(super) fn folio(&self) -> FrameRun {
        self.first.folio
    }

    pub(super) fn range(&self) -> Option<PageRange> {
        PageRange::from_len(self.first.addr, self.pages * PAGE_SIZE)
    }

    fn goes_on(&self, next: FolioPage) -> bool {
        let FolioPage { addr, frame, folio } = self.first;
        folio == next.folio
            && frame.offset(self.pages) == next.frame
            && addr.offset(self.pages * PAGE_SIZE) == next.addr
            && addr.table_floor() == next.addr.table_floor()
    }
}

impl AddressSpace {
    /// The page of an entry at an address, if it is of a folio.
    pub(super) fn folio_page(&self, addr: VirtAddr, entry: Entry) -> Option<FolioPage> {
        let frames = self.system.frames();
        let own = entry.owner() == Owner::Process && !entry.is_large();
        let frame = entry.frame().filter(|_| own && frames.has_folios())?;
        frames.folio(frame).map(|folio| FolioPage { addr, frame, folio })
    }

    /// What a range has of folios.
    pub(super) fn folios_in(&self, range: PageRange) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        if !self.system.frames().has_folios() {
            return pieces;
        }
        for leaf in self.table.cursor(range) {
            let Some(page) = self.folio_page(leaf.addr, leaf.entry) else { continue };
            match pieces.last_mut().filter(|piece| piece.goes_on(page)) {
                Some(piece) => piece.pages += 1,
                None => pieces.push(Piece { first: page, pages: 1 }),
            }
        }
        pieces
    }

    /// Whether nobody else has any page of the folio (`!folio_maybe_mapped_shared`). Linux knows that of two spaces
    /// only, and of a third one that is left alone it does not. Not with a table held still.
    pub(super) fn has_folio_alone(&self, page: FolioPage) -> bool {
        let frames = self.system.frames();
        frames.maps_of_folio(page.folio) <= 1
            || frames.pages_of(page.folio).all(|other| match frames.maps(other) {
                0 => true,
                1 => self.address_of(other, page).is_some(),
                _ => false,
            })
    }

    /// Whether the process, which alone names the page, may write it in place: not if others have pages of its folio
    /// still (`PageAnonExclusive`, `wp_can_reuse_anon_folio`). Not with a table held still.
    pub(super) fn may_keep(&self, addr: VirtAddr, entry: Entry) -> bool {
        let Some(page) = self.folio_page(addr, entry) else { return true };
        let frames = self.system.frames();
        let unheld = |other| frames.references(other) == frames.maps(other);
        self.is_kept(entry)
            // The last page of a folio had better not keep the memory of all of it.
            || frames.maps_of_folio(page.folio) > 1
                && frames.pages_of(page.folio).all(unheld)
                && self.has_folio_alone(page)
    }

    /// Whether that is known without asking: it came since the last fork, or was found out since.
    pub(super) fn is_kept(&self, entry: Entry) -> bool {
        let marks = |frame| self.system.frames().marks(frame);
        self.exclusive_of(entry).is_none_or(|frame| marks(frame).contains(Marks::EXCLUSIVE))
    }

    /// Notes that it is so.
    pub(super) fn keep(&self, entry: Entry) {
        if let Some(frame) = self.exclusive_of(entry) {
            self.system.frames().mark(frame, Marks::EXCLUSIVE);
        }
    }

    /// The frame of an entry of which that is remembered: of a folio's page its own, of a huge page the first.
    fn exclusive_of(&self, entry: Entry) -> Option<Frame> {
        let frames = self.system.frames();
        let of_folio = |&frame: &Frame| {
            entry.is_huge()
                || frames.has_folios() && !entry.is_large() && frames.folio(frame).is_some()
        };
        let own = entry.owner() == Owner::Process;
        entry.frame().filter(|_| own).filter(of_folio)
    }

    /// Where the space has another page of a folio.
    fn address_of(&self, other: Frame, page: FolioPage) -> Option<VirtAddr> {
        let bytes = other.number().wrapping_sub(page.frame.number()).wrapping_mul(PAGE_SIZE);
        let beside = VirtAddr::new(page.addr.get().wrapping_add(bytes));
        if beside < VirtAddr::TASK_END && self.entry_at(beside).frame() == Some(other) {
            return Some(beside);
        }
        // A part of it has moved, or is another process's.
        let found = self.system.anon().entries_of(self.system.frames(), other, |found| {
            if found.space == self.number {
                return ControlFlow::Break(found.addr);
            }
            ControlFlow::Continue(())
        });
        found.break_value()
    }

    /// The sizes in which memory comes have changed.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn thp_changes(&self) -> Result<(), Broken> {
        let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END);
        all.map_or(Ok(()), |all| self.settle_for_folios(all))
    }

    /// Memory that several pages may come of at once is to have none ahead of a touch: where one would be touched, all of
    /// its folio would come.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(super) fn settle_for_folios(&self, range: PageRange) -> Result<(), Broken> {
        if self.system.sysctl.thp_orders(VmFlags::HUGEPAGE).small().is_empty() {
            return Ok(());
        }
        self.settle(range)
    }

    /// Splits the folios of which only a part is in the range, if nobody else has them.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(super) fn split_parts(&self, range: PageRange) -> Result<(), Broken> {
        let parts = self.folios_in(range).into_iter().filter(|piece| !piece.is_whole());
        for Piece { first, .. } in parts {
            // With another of its parts it may have been split already.
            let still = self.system.frames().folio(first.frame) == Some(first.folio);
            if still && self.has_folio_alone(first) {
                self.split_folio(first)?;
            }
        }
        Ok(())
    }

    /// Splits the folios of a range of which a part is nowhere any more, if they are on a node that is `misplaced` and
    /// nobody else has them: also on a machine of one node Linux does so before it moves them (`migrate_pages_batch`).
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(super) fn split_remnants(
        &self,
        range: PageRange,
        misplaced: impl Fn(u8) -> bool,
    ) -> Result<(), Broken> {
        let frames = self.system.frames();
        for page in self.folios_in(range).iter().map(Piece::first) {
            let is_there = |&frame: &Frame| frames.maps(frame) > 0;
            let there = || frames.pages_of(page.folio).filter(is_there).count() as u64;
            if misplaced(frames.nodes().of(page.frame))
                && frames.folio(page.frame) == Some(page.folio)
                && there() < page.folio.count
                && self.has_folio_alone(page)
            {
                self.split_folio(page)?;
            }
        }
        Ok(())
    }

    /// Makes pages of their own of a folio that nobody else has (`split_folio`). Those that are zeros name the page of
    /// zeros then. Not with a table held still.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(super) fn split_folio(&self, page: FolioPage) -> Result<(), Broken> {
        let frames = self.system.frames();
        let addresses: Vec<VirtAddr> = frames
            .pages_of(page.folio)
            .filter(|&other| frames.maps(other) > 0)
            .filter_map(|other| self.address_of(other, page))
            .collect();
        let leaves = || {
            addresses.iter().filter_map(|&addr| {
                let slot = self.table.slot(addr)?;
                Some(Leaf { addr, slot, entry: Entry::new(slot.load(Ordering::Acquire)) })
            })
        };
        if leaves().any(|leaf| leaf.entry.is_dirty()) {
            // Linux takes the entries away for a moment, and notes of the folio that it was written.
            frames.mark_folio(page.frame, Marks::DIRTY);
        }
        frames.split_folio(page.folio);
        self.give_up_zeros(leaves())
    }
}
