//! Seeds, dealt out to all processors.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use libtest_mimic::Failed;

/// Seeds that are tried one after the other, until one fails.
pub struct Seeds {
    next: AtomicU64,
    end: u64,
    failed: AtomicBool,
}

impl Seeds {
    /// These.
    pub fn new(seeds: Range<u64>) -> Self {
        let Range { start, end } = seeds;
        Seeds { next: AtomicU64::new(start), end, failed: AtomicBool::new(false) }
    }

    /// The next one, unless there is none, or one has failed.
    pub fn next(&self) -> Option<u64> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < self.end)
    }

    /// Has each processor do the work, which asks for seeds until there is none.
    pub fn on_all_processors(
        &self,
        work: impl Fn(&Self) -> Result<(), Failed> + Sync,
    ) -> Result<(), Failed> {
        let worker = || work(self).inspect_err(|_| self.failed.store(true, Ordering::Relaxed));
        let count = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err("a thread panicked".into()),
            })
        })
    }
}
