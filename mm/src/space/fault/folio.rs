//! Faults on an object's larger pieces of memory (Linux's `do_set_pmd`, and `finish_fault` for large folios).
//!
//! ```text
//!   2 MiB of the object, all in the VMA, at a multiple ─ nothing linked ──────────> a large entry
//!                                                      ─ a table that Linux has freed ─> when it is unlinked (make_way)
//!   any larger piece, written in shared memory ─ no entry for any of it ──────────> an entry for each page
//!   else                                                                            a page for itself
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use super::huge::Huge;
use super::{At, Resolved, page_in_table};
use crate::addr::{Frame, FrameRun, PAGE_SHIFT, PageRange, VirtAddr};
use crate::backing::{Backing, SharedMemory};
use crate::error::AccessError;
use crate::paging::{Access, AccessKind, Below, Entry, Owner, Touch};
use crate::phys::{AllocError, BLOCK_FRAMES};
use crate::space::AddressSpace;
use crate::space::ahead::around;
use crate::space::huge::span_of;
use crate::space::protect::entry_access;
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// Maps a huge page of a backing, whose maps are held, if `addr` shows one.
    pub(super) fn folio_fault(
        &self,
        vma: &Vma,
        backing: &dyn Backing,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Huge, AccessError> {
        let copies = kind == AccessKind::Write && vma.is_private();
        if copies || !self.has_huge_of(vma, backing, addr, kind) {
            return Ok(Huge::None);
        }
        match self.table.below(addr) {
            Below::Large(_) => Ok(Huge::Resolved(Resolved::Done)),
            Below::Vacated => Ok(Huge::Resolved(Resolved::NeedsExclusive)),
            Below::Table(_) => Ok(Huge::None),
            Below::Nothing => match self.map_folio(vma, backing, addr, kind.touch()) {
                Ok(true) => {
                    self.counters.faults.backed.fetch_add(1, Ordering::Relaxed);
                    Ok(Huge::Resolved(Resolved::Done))
                }
                // A small page needs less.
                Ok(false) | Err(AllocError::OutOfMemory) => Ok(Huge::None),
                Err(AllocError::Broken(broken)) => Err(broken.into()),
            },
        }
    }

    /// Whether a fault finds a huge page of the backing where all of it can be mapped at once.
    fn has_huge_of(
        &self,
        vma: &Vma,
        backing: &dyn Backing,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> bool {
        let page = addr.page_floor();
        let fits = |span: &PageRange| {
            vma.range().covers(*span) && vma.page_index(span.start()).is_multiple_of(BLOCK_FRAMES)
        };
        // Past the end of an object there is none, but for who looks around before he asks (`do_fault_around`).
        let first = match around(page, vma.range()).filter(|_| kind != AccessKind::Write) {
            Some(around) => vma.page_index(around.start()),
            None => vma.page_index(page),
        };
        let end = backing.shared_memory().map_or(u64::MAX, SharedMemory::pages);
        // A file's asks the host, so it comes last.
        first < end
            && span_of(addr).as_ref().is_some_and(fits)
            && !self.is_without_huge(vma)
            && backing.folio(vma.page_index(page)).is_some_and(|(folio, _)| folio.is_huge())
    }

    /// Whether huge pages are kept away from a VMA, wherever they are (`vma_thp_disabled`).
    fn is_without_huge(&self, vma: &Vma) -> bool {
        let advised = vma.flags.contains(VmFlags::HUGEPAGE);
        vma.flags.contains(VmFlags::NOHUGEPAGE)
            || self.has_no_huge_pages()
            || self.modes.thp_disabled != 0 && !advised
    }

    /// Puts a large entry where nothing is linked, for a huge page that is there; says whether one is there now. The
    /// object's maps are held.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table.
    pub(in crate::space) fn map_folio(
        &self,
        vma: &Vma,
        backing: &dyn Backing,
        addr: VirtAddr,
        touch: Touch,
    ) -> Result<bool, AllocError> {
        let addr = addr.table_floor();
        let Some((_, run)) = backing.folio(vma.page_index(addr)) else { return Ok(false) };
        self.system.frames().dup_run(run);
        let mapped = self.map_huge(addr, self.entry_of_folio(vma, run.start, touch), run)?;
        // Another fault was faster.
        Ok(mapped || matches!(self.table.below(addr), Below::Large(_)))
    }

    /// The large entry for a huge page of a backing.
    pub(in crate::space) fn entry_of_folio(&self, vma: &Vma, start: Frame, touch: Touch) -> Entry {
        let access = entry_access(vma.flags, Owner::Backing);
        self.backing_entry(vma, start, access, touch).large()
    }

    /// A page of shared memory is written: all pages that it is one with are mapped so, if none of them is mapped yet
    /// and all could be.
    pub(super) fn map_rest_of_folio(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        access: Access,
    ) -> Result<(), AccessError> {
        let armed = at.vma.flags.intersects(VmFlags::UFFD);
        let Some(piece) = self.piece_at(at, backing, at.page).filter(|_| !armed) else {
            return Ok(());
        };
        let is_none = |raw| raw == 0 || Entry::new(raw).is_unseen();
        let here = at.slot();
        let mut others = piece.slots(at).filter(|(slot, _)| !std::ptr::eq(*slot, here));
        if others.all(|(slot, _)| is_none(slot.load(Ordering::Relaxed))) {
            self.map_piece(at, &piece, access, Touch::Written)?;
        }
        Ok(())
    }

    /// The larger piece of shared memory that a page in the table of a fault shows, if it can all be mapped there
    /// (`folio_within_vma`).
    pub(super) fn piece_at(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        page: VirtAddr,
    ) -> Option<Piece> {
        let index = at.vma.page_index(page);
        // A file's is as long as a table: where one entry does not map it, its pages come as others do.
        let (folio, run) = backing.shared_memory()?.folio(index)?;
        let start = page.get().checked_sub((index - folio.first) << PAGE_SHIFT)?;
        let range = PageRange::from_len(VirtAddr::new(start), run.count << PAGE_SHIFT)?;
        let table = span_of(at.page)?;
        let fits = at.vma.range().covers(range) && table.covers(range);
        fits.then_some(Piece { range, run })
    }

    /// Maps those of its pages that are not mapped yet, each for itself.
    pub(super) fn map_piece(
        &self,
        at: &At<'_>,
        piece: &Piece,
        access: Access,
        touch: Touch,
    ) -> Result<(), AccessError> {
        for (slot, frame) in piece.slots(at) {
            if slot.load(Ordering::Relaxed) != 0 {
                self.see(slot);
                continue;
            }
            self.system.frames().get(frame);
            self.install(slot, self.backing_entry(at.vma, frame, access, touch))?;
            self.counters.faults.around.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A piece of memory larger than a page, and where it is shown.
pub(super) struct Piece {
    pub(super) range: PageRange,
    run: FrameRun,
}

impl Piece {
    /// The entries of its pages, and their frames.
    fn slots<'a>(&self, at: &At<'a>) -> impl Iterator<Item = (&'a AtomicU64, Frame)> + use<'a> {
        let (run, first) = (self.run, page_in_table(self.range.start()));
        at.words
            .iter()
            .skip(first)
            .zip(0..run.count)
            .map(move |(word, i)| (word, run.start.offset(i)))
    }
}
