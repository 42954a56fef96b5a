//! Names are made, moved and taken away.

use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::paths::{EmptyPath, Target};
use super::{Context, Served, Stop};
use crate::credentials::{Capability, may};
use crate::files::tree::{Last, LastLink, Make, Place, Removed, Renaming, Walked};
use crate::files::{Access, check_access, check_link, check_removal};

/// mkdir(2).
pub(super) fn mkdir(c: &mut Context<'_>) -> Served {
    let permissions = c.int(1).cast_unsigned();
    make_directory(c, libc::AT_FDCWD, c.address(0), permissions)
}

/// mkdirat(2).
pub(super) fn mkdirat(c: &mut Context<'_>) -> Served {
    let permissions = c.int(2).cast_unsigned();
    make_directory(c, c.int(0), c.address(1), permissions)
}

fn make_directory(c: &Context<'_>, fd: i32, path: VirtAddr, permissions: u32) -> Served {
    let permissions = permissions & 0o1777 & !c.process.paths.umask();
    NewName::of(c, fd, path, New::Directory)?.make(&Make::Directory { permissions })
}

/// mknod(2): of files alone. Devices and pipes with names there are none.
pub(super) fn mknod(c: &mut Context<'_>) -> Served {
    let mode = c.int(1).cast_unsigned();
    make_file(c, libc::AT_FDCWD, c.address(0), mode)
}

/// mknodat(2).
pub(super) fn mknodat(c: &mut Context<'_>) -> Served {
    let mode = c.int(2).cast_unsigned();
    make_file(c, c.int(0), c.address(1), mode)
}

fn make_file(c: &Context<'_>, fd: i32, path: VirtAddr, mode: u32) -> Served {
    if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) {
        return Err(Errno::EPERM.into());
    }
    let system = Arc::clone(c.process.space.look().system());
    let permissions = mode & 0o7777 & !c.process.paths.umask();
    let new = NewName::of(c, fd, path, New::Other)?;
    let path = new.directory.shown_below(&new.name);
    new.make(&Make::File { permissions, system: &system, path: &path })
}

/// symlink(2).
pub(super) fn symlink(c: &mut Context<'_>) -> Served {
    make_link(c, c.address(0), libc::AT_FDCWD, c.address(1))
}

/// symlinkat(2).
pub(super) fn symlinkat(c: &mut Context<'_>) -> Served {
    make_link(c, c.address(0), c.int(1), c.address(2))
}

/// `ENOENT` an empty target, first of all.
fn make_link(c: &Context<'_>, target: VirtAddr, fd: i32, path: VirtAddr) -> Served {
    let target = c.read_path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    NewName::of(c, fd, path, New::Other)?.make(&Make::Link { target: &target })
}

/// A name that nothing has yet.
struct NewName {
    directory: Arc<Place>,
    name: Vec<u8>,
}

/// What is to have it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum New {
    Directory,
    Other,
}

impl NewName {
    /// Of a path in the program's memory. In this order: what the path leads through; `EEXIST` it ends with no name, or
    /// something has it; `ENOENT` a slash after what is to be no directory. Source: Linux's `filename_create`.
    fn of(c: &Context<'_>, fd: i32, path: VirtAddr, new: New) -> Result<Self, Stop> {
        let path = c.read_path(path)?;
        let Walked { directory, last, slash } = c.find_parent(fd, &path)?;
        let Last::Name(name) = last else { return Err(Errno::EEXIST.into()) };
        if directory.child(&name).is_ok() {
            return Err(Errno::EEXIST.into());
        }
        if slash && new == New::Other {
            return Err(Errno::ENOENT.into());
        }
        Ok(NewName { directory, name })
    }

    /// Makes what is to have it.
    fn make(&self, make: &Make<'_>) -> Served {
        check_access(self.directory.node(), Access::WRITE | Access::EXECUTE)?;
        self.directory.node().make(&self.name, make)?;
        Ok(0)
    }
}

/// link(2).
pub(super) fn link(c: &mut Context<'_>) -> Served {
    add_name(c, [libc::AT_FDCWD; 2], [c.address(0), c.address(1)], 0)
}

/// linkat(2).
pub(super) fn linkat(c: &mut Context<'_>) -> Served {
    add_name(c, [c.int(0), c.int(2)], [c.address(1), c.address(3)], c.int(4))
}

/// In this order: `EINVAL`; what is there; `EEXIST` what is to be; `EXDEV`, `EPERM`. Source: Linux's `do_linkat`.
fn add_name(c: &Context<'_>, fds: [i32; 2], paths: [VirtAddr; 2], flags: i32) -> Served {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
    let last = if follow { LastLink::Follow } else { LastLink::Stay };
    let node = match c.target(fds[0], paths[0], last, EmptyPath::of(flags))? {
        Target::Place(place) => place.node().clone(),
        // Who has been handed it may have no path to it.
        Target::Open(open) if !open.is_by_caller() && !may(Capability::DAC_READ_SEARCH) => {
            return Err(Errno::ENOENT.into());
        }
        Target::Open(open) => open.place().ok_or(Errno::EXDEV)?.node().clone(),
    };
    let NewName { directory, name } = NewName::of(c, fds[1], paths[1], New::Other)?;
    check_access(directory.node(), Access::WRITE | Access::EXECUTE)?;
    check_link(&node)?;
    directory.node().add(&name, &node)?;
    Ok(0)
}

/// unlink(2).
pub(super) fn unlink(c: &mut Context<'_>) -> Served {
    remove(c, libc::AT_FDCWD, c.address(0), Removed::File)
}

/// rmdir(2).
pub(super) fn rmdir(c: &mut Context<'_>) -> Served {
    remove(c, libc::AT_FDCWD, c.address(0), Removed::Directory)
}

/// unlinkat(2).
pub(super) fn unlinkat(c: &mut Context<'_>) -> Served {
    let what = match c.int(2) {
        0 => Removed::File,
        libc::AT_REMOVEDIR => Removed::Directory,
        _ => return Err(Errno::EINVAL.into()),
    };
    remove(c, c.int(0), c.address(1), what)
}

/// In this order: what the path leads through; that it ends with no name, `EISDIR` for a file, `EBUSY`, `EINVAL`,
/// `ENOTEMPTY` for a directory; `ENOENT`; `ENOTDIR` a slash after a file; `EBUSY` a tree hangs there. Source: Linux's
/// `do_unlinkat`, `do_rmdir`.
fn remove(c: &Context<'_>, fd: i32, path: VirtAddr, what: Removed) -> Served {
    let path = c.read_path(path)?;
    let walked = c.find_parent(fd, &path)?;
    let directory = &walked.directory;
    let name = match (&walked.last, what) {
        (Last::Name(name), _) => name,
        (_, Removed::File) => return Err(Errno::EISDIR.into()),
        (Last::Root, Removed::Directory) => return Err(Errno::EBUSY.into()),
        (Last::Here, Removed::Directory) => return Err(Errno::EINVAL.into()),
        (Last::Above, Removed::Directory) => return Err(Errno::ENOTEMPTY.into()),
    };
    let found = directory.child(name)?;
    if walked.slash && !found.node().is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    if directory.is_busy(name) {
        let is_file = what == Removed::File;
        return Err(if is_file { Errno::EISDIR } else { Errno::EBUSY }.into());
    }
    check_removal(directory.node(), found.node())?;
    directory.node().remove(name, what)?;
    Ok(0)
}

/// rename(2).
pub(super) fn rename(c: &mut Context<'_>) -> Served {
    move_name(c, [libc::AT_FDCWD; 2], [c.address(0), c.address(1)], 0)
}

/// renameat(2).
pub(super) fn renameat(c: &mut Context<'_>) -> Served {
    move_name(c, [c.int(0), c.int(2)], [c.address(1), c.address(3)], 0)
}

/// renameat2(2).
pub(super) fn renameat2(c: &mut Context<'_>) -> Served {
    let flags = c.int(4).cast_unsigned();
    let (kept, exchanged) = (libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE);
    // Whiteouts are for file systems in layers.
    if flags & !(kept | exchanged) != 0 || flags & (kept | exchanged) == kept | exchanged {
        return Err(Errno::EINVAL.into());
    }
    move_name(c, [c.int(0), c.int(2)], [c.address(1), c.address(3)], flags)
}

fn move_name(c: &Context<'_>, fds: [i32; 2], paths: [VirtAddr; 2], flags: u32) -> Served {
    let [old, new] = [c.read_path(paths[0])?, c.read_path(paths[1])?];
    let old = c.find_parent(fds[0], &old)?;
    let new = c.find_parent(fds[1], &new)?;
    Renaming { old, new, flags }.rename()?;
    Ok(0)
}
