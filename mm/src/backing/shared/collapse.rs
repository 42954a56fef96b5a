//! Pages of shared memory that become one piece, and are split again (Linux's `collapse_file`, and
//! `truncate_inode_partial_folio`).
//!
//! ```text
//!   collapse:  maps, exclusively ── entries of the 2 MiB empty, in all spaces ── flush ── nobody else has one of the
//!              pages? ── bytes copied, what is not there is zeros ── the object has the new frames
//!   a cut:     the page at the cut is split off, the rest are halves, quarters ...; what maps the whole is emptied
//! ```
//!
//! A large entry may map pages that have been split from each other since their frames moved: an entry goes as soon as
//! one of its pages does.

use std::ops::Range;

use super::{Payment, SharedMemory};
use crate::addr::{Frame, FrameRun, PAGE_SIZE};
use crate::backing::Folio;
use crate::error::{Broken, CallResult, Errno};
use crate::phys::Order;
use crate::promise::Payer;
use crate::rmap::{Changing, Copies};
use crate::system::System;

/// Whether somebody is to be told of pages that are not there (`userfaultfd_missing`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    /// They may be filled with zeros.
    Fills,
    /// They may not.
    IsTold,
}

impl SharedMemory {
    /// Whether the pages from `first` on are one that a large entry can map.
    pub(crate) fn is_huge(&self, first: u64) -> bool {
        self.cache.folio(first).is_some_and(|(folio, _)| folio.is_huge())
    }

    /// Makes the pages from `first` on, a multiple of 512, a huge one in the frames of `run`, to which it takes the
    /// references if it succeeds. No entry maps them then, and who had a table for them has one that holds nothing.
    ///
    /// # Errors
    /// In this order, with nothing changed but that entries are gone: `EINVAL` no page is there; `EAGAIN` somebody has
    /// one of them; `EINVAL` those that are not there are not promised; `EBUSY` somebody is to be told of them;
    /// `EINVAL` one cannot be read from the swap area. Source: `collapse_file` in Linux's `mm/khugepaged.c`.
    pub(crate) fn collapse(
        &self,
        first: u64,
        run: FrameRun,
        missing: Missing,
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<()> {
        let maps = self.maps.change();
        let folio = Folio { first, order: Order::HUGE.frames().ilog2() };
        let held = self.cache.held(folio.pages());
        let swapped = self.swapped.as_ref().map_or_else(Vec::new, |all| all.held(folio.pages()));
        let lacking = run.count - (held.len() + swapped.len()) as u64;
        if lacking == run.count {
            return Err(Errno::EINVAL.into());
        }
        system.zap_now(&maps, &folio.pages(), Copies::Stay)?;
        let frames = self.cache.frames();
        if held.iter().any(|&(_, frame)| frames.references(frame) > 1) {
            return Err(Errno::EAGAIN.into());
        }
        let promise = match &self.payment {
            Payment::EachPage(own) if lacking > 0 => {
                Some((own, payer.promise(lacking).map_err(|_| Errno::EINVAL)?))
            }
            _ => None,
        };
        if lacking > 0 && missing == Missing::IsTold {
            return Err(Errno::EBUSY.into());
        }
        let joined = self.cache.join(folio, run, |page, frame| self.fill(page, frame));
        joined.map_err(|error| {
            log::error!("a swapped page cannot be read: {error}");
            Errno::EINVAL
        })??;
        if let Some((own, more)) = promise {
            own.join(&more);
        }
        if let Some(swapped) = &self.swapped {
            swapped.forget(folio.pages())?;
        }
        maps.vacate(&folio.pages());
        Ok(())
    }

    /// Fills a frame with a page that is in none.
    fn fill(&self, page: u64, frame: Frame) -> std::io::Result<()> {
        let memory = self.cache.frames().memory();
        match self.swapped.as_ref().and_then(|swapped| swapped.read(page)) {
            None => memory.zero(frame),
            Some(bytes) => memory.write(frame.addr(), &bytes?),
        }
        Ok(())
    }

    /// The larger folios that pages of a range are in.
    pub(crate) fn folios(&self, pages: Range<u64>) -> Vec<Folio> {
        self.cache.folios(pages)
    }

    /// Makes single pages of a folio if no other space than this one shows any of it (`folio_maybe_mapped_shared`). Nobody
    /// shows it then, and what lies past the end of the object is gone (`split_folio`). Says whether it was done.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(crate) fn take_apart(
        &self,
        folio: Folio,
        space: u64,
        system: &System,
    ) -> Result<bool, Broken> {
        let pages = folio.pages();
        let Some(maps) = self.shown_here_alone(&pages, space) else { return Ok(false) };
        self.cache.part(pages.clone());
        system.zap_now(&maps, &pages, Copies::Stay)?;
        self.forget(self.pages().clamp(pages.start, pages.end)..pages.end)?;
        Ok(true)
    }

    /// Whether another space than this one shows any of a folio.
    pub(crate) fn is_shown_by_others(&self, folio: Folio, space: u64) -> bool {
        self.shown_here_alone(&folio.pages(), space).is_none()
    }

    /// The object's maps, exclusively, if no other space than this one shows any of these pages.
    fn shown_here_alone(&self, pages: &Range<u64>, space: u64) -> Option<Changing<'_>> {
        Some(self.maps.change()).filter(|maps| !maps.are_shown_by_others(space, pages))
    }

    /// Has nobody show a folio if no other space than this one does. Says whether it was done.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(crate) fn unmap_folio(
        &self,
        folio: Folio,
        space: u64,
        system: &System,
    ) -> Result<bool, Broken> {
        let pages = folio.pages();
        let Some(maps) = self.shown_here_alone(&pages, space) else { return Ok(false) };
        system.zap_now(&maps, &pages, Copies::Stay).map(|()| true)
    }

    /// Splits the folios that reach beyond a range of bytes which is about to go, and empties what maps them.
    /// The caller has the object's maps exclusively.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(super) fn split_around(
        &self,
        bytes: &Range<u64>,
        maps: &Changing<'_>,
        system: &System,
    ) -> Result<(), Broken> {
        let Some(last) = bytes.end.checked_sub(1).filter(|_| !bytes.is_empty()) else {
            return Ok(());
        };
        let first = self.cut(bytes.start / PAGE_SIZE, bytes, maps, system)?;
        let last = last / PAGE_SIZE;
        if first.is_none_or(|folio| !folio.pages().contains(&last)) {
            self.cut(last, bytes, maps, system)?;
        }
        Ok(())
    }

    /// The folio that a page is in, if it is a larger one, split where it crosses the ends of a range of bytes.
    fn cut(
        &self,
        page: u64,
        bytes: &Range<u64>,
        maps: &Changing<'_>,
        system: &System,
    ) -> Result<Option<Folio>, Broken> {
        let Some((folio, _)) = self.cache.folio(page) else { return Ok(None) };
        let pages = folio.pages();
        let (start, end) = (pages.start * PAGE_SIZE, pages.end * PAGE_SIZE);
        if bytes.start <= start && end <= bytes.end {
            return Ok(Some(folio));
        }
        self.cache.split_at(bytes.start.max(start) / PAGE_SIZE);
        if bytes.end < end {
            self.cache.split_at(bytes.end / PAGE_SIZE);
        }
        system.zap_now(maps, &pages, Copies::Stay)?;
        Ok(Some(folio))
    }
}
