//! Huge pages of anonymous and shared memory (Linux's `mm/huge_memory.c`): where one large entry maps 2 MiB.
//!
//! Every call takes large entries in the same way: those at the ends of its range, which reach beyond it, are
//! split first (Linux's `vma_adjust_trans_huge`), those within are changed as one where that can be done, and
//! split where it can't. Each frame has its own counts; when the entry is split they are a folio (`folio`).
//!
//! What is here runs under the space's lock held exclusively, see `paging/large`.

use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::counters::PageClass;
use crate::addr::{PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{AccessError, Broken};
use crate::paging::{Entry, FlushBatch, Large, Owner};
use crate::phys::{BLOCK_FRAMES, FrameKind, Marks, Order};
use crate::sysctl::Orders;
use crate::vma::{VmFlags, Vma};

/// Of `PR_SET_THP_DISABLE`: not where `MADV_HUGEPAGE` asks (`PR_THP_DISABLE_EXCEPT_ADVISED`).
const THP_DISABLE_EXCEPT_ADVISED: u64 = 1 << 1;

/// The 2 MiB of addresses that a large entry for `addr` would map.
pub(super) fn span_of(addr: VirtAddr) -> Option<PageRange> {
    PageRange::from_len(addr.table_floor(), TABLE_SPAN)
}

/// Whether the last run of a size that could be in a VMA lies in it.
pub(super) fn has_room(vma: &Vma, order: Order) -> bool {
    let (start, end) = (vma.range().start().get(), vma.range().end().get());
    let bytes = order.frames() * PAGE_SIZE;
    // Below that many bytes it wraps, and fits.
    let last = end.wrapping_sub(bytes) & !(bytes - 1);
    last >= start && last.wrapping_add(bytes) <= end
}

impl AddressSpace {
    /// Does what a fault needs the exclusive lock for: lets the stack grow, splits a large entry, or takes away
    /// what is in the place of one. The fault can be tried again then.
    ///
    /// # Errors
    /// The [`Fault`](crate::error::Fault) that the program gets as a signal.
    pub fn make_way(&mut self, addr: VirtAddr) -> Result<(), AccessError> {
        match self.vmas.find_exact(addr) {
            Some(vma) => self.make_way_for_page(vma, addr),
            None => self.grow_stack(addr),
        }
    }

    /// The same in a VMA.
    pub(super) fn make_way_for_page(&self, vma: &Vma, addr: VirtAddr) -> Result<(), AccessError> {
        if self.ahead_of_killing.swap(false, Ordering::Relaxed) {
            return Ok(self.take_apart()?);
        }
        if let Some(memory) = vma.backing.as_ref().and_then(|backing| backing.huge()) {
            return self.make_way_in_pool(vma, memory, addr);
        }
        let mut batch = FlushBatch::new();
        match self.table.large(addr) {
            // A huge page of zeros that is written becomes a huge page, also where none is wanted any more.
            Some(large) if large.entry.owner() == Owner::Backing && vma.backing.is_none() => {
                self.drop_large(&large, &mut batch);
                self.flush(batch)?;
                return self.bring_in_written(vma, addr);
            }
            Some(large) if large.entry.is_promoted() => self.demote_from(large.addr, &mut batch)?,
            Some(large) => self.split_one(&large, &mut batch)?,
            None => {
                if let Some(span) = span_of(addr) {
                    self.settle(span)?;
                }
                self.table.unlink_empty(addr, &mut batch);
            }
        }
        Ok(self.flush(batch)?)
    }

    /// Whether there are huge pages that can be swapped out when they are split: those of the pool cannot.
    pub(super) fn has_to_split(&self) -> bool {
        let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END);
        let mut large = all.into_iter().flat_map(|all| self.table.large_in(all));
        large.any(|large| !large.entry.is_pooled())
    }

    /// Splits all huge pages of the space, so that they can be swapped out.
    fn take_apart(&self) -> Result<(), Broken> {
        let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END);
        all.map_or(Ok(()), |all| self.split_large(all))
    }

    /// Whether a fault at `addr` may bring in a huge page (`thp_vma_allowable_order`), if nothing is there.
    pub(super) fn wants_huge(&self, vma: &Vma, addr: VirtAddr) -> bool {
        let unfit = VmFlags::SPECIAL | VmFlags::HUGETLB | VmFlags::NOHUGEPAGE;
        vma.backing.is_none()
            && self.asks_for_huge(vma)
            && !vma.flags.intersects(unfit)
            && span_of(addr).is_some_and(|span| vma.range().covers(span))
    }

    /// What smaps says (`thp_vma_allowable_orders` with `TVA_SMAPS`): whether anonymous memory of any size that is wanted
    /// fits, at the end of the VMA.
    pub(crate) fn is_thp_eligible(&self, vma: &Vma) -> bool {
        let unfit = VmFlags::SPECIAL | VmFlags::HUGETLB | VmFlags::NOHUGEPAGE;
        vma.backing.is_none()
            && !vma.flags.intersects(unfit)
            && self.wanted_orders(vma).descending().any(|order| has_room(vma, order))
    }

    /// Whether huge pages are wanted in a VMA by the machine, the process and the program.
    pub(super) fn asks_for_huge(&self, vma: &Vma) -> bool {
        self.wanted_orders(vma).has(Order::HUGE)
    }

    /// In which sizes memory of a VMA is wanted by them.
    #[inline]
    pub(super) fn wanted_orders(&self, vma: &Vma) -> Orders {
        let orders = self.system.sysctl.thp_orders(vma.flags);
        if orders.is_empty() || self.modes.thp_disabled == 0 {
            return orders;
        }
        let advised = vma.flags.contains(VmFlags::HUGEPAGE);
        if advised && !self.has_no_huge_pages() { orders } else { Orders::default() }
    }

    /// Whether `PR_SET_THP_DISABLE` keeps huge pages away from all its memory.
    pub(super) fn has_no_huge_pages(&self) -> bool {
        let how = self.modes.thp_disabled;
        how != 0 && how & THP_DISABLE_EXCEPT_ADVISED == 0
    }

    /// Splits the large entries in a range, and flushes.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(super) fn split_large(&self, range: PageRange) -> Result<(), Broken> {
        self.split_those(range, |_| true)
    }

    /// Splits some of them, and flushes. Those of the pool stay whole: a call that would cut one is refused later.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(super) fn split_those(
        &self,
        range: PageRange,
        which: impl Fn(Entry) -> bool,
    ) -> Result<(), Broken> {
        let mut batch = FlushBatch::new();
        for large in self
            .table
            .large_in(range)
            .filter(|large| !large.entry.is_pooled() && which(large.entry))
        {
            self.split_one(&large, &mut batch)?;
        }
        self.flush(batch)
    }

    /// Splits one (`__split_huge_pmd_locked`). The process's own pages stay one folio. An object's are brought in again
    /// when they are touched.
    fn split_one(&self, large: &Large<'_>, batch: &mut FlushBatch) -> Result<(), Broken> {
        if self.is_of_object(large.entry) {
            self.drop_large(large, batch);
            return Ok(());
        }
        if large.entry.is_huge() && large.entry.owner() == Owner::Process {
            self.stay_one(large);
        }
        self.table.split(large, batch)
    }

    /// Makes a folio of the frames of a huge page, if another process that splits it has not.
    fn stay_one(&self, large: &Large<'_>) {
        let (frames, Some(run)) = (self.system.frames(), large.run()) else { return };
        if frames.folio(run.start).is_none() {
            let all = (0..run.count).map(|i| frames.marks(run.start.offset(i)));
            frames.make_folio(run, Order::HUGE, all.fold(Marks::empty(), Marks::union));
        }
        if large.entry.is_dirty() {
            frames.mark_folio(run.start, Marks::DIRTY);
        }
    }

    /// Whether a large entry maps pages of an object, and not of the pool.
    pub(super) fn is_of_object(&self, large: Entry) -> bool {
        let is_zeros = || {
            let kind = large.frame().and_then(|frame| self.system.frames().kind(frame));
            kind == Some(FrameKind::Zero)
        };
        large.owner() == Owner::Backing && !large.is_pooled() && !is_zeros()
    }

    /// Splits the large entries that reach beyond the range, and flushes.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    #[inline]
    pub(super) fn split_ends(&self, range: PageRange) -> Result<(), Broken> {
        self.split_over(range.start())?;
        self.split_over(range.end())
    }

    /// Splits the large entry that maps both sides of an address, and flushes.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    #[inline]
    pub(super) fn split_over(&self, addr: VirtAddr) -> Result<(), Broken> {
        // Most spaces have none, and most calls ask.
        if !self.table.has_large() {
            return Ok(());
        }
        match span_of(addr).filter(|span| span.start() < addr) {
            Some(span) => self.split_large(span),
            None => Ok(()),
        }
    }

    /// Empties the large entries in a range, none of which reaches beyond it.
    #[inline]
    pub(super) fn drop_large_in(&self, range: PageRange, batch: &mut FlushBatch) {
        if self.table.has_large() {
            self.table.large_in(range).for_each(|large| self.drop_large(&large, batch));
        }
    }

    fn drop_large(&self, large: &Large<'_>, batch: &mut FlushBatch) {
        let old = self.table.take_large(large, |_| true, batch);
        self.counters.resident.remove_pages(PageClass::of(old, self.system.frames()), BLOCK_FRAMES);
    }
}
