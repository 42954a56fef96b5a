//! Directories: their names, and which one is current.

use std::sync::Arc;

use mm::error::Errno;
use nix::libc;

use super::{Context, Served, Stop};
use crate::files::tree::{Entry, LastLink, Place};
use crate::files::{Access, FileKind, Object, check_access};

/// How an entry is laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// `struct linux_dirent64`: the kind before the name.
    KindFirst,
    /// `struct linux_dirent`: the kind in the last byte.
    KindLast,
}

impl Layout {
    /// Bytes of an entry.
    fn len(self, name: &[u8]) -> usize {
        // What is before the name, its end, and the kind.
        let bytes = match self {
            Layout::KindFirst => 19 + name.len() + 1,
            Layout::KindLast => 18 + name.len() + 2,
        };
        bytes.next_multiple_of(8)
    }

    fn bytes(self, entry: &Entry) -> Vec<u8> {
        let len = self.len(&entry.name);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&entry.inode.to_le_bytes());
        bytes.extend_from_slice(&entry.next.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
        let kind = entry.kind.entry_type();
        match self {
            Layout::KindFirst => {
                bytes.push(kind);
                bytes.extend_from_slice(&entry.name);
                bytes.resize(len, 0);
            }
            Layout::KindLast => {
                bytes.extend_from_slice(&entry.name);
                bytes.resize(len - 1, 0);
                bytes.push(kind);
            }
        }
        bytes
    }
}

/// getdents(2).
pub(super) fn getdents(c: &mut Context<'_>) -> Served {
    entries(c, Layout::KindLast)
}

/// getdents64(2).
pub(super) fn getdents64(c: &mut Context<'_>) -> Served {
    entries(c, Layout::KindFirst)
}

/// In this order: `EBADF`; `ENOTDIR`; `ENOENT` the directory has been removed; `EINVAL` no room for the next name;
/// `EFAULT` for the first. Source: getdents(2), Linux's `filldir64`.
fn entries(c: &Context<'_>, layout: Layout) -> Served {
    let open = c.process.files.get(c.int(0))?;
    let place = match (open.object(), open.place()) {
        (Object::Directory, Some(place)) => place,
        (Object::Place, _) => return Err(Errno::EBADF.into()),
        _ => return Err(Errno::ENOTDIR.into()),
    };
    // An `int` in Linux, too: what is negative there has no room.
    let room = usize::try_from(c.int(2)).unwrap_or(0);
    let mut position = open.position();
    let mut entries = place.node().entries(*position)?;
    let own = [(0, place.node().inode()), (1, place.parent().node().inode())];
    let from = *position;
    let dots = own.into_iter().zip([".", ".."]).filter(|((at, _), _)| *at >= from);
    let dots = dots.map(|((at, inode), name)| Entry {
        name: name.into(),
        inode,
        kind: FileKind::Directory,
        next: at + 1,
    });
    let mut done = 0;
    for entry in dots.chain(entries.drain(..)) {
        let bytes = layout.bytes(&entry);
        if done + bytes.len() > room {
            if done == 0 {
                return Err(Errno::EINVAL.into());
            }
            break;
        }
        let to = c.address(1).checked_add(done as u64).ok_or(Errno::EFAULT)?;
        match c.write_bytes(to, &bytes) {
            Err(Stop::Errno(_)) if done > 0 => break,
            written => written?,
        }
        done += bytes.len();
        *position = entry.next;
    }
    Ok(done as u64)
}

/// chdir(2).
pub(super) fn chdir(c: &mut Context<'_>) -> Served {
    let place = c.find_at(libc::AT_FDCWD, 0, LastLink::Follow)?;
    go(c, place)
}

/// fchdir(2).
pub(super) fn fchdir(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    go(c, Arc::clone(open.place().ok_or(Errno::ENOTDIR)?))
}

fn go(c: &Context<'_>, place: Arc<Place>) -> Served {
    if !place.node().is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    check_access(place.node(), Access::EXECUTE)?;
    c.process.paths.go(place);
    Ok(0)
}

/// getcwd(2): the length, its end included. `ENOENT` it has been removed, `ERANGE` no room.
pub(super) fn getcwd(c: &mut Context<'_>) -> Served {
    let current = c.process.paths.current();
    if current.node().is_removed() {
        return Err(Errno::ENOENT.into());
    }
    let mut path = current.path();
    path.push(0);
    if path.len() as u64 > c.args[1] {
        return Err(Errno::ERANGE.into());
    }
    c.write_bytes(c.address(0), &path)?;
    Ok(path.len() as u64)
}
