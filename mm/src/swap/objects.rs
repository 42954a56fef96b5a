//! The objects whose pages can go to the swap area (Linux's `shmem_swaplist`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::backing::SharedMemory;

/// By number.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Weak<SharedMemory>>>,
}

impl Objects {
    /// A number that no object has.
    pub(crate) fn new_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add(&self, number: u64, object: &Arc<SharedMemory>) {
        self.lock().insert(number, Arc::downgrade(object));
    }

    pub(crate) fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    /// The first of this number or a higher one that is still there.
    pub(crate) fn first_from(&self, number: u64) -> Option<(u64, Arc<SharedMemory>)> {
        let all = self.lock();
        all.range(number..).find_map(|(&number, object)| Some((number, object.upgrade()?)))
    }

    /// All that are still there.
    pub(crate) fn all(&self) -> Vec<Arc<SharedMemory>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<SharedMemory>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
