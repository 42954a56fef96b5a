//! How pages move to other frames while vCPUs run (Linux's `migrate_pages`, `try_to_migrate`, `remove_migration_ptes`).
//!
//! ```text
//!   page F, frame G                    entries                             the move
//!   own, named here alone              F ──> nothing ──flush──────> G      copied after the flush: it may be written
//!   own, named by others, too          F ──exchange, each──> G, flush      copied before: nobody may write F
//!   of an object                       F ──> nothing, in all spaces ──flush──> G here; others find it by a fault
//! ```
//!
//! The space is locked exclusively, so its own faults and calls wait until all of it is done. Of other spaces it has no
//! lock; why that is right:
//!
//! - **Named by others.** No entry lets F be written, and as long as there is our reference none will
//!   ([`is_only_owner`](AddressSpace::is_only_owner)); the same of G. So all see the same bytes by either. As for a page that
//!   is swapped out, whoever has found G in an entry waits for the flush before he ends his call, or puts a page in its
//!   place that may be written ([`Reclaim::wait_for_flush`](crate::reclaim::Reclaim::wait_for_flush)): F may be cached
//!   still, and he would flush G. The reverse map finds each entry once, or it was copied from one that names G already.
//! - **Of an object.** Its maps are locked exclusively from the look at the page to the entries that name G: no fault
//!   finds either meanwhile. Entries of other spaces go as by `MADV_REMOVE`, so those processes have fewer pages resident,
//!   until they touch them.
//! - Nothing is reclaimed meanwhile: the machine's [`Reclaim`](crate::reclaim::Reclaim) is locked.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::Move;
use crate::addr::Frame;
use crate::backing::Backing;
use crate::error::Broken;
use crate::paging::{Entry, FlushBatch, Owner};
use crate::phys::{FrameKind, Marks};
use crate::rmap::{Found, ObjectMaps};
use crate::space::{AddressSpace, maps_of};

/// How often a page is tried that somebody holds a reference to (Linux's `NR_MAX_MIGRATE_SYNC_RETRY`).
const ATTEMPTS: u32 = 10;

/// Whether a page is elsewhere now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moved {
    Yes,
    /// Somebody holds it, or it is another's by now.
    No,
}

/// A page whose only entry is empty until the flush.
struct Taken {
    page: Move,
    entry: Entry,
}

impl AddressSpace {
    /// Moves pages, and gives up the references. Says how many are where they were.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(super) fn move_all(&self, moves: Vec<Move>) -> Result<u64, Broken> {
        let (frames, mut left) = (self.system.frames(), 0);
        if moves.is_empty() {
            return Ok(0);
        }
        let keeping_out = self.system.keep_reclaim_out();
        let is_own = |page: &Move| frames.kind(page.from) == Some(FrameKind::Anonymous);
        let (own, of_objects): (Vec<Move>, Vec<Move>) = moves.iter().partition(|page| is_own(page));
        let maps = |page: &Move| self.vmas.find_exact(page.addr).and_then(maps_of);
        let (of_files, own): (Vec<Move>, Vec<Move>) =
            own.into_iter().partition(|page| maps(page).is_some());
        left += self.move_own_pages(&own)?;
        for page in of_files {
            // Nobody cuts the file short while a copy of its page is in no entry.
            let _held = maps(&page).map(ObjectMaps::hold);
            left += self.move_own_pages(&[page])?;
        }
        for page in of_objects {
            left += u64::from(self.move_page_of_object(page)? == Moved::No);
        }
        drop(keeping_out);
        for Move { from, to, .. } in moves {
            frames.put(from)?;
            frames.put(to)?;
        }
        Ok(left)
    }

    /// Moves pages of the process's own, with one flush.
    fn move_own_pages(&self, moves: &[Move]) -> Result<u64, Broken> {
        let frames = self.system.frames();
        let (mut batch, mut taken, mut left) = (FlushBatch::new(), Vec::new(), 0);
        let unflushed = self.system.reclaim.unflushed();
        for &page in moves {
            let moved = if frames.maps(page.from) > 1 {
                self.move_shared(page, &mut batch)?
            } else {
                self.take_only(page, &mut batch)?.map_or(Moved::No, |entry| {
                    taken.push(Taken { page, entry });
                    Moved::Yes
                })
            };
            left += u64::from(moved == Moved::No);
        }
        let flushed = self.flush(batch);
        drop(unflushed);
        for Taken { page, entry } in taken {
            if flushed.is_ok() {
                frames.memory().copy(page.from, page.to);
                self.inherit(page);
                self.remember_written(page.to, entry);
            }
            // Without the flush it may be written still, and stays what it is.
            let frame = if flushed.is_ok() { page.to } else { page.from };
            frames.get(frame);
            frames.map(frame);
            self.put_entry(page, entry.uncached().renamed(frame, Owner::Process));
        }
        flushed.map(|()| left)
    }

    /// Empties the only entry of a page, which is this space's. None if somebody holds the page, or it has no such entry.
    fn take_only(&self, page: Move, batch: &mut FlushBatch) -> Result<Option<Entry>, Broken> {
        let frames = self.system.frames();
        self.release_place(page.from)?;
        let Some(slot) = self.table.slot(page.addr) else { return Ok(None) };
        // The entry's and ours.
        if !self.is_unheld(page.from, 1) {
            return Ok(None);
        }
        let names_it = |raw| (Entry::new(raw).frame() == Some(page.from)).then_some(0);
        let Ok(raw) = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, names_it) else {
            return Ok(None);
        };
        let entry = Entry::new(raw);
        batch.emptied(entry, frames);
        Ok(Some(entry))
    }

    /// Has all entries of a page of several spaces name the new frame.
    fn move_shared(&self, page: Move, batch: &mut FlushBatch) -> Result<Moved, Broken> {
        let (frames, anon) = (self.system.frames(), self.system.anon());
        let Move { from, to, .. } = page;
        self.release_place(from)?;
        let moves = |found: Found<'_>| match stays(found.entry) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let held = || !self.is_unheld(from, frames.maps(from));
        if frames.marks(from).contains(Marks::LAZY)
            || held()
            || anon.entries_of(frames, from, moves).is_break()
        {
            return Ok(Moved::No);
        }
        frames.memory().copy(from, to);
        self.inherit(page);
        batch.reaches_elsewhere();
        let stayed = anon.entries_of(frames, from, |found| {
            let mut entry = found.entry;
            while entry.frame() == Some(from) {
                if stays(entry) {
                    return ControlFlow::Break(());
                }
                frames.dup(to);
                let new = entry.renamed(to, Owner::Process);
                let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
                match found.slot.compare_exchange(entry.raw(), new.raw(), done, failed) {
                    Ok(_) => {
                        self.remember_written(page.to, entry);
                        // Also with A clear: who cleared it may not have flushed yet.
                        batch.lowered(from);
                        batch.emptied(entry, frames);
                        return ControlFlow::Continue(());
                    }
                    Err(now) => {
                        batch.note(frames.unmap(to));
                        batch.note(frames.put(to));
                        entry = Entry::new(now);
                    }
                }
            }
            ControlFlow::Continue(())
        });
        Ok(if stayed.is_break() { Moved::No } else { Moved::Yes })
    }

    /// Moves a page of an object, which has entries in any space.
    fn move_page_of_object(&self, page: Move) -> Result<Moved, Broken> {
        let Some(vma) = self.vmas.find_exact(page.addr) else { return Ok(Moved::No) };
        let Some(object) = vma.backing.as_deref() else { return Ok(Moved::No) };
        let (Some(maps), index) = (object.maps(), vma.page_index(page.addr)) else {
            return Ok(Moved::No);
        };
        let frames = self.system.frames();
        let maps = maps.change();
        // The entries', the object's and ours.
        if !object.has_frame(index, page.from)
            || !self.is_unheld(page.from, frames.maps(page.from) + 1)
        {
            return Ok(Moved::No);
        }
        let mut batch = FlushBatch::new();
        let mut own = Vec::new();
        // Calls of other processes find no entry, and wait for the flush.
        let unflushed = self.system.reclaim.unflushed();
        maps.take_out(index, page.from, &self.system, &mut batch, |space, addr, entry| {
            if space == self.number {
                own.push((addr, entry));
            }
        });
        let flushed = self.flush(batch);
        drop(unflushed);
        // Who has emptied an entry meanwhile and not flushed yet has a reference: his vCPU may still write it.
        let moved = if flushed.is_ok() && self.is_unheld(page.from, 1) {
            frames.memory().copy(page.from, page.to);
            self.inherit(page);
            self.exchange_in_object(object, index, page)?
        } else {
            Moved::No
        };
        let frame = if moved == Moved::Yes { page.to } else { page.from };
        for (addr, entry) in own {
            frames.get(frame);
            frames.map(frame);
            let entry = entry.uncached().renamed(frame, Owner::Backing);
            self.put_entry(Move { addr, ..page }, entry);
            self.counters.resident.add(crate::space::PageClass::of(entry, frames));
        }
        flushed.map(|()| moved)
    }

    fn exchange_in_object(
        &self,
        object: &dyn Backing,
        index: u64,
        page: Move,
    ) -> Result<Moved, Broken> {
        let frames = self.system.frames();
        frames.get(page.to);
        let exchanged = object.exchange_frame(index, page.from, page.to);
        // Now it is the object's reference to the one or the other.
        frames.put(if exchanged { page.from } else { page.to })?;
        Ok(if exchanged { Moved::Yes } else { Moved::No })
    }

    /// Puts an entry where there has been one, and nothing came since.
    fn put_entry(&self, page: Move, entry: Entry) {
        if let Some(slot) = self.table.slot(page.addr) {
            slot.store(entry.raw(), Ordering::Release);
        }
    }

    /// What is known of a page goes with it.
    fn inherit(&self, page: Move) {
        let frames = self.system.frames();
        if let Some(owner) = frames.owner(page.from) {
            frames.set_owner(page.to, owner);
        }
        frames.mark(page.to, frames.marks(page.from) - Marks::SWAP_CACHED);
    }

    /// Whoever has written a page, it is known of the page itself once it has moved (`try_to_migrate_one`).
    pub(super) fn remember_written(&self, frame: Frame, entry: Entry) {
        if entry.is_dirty() {
            self.system.frames().mark(frame, Marks::DIRTY);
        }
    }

    /// The same for a page that several processes may have.
    pub(super) fn remember_written_by_all(&self, frame: Frame) {
        let _ = self.system.anon().entries_of(self.system.frames(), frame, |found| {
            self.remember_written(frame, found.entry);
            ControlFlow::<()>::Continue(())
        });
    }

    /// Whether nobody has a reference beside so many and ours; who has one for a moment is waited for.
    fn is_unheld(&self, frame: Frame, references: u32) -> bool {
        let expected = references.saturating_add(1);
        (0..ATTEMPTS).any(|_| {
            let free = self.system.frames().references(frame) <= expected;
            if !free {
                std::thread::yield_now();
            }
            free
        })
    }
}

/// Whether an entry of a page that others have, too, cannot name another frame by one exchange.
fn stays(entry: Entry) -> bool {
    entry.is_large() || entry.is_leaving() || entry.is_ahead() || entry.is_writable()
}
