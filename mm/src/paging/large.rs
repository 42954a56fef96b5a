//! Entries of the second-lowest level that map 2 MiB themselves (Linux's `pmd_trans_huge`).
//!
//! ```text
//!                   ┌──map_large──> a large entry ──split──> a table of 512 entries that say the same
//!   nothing linked ─┤                   │    <──link_large─        (the table's frame is its spare one)
//!                   └─────────────<── take_large
//! ```
//!
//! Each comes with a spare frame, so that to split it needs no memory (Linux's `pgtable_trans_huge_deposit`).
//!
//! Protocol: a large entry is mapped, and its permission raised, under the space's lock held shared. It is linked in
//! the place of a table, taken away or split under the lock held exclusively (one of an object's pages is never split, and
//! may be taken away by who holds the table still, for the object), and a flush of everything comes before anything else
//! changes at its addresses. Its frames' flush alone would not do: where the host has no large page for it, KVM
//! keeps a table of its own below, which goes by the first frame; it would put there what a table of the
//! guest's says afterwards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};

use super::entry::Entry;
use super::flush::FlushBatch;
use super::table::{Below, PageTable, holds_nothing, index};
use crate::addr::{Frame, FrameRun, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::Broken;
use crate::phys::{AllocError, BLOCK_FRAMES, Contents, FrameKind};

/// A large entry that was found.
#[derive(Debug)]
pub struct Large<'a> {
    /// The first address that it maps.
    pub addr: VirtAddr,
    /// Where the entry is.
    pub slot: &'a AtomicU64,
    /// The entry as it was found.
    pub entry: Entry,
}

impl Large<'_> {
    /// The frames that it maps.
    #[must_use]
    pub fn run(&self) -> Option<FrameRun> {
        self.entry.large_run()
    }

    /// The addresses that it maps.
    #[must_use]
    pub fn range(&self) -> Option<PageRange> {
        PageRange::from_len(self.addr, TABLE_SPAN)
    }

    /// Changes the entry, whose accessed and dirty bits the hardware may set meanwhile. Says what it was before: one
    /// of the pool may be gone, and nothing changes then.
    pub fn update(&self, to: impl Fn(Entry) -> Entry) -> Entry {
        let change = |raw| {
            let entry = Entry::new(raw);
            entry.is_large().then(|| to(entry).raw())
        };
        let changed = self.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        let (Ok(old) | Err(old)) = changed;
        Entry::new(old)
    }
}

impl Entry {
    /// The frames that a large entry maps.
    #[must_use]
    pub fn large_run(self) -> Option<FrameRun> {
        self.frame()
            .filter(|_| self.is_large())
            .map(|start| FrameRun { start, count: BLOCK_FRAMES })
    }
}

impl PageTable {
    /// The large entry that maps `addr`, if one does.
    #[must_use]
    pub fn large(&self, addr: VirtAddr) -> Option<Large<'_>> {
        if !self.has_large() {
            return None;
        }
        let slot = self.link(addr)?;
        let entry = Entry::new(slot.load(Ordering::Acquire));
        entry.is_large().then_some(Large { addr: addr.table_floor(), slot, entry })
    }

    /// The large entries that map addresses of `range`, upwards. Those at its ends may reach beyond it.
    pub fn large_in(&self, range: PageRange) -> impl Iterator<Item = Large<'_>> {
        let mut look = self.has_large().then(|| self.look(range));
        std::iter::from_fn(move || look.as_mut()?.next_large())
    }

    /// An address for each last-level table of `range` that Linux would have, too.
    pub fn tables_in(&self, range: PageRange) -> impl Iterator<Item = VirtAddr> {
        let mut look = self.look(range);
        std::iter::from_fn(move || look.next_table())
    }

    /// What is linked where a large entry for `addr` would be.
    #[must_use]
    pub fn below(&self, addr: VirtAddr) -> Below<'_> {
        match self.link(addr) {
            Some(slot) => self.read_link(slot),
            None => Below::Nothing,
        }
    }

    /// Whether the tables are there that a large entry for `addr` would be in.
    #[must_use]
    pub fn has_link(&self, addr: VirtAddr) -> bool {
        self.link(addr).is_some()
    }

    /// Puts a large entry where nothing is linked; says whether that was so. `addr` is a multiple of 2 MiB.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table, or for the spare one.
    pub fn map_large(&self, addr: VirtAddr, entry: Entry) -> Result<bool, AllocError> {
        let slot = self.ensure_link(addr)?;
        if slot.load(Ordering::Relaxed) != 0 {
            return Ok(false);
        }
        let spare = self.frames().alloc(FrameKind::Table, Contents::Any)?;
        self.spares().push(spare);
        self.add_large();
        let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        if slot.compare_exchange(0, entry.raw(), done, failed).is_ok() {
            return Ok(true);
        }
        self.remove_large();
        if let Some(spare) = self.spares().pop() {
            self.remove_table();
            self.frames().put(spare)?;
        }
        Ok(false)
    }

    /// Puts a table in the place of a large entry, under the exclusive lock. Nothing has changed to who uses it;
    /// the flush must come before anything does.
    ///
    /// # Errors
    /// [`Broken`] if there was no spare frame.
    pub fn split(&self, large: &Large<'_>, batch: &mut FlushBatch) -> Result<(), Broken> {
        self.split_as(large, |entry| entry, batch)
    }

    /// The same where the pages will be copied: the flush leaves nothing of them cached, so that none needs another.
    ///
    /// # Errors
    /// [`Broken`] if there was no spare frame.
    pub fn split_to_copy(&self, large: &Large<'_>, batch: &mut FlushBatch) -> Result<(), Broken> {
        self.split_as(large, Entry::uncached, batch)
    }

    fn split_as(
        &self,
        large: &Large<'_>,
        page: impl Fn(Entry) -> Entry,
        batch: &mut FlushBatch,
    ) -> Result<(), Broken> {
        let none = || Broken::Invariant(format!("there is no table for {:?}", large.addr));
        let frame = self.spares().pop().ok_or_else(none)?;
        let words = self.memory().words(frame);
        large.update(|entry| {
            for (i, word) in (0..).zip(words) {
                word.store(page(entry.small(i)).raw(), Ordering::Relaxed);
            }
            Entry::table(frame)
        });
        self.remove_large();
        batch.table_unlinked();
        Ok(())
    }

    /// Empties a large entry that `goes`, under the exclusive lock, or one of an object from another space; its frames go
    /// with the batch. Returns it as it was, an empty one if it stays, or somebody else was faster.
    pub fn take_large(
        &self,
        large: &Large<'_>,
        goes: impl Fn(Entry) -> bool,
        batch: &mut FlushBatch,
    ) -> Entry {
        let empty = |raw| {
            let entry = Entry::new(raw);
            (entry.is_large() && goes(entry)).then_some(0)
        };
        let taken = large.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, empty);
        let Ok(old) = taken.map(Entry::new) else { return Entry::EMPTY };
        batch.emptied_large(old, self.frames());
        self.remove_large();
        self.drop_spare(batch);
        old
    }

    /// The slot of a page that is about to be filled, if there is a table for it: that counts as one from now on. With
    /// the table held still, or another space's call might mark it once more.
    pub(crate) fn slot_to_fill(&self, addr: VirtAddr) -> Option<&AtomicU64> {
        let link = self.link(addr)?;
        if Entry::new(link.load(Ordering::Relaxed)).is_vacated() {
            link.fetch_and(!Entry::VACATED, Ordering::AcqRel);
        }
        self.slot(addr)
    }

    /// Marks the tables of whole 2 MiB in a range where Linux would have none: it frees those of which nothing is
    /// mapped any more. Here they stay linked, but must not keep a huge page away.
    #[inline]
    pub fn vacate(&self, range: PageRange) {
        if range.pages() >= BLOCK_FRAMES {
            self.vacate_whole(range);
        }
    }

    fn vacate_whole(&self, range: PageRange) {
        let first = range.start().get().next_multiple_of(TABLE_SPAN);
        let whole = PageRange::new(VirtAddr::new(first), range.end().table_floor());
        // Of those that are there: a range may be 128 TiB of nothing.
        for addr in whole.into_iter().flat_map(|whole| self.tables_in(whole)) {
            if let Some(slot) = self.link(addr)
                && let Below::Table(words) = self.read_link(slot)
                && holds_nothing(words)
            {
                // It may come from another space, for its object.
                let now = slot.load(Ordering::Relaxed);
                let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                let _ = slot.compare_exchange(now, now | Entry::VACATED, done, failed);
            }
        }
    }

    /// Takes a large entry to other addresses of the same alignment, where nothing is linked and the tables above
    /// are.
    pub fn move_large(&self, large: &Large<'_>, to: VirtAddr, batch: &mut FlushBatch) {
        let Some(slot) = self.link(to) else { return };
        let old = large.update(|_| Entry::EMPTY);
        slot.store(old.raw(), Ordering::Release);
        batch.table_unlinked();
    }

    /// Makes it possible that a large entry comes to `addr`: the tables above are there, and one that holds
    /// nothing is not linked. Under the exclusive lock; the flush must come before anything else.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table.
    pub fn make_link(&self, addr: VirtAddr, batch: &mut FlushBatch) -> Result<(), AllocError> {
        self.ensure_link(addr)?;
        self.unlink_empty(addr, batch);
        Ok(())
    }

    /// Unlinks the table for `addr` if it holds nothing, under the exclusive lock. If it does, it counts as a table: its
    /// entries came as it was marked.
    pub fn unlink_empty(&self, addr: VirtAddr, batch: &mut FlushBatch) {
        let _still = self.hold_still();
        let Some((slot, frame)) = self.last_table(addr) else { return };
        if holds_nothing(self.memory().words(frame)) {
            unlink(slot, batch);
            self.remove_table();
            batch.put_later(frame);
        } else {
            slot.fetch_and(!Entry::VACATED, Ordering::AcqRel);
        }
    }

    /// Unlinks the last-level table for `addr`, so that a large entry can take its place; says which frame it has.
    /// Under the exclusive lock and [`hold_still`](Self::hold_still), until [`link_large`](Self::link_large), before
    /// which comes the flush.
    pub(crate) fn unlink_table(&self, addr: VirtAddr, batch: &mut FlushBatch) -> Option<Frame> {
        let (slot, frame) = self.last_table(addr)?;
        unlink(slot, batch);
        Some(frame)
    }

    /// Puts the table back.
    pub(crate) fn link_table(&self, addr: VirtAddr, table: Frame) {
        if let Some(slot) = self.link(addr) {
            slot.store(Entry::table(table).raw(), Ordering::Release);
        }
    }

    /// Puts a large entry in the place of the table that was unlinked, whose frame is its spare one.
    pub(crate) fn link_large(&self, addr: VirtAddr, entry: Entry, spare: Frame) {
        let Some(slot) = self.link(addr) else { return };
        self.spares().push(spare);
        self.note_large();
        slot.store(entry.raw(), Ordering::Release);
    }

    /// Gives up one spare frame. No vCPU has ever walked it, or not since a flush of everything.
    fn drop_spare(&self, batch: &mut FlushBatch) {
        if let Some(spare) = self.spares().pop() {
            self.remove_table();
            batch.put_later(spare);
        }
    }

    /// Gives up all spare frames: of a table that is given up, or has no large entries any more.
    pub(super) fn drop_spares(&self, batch: &mut FlushBatch) {
        self.spares().drain(..).for_each(|spare| batch.put_later(spare));
    }

    /// The slot of the second-lowest level for `addr`, if the tables above it exist.
    fn link(&self, addr: VirtAddr) -> Option<&AtomicU64> {
        let mut frame = self.root();
        for level in [4, 3] {
            frame = self.child(frame, index(addr, level))?;
        }
        Some(&self.memory().words(frame)[index(addr, 2)])
    }

    /// The last-level table for `addr`, and the entry that points to it, if there is one.
    fn last_table(&self, addr: VirtAddr) -> Option<(&AtomicU64, Frame)> {
        let slot = self.link(addr)?;
        let entry = Entry::new(slot.load(Ordering::Acquire));
        let frame = entry.frame().filter(|_| !entry.is_large())?;
        Some((slot, frame))
    }

    /// The same large entries in a table that nobody uses yet, as ones that nobody has cached.
    pub(super) fn copy_large_to(&self, fresh: &PageTable) -> Result<(), AllocError> {
        let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END);
        for large in all.into_iter().flat_map(|all| self.large_in(all)) {
            fresh.map_large(large.addr, large.entry.uncached())?;
        }
        Ok(())
    }

    pub(super) fn spares(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties an entry that points to a table.
fn unlink(slot: &AtomicU64, batch: &mut FlushBatch) {
    slot.store(0, Ordering::Release);
    batch.table_unlinked();
}
