//! What khugepaged does in a space (Linux's `khugepaged_scan_mm_slot`, `hpage_collapse_scan_pmd`,
//! `collapse_huge_page`), which it is no user of: vCPUs go on, but for faults while a page is made.
//!
//! ```text
//!   512 entries     at most 511 empty or zeros (none in memory of a userfaultfd), 64 swapped, 256 shared
//!                   no guard
//!                   one accessed at least; where some are swapped, half of them
//! ```

use super::collapse::{ORDER, may_be_huge};
use super::{AddressSpace, By};
use crate::addr::{PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{Broken, CallError, Errno};
use crate::khugepaged::{Collapsed, MaxPtes};
use crate::paging::{Below, Entry};
use crate::phys::BLOCK_FRAMES;
use crate::vma::{VmFlags, Vma};

/// What 512 entries are.
#[derive(Debug, Default)]
struct Seen {
    none: u64,
    swapped: u64,
    shared: u64,
    accessed: u64,
    guards: u64,
}

impl AddressSpace {
    /// The first 2 MiB from an address on in which a huge page may be made.
    pub(crate) fn next_to_look_at(&self, from: VirtAddr) -> Option<PageRange> {
        let rest = PageRange::new(from, VirtAddr::TASK_END)?;
        self.vmas.range(rest).filter(|vma| self.may_get_huge(vma)).find_map(|vma| {
            let start = vma.range().start().max(from).get().checked_next_multiple_of(TABLE_SPAN)?;
            let span = PageRange::from_len(VirtAddr::new(start), TABLE_SPAN)?;
            vma.range().covers(span).then_some(span)
        })
    }

    /// Of anonymous memory only (`thp_vma_allowable_order` with `TVA_KHUGEPAGED`).
    fn may_get_huge(&self, vma: &Vma) -> bool {
        vma.backing.is_none() && self.asks_for_huge(vma) && may_be_huge(vma)
    }

    /// Whether enough small pages are there, and in use.
    pub(crate) fn is_worth_a_huge_page(&self, span: PageRange) -> bool {
        let vma = self.vmas.find_exact(span.start());
        vma.is_some_and(|vma| {
            vma.range().covers(span)
                && self.may_get_huge(vma)
                && self.is_worth_it(vma, span.start())
        })
    }

    fn is_worth_it(&self, vma: &Vma, addr: VirtAddr) -> bool {
        let mut seen = Seen::default();
        match self.table.below(addr) {
            Below::Nothing | Below::Vacated => return false,
            Below::Large(_) => match self.table.large(addr) {
                Some(large) if large.entry.is_promoted() => {
                    (0..BLOCK_FRAMES)
                        .for_each(|i| self.count_for_huge(large.entry.small(i), &mut seen));
                }
                _ => return false,
            },
            Below::Table(words) => {
                for word in words {
                    self.count_for_huge(Entry::new(word.load(ORDER)), &mut seen);
                }
            }
        }
        let MaxPtes { none, swap, shared } = self.system.max_ptes();
        let none = if vma.flags.intersects(VmFlags::UFFD) { 0 } else { none };
        let enough = if seen.swapped > 0 { BLOCK_FRAMES / 2 } else { 1 };
        seen.guards == 0
            && seen.none <= none
            && seen.swapped <= swap
            && seen.shared <= shared
            && seen.accessed >= enough
    }

    fn count_for_huge(&self, entry: Entry, seen: &mut Seen) {
        if entry.is_marker() || entry.is_protected() {
            seen.guards += 1;
        } else if entry.swap_slot().is_some() {
            seen.swapped += 1;
        } else if entry.is_unseen() || !self.is_filled(entry) {
            seen.none += 1;
        } else if let Some(frame) = entry.frame() {
            let frames = self.system.frames();
            let shared = |frame| frames.maps(frame) > 1;
            let folio = frames.has_folios().then(|| frames.folio(frame)).flatten();
            let any = folio.map_or(shared(frame), |folio| frames.pages_of(folio).any(shared));
            seen.shared += u64::from(any);
            seen.accessed += u64::from(entry.is_referenced());
        }
    }

    /// Makes a huge page of a span if it is still worth it.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn collapse_as_visitor(&mut self, span: PageRange) -> Result<Collapsed, Broken> {
        self.by = By::Visitor;
        let done = self.collapse_if_worth_it(span);
        self.by = By::User;
        done
    }

    fn collapse_if_worth_it(&self, span: PageRange) -> Result<Collapsed, Broken> {
        let vma = self.vmas.find_exact(span.start());
        let Some(vma) = vma.filter(|_| self.is_worth_a_huge_page(span)) else {
            return Ok(Collapsed::Not);
        };
        match self.collapse_one(vma, span.start(), |wish| self.take_huge(wish)) {
            Ok(()) => Ok(Collapsed::Made),
            Err(CallError::Errno(Errno::ENOMEM)) => Ok(Collapsed::NoMemory),
            Err(CallError::Errno(_)) => Ok(Collapsed::Not),
            Err(CallError::Broken(broken)) => Err(broken),
        }
    }
}
