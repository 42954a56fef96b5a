//! Pages of shared memory that are in the swap area (Linux's swap entries in a page cache). A page is either there or
//! in a frame: it goes while nobody holds the object, and comes back when it is asked for.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SharedMemory;
use crate::addr::{Frame, PAGE_BYTES, SwapSlot};
use crate::backing::BackingError;
use crate::error::Broken;
use crate::phys::{Contents, Frames, Marks};
use crate::rmap::Changing;
use crate::swap::Swap;
use crate::system::System;

/// What an object has in the swap area.
#[derive(Debug)]
pub(super) struct Swapped {
    swap: Arc<Swap>,
    frames: Arc<Frames>,
    /// The object's, among all that can go there.
    number: u64,
    /// By page. Over the area's lock; under that of the object's frames.
    places: Mutex<BTreeMap<u64, SwapSlot>>,
}

impl Swapped {
    /// Whether the page is there.
    pub(super) fn holds(&self, page: u64) -> bool {
        self.places().contains_key(&page)
    }

    /// The pages of a range that are there.
    pub(super) fn held(&self, pages: Range<u64>) -> Vec<u64> {
        self.places().range(pages).map(|(&page, _)| page).collect()
    }

    /// How many pages are there.
    pub(super) fn count(&self) -> u64 {
        self.places().len() as u64
    }

    /// The first page from `page` on that is there.
    pub(super) fn next_held(&self, page: u64) -> Option<u64> {
        self.places().range(page..).next().map(|(&page, _)| page)
    }

    /// The bytes of a page, if it is there.
    pub(super) fn read(&self, page: u64) -> Option<io::Result<[u8; PAGE_BYTES]>> {
        let slot = self.places().get(&page).copied()?;
        Some(self.swap.read(slot))
    }

    /// The places of pages, of which the caller is a user more, so that they stay theirs.
    fn hold(&self, pages: &[u64]) -> Vec<(SwapSlot, u64)> {
        let places = self.places();
        let held = pages.iter().filter_map(|&page| Some((places.get(&page).copied()?, page)));
        held.inspect(|&(slot, _)| self.swap.dup(slot)).collect()
    }

    /// Whether the bytes of a page are at this place.
    fn is_at(&self, page: u64, slot: SwapSlot) -> bool {
        self.places().get(&page) == Some(&slot)
    }

    /// Changes the bytes of a page, if it is there. Nobody else does meanwhile.
    pub(super) fn rewrite(&self, page: u64, change: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let Some(slot) = self.places().get(&page).copied() else { return Ok(()) };
        let mut bytes = self.swap.read(slot)?;
        change(&mut bytes);
        self.swap.write(slot, &bytes)
    }

    /// Notes where the bytes of a page are.
    pub(super) fn add(&self, page: u64, slot: SwapSlot) {
        self.places().insert(page, slot);
    }

    /// Gives up the places of a range; says how many there were.
    pub(super) fn forget(&self, pages: Range<u64>) -> Result<u64, Broken> {
        let mut places = self.places();
        let gone: Vec<_> = places.range(pages).map(|(&page, &slot)| (page, slot)).collect();
        for &(page, slot) in &gone {
            places.remove(&page);
            self.swap.put(&self.frames, slot)?;
        }
        Ok(gone.len() as u64)
    }

    /// Has the bytes of a page in its frame from now on.
    fn fill(&self, page: u64, frame: Frame, bytes: &[u8]) -> Result<(), BackingError> {
        self.frames.memory().write(frame.addr(), bytes);
        self.frames.mark(frame, Marks::DIRTY);
        self.forget(page..page + 1)?;
        Ok(())
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<u64, SwapSlot>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        self.swap.objects.remove(self.number);
        if let Err(broken) = self.forget(0..u64::MAX) {
            log::error!("shared memory cannot give up its places in the swap area: {broken}");
        }
    }
}

impl SharedMemory {
    /// The object, whose pages can be swapped out from now on if the machine has swap.
    #[must_use]
    pub fn swappable(self, system: &System) -> Arc<Self> {
        let Some(swap) = system.swap_area() else { return Arc::new(self) };
        let number = swap.objects.new_number();
        let (swap, frames) = (Arc::clone(swap), Arc::clone(system.frames()));
        let swapped = Swapped { swap, frames, number, places: Mutex::default() };
        let object = Arc::new(SharedMemory { swapped: Some(swapped), ..self });
        system.swap().into_iter().for_each(|swap| swap.objects.add(number, &object));
        object
    }

    /// How many of its pages are in the swap area.
    #[must_use]
    pub fn swapped_pages(&self) -> u64 {
        self.swapped.as_ref().map_or(0, Swapped::count)
    }

    /// The places that its pages have there: for the audit.
    pub(crate) fn places(&self) -> Vec<SwapSlot> {
        let places = self.swapped.iter().flat_map(|swapped| swapped.places().clone());
        places.map(|(_, slot)| slot).collect()
    }

    /// Whether its pages can be swapped out.
    pub(crate) fn is_swappable(&self) -> bool {
        self.swapped.is_some()
    }

    /// Keeps out whoever looks for its pages, or maps them.
    pub(crate) fn change_maps(&self) -> Changing<'_> {
        self.maps.change()
    }

    /// At most so many of its pages from `page` on that are in frames.
    pub(crate) fn held_from(&self, page: u64, most: usize) -> Vec<(u64, Frame)> {
        self.cache.held_from(page, most)
    }

    /// The frame of a page, if it is in one.
    pub(crate) fn held(&self, page: u64) -> Option<Frame> {
        self.cache.get(page)
    }

    /// The bytes of a page are at this place from now on, and not in its frame, which nobody but the object has.
    pub(crate) fn swap_to(&self, page: u64, slot: SwapSlot) -> Result<(), Broken> {
        let Some(swapped) = &self.swapped else { return Ok(()) };
        swapped.add(page, slot);
        self.cache.take(page).map_or(Ok(()), |frame| swapped.frames.put(frame))
    }

    pub(super) fn is_swapped(&self, page: u64) -> bool {
        self.swapped.as_ref().is_some_and(|swapped| swapped.holds(page))
    }

    /// Brings in pages that are in the swap area, as far as there are frames and they can be read.
    pub(super) fn swap_in_together(&self, pages: &[u64]) -> Result<(), Broken> {
        let Some(swapped) = &self.swapped else { return Ok(()) };
        let held = swapped.hold(pages);
        let (mut brought, mut broken) = (Vec::new(), Ok(()));
        swapped.swap.read_runs(&held, |&(slot, page), bytes| {
            let found = self.cache.page(
                page,
                Contents::Any,
                || self.wish(page),
                |_, frame| {
                    // Whoever was faster may have changed it since, and it may have gone to another place.
                    if !swapped.is_at(page, slot) {
                        return Err(BackingError::NoPage);
                    }
                    swapped.fill(page, frame, bytes)
                },
            );
            match found {
                Ok(frame) => brought.push(frame),
                Err(BackingError::Broken(error)) => broken = Err(error),
                Err(BackingError::NoPage | BackingError::OutOfMemory) => {}
            }
        });
        brought.into_iter().try_for_each(|frame| swapped.frames.put(frame))?;
        held.into_iter().try_for_each(|(slot, _)| swapped.swap.put(&swapped.frames, slot))?;
        broken
    }

    /// Fills a frame with a page that is in the swap area, which it leaves; says whether it was there.
    pub(super) fn swap_in(&self, page: u64, frame: Frame) -> Result<bool, BackingError> {
        let Some(swapped) = &self.swapped else { return Ok(false) };
        match swapped.read(page) {
            None => Ok(false),
            Some(Err(error)) => {
                log::error!("a swapped page cannot be read: {error}");
                Err(BackingError::NoPage)
            }
            Some(Ok(bytes)) => swapped.fill(page, frame, &bytes).map(|()| true),
        }
    }
}
