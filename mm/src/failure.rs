//! Allocations that fail on purpose (Linux's fault injection, `failslab` and `fail_page_alloc`): every
//! operation has to survive the failure of each allocation it makes, and that can only be shown by making
//! them fail, one after the other.
//!
//! ```text
//!   watch():    1 ok   2 ok   3 ok    stop() -> 3: so many allocations the operation makes
//!   refuse(2):  1 ok   2 no           stop() -> 2: the operation gave up there (or went on without it)
//!   refuse_from(2):  1 ok   2 no   3 no ...        there is nothing left, however often it is asked for
//! ```

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nobody counts.
const OFF: u64 = 0;
/// Counted, and none refused.
const NONE: u64 = ALL_LATER - 1;
/// Set where all later ones are refused as well.
const ALL_LATER: u64 = 1 << 63;

/// One kind of allocation, all of which pass here. Costs one load while nobody watches.
#[derive(Debug, Default)]
pub struct FailPoint {
    /// Which allocation to refuse, counted from 1, perhaps with [`ALL_LATER`]; or [`OFF`], or [`NONE`].
    refused: AtomicU64,
    /// Allocations since the last [`watch`](Self::watch) or [`refuse`](Self::refuse).
    asked: AtomicU64,
}

impl FailPoint {
    /// Counts allocations from now on, and lets all of them succeed.
    pub fn watch(&self) {
        self.start(NONE);
    }

    /// Counts allocations from now on, and lets the `nth` one fail: only that one.
    pub fn refuse(&self, nth: NonZeroU64) {
        self.start(nth.get());
    }

    /// Counts allocations from now on, and lets the `nth` one and all later ones fail.
    pub fn refuse_from(&self, nth: NonZeroU64) {
        self.start(nth.get() | ALL_LATER);
    }

    /// Stops counting and refusing; answers with how many allocations there have been.
    pub fn stop(&self) -> u64 {
        self.refused.store(OFF, Ordering::Relaxed);
        self.asked.load(Ordering::Relaxed)
    }

    fn start(&self, refused: u64) {
        self.asked.store(0, Ordering::Relaxed);
        self.refused.store(refused, Ordering::Relaxed);
    }

    /// Is asked before each allocation: whether it is to fail.
    pub fn refuses(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused == OFF {
            return false;
        }
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if refused & ALL_LATER == 0 { asked == refused } else { asked >= refused - ALL_LATER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_allocations_are_refused_and_all_are_counted() {
        let point = FailPoint::default();
        assert!(!point.refuses(), "nobody counts");
        point.refuse(NonZeroU64::new(2).unwrap());
        assert_eq!([point.refuses(), point.refuses(), point.refuses()], [false, true, false]);
        assert_eq!(point.stop(), 3);
        point.refuse_from(NonZeroU64::new(2).unwrap());
        assert_eq!([point.refuses(), point.refuses(), point.refuses()], [false, true, true]);
        point.watch();
        assert_eq!([point.refuses(), point.refuses()], [false, false]);
        assert_eq!(point.stop(), 2);
    }
}
