//! Counting frames: without a lock, but for those that become free.

use super::count::{Counted, Counts, Left, Miscounted};
use super::record::{BadSlot, Records, ReverseOwner};
use super::set::FrameSet;
use super::{FrameKind, Frames, blocks_of, frames_of, position};
use crate::addr::{Frame, FrameRun};
use crate::error::Broken;

impl Frames {
    /// One more reference to a frame in use, of which the caller knows that it stays so meanwhile. To one
    /// that is not, this does nothing that can be relied on.
    pub fn get(&self, frame: Frame) {
        self.counts(frame, Counts::get);
    }

    /// One more reference, if the frame is in use at all: for those who only found its number. The frame may
    /// have become another page's before: ask again afterwards.
    #[must_use]
    pub fn try_get(&self, frame: Frame) -> bool {
        self.counts(frame, Counts::try_get).unwrap_or(false)
    }

    /// [`get`](Self::get) for each frame of the run.
    pub fn get_run(&self, run: FrameRun) {
        self.counts_of_run(run, Counts::get);
    }

    /// Gives up one reference; the last one frees the frame.
    ///
    /// # Errors
    /// [`Broken`] if the frame was not in use, entries still name it, or the host failed to take memory
    /// back.
    pub fn put(&self, frame: Frame) -> Result<(), Broken> {
        let (block, slot) = position(frame);
        let put = self.counts(frame, Counts::put).unwrap_or(Err(Miscounted::Unused));
        match put.map_err(|why| miscounted(block, BadSlot { slot, why }))? {
            Left::Some => Ok(()),
            Left::None => self.free(block, FrameSet::of(slot..slot + 1)),
        }
    }

    /// Gives up one reference to each frame of the run, up to the first one where that is an error.
    ///
    /// # Errors
    /// As of [`put`](Self::put).
    pub fn put_run(&self, run: FrameRun) -> Result<(), Broken> {
        for (block, slots) in blocks_of(run) {
            let unused = BadSlot { slot: slots.start, why: Miscounted::Unused };
            let (freed, bad) = match self.records.find(block) {
                Some(records) => records.put(slots),
                None => (FrameSet::EMPTY, Some(unused)),
            };
            if !freed.is_empty() {
                self.free(block, freed)?;
            }
            if let Some(bad) = bad {
                return Err(miscounted(block, bad));
            }
        }
        Ok(())
    }

    /// One more entry names the frame, to which it holds a reference.
    pub fn map(&self, frame: Frame) {
        self.counts(frame, Counts::map);
    }

    /// [`map`](Self::map) for each frame of the run.
    pub fn map_run(&self, run: FrameRun) {
        self.counts_of_run(run, Counts::map);
    }

    /// One more reference and the entry that it is for, at once: what fork does to each page (Linux's
    /// `folio_get` and `folio_dup_anon_rmap_pte`).
    pub fn dup(&self, frame: Frame) {
        self.counts(frame, Counts::dup);
    }

    /// [`dup`](Self::dup) for each frame of the run.
    pub fn dup_run(&self, run: FrameRun) {
        self.counts_of_run(run, Counts::dup);
    }

    /// One entry less names the frame; its reference is still to be given up.
    ///
    /// # Errors
    /// [`Broken`] if no entry named it.
    pub fn unmap(&self, frame: Frame) -> Result<(), Broken> {
        self.unmap_run(FrameRun { start: frame, count: 1 })
    }

    /// [`unmap`](Self::unmap) for each frame of the run, up to the first one where that is an error.
    ///
    /// # Errors
    /// As of [`unmap`](Self::unmap).
    pub fn unmap_run(&self, run: FrameRun) -> Result<(), Broken> {
        for (block, slots) in blocks_of(run) {
            let unused = BadSlot { slot: slots.start, why: Miscounted::NotMapped };
            let records = self.records.find(block).ok_or_else(|| miscounted(block, unused))?;
            for slot in slots {
                let bad = |why| miscounted(block, BadSlot { slot, why });
                records.counts(slot).unmap().map_err(bad)?;
            }
        }
        Ok(())
    }

    /// How many references a frame has; 0 for a free one, 2^31 for one that is never freed.
    #[must_use]
    pub fn references(&self, frame: Frame) -> u32 {
        self.counts(frame, Counts::now).map_or(0, Counted::references)
    }

    /// How many entries name a frame; 0 for one that is never freed, which is not counted.
    #[must_use]
    pub fn maps(&self, frame: Frame) -> u32 {
        self.counts(frame, Counts::now).map_or(0, Counted::maps)
    }

    /// Whether the caller, who holds a reference, is the only owner of an anonymous frame, and so may
    /// let it be written in place (Linux's `wp_can_reuse_anon_folio`).
    #[must_use]
    pub fn is_exclusive(&self, frame: Frame) -> bool {
        self.references(frame) == 1 && self.kind(frame) == Some(FrameKind::Anonymous)
    }

    /// [`is_exclusive`](Self::is_exclusive) for each frame of the run.
    #[must_use]
    pub fn are_exclusive(&self, run: FrameRun) -> bool {
        (0..run.count).all(|i| self.is_exclusive(run.start.offset(i)))
    }

    /// Whether two entries name an anonymous frame, and nobody else holds it. Others may change that at any
    /// time.
    #[must_use]
    pub fn is_of_two(&self, frame: Frame) -> bool {
        let counted = self.counts(frame, Counts::now);
        counted.is_some_and(|now| (now.references(), now.maps()) == (2, 2))
            && self.kind(frame) == Some(FrameKind::Anonymous)
    }

    /// What a frame in use is used for.
    #[must_use]
    pub fn kind(&self, frame: Frame) -> Option<FrameKind> {
        self.record(frame, Records::kind)?
    }

    /// Says where the reverse map finds the entries of a frame. Before its first entry is there, or by one
    /// who has locked everybody out who might ask.
    pub fn set_owner(&self, frame: Frame, owner: ReverseOwner) {
        self.record(frame, |records, slot| records.set_owner(slot, owner));
    }

    /// [`set_owner`](Self::set_owner) of all frames of a run: the first has this index, the next ones the next.
    pub fn set_owners(&self, run: FrameRun, owner: ReverseOwner) {
        if run.count == 1 {
            // Most faults'.
            return self.set_owner(run.start, owner);
        }
        let mut index = owner.index;
        for (block, slots) in blocks_of(run) {
            let Some(records) = self.records.find(block) else { return };
            for slot in slots {
                records.set_owner(slot, ReverseOwner { index, ..owner });
                index = index.wrapping_add(1);
            }
        }
    }

    /// Gives a frame's page to another owner, where it has the same index. Who asks meanwhile finds the one or
    /// the other: the entries must be found through both.
    pub fn move_owner(&self, frame: Frame, id: u32) {
        self.record(frame, |records, slot| records.move_owner(slot, id));
    }

    /// Where the reverse map finds the entries of a frame, to which the caller holds a reference. `None`
    /// for one that was never mapped.
    #[must_use]
    pub fn owner(&self, frame: Frame) -> Option<ReverseOwner> {
        self.record(frame, Records::owner)?
    }

    pub(super) fn record<R>(
        &self,
        frame: Frame,
        what: impl FnOnce(&Records, usize) -> R,
    ) -> Option<R> {
        let (block, slot) = position(frame);
        Some(what(self.records.find(block)?, slot))
    }

    pub(super) fn counts<R>(&self, frame: Frame, what: impl FnOnce(&Counts) -> R) -> Option<R> {
        self.record(frame, |records, slot| what(records.counts(slot)))
    }

    pub(super) fn counts_of_run(&self, run: FrameRun, what: impl Fn(&Counts)) {
        for (block, slots) in blocks_of(run) {
            if let Some(records) = self.records.find(block) {
                records.run(slots).iter().for_each(&what);
            }
        }
    }
}

fn miscounted(block: usize, BadSlot { slot, why }: BadSlot) -> Broken {
    let frame = frames_of(block, &(slot..slot)).start;
    Broken::Invariant(format!("{frame:?} {why}"))
}
