//! Where a page's bytes come from. Anonymous memory needs no backing object; everything else is a
//! [`Backing`].

mod cache;
mod file;
mod shared;

pub use file::{FileBacking, FileSource};
pub use shared::SharedMemory;

use std::fmt::Debug;

use crate::addr::Frame;
use crate::error::Broken;
use crate::phys::AllocError;

/// Why a backing has no page.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The index lies past the end, or the bytes could not be read: the access gets `SIGBUS`.
    #[error("no such page in the backing")]
    NoPage,
    /// No frame was left for it.
    #[error("no memory for a page of the backing")]
    OutOfMemory,
    /// The machine stops.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<AllocError> for BackingError {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::OutOfMemory => BackingError::OutOfMemory,
            AllocError::Broken(broken) => BackingError::Broken(broken),
        }
    }
}

/// How `/proc/PID/maps` names a backing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BackingName {
    /// The device number's major part.
    pub major: u32,
    /// The device number's minor part.
    pub minor: u32,
    /// The inode number.
    pub inode: u64,
    /// The path as printed.
    pub path: String,
}

/// A source of pages: a file, shared memory, a pager of the user's.
///
/// A backing keeps a reference to each frame it has handed out until it is dropped.
pub trait Backing: Debug + Send + Sync {
    /// The frame that holds page `index` of the backing, in pages from its start, read in if need be.
    /// The caller gets a reference of its own, and gives it up with [`Frames::put`](crate::phys::Frames::put). A private mapping
    /// must not write to it.
    ///
    /// # Errors
    /// [`BackingError`] when there is no such page, no memory, or the host failed.
    fn page(&self, index: u64) -> Result<Frame, BackingError>;

    /// What `/proc/PID/maps` prints for it.
    fn name(&self) -> BackingName;
}
