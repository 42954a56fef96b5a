//! Where the bytes of swapped pages are kept.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, PoisonError};

use crate::addr::{PAGE_BYTES, SwapSlot};

/// A store of pages, by number from 0 on. Of two threads none writes a page that the other one uses.
pub trait SwapStore: Debug + Send + Sync {
    /// How many pages it holds.
    fn slots(&self) -> u64;

    /// Writes whole pages, the first to `first`, the others to the places after it.
    ///
    /// # Errors
    /// What the host says; the pages are then as good as never written.
    fn write(&self, first: SwapSlot, pages: &[u8]) -> io::Result<()>;

    /// Reads whole pages, the first from `first`, the others from the places after it.
    ///
    /// # Errors
    /// What the host says; then what has been read is unknown.
    fn read(&self, first: SwapSlot, pages: &mut [u8]) -> io::Result<()>;
}

/// A store in memory, for tests.
#[derive(Debug)]
pub struct MemoryStore {
    slots: u64,
    pages: Mutex<BTreeMap<SwapSlot, Vec<u8>>>,
}

impl MemoryStore {
    /// For so many pages.
    #[must_use]
    pub fn new(slots: u64) -> Self {
        MemoryStore { slots, pages: Mutex::default() }
    }
}

impl SwapStore for MemoryStore {
    fn slots(&self) -> u64 {
        self.slots
    }

    fn write(&self, first: SwapSlot, bytes: &[u8]) -> io::Result<()> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, page) in (0..).zip(bytes.chunks(PAGE_BYTES)) {
            pages.insert(first.offset(i), page.to_vec());
        }
        Ok(())
    }

    fn read(&self, first: SwapSlot, into: &mut [u8]) -> io::Result<()> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, into) in (0..).zip(into.chunks_mut(PAGE_BYTES)) {
            let page = pages.get(&first.offset(i)).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(page);
        }
        Ok(())
    }
}
