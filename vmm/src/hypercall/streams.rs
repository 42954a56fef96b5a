//! Descriptors, and the calls on them. A program has the host's standard streams, userfaultfds, and no
//! files.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mm::addr::VirtAddr;
use mm::backing::{Backing, FileMode, OpenFile};
use mm::error::Errno;
use mm::vma::Userfault;
use nix::libc;
use nix::poll::{PollFd, PollFlags};

use super::{Context, Served, Stop};
use crate::task::rest;

/// The highest descriptor plus one (`RLIMIT_NOFILE`).
const DESCRIPTORS: i32 = 1024;

/// One of the host's streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    pub(super) fn host(self) -> BorrowedFd<'static> {
        match self {
            Stream::Input => rustix::stdio::stdin(),
            Stream::Output => rustix::stdio::stdout(),
            Stream::Error => rustix::stdio::stderr(),
        }
    }
}

/// What a descriptor stands for.
#[derive(Clone, Debug)]
enum Object {
    /// A stream.
    Stream(Stream),
    /// A userfaultfd.
    Userfault(Arc<Userfault>),
}

#[derive(Clone, Debug)]
struct Descriptor {
    object: Object,
    /// `FD_CLOEXEC`.
    flags: i32,
}

/// A process's descriptors.
#[derive(Debug)]
pub struct Streams(Mutex<BTreeMap<i32, Descriptor>>);

impl Default for Streams {
    /// 0, 1 and 2.
    fn default() -> Self {
        let streams = [Stream::Input, Stream::Output, Stream::Error];
        let open = |stream| Descriptor { object: Object::Stream(stream), flags: 0 };
        let table = (0..).zip(streams.map(open));
        Streams(Mutex::new(table.collect()))
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Descriptor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child's: the same objects behind the same numbers, a table of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        Streams(Mutex::new(self.lock().clone()))
    }

    /// The stream behind a descriptor.
    ///
    /// # Errors
    /// `EBADF` if it is not open, `EINVAL` if there is no stream behind it.
    pub fn get(&self, fd: i32) -> Result<Stream, Errno> {
        match self.object(fd)? {
            Object::Stream(stream) => Ok(stream),
            Object::Userfault(_) => Err(Errno::EINVAL),
        }
    }

    fn object(&self, fd: i32) -> Result<Object, Errno> {
        self.lock().get(&fd).map(|descriptor| descriptor.object.clone()).ok_or(Errno::EBADF)
    }

    /// The userfaultfd behind a descriptor; `None` if there is something else.
    pub(super) fn userfault(&self, fd: i32) -> Option<Arc<Userfault>> {
        match self.object(fd) {
            Ok(Object::Userfault(uffd)) => Some(uffd),
            _ => None,
        }
    }

    /// What mmap(2) is to map. There is nothing in a stream to map, but how it was opened is looked at
    /// before that.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is not open.
    pub(super) fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        let mode = match self.object(fd)? {
            Object::Stream(stream) => match rustix::fs::fcntl_getfl(stream.host()) {
                Ok(flags) => match flags & rustix::fs::OFlags::ACCMODE {
                    rustix::fs::OFlags::RDONLY => FileMode::READ,
                    rustix::fs::OFlags::WRONLY => FileMode::WRITE,
                    _ => FileMode::READ | FileMode::WRITE,
                },
                Err(_) => FileMode::empty(),
            },
            Object::Userfault(_) => FileMode::READ | FileMode::WRITE,
        };
        Ok(Arc::new(OpenFile::unmappable(mode)))
    }

    /// The lowest free descriptor, made to stand for a userfaultfd; `flags` are userfaultfd(2)'s.
    ///
    /// # Errors
    /// `EMFILE`: there is none.
    pub(super) fn install(&self, uffd: Arc<Userfault>, flags: i32) -> Result<i32, Errno> {
        let flags = if flags & libc::O_CLOEXEC == 0 { 0 } else { libc::FD_CLOEXEC };
        self.insert(Object::Userfault(uffd), 0, flags)
    }

    /// A second descriptor for what `fd` stands for: the lowest free one from `least` on.
    fn duplicate(&self, fd: i32, least: i32, flags: i32) -> Result<i32, Errno> {
        let object = self.object(fd)?;
        if !(0..DESCRIPTORS).contains(&least) {
            return Err(Errno::EINVAL);
        }
        self.insert(object, least, flags)
    }

    fn insert(&self, object: Object, least: i32, flags: i32) -> Result<i32, Errno> {
        let mut table = self.lock();
        let free = (least..DESCRIPTORS).find(|fd| !table.contains_key(fd)).ok_or(Errno::EMFILE)?;
        table.insert(free, Descriptor { object, flags });
        Ok(free)
    }
}

/// A descriptor as a result.
fn descriptor(fd: i32) -> u64 {
    u64::from(fd.unsigned_abs())
}

/// close(2).
pub(super) fn close(c: &mut Context<'_>) -> Served {
    c.process.streams.lock().remove(&c.int(0)).map(|_| 0).ok_or_else(|| Errno::EBADF.into())
}

/// lseek(2).
pub(super) fn lseek(c: &mut Context<'_>) -> Served {
    use rustix::fs::SeekFrom;
    let stream = c.process.streams.get(c.int(0))?;
    let offset = c.args[1].cast_signed();
    let from = match c.int(2) {
        libc::SEEK_SET => SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::EINVAL)?),
        libc::SEEK_CUR => SeekFrom::Current(offset),
        libc::SEEK_END => SeekFrom::End(offset),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(rustix::fs::seek(stream.host(), from)?)
}

/// fstat(2).
pub(super) fn fstat(c: &mut Context<'_>) -> Served {
    let stream = c.process.streams.get(c.int(0))?;
    stat_into(c, stream, c.address(1))
}

/// newfstatat(2): of a descriptor, by an empty path.
pub(super) fn newfstatat(c: &mut Context<'_>) -> Served {
    let empty_allowed = c.int(3) & libc::AT_EMPTY_PATH != 0;
    let path = c.read_path(c.address(1))?;
    if !path.is_empty() || !empty_allowed {
        return Err(Errno::ENOENT.into());
    }
    let stream = c.process.streams.get(c.int(0))?;
    stat_into(c, stream, c.address(2))
}

/// Writes a `struct stat` (arch/x86/include/uapi/asm/stat.h).
fn stat_into(c: &Context<'_>, stream: Stream, to: VirtAddr) -> Served {
    let stat = rustix::fs::fstat(stream.host())?;
    let mode_uid = u64::from(stat.st_mode) | u64::from(stat.st_uid) << 32;
    let words = [
        stat.st_dev,
        stat.st_ino,
        stat.st_nlink,
        mode_uid,
        u64::from(stat.st_gid),
        stat.st_rdev,
        stat.st_size.cast_unsigned(),
        stat.st_blksize.cast_unsigned(),
        stat.st_blocks.cast_unsigned(),
        stat.st_atime.cast_unsigned(),
        stat.st_atime_nsec,
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec,
        0,
        0,
        0,
    ];
    c.write_words(to, &words)?;
    Ok(0)
}

/// ioctl(2): what a program asks to find out whether a stream is a terminal, and what it tells a
/// userfaultfd.
pub(super) fn ioctl(c: &mut Context<'_>) -> Served {
    if let Some(uffd) = c.process.streams.userfault(c.int(0)) {
        let request = u64::from(c.int(1).cast_unsigned());
        return Ok(mm::calls::userfault_ioctl(c.process, &uffd, request, c.address(2))?);
    }
    let stream = c.process.streams.get(c.int(0))?;
    match u64::from(c.int(1).cast_unsigned()) {
        libc::TCGETS => {
            let termios = rustix::termios::tcgetattr(stream.host())?;
            let modes = [
                termios.input_modes.bits(),
                termios.output_modes.bits(),
                termios.control_modes.bits(),
                termios.local_modes.bits(),
            ];
            let mut bytes: Vec<u8> = modes.iter().flat_map(|mode| mode.to_le_bytes()).collect();
            // c_line, then 19 control characters: zeros, which mean "none".
            bytes.resize(36, 0);
            c.write_bytes(c.address(2), &bytes)?;
            Ok(0)
        }
        libc::TIOCGWINSZ => {
            let size = rustix::termios::tcgetwinsize(stream.host())?;
            let fields = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
            let bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            c.write_bytes(c.address(2), &bytes)?;
            Ok(0)
        }
        _ => Err(Errno::ENOTTY.into()),
    }
}

/// fcntl(2).
pub(super) fn fcntl(c: &mut Context<'_>) -> Served {
    let fd = c.int(0);
    let streams = &c.process.streams;
    streams.object(fd)?;
    match c.int(1) {
        libc::F_DUPFD => Ok(descriptor(streams.duplicate(fd, c.int(2), 0)?)),
        libc::F_DUPFD_CLOEXEC => {
            Ok(descriptor(streams.duplicate(fd, c.int(2), libc::FD_CLOEXEC)?))
        }
        libc::F_GETFD => Ok(streams.lock().get(&fd).map_or(0, |d| descriptor(d.flags))),
        libc::F_SETFD => {
            if let Some(entry) = streams.lock().get_mut(&fd) {
                entry.flags = c.int(2) & libc::FD_CLOEXEC;
            }
            Ok(0)
        }
        libc::F_GETFL => Ok(u64::from(rustix::fs::fcntl_getfl(streams.get(fd)?.host())?.bits())),
        // The stream is the host's: other programs share its flags.
        libc::F_SETFL => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// dup(2).
pub(super) fn dup(c: &mut Context<'_>) -> Served {
    Ok(descriptor(c.process.streams.duplicate(c.int(0), 0, 0)?))
}

/// dup2(2).
pub(super) fn dup2(c: &mut Context<'_>) -> Served {
    if c.int(0) == c.int(1) {
        c.process.streams.object(c.int(0))?;
        return Ok(descriptor(c.int(0)));
    }
    c.args[2] = 0;
    dup3(c)
}

/// dup3(2).
pub(super) fn dup3(c: &mut Context<'_>) -> Served {
    let (from, to, flags) = (c.int(0), c.int(1), c.int(2));
    if flags & !libc::O_CLOEXEC != 0 || from == to {
        return Err(Errno::EINVAL.into());
    }
    if !(0..DESCRIPTORS).contains(&to) {
        return Err(Errno::EBADF.into());
    }
    let object = c.process.streams.object(from)?;
    let flags = if flags == 0 { 0 } else { libc::FD_CLOEXEC };
    c.process.streams.lock().insert(to, Descriptor { object, flags });
    Ok(descriptor(to))
}

/// poll(2).
pub(super) fn poll(c: &mut Context<'_>) -> Served {
    let count = c.args[1];
    if count > u64::from(DESCRIPTORS.unsigned_abs()) {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(c.address(0), usize::try_from(count * 8).unwrap_or(0))?;
    let asked: Vec<(i32, i16)> = bytes
        .chunks_exact(8)
        .map(|b| (i32::from_le_bytes([b[0], b[1], b[2], b[3]]), i16::from_le_bytes([b[4], b[5]])))
        .collect();
    let mut results: Vec<i16> = vec![0; asked.len()];
    let mut polled = Vec::new();
    for (index, &(fd, events)) in asked.iter().enumerate() {
        match c.process.streams.get(fd) {
            Ok(stream) => polled.push((index, stream, PollFlags::from_bits_truncate(events))),
            Err(_) if fd < 0 => {}
            Err(_) => results[index] = PollFlags::POLLNVAL.bits(),
        }
    }
    let mut fds: Vec<PollFd<'_>> =
        polled.iter().map(|(_, stream, events)| PollFd::new(stream.host(), *events)).collect();
    let known = results.iter().any(|&result| result != 0);
    let wait = match u64::try_from(c.int(2)) {
        _ if known => Some(Duration::ZERO),
        Ok(millis) => Some(Duration::from_millis(millis)),
        Err(_) => None,
    };
    rest(c.process, &mut fds, wait).map_err(Stop::Signal)??;
    for ((index, ..), fd) in polled.iter().zip(&fds) {
        results[*index] = fd.revents().map_or(0, |flags| flags.bits());
    }
    for (index, result) in (0u64..).zip(&results) {
        let at = c.address(0).checked_add(index * 8 + 6).ok_or(Errno::EFAULT)?;
        c.write_bytes(at, &result.to_le_bytes())?;
    }
    Ok(results.iter().filter(|&&result| result != 0).count() as u64)
}
