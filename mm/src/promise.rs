//! Promises of memory: what the commit limit counts (Linux's `vm_committed_as`). A VMA's are counted in
//! and out by the operations on it; an object of shared memory holds its own as a [`Promise`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Errno;

/// Pages promised to all address spaces and all objects of a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed(Arc<AtomicU64>);

impl Committed {
    /// How many there are.
    pub(crate) fn pages(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts so many more, and says how many there are then.
    pub(crate) fn add(&self, pages: u64) -> u64 {
        self.0.fetch_add(pages, Ordering::Relaxed).saturating_add(pages)
    }

    /// Counts so many fewer (Linux's `vm_unacct_memory`).
    pub(crate) fn sub(&self, pages: u64) {
        self.0.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Somebody who has been promised `pages` of these already.
    pub(crate) fn held(&self, pages: u64) -> Promise {
        Promise { committed: self.clone(), pages: AtomicU64::new(pages) }
    }
}

/// Pages promised to somebody; dropped, the promise is taken back.
#[derive(Debug)]
pub struct Promise {
    committed: Committed,
    pages: AtomicU64,
}

impl Promise {
    /// How many pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Takes over what somebody else of the same machine was promised.
    pub(crate) fn join(&self, other: &Promise) {
        self.pages.fetch_add(other.pages.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Gives back so many of its pages.
    pub(crate) fn give_back(&self, pages: u64) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
        self.committed.sub(pages);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.committed.sub(self.pages());
    }
}

/// Who asks for promises when a page of an object comes into being: the address space that touched it.
pub trait Payer {
    /// Promises `pages` more (Linux's `security_vm_enough_memory_mm`).
    ///
    /// # Errors
    /// The guardian's veto; `ENOMEM` past the commit limit.
    fn promise(&self, pages: u64) -> Result<Promise, Errno>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_counts_until_it_is_dropped() {
        let committed = Committed::default();
        committed.add(7);
        let held = committed.held(5);
        assert_eq!((held.pages(), committed.pages()), (5, 7));
        held.give_back(2);
        assert_eq!((held.pages(), committed.pages()), (3, 5));
        drop(held);
        assert_eq!(committed.pages(), 2);
    }

    #[test]
    fn a_promise_that_another_took_over_is_taken_back_once() {
        let committed = Committed::default();
        committed.add(3);
        let (one, two) = (committed.held(1), committed.held(2));
        one.join(&two);
        drop(two);
        assert_eq!((one.pages(), committed.pages()), (3, 3));
        drop(one);
        assert_eq!(committed.pages(), 0);
    }
}
