//! What there is to say of files.

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::paths::{EmptyPath, Target, last_link};
use super::{Context, Served, Stop};
use crate::credentials::as_real_user;
use crate::files::tree::LastLink;
use crate::files::{Access, FileKind, FileStatus, check_status};

/// fstat(2).
pub(super) fn fstat(c: &mut Context<'_>) -> Served {
    let status = c.process.files.get(c.int(0))?.file_status()?;
    write(c, &status, c.address(1))
}

/// stat(2).
pub(super) fn stat(c: &mut Context<'_>) -> Served {
    let status = c.find_at(libc::AT_FDCWD, 0, LastLink::Follow)?.node().status()?;
    write(c, &status, c.address(1))
}

/// lstat(2).
pub(super) fn lstat(c: &mut Context<'_>) -> Served {
    let status = c.find_at(libc::AT_FDCWD, 0, LastLink::Stay)?.node().status()?;
    write(c, &status, c.address(1))
}

/// newfstatat(2). `EINVAL` unknown flags first.
pub(super) fn newfstatat(c: &mut Context<'_>) -> Served {
    let flags = c.int(3);
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    if flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let status = status(c, flags)?;
    write(c, &status, c.address(2))
}

/// statx(2).
pub(super) fn statx(c: &mut Context<'_>) -> Served {
    let (flags, mask) = (c.int(2), c.int(3));
    let sync = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH | sync;
    if mask < 0 || flags & sync == sync || flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let status = status(c, flags)?;
    c.write_bytes(c.address(4), &status.statx())?;
    Ok(0)
}

/// Of a path in argument 1, or of the descriptor in argument 0.
fn status(c: &Context<'_>, flags: i32) -> Result<FileStatus, Stop> {
    let target = c.target(c.int(0), c.address(1), last_link(flags), EmptyPath::of(flags))?;
    Ok(match target {
        Target::Place(place) => place.node().status()?,
        Target::Open(open) => open.file_status()?,
    })
}

fn write(c: &Context<'_>, status: &FileStatus, to: VirtAddr) -> Served {
    c.write_words(to, &status.words())?;
    Ok(0)
}

/// access(2).
pub(super) fn access(c: &mut Context<'_>) -> Served {
    let wanted = c.int(1);
    check_access(c, libc::AT_FDCWD, c.address(0), wanted, 0)
}

/// faccessat(2).
pub(super) fn faccessat(c: &mut Context<'_>) -> Served {
    check_access(c, c.int(0), c.address(1), c.int(2), 0)
}

/// faccessat2(2).
pub(super) fn faccessat2(c: &mut Context<'_>) -> Served {
    check_access(c, c.int(0), c.address(1), c.int(2), c.int(3))
}

/// In this order: `EINVAL`; what the path leads to; `EACCES`; `EROFS`. Of the real user, unless it is said otherwise.
/// Source: Linux's `do_faccessat`.
fn check_access(c: &Context<'_>, fd: i32, path: VirtAddr, wanted: i32, flags: i32) -> Served {
    let known = libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    if wanted & !(libc::R_OK | libc::W_OK | libc::X_OK) != 0 || flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let ask = || {
        let target = c.target(fd, path, last_link(flags), EmptyPath::of(flags))?;
        asked(&target, Access::from_bits_truncate(wanted.cast_unsigned()))
    };
    if flags & libc::AT_EACCESS == 0 { as_real_user(ask) } else { ask() }
}

fn asked(target: &Target, wanted: Access) -> Served {
    let (status, writable) = match target {
        Target::Place(place) => (place.node().status()?, place.node().check_writable()),
        Target::Open(open) => {
            let writable = open.place().map_or(Ok(()), |place| place.node().check_writable());
            (open.file_status()?, writable)
        }
    };
    check_status(&status, wanted)?;
    let lasts = matches!(status.kind, FileKind::Regular | FileKind::Directory | FileKind::Link);
    if wanted.contains(Access::WRITE) && lasts {
        writable?;
    }
    Ok(0)
}
