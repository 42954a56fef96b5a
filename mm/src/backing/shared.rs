//! Shared anonymous memory: zeros until written, seen by everyone who maps it (Linux's
//! `shmem_zero_setup`).

use std::ops::Range;
use std::sync::Arc;

use super::cache::PageCache;
use super::{Backing, BackingError, BackingName, Placement};
use crate::addr::Frame;
use crate::error::Errno;
use crate::phys::{Contents, Frames};

/// A shared memory object of a fixed number of pages.
#[derive(Debug)]
pub struct SharedMemory {
    pages: u64,
    name: BackingName,
    cache: PageCache,
}

impl SharedMemory {
    /// An object of `pages` pages, named as Linux names the one behind `MAP_SHARED|MAP_ANONYMOUS`.
    #[must_use]
    pub fn new(frames: Arc<Frames>, pages: u64, inode: u64) -> Self {
        let name =
            BackingName { major: 0, minor: 1, inode, path: "/dev/zero (deleted)".to_owned() };
        SharedMemory { pages, name, cache: PageCache::new(frames) }
    }
}

impl Backing for SharedMemory {
    fn page(&self, index: u64) -> Result<Frame, BackingError> {
        if index >= self.pages {
            return Err(BackingError::NoPage);
        }
        self.cache.page(index, Contents::Zeroed, |_, _| Ok(()))
    }

    fn name(&self) -> BackingName {
        self.name.clone()
    }

    fn placement(&self) -> Placement {
        Placement::SharedMemory
    }

    fn is_resident(&self, index: u64) -> bool {
        self.cache.holds(index)
    }

    fn punch(&self, pages: Range<u64>) -> Result<(), Errno> {
        self.cache.forget(pages).map_err(|broken| {
            log::error!("shared memory cannot give up pages: {broken}");
            Errno::EIO
        })
    }

    fn is_shared_memory(&self) -> bool {
        true
    }

    fn is_shared_anonymous(&self) -> bool {
        true
    }
}
