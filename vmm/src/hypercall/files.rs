//! Calls on files: their length, position and status, and memory as one.

use std::ops::Range;
use std::sync::Arc;

use mm::backing::{FileMode, LONGEST, Length};
use mm::error::Errno;
use mm::vma::limits::Resource;
use nix::libc;
use rustix::fs::FileType;

use super::descriptors::descriptor;
use super::signals::too_long;
use super::{Context, Served, Stop};
use crate::files::tree::{MadeFile, Node, Offsets};
use crate::files::{Content, LONGEST_NAME, MemoryFile, Object, Open, Stream};

/// memfd_create(2).
pub(super) fn memfd_create(c: &mut Context<'_>) -> Served {
    let flags = c.int(1).cast_unsigned();
    MemoryFile::check(flags)?;
    let name = c.read_text(c.address(0), LONGEST_NAME + 1)?.ok_or(Errno::EINVAL)?;
    let system = Arc::clone(c.process.space.look().system());
    let memfd = MemoryFile::memfd(&system, &String::from_utf8_lossy(&name), flags)?;
    let close_on_exec = if flags & libc::MFD_CLOEXEC == 0 { 0 } else { libc::FD_CLOEXEC };
    let open = Open::new(Object::Memory(Arc::new(memfd)));
    Ok(descriptor(c.process.open_as(Arc::new(open), 0, close_on_exec)?))
}

/// ftruncate(2). In this order: `EINVAL` negative; `EBADF`; `EINVAL` not a file that has a length, or not open
/// for writing; `EPERM` a seal. Source: Linux's `do_sys_ftruncate`.
pub(super) fn ftruncate(c: &mut Context<'_>) -> Served {
    let len = u64::try_from(c.args[1].cast_signed()).map_err(|_| Errno::EINVAL)?;
    let open = c.process.files.get(c.int(0))?;
    let content = open.content().filter(|_| open.mode().contains(FileMode::WRITE));
    let system = Arc::clone(c.process.space.look().system());
    let content = content.ok_or(Errno::EINVAL)?;
    check_size(c, content.length()?, len)?;
    content.truncate(len, &system)?;
    Ok(0)
}

/// Whether a file of `old` bytes may get so many (`inode_newsize_ok`).
pub(super) fn check_size(c: &Context<'_>, old: u64, new: u64) -> Result<(), Stop> {
    let limit = c.process.space.look().limits().get(Resource::FileSize).soft;
    if new > old && new > limit { Err(too_long(c)) } else { Ok(()) }
}

/// fallocate(2). In this order: `EBADF`; `EINVAL` a negative offset, no length; `EOPNOTSUPP` an unknown mode, a
/// hole that would change the length; `EBADF` not open for writing; `ESPIPE` a pipe, `ENODEV` no file; `EFBIG`
/// past the longest file; `EOPNOTSUPP` what shared memory cannot do; what
/// [`allocate`](mm::backing::SharedMemory::allocate) answers. Source: Linux's `vfs_fallocate`.
pub(super) fn fallocate(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    let mode = c.int(1);
    let offset = u64::try_from(c.args[2].cast_signed()).map_err(|_| Errno::EINVAL)?;
    let len = u64::try_from(c.args[3].cast_signed()).ok().filter(|&len| len > 0);
    let len = len.ok_or(Errno::EINVAL)?;
    check_mode(mode)?;
    if !open.mode().contains(FileMode::WRITE) {
        return Err(Errno::EBADF.into());
    }
    let content = match (open.content(), open.object()) {
        (Some(content), _) => content,
        (None, Object::Stream(stream)) => return Err(no_room(stream)),
        (None, _) => return Err(Errno::ENODEV.into()),
    };
    let end = offset.checked_add(len).filter(|&end| end <= LONGEST).ok_or(Errno::EFBIG)?;
    allocate(c, content, mode, offset..end)
}

/// Whether fallocate(2) knows a mode: at most one kind of change, and some of them only as they say.
fn check_mode(mode: i32) -> Result<(), Errno> {
    let stays = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 | libc::FALLOC_FL_UNSHARE_RANGE | libc::FALLOC_FL_ZERO_RANGE => Ok(()),
        libc::FALLOC_FL_PUNCH_HOLE if stays => Ok(()),
        libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE if !stays => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// What a stream answers that is to have room.
fn no_room(stream: &Stream) -> Stop {
    let kind = rustix::fs::fstat(stream.host()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let errno = if kind == Ok(FileType::Fifo) { Errno::ESPIPE } else { Errno::ENODEV };
    errno.into()
}

fn allocate(c: &Context<'_>, content: &dyn Content, mode: i32, bytes: Range<u64>) -> Served {
    let length = match mode {
        0 => Length::Grows,
        libc::FALLOC_FL_KEEP_SIZE => Length::Stays,
        mode if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 => {
            let system = Arc::clone(c.process.space.look().system());
            content.punch(bytes, &system)?;
            return Ok(0);
        }
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    check_size(c, content.length()?, bytes.end)?;
    let space = c.process.space.look();
    content.allocate(bytes, length, space.system(), &*space)?;
    Ok(0)
}

/// lseek(2).
pub(super) fn lseek(c: &mut Context<'_>) -> Served {
    let (offset, whence) = (c.args[1].cast_signed(), c.int(2));
    let open = c.process.files.get(c.int(0))?;
    match (open.content(), open.object()) {
        (Some(content), _) => Ok(open.seek(content, offset, whence)?),
        (None, Object::Stream(stream)) => seek_stream(stream, offset, whence),
        (None, Object::Directory) => seek_directory(&open, offset, whence),
        // Where one is in them means nothing.
        (None, Object::Device(_)) => Ok(0),
        (None, Object::Userfault(_)) if (0..=libc::SEEK_HOLE).contains(&whence) => Ok(0),
        (None, Object::Userfault(_)) => Err(Errno::EINVAL.into()),
        (None, Object::Made(made)) => seek_made(&open, &**made, offset, whence),
        (None, Object::Place) => Err(Errno::EBADF.into()),
        (None, _) => Err(Errno::ESPIPE.into()),
    }
}

/// There is no end to go from (`noop_llseek`'s and `mem_lseek`'s rules).
fn seek_made(open: &Open, made: &dyn MadeFile, offset: i64, whence: i32) -> Served {
    let anywhere = made.offsets() != Offsets::Signed;
    let mut position = open.position();
    let to = match whence {
        libc::SEEK_SET if anywhere => Some(offset.cast_unsigned()),
        libc::SEEK_CUR if anywhere => Some(position.wrapping_add_signed(offset)),
        libc::SEEK_SET => u64::try_from(offset).ok(),
        libc::SEEK_CUR => position.checked_add_signed(offset),
        _ => None,
    };
    *position = to.ok_or(Errno::EINVAL)?;
    Ok(*position)
}

/// To a place that getdents64(2) has told, or back to the first name.
fn seek_directory(open: &Open, offset: i64, whence: i32) -> Served {
    let mut position = open.position();
    let base = match whence {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => *position,
        // Those of /proc have a length, which is 0.
        libc::SEEK_END if matches!(open.place().map(|place| place.node()), Some(Node::Made(_))) => {
            0
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    *position = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
    Ok(*position)
}

fn seek_stream(stream: &Stream, offset: i64, whence: i32) -> Served {
    use rustix::fs::SeekFrom;
    let from = match whence {
        libc::SEEK_SET => SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::EINVAL)?),
        libc::SEEK_CUR => SeekFrom::Current(offset),
        libc::SEEK_END => SeekFrom::End(offset),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(rustix::fs::seek(stream.host(), from)?)
}
