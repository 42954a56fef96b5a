//! Pages of a pager's memory leave.
//!
//! ```text
//!   maps, exclusively: chosen, out of use ─ their entries go, in all spaces
//!   no lock:           flush ─ one by one: anybody else there? written? taken? watched
//!   its own lock:      gone, or of use again: who waits for it is woken
//! ```
//!
//! Between its choice and its end nobody can map a page: who needs it waits. Whoever else has a reference after the
//! flush is about to map it, or has just unmapped it and not flushed yet, so that his vCPUs may still write: it stays.

use std::io;

use super::paged::Paged;
use super::pages::Outcome;
use crate::addr::{Frame, PAGE_BYTES, PAGE_SIZE, index};
use crate::error::Broken;
use crate::paging::FlushBatch;
use crate::phys::Marks;
use crate::rmap::{Changing, Copies};
use crate::system::System;

/// The most pages that leave together, with one flush: 2 MiB.
pub(super) const BATCH: u64 = 512;

/// Whether closures may be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Closures {
    /// No lock is held.
    MayRun,
    /// The caller has locks, or is called by a closure itself: what was written stays.
    MayNot,
}

/// A page that is out of use.
type Out = (u64, Frame);

impl Paged {
    /// Has so many of the oldest pages leave. Says how many did.
    pub(super) fn shrink(&self, pages: u64, system: &System) -> Result<u64, Broken> {
        let closures = if system.pagers.is_inside() { Closures::MayNot } else { Closures::MayRun };
        let (mut left, mut gone) = (pages, 0);
        while left > 0 {
            let some = left.min(BATCH);
            let evicted = self.evict_oldest(some, closures, system)?;
            gone += evicted;
            if evicted < some {
                break;
            }
            left -= some;
        }
        Ok(gone)
    }

    /// Has some of the oldest pages leave, where memory is short: those that can.
    pub(super) fn give_up(&self, closures: Closures, system: &System) -> Result<u64, Broken> {
        let mut left = self.pages.lock().count();
        while left > 0 {
            let share = self.share();
            let gone = self.evict_oldest(share, closures, system)?;
            if gone > 0 {
                return Ok(gone);
            }
            left = left.saturating_sub(share);
        }
        Ok(0)
    }

    /// How many leave at once where memory is short.
    pub(super) fn share(&self) -> u64 {
        (self.pages.lock().count() / 8 + 1).min(BATCH)
    }

    /// Has the oldest pages leave, so many at most.
    pub(super) fn evict_oldest(
        &self,
        most: u64,
        closures: Closures,
        system: &System,
    ) -> Result<u64, Broken> {
        if closures == Closures::MayNot && self.pager.watch.is_some() {
            return Ok(0);
        }
        let may = |&(_, frame): &Out| {
            let written = self.frames.marks(frame).contains(Marks::DIRTY);
            // Others may change that at any time: it is only to spare pages a flush for nothing.
            let idle = self.frames.references(frame) == self.frames.maps(frame) + 1;
            idle && (closures == Closures::MayRun || !written)
        };
        self.evict(closures, system, |maps| {
            let mut chosen = Vec::new();
            // Each is looked at once.
            let mut left = self.pages.lock().count();
            loop {
                let want = index(left.min(most - chosen.len() as u64));
                let some: Vec<Out> = self.pages.lock().oldest().filter(may).take(want).collect();
                if some.is_empty() {
                    break;
                }
                left -= some.len() as u64;
                for (page, frame) in some {
                    if maps.keeps(page) {
                        self.pages.lock().comes_last(page);
                    } else {
                        self.pages.lock().take_out(page);
                        chosen.push((page, frame));
                    }
                }
            }
            chosen
        })
    }

    /// Has those pages leave that programs want to be out of memory.
    pub(super) fn evict_unwanted(&self, system: &System) -> Result<u64, Broken> {
        self.evict(Closures::MayRun, system, |_| {
            let mut held = self.pages.lock();
            let mut unwanted = std::mem::take(&mut held.unwanted);
            unwanted.sort_unstable();
            unwanted.dedup();
            // Somebody may have mapped it since, or always had.
            let unneeded = |&(_, frame): &Out| self.frames.references(frame) == 1;
            let here = unwanted.into_iter().filter_map(|page| Some((page, held.here(page)?)));
            let chosen: Vec<Out> = here.filter(unneeded).collect();
            chosen.iter().for_each(|&(page, _)| held.take_out(page));
            chosen
        })
    }

    /// Whether none but entries has a page that is out of use. Else somebody has unmapped it, noted perhaps that it was
    /// written, and not flushed yet. The count of maps does not tell: it falls later than he notes that.
    fn is_idle(&self, page: u64, frame: Frame) -> bool {
        let before = self.frames.references(frame);
        let entries = self.maps.hold().entries_of(page, frame);
        // A fork meanwhile may have made both more, by as many as somebody else had.
        before == entries + 1 && self.frames.references(frame) == before
    }

    /// Has the pages leave that `choose` takes out of use.
    fn evict(
        &self,
        closures: Closures,
        system: &System,
        choose: impl FnOnce(&Changing<'_>) -> Vec<Out>,
    ) -> Result<u64, Broken> {
        system.pagers.round(|| self.evict_now(closures, system, choose))
    }

    fn evict_now(
        &self,
        closures: Closures,
        system: &System,
        choose: impl FnOnce(&Changing<'_>) -> Vec<Out>,
    ) -> Result<u64, Broken> {
        let mut batch = FlushBatch::new();
        let chosen = {
            let maps = self.maps.change();
            let mut chosen = choose(&maps);
            chosen.sort_unstable_by_key(|&(page, _)| page);
            for run in chosen.chunk_by(|one, next| one.0 + 1 == next.0) {
                if let (Some(first), Some(last)) = (run.first(), run.last()) {
                    // One that is locked meanwhile stays.
                    maps.zap(&(first.0..last.0 + 1), Copies::StayAndLocked, system, &mut batch);
                }
            }
            chosen
        };
        let flushed = system.finish(batch);
        let (mut gone, mut broken) = (0, flushed.err());
        for (page, frame) in chosen {
            let outcome = match broken {
                // The machine stops; nobody shall wait for ever.
                Some(_) => Outcome::Stays,
                None => self.let_go(page, frame, closures, system),
            };
            self.pages.done(page, outcome);
            if outcome == Outcome::Goes {
                gone += 1;
                broken = self.frames.put(frame).err();
            }
        }
        broken.map_or(Ok(gone), Err)
    }

    /// Does what must be done before a page can go, of which there are no entries any more.
    fn let_go(&self, page: u64, frame: Frame, closures: Closures, system: &System) -> Outcome {
        if closures == Closures::MayRun
            && let Err(error) = self.take_if_written(page, frame, Some(system))
        {
            log::warn!("{}: page {page} is not taken: {error}", self.pager.name);
            return Outcome::ComesLast;
        }
        // In this order: who has just unmapped it notes what was written before he gives up his reference.
        if self.frames.references(frame) != 1 || self.frames.marks(frame).contains(Marks::DIRTY) {
            return Outcome::ComesLast;
        }
        system.pagers.inside(|| self.show(page, frame));
        Outcome::Goes
    }

    /// Shows a page that leaves to who wants to see it.
    pub(super) fn show(&self, page: u64, frame: Frame) {
        if self.pager.watch.is_some() {
            self.pager.watch(page * PAGE_SIZE, &self.bytes(frame));
        }
    }

    /// Gives a page to the taker if it has been written. It counts as written again if that fails, or somebody may
    /// have written it meanwhile. There is no system where it is at its end.
    pub(super) fn take_if_written(
        &self,
        page: u64,
        frame: Frame,
        system: Option<&System>,
    ) -> io::Result<()> {
        if !self.frames.marks(frame).contains(Marks::DIRTY) {
            return Ok(());
        }
        // In this order: what is written later than the bytes are read is noted anew, or was noted by who is found.
        self.frames.unmark(frame, Marks::DIRTY);
        let idle = self.is_idle(page, frame);
        let bytes = self.bytes(frame);
        let take = || self.pager.take(page * PAGE_SIZE, &bytes);
        let taken = system.map_or_else(take, |system| system.pagers.inside(take));
        if taken.is_err() || !idle {
            self.frames.mark(frame, Marks::DIRTY);
        }
        taken
    }

    fn bytes(&self, frame: Frame) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        self.frames.memory().read(frame.addr(), &mut bytes);
        bytes
    }
}
