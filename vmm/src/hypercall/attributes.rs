//! What files have beside their bytes is changed; and their length, by a path.

use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::backing::FileMode;
use mm::error::Errno;
use nix::libc;

use super::files::check_size;
use super::paths::{EmptyPath, Target, last_link};
use super::{Context, Served};
use crate::files::tree::{LastLink, Node};
use crate::files::{Access, Content, FileKind, Object, Open, SetTime, Timestamp, check_access};

/// chmod(2).
pub(super) fn chmod(c: &mut Context<'_>) -> Served {
    let permissions = c.int(1).cast_unsigned();
    c.find_at(libc::AT_FDCWD, 0, LastLink::Follow)?.node().set_permissions(permissions & 0o7777)?;
    Ok(0)
}

/// fchmod(2).
pub(super) fn fchmod(c: &mut Context<'_>) -> Served {
    let open = opened(c)?;
    let permissions = c.int(1).cast_unsigned() & 0o7777;
    on_open(&open, |node| node.set_permissions(permissions))
}

/// fchmodat(2).
pub(super) fn fchmodat(c: &mut Context<'_>) -> Served {
    c.args[3] = 0;
    fchmodat2(c)
}

/// fchmodat2(2).
pub(super) fn fchmodat2(c: &mut Context<'_>) -> Served {
    let (permissions, flags) = (c.int(2).cast_unsigned() & 0o7777, c.int(3));
    on_target(c, c.int(0), c.address(1), flags, |node| node.set_permissions(permissions))
}

/// chown(2).
pub(super) fn chown(c: &mut Context<'_>) -> Served {
    let [uid, gid] = owner(c, 1);
    on_target(c, libc::AT_FDCWD, c.address(0), 0, |node| node.set_owner(uid, gid))
}

/// lchown(2).
pub(super) fn lchown(c: &mut Context<'_>) -> Served {
    let [uid, gid] = owner(c, 1);
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    on_target(c, libc::AT_FDCWD, c.address(0), flags, |node| node.set_owner(uid, gid))
}

/// fchown(2).
pub(super) fn fchown(c: &mut Context<'_>) -> Served {
    let open = opened(c)?;
    let [uid, gid] = owner(c, 1);
    on_open(&open, |node| node.set_owner(uid, gid))
}

/// fchownat(2).
pub(super) fn fchownat(c: &mut Context<'_>) -> Served {
    let [uid, gid] = owner(c, 2);
    on_target(c, c.int(0), c.address(1), c.int(4), |node| node.set_owner(uid, gid))
}

/// The owner and the group from argument `first` on; -1 leaves it.
fn owner(c: &Context<'_>, first: usize) -> [Option<u32>; 2] {
    [first, first + 1]
        .map(|index| Some(c.int(index).cast_unsigned()).filter(|&number| number != u32::MAX))
}

/// The open in argument 0, which must be more than a place.
fn opened(c: &Context<'_>) -> Result<Arc<Open>, Errno> {
    let open = c.process.files.get(c.int(0))?;
    if matches!(open.object(), Object::Place) { Err(Errno::EBADF) } else { Ok(open) }
}

/// Changes what an open stands for.
fn on_open(open: &Open, change: impl Fn(&Node) -> Result<(), Errno>) -> Served {
    match (open.place(), open.object()) {
        (Some(place), _) => change(place.node())?,
        (None, Object::Memory(file)) => change(&Node::File(Arc::clone(file)))?,
        (None, _) => return Err(Errno::EPERM.into()),
    }
    Ok(0)
}

fn on_target(
    c: &Context<'_>,
    fd: i32,
    path: VirtAddr,
    flags: i32,
    change: impl Fn(&Node) -> Result<(), Errno>,
) -> Served {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    match c.target(fd, path, last_link(flags), EmptyPath::of(flags))? {
        Target::Place(place) => change(place.node())?,
        Target::Open(open) => return on_open(&open, change),
    }
    Ok(0)
}

/// utimensat(2): also of the descriptor itself, without a path. In this order: `EFAULT` the times; `EINVAL` one of them;
/// nothing more if both stay; what the path leads to.
pub(super) fn utimensat(c: &mut Context<'_>) -> Served {
    let [accessed, modified] = match c.address(2) {
        VirtAddr::ZERO => [SetTime::Now; 2],
        at => {
            let [a, b, x, y] = c.read_words::<4>(at)?;
            [time(a, b)?, time(x, y)?]
        }
    };
    if [accessed, modified] == [SetTime::Stays; 2] {
        return Ok(0);
    }
    if c.address(1) == VirtAddr::ZERO && c.int(0) != libc::AT_FDCWD {
        let open = opened(c)?;
        return on_open(&open, |node| node.set_times(accessed, modified));
    }
    on_target(c, c.int(0), c.address(1), c.int(3), |node| node.set_times(accessed, modified))
}

/// A `struct timespec` of utimensat(2).
fn time(seconds: u64, nanoseconds: u64) -> Result<SetTime, Errno> {
    let seconds = seconds.cast_signed();
    match nanoseconds.cast_signed() {
        libc::UTIME_NOW => Ok(SetTime::Now),
        libc::UTIME_OMIT => Ok(SetTime::Stays),
        nanoseconds => match u32::try_from(nanoseconds) {
            Ok(nanoseconds) if nanoseconds < 1_000_000_000 => {
                Ok(SetTime::To(Timestamp { seconds, nanoseconds }))
            }
            _ => Err(Errno::EINVAL),
        },
    }
}

/// truncate(2). In this order: `EINVAL` negative; what the path leads to; `EISDIR` a directory, `EINVAL` no file;
/// `EACCES`; `EROFS`; `EFBIG`. Source: Linux's `vfs_truncate`.
pub(super) fn truncate(c: &mut Context<'_>) -> Served {
    let len = u64::try_from(c.args[1].cast_signed()).map_err(|_| Errno::EINVAL)?;
    let place = c.find_at(libc::AT_FDCWD, 0, LastLink::Follow)?;
    let system = Arc::clone(c.process.space.look().system());
    let may_write = || check_access(place.node(), Access::WRITE);
    match (place.node(), place.node().kind()) {
        (_, FileKind::Directory) => return Err(Errno::EISDIR.into()),
        (Node::File(file), _) => {
            may_write()?;
            check_size(c, file.length()?, len)?;
            Content::truncate(&**file, len, &system)?;
        }
        (Node::Granted(file), FileKind::Regular) => {
            may_write()?;
            let path = place.shown();
            let file = file.open(&system, FileMode::WRITE, &path)?;
            check_size(c, file.length()?, len)?;
            Content::truncate(&*file, len, &system)?;
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// umask(2).
pub(super) fn umask(c: &mut Context<'_>) -> Served {
    Ok(u64::from(c.process.paths.set_umask(c.int(0).cast_unsigned())))
}

/// statfs(2).
pub(super) fn statfs(c: &mut Context<'_>) -> Served {
    let place = c.find_at(libc::AT_FDCWD, 0, LastLink::Follow)?;
    write_statfs(c, Some(place.node()))
}

/// fstatfs(2).
pub(super) fn fstatfs(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    write_statfs(c, open.place().map(|place| place.node()))
}

fn write_statfs(c: &Context<'_>, node: Option<&Node>) -> Served {
    const TMPFS: u64 = 0x0102_1994;
    let words = match node {
        Some(Node::Granted(file)) => file.statfs()?,
        _ => {
            let stats = c.process.space.look().system().frames().stats();
            let free = stats.total - stats.pages - stats.tables;
            let all = stats.total;
            [TMPFS, 4096, all, free, free, all, free, 0, 255, 4096, 0, 0, 0, 0, 0]
        }
    };
    c.write_words(c.address(1), &words)?;
    Ok(0)
}
