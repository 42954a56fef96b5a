//! Where a page's bytes come from. Anonymous memory needs no backing object; everything else is a
//! [`Backing`].

mod cache;
mod file;
mod folios;
mod host_file;
mod huge;
mod open;
pub mod pager;
mod seals;
mod shared;

pub(crate) use file::no_sync;
pub use file::{FileBacking, FileSource};
pub use folios::Folio;
pub use host_file::HostFile;
pub(crate) use host_file::WindowBudget;
pub use huge::{HugeMemory, HugePool, HugePoolStats, HugePromise, huge_page_size};
pub(crate) use huge::{Pages, Taker};
pub use open::OpenFile;
pub use pager::{PageBytes, PagedMemory, Pager};
pub use seals::Seals;
pub(crate) use shared::Missing;
pub use shared::{LONGEST, Length, SharedMemory, SharedPolicies, Sought, Stays};

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bitflags::bitflags;

use crate::addr::{Frame, FrameRun, PAGE_SIZE, VirtAddr};
use crate::error::{Broken, CallResult, Errno};
use crate::paging::AccessKind;
use crate::phys::{AllocError, Frames};
use crate::promise::Payer;
use crate::rmap::ObjectMaps;
use crate::segments::Segment;
use crate::system::System;
use crate::vma::{MapFlags, VmFlags};

/// Why a backing has no page.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The index lies past the end, or the bytes could not be read: the access gets `SIGBUS`.
    #[error("no such page in the backing")]
    NoPage,
    /// No frame was left for it.
    #[error("no memory for a page of the backing")]
    OutOfMemory,
    /// The machine stops.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<AllocError> for BackingError {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::OutOfMemory => BackingError::OutOfMemory,
            AllocError::Broken(broken) => BackingError::Broken(broken),
        }
    }
}

/// How `/proc/PID/maps` names a backing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BackingName {
    /// The device number's major part.
    pub major: u32,
    /// The device number's minor part.
    pub minor: u32,
    /// The inode number.
    pub inode: u64,
    /// The path as printed.
    pub path: String,
}

impl BackingName {
    /// A new memfd's: `/memfd:name (deleted)`.
    fn memfd(system: &System, name: &str) -> Self {
        let path = format!("/memfd:{name} (deleted)");
        BackingName { major: 0, minor: 1, inode: system.new_inode(), path }
    }

    /// The same, said to have no path any more.
    fn deleted(mut self) -> Self {
        const DELETED: &str = " (deleted)";
        if !self.path.ends_with(DELETED) {
            self.path += DELETED;
        }
        self
    }
}

bitflags! {
    /// What an open file lets mmap(2) do.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FileMode: u32 {
        /// Opened for reading: without it `EACCES`.
        const READ = 1;
        /// Opened for writing: without it a shared mapping can never be written.
        const WRITE = 2;
        /// The file only grows (`chattr +a`): a shared mapping through an open for writing is `EACCES`.
        const APPEND_ONLY = 4;
        /// On a file system mounted noexec: `PROT_EXEC` is `EPERM`.
        const NOEXEC = 8;
        /// Not a thing that can be mapped (a directory, a pipe): `ENODEV`.
        const UNMAPPABLE = 16;
        /// `/dev/zero`: what is mapped of it is memory of its own (Linux's `mmap_zero`).
        const ZEROS = 32;
    }
}

/// How a backing wants its maps placed (Linux's `f_op->get_unmapped_area`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Anywhere.
    Anywhere,
    /// So that huge pages fit, where the map is large enough (`thp_get_unmapped_area`).
    HugeAligned,
    /// In pages of so many bytes (`hugetlb_get_unmapped_area`): a fixed address must be one.
    HugePages(u64),
    /// As shared memory does (`shmem_get_unmapped_area`), which has no huge pages unless told.
    SharedMemory,
}

impl Placement {
    /// Bytes of a page of what is placed so, a power of two.
    #[must_use]
    pub fn page_size(self) -> u64 {
        match self {
            Placement::HugePages(size) => size,
            Placement::Anywhere | Placement::HugeAligned | Placement::SharedMemory => PAGE_SIZE,
        }
    }
}

/// A page that [`Backing::bring`] has brought: it stays as long as this does.
#[derive(Debug)]
#[must_use = "the page may be gone before it is used"]
pub struct Brought {
    frames: Arc<Frames>,
    frame: Frame,
}

impl Brought {
    /// Takes a reference to the frame, of which the caller knows that it stays so meanwhile.
    pub fn new(frames: &Arc<Frames>, frame: Frame) -> Self {
        frames.get(frame);
        Brought { frames: Arc::clone(frames), frame }
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        if let Err(broken) = self.frames.put(self.frame) {
            log::error!("{:?} that was brought cannot be given up: {broken}", self.frame);
        }
    }
}

/// A source of pages: a file, shared memory. Who wants closures of his own to fill and take pages makes a
/// [`Pager`].
///
/// A backing keeps a reference to each frame it has handed out until it is dropped.
pub trait Backing: Debug + Send + Sync {
    /// The frame that holds page `index` of the backing, in pages from its start, read in if need be.
    /// The caller gets a reference of its own, and gives it up with [`Frames::put`](crate::phys::Frames::put). A private mapping
    /// must not write to it. Where pages are promised as they come into being, `payer` is asked.
    ///
    /// # Errors
    /// [`BackingError`] when there is no such page, no memory, or the host failed.
    fn page(&self, index: u64, payer: &dyn Payer) -> Result<Frame, BackingError>;

    /// Whether [`page`](Self::page) can say what there is without a wait for somebody outside. If not, the fault lets
    /// go of all locks, has the page [brought](Self::bring), and comes again. While pages of the object are
    /// held ([`ObjectMaps::hold`]) what is ready stays so.
    fn is_ready(&self, _index: u64) -> bool {
        true
    }

    /// Brings a page that is not ready. No lock is held.
    ///
    /// # Errors
    /// As of [`page`](Self::page).
    fn bring(&self, _index: u64, _: &System) -> Result<Option<Brought>, BackingError> {
        Ok(None)
    }

    /// Whether its pages are made by somebody outside ([`is_ready`](Self::is_ready)), and leave memory again as they
    /// like: those that are locked do not.
    fn is_paged(&self) -> bool {
        false
    }

    /// What `/proc/PID/maps` prints for it.
    fn name(&self) -> BackingName;

    /// Fills a buffer from byte `offset` of the file that it is; says how many bytes there were. Of what is no file
    /// nothing. It may wait for the host.
    fn read_file(&self, _offset: u64, _into: &mut [u8]) -> usize {
        0
    }

    /// What it was opened for.
    fn mode(&self) -> FileMode {
        FileMode::READ | FileMode::WRITE
    }

    /// How its maps are placed.
    fn placement(&self) -> Placement {
        Placement::Anywhere
    }

    /// Bytes of a page of it, a power of two (Linux's `vm_ops->pagesize`): its maps consist of whole ones.
    fn page_size(&self) -> u64 {
        self.placement().page_size()
    }

    /// Is asked before anything happens whether it may be mapped so, and may change what the map can do
    /// (the seals of memfd_create(2)).
    ///
    /// # Errors
    /// The errno that mmap(2) shall return; nothing has changed then.
    fn check_map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        Ok(flags)
    }

    /// Flags that `MAP_SHARED_VALIDATE` finds here beside the old ones (Linux's `FOP_MMAP_SYNC`). What
    /// becomes of them, [`map`](Self::map) says.
    fn validated_flags(&self) -> MapFlags {
        MapFlags::empty()
    }

    /// Is asked when these pages of it are mapped, after what was there has been unmapped, and may change what
    /// the map can do (Linux's `f_op->mmap_prepare`).
    ///
    /// # Errors
    /// The errno that mmap(2) shall return; what was there is gone then, as in Linux.
    fn map(&self, flags: VmFlags, _pages: Range<u64>) -> Result<VmFlags, Errno> {
        Ok(flags)
    }

    /// Is asked before a map of it is cut at `addr` (Linux's `vm_ops->may_split`).
    ///
    /// # Errors
    /// The errno that the call shall return.
    fn may_split(&self, _addr: VirtAddr) -> Result<(), Errno> {
        Ok(())
    }

    /// Whether page `index` is in memory, for mincore(2).
    fn is_resident(&self, _index: u64) -> bool {
        false
    }

    /// The same of pages one after the other.
    fn residency(&self, pages: Range<u64>) -> Vec<bool> {
        pages.map(|index| self.is_resident(index)).collect()
    }

    /// The frames of those pages of the range that are in memory already, one after the other: they may be mapped
    /// ahead of any touch. May be shorter than the range. They stay while pages of the object are held
    /// ([`ObjectMaps::hold`]), or for as long as it lives; the caller gets no references.
    fn at_hand(&self, _pages: Range<u64>) -> Vec<Option<Frame>> {
        Vec::new()
    }

    /// Makes sure that page `index` can be accessed so, before an entry allows it (Linux's `page_mkwrite`, where it
    /// is written): a file's disk may be full. Asked of pages that are mapped in place.
    ///
    /// # Errors
    /// [`BackingError::NoPage`] where it cannot.
    fn prepare(&self, _index: u64, _kind: AccessKind) -> Result<(), BackingError> {
        Ok(())
    }

    /// Whether the first write to a page has to ask [`prepare`](Self::prepare), also where the page was read before
    /// (Linux's `vma_wants_writenotify`).
    fn wants_write_notify(&self) -> bool {
        false
    }

    /// Frees pages of the object itself, which read as zeros from then on (`FALLOC_FL_PUNCH_HOLE` of
    /// fallocate(2)), and empties the entries that name them. No page of the object may be held.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where it cannot.
    fn punch(&self, _pages: Range<u64>, _: &System) -> CallResult<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// Writes what has changed of these pages to where it lasts (msync(2)). No lock is held.
    ///
    /// # Errors
    /// The errno that the call shall return.
    fn sync(&self, _pages: Range<u64>, _: &System) -> Result<(), Errno> {
        Ok(())
    }

    /// Gives up those of the pages that no entry names, if they hold nothing that was written or can be swapped out:
    /// reclaim. No page of the object may be held; who had entries has flushed them.
    ///
    /// # Errors
    /// [`Broken`] when a page's frame was not in use, or a flush fails.
    fn reclaim(&self, _pages: &[u64], _: &System) -> Result<(), Broken> {
        Ok(())
    }

    /// The pages of a range that are in the swap area.
    fn swapped(&self, _pages: Range<u64>) -> Vec<u64> {
        Vec::new()
    }

    /// Reads these pages, as far as they are in the swap area still, together where they lie side by side there. The
    /// caller [holds](ObjectMaps::hold) the maps.
    ///
    /// # Errors
    /// [`Broken`] if a frame or a place cannot be given up.
    fn read_ahead(&self, _pages: &[u64]) -> Result<(), Broken> {
        Ok(())
    }

    /// Is told that nobody maps it any more, if it notes its [`maps`](Self::maps). The space that did is locked.
    fn unmapped(&self, _: &System) {}

    /// Where it is mapped, if pages of it can go away while it is. All maps are noted there then.
    fn maps(&self) -> Option<&ObjectMaps> {
        None
    }

    /// Whether it is shared memory (memfd, shm, `MAP_SHARED|MAP_ANONYMOUS`), which userfaultfd(2) knows
    /// how to fill.
    fn is_shared_memory(&self) -> bool {
        self.shared_memory().is_some()
    }

    /// The shared memory that it is, or opens.
    fn shared_memory(&self) -> Option<&SharedMemory> {
        None
    }

    /// The larger piece of memory that page `index` is in, and its frames, if it is in one: they may be mapped
    /// together. It stays one while pages of the object are held ([`ObjectMaps::hold`]). Asked of a page that is touched.
    fn folio(&self, _index: u64) -> Option<(Folio, FrameRun)> {
        None
    }

    /// Whether page `index` is in this frame.
    fn has_frame(&self, _index: u64, _frame: Frame) -> bool {
        false
    }

    /// Puts another frame in the place of page `index`'s, with the same bytes, and says whether that was done: not if it
    /// has another one by now, nor in a thing whose pages do not move. The reference to it goes with it. No page of the
    /// object may be held.
    fn exchange_frame(&self, _index: u64, _old: Frame, _new: Frame) -> bool {
        false
    }

    /// The memory policies of its pages, if it is a thing that has them (Linux's `vm_ops->set_policy`), and whose pages
    /// move from node to node.
    fn policies(&self) -> Option<&SharedPolicies> {
        None
    }

    /// Whether it is the memory behind `MAP_SHARED|MAP_ANONYMOUS`, which can be named.
    fn is_shared_anonymous(&self) -> bool {
        false
    }

    /// The memory in huge pages of the pool that it is, or opens.
    fn huge(&self) -> Option<&HugeMemory> {
        None
    }

    /// The segment of System V shared memory that it is an open of: each of its VMAs counts.
    fn segment(&self) -> Option<&Segment> {
        None
    }

    /// Whether it counts its maps, so that none of them may vanish in another (Linux's
    /// `vm_ops->close`).
    fn has_close_hook(&self) -> bool {
        false
    }
}
