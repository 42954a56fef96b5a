//! Anonymous memory that comes several pages at once where it is written, because the user wants that (Linux's
//! `alloc_anon_folio`): of the sizes that are wanted the largest whose naturally aligned pages lie in the VMA, with
//! nothing there, and for which there is memory in one piece.
//!
//! All of it comes or nothing does: a fault on another of its pages waits, or was faster, and then this one comes again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{At, no_frame, page_in_table};
use crate::addr::{FrameRun, PAGE_SIZE, PageRange, VirtAddr, index};
use crate::error::AccessError;
use crate::paging::{Entry, Owner, Touch};
use crate::phys::{AllocError, Contents, FrameKind, Marks, Order};
use crate::space::{AddressSpace, PageClass};
use crate::sysctl::Orders;
use crate::vma::{VmFlags, Vma};

/// What a fault has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Brought {
    /// All there is to do.
    Folio,
    /// Nothing: one page is to come.
    Nothing,
}

impl AddressSpace {
    /// The sizes below 2 MiB that a write to the VMA may bring in.
    #[inline]
    pub(super) fn folio_orders(&self, vma: &Vma) -> Orders {
        let unfit = VmFlags::SPECIAL | VmFlags::NOHUGEPAGE;
        if vma.flags.intersects(unfit) {
            return Orders::default();
        }
        self.wanted_orders(vma).small()
    }

    /// Brings in the largest run of these sizes that fits around the page. The VMA has an identity.
    pub(super) fn mthp_fault(&self, at: &At<'_>, orders: Orders) -> Result<Brought, AccessError> {
        let fits = |&order: &Order| at.span(order).is_some_and(|span| at.vma.range().covers(span));
        if at.vma.flags.intersects(VmFlags::UFFD) {
            // Whoever serves a userfaultfd is asked for each page.
            return Ok(Brought::Nothing);
        }
        let mut fitting = orders.descending().filter(fits).peekable();
        let Some(largest) = fitting.peek().and_then(|&order| at.span(order)) else {
            return Ok(Brought::Nothing);
        };
        let is_ahead = |slot: &AtomicU64| Entry::new(slot.load(Ordering::Relaxed)).is_ahead();
        if at.words_of(largest).iter().any(is_ahead) {
            // What nobody has touched is not there.
            self.settle(largest)?;
        }
        for order in fitting {
            let Some(span) = at.span(order) else { continue };
            if at.words_of(span).iter().any(|slot| slot.load(Ordering::Relaxed) != 0) {
                continue;
            }
            let wish = self.wish_of_order(at.vma, span.start(), order);
            let frames = self.system.frames();
            let run =
                match frames.alloc_order_on(FrameKind::Anonymous, Contents::Zeroed, order, wish) {
                    Ok(run) => run,
                    Err(AllocError::OutOfMemory) => continue,
                    Err(error) => return Err(no_frame(error, at.addr)),
                };
            frames.make_folio(run, order, Marks::EXCLUSIVE);
            self.bring_in_folio(at, span, run)?;
            return Ok(Brought::Folio);
        }
        Ok(Brought::Nothing)
    }

    fn bring_in_folio(
        &self,
        at: &At<'_>,
        span: PageRange,
        run: FrameRun,
    ) -> Result<(), AccessError> {
        let frames = self.system.frames();
        self.own_pages(at.vma, span.start(), run);
        if at.vma.flags.contains(VmFlags::DROPPABLE) {
            frames.mark_folio(run.start, Marks::LAZY | Marks::DROPPABLE);
        }
        // Before they are there: from then on another vCPU may take them away again.
        frames.map_run(run);
        let access = at.vma.flags.page_access();
        let first = Entry::leaf(run.start, Owner::Process, access, Touch::Written);
        let first = self.own_entry(at.vma, first);
        let (words, class) = ((0..).zip(at.words_of(span)), PageClass::of(first, frames));
        self.counters.resident.add_pages(class, run.count);
        if !self.replacements.put_all(words.map(|(i, slot)| (slot, first.small(i)))) {
            self.counters.resident.remove_pages(class, run.count);
            return Ok(self.forget(run)?);
        }
        self.counters.faults.zero.fetch_add(1, Ordering::Relaxed);
        self.counters.faults.around.fetch_add(run.count - 1, Ordering::Relaxed);
        Ok(())
    }
}

impl At<'_> {
    /// The naturally aligned pages of a size that the fault's is one of.
    fn span(&self, order: Order) -> Option<PageRange> {
        let bytes = order.frames() * PAGE_SIZE;
        PageRange::from_len(VirtAddr::new(self.page.get() & !(bytes - 1)), bytes)
    }

    /// Their entries.
    fn words_of(&self, span: PageRange) -> &[AtomicU64] {
        let first = page_in_table(span.start());
        &self.words[first..first + index(span.pages())]
    }
}
