//! Where the records of a block are found, by anybody and without a lock.
//!
//! Blocks are taken lowest first, so the records grow with the memory that is used. They are made when a
//! block is taken for the first time and stay as long as the machine: a reader that found a frame's number
//! somewhere may look at its record at any time, and finds "free". So the records of all blocks that were
//! ever used are kept, 21 bytes a frame, which is 0.6 % of the most memory that was in use at one time.
//!
//! ```text
//!   shelf 0: [block 0]  shelf 1: [1][2]  shelf 2: [3][4][5][6]  shelf 3: [7] ... [14]   ... shelf 47
//!                                                                  └ OnceLock ─> Records of 512 frames
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record::Records;

/// Shelves; the last one would hold more frames than an address has bits for.
const SHELVES: usize = 44;

/// Records by number of block.
#[derive(Debug)]
pub(super) struct Directory {
    shelves: [OnceLock<Box<[Place]>>; SHELVES],
    bytes: AtomicU64,
}

type Place = OnceLock<Box<Records>>;

impl Directory {
    /// An empty one.
    pub(super) fn new() -> Self {
        let bytes = AtomicU64::new(size_of::<Directory>() as u64);
        Directory { shelves: [const { OnceLock::new() }; SHELVES], bytes }
    }

    /// The records of a block; `None` if it was never used.
    pub(super) fn find(&self, block: usize) -> Option<&Records> {
        let (shelf, place) = place(block);
        self.shelves.get(shelf)?.get()?[place].get().map(Box::as_ref)
    }

    /// The records of a block, made if there are none; `None` past all memory that there can be.
    pub(super) fn find_or_make(&self, block: usize) -> Option<&Records> {
        let (shelf, place) = place(block);
        let places = self.shelves.get(shelf)?.get_or_init(|| {
            let places: Box<[Place]> = (0..1_usize << shelf).map(|_| OnceLock::new()).collect();
            self.count(size_of_val(&*places));
            places
        });
        let records = places[place].get_or_init(|| {
            self.count(size_of::<Records>());
            Records::new()
        });
        Some(records)
    }

    /// Bytes of everything in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The shelf of a block, and its place there.
fn place(block: usize) -> (usize, usize) {
    let shelf = (block + 1).ilog2();
    (shelf as usize, block + 1 - (1 << shelf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_a_place_of_its_own() {
        let mut expected =
            (0..6_usize).flat_map(|shelf| (0..1 << shelf).map(move |at| (shelf, at)));
        for block in 0..63 {
            assert_eq!(Some(place(block)), expected.next());
        }
    }

    #[test]
    fn records_are_there_once_they_were_made_and_only_then() {
        let directory = Directory::new();
        let before = directory.bytes();
        assert!(directory.find(5).is_none());
        assert!(directory.find_or_make(5).is_some());
        assert!(directory.find(5).is_some() && directory.find(4).is_none());
        assert!(directory.find(1 << 60).is_none() && directory.find_or_make(1 << 60).is_none());
        assert!(directory.bytes() - before >= size_of::<Records>() as u64);
    }
}
