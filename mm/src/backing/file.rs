//! Pages of a file that is read through a [`FileSource`].

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::cache::PageCache;
use super::{Backing, BackingError, BackingName, Placement};
use crate::addr::{Frame, PAGE_BYTES, PAGE_SIZE};
use crate::error::Errno;
use crate::numa;
use crate::phys::{Contents, FrameKind, Frames};
use crate::promise::Payer;
use crate::vma::{MapFlags, VmFlags};

/// Bytes at offsets.
pub trait FileSource: Debug + Send + Sync {
    /// Reads at `offset`, in bytes from the start, until `into` is full or the file ends; says how
    /// many bytes were read.
    ///
    /// # Errors
    /// What the host says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// A file as a source of pages. The part of the last page past the file's end reads as zeros; a page
/// wholly past it does not exist.
#[derive(Debug)]
pub struct FileBacking<S> {
    source: S,
    name: BackingName,
    cache: PageCache,
}

impl<S: FileSource> FileBacking<S> {
    /// A file that `/proc/PID/maps` calls `name`.
    pub fn new(frames: Arc<Frames>, source: S, name: BackingName) -> Self {
        FileBacking { source, name, cache: PageCache::new(frames, FrameKind::Cached) }
    }
}

/// `MAP_SYNC` is for files that are memory themselves.
pub(crate) fn no_sync(flags: VmFlags) -> Result<VmFlags, Errno> {
    if flags.contains(VmFlags::SYNC) { Err(Errno::EOPNOTSUPP) } else { Ok(flags) }
}

impl<S: FileSource> Backing for FileBacking<S> {
    fn page(&self, index: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        let wish = || numa::wish_of_file(self.cache.frames().nodes());
        self.cache.page(index, Contents::Any, wish, |frames, frame| {
            let mut bytes = [0; PAGE_BYTES];
            let offset = index.checked_mul(PAGE_SIZE).ok_or(BackingError::NoPage)?;
            match self.source.read_at(offset, &mut bytes) {
                Ok(0) => Err(BackingError::NoPage),
                Ok(_) => {
                    frames.memory().write(frame.addr(), &bytes);
                    Ok(())
                }
                Err(error) => {
                    log::warn!("{}: cannot read at {offset:#x}: {error}", self.name.path);
                    Err(BackingError::NoPage)
                }
            }
        })
    }

    fn read_file(&self, offset: u64, into: &mut [u8]) -> usize {
        self.source.read_at(offset, into).unwrap_or(0)
    }

    fn name(&self) -> BackingName {
        self.name.clone()
    }

    fn placement(&self) -> Placement {
        Placement::HugeAligned
    }

    fn validated_flags(&self) -> MapFlags {
        MapFlags::SYNC
    }

    fn map(&self, flags: VmFlags, _: Range<u64>) -> Result<VmFlags, Errno> {
        no_sync(flags)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.cache.holds(index)
    }

    fn at_hand(&self, pages: Range<u64>) -> Vec<Option<Frame>> {
        self.cache.at_hand(pages)
    }
}
