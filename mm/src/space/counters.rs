//! What an address space counts: resident pages and faults.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::paging::{Entry, Owner};
use crate::phys::{FrameKind, Frames};
use crate::vma::merge::Merge;

/// Counters of one address space. Changed under the shared lock, so all of them are atomics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pages that entries name.
    pub resident: Resident,
    /// Pages that are in the swap area (`MM_SWAPENTS`).
    pub swapped: AtomicU64,
    /// Faults resolved, by what they needed.
    pub faults: FaultCount,
    /// VMAs merged.
    pub merges: MergeCount,
    /// Pages that stay where they are for somebody outside (Linux's `pinned_vm`): who pins them counts
    /// them.
    pub pinned: AtomicU64,
}

/// How often VMAs were merged, by how.
#[derive(Debug, Default)]
pub struct MergeCount([AtomicU64; Merge::ALL.len()]);

impl MergeCount {
    pub(super) fn count(&self, merge: Option<Merge>) {
        if let Some(merge) = merge {
            self.0[merge as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often there was such a merge.
    #[must_use]
    pub fn of(&self, merge: Merge) -> u64 {
        self.0[merge as usize].load(Ordering::Relaxed)
    }
}

/// Pages that entries name (Linux's `rss_stat`), in pages.
#[derive(Debug, Default)]
pub struct Resident {
    own: AtomicU64,
    file: AtomicU64,
    shared: AtomicU64,
    huge: AtomicU64,
    peak: AtomicU64,
}

/// What a resident page counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageClass {
    /// The process's own (`MM_ANONPAGES`).
    Own,
    /// A file's (`MM_FILEPAGES`).
    File,
    /// Shared memory's (`MM_SHMEMPAGES`).
    Shared,
    /// In huge pages of the pool (`hugetlb_usage`): not resident to those who ask for that.
    Huge,
}

impl PageClass {
    /// What the page of an entry counts as, if it counts at all: zeros do not, nor does what was only
    /// brought in ahead.
    pub(crate) fn of(entry: Entry, frames: &Frames) -> Option<Self> {
        let frame = entry.frame().filter(|_| !entry.is_ahead())?;
        if entry.is_pooled() {
            return Some(PageClass::Huge);
        }
        match (entry.owner(), frames.kind(frame)) {
            (Owner::Process, _) => Some(PageClass::Own),
            (Owner::Backing, Some(FrameKind::Zero)) => None,
            (Owner::Backing, Some(FrameKind::Shared)) => Some(PageClass::Shared),
            (Owner::Backing, _) => Some(PageClass::File),
        }
    }
}

/// Pages that become resident together, and are counted in one go.
#[derive(Debug, Default)]
pub(super) struct Counted {
    own: u64,
    file: u64,
    shared: u64,
    huge: u64,
    pub(super) swapped: u64,
}

impl Counted {
    pub(super) fn add(&mut self, class: Option<PageClass>) {
        self.add_pages(class, 1);
    }

    pub(super) fn add_pages(&mut self, class: Option<PageClass>, pages: u64) {
        match class {
            Some(PageClass::Own) => self.own += pages,
            Some(PageClass::File) => self.file += pages,
            Some(PageClass::Shared) => self.shared += pages,
            Some(PageClass::Huge) => self.huge += pages,
            None => {}
        }
    }
}

impl Resident {
    pub(super) fn add_all(&self, Counted { own, file, shared, huge, .. }: Counted) {
        self.own.fetch_add(own, Ordering::Relaxed);
        self.file.fetch_add(file, Ordering::Relaxed);
        self.shared.fetch_add(shared, Ordering::Relaxed);
        self.huge.fetch_add(huge, Ordering::Relaxed);
        self.peak.fetch_max(self.total(), Ordering::Relaxed);
    }

    pub(crate) fn add(&self, class: Option<PageClass>) {
        if let Some(class) = class {
            self.counter(class).fetch_add(1, Ordering::Relaxed);
            self.peak.fetch_max(self.total(), Ordering::Relaxed);
        }
    }

    pub(super) fn add_pages(&self, class: Option<PageClass>, pages: u64) {
        if let Some(class) = class {
            self.counter(class).fetch_add(pages, Ordering::Relaxed);
            self.peak.fetch_max(self.total(), Ordering::Relaxed);
        }
    }

    pub(crate) fn remove_pages(&self, class: Option<PageClass>, pages: u64) {
        if let Some(class) = class {
            self.counter(class).fetch_sub(pages, Ordering::Relaxed);
        }
    }

    pub(crate) fn remove(&self, class: Option<PageClass>) {
        if let Some(class) = class {
            self.counter(class).fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, class: PageClass) -> &AtomicU64 {
        match class {
            PageClass::Own => &self.own,
            PageClass::File => &self.file,
            PageClass::Shared => &self.shared,
            PageClass::Huge => &self.huge,
        }
    }

    /// Pages of this class.
    #[must_use]
    pub fn of(&self, class: PageClass) -> u64 {
        self.counter(class).load(Ordering::Relaxed)
    }

    /// Anonymous pages and private copies (`MM_ANONPAGES`).
    #[must_use]
    pub fn own(&self) -> u64 {
        self.of(PageClass::Own)
    }

    /// Pages of backings (`MM_FILEPAGES` and `MM_SHMEMPAGES`).
    #[must_use]
    pub fn backed(&self) -> u64 {
        self.of(PageClass::File) + self.of(PageClass::Shared)
    }

    /// All of them but those of the pool.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.own() + self.backed()
    }

    /// The most there have been (`hiwater_rss`).
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Faults resolved, by what they needed.
#[derive(Debug, Default)]
pub struct FaultCount {
    /// A page of zeros.
    pub zero: AtomicU64,
    /// A page of a backing.
    pub backed: AtomicU64,
    /// A private copy of a backing's page.
    pub copied: AtomicU64,
    /// A copy for the other one who named the page, so that it could be written in place.
    pub handed_off: AtomicU64,
    /// A page of the swap area.
    pub swapped: AtomicU64,
    /// Nothing: the entry already allowed the access.
    pub spurious: AtomicU64,
    /// The stack grew.
    pub stack_growth: AtomicU64,
    /// Pages mapped beside the one that was touched.
    pub around: AtomicU64,
}

impl FaultCount {
    /// All faults that were resolved.
    #[must_use]
    pub fn total(&self) -> u64 {
        [&self.zero, &self.backed, &self.copied, &self.handed_off, &self.swapped, &self.spurious]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}
