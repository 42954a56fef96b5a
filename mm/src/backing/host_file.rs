//! Files of the host, shown in the guest's memory: what a guest writes to a shared map is in the file, and what
//! anybody on the host writes to the file is in the map, with nothing copied.
//!
//! ```text
//!   file      0          2 MiB         4 MiB      end
//!             ├────────────┼─────────────┼─────────┤· · ·
//!   windows   │ block 17   │ not touched │ block 4 │        a block of guest memory each, over which the
//!             └────────────┘             └─────────┘· · ·   host maps the file (PhysMemory::show)
//! ```
//!
//! A window costs a block of guest memory and one of the host's own VMAs. Where there is no block for another one, or
//! there are too many, the oldest are closed ([`reclaim`](crate::reclaim)). Memory that cannot show files
//! (`SoftwareMemory`) has copies of single pages instead, written back by [`sync`](Backing::sync) and at the
//! end.
//!
//! Anybody on the host may make the file shorter at any time. What then touches a page past the end is the
//! processor (KVM_RUN fails with `EFAULT`) or mmvisor itself ([`Gone`](crate::phys::Gone)): the length is
//! looked at again, the entries past it go, and the access comes again as a page fault, to find nothing.
//!
//! What the host refuses although the file is as long as it was, for want of room on the disk for a page that is
//! written first, is found out in the same way: all entries go, and each access that comes again is tried by mmvisor
//! before it is allowed ([`HostFile::doubt`]).

mod windows;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, fdatasync, fstat};
pub(crate) use windows::WindowBudget;
use windows::{Pieces, Window, Windows};

use super::cache::PageCache;
use super::{Backing, BackingError, BackingName, Folio, Placement, no_sync};
use crate::addr::{Frame, FrameRun, PAGE_BYTES, PAGE_SIZE, index};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::failure::FailPoint;
use crate::numa;
use crate::paging::{AccessKind, FlushBatch};
use crate::phys::{
    BLOCK_FRAMES, Contents, FileAccess, FilePart, FrameKind, Frames, Gone, Marks, Order,
};
use crate::promise::Payer;
use crate::rmap::{Copies, ObjectMaps};
use crate::system::System;
use crate::vma::{MapFlags, VmFlags};

/// A file of the host.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    access: FileAccess,
    name: BackingName,
    frames: Arc<Frames>,
    /// In bytes, when it was last looked at. Falls only under `maps`, held exclusively.
    len: AtomicU64,
    /// Whether the host has refused an access that should have been possible: then it is asked before each.
    doubted: AtomicBool,
    windows: Mutex<Windows>,
    budget: Arc<WindowBudget>,
    /// Over the position of the host's descriptor. A leaf.
    appending: Mutex<()>,
    copies: PageCache,
    maps: ObjectMaps,
    /// Reads and writes of the host's file, of copies.
    pub(crate) failures: FailPoint,
}

/// Where a page of the file is.
enum At {
    /// In a window.
    Window(Frame),
    /// It has to be copied: this memory shows no files.
    Copy,
}

impl HostFile {
    /// A file that `/proc/PID/maps` calls `path`.
    ///
    /// # Errors
    /// If the host does not say how long it is.
    pub(crate) fn new(
        frames: Arc<Frames>,
        budget: Arc<WindowBudget>,
        file: File,
        access: FileAccess,
        path: String,
    ) -> io::Result<Self> {
        let stat = fstat(&file)?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Ok(HostFile {
            name: BackingName { major, minor, inode: stat.st_ino, path },
            len: AtomicU64::new(stat.st_size.cast_unsigned()),
            copies: PageCache::new(Arc::clone(&frames), FrameKind::Cached),
            doubted: AtomicBool::new(false),
            windows: Mutex::default(),
            budget,
            appending: Mutex::default(),
            maps: ObjectMaps::default(),
            failures: FailPoint::default(),
            file,
            access,
            frames,
        })
    }

    /// The host's file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes at its end, wherever that is by then, and says where that was, and how many bytes it were. Others on the host
    /// may append at the same time: each gets a place of its own (`RWF_APPEND`).
    ///
    /// # Errors
    /// What the host says.
    pub fn append(&self, bytes: &[u8]) -> Result<(u64, usize), Errno> {
        // The host says where only by the position of its own descriptor, which nobody else uses.
        let _alone = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
        let pieces = [io::IoSlice::new(bytes)];
        let flags = rustix::io::ReadWriteFlags::APPEND;
        let count = rustix::io::pwritev2(&self.file, &pieces, u64::MAX, flags).map_err(of_host)?;
        let end = rustix::fs::tell(&self.file).map_err(of_host)?;
        Ok((end.saturating_sub(count as u64), count))
    }

    /// What it was opened for.
    #[must_use]
    pub fn access(&self) -> FileAccess {
        self.access
    }

    /// Looks at the file's length again. Where somebody has made it shorter, what lies past the end is gone
    /// wherever it is mapped, private copies too. Says whether there was anything of that.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub fn recheck(&self, system: &System) -> Result<bool, Broken> {
        let maps = self.maps.change();
        let (old, new) = (self.len.load(Ordering::Relaxed), self.host_len());
        self.len.store(new, Ordering::Relaxed);
        if new >= old {
            return Ok(false);
        }
        self.copies.clear_from(new);
        let gone = new.div_ceil(PAGE_SIZE)..u64::MAX;
        self.copies.forget(gone.clone())?;
        system.zap_now(&maps, &gone, Copies::Go)?;
        Ok(true)
    }

    /// The host has refused an access to some file's page, and no file is shorter than it was: a disk is full, or
    /// cannot be read. All entries go, and no page is mapped again before the host has been asked
    /// ([`prepare`](Backing::prepare)). Nothing is lost: the pages are the host's.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub fn doubt(&self, system: &System) -> Result<(), Broken> {
        let maps = self.maps.change();
        self.doubted.store(true, Ordering::Release);
        system.zap_now(&maps, &(0..u64::MAX), Copies::Stay)
    }

    /// Closes some of the windows, the oldest first: their pages are the host's, and come again when they are touched.
    /// Says how many frames are free for it.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails, or the host does not take a window away: its frames are then never used again.
    pub(crate) fn close_windows(&self, system: &System) -> Result<u64, Broken> {
        let mut batch = FlushBatch::new();
        {
            let maps = self.maps.change();
            let oldest = self.windows().take_oldest();
            let _unflushed = system.reclaim.unflushed();
            for (number, _) in &oldest {
                let pages = number * BLOCK_FRAMES..(number + 1) * BLOCK_FRAMES;
                maps.zap(&pages, Copies::Stay, system, &mut batch);
            }
            self.windows().closing.extend(oldest.into_iter().map(|(_, start)| start));
            // Until then vCPUs may still use what is in them.
            system.flush_now(batch)?;
        }
        let closing = std::mem::take(&mut self.windows().closing);
        let held =
            |start: Frame| (0..BLOCK_FRAMES).any(|i| self.frames.references(start.offset(i)) > 1);
        let (held, free): (Vec<_>, Vec<_>) = closing.into_iter().partition(|&start| held(start));
        self.windows().closing.extend(held);
        for &start in &free {
            self.hide(start)?;
        }
        Ok(free.len() as u64 * BLOCK_FRAMES)
    }

    /// Makes the block of a window that nobody uses ordinary memory again, and gives it up.
    fn hide(&self, start: Frame) -> Result<(), Broken> {
        let run = FrameRun { start, count: BLOCK_FRAMES };
        self.frames.memory().hide(run)?;
        self.budget.give_back();
        self.frames.put_run(run)
    }

    /// Changes the file's length, in bytes (ftruncate(2)).
    ///
    /// # Errors
    /// What the host says.
    pub fn truncate(&self, len: u64, system: &System) -> CallResult<()> {
        self.file.set_len(len).map_err(|error| errno_of(&error))?;
        self.recheck(system)?;
        Ok(())
    }

    /// How long the file is now; as it was known to be if the host does not say.
    fn host_len(&self) -> u64 {
        match fstat(&self.file) {
            Ok(stat) => stat.st_size.cast_unsigned(),
            Err(error) => {
                log::warn!("{}: cannot ask for its length: {error}", self.name.path);
                self.len.load(Ordering::Relaxed)
            }
        }
    }

    /// Whether the file has this page. It may have grown.
    fn has(&self, page: u64) -> bool {
        let within = |len: u64| page < len.div_ceil(PAGE_SIZE);
        if within(self.len.load(Ordering::Relaxed)) {
            return true;
        }
        let now = self.host_len();
        self.len.fetch_max(now, Ordering::Relaxed);
        within(now)
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the page is; its window is opened if need be.
    fn find(&self, page: u64) -> Result<At, BackingError> {
        let (number, inside) = (page / BLOCK_FRAMES, page % BLOCK_FRAMES);
        let mut windows = self.windows();
        if let Some(start) = windows.get(number) {
            return Ok(At::Window(start.offset(inside)));
        }
        if !self.budget.take() {
            // Others are closed for it, as where there is no block for it.
            return Err(self.frames.refuse().into());
        }
        let opened = self.open_window(number);
        match opened {
            Ok(Some(start)) => {
                windows.insert(number, start);
                Ok(At::Window(start.offset(inside)))
            }
            none => {
                self.budget.give_back();
                none.map(|_| At::Copy)
            }
        }
    }

    /// The first frame of a new window; `None` where this memory shows no files.
    fn open_window(&self, number: u64) -> Result<Option<Frame>, BackingError> {
        let run = self.frames.alloc_order(FrameKind::Cached, Contents::Shown, Order::HUGE)?;
        let part = FilePart {
            file: self.file.as_fd(),
            offset: number * BLOCK_FRAMES * PAGE_SIZE,
            access: self.access,
        };
        let Err(error) = self.frames.memory().show(run, part) else {
            return Ok(Some(run.start));
        };
        self.frames.put_run(run)?;
        match error.kind() {
            io::ErrorKind::Unsupported => Ok(None),
            // The host has no mapping left: a window that is closed gives one back.
            io::ErrorKind::OutOfMemory => Err(self.frames.refuse().into()),
            _ => {
                log::warn!("{}: the host does not map it: {error}", self.name.path);
                Err(BackingError::NoPage)
            }
        }
    }

    /// How the host has the window that a page is in, which is opened if need be; the host is asked when the first of its
    /// pages is touched.
    fn pieces(&self, page: u64) -> Option<Window> {
        let number = page / BLOCK_FRAMES;
        let known = self.windows().open.get(&number).copied();
        if known.is_some_and(|window| window.pieces != Pieces::Unknown) {
            return known;
        }
        let At::Window(frame) = self.find(page).ok()? else { return None };
        let memory = self.frames.memory();
        let start = self.windows().get(number)?;
        let block = FrameRun { start, count: BLOCK_FRAMES };
        let is_one =
            memory.try_access(frame, AccessKind::Read).is_ok() && memory.is_one_piece(block);
        let pieces = if is_one { Pieces::One } else { Pieces::Several };
        if let Some(window) = self.windows().open.get_mut(&number) {
            window.pieces = pieces;
        }
        Some(Window { start, pieces })
    }

    /// Is asked before each read and write of the host's file.
    fn may_fail(&self) -> io::Result<()> {
        if self.failures.refuses() { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    /// A copy of a page, read if it is not there.
    fn copy(&self, page: u64) -> Result<Frame, BackingError> {
        let wish = || numa::wish_of_file(self.frames.nodes());
        self.copies.page(page, Contents::Any, wish, |frames, frame| {
            let mut bytes = [0; PAGE_BYTES];
            let mut done = 0;
            while done < PAGE_BYTES {
                let from = page * PAGE_SIZE + done as u64;
                let read =
                    self.may_fail().and_then(|()| self.file.read_at(&mut bytes[done..], from));
                match read {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        log::warn!("{}: cannot read page {page}: {error}", self.name.path);
                        return Err(BackingError::NoPage);
                    }
                }
            }
            frames.memory().write(frame.addr(), &bytes);
            Ok(())
        })
    }

    /// Writes what has changed of these pages to where it lasts.
    ///
    /// # Errors
    /// What the host says.
    pub fn write_out(&self, pages: Range<u64>) -> Result<(), Errno> {
        self.write_back(pages).map_err(|_| Errno::EIO)?;
        fdatasync(&self.file).map_err(|error| Errno::from_raw(error.raw_os_error()))
    }

    /// Writes copies of pages that a program may have written back.
    fn write_back(&self, pages: Range<u64>) -> io::Result<()> {
        if self.access == FileAccess::Read {
            return Ok(());
        }
        let len = self.host_len();
        for (page, frame) in self.copies.held(pages) {
            let start = page * PAGE_SIZE;
            if start >= len || !self.frames.marks(frame).contains(Marks::DIRTY) {
                continue;
            }
            let mut bytes = [0; PAGE_BYTES];
            self.frames.memory().read(frame.addr(), &mut bytes);
            self.may_fail()?;
            self.file.write_all_at(&bytes[..index(PAGE_SIZE.min(len - start))], start)?;
        }
        Ok(())
    }
}

fn errno_of(error: &io::Error) -> CallError {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)).into()
}

impl Backing for HostFile {
    fn page(&self, index: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        if !self.has(index) {
            return Err(BackingError::NoPage);
        }
        match self.find(index)? {
            At::Window(frame) => {
                self.frames.get(frame);
                Ok(frame)
            }
            At::Copy => self.copy(index),
        }
    }

    fn name(&self) -> BackingName {
        let name = self.name.clone();
        if fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0) { name.deleted() } else { name }
    }

    fn read_file(&self, offset: u64, into: &mut [u8]) -> usize {
        self.file.read_at(into, offset).unwrap_or(0)
    }

    fn placement(&self) -> Placement {
        Placement::HugeAligned
    }

    fn validated_flags(&self) -> MapFlags {
        MapFlags::SYNC
    }

    fn map(&self, flags: VmFlags, _: Range<u64>) -> Result<VmFlags, Errno> {
        no_sync(flags)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.residency(index..index.saturating_add(1)).first() == Some(&true)
    }

    /// The host's answer, whose page cache it is about: also that all pages are there, to one who may neither write
    /// the file nor owns it (Linux's `can_do_mincore`).
    fn residency(&self, pages: Range<u64>) -> Vec<bool> {
        let cached = self.frames.memory().page_cache(self.file.as_fd(), pages.clone());
        cached.unwrap_or_else(|| pages.map(|index| self.has(index)).collect())
    }

    fn at_hand(&self, pages: Range<u64>) -> Vec<Option<Frame>> {
        if self.wants_write_notify() {
            return Vec::new();
        }
        let end = pages.end.min(self.len.load(Ordering::Relaxed).div_ceil(PAGE_SIZE));
        let pages = pages.start..end.max(pages.start);
        let mut frames = self.copies.at_hand(pages.clone());
        let mut at = pages.start;
        while at < pages.end {
            let next = (at / BLOCK_FRAMES + 1) * BLOCK_FRAMES;
            let stop = next.min(pages.end);
            // Under no lock: while the page cache is asked, other windows can be opened.
            let window = self.windows().get(at / BLOCK_FRAMES);
            if let Some(start) = window {
                let run = FrameRun { start: start.offset(at % BLOCK_FRAMES), count: stop - at };
                let cached = self.frames.memory().cached(run);
                let places = frames[index(at - pages.start)..].iter_mut().zip(cached);
                for (i, (place, cached)) in (0..).zip(places) {
                    *place = cached.then(|| run.start.offset(i));
                }
            }
            at = stop;
        }
        frames
    }

    fn prepare(&self, page: u64, kind: AccessKind) -> Result<(), BackingError> {
        let start = self.windows().get(page / BLOCK_FRAMES);
        let Some(start) = start.filter(|_| self.wants_write_notify()) else { return Ok(()) };
        let frame = start.offset(page % BLOCK_FRAMES);
        self.frames.memory().try_access(frame, kind).map_err(|Gone| BackingError::NoPage)
    }

    fn wants_write_notify(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    fn punch(&self, pages: Range<u64>, system: &System) -> CallResult<()> {
        let maps = self.maps.change();
        let bytes = |pages: u64| pages.checked_mul(PAGE_SIZE).ok_or(Errno::EFBIG);
        let (offset, len) = (bytes(pages.start)?, bytes(pages.end - pages.start)?);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, hole, offset, len).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        self.copies.forget(pages.clone())?;
        Ok(system.zap_now(&maps, &pages, Copies::Stay)?)
    }

    fn sync(&self, pages: Range<u64>, _: &System) -> Result<(), Errno> {
        self.write_out(pages)
    }

    fn folio(&self, page: u64) -> Option<(Folio, FrameRun)> {
        let first = page - page % BLOCK_FRAMES;
        let all = self.len.load(Ordering::Relaxed).div_ceil(PAGE_SIZE);
        // Where an access may be refused each page is asked for. No piece reaches past the end.
        if self.wants_write_notify() || first.saturating_add(BLOCK_FRAMES) > all {
            return None;
        }
        let window = self.pieces(page).filter(|window| window.pieces == Pieces::One)?;
        let folio = Folio { first, order: BLOCK_FRAMES.ilog2() };
        Some((folio, FrameRun { start: window.start, count: BLOCK_FRAMES }))
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        Some(&self.maps)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let lost = |what: &dyn std::fmt::Display| log::error!("{}: {what}", self.name.path);
        if let Err(error) = self.write_back(0..u64::MAX) {
            lost(&error);
        }
        let Windows { open, closing, .. } = std::mem::take(&mut *self.windows());
        let open = open.into_values().map(|window| window.start);
        for start in open.chain(closing) {
            // What the host does not take away stays in use, so that nobody gets it as memory of his own.
            if let Err(broken) = self.hide(start) {
                lost(&broken);
            }
        }
    }
}
