//! One open of an object (Linux's `struct file`): what dup(2) and fork(2) share.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use mm::backing::{Backing, FileMode, HostFile, LONGEST, OpenFile, Sought};
use mm::error::Errno;
use mm::phys::FileAccess;
use nix::libc;

use super::room::{Room, Taken};
use super::stream::of_host;
use super::tree::{Device, MadeFile, Node, Place};
use super::{Content, FileKind, FileStatus, MemoryFile, Stream, UserfaultFile, status_of};
use crate::credentials::{Credentials, current};

/// What can be opened.
#[derive(Clone, Debug)]
pub enum Object {
    /// One of the host's streams.
    Stream(Arc<Stream>),
    /// A userfaultfd.
    Userfault(Arc<UserfaultFile>),
    /// Memory with a descriptor, or a file in a tree in memory.
    Memory(Arc<MemoryFile>),
    /// A file of the host.
    File(Arc<HostFile>),
    /// A device.
    Device(Device),
    /// Something that is made as it is read.
    Made(Arc<dyn MadeFile>),
    /// A directory.
    Directory,
    /// Nothing but where it is (`O_PATH`).
    Place,
}

/// An open of an object.
#[derive(Debug)]
pub struct Open {
    object: Object,
    /// Where it was found, if by a path.
    place: Option<Arc<Place>>,
    mode: FileMode,
    /// The rights of who opened it.
    by: Arc<Credentials>,
    /// What mmap(2) maps: two opens of one object are two here, too.
    mapped: Option<Arc<OpenFile>>,
    /// `O_*` that fcntl(2) can change.
    status: AtomicI32,
    /// Where read(2) and write(2) go on, in bytes; in a directory, the next name. Held while they do.
    position: Mutex<u64>,
    /// Copies of a stream's descriptor of the host, for an epoll that watches it twice.
    copies: Mutex<Vec<Arc<OwnedFd>>>,
    /// That it is one of those that can be open.
    counted: OnceLock<Taken>,
}

/// What of the host's is waited for instead of an open.
#[derive(Clone, Copy, Debug)]
pub struct Awaited<'a> {
    /// Its descriptor.
    pub host: BorrowedFd<'a>,
    /// Those of its events, `POLL*`, that are the open's, too.
    pub events: i16,
}

/// What `F_SETFL` can change (`SETFL_MASK`), of what has a meaning here.
const CHANGEABLE: i32 = libc::O_APPEND | libc::O_NONBLOCK;

impl Open {
    /// Opens an object that has no place, for all it lets be done, at its first byte.
    #[must_use]
    pub fn new(object: Object) -> Self {
        let mode = mode_of(&object);
        Open::with(object, None, mode, 0)
    }

    /// Opens what is at a place; `status` is what `F_GETFL` is to tell besides.
    #[must_use]
    pub fn at(place: Arc<Place>, object: Object, mode: FileMode, status: i32) -> Self {
        Open::with(object, Some(place), mode, status)
    }

    fn with(object: Object, place: Option<Arc<Place>>, mode: FileMode, status: i32) -> Self {
        let mapped = match &object {
            Object::Memory(file) => Some(file.memory().backing()),
            Object::File(file) => Some(Arc::clone(file) as Arc<dyn Backing>),
            _ => None,
        };
        let mapped = mapped.map(|backing| Arc::new(OpenFile::new(backing, mode)));
        let status = AtomicI32::new(status & CHANGEABLE);
        Open {
            object,
            place,
            mode,
            by: current(),
            mapped,
            status,
            position: Mutex::new(0),
            copies: Mutex::default(),
            counted: OnceLock::new(),
        }
    }

    /// What of the host's is ready when it is; `None` where it always is (`file_can_poll`).
    #[must_use]
    pub fn awaited(&self) -> Option<Awaited<'_>> {
        match &self.object {
            Object::Stream(stream) => {
                let events = if stream.has_bytes() { -1 } else { libc::POLLIN };
                Some(Awaited { host: stream.host(), events })
            }
            Object::Userfault(file) => {
                Some(Awaited { host: file.queue().bell().host(), events: libc::POLLIN })
            }
            _ => None,
        }
    }

    /// A copy of a descriptor of the host that it has, which ends with it at the latest.
    ///
    /// # Errors
    /// `EMFILE` the host allows no more.
    pub(super) fn copy_of(&self, host: BorrowedFd<'_>) -> Result<Arc<OwnedFd>, Errno> {
        let copy = Arc::new(rustix::io::fcntl_dupfd_cloexec(host, 0).map_err(of_host)?);
        self.copies().push(Arc::clone(&copy));
        Ok(copy)
    }

    /// Such a copy is not needed any more.
    pub(super) fn drop_copy(&self, copy: &Arc<OwnedFd>) {
        self.copies().retain(|one| !Arc::ptr_eq(one, copy));
    }

    fn copies(&self) -> MutexGuard<'_, Vec<Arc<OwnedFd>>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts it among those that are open, once.
    ///
    /// # Errors
    /// `ENFILE` there can be no more.
    pub(super) fn count(&self, opens: &Arc<Room>) -> Result<(), Errno> {
        if self.counted.get().is_none() {
            let taken = opens.take(1).ok_or(Errno::ENFILE)?;
            // Another thread may have been faster.
            let _ = self.counted.set(taken);
        }
        Ok(())
    }

    /// What was opened.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Where it was found.
    #[must_use]
    pub fn place(&self) -> Option<&Arc<Place>> {
        self.place.as_ref()
    }

    /// What has bytes at offsets, if it does.
    #[must_use]
    pub fn content(&self) -> Option<&dyn Content> {
        match &self.object {
            Object::Memory(file) => Some(&**file),
            Object::File(file) => Some(&**file),
            _ => None,
        }
    }

    /// Whether the calling thread's process has the rights that it was opened with, unchanged since.
    #[must_use]
    pub fn is_by_caller(&self) -> bool {
        Arc::ptr_eq(&self.by, &current())
    }

    /// What it was opened for.
    #[must_use]
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// What fstat(2) says.
    ///
    /// # Errors
    /// `EINVAL` a userfaultfd; what the host says.
    pub fn file_status(&self) -> Result<FileStatus, Errno> {
        match (&self.object, &self.place) {
            (Object::Stream(stream), _) => status_of(stream),
            (_, Some(place)) => place.node().status(),
            (Object::Memory(file), None) => Ok(file.status()),
            (Object::File(file), None) => Content::status(&**file),
            (Object::Device(device), None) => Ok(device.status()),
            (Object::Userfault(_) | Object::Made(_) | Object::Directory | Object::Place, None) => {
                Err(Errno::EINVAL)
            }
        }
    }

    /// What mmap(2) is to map. There may be nothing in it to map, but how it was opened is looked at
    /// before that, and whether it could be executed.
    ///
    /// # Errors
    /// `EBADF` it is no more than a place (`O_PATH`).
    pub fn to_map(&self) -> Result<Arc<dyn Backing>, Errno> {
        if let Some(file) = &self.mapped {
            return Ok(Arc::clone(file) as Arc<dyn Backing>);
        }
        let mode = self.mode();
        Ok(Arc::new(match self.object {
            Object::Place => return Err(Errno::EBADF),
            Object::Device(Device::Zero) => OpenFile::zeros(mode),
            _ if self.is_of_the_kernel() => OpenFile::unmappable(mode | FileMode::NOEXEC),
            _ => OpenFile::unmappable(mode),
        }))
    }

    /// Whether it is on a file system of the kernel's own, of which nothing is executed (`SB_I_NOEXEC`): pipes, sockets,
    /// anonymous inodes, /proc.
    fn is_of_the_kernel(&self) -> bool {
        match &self.object {
            Object::Stream(stream) => {
                let kind = status_of(stream).map(|status| status.kind);
                matches!(kind, Ok(FileKind::Other(libc::S_IFIFO | libc::S_IFSOCK)))
            }
            Object::Userfault(_) | Object::Made(_) => true,
            Object::Directory => {
                let node = self.place.as_ref().map(|place| place.node());
                matches!(node, Some(Node::Made(_)))
            }
            Object::Memory(_) | Object::File(_) | Object::Device(_) | Object::Place => false,
        }
    }

    /// Where reading and writing go on; nobody else does meanwhile (`f_pos_lock`).
    pub fn position(&self) -> MutexGuard<'_, u64> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `O_APPEND` and `O_NONBLOCK`, as fcntl(2) has set them.
    #[must_use]
    pub fn status(&self) -> i32 {
        self.status.load(Ordering::Relaxed)
    }

    /// Sets them (`F_SETFL`); all other bits are ignored.
    ///
    /// # Errors
    /// What the host says of a stream.
    pub fn set_status(&self, flags: i32) -> Result<(), Errno> {
        if let Object::Stream(stream) = &self.object {
            stream.set_status(flags)?;
        }
        self.status.store(flags & CHANGEABLE, Ordering::Relaxed);
        Ok(())
    }

    /// lseek(2) in something that has a length.
    ///
    /// # Errors
    /// `EINVAL` before the start, past the longest file, or an unknown `whence`; `ENXIO` data or a hole looked
    /// for past the end, or no more data. Source: Linux's `shmem_file_llseek`, `default_llseek`.
    pub fn seek(&self, content: &dyn Content, offset: i64, whence: i32) -> Result<u64, Errno> {
        let mut position = self.position();
        let from = |base: u64| base.checked_add_signed(offset).filter(|&at| at <= LONGEST);
        *position = match whence {
            libc::SEEK_SET => from(0).ok_or(Errno::EINVAL)?,
            libc::SEEK_CUR => from(*position).ok_or(Errno::EINVAL)?,
            libc::SEEK_END => from(content.length()?).ok_or(Errno::EINVAL)?,
            libc::SEEK_DATA => content.seek(offset, Sought::Data)?,
            libc::SEEK_HOLE => content.seek(offset, Sought::Hole)?,
            _ => return Err(Errno::EINVAL),
        };
        Ok(*position)
    }
}

fn mode_of(object: &Object) -> FileMode {
    match object {
        Object::Stream(stream) => stream.mode(),
        Object::File(file) if file.access() == FileAccess::Read => FileMode::READ,
        Object::Directory | Object::Made(_) | Object::Userfault(_) => FileMode::READ,
        Object::Place => FileMode::empty(),
        Object::Memory(_) | Object::File(_) | Object::Device(_) => FileMode::READ | FileMode::WRITE,
    }
}
