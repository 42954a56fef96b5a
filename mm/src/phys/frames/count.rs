//! The counts of one frame, changed by anybody at any time without a lock.
//!
//! ```text
//!    63          32  31     30                 0
//!   [     maps     | pinned |     references    ]      0: the frame is free
//! ```
//!
//! Both counts are in one word: fork raises both with one locked instruction (5 ns each, and it is most
//! of what fork does to a page), and who asks for both gets them as they were at one moment.
//!
//! The protocol (Linux's of `folio_get`, `folio_try_get` and `folio_put`):
//!
//! ```text
//!   take     0 -> 1   only by the allocator, which alone knows a free frame
//!   get      n -> n+1 by one who knows of a reference that cannot go away meanwhile: its own, that of an
//!                     entry whose table it has locked, that of a cache whose lock it holds
//!   try_get  n -> n+1 by one who only found the frame's number (the reverse map, a scan of memory); not
//!                     from 0. Then it asks again whether the frame still is what it was found as
//!   put      n -> n-1 whoever brings it to 0, and nobody else, gives the frame to the allocator
//! ```
//!
//! A count that passes 2^31 pins the frame: it is never freed and no longer counted (Linux's saturated
//! `refcount_t`). Frames that must never be freed are pinned at once: no write ever touches the counts of
//! the zero frame, which all processors share.

use super::sync::{AtomicU64, Ordering, fence};

const REFERENCE: u64 = 1;
const REFERENCES: u64 = PINNED - 1;
const PINNED: u64 = 1 << 31;
const MAP_SHIFT: u32 = 32;
const MAP: u64 = 1 << MAP_SHIFT;

/// References and maps of one frame.
#[derive(Debug)]
pub(super) struct Counts(AtomicU64);

/// Whether a frame has references after one was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// It has.
    Some,
    /// It was the last one: the caller is to free the frame.
    None,
}

/// Why a count was not lowered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Miscounted {
    #[error("is given up, but nobody uses it")]
    Unused,
    #[error("loses its last reference, but entries still name it")]
    StillMapped,
    #[error("leaves an entry, but no entry names it")]
    NotMapped,
}

impl Counts {
    /// Of a free frame.
    pub(super) fn new() -> Self {
        Counts(AtomicU64::new(0))
    }

    /// Of a frame with as many references as are counted.
    #[cfg(test)]
    pub(super) fn almost_pinned() -> Self {
        Counts(AtomicU64::new(REFERENCES))
    }

    /// Gives a free frame its first reference. Only the allocator may, before anybody else knows of it.
    pub(super) fn take(&self) {
        // What was written about the frame before is seen by all who see the reference.
        self.0.store(REFERENCE, Ordering::Release);
    }

    /// Makes a frame stay for ever. Only the one who took it may.
    pub(super) fn pin(&self) {
        self.0.store(PINNED, Ordering::Release);
    }

    /// One more reference.
    pub(super) fn get(&self) {
        self.raise(REFERENCE);
    }

    /// One more entry that names the frame.
    pub(super) fn map(&self) {
        self.raise(MAP);
    }

    /// One more reference, and one more entry that it belongs to.
    pub(super) fn dup(&self) {
        self.raise(REFERENCE | MAP);
    }

    fn raise(&self, what: u64) {
        // Not the one who gets a reference but the one who gives up the last must see what others did.
        if self.0.load(Ordering::Relaxed) & PINNED == 0 {
            self.0.fetch_add(what, Ordering::Relaxed);
        }
    }

    /// One more reference, unless there is none.
    pub(super) fn try_get(&self) -> bool {
        let mut now = self.0.load(Ordering::Relaxed);
        while now & PINNED == 0 {
            if now & REFERENCES == 0 {
                return false;
            }
            let (taken, failed) = (Ordering::Acquire, Ordering::Relaxed);
            match self.0.compare_exchange_weak(now, now + REFERENCE, taken, failed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        true
    }

    /// One reference less.
    pub(super) fn put(&self) -> Result<Left, Miscounted> {
        let left = self.lower(REFERENCE, |now| match now {
            now if now & REFERENCES == 0 => Err(Miscounted::Unused),
            now if now & REFERENCES == 1 && now >= MAP => Err(Miscounted::StillMapped),
            _ => Ok(()),
        })?;
        if left > 0 {
            return Ok(Left::Some);
        }
        // All that the other holders did with the frame comes before what its next owner does.
        fence(Ordering::Acquire);
        Ok(Left::None)
    }

    /// One entry less.
    pub(super) fn unmap(&self) -> Result<(), Miscounted> {
        self.lower(MAP, |now| if now < MAP { Err(Miscounted::NotMapped) } else { Ok(()) }).map(drop)
    }

    /// Lowers a count of a frame that is not pinned, and answers with the word as it is then.
    fn lower(
        &self,
        what: u64,
        allowed: impl Fn(u64) -> Result<(), Miscounted>,
    ) -> Result<u64, Miscounted> {
        let mut now = self.0.load(Ordering::Relaxed);
        while now & PINNED == 0 {
            allowed(now)?;
            let (done, failed) = (Ordering::Release, Ordering::Relaxed);
            match self.0.compare_exchange_weak(now, now - what, done, failed) {
                Ok(_) => return Ok(now - what),
                Err(other) => now = other,
            }
        }
        Ok(now)
    }

    /// The counts at one moment.
    pub(super) fn now(&self) -> Counted {
        // Who sees that the others are gone also sees what they did.
        Counted(self.0.load(Ordering::Acquire))
    }
}

/// The counts of a frame as they were at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted(u64);

impl Counted {
    /// References; 2^31 of a pinned frame.
    pub(super) fn references(self) -> u32 {
        crate::addr::low_half(self.0)
    }

    /// Entries that name it.
    pub(super) fn maps(self) -> u32 {
        crate::addr::low_half(self.0 >> MAP_SHIFT)
    }
}
