//! Shared memory as a file is used: read and written at offsets, allocated, cut holes into (Linux's
//! `shmem_file_operations` in `mm/shmem.c`).

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::{Payment, SharedMemory};
use crate::addr::{Frame, GuestPhysAddr, PAGE_BYTES, PAGE_SIZE, index};
use crate::backing::{BackingError, BackingName};
use crate::error::{CallError, CallResult, Errno};
use crate::phys::{Contents, Marks};
use crate::promise::Payer;
use crate::rmap::Copies;
use crate::system::System;

/// Bytes of the longest file (`MAX_LFS_FILESIZE`).
pub const LONGEST: u64 = i64::MAX.cast_unsigned();

/// What fallocate(2) does about the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// It grows to the end of what is allocated.
    Grows,
    /// It stays (`FALLOC_FL_KEEP_SIZE`).
    Stays,
}

/// Since when a page is there.
enum Made {
    Before,
    Now,
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sought {
    /// A page that is there (`SEEK_DATA`).
    Data,
    /// One that is not, or the end (`SEEK_HOLE`).
    Hole,
}

impl SharedMemory {
    /// An empty object as memfd_create(2) makes it; maps call it `/memfd:name (deleted)`.
    #[must_use]
    pub fn memfd(system: &System, name: &str) -> Self {
        SharedMemory::file(Arc::clone(system.frames()), 0, BackingName::memfd(system, name))
            .promised_by_page(system.no_promise())
    }

    /// An empty file of a tree in memory; that is what maps call it.
    #[must_use]
    pub fn tmpfs(system: &System, name: BackingName) -> Self {
        SharedMemory::file(Arc::clone(system.frames()), 0, name)
            .promised_by_page(system.no_promise())
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether its length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of its pages are there.
    #[must_use]
    pub fn present_pages(&self) -> u64 {
        self.cache.count() + self.swapped_pages()
    }

    /// Reads from `offset`, in bytes; says how many there were before the end. A page that is not there
    /// reads as zeros, and does not come into being.
    ///
    /// # Errors
    /// `EIO` where the first page is in the swap area, and cannot be read.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let _held = self.maps.hold();
        let len = index(self.len().saturating_sub(offset).min(into.len() as u64));
        for part in parts(offset, len) {
            let bytes = &mut into[part.bytes.clone()];
            if let Err(error) = self.read_part(part.page, part.from, bytes) {
                log::error!("a swapped page cannot be read: {error}");
                return Some(part.bytes.start).filter(|&done| done > 0).ok_or(Errno::EIO);
            }
        }
        Ok(len)
    }

    /// Reads a part of a page, wherever that is.
    fn read_part(&self, page: u64, from: u64, into: &mut [u8]) -> io::Result<()> {
        let frames = self.cache.frames();
        // Its place is its own as long as nobody brings it in.
        self.cache.look(page, |frame| {
            if let Some(frame) = frame {
                frames.memory().read(inside(frame, from), into);
                frames.mark(frame, Marks::REFERENCED);
                return Ok(());
            }
            match self.swapped.as_ref().and_then(|swapped| swapped.read(page)) {
                None => into.fill(0),
                Some(bytes) => into.copy_from_slice(&bytes?[index(from)..][..into.len()]),
            }
            Ok(())
        })
    }

    /// Clears a range of bytes, which lies in one page, if that is there.
    ///
    /// # Errors
    /// `EIO` where it is in the swap area, and cannot be read or written.
    pub(super) fn clear(&self, bytes: Range<u64>) -> Result<(), Errno> {
        let Some(swapped) = self.swapped.as_ref().filter(|_| !bytes.is_empty()) else {
            self.cache.clear(bytes);
            return Ok(());
        };
        let from = index(bytes.start % PAGE_SIZE);
        let inside = from..from + index(bytes.end - bytes.start);
        let cleared = swapped.rewrite(bytes.start / PAGE_SIZE, |page| page[inside].fill(0));
        self.cache.clear(bytes);
        cleared.map_err(|error| {
            log::error!("a swapped page cannot be changed: {error}");
            Errno::EIO
        })
    }

    /// Whether writes may end at `end`, in bytes: Linux asks that for all that is to go into a page, before it knows
    /// how much of that there is.
    ///
    /// # Errors
    /// `EPERM` sealed against writing, or against growing. Source: `shmem_write_begin` of Linux's `mm/shmem.c`.
    pub fn check_length(&self, end: u64) -> Result<(), Errno> {
        self.seals.allow_write()?;
        self.seals.allow_length(self.len(), end.max(self.len()))
    }

    /// Writes at `offset`, in bytes, and makes the object longer where that is past its end. Says how many
    /// bytes were written: fewer where a page cannot be had, or a seal forbids the object to grow.
    ///
    /// # Errors
    /// Where nothing was written, in this order: `EFBIG` past the longest file; `EPERM` a seal; `ENOSPC` a
    /// page is not promised; `ENOMEM` no frame is left, and nothing to be [given up](System::or_reclaim).
    /// Source: `generic_perform_write` and `shmem_get_folio_gfp` of Linux's `mm/filemap.c` and `mm/shmem.c`.
    pub fn write_at(
        &self,
        offset: u64,
        bytes: &[u8],
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<usize> {
        let alone = self.alone();
        self.write_alone(&alone, offset, bytes, system, payer)
    }

    /// The same at its end, wherever that is by then; says where that was, too.
    ///
    /// # Errors
    /// As of [`write_at`](Self::write_at).
    pub fn append(
        &self,
        bytes: &[u8],
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<(u64, usize)> {
        let alone = self.alone();
        let end = self.len();
        Ok((end, self.write_alone(&alone, end, bytes, system, payer)?))
    }

    fn write_alone(
        &self,
        _: &MutexGuard<'_, ()>,
        offset: u64,
        bytes: &[u8],
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let room = LONGEST.checked_sub(offset).filter(|&room| room > 0).ok_or(Errno::EFBIG)?;
        let len = index(room.min(bytes.len() as u64));
        let mut done = 0;
        for part in parts(offset, len) {
            let end = offset + part.bytes.end as u64;
            let bytes = &bytes[part.bytes.clone()];
            match system.or_reclaim(|| self.write_page(part.page, part.from, bytes, end, payer)) {
                Ok(()) => done = part.bytes.end,
                Err(CallError::Errno(_)) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes into one page; the bytes end at `end` in the object.
    fn write_page(
        &self,
        page: u64,
        from: u64,
        bytes: &[u8],
        end: u64,
        payer: &dyn Payer,
    ) -> CallResult<()> {
        let _held = self.maps.hold();
        self.check_length(end)?;
        let frame = self.bring(page, payer).map_err(no_page)?;
        let frames = self.cache.frames();
        frames.memory().write(inside(frame, from), bytes);
        frames.mark(frame, Marks::DIRTY | Marks::REFERENCED);
        frames.put(frame)?;
        self.len.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// Brings the pages of a range of bytes into being (fallocate(2), mode 0 or `FALLOC_FL_KEEP_SIZE`). Where
    /// one cannot be had, those made so far go again, but for what somebody has mapped or written since.
    ///
    /// # Errors
    /// In this order: `EPERM` sealed against growing, even where the length stays; `ENOSPC`, `ENOMEM` as of
    /// [`write_at`](Self::write_at). Source: `shmem_fallocate` of Linux's `mm/shmem.c`.
    pub fn allocate(
        &self,
        bytes: Range<u64>,
        length: Length,
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<()> {
        let _alone = self.alone();
        let past_the_end = bytes.end > self.len();
        self.seals.allow_length(self.len(), bytes.end.max(self.len()))?;
        let mut made = Vec::new();
        for page in bytes.start / PAGE_SIZE..bytes.end.div_ceil(PAGE_SIZE) {
            match system.or_reclaim(|| self.make_page(page, payer)) {
                Ok(Made::Now) => made.push(page),
                Ok(Made::Before) => (),
                Err(error) => {
                    self.drop_unneeded(&made, system)?;
                    return Err(error);
                }
            }
        }
        if past_the_end && length == Length::Grows {
            let _changing = self.maps.change();
            self.len.store(bytes.end, Ordering::Relaxed);
        }
        Ok(())
    }

    fn make_page(&self, page: u64, payer: &dyn Payer) -> CallResult<Made> {
        let _held = self.maps.hold();
        let made = if self.has(page) { Made::Before } else { Made::Now };
        let frame = self.bring(page, payer).map_err(no_page)?;
        self.cache.frames().put(frame)?;
        Ok(made)
    }

    /// Makes a range of bytes a hole, which reads as zeros (`FALLOC_FL_PUNCH_HOLE`): whole pages go, also where
    /// they are mapped; of others the bytes are cleared.
    ///
    /// # Errors
    /// `EPERM` sealed against writing; `EIO` where the first or last page is in the swap area, and cannot be read or
    /// written.
    pub fn punch_bytes(&self, bytes: Range<u64>, system: &System) -> CallResult<()> {
        let _alone = self.alone();
        {
            let maps = self.maps.change();
            self.seals.allow_write()?;
            let whole = bytes.start.div_ceil(PAGE_SIZE)..bytes.end / PAGE_SIZE;
            let head_end = (whole.start * PAGE_SIZE).min(bytes.end);
            self.clear(bytes.start..head_end)?;
            self.clear((whole.end * PAGE_SIZE).max(head_end)..bytes.end)?;
            self.split_around(&bytes, &maps, system)?;
            if whole.start < whole.end {
                self.forget(whole.clone())?;
                system.zap_now(&maps, &whole, Copies::Stay)?;
            }
        }
        Ok(())
    }

    /// The first byte from `offset` on that is in data, or in a hole. `None` past the end, and where there is
    /// no more data.
    #[must_use]
    pub fn seek(&self, offset: u64, sought: Sought) -> Option<u64> {
        let _held = self.maps.hold();
        let len = self.len();
        if offset >= len {
            return None;
        }
        let page = match sought {
            Sought::Data => self.next_held(offset / PAGE_SIZE)?,
            Sought::Hole => self.next_missing(offset / PAGE_SIZE),
        };
        let found = page.saturating_mul(PAGE_SIZE).max(offset);
        match sought {
            Sought::Data => Some(found).filter(|&found| found < len),
            Sought::Hole => Some(found.min(len)),
        }
    }

    /// Whether a page is there, in a frame or not.
    fn has(&self, page: u64) -> bool {
        self.cache.look(page, |frame| frame.is_some() || self.is_swapped(page))
    }

    /// The first page from `page` on that is there.
    fn next_held(&self, page: u64) -> Option<u64> {
        // What is brought in after this look is found by the next.
        let swapped = self.swapped.as_ref().and_then(|swapped| swapped.next_held(page));
        self.cache.next_held(page).into_iter().chain(swapped).min()
    }

    /// The first page from `page` on that is not there.
    fn next_missing(&self, page: u64) -> u64 {
        let mut at = self.cache.next_missing(page);
        while self.has(at) {
            at = self.cache.next_missing(at + 1);
        }
        at
    }

    /// The frame of a page, with a reference for the caller; promised and made if it is not there.
    pub(super) fn bring(&self, page: u64, payer: &dyn Payer) -> Result<Frame, BackingError> {
        // Nobody takes it away meanwhile.
        let contents = if self.is_swapped(page) { Contents::Any } else { Contents::Zeroed };
        let wish = || self.wish(page);
        self.cache.page(page, contents, wish, |_, frame| {
            if self.swap_in(page, frame)? {
                return Ok(());
            }
            if let Payment::EachPage(promise) = &self.payment {
                // Linux says `ENOSPC` here, so that an access gets a `SIGBUS` and nobody is killed.
                promise.join(&payer.promise(1).map_err(|_| BackingError::NoPage)?);
            }
            Ok(())
        })
    }
}

fn no_page(error: BackingError) -> CallError {
    match error {
        BackingError::NoPage => Errno::ENOSPC.into(),
        BackingError::OutOfMemory => Errno::ENOMEM.into(),
        BackingError::Broken(broken) => broken.into(),
    }
}

/// The part of some bytes that lies in one page.
pub(in crate::backing) struct Part {
    pub(in crate::backing) page: u64,
    /// Where it begins in the page.
    pub(in crate::backing) from: u64,
    /// Which of the bytes.
    pub(in crate::backing) bytes: Range<usize>,
}

pub(in crate::backing) fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let from = at % PAGE_SIZE;
        let now = (PAGE_BYTES - index(from)).min(len - done);
        let bytes = done..done + now;
        done = bytes.end;
        (now > 0).then_some(Part { page: at / PAGE_SIZE, from, bytes })
    })
}

pub(in crate::backing) fn inside(frame: Frame, from: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(frame.addr().get() + from)
}
