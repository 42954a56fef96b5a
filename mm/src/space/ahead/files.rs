//! Pages of files and of shared memory that are there before they are touched. Linux maps 16 of them around each
//! fault (64 KiB, aligned: `do_fault_around`), and they count at once. Here a program that comes to a page table
//! for the second time is given all of that table, since an exit costs more than 500 entries:
//!
//! ```text
//!   a page table    ┌──── 64 KiB ────┬────────────────┬────────────────┬───
//!   first fault     │ A A A A A A A  │                │                │        counted
//!   second fault    │ A A A A A A A  │ A A A A A A A  │ ahead ahead .. │ ...    the rest is not, until
//!   a touch in 3    │ A A A A A A A  │ A A A A A A A  │ ahead A  ahead │ ...    one of a group is touched:
//!   noticed         │ A A A A A A A  │ A A A A A A A  │ A A A A A A A  │ ...    then all of the group are
//! ```
//!
//! So a group comes whole or not at all, and a program finds the pages resident that Linux would have mapped. What
//! it can learn: how many processes map a page (smaps' shared and private) counts those who have it ahead.
//! Only pages that are in memory already come, and only where they may not be written in place: of a page that was
//! both read and written nobody could say which was first, and Linux maps nothing around a write.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::exchange;
use crate::addr::{PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::Broken;
use crate::paging::{Entry, FlushBatch, Leaf, Owner, Touch};
use crate::phys::FrameKind;
use crate::space::{AddressSpace, PageClass};

/// How many pages of a file one fault maps, aligned (Linux's `fault_around_bytes`, 64 KiB).
pub(in crate::space) const FILE_AROUND: usize = 16;

/// What Linux maps around a fault in a VMA (`do_fault_around`): 64 KiB, aligned, or as many from where the VMA
/// begins, if that is later; all in one page table.
pub(in crate::space) fn around(fault: VirtAddr, vma: PageRange) -> Option<PageRange> {
    let span = FILE_AROUND as u64 * PAGE_SIZE;
    let first = (fault.get() & !(span - 1)).max(vma.start().get());
    let end = (first + span).min(fault.table_floor().get() + TABLE_SPAN).min(vma.end().get());
    PageRange::new(VirtAddr::new(first), VirtAddr::new(end))
}

/// The page tables in which pages of files may be ahead, by address.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// How many. Most spaces have none, and most calls ask.
    count: AtomicU64,
    /// A leaf lock: nothing is taken under it.
    starts: Mutex<BTreeSet<u64>>,
}

impl Tables {
    #[inline]
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn add(&self, addr: VirtAddr) {
        let mut starts = self.lock();
        starts.insert(addr.table_floor().get());
        self.count.store(starts.len() as u64, Ordering::Release);
    }

    fn remove(&self, start: u64) {
        let mut starts = self.lock();
        starts.remove(&start);
        self.count.store(starts.len() as u64, Ordering::Release);
    }

    /// Those that meet a range.
    fn of(&self, range: PageRange) -> Vec<u64> {
        let spans: Range<u64> = range.start().table_floor().get()..range.end().get();
        self.lock().range(spans).copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has become of the pages ahead in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// Some are still unseen.
    Some,
    /// None.
    None,
}

impl AddressSpace {
    /// Notes that pages of a file were brought in ahead in the table of this address.
    pub(in crate::space) fn brought_files_ahead(&self, addr: VirtAddr) {
        self.ahead.files.add(addr);
    }

    /// Counts the pages of files that Linux would have mapped by now: the groups of which a page was touched.
    /// To be called before VMAs are cut or joined in the range, which changes what a group is.
    #[inline]
    pub(crate) fn notice_files(&self, range: PageRange) {
        if !self.ahead.files.is_empty() {
            self.notice_tables(range);
        }
    }

    fn notice_tables(&self, range: PageRange) {
        for table in self.ahead.files.of(range) {
            if self.notice_in(table) == Left::None {
                self.ahead.files.remove(table);
            }
        }
    }

    /// The same, and takes away what is still unseen: entries in the range are what they seem then.
    #[inline]
    pub(in crate::space) fn settle_files(&self, range: PageRange, batch: &mut FlushBatch) {
        if !self.ahead.files.is_empty() {
            self.settle_tables(range, batch);
        }
    }

    fn settle_tables(&self, range: PageRange, batch: &mut FlushBatch) {
        for table in self.ahead.files.of(range) {
            while self.notice_in(table) == Left::Some {
                self.drop_unseen(table, batch);
            }
            self.ahead.files.remove(table);
        }
    }

    /// The same with a flush of its own: of frames that nobody has cached, which only leave by it.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(super) fn settle_files_now(&self, range: PageRange) -> Result<(), Broken> {
        let mut batch = FlushBatch::new();
        self.settle_files(range, &mut batch);
        self.flush(batch)
    }

    /// Whether an entry names a page of a file that was brought in ahead.
    pub(in crate::space) fn is_file_ahead(&self, entry: Entry) -> bool {
        let of_file = |frame| self.system.frames().kind(frame) != Some(FrameKind::Zero);
        entry.is_ahead() && entry.owner() == Owner::Backing && entry.frame().is_some_and(of_file)
    }

    fn notice_in(&self, table: u64) -> Left {
        let touched = |leaf: &Leaf<'_>| {
            let entry = Entry::new(leaf.slot.load(Ordering::Acquire));
            self.is_file_ahead(entry) && entry.is_accessed()
        };
        self.leaves_of(table).filter(touched).for_each(|leaf| self.see_around(leaf.addr));
        if self.leaves_of(table).any(|leaf| self.is_file_ahead(leaf.entry)) {
            Left::Some
        } else {
            Left::None
        }
    }

    /// Counts what Linux maps around a page that was touched.
    fn see_around(&self, touched: VirtAddr) {
        let Some(vma) = self.vmas.find_exact(touched) else { return };
        if let Some(around) = around(touched, vma.range()) {
            self.table.cursor(around).for_each(|leaf| self.see(leaf.slot));
        }
    }

    /// Counts a page, if it was brought in ahead.
    pub(in crate::space) fn see(&self, slot: &AtomicU64) {
        let mut entry = Entry::new(slot.load(Ordering::Acquire));
        while self.is_file_ahead(entry) {
            // Accessed, as Linux's `set_pte_range` has it.
            let counted = entry.asked_for().touched(Touch::Read);
            let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
            match slot.compare_exchange(entry.raw(), counted.raw(), done, failed) {
                Ok(_) => {
                    let class = PageClass::of(counted, self.system.frames());
                    return self.counters.resident.add(class);
                }
                Err(now) => entry = Entry::new(now),
            }
        }
    }

    /// What a vCPU touches meanwhile stays.
    fn drop_unseen(&self, table: u64, batch: &mut FlushBatch) {
        for leaf in self.leaves_of(table) {
            let unseen = self.is_file_ahead(leaf.entry) && leaf.entry.is_unseen();
            if unseen && exchange(&leaf, leaf.entry, Entry::EMPTY).is_ok() {
                batch.emptied(leaf.entry, self.system.frames());
            }
        }
    }

    fn leaves_of(&self, table: u64) -> impl Iterator<Item = Leaf<'_>> {
        let range = PageRange::from_len(VirtAddr::new(table), TABLE_SPAN);
        range.into_iter().flat_map(|range| self.table.cursor(range))
    }
}
