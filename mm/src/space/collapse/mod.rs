//! `MADV_COLLAPSE`: small pages become a huge one (Linux's `madvise_collapse`, `collapse_huge_page`).
//!
//! ```text
//!   for each 2 MiB:  a large entry ─────────────> done
//!                    no table ──────────────────> EINVAL
//!                    empty entries that a userfaultfd is to fill ─> EBUSY
//!                    no 2 MiB of memory ────────> ENOMEM
//!                    a guard ───────────────────> EINVAL
//!                    swapped pages ─────────────> brought in; EAGAIN if they do not stay
//!                    else   table unlinked ── flush ── bytes copied ── large entry ── old pages free
//! ```
//!
//! Of shared memory: `shared`.

mod shared;

use std::sync::atomic::Ordering;

use super::huge::has_room;
use super::{AddressSpace, PageClass};
use crate::addr::{Frame, FrameRun, PAGE_SHIFT, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{AccessError, Broken, CallResult, Errno};
use crate::paging::{AccessKind, Below, Entry, FlushBatch};
use crate::phys::{AllocError, BLOCK_FRAMES, Contents, FrameKind, NODES_MOST, Order, Wish, Words};
use crate::vma::{VmFlags, Vma};

/// Nobody else changes a table that is unlinked, or its space held exclusively, but for accessed and dirty bits.
pub(in crate::space) const ORDER: Ordering = Ordering::Relaxed;

impl AddressSpace {
    /// Makes huge pages of all that lie whole in a part of a VMA.
    ///
    /// # Errors
    /// `EINVAL`: memory that cannot have huge pages, or not even touches the border between two; `EINVAL`, `EBUSY`,
    /// `ENOMEM`: see above, with those before it done; of shared memory see there.
    /// Source: `madvise_collapse` in Linux's `mm/khugepaged.c`.
    pub(in crate::space) fn collapse(&self, vma: &Vma, part: PageRange) -> CallResult<()> {
        if !may_be_huge(vma) || self.has_no_huge_pages() {
            return Err(Errno::EINVAL.into());
        }
        let first = part.start().get().div_ceil(TABLE_SPAN);
        let end = part.end().get() / TABLE_SPAN;
        // Linux counts the huge pages in between, which are -1 for a range within one.
        if first > end {
            return Err(Errno::EINVAL.into());
        }
        if let Some(backing) = &vma.backing {
            return self.collapse_shared(vma, &**backing, first..end);
        }
        let take = |wish| self.system.or_reclaim(|| self.take_huge(wish));
        (first..end)
            .try_for_each(|span| self.collapse_one(vma, VirtAddr::new(span * TABLE_SPAN), take))
    }

    /// Memory for a huge page, all of whose bytes will be written.
    pub(in crate::space) fn take_huge(&self, wish: Wish) -> Result<FrameRun, AllocError> {
        let frames = self.system.frames();
        frames.alloc_order_on(FrameKind::Anonymous, Contents::Any, Order::HUGE, wish)
    }

    /// Makes one huge page, whose memory comes from `take`.
    pub(in crate::space) fn collapse_one(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        take: impl FnOnce(Wish) -> Result<FrameRun, AllocError>,
    ) -> CallResult<()> {
        let span = PageRange::from_len(addr, TABLE_SPAN).ok_or(Errno::EINVAL)?;
        self.settle(span)?;
        self.demote(span)?;
        let words = match self.table.below(addr) {
            Below::Large(_) => return Ok(()),
            Below::Nothing | Below::Vacated => return Err(Errno::EINVAL.into()),
            Below::Table(words) => words,
        };
        let entries = || words.iter().map(|word| Entry::new(word.load(ORDER)));
        if vma.flags.intersects(VmFlags::UFFD) {
            entries().try_for_each(|entry| self.may_collapse_watched(entry))?;
        }
        if !self.bring_in_swapped(span)? {
            return Err(Errno::EAGAIN.into());
        }
        let frames = self.system.frames();
        let run = take(self.wish_to_collapse(words))?;
        if entries().any(|entry| entry.is_marker() || entry.is_protected()) {
            frames.put_run(run)?;
            return Err(Errno::EINVAL.into());
        }
        // Who comes by the reverse map finds the old pages or the new ones.
        let still = self.table.hold_still();
        if entries().any(|entry| entry.swap_slot().is_some()) {
            drop(still);
            frames.put_run(run)?;
            return Err(Errno::EAGAIN.into());
        }
        Ok(self.bring_together(vma, addr, words, run)?)
    }

    /// The node that has most of the pages, or the next with room (`hpage_collapse_find_target_node`).
    fn wish_to_collapse(&self, words: &Words) -> Wish {
        let nodes = self.system.frames().nodes();
        if nodes.is_one() {
            return Wish::ANY;
        }
        let frames = words.iter().filter_map(|word| Entry::new(word.load(ORDER)).frame());
        let mut pages = [0; NODES_MOST as usize];
        frames.for_each(|frame| pages[usize::from(nodes.of(frame))] += 1);
        // Of several with as many the first.
        let most = (0..NODES_MOST).rev().max_by_key(|&node| pages[usize::from(node)]);
        Wish { first: most.unwrap_or(0), ..Wish::ANY }
    }

    /// Brings in what is in the swap area (`__collapse_huge_page_swapin`); says whether all of it could be had.
    fn bring_in_swapped(&self, span: PageRange) -> Result<bool, Broken> {
        for leaf in self.table.cursor(span).filter(|leaf| leaf.entry.swap_slot().is_some()) {
            match self.fault(leaf.addr, AccessKind::Read) {
                Ok(_) => {}
                Err(AccessError::Fault(_)) => return Ok(false),
                Err(AccessError::Broken(broken)) => return Err(broken),
            }
        }
        Ok(true)
    }

    /// Whether an entry that a userfaultfd may be told of can come to be of a huge page.
    ///
    /// # Errors
    /// `EINVAL` its writes are told; `EBUSY` it is to be filled. Source: `hpage_collapse_scan_pmd`, in the entries' order.
    fn may_collapse_watched(&self, entry: Entry) -> Result<(), Errno> {
        match () {
            () if entry == Entry::PROTECTION || entry.is_protected() => Err(Errno::EINVAL),
            () if self.is_filled(entry) => Ok(()),
            () => Err(Errno::EBUSY),
        }
    }

    /// Whether there is a page, and not only zeros.
    pub(in crate::space) fn is_filled(&self, entry: Entry) -> bool {
        let kind = entry.frame().map(|frame| self.system.frames().kind(frame));
        entry.is_marker() || kind.is_some_and(|kind| kind != Some(FrameKind::Zero))
    }

    /// Copies the pages of a table into the frames, and maps these instead. The caller holds it still.
    fn bring_together(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        words: &Words,
        run: FrameRun,
    ) -> Result<(), Broken> {
        let frames = self.system.frames();
        let table = match self.take_table_out(addr) {
            Ok(table) => table,
            Err(broken) => {
                frames.put_run(run)?;
                return Err(broken);
            }
        };
        for (i, word) in (0..BLOCK_FRAMES).zip(words) {
            let entry = Entry::new(word.load(ORDER));
            let to = run.start.offset(i);
            match entry.frame().filter(|_| self.is_filled(entry)) {
                Some(from) => frames.memory().copy(from, to),
                None => frames.memory().zero(to),
            }
        }
        self.link_instead(addr, (table, words), self.own_huge(vma, addr, run))
    }

    /// Unlinks the table at an address, and flushes: nobody has a translation of its pages any more. It is as it was if
    /// that fails. The caller holds it still, here and below.
    fn take_table_out(&self, addr: VirtAddr) -> Result<Frame, Broken> {
        let mut unlinked = FlushBatch::new();
        let table = self.table.unlink_table(addr, &mut unlinked);
        let table = table.ok_or_else(|| Broken::Invariant(format!("no table for {addr:?}")))?;
        self.flush(unlinked).inspect_err(|_| self.table.link_table(addr, table))?;
        Ok(table)
    }

    /// Puts a large entry in the place of the table that was taken out, whose pages go.
    fn link_instead(
        &self,
        addr: VirtAddr,
        (table, words): (Frame, &Words),
        entry: Entry,
    ) -> Result<(), Broken> {
        let frames = self.system.frames();
        let mut left = FlushBatch::new();
        for old in words.iter().map(|word| Entry::new(word.load(ORDER))) {
            self.counters.resident.remove(PageClass::of(old, frames));
            left.emptied(old.uncached(), frames);
        }
        self.table.link_large(addr, entry, table);
        self.counters.resident.add_pages(PageClass::of(entry, frames), BLOCK_FRAMES);
        self.flush(left)
    }
}

/// Whether huge pages may be in a VMA when it is asked for outright (`__thp_vma_allowable_orders` with
/// `TVA_FORCED_COLLAPSE`).
pub(in crate::space) fn may_be_huge(vma: &Vma) -> bool {
    let allowed = match &vma.backing {
        None => vma.anon().is_some(),
        Some(backing) => {
            let from = (vma.range().start().get() >> PAGE_SHIFT).wrapping_sub(vma.pgoff);
            backing.is_shared_memory() && from.is_multiple_of(TABLE_SPAN >> PAGE_SHIFT)
        }
    };
    let unfit = VmFlags::SPECIAL | VmFlags::HUGETLB | VmFlags::NOHUGEPAGE;
    has_room(vma, Order::HUGE) && allowed && !vma.flags.intersects(unfit)
}
