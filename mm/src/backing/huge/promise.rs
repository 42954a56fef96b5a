//! What one private map has been promised of the pool (Linux's `resv_map` of a private VMA, and
//! `HPAGE_RESV_OWNER`). Its VMA has it, and each part that is cut from that; a forked child's does not.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pool::{Claim, HugePool};

/// The promise of all pages of a private map.
#[derive(Debug)]
pub struct HugePromise {
    pool: Arc<HugePool>,
    /// For which of them it has been kept, by their index in the object. A leaf lock but for the pool's.
    kept: Mutex<BTreeSet<u64>>,
}

impl HugePromise {
    /// A promise for which the pages are reserved already.
    pub(super) fn new(pool: &Arc<HugePool>) -> Self {
        HugePromise { pool: Arc::clone(pool), kept: Mutex::default() }
    }

    /// How a page may be taken.
    pub(super) fn claim(&self, index: u64) -> Claim {
        if self.kept().contains(&index) { Claim::None } else { Claim::Promised }
    }

    /// A page has been taken.
    pub(super) fn keep(&self, index: u64) {
        self.kept().insert(index);
    }

    /// The page of an index is given up, and will be free: it is promised anew.
    pub(super) fn renew(&self, index: u64) {
        if self.kept().remove(&index) {
            self.pool.restore();
        }
    }

    /// A part of the map goes, and with it what is still promised of it (`hugetlb_vm_op_close`).
    pub(super) fn give_back(&self, pages: Range<u64>) {
        self.pool.unreserve(self.open(pages));
    }

    /// How many of these pages are still promised.
    pub(super) fn open(&self, pages: Range<u64>) -> u64 {
        let count = pages.end.saturating_sub(pages.start);
        if count == 0 {
            return 0;
        }
        count - self.kept().range(pages).count() as u64
    }

    fn kept(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
