//! The same of shared memory (Linux's `hpage_collapse_scan_file`, `collapse_pte_mapped_thp`): first the object's pages
//! become one, for everybody, then the caller maps it.
//!
//! ```text
//!   the object has a huge page there ──────────────> only mapped
//!   no 2 MiB of memory ────────────────────────────> ENOMEM
//!   collapsed (backing/shared/collapse) ── refused: EAGAIN goes on with the next, others end it
//!   mapped:   a large entry ───────────────────────> done
//!             a guard, write-protected ────────────> EINVAL, goes on with the next
//!             a page of the process's own ─────────> EINVAL
//!             else   table unlinked ── flush ── large entry ── its small entries are gone
//! ```

use std::ops::Range;

use super::ORDER;
use crate::addr::{FrameRun, PageRange, TABLE_SPAN, VirtAddr};
use crate::backing::{Backing, Missing, SharedMemory};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::paging::{Below, Entry, FlushBatch, Owner, Touch};
use crate::phys::{Contents, FrameKind, Order, Wish, Words};
use crate::space::AddressSpace;
use crate::vma::{VmFlags, Vma};

/// What an error is to those that come after.
enum Refused {
    /// They are done all the same.
    ThisOne(Errno),
    /// They are not.
    All(CallError),
}

impl<E: Into<CallError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Refused::All(error.into())
    }
}

impl AddressSpace {
    /// Makes huge pages of those 2 MiB, by number, of a VMA that shows shared memory.
    ///
    /// # Errors
    /// Those above: the first that ends it, else the last.
    pub(super) fn collapse_shared(
        &self,
        vma: &Vma,
        backing: &dyn Backing,
        spans: Range<u64>,
    ) -> CallResult<()> {
        let memory = backing.shared_memory().ok_or(Errno::EINVAL)?;
        let mut last = Ok(());
        for addr in spans.map(|span| VirtAddr::new(span * TABLE_SPAN)) {
            match self.collapse_shared_one(vma, memory, addr) {
                Ok(()) => {}
                Err(Refused::ThisOne(errno)) => last = Err(errno.into()),
                Err(Refused::All(error)) => return Err(error),
            }
        }
        last
    }

    fn collapse_shared_one(
        &self,
        vma: &Vma,
        memory: &SharedMemory,
        addr: VirtAddr,
    ) -> Result<(), Refused> {
        let first = vma.page_index(addr);
        if !memory.is_huge(first) {
            let (frames, system) = (self.system.frames(), &self.system);
            let take = || {
                let kind = FrameKind::Shared;
                frames.alloc_order_on(kind, Contents::Any, Order::HUGE, Wish::ANY)
            };
            let run = system.or_reclaim(take)?;
            let missing = self.missing(vma);
            if let Err(error) = memory.collapse(first, run, missing, system, self) {
                frames.put_run(run)?;
                return Err(match error {
                    CallError::Errno(Errno::EAGAIN) => Refused::ThisOne(Errno::EAGAIN),
                    error => Refused::All(error),
                });
            }
        }
        self.map_collapsed(vma, memory, addr)
    }

    /// Whether a userfaultfd waits for pages that are not there.
    fn missing(&self, vma: &Vma) -> Missing {
        if vma.flags.contains(VmFlags::UFFD_MISSING) { Missing::IsTold } else { Missing::Fills }
    }

    /// Maps a huge page of the object with a large entry, in the place of a table if there is one.
    fn map_collapsed(
        &self,
        vma: &Vma,
        memory: &SharedMemory,
        addr: VirtAddr,
    ) -> Result<(), Refused> {
        let span = PageRange::from_len(addr, TABLE_SPAN).ok_or(Errno::EINVAL)?;
        self.settle(span)?;
        let _held = memory.maps().map(|maps| maps.hold());
        if let Below::Large(_) = self.table.below(addr) {
            return Ok(());
        }
        let huge = memory.folio(vma.page_index(addr)).filter(|(folio, _)| folio.is_huge());
        let Some((_, run)) = huge.filter(|_| !vma.flags.contains(VmFlags::UFFD_WP)) else {
            return Err(Refused::ThisOne(Errno::EINVAL));
        };
        if let Below::Vacated = self.table.below(addr) {
            let mut batch = FlushBatch::new();
            self.table.unlink_empty(addr, &mut batch);
            self.flush(batch)?;
        }
        if let Below::Table(words) = self.table.below(addr) {
            check_pages(words, run)?;
            return Ok(self.map_instead(vma, addr, words, run)?);
        }
        let mapped = self.map_folio(vma, memory, addr, Touch::Read)?;
        if mapped { Ok(()) } else { Err(Errno::EINVAL.into()) }
    }

    /// Puts a large entry in the place of a table, all of whose entries name pages of the object.
    fn map_instead(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        words: &Words,
        run: FrameRun,
    ) -> Result<(), Broken> {
        let _still = self.table.hold_still();
        let table = self.take_table_out(addr)?;
        self.system.frames().dup_run(run);
        let entry = self.entry_of_folio(vma, run.start, Touch::Read);
        self.link_instead(addr, (table, words), entry)
    }
}

/// Whether there is nothing in a table but pages of the run, each in its place.
fn check_pages(words: &Words, run: FrameRun) -> Result<(), Refused> {
    for (word, i) in words.iter().zip(0..run.count) {
        let entry = Entry::new(word.load(ORDER));
        let own_place = entry.frame() == Some(run.start.offset(i));
        if entry.is_marker() || entry.is_protected() || entry.swap_slot().is_some() {
            return Err(Refused::ThisOne(Errno::EINVAL));
        }
        if entry.raw() != 0 && !(own_place && entry.owner() == Owner::Backing) {
            return Err(Errno::EINVAL.into());
        }
    }
    Ok(())
}
