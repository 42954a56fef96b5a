//! Large entries in the place of tables (superpages, as FreeBSD has them): where 512 pages lie side by side in
//! memory as their addresses do, and their entries are alike but for the frames, one entry can say it all.
//!
//! ```text
//!   table:  frame n, n + 1, ... n + 511   ──promoted (renewed)──>   one large entry, marked, and a spare frame
//!           all written, all alike        <──demoted (split)─────
//! ```
//!
//! No program can tell: the pages stay 512 small ones with counts of their own, and the entry becomes a table again
//! before anything is done to one of them. It takes a 512th of the time to copy, to protect and to learn anew.
//!
//! A table is promoted only in a root that no vCPU has used yet: nothing has to be flushed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::Entry;
use super::table::{Below, PageTable};
use crate::addr::{PageRange, TABLE_SPAN, VirtAddr};
use crate::phys::{AllocError, BLOCK_FRAMES};

impl PageTable {
    /// The tables wholly in the range that a large entry could stand for: their first addresses, ascending.
    pub fn promotable(&self, range: PageRange) -> impl Iterator<Item = VirtAddr> {
        let first = range.start().get().next_multiple_of(TABLE_SPAN);
        let whole = PageRange::new(VirtAddr::new(first), range.end().table_floor());
        let tables = whole.into_iter().flat_map(|whole| self.tables_in(whole));
        tables.filter(|&addr| match self.below(addr) {
            Below::Table(words) => promoted(words).is_some(),
            _ => false,
        })
    }

    /// Fills a table in which nothing is with what a promoted entry stands for; says whether there could be one: not
    /// where a large entry is. `addr` is a multiple of 2 MiB.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for a table.
    pub fn map_small(&self, addr: VirtAddr, promoted: Entry) -> Result<bool, AllocError> {
        let Some(words) = self.ensure(addr)? else { return Ok(false) };
        for (i, word) in (0..).zip(words) {
            word.store(promoted.small(i).raw(), Ordering::Release);
        }
        Ok(true)
    }
}

/// The large entry that can stand for a table, if one can. All pages have been accessed and written: no such bit is
/// set later by a vCPU, which would then be one for all of them.
pub(super) fn promoted(words: &[AtomicU64]) -> Option<Entry> {
    let entry = |word: &AtomicU64| Entry::new(word.load(Ordering::Relaxed)).recalled();
    let first = entry(words.first()?);
    let begins = first.frame().is_some_and(|frame| frame.number().is_multiple_of(BLOCK_FRAMES));
    let fit = begins && first.is_promotable();
    // Most tables that can't be have a last page that says so.
    let alike = |(i, word): (u64, &AtomicU64)| entry(word) == first.small(i);
    let ends = || words.last().is_some_and(|last| alike((BLOCK_FRAMES - 1, last)));
    (fit && ends() && (0..).zip(words).all(alike)).then(|| first.promoted())
}
