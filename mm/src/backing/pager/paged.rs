//! A pager's memory: as a backing, and as the host has it in hand.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Pager;
use super::pages::{Look, Outcome, Pages};
use crate::addr::{Frame, PAGE_SIZE, VirtAddr, index};
use crate::backing::{Backing, BackingError, BackingName, Brought, FileMode};
use crate::error::{Broken, CallResult, Errno};
use crate::numa;
use crate::phys::{AllocError, Contents, FrameKind, Frames};
use crate::promise::Payer;
use crate::rmap::ObjectMaps;
use crate::space::{MapRequest, SharedSpace};
use crate::system::System;
use crate::vma::{MapFlags, Prot};

/// A pager's memory.
#[derive(Debug)]
pub(crate) struct Paged {
    pub(super) pager: Pager,
    name: BackingName,
    pub(super) frames: Arc<Frames>,
    pub(super) maps: ObjectMaps,
    pub(super) pages: Pages,
    /// The page that is touched next if its program goes on as it does.
    expected: AtomicU64,
    /// Whether nobody has mapped it since it was last looked at.
    pub(super) left: AtomicBool,
}

impl Paged {
    fn new(pager: Pager, system: &System) -> Self {
        let path = pager.name.clone();
        Paged {
            name: BackingName { major: 0, minor: 1, inode: system.new_inode(), path },
            frames: Arc::clone(system.frames()),
            maps: ObjectMaps::default(),
            pages: Pages::default(),
            expected: AtomicU64::new(u64::MAX),
            left: AtomicBool::new(false),
            pager,
        }
    }

    /// Its length in pages.
    fn len(&self) -> u64 {
        self.pager.len.div_ceil(PAGE_SIZE)
    }

    /// Makes a page, by the closure. Its frame is asked for only then, so that nobody has one for nothing while the
    /// closure takes its time.
    fn fill(
        &self,
        page: u64,
        system: &System,
        frame: impl FnOnce() -> Result<Frame, AllocError>,
    ) -> Result<Frame, BackingError> {
        let offset = page * PAGE_SIZE;
        let filled = system.pagers.inside(|| self.pager.fill(offset));
        let bytes = filled.map_err(|error| {
            log::warn!("{}: no page at {offset:#x}: {error}", self.name.path);
            BackingError::NoPage
        })?;
        let frame = frame()?;
        self.frames.memory().write(frame.addr(), &bytes);
        Ok(frame)
    }

    fn alloc(&self) -> Result<Frame, AllocError> {
        let wish = numa::wish_of_file(self.frames.nodes());
        self.frames.alloc_on(FrameKind::Cached, Contents::Any, wish)
    }

    /// Fills the pages after one that was touched, if its program goes on page by page, as far as there is memory.
    fn fill_ahead(&self, touched: u64, system: &System) {
        let goes_on = self.expected.load(Ordering::Relaxed) == touched;
        let window = if goes_on { self.pager.ahead.min(self.pager.most / 4) } else { 1 };
        let end = touched.saturating_add(window).min(self.len());
        let mut page = touched + 1;
        while page < end && self.pages.claim(page) {
            let filled = self.fill(page, system, || self.alloc()).ok();
            self.pages.filled(page, filled);
            if filled.is_none() {
                break;
            }
            page += 1;
        }
        self.expected.store(page, Ordering::Relaxed);
    }
}

impl Backing for Paged {
    fn page(&self, index: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        let held = self.pages.lock();
        let frame = held.here(index).ok_or(BackingError::NoPage)?;
        self.frames.get(frame);
        Ok(frame)
    }

    fn is_ready(&self, index: u64) -> bool {
        self.pages.lock().here(index).is_some()
    }

    fn is_paged(&self) -> bool {
        true
    }

    fn bring(&self, page: u64, system: &System) -> Result<Option<Brought>, BackingError> {
        if page >= self.len() {
            return Err(BackingError::NoPage);
        }
        let brought = |frame| Brought::new(&self.frames, frame);
        let there = self.pages.look(page, |there| match there {
            Look::IsMine => Ok(None),
            Look::Here(frame) => Ok(Some(brought(frame))),
            Look::Itself => Err(BackingError::NoPage),
        });
        let there = there.inspect_err(|_| {
            log::warn!("{}: page {page} is touched by who is called for it", self.name.path);
        })?;
        if there.is_some() {
            return Ok(there);
        }
        let filled = self.fill(page, system, || system.or_page_out(|| self.alloc()));
        // From here on it may be given up, but for this.
        let kept = filled.as_ref().ok().map(|&frame| brought(frame));
        self.pages.filled(page, filled.as_ref().ok().copied());
        filled?;
        self.fill_ahead(page, system);
        let count = self.pages.lock().count();
        if count > self.pager.most {
            // Some at once, with one flush.
            self.shrink(self.share().max(count - self.pager.most), system)?;
        }
        Ok(kept)
    }

    fn name(&self) -> BackingName {
        self.name.clone()
    }

    fn mode(&self) -> FileMode {
        let write = if self.pager.take.is_some() { FileMode::WRITE } else { FileMode::empty() };
        FileMode::READ | write
    }

    fn is_resident(&self, index: u64) -> bool {
        self.pages.lock().has(index)
    }

    fn at_hand(&self, pages: Range<u64>) -> Vec<Option<Frame>> {
        let mut frames = vec![None; index(pages.end - pages.start)];
        for (page, frame) in self.pages.lock().all_here(pages.clone()) {
            frames[index(page - pages.start)] = Some(frame);
        }
        frames
    }

    fn sync(&self, pages: Range<u64>, system: &System) -> Result<(), Errno> {
        self.take_written(&pages, system)
    }

    fn reclaim(&self, pages: &[u64], system: &System) -> Result<(), Broken> {
        // The closures may have to see them, which they cannot here.
        self.pages.lock().unwanted.extend(pages);
        system.pagers.note();
        Ok(())
    }

    fn unmapped(&self, system: &System) {
        self.left.store(true, Ordering::Release);
        system.pagers.note();
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        Some(&self.maps)
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        // Nobody maps it, and nobody else has it: no closure can be waited for.
        let all: Vec<(u64, Frame)> = self.pages.lock().frames().collect();
        for (page, frame) in all {
            if let Err(error) = self.take_if_written(page, frame, None) {
                log::error!("{}: page {page} is lost: {error}", self.name.path);
            }
            self.show(page, frame);
            self.pages.done(page, Outcome::Goes);
            if let Err(broken) = self.frames.put(frame) {
                log::error!("{}: {broken}", self.name.path);
            }
        }
    }
}

/// A pager's memory, as the host has it in hand. It is there for as long as this is, or anybody maps it; then what
/// was written is taken, and it is gone. So this is to be dropped where closures may be called.
#[derive(Debug)]
pub struct PagedMemory {
    object: Arc<Paged>,
    system: Arc<System>,
}

impl Pager {
    /// Makes its memory, which programs of this machine can map. The closures are kept until nobody maps it.
    #[must_use]
    pub fn open(self, system: &Arc<System>) -> PagedMemory {
        let object = Arc::new(Paged::new(self, system));
        system.pagers.add(Arc::clone(&object));
        PagedMemory { object, system: Arc::clone(system) }
    }
}

impl PagedMemory {
    /// What a [`MapRequest`] names as its file.
    #[must_use]
    pub fn backing(&self) -> Arc<dyn Backing> {
        Arc::clone(&self.object) as Arc<dyn Backing>
    }

    /// Maps all of it in a program, which may be running: what it has at these addresses with
    /// [`MapFlags::FIXED`] is replaced, as mmap(2) does. Only who is a [user](crate::space::SpaceUser) of a space may
    /// change it while it runs. Nothing is filled before it is touched but with
    /// [`MapFlags::POPULATE`], or where what is mapped is to be locked: then as far as it can be.
    ///
    /// # Errors
    /// As of [`mmap`](crate::space::AddressSpace::mmap): `EACCES` a shared map to be written, of a pager that takes
    /// nothing.
    pub fn map(
        &self,
        space: &SharedSpace,
        addr: VirtAddr,
        prot: Prot,
        flags: MapFlags,
    ) -> CallResult<VirtAddr> {
        let (len, file) = (self.object.pager.len, Some(self.backing()));
        let request = MapRequest { addr, len, prot, flags, file, offset: 0 };
        let mapped = space.map_and_populate(&request);
        // It may have replaced another pager's.
        self.system.serve_pagers()?;
        mapped
    }

    /// How many of its pages are in memory.
    #[must_use]
    pub fn in_memory(&self) -> u64 {
        self.object.pages.lock().count()
    }

    /// Has all pages taken that have been written; they stay in memory. What programs write meanwhile is taken later.
    ///
    /// # Errors
    /// `EIO` if the taker fails for one: it counts as written as before, and so do those after it. `EIO`, too, when a
    /// flush fails, and the machine with it.
    pub fn sync(&self) -> Result<(), Errno> {
        self.object.take_written(&(0..u64::MAX), &self.system)
    }

    /// Has so many pages leave memory, the first that came. Says how many did: those stay that cannot be taken, or
    /// that somebody needs at this moment.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn evict(&self, pages: u64) -> Result<u64, Broken> {
        self.object.shrink(pages, &self.system)
    }
}

impl Drop for PagedMemory {
    fn drop(&mut self) {
        if let Err(broken) = self.system.serve_pagers() {
            log::error!("{}: {broken}", self.object.name.path);
        }
        self.system.pagers.forget_unused(Some(&self.object));
    }
}
