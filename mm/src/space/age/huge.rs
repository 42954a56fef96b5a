//! The same advice for huge pages (Linux's `madvise_free_huge_pmd`, and the head of
//! `madvise_cold_or_pageout_pte_range`): as one where all of it is advised.
//!
//! ```text
//!   a part of it is advised    others name it too: nothing
//!                              else it is split, and what of it is zeros becomes the page of zeros
//!   all of it                  others name it too: nothing
//!                              else as a small page
//! ```

use crate::addr::{Frame, FrameRun, PageRange};
use crate::error::Broken;
use crate::paging::{Access, Entry, FlushBatch, Large, Leaf, Owner, Touch, holds_nothing};
use crate::phys::Marks;
use crate::reclaim::Fate;
use crate::space::{AddressSpace, PageClass};
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// Splits the huge pages of which only a part is in the range, if nobody else names them; others stay.
    pub(super) fn split_folios(&self, range: PageRange) -> Result<(), Broken> {
        let ends = self.table.large_in(range);
        let parts: Vec<_> = ends
            .filter(|large| large.range().is_some_and(|span| !range.covers(span)))
            .filter_map(|large| self.only_here_large(&large).and(large.range()))
            .collect();
        for span in parts {
            self.split_large(span)?;
            self.give_up_zeros(self.table.cursor(span))?;
        }
        Ok(())
    }

    /// Pages of zeros, of a folio that was split, name the page of zeros, unless they are locked
    /// (`try_to_map_unused_to_zeropage`).
    pub(in crate::space) fn give_up_zeros<'a>(
        &self,
        leaves: impl Iterator<Item = Leaf<'a>>,
    ) -> Result<(), Broken> {
        let locked = |vma: &Vma| vma.flags.contains(VmFlags::LOCKED);
        let stays = |addr| self.vmas.find_exact(addr).is_none_or(locked);
        let Ok(zeros) = self.system.frames().zero_frame() else { return Ok(()) };
        // A vCPU could write through what it has cached: first that goes, then the bytes are looked at.
        let round = self.replacements.begin();
        let mut cached = FlushBatch::new();
        let mut out = Vec::new();
        for leaf in leaves.filter(|leaf| self.is_zeros(leaf.entry) && !stays(leaf.addr)) {
            if round.take_out(leaf.slot, leaf.entry) {
                leaf.entry.frame().into_iter().for_each(|frame| cached.lowered(frame));
                out.push(leaf);
            }
        }
        let flushed = self.flush(cached);
        let (mut batch, frames) = (FlushBatch::new(), self.system.frames());
        for Leaf { slot, entry, .. } in out {
            if flushed.is_err() || !self.is_zeros(entry) {
                round.put_in(slot, entry);
                continue;
            }
            let access = entry.access().difference(Access::WRITE);
            round.put_in(slot, Entry::leaf(zeros, Owner::Backing, access, Touch::Read));
            self.counters.resident.remove(PageClass::of(entry, frames));
            batch.emptied(entry.uncached(), frames);
        }
        drop(round);
        flushed?;
        self.flush(batch)
    }

    fn is_zeros(&self, entry: Entry) -> bool {
        let own = entry.frame().filter(|_| entry.owner() == Owner::Process);
        own.is_some_and(|frame| holds_nothing(self.system.frames().memory().words(frame)))
    }

    /// `MADV_FREE` of whole huge pages.
    pub(super) fn free_large(&self, range: PageRange, batch: &mut FlushBatch) {
        let frames = self.system.frames();
        for (large, run) in self.own_large(range) {
            frames_of(run).for_each(|frame| frames.unmark(frame, Marks::DIRTY));
            self.age_large(&large, run, |entry| entry.old().clean(), batch);
            frames_of(run).for_each(|frame| frames.mark(frame, Marks::LAZY));
        }
    }

    /// `MADV_COLD` of whole huge pages.
    pub(super) fn cool_large(&self, range: PageRange, batch: &mut FlushBatch) {
        self.own_large(range).for_each(|(large, run)| self.cool_one(&large, run, batch));
    }

    /// The same of one, whosever its pages are.
    pub(super) fn cool_one(&self, large: &Large<'_>, run: FrameRun, batch: &mut FlushBatch) {
        let frames = self.system.frames();
        self.age_large(large, run, Entry::old, batch);
        frames_of(run).for_each(|frame| frames.unmark(frame, Marks::REFERENCED));
    }

    /// `MADV_PAGEOUT` of whole huge pages. Those that can go, or for which there is no swap, are mapped in small ones, and
    /// go on as folios: Linux leaves a table.
    pub(super) fn page_out_large(&self, range: PageRange) -> Result<(), Broken> {
        let frames = self.system.frames();
        let mut going = Vec::new();
        for (large, run) in self.own_large(range) {
            frames_of(run).for_each(|frame| frames.unmark(frame, Marks::REFERENCED));
            let all = frames_of(run).fold(Marks::empty(), |all, frame| all | frames.marks(frame));
            match Fate::of(large.entry, all) {
                Fate::IsKept => frames_of(run).for_each(|frame| {
                    frames.mark(frame, Marks::DIRTY);
                    frames.unmark(frame, Marks::LAZY);
                }),
                Fate::Stays | Fate::Goes => going.extend(large.range()),
            }
        }
        going.into_iter().try_for_each(|span| self.split_large(span))
    }

    /// The huge pages in a range, whole ones, that no other entry names.
    fn own_large(&self, range: PageRange) -> impl Iterator<Item = (Large<'_>, FrameRun)> {
        self.table.large_in(range).filter_map(move |large| {
            let run = self.only_here_large(&large)?;
            range.covers(large.range()?).then_some((large, run))
        })
    }

    fn only_here_large(&self, large: &Large<'_>) -> Option<FrameRun> {
        let own = large.entry.owner() == Owner::Process;
        let frames = self.system.frames();
        large.run().filter(|&run| own && frames_of(run).all(|frame| frames.maps(frame) == 1))
    }

    fn age_large(
        &self,
        large: &Large<'_>,
        run: FrameRun,
        to: impl Fn(Entry) -> Entry,
        batch: &mut FlushBatch,
    ) {
        if large.update(to).is_accessed() {
            batch.lowered_run(run);
        }
    }
}

fn frames_of(run: FrameRun) -> impl Iterator<Item = Frame> {
    (0..run.count).map(move |i| run.start.offset(i))
}
