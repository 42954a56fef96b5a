//! The swap area: pages of anonymous memory that are in no frame, and frames that hold the page of a place (Linux's
//! `mm/swapfile.c` and `mm/swap_state.c`).
//!
//! ```text
//!   entries ── name ──> a place: how many entries ──> the store: its bytes
//!                         │
//!                         └── the cache: a frame with the same bytes, to which it holds a reference
//! ```
//!
//! What keeps it right, and nobody's lock of a space is needed for:
//!
//! - **The bytes of a place that is used never change.** As long as a frame is in the cache it has one reference
//!   more than entries name it, so nobody may write it in place (`Frames::is_exclusive`). It is taken out for that
//!   only when no entry names the place.
//! - **Two that come for one place get one frame.** Who reads it from the store is a user of the place meanwhile, so
//!   that it stays the same page's; who comes second gives up what he has read.
//! - **An entry leaves the place by an exchange under the area's lock** ([`Swap::take`]): as long as it names the
//!   place, the cache's frame is its page. Whoever goes on to use a frame that he got before would otherwise have
//!   that of another page, if place and entry have come back meanwhile.

mod area;
mod objects;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use store::{MemoryStore, SwapStore};

use area::{Area, Cached};
use objects::Objects;

use crate::addr::{Frame, FrameRun, PAGE_BYTES, SwapSlot};
use crate::error::Broken;
use crate::failure::FailPoint;
use crate::phys::{AllocError, Contents, FrameKind, Frames, Marks, ReverseOwner, Wish};

/// How many pages are read together at most: 64 KiB.
const CLUSTER: usize = 16;

/// What is in the swap area, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwapStats {
    /// Places there are (`SwapTotal` of /proc/meminfo).
    pub total: u64,
    /// Places taken: `SwapTotal` less `SwapFree`.
    pub used: u64,
    /// Of them, those whose page a frame holds (`SwapCached`).
    pub cached: u64,
    /// Pages written so far (`pswpout` of /proc/vmstat).
    pub written: u64,
    /// Pages read so far (`pswpin`).
    pub read: u64,
}

/// Why a page of the swap area could not be had.
#[derive(Debug)]
pub(crate) enum Unswappable {
    /// The entry that named the place has changed: look again.
    Lost,
    /// The store could not be read.
    Unreadable,
    /// There is no frame for it.
    NoFrame(AllocError),
}

impl From<Broken> for Unswappable {
    fn from(broken: Broken) -> Self {
        Unswappable::NoFrame(broken.into())
    }
}

/// Who has a page whose entry is about to name its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// This entry alone: it may be written in place, and then nobody but the frame has the bytes.
    Alone,
    /// Others, or the cache.
    Shared,
}

/// The swap area of a machine.
#[derive(Debug)]
pub struct Swap {
    store: Box<dyn SwapStore>,
    /// A leaf lock but for Frames': also under the structure of page tables.
    area: Mutex<Area>,
    written: AtomicU64,
    read: AtomicU64,
    /// The objects whose pages can go there. A leaf lock.
    pub(crate) objects: Objects,
    /// Places taken: each counts.
    pub failures: FailPoint,
}

impl Swap {
    pub(crate) fn new(store: Box<dyn SwapStore>) -> Self {
        let area = Mutex::new(Area::new(store.slots()));
        let (written, read) = (AtomicU64::new(0), AtomicU64::new(0));
        let (objects, failures) = (Objects::default(), FailPoint::default());
        Swap { store, area, written, read, objects, failures }
    }

    /// What is in it now.
    #[must_use]
    pub fn stats(&self) -> SwapStats {
        let area = self.area();
        let [written, read] = [&self.written, &self.read].map(|n| n.load(Ordering::Relaxed));
        let (total, used, cached) = (area.total(), area.used(), area.cached_pages());
        SwapStats { total, used, cached, written, read }
    }

    /// How many entries and objects name a place (`swp_swapcount`).
    #[must_use]
    pub fn users(&self, slot: SwapSlot) -> u32 {
        self.area().users(slot)
    }

    /// Whether a frame holds the page of a place.
    #[must_use]
    pub fn is_cached(&self, slot: SwapSlot) -> bool {
        self.area().cached(slot).is_some()
    }

    /// Whether the store has the page that a frame holds.
    #[must_use]
    pub fn has_stored(&self, frame: Frame) -> bool {
        let area = self.area();
        let cached = area.slot_of(frame).and_then(|slot| area.cached(slot));
        cached.is_some_and(|cached| cached.stored)
    }

    /// The place whose page a frame holds.
    #[must_use]
    pub fn slot_of(&self, frame: Frame) -> Option<SwapSlot> {
        self.area().slot_of(frame)
    }

    /// All places that are taken: how many entries name each, and the frame that holds its page.
    #[must_use]
    pub fn all(&self) -> Vec<(SwapSlot, u32, Option<Frame>)> {
        let frame = |cached: Cached| cached.frame;
        self.area().all().map(|(slot, users, cached)| (slot, users, cached.map(frame))).collect()
    }

    /// One entry more names the place.
    pub(crate) fn dup(&self, slot: SwapSlot) {
        self.area().use_more(slot);
    }

    /// The page of a place is another's from now on, also where a frame has it.
    pub(crate) fn move_owner(&self, frames: &Frames, slot: SwapSlot, owner: ReverseOwner) {
        let mut area = self.area();
        area.set_owner(slot, owner);
        if let Some(Cached { frame, .. }) = area.cached(slot) {
            frames.set_owners(FrameRun { start: frame, count: 1 }, owner);
        }
    }

    /// One entry less names the place.
    ///
    /// # Errors
    /// [`Broken`] if none did, or the frame that held its page cannot be given up.
    pub(crate) fn put(&self, frames: &Frames, slot: SwapSlot) -> Result<(), Broken> {
        let mut area = self.area();
        let left = area.use_less(slot);
        let left = left.ok_or_else(|| Broken::Invariant(format!("{slot:?} is not used")))?;
        let unneeded = area.cached(slot).filter(|_| left == 0).map(|cached| cached.frame);
        let Some(frame) = unneeded.filter(|&frame| is_nobodys(frames, frame)) else {
            return Ok(());
        };
        area.forget_frame(slot);
        frames.put(frame)
    }

    /// A place for the page of an anonymous frame, to which the caller holds a reference: the one it has, or a vacant
    /// one. The caller is a user of it, until he [gives it up](Self::put). `None` if all are taken.
    pub(crate) fn add(&self, frames: &Frames, frame: Frame) -> Option<SwapSlot> {
        let mut area = self.area();
        if let Some(slot) = area.slot_of(frame) {
            area.use_more(slot);
            return Some(slot);
        }
        let owner = frames.owner(frame)?;
        if self.failures.refuses() {
            return None;
        }
        let slot = take_some(&mut area, frames, |area| area.take(frame, owner))?;
        area.use_more(slot);
        frames.get(frame);
        frames.mark(frame, Marks::SWAP_CACHED);
        // It goes alone, and comes back alone.
        frames.leave_folio(frame);
        Some(slot)
    }

    /// A vacant place for the page of an object, which is a user of it until it [gives it up](Self::put). `None` if all
    /// are taken.
    pub(crate) fn reserve(&self, frames: &Frames) -> Option<SwapSlot> {
        if self.failures.refuses() {
            return None;
        }
        take_some(&mut self.area(), frames, Area::take_for_object)
    }

    /// Reads the page of a place that the caller is a user of.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn read(&self, slot: SwapSlot) -> io::Result<[u8; PAGE_BYTES]> {
        let mut bytes = [0; PAGE_BYTES];
        self.store.read(slot, &mut bytes)?;
        self.read.fetch_add(1, Ordering::Relaxed);
        Ok(bytes)
    }

    /// The frame that holds the page of a place, which some entry has named; with a reference for the caller. If none
    /// does, it is read, and in the cache from then on.
    pub(crate) fn page(
        &self,
        frames: &Frames,
        slot: SwapSlot,
        wish: impl FnOnce() -> Wish,
    ) -> Result<Frame, Unswappable> {
        {
            let mut area = self.area();
            if let Some(Cached { frame, .. }) = area.cached(slot) {
                frames.get(frame);
                return Ok(frame);
            }
            if !area.use_more(slot) {
                return Err(Unswappable::Lost);
            }
        }
        let read = self.read_page(frames, slot, wish());
        let mut area = self.area();
        let found = match (area.cached(slot), read) {
            (Some(Cached { frame, .. }), read) => {
                frames.get(frame);
                read.map_or(Ok(()), |fresh| frames.put(fresh)).map(|()| frame).map_err(Into::into)
            }
            (None, Ok(frame)) => {
                frames.get(frame);
                self.cache_read(&mut area, frames, slot, frame);
                Ok(frame)
            }
            (None, Err(error)) => Err(error),
        };
        // If it was the last user, the caller will find that out, and drop the page.
        area.use_less(slot);
        found
    }

    /// Reads the pages of places that entries name, and that no frame holds, into the cache, many at a time where places
    /// lie side by side; as far as there are frames and the store can be read.
    ///
    /// # Errors
    /// [`Broken`] if a frame cannot be had or given up.
    pub(crate) fn read_ahead(
        &self,
        frames: &Frames,
        slots: &[SwapSlot],
        wish: impl Fn(usize) -> Wish,
    ) -> Result<(), Broken> {
        let mut coming = Vec::new();
        let mut area = self.area();
        for (i, &slot) in slots.iter().enumerate() {
            if area.cached(slot).is_none() && area.use_more(slot) {
                coming.push((slot, i));
            }
        }
        drop(area);
        let mut came: Vec<(SwapSlot, Frame)> = Vec::new();
        let mut result = Ok(());
        for &(slot, i) in &coming {
            match frames.alloc_on(FrameKind::Anonymous, Contents::Any, wish(i)) {
                Ok(frame) => came.push((slot, frame)),
                Err(AllocError::OutOfMemory) => break,
                Err(AllocError::Broken(broken)) => {
                    result = Err(broken);
                    break;
                }
            }
        }
        let mut filled = Vec::with_capacity(came.len());
        self.read_runs(&came, |&(_, frame), bytes| {
            frames.memory().write(frame.addr(), bytes);
            filled.push(frame);
        });
        let mut filled = filled.into_iter().peekable();
        let mut area = self.area();
        for (slot, frame) in came {
            let is_filled = filled.next_if_eq(&frame).is_some();
            if is_filled && area.cached(slot).is_none() {
                self.cache_read(&mut area, frames, slot, frame);
            } else {
                result = result.and(frames.put(frame));
            }
        }
        for (slot, _) in coming {
            area.use_less(slot);
        }
        result
    }

    /// Reads the pages of places that the caller is a user of, those which lie side by side together, and gives the
    /// bytes of each that could be read.
    pub(crate) fn read_runs<T>(
        &self,
        pages: &[(SwapSlot, T)],
        mut give: impl FnMut(&(SwapSlot, T), &[u8]),
    ) {
        let mut bytes = [0; CLUSTER * PAGE_BYTES];
        for run in pages.chunk_by(|one, next| one.0.offset(1) == next.0) {
            for cluster in run.chunks(CLUSTER) {
                let Some(&(first, _)) = cluster.first() else { continue };
                let bytes = &mut bytes[..cluster.len() * PAGE_BYTES];
                if let Err(error) = self.store.read(first, bytes) {
                    log::error!("swapped pages cannot be read: {error}");
                    continue;
                }
                self.read.fetch_add(cluster.len() as u64, Ordering::Relaxed);
                cluster.iter().zip(bytes.chunks(PAGE_BYTES)).for_each(|(page, b)| give(page, b));
            }
        }
    }

    /// A frame holds the page of a place, which was read into it; the caller's reference becomes the cache's.
    fn cache_read(&self, area: &mut Area, frames: &Frames, slot: SwapSlot, frame: Frame) {
        if let Some(owner) = area.owner(slot) {
            frames.set_owner(frame, owner);
        }
        frames.mark(frame, Marks::SWAP_CACHED);
        area.cache(slot, Cached { frame, stored: true });
    }

    fn read_page(&self, frames: &Frames, slot: SwapSlot, wish: Wish) -> Result<Frame, Unswappable> {
        let frame = frames.alloc_on(FrameKind::Anonymous, Contents::Any, wish);
        let frame = frame.map_err(Unswappable::NoFrame)?;
        match self.read(slot) {
            Ok(bytes) => {
                frames.memory().write(frame.addr(), &bytes);
                Ok(frame)
            }
            Err(error) => {
                log::error!("a swapped page cannot be read: {error}");
                let put = frames.put(frame);
                Err(put.map_or_else(Into::into, |()| Unswappable::Unreadable))
            }
        }
    }

    /// Has an entry that names the place name `frame` instead, which [`page`](Self::page) has given to the caller,
    /// whose reference becomes the entry's, and which counts the map already. `exchange` does it, and says whether the
    /// entry was still the same; it is told whether the entry would be the only one that has the page. Says whether
    /// that was done.
    ///
    /// # Errors
    /// [`Broken`] if the counts do not fit.
    pub(crate) fn take(
        &self,
        frames: &Frames,
        slot: SwapSlot,
        frame: Frame,
        keep: Keep,
        exchange: impl FnOnce(Sharing) -> bool,
    ) -> Result<bool, Broken> {
        let mut area = self.area();
        if area.cached(slot).is_none_or(|cached| cached.frame != frame) {
            return Ok(false);
        }
        // The references are the cache's and the caller's.
        let counts = (area.users(slot), frames.references(frame), frames.maps(frame));
        let alone = counts == (1, 2, 1);
        let full = area.used() * 2 > area.total();
        let sharing = match keep {
            Keep::IfRoom if !full => Sharing::Shared,
            _ if alone => Sharing::Alone,
            _ => Sharing::Shared,
        };
        if !exchange(sharing) {
            return Ok(false);
        }
        if sharing == Sharing::Alone {
            uncache(&mut area, frames, slot, frame)?;
        }
        area.use_less(slot);
        Ok(true)
    }

    /// Takes the frame of an entry out of the cache if no entry names its place, so that its only owner may write it
    /// (`folio_free_swap`). Others may use it at the same time.
    ///
    /// # Errors
    /// [`Broken`] if the counts do not fit.
    pub(crate) fn release(&self, frames: &Frames, frame: Frame) -> Result<(), Broken> {
        let mut area = self.area();
        match area.slot_of(frame) {
            Some(slot) if area.users(slot) == 0 => uncache(&mut area, frames, slot, frame),
            _ => Ok(()),
        }
    }

    /// Drops frames from the cache that nothing but the cache holds any more, unless nobody else has their bytes. Says
    /// how many.
    ///
    /// # Errors
    /// [`Broken`] if the counts do not fit.
    pub(crate) fn drop_unneeded(&self, frames: &Frames, unmapped: &[Frame]) -> Result<u64, Broken> {
        let mut dropped = 0;
        for &frame in unmapped {
            let mut area = self.area();
            let Some(slot) = area.slot_of(frame).filter(|_| is_nobodys(frames, frame)) else {
                continue;
            };
            let stored = area.cached(slot).is_some_and(|cached| cached.stored);
            if stored || area.users(slot) == 0 {
                area.forget_frame(slot);
                frames.put(frame)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Whether the store lacks the page of a place that others than the caller use, who is a user himself.
    pub(crate) fn lacks(&self, slot: SwapSlot) -> bool {
        let area = self.area();
        area.users(slot) > 1 && area.cached(slot).is_some_and(|cached| !cached.stored)
    }

    /// Writes the pages of places one after another; nobody may write their frames meanwhile.
    pub(crate) fn write(&self, first: SwapSlot, pages: &[u8]) -> io::Result<()> {
        self.store.write(first, pages)?;
        let count = (pages.len() / PAGE_BYTES) as u64;
        self.written.fetch_add(count, Ordering::Relaxed);
        let mut area = self.area();
        (0..count).for_each(|i| area.set_stored(first.offset(i)));
        Ok(())
    }

    fn area(&self) -> MutexGuard<'_, Area> {
        self.area.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a page that comes in shall keep its place, so that it need not be written again if it is not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// It is only read: while half of the places are vacant (`vm_swap_full`).
    IfRoom,
    /// It is about to be written, or will stay in memory.
    No,
}

/// Takes a place, if need be one whose page is in memory, and is nowhere else needed.
fn take_some(
    area: &mut Area,
    frames: &Frames,
    take: impl Fn(&mut Area) -> Option<SwapSlot>,
) -> Option<SwapSlot> {
    if let Some(slot) = take(area) {
        return Some(slot);
    }
    let (kept, of) = area.unneeded()?;
    if let Err(broken) = uncache(area, frames, kept, of) {
        log::error!("a place of the swap area cannot be given up: {broken}");
    }
    take(area)
}

/// Whether a frame of the cache is held by nothing else.
fn is_nobodys(frames: &Frames, frame: Frame) -> bool {
    frames.references(frame) == 1 && frames.maps(frame) == 0
}

/// The place is given up for the frame: from now on nobody else has its bytes.
fn uncache(area: &mut Area, frames: &Frames, slot: SwapSlot, frame: Frame) -> Result<(), Broken> {
    area.forget_frame(slot);
    frames.unmark(frame, Marks::SWAP_CACHED);
    frames.mark(frame, Marks::DIRTY);
    frames.put(frame)
}
