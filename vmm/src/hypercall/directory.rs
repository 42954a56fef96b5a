//! Directories: their names, and which one is current.

use std::sync::Arc;

use mm::error::Errno;
use nix::libc;

use super::{Context, Served};
use crate::files::tree::{Entry, LastLink, Place};
use crate::files::{Access, FileKind, Object, check_access};

/// Bytes of a `struct linux_dirent64` before its name.
const HEAD: usize = 19;

/// getdents64(2). In this order: `EBADF`; `ENOTDIR`; `ENOENT` the directory has been removed; `EINVAL` no room for the
/// next name; `EFAULT`. Source: getdents(2), Linux's `filldir64`.
pub(super) fn getdents64(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    let place = match (open.object(), open.place()) {
        (Object::Directory, Some(place)) => place,
        (Object::Place, _) => return Err(Errno::EBADF.into()),
        _ => return Err(Errno::ENOTDIR.into()),
    };
    let room = usize::try_from(c.int(2).cast_unsigned()).unwrap_or(usize::MAX);
    let mut position = open.position();
    let mut entries = place.node().entries(*position)?;
    let own = [(0, place.node().inode()), (1, place.parent().node().inode())];
    let dots = own.into_iter().zip([".", ".."]).filter(|((at, _), _)| at >= &*position);
    let dots = dots.map(|((at, inode), name)| Entry {
        name: name.into(),
        inode,
        kind: FileKind::Directory,
        next: at + 1,
    });
    let all: Vec<Entry> = dots.chain(entries.drain(..)).collect();
    let mut bytes = Vec::new();
    let mut next = *position;
    for entry in &all {
        let len = (HEAD + entry.name.len() + 1).next_multiple_of(8);
        if bytes.len() + len > room {
            break;
        }
        next = entry.next;
        write(&mut bytes, entry, len);
    }
    if bytes.is_empty() && !all.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    c.write_bytes(c.address(1), &bytes)?;
    *position = next;
    Ok(bytes.len() as u64)
}

fn write(bytes: &mut Vec<u8>, entry: &Entry, len: usize) {
    let end = bytes.len() + len;
    bytes.extend_from_slice(&entry.inode.to_le_bytes());
    bytes.extend_from_slice(&entry.next.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
    bytes.push(entry.kind.entry_type());
    bytes.extend_from_slice(&entry.name);
    bytes.resize(end, 0);
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
