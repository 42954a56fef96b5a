//! What an address space counts: resident pages, faults, and how faults follow each other.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Frame, PAGE_SIZE, VirtAddr};
use crate::paging::Owner;
use crate::phys::{FrameKind, Frames};
use crate::vma::merge::Merge;

/// Counters of one address space. Changed under the shared lock, so all of them are atomics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pages that entries name.
    pub resident: Resident,
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
}

impl PageClass {
    /// What the page of an entry counts as.
    pub(crate) fn of(owner: Owner, frame: Frame, frames: &Frames) -> Self {
        match owner {
            Owner::Process => PageClass::Own,
            Owner::Backing if frames.kind(frame) == Some(FrameKind::Shared) => PageClass::Shared,
            Owner::Backing => PageClass::File,
        }
    }
}

impl Resident {
    pub(super) fn add(&self, class: PageClass) {
        self.counter(class).fetch_add(1, Ordering::Relaxed);
        self.peak.fetch_max(self.total(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, class: PageClass) {
        self.counter(class).fetch_sub(1, Ordering::Relaxed);
    }

    fn counter(&self, class: PageClass) -> &AtomicU64 {
        match class {
            PageClass::Own => &self.own,
            PageClass::File => &self.file,
            PageClass::Shared => &self.shared,
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

    /// All of them.
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
        [&self.zero, &self.backed, &self.copied, &self.spurious]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

/// The longest run of pages that one fault brings in.
const AHEAD_MOST: u64 = 64;

/// How many pages a fault on anonymous memory brings in at once. A fault costs far more than a page
/// (KVM.md: 50 us against 2 us on software KVM), so a program that touches page after page gets twice
/// as many each time; one that jumps about gets one at a time.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The page where the next fault would be if the program goes on as it does.
    expected: AtomicU64,
    window: AtomicU64,
}

impl Ahead {
    /// How many pages to bring in for a fault at `addr`.
    pub(super) fn window(&self, addr: VirtAddr) -> u64 {
        let window = self.window.load(Ordering::Relaxed);
        let window = if self.expected.load(Ordering::Relaxed) == addr.page_floor().get() {
            (window * 2).clamp(2, AHEAD_MOST)
        } else {
            (window / 4).max(1)
        };
        self.window.store(window, Ordering::Relaxed);
        window
    }

    /// Notes that pages up to `last` were brought in, upwards.
    pub(super) fn brought_up_to(&self, last: VirtAddr) {
        self.expected.store(last.get() + PAGE_SIZE, Ordering::Relaxed);
    }

    /// Notes that pages down to `first` were brought in, downwards.
    pub(super) fn brought_down_to(&self, first: VirtAddr) {
        self.expected.store(first.get().wrapping_sub(PAGE_SIZE), Ordering::Relaxed);
    }
}
