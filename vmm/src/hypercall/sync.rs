//! What is written lasts, and what will be read is said: calls about what files have in memory.

use mm::backing::FileMode;
use mm::error::Errno;
use nix::libc;

use super::{Context, Served};
use crate::files::{FileKind, Object};

/// fsync(2), fdatasync(2).
pub(super) fn fsync(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    match (open.content(), open.object()) {
        (Some(content), _) => content.sync()?,
        (None, Object::Stream(stream)) => rustix::fs::fsync(stream.host())?,
        (None, Object::Directory) => {}
        (None, Object::Place) => return Err(Errno::EBADF.into()),
        (None, _) => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// sync(2): what guests write into files of the host is the host's at once.
pub(super) fn sync(_: &mut Context<'_>) -> Served {
    Ok(0)
}

/// syncfs(2).
pub(super) fn syncfs(c: &mut Context<'_>) -> Served {
    match c.process.files.get(c.int(0))?.object() {
        Object::Place => Err(Errno::EBADF.into()),
        _ => Ok(0),
    }
}

/// sync_file_range(2): a hint. In this order: `EBADF`; `EINVAL` unknown flags, a negative offset or end; `ESPIPE` what has
/// no bytes at offsets.
pub(super) fn sync_file_range(c: &mut Context<'_>) -> Served {
    const KNOWN: u32 = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let open = c.process.files.get(c.int(0))?;
    if matches!(open.object(), Object::Place) {
        return Err(Errno::EBADF.into());
    }
    let [offset, len] = [1, 2].map(|index| c.args[index].cast_signed());
    let end = offset.checked_add(len).filter(|&end| offset >= 0 && end >= offset);
    if c.int(3).cast_unsigned() & !KNOWN != 0 || end.is_none() {
        return Err(Errno::EINVAL.into());
    }
    match open.file_status().map(|status| status.kind) {
        Ok(FileKind::Regular | FileKind::Directory | FileKind::Link) => Ok(0),
        _ => Err(Errno::ESPIPE.into()),
    }
}

/// fadvise64(2): a hint. In this order: `EBADF`; `ESPIPE` a pipe; `EINVAL` a negative length, unknown advice.
pub(super) fn fadvise64(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    match (open.object(), open.file_status().map(|status| status.kind)) {
        (Object::Place, _) => return Err(Errno::EBADF.into()),
        (_, Ok(FileKind::Other(libc::S_IFIFO))) => return Err(Errno::ESPIPE.into()),
        _ => {}
    }
    let known = libc::POSIX_FADV_NORMAL..=libc::POSIX_FADV_NOREUSE;
    if c.args[2].cast_signed() < 0 || !known.contains(&c.int(3)) {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// readahead(2): a hint. `EBADF` not open for reading; `EINVAL` no file.
pub(super) fn readahead(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    let reads = match open.object() {
        Object::Stream(stream) => stream.mode().contains(FileMode::READ),
        _ => open.mode().contains(FileMode::READ),
    };
    if !reads {
        return Err(Errno::EBADF.into());
    }
    match open.file_status().map(|status| status.kind) {
        Ok(FileKind::Regular) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
