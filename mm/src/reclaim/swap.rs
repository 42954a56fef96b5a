//! Pages of processes' own are swapped out (Linux's `shrink_folio_list`, `try_to_unmap_one`, `pageout`), while their
//! spaces go on.
//!
//! ```text
//!   frame F           entries, in all spaces            vCPUs
//!   a place, cached   F ──exchange──> the place ─┐      use F by old translations, or fault, and find F
//!                     F ──exchange──> the place ─┴─ flush: one for all pages of a batch
//!   written                                             fault, and find F: read-only, as long as it is written
//!   nobody has come   free
//! ```
//!
//! - Whoever faults meanwhile gets F itself back, from the cache: so nothing is lost of what a vCPU still writes by
//!   an old translation, and the bytes are read when the flush has ended that.
//! - Whoever finds the place in an entry and ends his call before the flush waits for it ([`Reclaim::wait_for_flush`]).
//! - A page that one entry keeps stays in the cache, and so does one that could not be written: who comes for it finds
//!   it there.
//!
//! [`Reclaim::wait_for_flush`]: super::Reclaim::wait_for_flush

use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::age::{Age, exchange, may_go};
use super::{BATCH, Hands, Reclaim};
use crate::addr::{Frame, PAGE_BYTES, SwapSlot};
use crate::error::Broken;
use crate::paging::{Entry, FlushBatch};
use crate::phys::{FrameKind, Marks};
use crate::rmap::{Changing, Copies, Found};
use crate::space::PageClass;
use crate::swap::Swap;
use crate::system::System;

/// How often the hand goes round before there is nothing to be had: an active page becomes inactive, then not
/// referenced, then it goes; and once more for what is used again meanwhile.
const ROUNDS: u32 = 4;

/// Which pages go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pick {
    /// Those that have not been used for longest.
    Old,
    /// Whatever may go, also what is in use.
    Any,
}

/// How many pages are written together at most: 128 KiB.
pub(super) const CLUSTER: usize = 32;

/// Of how many frames one is swapped out together with the others, at most.
const SHARE: u64 = 16;

/// From the first entry that is exchanged to the flush.
pub(crate) struct Unflushed<'a> {
    reclaim: &'a Reclaim,
    _lock: MutexGuard<'a, ()>,
}

impl Drop for Unflushed<'_> {
    fn drop(&mut self) {
        self.reclaim.is_unflushed.store(false, Ordering::Release);
    }
}

impl Reclaim {
    /// Begins a time in which entries are exchanged that are flushed at its end: who finds one waits for that
    /// ([`wait_for_flush`](Self::wait_for_flush)).
    pub(crate) fn unflushed(&self) -> Unflushed<'_> {
        let lock = self.unflushed.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_unflushed.store(true, Ordering::Release);
        Unflushed { reclaim: self, _lock: lock }
    }
}

impl System {
    /// Empties the entries of an object's pages, and flushes before anybody's call ends that finds them so.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(crate) fn zap_now(
        &self,
        maps: &Changing<'_>,
        pages: &Range<u64>,
        copies: Copies,
    ) -> Result<(), Broken> {
        let mut batch = FlushBatch::new();
        let _unflushed = self.reclaim.unflushed();
        maps.zap(pages, copies, self, &mut batch);
        self.flush_now(batch)
    }

    /// Swaps out these pages, whatever they were used for (`reclaim_pages`); each comes with a reference. With no
    /// lock that comes after [`Reclaim`]'s.
    pub(crate) fn swap_out_all(&self, pages: &[Frame]) -> Result<(), Broken> {
        let Some(swap) = self.swap().filter(|_| !pages.is_empty()) else { return Ok(()) };
        let _one_at_a_time = self.reclaim.begin();
        let batch = usize::try_from(BATCH).unwrap_or(usize::MAX);
        let mut parts = pages.chunks(batch);
        parts.try_for_each(|part| self.swap_out(swap, part, FlushBatch::new()).map(drop))
    }

    /// Swaps out some pages. Says how many frames are free for it.
    pub(super) fn swap_out_some(&self, hands: &mut Hands, pick: Pick) -> Result<u64, Broken> {
        let Some(swap) = self.swap() else { return Ok(0) };
        let want = (self.memory().frames() / SHARE).clamp(1, BATCH);
        let mut freed = 0;
        for _ in 0..ROUNDS {
            let mut batch = FlushBatch::new();
            let pages = self.pick(&mut hands.swap, pick, want, &mut batch)?;
            freed += self.swap_out(swap, &pages, batch)?;
            freed += self.swap_out_objects(&mut hands.objects, pick, want)?;
            if freed >= want / 2 {
                break;
            }
        }
        Ok(freed)
    }

    /// Goes round once, for at most so many pages that may go; each comes with a reference.
    fn pick(
        &self,
        hand: &mut u64,
        pick: Pick,
        want: u64,
        batch: &mut FlushBatch,
    ) -> Result<Vec<Frame>, Broken> {
        let frames = self.frames();
        let mut picked = Vec::new();
        let next = |part| frames.next_of(part, FrameKind::Anonymous);
        self.go_round(
            next,
            |_| true,
            hand,
            |frame| {
                let goes = match self.age(frame, batch) {
                    Age::Old => true,
                    Age::Young => pick == Pick::Any,
                    Age::Stays => false,
                };
                if goes {
                    frames.get(frame);
                    picked.push(frame);
                }
                (picked.len() as u64) < want
            },
        )?;
        Ok(picked)
    }

    /// Swaps out pages, with one flush, that of the batch; gives up the caller's references. Says how many frames are
    /// free for it.
    fn swap_out(&self, swap: &Swap, pages: &[Frame], mut batch: FlushBatch) -> Result<u64, Broken> {
        let frames = self.frames();
        batch.reaches_elsewhere();
        let mut out = Vec::new();
        let unflushed = self.reclaim.unflushed();
        for &frame in pages {
            match swap.add(frames, frame) {
                Some(slot) => {
                    self.unmap(swap, frame, slot, &mut batch);
                    out.push((slot, frame));
                }
                None => frames.put(frame)?,
            }
        }
        self.flush_now(batch)?;
        drop(unflushed);
        out.sort_unstable();
        self.write_out(swap, &out);
        let mut freed = 0;
        for (slot, frame) in out {
            // With a reference of our own nothing is dropped by that.
            swap.put(frames, slot)?;
            // If an entry has kept it, it may be written.
            swap.release(frames, frame)?;
            frames.put(frame)?;
            freed += swap.drop_unneeded(frames, &[frame])?;
        }
        Ok(freed)
    }

    /// Has the entries of a page name its place, up to the first that keeps it.
    fn unmap(&self, swap: &Swap, frame: Frame, slot: SwapSlot, batch: &mut FlushBatch) {
        let _ = self.anon().entries_of(self.frames(), frame, |found| {
            let mut entry = self.counted(&found);
            while entry.frame() == Some(frame) {
                if !may_go(entry) {
                    return ControlFlow::Break(());
                }
                swap.dup(slot);
                let to = Entry::swapped(slot).protected_as(entry);
                match self.tell_dropped(found.addr, || exchange(&found, entry, to)) {
                    Ok(()) => {
                        self.is_out(&found, entry, batch);
                        return ControlFlow::Continue(());
                    }
                    Err(now) => {
                        batch.note(swap.put(self.frames(), slot));
                        entry = now;
                    }
                }
            }
            ControlFlow::Continue(())
        });
    }

    /// An entry names the place of its page now.
    fn is_out(&self, found: &Found<'_>, was: Entry, batch: &mut FlushBatch) {
        let frames = self.frames();
        // Also with A clear: who cleared it may not have flushed yet.
        was.frame().into_iter().for_each(|frame| batch.lowered(frame));
        let class = PageClass::of(was, frames);
        batch.emptied(was, frames);
        found.counters.resident.remove(class);
        found.counters.swapped.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the pages that the store lacks, of those which no entry names any more. What cannot be written stays in
    /// its frame.
    fn write_out(&self, swap: &Swap, out: &[(SwapSlot, Frame)]) {
        let frames = self.frames();
        let lacking: Vec<_> = out
            .iter()
            .filter(|&&(slot, frame)| frames.maps(frame) == 0 && swap.lacks(slot))
            .collect();
        let mut buffer = vec![0; lacking.len().min(CLUSTER) * PAGE_BYTES];
        for run in lacking.chunk_by(|one, next| one.0.offset(1) == next.0) {
            for cluster in run.chunks(CLUSTER) {
                let bytes = &mut buffer[..cluster.len() * PAGE_BYTES];
                for (&&(_, frame), page) in cluster.iter().zip(bytes.chunks_mut(PAGE_BYTES)) {
                    frames.memory().read(frame.addr(), page);
                }
                if let Some(&&(first, _)) = cluster.first()
                    && let Err(error) = swap.write(first, bytes)
                {
                    log::error!("pages cannot be swapped out: {error}");
                }
            }
        }
        for &(_, frame) in out {
            frames.unmark(frame, Marks::ACTIVE | Marks::REFERENCED);
        }
    }
}
