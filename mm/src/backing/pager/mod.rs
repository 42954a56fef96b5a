//! A pager of one's own: memory whose pages a closure of the host fills when they are touched, and another one
//! takes when they have been written.
//!
//! ```
//! # use std::sync::Arc;
//! # use mm::{addr::*, backing::*, phys::*, paging::KernelHalf, replay::CountingSink, space::*, system::System};
//! # use mm::vma::{limits::Limits, MapFlags, MapType, Prot};
//! # let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(4096))));
//! # let system = Arc::new(System::new(frames, Box::new(CountingSink::default()), KernelHalf::default()));
//! # let space = SpaceUser::new(AddressSpace::new(Arc::clone(&system), Limits::default())?);
//! let squares = Pager::new("squares", 1 << 20, |offset, page| {
//!     for (word, number) in page.chunks_exact_mut(8).zip(offset / 8..) {
//!         word.copy_from_slice(&(number * number).to_le_bytes());
//!     }
//!     Ok(())
//! });
//! let squares = squares.open(&system);
//! let at = VirtAddr::new(0x1000_0000);
//! squares.map(&space, at, Prot::READ, MapFlags::FIXED | MapType::Shared.into())?;
//! let mut word = [0; 8];
//! space.read(at.offset(8 * 70_000), &mut word)?;
//! assert_eq!(u64::from_le_bytes(word), 70_000 * 70_000);
//! # space.put()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What becomes of a page
//!
//! ```text
//!             a touch                   entries, by faults
//!   nothing ───────────> being filled ──────────────────────> here ──> leaving ── written: taken ──> nothing
//!      ^                      │ fill fails: SIGBUS              ^          │ the taker fails
//!      └──────────────────────┘                                └──────────┘
//! ```
//!
//! A page leaves when memory is short, when there are more than [`keeping`](Pager::keeping) allows, and when
//! somebody asks for it ([`PagedMemory::evict`], `MADV_PAGEOUT`): the ones filled first are the first to go. All its
//! entries go, in all spaces, and what vCPUs have cached of them; then its bytes are final, and if anybody has
//! written it they are given to the taker. One that is not taken stays, and counts as written as before. What a
//! program has locked (mlock(2)) does not leave.
//!
//! Written pages are also taken, and stay, by msync(2) with `MS_SYNC` ([`PagedMemory::sync`]), when nobody maps the
//! memory any more, and at its end.
//!
//! # What the closures may do
//!
//! No lock of this crate is held while one runs: not the address space's, not the machine's. So a closure may read
//! and write the memory of any program ([`SharedSpace::read`](crate::space::SharedSpace::read)), the one that waits
//! for it included; map and unmap; and take its time, for which only those wait who touch that page, or find no
//! memory. They run on the thread of whoever needs the page, several at once for different pages, never two for one.
//!
//! What a closure must not touch is memory whose pager may be waiting for it: its own pager's, or that of one whose
//! closures touch this one's. The very page that it is called for is found out, and refused as a page that is not there;
//! two that wait for each other's pages wait for ever. Nor is more memory made for it by taking pages: what it
//! touches has to fit beside what cannot be given up without a closure.
//!
//! An error ends the access with `SIGBUS` (`BUS_ADRERR`), or the call with `EFAULT`; the next one asks again. A panic
//! is such an error, where the program that this is in unwinds; where it aborts, it ends that.

mod evict;
mod paged;
mod pages;
mod registry;
mod sync;

pub use paged::PagedMemory;
pub(crate) use registry::Pagers;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::addr::PAGE_BYTES;

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_BYTES];

type Fill = dyn Fn(u64, &mut PageBytes) -> io::Result<()> + Send + Sync;
type Take = dyn Fn(u64, &PageBytes) -> io::Result<()> + Send + Sync;
type Watch = dyn Fn(u64, &PageBytes) + Send + Sync;

/// Where the pages of some memory come from and where they go: see the [module](self). Offsets are in bytes from the
/// start of the memory, multiples of the page size.
pub struct Pager {
    name: String,
    /// In bytes.
    len: u64,
    /// In pages.
    most: u64,
    /// In pages.
    ahead: u64,
    fill: Box<Fill>,
    take: Option<Box<Take>>,
    watch: Option<Box<Watch>>,
}

impl Pager {
    /// Memory of `len` bytes, which `/proc/PID/maps` calls `name`. `fill` is given each page all zeros, when it is
    /// needed; the part of the last one past the end is part of it.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        len: u64,
        fill: impl Fn(u64, &mut PageBytes) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (name, fill) = (name.into(), Box::new(fill));
        Pager { name, len, most: u64::MAX, ahead: 1, fill, take: None, watch: None }
    }

    /// The same, whose shared maps may be written: `take` is given each page that has been, before it leaves memory. It
    /// has them when it says `Ok`. Without this, such a map can only be read (`EACCES`, as of a file that is).
    #[must_use]
    pub fn taking(
        self,
        take: impl Fn(u64, &PageBytes) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Pager { take: Some(Box::new(take)), ..self }
    }

    /// The same, where `watch` is shown each page that leaves memory, written or not, the last thing before its
    /// frame becomes another's. Such pages are not given up where no closure can run: a fork, say, that finds no memory
    /// does not get theirs.
    #[must_use]
    pub fn watching(self, watch: impl Fn(u64, &PageBytes) + Send + Sync + 'static) -> Self {
        Pager { watch: Some(Box::new(watch)), ..self }
    }

    /// The same, with about so many pages in memory at most, and at least one; beside them those that are locked.
    #[must_use]
    pub fn keeping(self, pages: u64) -> Self {
        Pager { most: pages.max(1), ..self }
    }

    /// The same, where so many pages are filled for one touch when a program goes on page by page: a fault costs far
    /// more than a page. Without this, only what is touched is ever filled.
    #[must_use]
    pub fn ahead(self, pages: u64) -> Self {
        Pager { ahead: pages.max(1), ..self }
    }

    fn fill(&self, offset: u64) -> io::Result<PageBytes> {
        let mut page = [0; PAGE_BYTES];
        contained(|| (self.fill)(offset, &mut page))?;
        Ok(page)
    }

    fn take(&self, offset: u64, page: &PageBytes) -> io::Result<()> {
        match &self.take {
            Some(take) => contained(|| take(offset, page)),
            // Nothing but the host can have written it.
            None => Ok(()),
        }
    }

    fn watch(&self, offset: u64, page: &PageBytes) {
        if let Some(watch) = &self.watch {
            let watched = contained(|| {
                watch(offset, page);
                Ok(())
            });
            if let Err(error) = watched {
                log::warn!("{}: who watches the page at {offset:#x}: {error}", self.name);
            }
        }
    }
}

/// What a closure says; a panic of it is an error.
fn contained<T>(closure: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // What it has left half done is its own: the page that it was about is not used.
    catch_unwind(AssertUnwindSafe(closure)).unwrap_or_else(|_| Err(io::Error::other("it panicked")))
}

impl fmt::Debug for Pager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pager { name, len, most, ahead, take, watch, fill: _ } = self;
        f.debug_struct("Pager")
            .field("name", name)
            .field("len", len)
            .field("most", most)
            .field("ahead", ahead)
            .field("takes", &take.is_some())
            .field("watches", &watch.is_some())
            .finish_non_exhaustive()
    }
}
