//! Files that are made as they are looked at: `/proc`.

use std::fmt::Debug;
use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::backing::FileMode;
use mm::calls::Caller;
use mm::error::{CallResult, Errno};

use super::node::Entry;
use super::place::Place;
use crate::files::status::{FileKind, FileStatus, Timestamp};

/// The minor number of the device that they are on.
const DEVICE: u32 = 22;

/// What a link that leads to no path leads to (Linux's magic links).
pub type Jump = Result<Arc<Place>, Errno>;

/// A file that is made as it is looked at: a directory, unless it says otherwise.
pub trait Made: Debug + Send + Sync {
    /// What it is.
    fn kind(&self) -> FileKind {
        FileKind::Directory
    }

    /// Its number.
    fn inode(&self) -> u64;

    /// Who may do what.
    fn permissions(&self) -> u32 {
        0o555
    }

    /// What has a name in it.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT`.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        Err(Errno::ENOTDIR)
    }

    /// Its names from a place on.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT`.
    fn entries(&self, _from: u64) -> Result<Vec<Entry>, Errno> {
        Err(Errno::ENOTDIR)
    }

    /// Where it leads, in words.
    ///
    /// # Errors
    /// `EINVAL` it is no link.
    fn target(&self) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    /// Where it leads, if not by those words.
    fn jump(&self) -> Option<Jump> {
        None
    }

    /// Whether it may be opened so. The guest's programs are root: most files do not ask.
    ///
    /// # Errors
    /// `EACCES`.
    fn check_open(&self, _mode: FileMode) -> Result<(), Errno> {
        Ok(())
    }

    /// Opens it.
    ///
    /// # Errors
    /// What its kind of file says.
    fn open(&self) -> Result<Arc<dyn MadeFile>, Errno> {
        Err(Errno::EACCES)
    }
}

/// Which offsets a file takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offsets {
    /// Those that `off_t` has for a place: not negative.
    Signed,
    /// lseek(2) takes all (`mem_lseek`), reading and writing those.
    SoughtAnywhere,
    /// All, up to 2^64 (`FMODE_UNSIGNED_OFFSET`).
    All,
}

/// One open of such a file.
pub trait MadeFile: Debug + Send + Sync {
    /// Fills a buffer from an offset on; says how many bytes there were.
    ///
    /// # Errors
    /// What its kind of file says.
    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize>;

    /// Takes bytes at an offset; says how many.
    ///
    /// # Errors
    /// `EINVAL`, or what its kind of file says.
    fn write(&self, _offset: u64, _bytes: &[u8]) -> CallResult<usize> {
        Err(Errno::EINVAL.into())
    }

    /// Answers a request of ioctl(2), with the pointer that the caller passed.
    ///
    /// # Errors
    /// `ENOTTY`, or what its kind of file says.
    fn ioctl(&self, _caller: &dyn Caller, _request: u64, _argument: VirtAddr) -> CallResult<u64> {
        Err(Errno::ENOTTY.into())
    }

    /// Which offsets, in bytes, it can be asked for.
    fn offsets(&self) -> Offsets {
        Offsets::Signed
    }
}

/// What stat(2) says.
pub(super) fn status(made: &dyn Made) -> FileStatus {
    let kind = made.kind();
    let now = Timestamp::now();
    FileStatus {
        device: rustix::fs::makedev(0, DEVICE),
        inode: made.inode(),
        links: if kind == FileKind::Directory { 2 } else { 1 },
        kind,
        permissions: made.permissions(),
        uid: 0,
        gid: 0,
        stands_for: 0,
        size: 0,
        block: 1024,
        blocks: 0,
        accessed: now,
        modified: now,
        changed: now,
    }
}
