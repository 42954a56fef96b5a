//! Page faults (Linux's `handle_mm_fault` and below).
//!
//! ```text
//!   no VMA ─────────────> grows down above? ──> NeedsExclusive, else SEGV_MAPERR
//!   VMA forbids ────────> SEGV_ACCERR
//!   registered ─────────> a userfaultfd may be told: ForHandler          (userfault/asked)
//!   MAP_HUGETLB ────────> a page of the pool                             (fault/pool)
//!   2 MiB or nothing ───> a huge page                                    (fault/huge; a backing's: fault/folio)
//!   entry empty ────────> a pager's, not in memory: NeedsPage
//!                         anonymous, read:         the page of zeros      (fault/anon)
//!                         anonymous, written:      zeroed frames, several at once where they are wanted (fault/mthp)
//!                         backing, read or shared: the backing's frame    (fault/backed)
//!                         backing, private write:  a copy of the backing's frame
//!   page in swap ───────> its frame, read again if need be                (fault/swapped)
//!   entry there ────────> allows the access: spurious                     (fault/cow)
//!                         own page, its only owner: raise its permission
//!                         own page, of two: a copy for the other (fault/handoff)
//!                         anybody else's, private write: replace it by a copy
//!                         a copy is about to take its place: wait for that
//! ```
//!
//! Everything here runs under the space's lock held shared. An entry is installed by
//! compare-and-exchange, so of two faults on one page one wins and the other takes its frame back.

mod anon;
mod backed;
mod cow;
mod folio;
mod handoff;
mod huge;
mod mthp;
mod pool;
mod swapped;

use std::sync::atomic::{AtomicU64, Ordering};

use huge::Huge;

use super::ahead::{Stretch, Way};
use super::{AddressSpace, PageClass, maps_of};
use crate::addr::{Frame, PAGE_SIZE, VirtAddr, index};
use crate::error::{AccessError, Broken, Fault};
use crate::paging::{AccessKind, Entry, Owner};
use crate::phys::{AllocError, Place, Words};
use crate::rmap::ObjectMaps;
use crate::vma::{VmFlags, Vma};

/// From how many pages at once on a program is known to go on page by page.
const IN_ORDER: u64 = 16;

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// The access will succeed when it is tried again.
    Done,
    /// [`make_way`](AddressSpace::make_way) first, under the exclusive lock; then again.
    NeedsExclusive,
    /// The page's [`bring`](crate::backing::Backing::bring) first, under no lock; then again.
    /// [`SharedSpace::fault`](super::SharedSpace::fault) does so.
    NeedsPage,
    /// A userfaultfd is told of it ([`Handler`](crate::userfault::Handler)), and the access waits until it has been served.
    /// [`SharedSpace::fault`](super::SharedSpace::fault) does so.
    ForHandler,
}

/// Who makes an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rights {
    /// The program, or the host for it.
    Own,
    /// Somebody who may do more (Linux's `FOLL_FORCE`).
    Forced,
}

impl Rights {
    /// Whether an access that the VMA does not allow is made all the same: what could be allowed is read, and private
    /// memory is written, of which the process gets a copy of its own. Source: Linux's `check_vma_flags`.
    fn force(self, vma: &Vma, kind: AccessKind) -> bool {
        self == Rights::Forced
            && match kind {
                AccessKind::Read => vma.flags.contains(VmFlags::MAYREAD),
                AccessKind::Write => {
                    vma.flags.is_private_writable() && !vma.flags.contains(VmFlags::HUGETLB)
                }
                AccessKind::Execute => false,
            }
    }
}

impl AddressSpace {
    /// Makes an access at `addr` possible.
    ///
    /// Where there is no memory for it, what nobody would miss is given up first ([`System::or_reclaim`]).
    ///
    /// # Errors
    /// The [`Fault`] that the program gets as a signal.
    ///
    /// [`System::or_reclaim`]: crate::system::System::or_reclaim
    pub fn fault(&self, addr: VirtAddr, kind: AccessKind) -> Result<Resolved, AccessError> {
        self.fault_with(addr, kind, Rights::Own)
    }

    /// The same with other rights than the program has. What they make possible its entry need not allow.
    pub(super) fn fault_with(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        rights: Rights,
    ) -> Result<Resolved, AccessError> {
        let resolved = self.system.or_reclaim(|| self.try_fault(addr, kind, rights));
        if let Err(AccessError::Fault(Fault::OutOfMemory(_))) = resolved
            && self.system.swap().is_some()
            && self.has_to_split()
        {
            self.ahead_of_killing.store(true, Ordering::Relaxed);
            return Ok(Resolved::NeedsExclusive);
        }
        resolved
    }

    fn try_fault(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        rights: Rights,
    ) -> Result<Resolved, AccessError> {
        let Some(vma) = self.vmas.find(addr) else { return Err(Fault::NotMapped(addr).into()) };
        if addr < vma.range().start() {
            if vma.flags.contains(VmFlags::GROWSDOWN) {
                return Ok(Resolved::NeedsExclusive);
            }
            return Err(Fault::NotMapped(addr).into());
        }
        let allowed = vma.flags.allows(kind);
        if !allowed && !rights.force(vma, kind) {
            let read_first = || vma.flags.allows(AccessKind::Read) && !self.is_there(addr);
            if kind == AccessKind::Execute && read_first() {
                // The processor finds out that a page is not executable when there is one: Linux brings
                // it in first, and what is wrong with that is the answer.
                let read = self.try_fault(addr, AccessKind::Read, rights)?;
                if read != Resolved::Done {
                    return Ok(read);
                }
            }
            return Err(Fault::Denied(addr).into());
        }
        if vma.flags.contains(VmFlags::HUGETLB) {
            return self.pool_fault(vma, addr, kind);
        }
        let page = addr.page_floor();
        // From the look for a page to its entry: what an object gives up meanwhile must not come back.
        let _held = maps_of(vma).map(ObjectMaps::hold);
        if vma.flags.intersects(VmFlags::UFFD)
            && let Some(resolved) = self.ask_userfault(vma, addr, kind)?
        {
            return Ok(resolved);
        }
        if let Huge::Resolved(resolved) = self.huge_fault(vma, addr, kind)? {
            if let (Resolved::Done, Some(observer), true) =
                (resolved, self.system.observer(), allowed)
            {
                observer.faulted(addr, kind);
            }
            return Ok(resolved);
        }
        let words = self.table.ensure(page).map_err(|error| no_frame(error, addr))?;
        // A huge page came just now: the fault comes again.
        let Some(words) = words else { return Ok(Resolved::Done) };
        let at = At { vma, page, addr, kind, words };
        let entry = self.replacements.settled(at.slot());
        if entry.is_guard() {
            return Err(Fault::NotMapped(addr).into());
        }
        if entry.is_poison() {
            return Err(Fault::Poisoned(addr).into());
        }
        match &vma.backing {
            _ if entry.frame().is_some() => self.raise(&at, entry)?,
            _ if entry.swap_slot().is_some() => self.swapped_fault(&at, entry)?,
            None => self.anonymous_fault(&at)?,
            Some(backing) if !backing.is_ready(vma.page_index(page)) => {
                return Ok(Resolved::NeedsPage);
            }
            Some(backing) => self.backed_fault(&at, &**backing)?,
        }
        // Of what the program may not do a trace can tell nothing.
        if let Some(observer) = self.system.observer().filter(|_| allowed) {
            observer.faulted(addr, kind);
        }
        Ok(Resolved::Done)
    }

    /// Whether the processor has found a page there that the program can know of.
    fn is_there(&self, addr: VirtAddr) -> bool {
        let entry = self.entry_at(addr.page_floor());
        entry.is_present() && !entry.is_unseen()
    }

    /// A new entry for a page of the process's own, as the VMA has it.
    pub(super) fn own_entry(&self, vma: &Vma, entry: Entry) -> Entry {
        if self.keeps_in_memory(vma) { entry.locked() } else { entry }
    }

    /// Installs an entry where nothing is; if something came first, gives the frame back.
    fn install(&self, slot: &AtomicU64, entry: Entry) -> Result<(), AccessError> {
        let Some(frame) = entry.frame() else { return Ok(()) };
        let frames = self.system.frames();
        // Counted before it is there: from then on another vCPU may take it away again.
        frames.map(frame);
        let class = PageClass::of(entry, frames);
        match slot.compare_exchange(0, entry.raw(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => self.counters.resident.add(class),
            Err(marker) if Entry::new(marker) == Entry::PROTECTION => {
                // What comes is told of when it is written. Only this space's own calls put a marker there.
                let entry = entry.protected();
                match slot.compare_exchange(
                    marker,
                    entry.raw(),
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => self.counters.resident.add(class),
                    Err(_) => self.give_up(frame)?,
                }
            }
            Err(_) => self.give_up(frame)?,
        }
        Ok(())
    }

    /// Gives up a frame that did not get into the table.
    fn give_up(&self, frame: Frame) -> Result<(), Broken> {
        self.system.frames().unmap(frame)?;
        self.system.frames().put(frame)
    }
}

/// A fault and the place it is about.
struct At<'a> {
    vma: &'a Vma,
    page: VirtAddr,
    addr: VirtAddr,
    kind: AccessKind,
    /// The last-level table.
    words: &'a Words,
}

impl At<'_> {
    fn slot(&self) -> &AtomicU64 {
        &self.words[page_in_table(self.page)]
    }

    /// How many pages from this one on, itself included, lie in the VMA and in this page's table.
    fn room(&self, way: Way) -> u64 {
        let place = page_in_table(self.page);
        let in_table = match way {
            Way::Up => self.words.len() - place,
            Way::Down => place + 1,
        };
        way.room(self.page, self.vma.range()).min(in_table as u64)
    }

    /// The entry of the `i`th page from this one on, which is in its table.
    fn slot_beside(&self, way: Way, i: usize) -> &AtomicU64 {
        let place = page_in_table(self.page);
        match way {
            Way::Up => &self.words[place + i],
            Way::Down => &self.words[place - i],
        }
    }

    /// Where the frames of this page and those after it are best: next to the neighbour's, so that they may all come to
    /// lie in one piece. The first page of a table that is touched begins a piece where the program goes on page by page.
    fn frame_place(&self, pages: Stretch) -> Place {
        let i = page_in_table(self.page);
        let (neighbour, first) = match pages.way {
            Way::Up => (i.checked_sub(1), Place::BlockStart),
            Way::Down => (Some(i + 1), Place::BlockEnd),
        };
        let Some(neighbour) = neighbour.and_then(|i| self.words.get(i)) else {
            return if pages.pages >= IN_ORDER { first } else { Place::Anywhere };
        };
        let entry = Entry::new(neighbour.load(Ordering::Relaxed));
        let own = entry.frame().filter(|_| entry.owner() == Owner::Process);
        own.map_or(Place::Anywhere, |frame| next_place(pages.way, frame))
    }

    /// Where a program that jumps about is expected to go on: stacks grow down.
    fn usual_way(&self) -> Way {
        if self.vma.flags.contains(VmFlags::GROWSDOWN) { Way::Down } else { Way::Up }
    }
}

/// Where frames are best, when their neighbour is this one.
fn next_place(way: Way, neighbour: Frame) -> Place {
    match way {
        Way::Up => Place::Frame(neighbour.offset(1)),
        Way::Down => Place::Before(neighbour),
    }
}

fn page_in_table(page: VirtAddr) -> usize {
    index((page.get() / PAGE_SIZE) & 511)
}

pub(super) fn no_frame(error: AllocError, addr: VirtAddr) -> AccessError {
    match error {
        AllocError::OutOfMemory => Fault::OutOfMemory(addr).into(),
        AllocError::Broken(broken) => broken.into(),
    }
}
