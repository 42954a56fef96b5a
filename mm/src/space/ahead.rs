//! Anonymous pages that are there before they are touched, and pages of files (`files`). A fault costs far more than a page (KVM.md:
//! 50 us against 2 us on software KVM), so a program that touches page after page, upwards or downwards, gets several at
//! once.
//!
//! Nobody can tell: what was brought in ahead does not count, for mincore, for the resident size, until
//! the accessed bit of its entry is set.
//!
//! ```text
//!                      A clear             A set, D clear          D set
//!   Linux would have   nothing there       the page of zeros       a page of the process's own
//!   settled, it is     removed             the page of zeros       the same, and counted
//! ```
//!
//! The ranges in which such entries are, the open windows, are few: when there are too many, the oldest
//! is closed. So nobody has to search a whole page table for them.

mod files;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use files::Tables;
pub(super) use files::{FILE_AROUND, around};

use super::counters::Resident;
use super::{AddressSpace, PageClass};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::error::Broken;
use crate::paging::{Access, Entry, FlushBatch, Leaf, Owner, Touch};

/// The longest run of pages that one fault brings in.
const AHEAD_MOST: u64 = 64;

/// How many windows stay open.
const OPEN_MOST: usize = 8;

/// Towards which end of memory a program goes on, page by page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Up,
    Down,
}

impl Way {
    /// How many pages of a range there are from this one on, itself included.
    pub(super) fn room(self, page: VirtAddr, range: PageRange) -> u64 {
        match self {
            Way::Up => (range.end().get() - page.get()) / PAGE_SIZE,
            Way::Down => (page.get() - range.start().get()) / PAGE_SIZE + 1,
        }
    }
}

/// Pages that one fault is about: the touched one, and those next to it on one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    pub(super) way: Way,
    /// How many, the touched one among them.
    pub(super) pages: u64,
}

impl Stretch {
    pub(super) fn at_most(self, pages: u64) -> Self {
        Stretch { pages: self.pages.min(pages), ..self }
    }

    /// The pages, from the lowest on; none if they are none.
    pub(super) fn range(self, touched: VirtAddr) -> Option<PageRange> {
        let bytes = self.pages * PAGE_SIZE;
        let first = match self.way {
            Way::Up => touched,
            Way::Down => VirtAddr::new((touched.get() + PAGE_SIZE).checked_sub(bytes)?),
        };
        PageRange::from_len(first, bytes)
    }

    /// Those next to the touched one.
    fn beside(self, touched: VirtAddr) -> Option<PageRange> {
        let bytes = self.pages.checked_sub(1)? * PAGE_SIZE;
        let first = match self.way {
            Way::Up => touched.offset(PAGE_SIZE),
            Way::Down => VirtAddr::new(touched.get().checked_sub(bytes)?),
        };
        PageRange::from_len(first, bytes)
    }
}

/// How faults follow each other, and where pages are that nobody may have touched.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The pages above and below those that came last: if the program goes on as it does, its next fault is at one of
    /// them.
    above: AtomicU64,
    below: AtomicU64,
    window: AtomicU64,
    /// The oldest first. A leaf lock: nothing is taken under it.
    open: Mutex<Vec<PageRange>>,
    files: Tables,
}

impl Ahead {
    /// Which pages to bring in for a fault at `page`: twice as many each time for a program that goes on page by
    /// page, one at a time for one that jumps about, where they go the `usual` way.
    pub(super) fn stretch(&self, page: VirtAddr, usual: Way) -> Stretch {
        let stretch = self.next_stretch(page, usual);
        self.window.store(stretch.pages, Ordering::Relaxed);
        stretch
    }

    /// The same of a fault that may not come to its end.
    pub(super) fn next_stretch(&self, page: VirtAddr, usual: Way) -> Stretch {
        let window = self.window.load(Ordering::Relaxed);
        let way = if self.above.load(Ordering::Relaxed) == page.get() {
            Way::Up
        } else if self.below.load(Ordering::Relaxed) == page.get() {
            Way::Down
        } else {
            return Stretch { way: usual, pages: (window / 4).max(1) };
        };
        Stretch { way, pages: (window * 2).clamp(2, AHEAD_MOST) }
    }

    /// Notes which pages came for a fault at `page`: where the next ones will be if the program goes on.
    pub(super) fn came(&self, page: VirtAddr, pages: Stretch) {
        let (page, bytes) = (page.get(), pages.pages * PAGE_SIZE);
        let (above, below) = match pages.way {
            Way::Up => (page + bytes, page.wrapping_sub(PAGE_SIZE)),
            Way::Down => (page + PAGE_SIZE, page.wrapping_sub(bytes)),
        };
        self.above.store(above, Ordering::Relaxed);
        self.below.store(below, Ordering::Relaxed);
    }

    /// Opens a window. The one that must be closed for it is returned.
    fn open(&self, window: PageRange) -> Option<PageRange> {
        let mut open = self.lock();
        let oldest = (open.len() >= OPEN_MOST).then(|| open.remove(0));
        open.push(window);
        oldest
    }

    /// Takes out the windows that meet the range.
    fn take(&self, range: PageRange) -> Vec<PageRange> {
        let mut open = self.lock();
        if open.is_empty() {
            return Vec::new();
        }
        open.extract_if(.., |window| window.intersect(range).is_some()).collect()
    }

    fn all(&self) -> Vec<PageRange> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PageRange>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressSpace {
    /// Pages resident, as the program knows of them.
    #[must_use]
    pub fn resident(&self) -> &Resident {
        self.count_all_ahead();
        &self.counters.resident
    }

    /// Counts what was brought in ahead and has been touched since: entries are what they seem then, but for
    /// those that nobody has touched.
    pub(crate) fn count_all_ahead(&self) {
        self.count_ahead();
        if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
            self.notice_files(all);
        }
    }

    /// Notes that pages were brought in for a fault at `page`, all but that ahead of any touch.
    pub(super) fn brought_ahead(&self, page: VirtAddr, pages: Stretch) -> Result<(), Broken> {
        self.ahead.came(page, pages);
        match pages.beside(page).and_then(|pages| self.ahead.open(pages)) {
            Some(oldest) => self.close_window(oldest),
            None => Ok(()),
        }
    }

    /// Counts what was brought in ahead of anonymous memory and has been written since.
    pub(super) fn count_ahead(&self) {
        for window in self.ahead.all() {
            for leaf in self.table.cursor(window).filter(|leaf| leaf.entry.is_ahead()) {
                self.count_written(&leaf, leaf.entry);
            }
        }
    }

    /// Settles whatever was brought in ahead in the range, so that entries there are what they seem.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(super) fn settle(&self, range: PageRange) -> Result<(), Broken> {
        self.ahead.take(range).into_iter().try_for_each(|window| self.close_window(window))?;
        self.settle_files_now(range)
    }

    fn close_window(&self, window: PageRange) -> Result<(), Broken> {
        // Who writes to what becomes the page of zeros here waits until nobody reads what it was before.
        let _replacing = self.replacements.begin();
        let mut batch = FlushBatch::new();
        let anonymous = |leaf: &Leaf<'_>| leaf.entry.is_ahead() && !self.is_file_ahead(leaf.entry);
        for leaf in self.table.cursor(window).filter(anonymous) {
            self.settle_one(&leaf, &mut batch)?;
        }
        self.flush(batch)
    }

    /// The hardware may set bits meanwhile: then what the entry becomes is decided anew.
    fn settle_one(&self, leaf: &Leaf<'_>, batch: &mut FlushBatch) -> Result<(), Broken> {
        let mut entry = leaf.entry;
        while entry.is_ahead() && !self.count_written(leaf, entry) {
            let Some(frame) = entry.frame() else { return Ok(()) };
            let settled = if entry.is_accessed() { self.only_read(entry) } else { Entry::EMPTY };
            match exchange(leaf, entry, settled) {
                Err(now) => entry = now,
                Ok(()) if settled.frame() == Some(frame) => {
                    self.counters.resident.add(PageClass::of(settled, self.system.frames()));
                    return Ok(());
                }
                Ok(()) => {
                    batch.emptied(entry, self.system.frames());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What becomes of an entry through which zeros were read.
    fn only_read(&self, entry: Entry) -> Entry {
        match (entry.owner(), self.system.frames().zero_frame()) {
            (Owner::Process, Ok(zero)) => {
                let access = entry.access().difference(Access::WRITE);
                Entry::leaf(zero, Owner::Backing, access, Touch::Read)
            }
            // The page of zeros itself; or there is none to be had, and this one serves as well.
            _ => entry.asked_for(),
        }
    }

    /// Counts one page if it has been written; says whether that settled it.
    fn count_written(&self, leaf: &Leaf<'_>, entry: Entry) -> bool {
        let written = entry.is_dirty() && exchange(leaf, entry, entry.asked_for()).is_ok();
        if written {
            self.counters.resident.add(PageClass::of(entry.asked_for(), self.system.frames()));
        }
        written
    }
}

fn exchange(leaf: &Leaf<'_>, old: Entry, new: Entry) -> Result<(), Entry> {
    let (old, new) = (old.raw(), new.raw());
    match leaf.slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(now) => Err(Entry::new(now)),
    }
}
