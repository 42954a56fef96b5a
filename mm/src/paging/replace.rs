//! Another page in the place of one that vCPUs may have cached, while they run (Linux's `ptep_clear_flush`
//! and `set_pte_at` in `wp_page_copy`).
//!
//! The entry must not name the new page before the last translation to the old one is gone: of three vCPUs,
//! the first could read the old page after the second has written the new one and the third has read that.
//!
//! ```text
//!   entry       old page ──take_out──> leaving ────────────put_in──> new page
//!   flush                               ├───────────────┤
//!   vCPUs       use the old one          use the old one             use the new one
//!                                        or fault, and wait
//! ```
//!
//! One lock a space does what Linux's page-table lock does here: it is held from the first `take_out` to the
//! last `put_in`, and who meets an entry that is leaving waits for it. So does the host's own access, as it
//! faults like a vCPU. The old page stays counted and named until the new one is there: who only looks
//! (mincore, smaps, pagemap) sees a page.
//!
//! Several pages that come at once, where nothing was, are announced as leaving first: so nobody sees one of them alone.
//!
//! Where no other vCPU runs, or the entry was never cached, an exchange at once will do.

use std::sync::PoisonError;

use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::paging::entry::Entry;

/// The pages that are being replaced in one space. Taken under the space's lock, held shared or exclusively;
/// the flush is made under it.
#[derive(Debug, Default)]
pub(crate) struct Replacements(Mutex<()>);

/// One round of replacements: nobody else in the space replaces anything meanwhile.
#[derive(Debug)]
pub(crate) struct Replacement<'a>(
    #[expect(dead_code, reason = "only to be dropped")] MutexGuard<'a, ()>,
);

impl Replacements {
    /// Begins a round, when those before it are through.
    pub(crate) fn begin(&self) -> Replacement<'_> {
        Replacement(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts pages where nothing is, all of them or none; says whether they are there. Who faults on one meanwhile waits.
    pub(crate) fn put_all<'a>(
        &self,
        pages: impl Iterator<Item = (&'a AtomicU64, Entry)> + Clone,
    ) -> bool {
        let (round, nothing) = (self.begin(), Entry::EMPTY.raw());
        let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        let announced = |&(slot, entry): &(&AtomicU64, Entry)| {
            slot.compare_exchange(nothing, entry.leaving().raw(), done, failed).is_ok()
        };
        let (all, mine) = (pages.clone().count(), pages.clone().take_while(announced).count());
        for (slot, entry) in pages.take(mine) {
            round.put_in(slot, if mine == all { entry } else { Entry::EMPTY });
        }
        mine == all
    }

    /// What an entry is, once nobody is replacing it. Not by one who has begun a round.
    #[must_use]
    pub(crate) fn settled(&self, slot: &AtomicU64) -> Entry {
        loop {
            let entry = Entry::new(slot.load(Ordering::Acquire));
            if !entry.is_leaving() {
                return entry;
            }
            drop(self.begin());
        }
    }
}

impl Replacement<'_> {
    /// Takes the page out if the entry is still the one given: no vCPU can cache a translation to it from now
    /// on, until [`put_in`](Self::put_in), which must follow.
    #[must_use]
    pub(crate) fn take_out(&self, slot: &AtomicU64, old: Entry) -> bool {
        let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        slot.compare_exchange(old.raw(), old.leaving().raw(), done, failed).is_ok()
    }

    /// Ends what [`take_out`](Self::take_out) began, after the flush.
    pub(crate) fn put_in(&self, slot: &AtomicU64, entry: Entry) {
        // Neither the hardware nor anybody else changes an entry that is leaving.
        slot.store(entry.raw(), Ordering::Release);
    }
}
