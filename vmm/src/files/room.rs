//! What a guest's files may take of the host's own memory, beside the guest's: a guest that makes names without end is
//! told that there is no room (Linux's `nr_inodes`, `file-max`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much of something that there is so much of.
#[derive(Debug)]
pub struct Room {
    left: AtomicU64,
}

/// A part of it, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    room: Arc<Room>,
    amount: u64,
}

impl Room {
    /// So much.
    #[must_use]
    pub fn new(amount: u64) -> Arc<Self> {
        Arc::new(Room { left: AtomicU64::new(amount) })
    }

    /// A part of it; `None` if there is no more so much.
    #[must_use]
    pub fn take(self: &Arc<Self>, amount: u64) -> Option<Taken> {
        let less = |left: u64| left.checked_sub(amount);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Taken { room: Arc::clone(self), amount })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let room = Room::new(10);
        let seven = room.take(7);
        assert!(seven.is_some() && room.take(4).is_none() && room.take(3).is_some());
        drop(seven);
        assert!(room.take(10).is_some());
    }
}
