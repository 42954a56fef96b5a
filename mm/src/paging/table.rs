//! One address space's page table: four levels of frames in guest memory.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cursor::{Cursor, Linked, Look};
use super::entry::Entry;
use super::flush::FlushBatch;
use super::promote;
use crate::addr::{self, Frame, PAGE_SHIFT, PageRange, VirtAddr};
use crate::error::Broken;
use crate::phys::{AllocError, Contents, FrameKind, Frames, PhysMemory, Words};

/// The level of the root; leaves of 4 KiB are in level 1.
const ROOT_LEVEL: u32 = 4;
/// Entries of the root that belong to the user half.
const USER_ENTRIES: usize = 256;

/// The index of `addr` in a table of the level (1 is the last).
pub(super) fn index(addr: VirtAddr, level: u32) -> usize {
    addr::index(addr.get() >> (PAGE_SHIFT + 9 * (level - 1)) & 511)
}

/// Bytes that one entry of a table of the level maps.
pub(super) const fn entry_span(level: u32) -> u64 {
    1 << (PAGE_SHIFT + 9 * (level - 1))
}

/// The entries of the root that every address space shares: what Linux's `pgd_ctor` clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelHalf {
    /// Entry 511 of the root, or 0.
    pub top_entry: u64,
}

/// What an entry of the second-lowest level leads to.
#[derive(Clone, Copy, Debug)]
pub enum Below<'a> {
    /// Nothing.
    Nothing,
    /// A last-level table.
    Table(&'a Words),
    /// The same, and nothing has come into it since Linux would have freed it.
    Vacated,
    /// A large page: the entry maps it.
    Large(Entry),
}

/// Whether a table, or a part of one, holds nothing.
#[must_use]
pub(crate) fn holds_nothing(words: &[AtomicU64]) -> bool {
    words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
}

/// A last-level table.
struct LastTable<'a> {
    /// The first address that it maps.
    start: VirtAddr,
    /// The entry that points to it.
    link: &'a AtomicU64,
    frame: Frame,
    words: &'a Words,
}

/// A page table. Entries change only by atomic operations, since vCPUs walk it and set accessed and
/// dirty bits at any time. Tables are added at any time under a shared reference; they are unlinked
/// only under the exclusive lock of the space.
///
/// Others than the space's own calls and faults come here by the reverse map: they have
/// `hold_still`.
#[derive(Debug)]
pub struct PageTable {
    /// The root's frame number.
    root: AtomicU64,
    frames: Arc<Frames>,
    tables: AtomicU64,
    /// Held while tables are unlinked or entries on their way, and by who must not meet that; and by who
    /// changes another space's entry. Only the allocator's lock is taken under it; a fork that retires tables
    /// may flush under it.
    structure: Mutex<()>,
    /// How many large entries there are, which most calls ask: to be read without the lock of `spares`.
    large: AtomicU64,
    /// A frame for each of them. Innermost but for the allocator's lock.
    pub(super) spares: Mutex<Vec<Frame>>,
}

impl PageTable {
    /// A root with the kernel half cloned by reference (Linux's `pgd_alloc`).
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for it.
    pub fn new(frames: Arc<Frames>, kernel: KernelHalf) -> Result<Self, AllocError> {
        let root = frames.alloc(FrameKind::Table, Contents::Zeroed)?;
        frames.memory().words(root)[511].store(kernel.top_entry, Ordering::Release);
        Ok(PageTable {
            root: AtomicU64::new(root.number()),
            frames,
            tables: AtomicU64::new(1),
            structure: Mutex::default(),
            large: AtomicU64::new(0),
            spares: Mutex::default(),
        })
    }

    /// The root's frame: CR3.
    #[must_use]
    pub fn root(&self) -> Frame {
        Frame::new(self.root.load(Ordering::Acquire))
    }

    /// Keeps all tables linked and all entries where they are: nobody moves them, or copies them for a
    /// child. They may change and vanish in their places.
    pub(crate) fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.structure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the tables of `fresh`; what was there before is returned. Under the exclusive lock of the
    /// space, and [`hold_still`](Self::hold_still).
    pub(crate) fn replace_by(&self, fresh: PageTable) -> PageTable {
        let swap = |one: &AtomicU64, other: &AtomicU64| {
            let was = one.swap(other.load(Ordering::Relaxed), Ordering::AcqRel);
            other.store(was, Ordering::Relaxed);
        };
        swap(&self.root, &fresh.root);
        swap(&self.tables, &fresh.tables);
        swap(&self.large, &fresh.large);
        std::mem::swap(&mut *self.spares(), &mut *fresh.spares());
        fresh
    }

    /// How many frames the tables of the user half take, the root included (Linux's `pgtables_bytes`).
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// The leaf entry's slot for `addr`, if its tables exist.
    #[must_use]
    pub fn slot(&self, addr: VirtAddr) -> Option<&AtomicU64> {
        let mut frame = self.root();
        for level in (2..=ROOT_LEVEL).rev() {
            frame = self.child(frame, index(addr, level))?;
        }
        Some(&self.memory().words(frame)[index(addr, 1)])
    }

    /// The last-level table for `addr`, with all tables above it made if need be. What was made stays
    /// when a later one fails: an empty table does no harm. `None` where a large entry is.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table.
    pub fn ensure(&self, addr: VirtAddr) -> Result<Option<&Words>, AllocError> {
        let link = self.ensure_link(addr)?;
        let entry = Entry::new(link.load(Ordering::Acquire));
        if entry.is_vacated() {
            link.fetch_and(!Entry::VACATED, Ordering::AcqRel);
        }
        let frame = match entry.frame() {
            Some(_) if entry.is_large() => None,
            None => self.add_table(link)?,
            linked => linked,
        };
        Ok(frame.map(|frame| self.memory().words(frame)))
    }

    /// The slot of the second-lowest level for `addr`, with the tables above it made if need be.
    pub(super) fn ensure_link(&self, addr: VirtAddr) -> Result<&AtomicU64, AllocError> {
        let mut frame = self.root();
        for level in [4, 3] {
            let at = index(addr, level);
            frame = match self.child(frame, at) {
                Some(child) => child,
                None => {
                    let made = self.add_table(&self.memory().words(frame)[at])?;
                    made.ok_or_else(|| Broken::Invariant(format!("{addr} is in no table")))?
                }
            };
        }
        Ok(&self.memory().words(frame)[index(addr, 2)])
    }

    /// What a slot of the second-lowest level leads to.
    pub(super) fn read_link(&self, slot: &AtomicU64) -> Below<'_> {
        let entry = Entry::new(slot.load(Ordering::Acquire));
        match entry.frame() {
            None => Below::Nothing,
            Some(_) if entry.is_large() => Below::Large(entry),
            Some(_) if entry.is_vacated() => Below::Vacated,
            Some(frame) => Below::Table(self.memory().words(frame)),
        }
    }

    /// Walks the last-level entries of `range` that are not empty, in order. Large entries are passed over:
    /// who changes them, or splits them, does so before (`paging/large`).
    #[must_use]
    pub fn cursor(&self, range: PageRange) -> Cursor<'_> {
        Cursor::new(self, range)
    }

    /// Walks all pages of `range` that there is an entry for, in order: to look at them.
    #[must_use]
    pub fn look(&self, range: PageRange) -> Look<'_> {
        Look::new(self, range)
    }

    /// The parts of `range` that last-level tables and large entries map, in order, whatever those say.
    #[must_use]
    pub fn linked(&self, range: PageRange) -> Linked<'_> {
        Linked::new(self, range)
    }

    /// Whether there is a table of large entries for an address.
    #[must_use]
    pub fn has_directory(&self, addr: VirtAddr) -> bool {
        let above = self.child(self.root(), index(addr, 4));
        above.is_some_and(|frame| self.child(frame, index(addr, 3)).is_some())
    }

    /// Unlinks last-level tables that hold nothing. They are not unlinked as they become empty: that
    /// needs the flush of everything, and most of them are soon used again.
    pub fn reap(&self, batch: &mut FlushBatch) {
        let _still = self.hold_still();
        let mut reaped = 0;
        let done = self.each_last_table(|last| {
            if holds_nothing(last.words) {
                last.link.store(0, Ordering::Release);
                batch.table_unlinked();
                batch.put_later(last.frame);
                reaped += 1;
            }
            ControlFlow::<()>::Continue(())
        });
        debug_assert!(done.is_continue());
        self.tables.fetch_sub(reaped, Ordering::Relaxed);
    }

    /// A copy of the table in frames of its own: no vCPU can have cached anything of it, so the accessed
    /// bits of its leaf entries are clear. The pages that entries name have no more references than before:
    /// one of the two tables has to be given up, or its entries emptied. For the last-level tables at the
    /// addresses of `promoted`, which ascend, it has large entries if they still are [promotable](Self::promotable).
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table; nothing is left behind.
    pub fn renewed(&self, promoted: &[VirtAddr]) -> Result<PageTable, AllocError> {
        let top_entry = self.memory().words(self.root())[511].load(Ordering::Relaxed);
        let fresh = PageTable::new(Arc::clone(&self.frames), KernelHalf { top_entry })?;
        let mut promoted = promoted.iter().peekable();
        let copied = self.each_last_table(|last| {
            let named = promoted.next_if(|addr| **addr == last.start);
            if let Some(large) = named.and_then(|_| promote::promoted(last.words)) {
                return match fresh.map_large(last.start, large.uncached()) {
                    Ok(_) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(error),
                };
            }
            let vacated = Entry::new(last.link.load(Ordering::Relaxed)).is_vacated();
            if vacated && holds_nothing(last.words) {
                return ControlFlow::Continue(());
            }
            let copy = match fresh.ensure(last.start) {
                Ok(Some(copy)) => copy,
                Ok(None) => return ControlFlow::Continue(()),
                Err(error) => return ControlFlow::Break(error),
            };
            for (from, to) in last.words.iter().zip(copy) {
                let entry = Entry::new(from.load(Ordering::Relaxed)).uncached();
                to.store(entry.raw(), Ordering::Release);
            }
            ControlFlow::Continue(())
        });
        let copied = match copied {
            ControlFlow::Continue(()) => self.copy_large_to(&fresh),
            ControlFlow::Break(error) => Err(error),
        };
        match copied {
            Ok(()) => Ok(fresh),
            Err(error) => {
                fresh.discard()?;
                Err(error)
            }
        }
    }

    /// Gives up all tables, root and user half, at once: of a table that no vCPU has ever used.
    ///
    /// # Errors
    /// [`Broken`] if a frame was not in use.
    pub fn discard(self) -> Result<(), Broken> {
        let frames = Arc::clone(&self.frames);
        let mut batch = FlushBatch::new();
        self.retire(&mut batch);
        batch.put_all(&frames)
    }

    /// Unlinks every table of the user half (Linux's `free_pgtables`); the root stays. The leaf entries
    /// have been cleared before.
    pub fn free_user_half(&self, batch: &mut FlushBatch) {
        let _still = self.hold_still();
        batch.table_unlinked();
        self.free_below(self.root(), ROOT_LEVEL, USER_ENTRIES, batch);
        for at in 0..USER_ENTRIES {
            self.memory().words(self.root())[at].store(0, Ordering::Release);
        }
        self.drop_spares(batch);
        self.large.store(0, Ordering::Relaxed);
        self.tables.store(1, Ordering::Relaxed);
    }

    /// Gives up a table that another has taken the place of: all its frames are to be retired.
    pub fn retire(self, tables: &mut FlushBatch) {
        self.free_user_half(tables);
        self.free_root(tables);
    }

    /// Gives up the root of a table whose user half is empty (Linux's `pgd_free`).
    pub fn free_root(&self, batch: &mut FlushBatch) {
        batch.table_unlinked();
        batch.put_later(self.root());
    }

    fn free_below(&self, table: Frame, level: u32, entries: usize, batch: &mut FlushBatch) {
        if level == 1 {
            return;
        }
        for at in 0..entries {
            if let Some(child) = self.child(table, at) {
                self.free_below(child, level - 1, 512, batch);
                batch.put_later(child);
            }
        }
    }

    /// Goes through all last-level tables of the user half, upwards.
    fn each_last_table<B>(
        &self,
        mut then: impl FnMut(LastTable<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let span = |level: u32, at: usize| at as u64 * entry_span(level);
        for i in 0..USER_ENTRIES {
            let Some(second) = self.child(self.root(), i) else { continue };
            for j in 0..512 {
                let Some(third) = self.child(second, j) else { continue };
                let links = self.memory().words(third);
                for (k, link) in links.iter().enumerate() {
                    let Some(frame) = self.child(third, k) else { continue };
                    let words = self.memory().words(frame);
                    let start = VirtAddr::new(span(4, i) + span(3, j) + span(2, k));
                    then(LastTable { start, link, frame, words })?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    pub(super) fn memory(&self) -> &dyn PhysMemory {
        self.frames.memory()
    }

    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The table that an entry points to.
    pub(super) fn child(&self, table: Frame, at: usize) -> Option<Frame> {
        let entry = Entry::new(self.memory().words(table)[at].load(Ordering::Acquire));
        if entry.is_large() { None } else { entry.frame() }
    }

    /// Whether there is any large entry.
    #[inline]
    pub(crate) fn has_large(&self) -> bool {
        self.large_entries() != 0
    }

    /// How many large entries there are.
    #[inline]
    pub(crate) fn large_entries(&self) -> u64 {
        self.large.load(Ordering::Acquire)
    }

    /// One large entry more, with its spare frame.
    pub(super) fn add_large(&self) {
        self.note_large();
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    /// One large entry more, whose spare frame counts already: it was a table.
    pub(super) fn note_large(&self) {
        self.large.fetch_add(1, Ordering::AcqRel);
    }

    /// One large entry less; its spare frame has become a table.
    pub(super) fn remove_large(&self) {
        self.large.fetch_sub(1, Ordering::AcqRel);
    }

    /// One table, or spare frame, less.
    pub(super) fn remove_table(&self) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
    }

    /// Links a new table at `slot`; if another thread was first, its table is used. `None` if that has put a
    /// large entry there.
    fn add_table(&self, slot: &AtomicU64) -> Result<Option<Frame>, AllocError> {
        let made = self.frames.alloc(FrameKind::Table, Contents::Zeroed)?;
        let link = Entry::table(made).raw();
        match slot.compare_exchange(0, link, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.tables.fetch_add(1, Ordering::Relaxed);
                Ok(Some(made))
            }
            Err(linked) => {
                self.frames.put(made)?;
                let linked = Entry::new(linked);
                Ok(linked.frame().filter(|_| !linked.is_large()))
            }
        }
    }
}
