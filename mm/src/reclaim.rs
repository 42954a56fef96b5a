//! Memory that is given up when there is none left, before anybody is told so: what nobody would miss (Linux's
//! `mm/vmscan.c`), then what can be had again.
//!
//! ```text
//!   1  pages that came ahead of a touch and were never touched     nobody knows of them; nothing to flush
//!   2  tables that wait for a flush of everything (retired)        that flush
//!   3  what MADV_FREE gave up and nobody wrote since, and          one flush a batch; reads as zeros then
//!      MAP_DROPPABLE memory
//!   4  pages of pagers that nobody has written, the oldest          one flush a batch; come again when touched
//!   5  windows on files of the host, the oldest                    likewise
//!   6  pages of processes' own and of shared memory, those          swapped out, where there is swap (`swap`,
//!      least recently used                                          `objects`)
//! ```
//!
//! Who finds no frame gives up what he was doing, with every lock but his space's own and that of an object he
//! changes as a file, has this done, and tries again ([`System::or_reclaim`]). Only when nothing came of it he says what Linux says: `SIGKILL` for the
//! program, `ENOMEM` from fork.
//!
//! Pages are found by their frames' marks, going round all of memory, and their entries by the reverse map, in all
//! spaces: like a hand-off (`space/fault/handoff`) it has none of their locks, changes each entry by one exchange,
//! and holds the table still meanwhile. So whoever takes a frame from an entry and goes on to use it, without a
//! reference to it, holds his own table still as well.
//!
//! ```text
//!   lazy page F, two entries         clean ──exchange──> empty ─┐
//!                                    clean ──exchange──> empty ─┴─ flush ──> F is free
//!   written since                    clean ──exchange──> empty       (its space gave it up: zeros)
//!                                    dirty ──────────────────> kept, and no longer lazy (`PG_swapbacked`)
//! ```

mod age;
mod objects;
mod swap;

use objects::ObjectHand;
use swap::Pick;

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::addr::{Frame, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::Broken;
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch};
use crate::phys::{FrameKind, Marks};
use crate::rmap::Found;
use crate::space::PageClass;
use crate::system::System;

/// How many pages are given up together, with one flush: 2 MiB.
const BATCH: u64 = 512;

/// What has been given up for want of memory, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reclaimed {
    /// Pages that came ahead of a touch and were never touched.
    pub ahead: u64,
    /// Page tables that waited for a flush.
    pub tables: u64,
    /// Pages that `MADV_FREE` had given up (`pglazyfreed` of /proc/vmstat), or of `MAP_DROPPABLE` memory.
    pub lazy: u64,
    /// Pages of pagers, also those that had to be taken first ([`System::or_page_out`]).
    pub paged: u64,
    /// Of windows on files of the host.
    pub windows: u64,
    /// Pages that were swapped out.
    pub swapped: u64,
}

/// What a machine remembers between two reclaims.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// Over a whole reclaim: who comes second finds what the first one has freed, and not what he is about to.
    /// Under the lock of a space, over those of a family.
    hands: Mutex<Hands>,
    /// How many have freed something.
    rounds: AtomicU64,
    ahead: AtomicU64,
    tables: AtomicU64,
    lazy: AtomicU64,
    paged: AtomicU64,
    windows: AtomicU64,
    swapped: AtomicU64,
    /// From the first entry that names a place of the swap area, or is emptied for one, to the flush: see
    /// [`wait_for_flush`](Self::wait_for_flush). Under `hands`, over the locks of families.
    unflushed: Mutex<()>,
    is_unflushed: AtomicBool,
}

/// Which frame is looked at next.
#[derive(Debug, Default)]
struct Hands {
    ahead: u64,
    lazy: u64,
    swap: u64,
    objects: ObjectHand,
}

/// What becomes of an anonymous page that is to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// There is no swap to put it into, or it is put there.
    Stays,
    /// It has been written since it was given up, so it is needed.
    IsKept,
    /// Nobody needs its bytes.
    Goes,
}

impl Fate {
    /// By what is known of the page, and one entry that names it (`shrink_folio_list`, `try_to_unmap_one`).
    pub(crate) fn of(entry: Entry, marks: Marks) -> Self {
        let written = entry.is_dirty() || marks.contains(Marks::DIRTY);
        match marks.contains(Marks::LAZY) {
            false => Fate::Stays,
            true if written && !marks.contains(Marks::DROPPABLE) => Fate::IsKept,
            true => Fate::Goes,
        }
    }
}

impl System {
    /// Makes an attempt, and again as long as it fails for want of a frame and there is memory to be given up.
    /// When it fails it must leave nothing behind that would be given up then: that would never end.
    ///
    /// The caller may have the lock of a space and that of an object's changes as a file, and no lock that comes
    /// after them.
    ///
    /// # Errors
    /// Those of the attempt; [`Broken`] when a flush fails.
    pub fn or_reclaim<T, E: From<Broken>>(
        &self,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let (refusals, rounds) = (self.frames().refusals(), self.reclaim.rounds());
            let result = attempt();
            if result.is_ok() || self.frames().refusals() == refusals {
                return result;
            }
            let mut hands = self.reclaim.begin();
            // Another one may have freed something while this one was on its way.
            if self.reclaim.rounds() == rounds && self.give_up(&mut hands)? == 0 {
                return result;
            }
        }
    }

    /// Gives up some of what nobody would miss, and says how many frames that was.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails: the frames are then never used again.
    pub fn reclaim(&self) -> Result<u64, Broken> {
        self.give_up(&mut self.reclaim.begin())
    }

    /// Swaps out pages that are not in use.
    #[cfg(test)]
    pub(crate) fn swap_out_old(&self) -> Result<u64, Broken> {
        self.swap_out_some(&mut self.reclaim.begin(), Pick::Old)
    }

    /// Keeps everybody from giving up memory as long as it is held. With the lock of a space at most.
    pub(crate) fn keep_reclaim_out(&self) -> impl Drop + '_ {
        self.reclaim.begin()
    }

    /// What has been given up so far.
    #[must_use]
    pub fn reclaimed(&self) -> Reclaimed {
        let Reclaim { ahead, tables, lazy, paged, windows, swapped, .. } = &self.reclaim;
        let all = [ahead, tables, lazy, paged, windows, swapped];
        let [ahead, tables, lazy, paged, windows, swapped] = all.map(|n| n.load(Ordering::Relaxed));
        Reclaimed { ahead, tables, lazy, paged, windows, swapped }
    }

    /// Counts pages that pagers have given up.
    pub(crate) fn count_paged_out(&self, frames: u64) {
        self.reclaim.paged.fetch_add(frames, Ordering::Relaxed);
    }

    /// Some of the first kind of which there is something. With swap it is not for a while of bad luck that anybody is
    /// told there is nothing: what is swapped out may be wanted again before it is written, over and over (Linux's
    /// `should_reclaim_retry`).
    fn give_up(&self, hands: &mut Hands) -> Result<u64, Broken> {
        let picks: &[Pick] = match self.swap() {
            Some(_) => &[Pick::Old, Pick::Any, Pick::Any, Pick::Any],
            None => &[Pick::Old],
        };
        for &pick in picks {
            let freed = self.give_up_first(hands, pick)?;
            if freed > 0 {
                self.reclaim.rounds.fetch_add(1, Ordering::Release);
                return Ok(freed);
            }
        }
        Ok(0)
    }

    fn give_up_first(&self, hands: &mut Hands, pick: Pick) -> Result<u64, Broken> {
        let count = |counter: &AtomicU64, frames| {
            counter.fetch_add(frames, Ordering::Relaxed);
            frames
        };
        let reclaim = &self.reclaim;
        let mut freed = count(&reclaim.ahead, self.drop_untouched(&mut hands.ahead)?);
        if freed == 0 {
            freed = count(&reclaim.tables, self.free_retired()?);
        }
        if freed == 0 {
            freed = count(&reclaim.lazy, self.drop_lazy(&mut hands.lazy)?);
        }
        if freed == 0 {
            freed = count(&reclaim.paged, self.drop_clean_pages()?);
        }
        if freed == 0 {
            freed = count(&reclaim.windows, self.close_windows()?);
        }
        if freed == 0 {
            freed = count(&reclaim.swapped, self.swap_out_some(hands, pick)?);
        }
        Ok(freed)
    }

    /// Drops pages that came ahead of a touch and were never touched.
    fn drop_untouched(&self, hand: &mut u64) -> Result<u64, Broken> {
        let frames = self.frames();
        let mut batch = FlushBatch::new();
        self.each_marked(Marks::AHEAD, hand, |frame| {
            let found = self.anon().entries_of(frames, frame, |found| {
                // Whose A is clear here never had it set.
                if found.entry.is_unseen() && empty(&found, found.entry).is_ok() {
                    batch.emptied(found.entry, frames);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            if found.is_continue() {
                // By now it is a page like others.
                frames.unmark(frame, Marks::AHEAD);
            }
            batch.quarantined() < BATCH
        })?;
        self.finish_counted(batch)
    }

    /// Drops pages whose bytes nobody needs.
    fn drop_lazy(&self, hand: &mut u64) -> Result<u64, Broken> {
        let mut batch = FlushBatch::new();
        batch.reaches_elsewhere();
        self.each_marked(Marks::LAZY, hand, |frame| {
            self.drop_entries(frame, &mut batch);
            batch.quarantined() < BATCH
        })?;
        self.finish_counted(batch)
    }

    /// Empties the entries of a lazy page up to the first that keeps it. The caller has a reference.
    fn drop_entries(&self, frame: Frame, batch: &mut FlushBatch) {
        let frames = self.frames();
        let _ = self.anon().entries_of(frames, frame, |found| {
            let mut entry = found.entry;
            while entry.frame() == Some(frame) {
                if entry.is_locked() || entry.is_leaving() || entry.is_large() {
                    return ControlFlow::Break(());
                }
                match Fate::of(entry, frames.marks(frame)) {
                    Fate::Stays => return ControlFlow::Break(()),
                    Fate::IsKept => {
                        frames.mark_folio(frame, Marks::DIRTY);
                        frames.unmark_folio(frame, Marks::LAZY);
                        return ControlFlow::Break(());
                    }
                    Fate::Goes => match self.tell_dropped(found.addr, || empty(&found, entry)) {
                        Ok(()) => {
                            // Also with A clear: the advice that cleared it may not have flushed yet.
                            batch.lowered(frame);
                            let class = PageClass::of(entry, frames);
                            batch.emptied(entry, frames);
                            found.counters.resident.remove(class);
                            return ControlFlow::Continue(());
                        }
                        Err(now) => entry = now,
                    },
                }
            }
            ControlFlow::Continue(())
        });
    }

    fn tell_dropped<T>(&self, page: VirtAddr, change: impl FnOnce() -> T) -> T {
        match PageRange::from_len(page, PAGE_SIZE) {
            Some(page) => self.invalidate(page, Invalidation::Clear, change),
            None => change(),
        }
    }

    /// Goes once round the frames that have the mark, from the `hand` on, as long as `then` wants more. It holds
    /// a reference to each meanwhile.
    fn each_marked(
        &self,
        mark: Marks,
        hand: &mut u64,
        then: impl FnMut(Frame) -> bool,
    ) -> Result<(), Broken> {
        let frames = self.frames();
        let next = |part| frames.next_marked(part, mark);
        self.go_round(next, |frame| frames.marks(frame).contains(mark), hand, then)
    }

    /// Goes once round the anonymous frames that `next` finds, from the `hand` on. With a reference to one it looks
    /// again whether it `fits`.
    fn go_round(
        &self,
        next: impl Fn(Range<u64>) -> Option<Frame>,
        fits: impl Fn(Frame) -> bool,
        hand: &mut u64,
        mut then: impl FnMut(Frame) -> bool,
    ) -> Result<(), Broken> {
        let (frames, end) = (self.frames(), self.memory().frames());
        let start = (*hand).min(end);
        for part in [start..end, 0..start] {
            *hand = part.start;
            while let Some(frame) = next(*hand..part.end) {
                *hand = frame.number() + 1;
                if !frames.try_get(frame) {
                    continue;
                }
                // It may have become another page by then.
                let is_it = frames.kind(frame) == Some(FrameKind::Anonymous) && fits(frame);
                let goes_on = !is_it || then(frame);
                frames.put(frame)?;
                if !goes_on {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Flushes, and says how many frames have been given up.
    fn finish_counted(&self, batch: FlushBatch) -> Result<u64, Broken> {
        let given_up = batch.quarantined();
        self.finish(batch)?;
        Ok(given_up)
    }
}

impl Reclaim {
    fn begin(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what is named by places of the swap area by now is in no translation cache. Who has found such an
    /// entry, and lets go of the lock of its space, must not be surprised by an access through an old translation.
    /// With no lock that comes after `unflushed`.
    #[inline]
    pub(crate) fn wait_for_flush(&self) {
        if self.is_unflushed() {
            drop(self.unflushed.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether there may be translations of what a place of the swap area was found named for by now.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.is_unflushed.load(Ordering::Acquire)
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }
}

/// Empties an entry if it is still this one; else it is returned as it is now.
fn empty(found: &Found<'_>, entry: Entry) -> Result<(), Entry> {
    let (gone, failed) = (Ordering::AcqRel, Ordering::Acquire);
    let emptied = found.slot.compare_exchange(entry.raw(), Entry::EMPTY.raw(), gone, failed);
    emptied.map(drop).map_err(Entry::new)
}
