//! The same advice for folios that lie whole in the range: as one. Of others the parts are pages of their own by now, or
//! other processes have them too; then nothing becomes of them (`space/folio`).
//!
//! ```text
//!   MADV_FREE       written before it was shared: only if nobody else names any of it
//!   MADV_COLD       only if nobody else names any of it
//!   MADV_PAGEOUT    likewise; given up: dropped, up to a page that was written since, which keeps it
//!                              else: swapped out; split where there is no swap
//! ```

use super::change;
use crate::addr::{Frame, PageRange};
use crate::paging::{Entry, FlushBatch, Leaf, Touch};
use crate::phys::Marks;
use crate::space::AddressSpace;
use crate::space::folio::{FolioPage, Piece};

impl AddressSpace {
    /// The folios that lie whole in a range, with the table held still.
    pub(super) fn whole_folios(&self, range: PageRange) -> Vec<Piece> {
        let mut all = self.folios_in(range);
        all.retain(Piece::is_whole);
        all
    }

    /// `MADV_FREE`. The caller holds the table still, here and below.
    pub(super) fn free_folios(&self, folios: &[Piece], batch: &mut FlushBatch) {
        let frames = self.system.frames();
        for piece in folios {
            let first = piece.folio().start;
            if frames.marks(first).contains(Marks::DIRTY) {
                // Others still need what was written.
                if !self.names_alone(piece) {
                    continue;
                }
                frames.unmark_folio(first, Marks::DIRTY);
            }
            self.change_folio(piece, |entry| entry.old().clean(), batch);
            frames.mark_folio(first, Marks::LAZY);
        }
    }

    /// `MADV_COLD`.
    pub(super) fn cool_folios(&self, folios: &[Piece], batch: &mut FlushBatch) {
        for piece in folios.iter().filter(|piece| self.names_alone(piece)) {
            self.change_folio(piece, Entry::old, batch);
            self.system.frames().unmark_folio(piece.folio().start, Marks::REFERENCED);
        }
    }

    /// `MADV_PAGEOUT`. What goes to the swap area is added to `out`, with a reference; where there is none it is
    /// returned, to be split: Linux finds no room for all of it, and tries page by page.
    pub(super) fn page_out_folios(
        &self,
        folios: &[Piece],
        out: &mut Vec<Frame>,
        batch: &mut FlushBatch,
    ) -> Vec<FolioPage> {
        let frames = self.system.frames();
        let mut unswapped = Vec::new();
        for piece in folios.iter().filter(|piece| self.names_alone(piece)) {
            let first = piece.folio().start;
            frames.unmark_folio(first, Marks::REFERENCED);
            if frames.marks(first).contains(Marks::LAZY) {
                self.drop_folio(piece, batch);
            } else if self.system.swap().is_some() {
                // The entries hold them while they are held still.
                out.extend(frames.pages_of(piece.folio()).inspect(|&frame| frames.get(frame)));
            } else {
                unswapped.push(piece.first());
            }
        }
        unswapped
    }

    /// Drops the pages of a folio that was given up, run by run of those that may be written or may not, up to one that
    /// was written since: what is left then is needed (`try_to_unmap_one`).
    fn drop_folio(&self, piece: &Piece, batch: &mut FlushBatch) {
        let frames = self.system.frames();
        let first = piece.folio().start;
        let leaves: Vec<Leaf<'_>> = self.leaves_in(piece).collect();
        for run in leaves.chunk_by(|one, next| one.entry.is_writable() == next.entry.is_writable())
        {
            let any = |is: fn(Entry) -> bool| run.iter().any(|leaf| is(leaf.entry));
            let marks = frames.marks(first);
            let written = any(Entry::is_dirty) || marks.contains(Marks::DIRTY);
            if !written || marks.contains(Marks::DROPPABLE) {
                run.iter().for_each(|leaf| self.drop_unneeded(leaf, batch));
                continue;
            }
            frames.mark_folio(first, Marks::DIRTY);
            frames.unmark_folio(first, Marks::LAZY);
            // Their entries were away, and come back as one.
            let touched = match (any(Entry::is_dirty), any(Entry::is_young)) {
                (true, true) => |entry: Entry| entry.touched(Touch::Written),
                (true, false) => |entry: Entry| entry.touched(Touch::Written).old(),
                (false, true) => |entry: Entry| entry.touched(Touch::Read),
                (false, false) => |entry: Entry| entry,
            };
            for leaf in run {
                if let Some(frame) = leaf.entry.frame() {
                    change(leaf, frame, touched, batch);
                }
            }
            return;
        }
    }

    /// Whether each of its pages is named once: here.
    fn names_alone(&self, piece: &Piece) -> bool {
        self.system.frames().maps_of_folio(piece.folio()) == piece.folio().count
    }

    fn leaves_in(&self, piece: &Piece) -> impl Iterator<Item = Leaf<'_>> {
        piece.range().into_iter().flat_map(|range| self.table.cursor(range))
    }

    fn change_folio(&self, piece: &Piece, to: impl Fn(Entry) -> Entry, batch: &mut FlushBatch) {
        for leaf in self.leaves_in(piece) {
            if let Some(frame) = leaf.entry.frame() {
                change(&leaf, frame, &to, batch);
            }
        }
    }
}
