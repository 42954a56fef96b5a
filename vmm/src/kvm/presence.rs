//! Which vCPUs are inside `KVM_RUN`, and on which page table: only those can be in a page fault for which KVM
//! has read an entry as it was before a change (see `kvm/flush`).
//!
//! ```text
//!   vCPU's thread                              whoever has changed an entry
//!     (1) says that it enters                    (a) the entry is changed
//!         ── fence ──                                ── fence ──
//!     (2) KVM reads the entry, installs it       (b) asks who is inside
//!     (3) says that it left                      (c) notifies: what was installed is dropped
//! ```
//!
//! Proof that nothing old stays installed where (b) finds a vCPU outside, without waiting for it:
//!
//! - (b) saw (1) not yet: both fences are sequentially consistent, so (2) sees (a), and installs the new entry.
//! - (b) saw (3): (2) came before (b), and so before (c), which drops what it installed.
//!
//! Where (b) finds it inside, whoever asked waits for the grace slot. A vCPU's page table is its own choice only
//! outside: ring 3 cannot change CR3, and ring 0 has no instruction that does.

use std::sync::PoisonError;

use super::sync::{Arc, AtomicU64, Mutex, Ordering, fence};

/// The word of a vCPU that is outside; else it is its root's address.
const OUTSIDE: u64 = u64::MAX;

/// Where one vCPU is, in a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Place(AtomicU64);

/// Where all vCPUs of one machine are.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<Vec<Arc<Place>>>);

/// A vCPU is inside as long as this is there.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Place);

impl Presence {
    /// The place of a new vCPU, which is outside.
    pub(super) fn add(&self) -> Arc<Place> {
        let place = Arc::new(Place(AtomicU64::new(OUTSIDE)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&place));
        place
    }

    /// Whether a vCPU is inside that may have entered before now; one on the page table with this root, or
    /// any.
    pub(super) fn is_any_inside(&self, root: Option<u64>) -> bool {
        fence(Ordering::SeqCst);
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().any(|place| match place.0.load(Ordering::Acquire) {
            OUTSIDE => false,
            on => root.is_none_or(|root| on == root),
        })
    }
}

impl Place {
    /// The vCPU is about to enter `KVM_RUN` with this root's address in CR3.
    pub(super) fn enter(&self, root: u64) -> Inside<'_> {
        self.0.store(root, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.0.store(OUTSIDE, Ordering::Release);
    }
}
