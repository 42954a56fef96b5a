//! Shared memory: zeros until written, seen by everyone who maps it (Linux's shmem: `MAP_SHARED` without a
//! file, memfd_create(2), shmget(2)).

mod bytes;
mod collapse;
mod policy;
mod swapped;

pub use bytes::{LONGEST, Length, Sought};
pub(super) use bytes::{inside, parts};
pub(crate) use collapse::Missing;
pub use policy::SharedPolicies;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use swapped::Swapped;

use super::cache::PageCache;
use super::seals::{Sealing, Seals};
use super::{Backing, BackingError, BackingName, Folio, Placement};
use crate::addr::{Frame, FrameRun, PAGE_BYTES, PAGE_SIZE};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::numa::{self, Which};
use crate::phys::{Contents, FrameKind, Frames, Marks, Wish};
use crate::promise::{Payer, Promise};
use crate::rmap::{Copies, ObjectMaps};
use crate::system::System;
use crate::vma::VmFlags;

/// Whether the object is what `MAP_SHARED|MAP_ANONYMOUS` makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    Map,
    File,
}

/// What becomes of an object's pages when memory runs out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// They stay.
    InMemory,
    /// They may be swapped out.
    Nowhere,
}

/// What an object's pages are to the commit limit.
#[derive(Debug)]
enum Payment {
    /// Nothing: it stands for something else, such as a file on a disk.
    Free,
    /// All were promised when it was made (Linux's `shmem_acct_size`).
    Whole(Promise),
    /// Each is promised when it comes into being (Linux's `shmem_acct_blocks`).
    EachPage(Promise),
}

/// A shared memory object.
#[derive(Debug)]
pub struct SharedMemory {
    origin: Origin,
    payment: Payment,
    /// In bytes.
    len: AtomicU64,
    seals: Sealing,
    /// Whether its pages are never swapped out.
    stays: AtomicBool,
    name: BackingName,
    /// Whether it has lost the last path that led to it.
    deleted: AtomicBool,
    /// Over whatever changes it as a file, memory that is given up for it included (Linux's `i_rwsem`).
    changing: Mutex<()>,
    cache: PageCache,
    /// The pages that are in no frame, if there is swap.
    swapped: Option<Swapped>,
    maps: ObjectMaps,
    policies: SharedPolicies,
}

impl SharedMemory {
    /// An object of `pages` pages, named as Linux names the one behind `MAP_SHARED|MAP_ANONYMOUS`.
    #[must_use]
    pub fn new(frames: Arc<Frames>, pages: u64, inode: u64) -> Self {
        let name =
            BackingName { major: 0, minor: 1, inode, path: "/dev/zero (deleted)".to_owned() };
        SharedMemory { origin: Origin::Map, ..SharedMemory::file(frames, pages, name) }
    }

    /// An object of `pages` pages (as far as bytes can be counted) with a name of its own, such as memfd_create(2) makes.
    #[must_use]
    pub fn file(frames: Arc<Frames>, pages: u64, name: BackingName) -> Self {
        SharedMemory {
            origin: Origin::File,
            payment: Payment::Free,
            len: AtomicU64::new(pages.saturating_mul(PAGE_SIZE)),
            seals: Sealing::default(),
            stays: AtomicBool::new(false),
            policies: SharedPolicies::new(name.inode),
            name,
            deleted: AtomicBool::new(false),
            changing: Mutex::default(),
            cache: PageCache::new(frames, FrameKind::Shared),
            swapped: None,
            maps: ObjectMaps::default(),
        }
    }

    /// Says how many paths lead to it: once none does any more, maps say so, too.
    pub fn set_links(&self, links: u64) {
        self.deleted.store(links == 0, Ordering::Relaxed);
    }

    /// The same object, all of whose pages have been promised: what `MAP_SHARED|MAP_ANONYMOUS` makes.
    #[must_use]
    pub fn promised(self, promise: Promise) -> Self {
        SharedMemory { payment: Payment::Whole(promise), ..self }
    }

    /// The same object, each page of which will be promised when it comes into being: a memfd, or
    /// shared memory with `MAP_NORESERVE`. `nothing` is [`System::no_promise`](crate::system::System::no_promise).
    #[must_use]
    pub fn promised_by_page(self, nothing: Promise) -> Self {
        SharedMemory { payment: Payment::EachPage(nothing), ..self }
    }

    /// Has its pages stay in memory from now on, or leave it as others do (`SHM_LOCK`).
    pub fn stay(&self, stays: Stays) {
        self.stays.store(stays == Stays::InMemory, Ordering::Relaxed);
    }

    /// Whether its pages stay in memory.
    pub(crate) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed)
    }

    /// How many pages it has been promised.
    #[must_use]
    pub fn promised_pages(&self) -> u64 {
        match &self.payment {
            Payment::Free => 0,
            Payment::Whole(promise) | Payment::EachPage(promise) => promise.pages(),
        }
    }

    /// Its length in pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.len.load(Ordering::Relaxed).div_ceil(PAGE_SIZE)
    }

    /// Changes its length, in bytes (ftruncate(2)). What lies past the new end is gone, wherever it is
    /// mapped, private copies too: a touch is a `SIGBUS` from then on.
    ///
    /// # Errors
    /// `EPERM` where a seal forbids it; `EIO` where the last page is in the swap area, and cannot be read or written.
    /// Source: `shmem_setattr` in Linux's `mm/shmem.c`.
    pub fn truncate(&self, len: u64, system: &System) -> CallResult<()> {
        let _alone = self.alone();
        {
            let maps = self.maps.change();
            let old = self.len.load(Ordering::Relaxed);
            self.seals.allow_length(old, len)?;
            self.len.store(len, Ordering::Relaxed);
            if len < old {
                self.clear(len..len.next_multiple_of(PAGE_SIZE))?;
                let gone = self.pages()..u64::MAX;
                self.split_around(&(len..u64::MAX), &maps, system)?;
                self.forget(gone.clone())?;
                system.zap_now(&maps, &gone, Copies::Go)?;
            }
        }
        Ok(())
    }

    /// What can no longer be done to it.
    #[must_use]
    pub fn seals(&self) -> Seals {
        self.seals.now()
    }

    /// Adds seals.
    ///
    /// # Errors
    /// In this order: `EPERM` when it is sealed against that; `EBUSY` against writing, while shared memory may
    /// write it. Source: `F_ADD_SEALS` of fcntl(2).
    pub fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        let _alone = self.alone();
        self.seals.add(seals, &self.maps)
    }

    /// Keeps out whoever else wants to change it as a file; faults go on.
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up those of the pages that no entry names, and nobody has written.
    fn drop_unneeded(&self, pages: &[u64], system: &System) -> Result<(), Broken> {
        let _changing = self.maps.change();
        let frames = system.frames();
        let unneeded =
            |frame| frames.maps(frame) == 0 && !frames.marks(frame).contains(Marks::DIRTY);
        let gone = pages.iter().filter(|&&page| self.cache.get(page).is_some_and(unneeded));
        gone.copied().try_for_each(|page| self.forget(page..page + 1))
    }

    /// Makes a page that is not there, with these bytes or zeros (`shmem_mfill_atomic_pte`). The caller gets a reference,
    /// for an entry that says that it was written.
    ///
    /// # Errors
    /// `ENOMEM` no memory for it, or the commit limit; `EFAULT` past the end; `EEXIST` there is one.
    pub(crate) fn add_page(
        &self,
        page: u64,
        bytes: Option<&[u8; PAGE_BYTES]>,
        payer: &dyn Payer,
    ) -> CallResult<Frame> {
        if page >= self.pages() {
            return Err(Errno::EFAULT.into());
        }
        if self.is_swapped(page) {
            return Err(Errno::EEXIST.into());
        }
        let mut made = false;
        let contents = if bytes.is_some() { Contents::Any } else { Contents::Zeroed };
        let frame = self.cache.page(
            page,
            contents,
            || self.wish(page),
            |frames, frame| {
                if let Payment::EachPage(promise) = &self.payment {
                    promise.join(&payer.promise(1).map_err(|_| BackingError::OutOfMemory)?);
                }
                if let Some(bytes) = bytes {
                    frames.memory().write(frame.addr(), bytes);
                }
                made = true;
                Ok(())
            },
        );
        let frame = frame.map_err(|error| match error {
            BackingError::Broken(broken) => CallError::Broken(broken),
            BackingError::NoPage | BackingError::OutOfMemory => Errno::ENOMEM.into(),
        })?;
        if made {
            return Ok(frame);
        }
        self.cache.frames().put(frame)?;
        Err(Errno::EEXIST.into())
    }

    /// From where a page is to come (`shmem_get_pgoff_policy`).
    fn wish(&self, page: u64) -> Wish {
        let nodes = self.cache.frames().nodes();
        if nodes.is_one() {
            return Wish::ANY;
        }
        let which = Which::Index(page.wrapping_add(self.policies.base()));
        numa::wish(nodes, self.policies.of(page).as_ref(), which)
    }

    /// Gives up pages; who has them mapped still has them.
    fn forget(&self, pages: Range<u64>) -> Result<(), Broken> {
        let swapped = self.swapped.as_ref();
        let gone = self.cache.forget(pages.clone())?
            + swapped.map_or(Ok(0), |swapped| swapped.forget(pages))?;
        if let Payment::EachPage(promise) = &self.payment {
            promise.give_back(gone);
        }
        Ok(())
    }
}

impl Backing for SharedMemory {
    fn page(&self, index: u64, payer: &dyn Payer) -> Result<Frame, BackingError> {
        if index >= self.pages() {
            return Err(BackingError::NoPage);
        }
        self.bring(index, payer)
    }

    fn name(&self) -> BackingName {
        let name = self.name.clone();
        if self.deleted.load(Ordering::Relaxed) { name.deleted() } else { name }
    }

    fn read_file(&self, offset: u64, into: &mut [u8]) -> usize {
        self.read_at(offset, into).unwrap_or(0)
    }

    fn placement(&self) -> Placement {
        Placement::SharedMemory
    }

    fn check_map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        self.seals.allow_map(flags)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.cache.holds(index)
    }

    fn at_hand(&self, pages: Range<u64>) -> Vec<Option<Frame>> {
        self.cache.at_hand(pages)
    }

    fn punch(&self, pages: Range<u64>, system: &System) -> CallResult<()> {
        let _alone = self.alone();
        let maps = self.maps.change();
        self.seals.allow_write()?;
        let end = pages.end.saturating_mul(PAGE_SIZE);
        self.split_around(&(pages.start * PAGE_SIZE..end), &maps, system)?;
        self.forget(pages.clone())?;
        Ok(system.zap_now(&maps, &pages, Copies::Stay)?)
    }

    fn reclaim(&self, pages: &[u64], system: &System) -> Result<(), Broken> {
        self.drop_unneeded(pages, system)?;
        system.swap_out_of(self, pages)
    }

    fn swapped(&self, pages: Range<u64>) -> Vec<u64> {
        self.swapped.as_ref().map_or_else(Vec::new, |swapped| swapped.held(pages))
    }

    fn read_ahead(&self, pages: &[u64]) -> Result<(), Broken> {
        self.swap_in_together(pages)
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        Some(&self.maps)
    }

    fn shared_memory(&self) -> Option<&SharedMemory> {
        Some(self)
    }

    fn folio(&self, index: u64) -> Option<(Folio, FrameRun)> {
        self.cache.folio(index)
    }

    fn has_frame(&self, index: u64, frame: Frame) -> bool {
        self.cache.get(index) == Some(frame)
    }

    fn exchange_frame(&self, index: u64, old: Frame, new: Frame) -> bool {
        self.cache.exchange(index, old, new)
    }

    fn policies(&self) -> Option<&SharedPolicies> {
        Some(&self.policies)
    }

    fn is_shared_anonymous(&self) -> bool {
        self.origin == Origin::Map
    }
}
