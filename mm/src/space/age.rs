//! The advice about how soon pages are needed again (Linux's `madvise_free_pte_range` and
//! `madvise_cold_or_pageout_pte_range`).
//!
//! ```text
//!                   its own page                          a backing's page
//!   MADV_FREE       as if never written: may be dropped   (EINVAL)
//!   MADV_COLD       as if never accessed                  the same
//!   MADV_PAGEOUT    dropped if it may be, else swapped    leaves the table; stays in the object, but for
//!                   out where there is swap               shared memory that is still zeros
//! ```
//!
//! What several entries name is left alone by the last two. What `MADV_FREE` allowed to drop is dropped by
//! `MADV_PAGEOUT`, or when memory is short (`reclaim`).
//!
//! Entries are held still: another space could otherwise have one name a copy (`fault/handoff`) between the look
//! at its page and the change. The flush follows later. Until then an entry that was cached has A clear; but a page
//! that others name is marked `LAZY` then, and they let it be.

mod folio;
mod huge;
mod object;

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{AddressSpace, PageClass};
use crate::addr::{Frame, PageRange};
use crate::error::Broken;
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch, Leaf, Owner};
use crate::phys::{FrameKind, Marks};
use crate::reclaim::Fate;
use crate::vma::Vma;

impl AddressSpace {
    /// `MADV_FREE`: the pages may be dropped until they are written again.
    pub(super) fn free_lazily(
        &self,
        part: PageRange,
        batch: &mut FlushBatch,
    ) -> Result<(), Broken> {
        self.settle(part)?;
        self.demote(part)?;
        self.split_folios(part)?;
        self.free_large(part, batch);
        self.split_parts(part)?;
        let frames = self.system.frames();
        self.invalidate(part, Invalidation::Clear, |space| {
            let _still = space.table.hold_still();
            // What was looked at before may be another page by now.
            space.free_folios(&space.whole_folios(part), batch);
            for leaf in space.table.cursor(part) {
                let own = leaf.entry.owner() == Owner::Process;
                if leaf.entry.swap_slot().is_some() || leaf.entry.is_poison() {
                    space.drop_entry(leaf.slot, batch);
                    continue;
                }
                let Some(frame) = leaf.entry.frame().filter(|_| own) else { continue };
                if space.folio_page(leaf.addr, leaf.entry).is_some() {
                    // Done, or others have it too.
                    continue;
                }
                if frames.kind(frame) == Some(FrameKind::Merged) {
                    continue;
                }
                if frames.marks(frame).contains(Marks::SWAP_CACHED) && frames.maps(frame) == 1 {
                    batch.note(space.release_place(frame));
                }
                if frames.marks(frame).contains(Marks::SWAP_CACHED) {
                    // It may have others that only the swap area knows of.
                    continue;
                }
                if frames.marks(frame).contains(Marks::DIRTY) {
                    // Others still need what was written.
                    if frames.maps(frame) != 1 {
                        continue;
                    }
                    frames.unmark(frame, Marks::DIRTY);
                }
                change(&leaf, frame, |entry| entry.old().clean(), batch);
                frames.mark(frame, Marks::LAZY);
            }
        });
        Ok(())
    }

    /// `MADV_COLD`: the pages count as not accessed.
    pub(super) fn cool(
        &self,
        vma: &Vma,
        part: PageRange,
        batch: &mut FlushBatch,
    ) -> Result<(), Broken> {
        self.settle(part)?;
        self.demote(part)?;
        self.split_folios(part)?;
        self.cool_large(part, batch);
        self.split_parts(part)?;
        let left_alone = self.cool_objects(vma, part, batch)?;
        let _still = self.table.hold_still();
        self.cool_folios(&self.whole_folios(part), batch);
        for (leaf, frame) in self.only_here(vma, part, &left_alone) {
            change(&leaf, frame, Entry::old, batch);
            self.system.frames().unmark(frame, Marks::REFERENCED);
        }
        Ok(())
    }

    /// `MADV_PAGEOUT`: reclaims what can be reclaimed (`shrink_folio_list`).
    pub(super) fn page_out(
        &self,
        vma: &Vma,
        part: PageRange,
        batch: &mut FlushBatch,
    ) -> Result<(), Broken> {
        self.settle(part)?;
        self.demote(part)?;
        self.split_folios(part)?;
        self.page_out_large(part)?;
        self.split_parts(part)?;
        let (mut left, mut out, mut unswapped) = (Vec::new(), Vec::new(), Vec::new());
        let left_alone = self.page_out_objects(vma, part, &mut left)?;
        let frames = self.system.frames();
        self.invalidate(part, Invalidation::Clear, |space| {
            let _still = space.table.hold_still();
            unswapped = space.page_out_folios(&space.whole_folios(part), &mut out, batch);
            for (leaf, frame) in space.only_here(vma, part, &left_alone) {
                if leaf.entry.owner() == Owner::Backing {
                    space.drop_entry(leaf.slot, batch);
                    if leaf.entry.is_protected() {
                        leaf.slot.store(leaf.entry.left_behind().raw(), Ordering::Release);
                    }
                    frames.unmark(frame, Marks::REFERENCED);
                    left.push(vma.page_index(leaf.addr));
                    continue;
                }
                frames.unmark(frame, Marks::REFERENCED);
                match Fate::of(leaf.entry, frames.marks(frame)) {
                    // The entry holds it while it is held still.
                    Fate::Stays if space.system.swap().is_some() => {
                        frames.get(frame);
                        out.push(frame);
                    }
                    Fate::Stays => {}
                    Fate::IsKept => {
                        frames.mark(frame, Marks::DIRTY);
                        frames.unmark(frame, Marks::LAZY);
                    }
                    Fate::Goes => space.drop_unneeded(&leaf, batch),
                }
            }
        });
        self.system.swap_out_all(&out)?;
        unswapped.into_iter().try_for_each(|page| self.split_folio(page))?;
        let Some(backing) = vma.backing.as_ref().filter(|_| !left.is_empty()) else {
            return Ok(());
        };
        self.flush(std::mem::take(batch))?;
        backing.reclaim(&left, &self.system)
    }

    /// The pages of a part of a VMA that no other entry names; not those of folios, nor these of its object.
    fn only_here(
        &self,
        vma: &Vma,
        part: PageRange,
        but: &[Range<u64>],
    ) -> impl Iterator<Item = (Leaf<'_>, Frame)> {
        let frames = self.system.frames();
        self.table.cursor(part).filter_map(move |leaf| {
            let frame = leaf.entry.frame()?;
            let kind = frames.kind(frame);
            let is_nobodys = matches!(kind, Some(FrameKind::Zero | FrameKind::Merged));
            let alone = !is_nobodys && frames.maps(frame) == 1;
            let of_folio = self.folio_page(leaf.addr, leaf.entry).is_some()
                || but.iter().any(|pages| pages.contains(&vma.page_index(leaf.addr)));
            (alone && !of_folio).then_some((leaf, frame))
        })
    }

    /// Empties an entry, unless it was written just now.
    fn drop_unneeded(&self, leaf: &Leaf<'_>, batch: &mut FlushBatch) {
        let (entry, frames) = (leaf.entry, self.system.frames());
        let (gone, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        if leaf.slot.compare_exchange(entry.raw(), 0, gone, failed).is_ok() {
            batch.emptied(entry, frames);
            self.counters.resident.remove(PageClass::of(entry, frames));
        }
    }
}

/// Changes accessed and dirty bits, which the hardware may set meanwhile. What a vCPU may have cached is
/// flushed: it would not set them again.
fn change(leaf: &Leaf<'_>, frame: Frame, to: impl Fn(Entry) -> Entry, batch: &mut FlushBatch) {
    let changed = leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |raw| {
        // Others may take pages away meanwhile.
        let entry = Entry::new(raw);
        let new = to(entry).raw();
        (entry.frame().is_some() && new != raw).then_some(new)
    });
    if changed.is_ok_and(|old| Entry::new(old).is_accessed()) {
        batch.lowered(frame);
    }
}
