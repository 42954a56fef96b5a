//! From a path in a program's memory to what is there: what all calls on paths share; and where links lead.

use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::{Context, Served, Stop};
use crate::files::tree::{LastLink, Place, Walked, find, find_parent};
use crate::files::{FileKind, Object, Open};

/// What an `*at` call is about.
pub(super) enum Target {
    /// What a path leads to.
    Place(Arc<Place>),
    /// What a descriptor stands for (`AT_EMPTY_PATH`).
    Open(Arc<Open>),
}

/// Whether an empty path stands for the descriptor itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EmptyPath {
    /// It does (`AT_EMPTY_PATH`).
    Allowed,
    /// It is `ENOENT`.
    Refused,
}

impl EmptyPath {
    /// What the flags of an `*at` call say.
    pub(super) fn of(flags: i32) -> Self {
        if flags & libc::AT_EMPTY_PATH == 0 { EmptyPath::Refused } else { EmptyPath::Allowed }
    }
}

/// What the flags of an `*at` call say about a link at the path's end.
pub(super) fn last_link(flags: i32) -> LastLink {
    if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { LastLink::Follow } else { LastLink::Stay }
}

impl Context<'_> {
    /// Where a path begins that does not begin at the root.
    fn base(&self, fd: i32, path: &[u8]) -> Result<Arc<Place>, Errno> {
        let paths = &self.process.paths;
        if path.first() == Some(&b'/') {
            return Ok(Arc::clone(paths.root()));
        }
        if fd == libc::AT_FDCWD {
            return Ok(paths.current());
        }
        let open = self.process.files.get(fd)?;
        let place = open.place().filter(|place| place.node().is_directory());
        place.cloned().ok_or(Errno::ENOTDIR)
    }

    /// What a path leads to, from a directory's descriptor or `AT_FDCWD` on.
    pub(super) fn find(&self, fd: i32, path: &[u8], last: LastLink) -> Result<Arc<Place>, Stop> {
        // Before the descriptor is looked at.
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        let base = self.base(fd, path)?;
        Ok(find(self.process.paths.root(), &base, path, last)?)
    }

    /// The directory that a path leads to, and what it ends with.
    pub(super) fn find_parent(&self, fd: i32, path: &[u8]) -> Result<Walked, Stop> {
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        let base = self.base(fd, path)?;
        Ok(find_parent(self.process.paths.root(), &base, path)?)
    }

    /// What a path of the program's leads to, or what a descriptor stands for.
    pub(super) fn target(
        &self,
        fd: i32,
        path: VirtAddr,
        last: LastLink,
        empty: EmptyPath,
    ) -> Result<Target, Stop> {
        let path = match (empty, path) {
            // Linux takes no path for an empty one.
            (EmptyPath::Allowed, VirtAddr::ZERO) => Vec::new(),
            _ => self.read_path(path)?,
        };
        self.target_of(fd, &path, last, empty)
    }

    /// The same of a path that has been read.
    pub(super) fn target_of(
        &self,
        fd: i32,
        path: &[u8],
        last: LastLink,
        empty: EmptyPath,
    ) -> Result<Target, Stop> {
        if path.is_empty() && empty == EmptyPath::Allowed {
            if fd == libc::AT_FDCWD {
                return Ok(Target::Place(self.process.paths.current()));
            }
            return Ok(Target::Open(self.process.files.get(fd)?));
        }
        Ok(Target::Place(self.find(fd, path, last)?))
    }

    /// What a path in argument `index` leads to.
    pub(super) fn find_at(
        &self,
        fd: i32,
        index: usize,
        last: LastLink,
    ) -> Result<Arc<Place>, Stop> {
        let path = self.read_path(self.address(index))?;
        self.find(fd, &path, last)
    }
}

/// readlink(2).
pub(super) fn readlink(c: &mut Context<'_>) -> Served {
    let [path, buffer, len, ..] = c.args;
    link(c, libc::AT_FDCWD, path, buffer, len)
}

/// readlinkat(2).
pub(super) fn readlinkat(c: &mut Context<'_>) -> Served {
    let [_, path, buffer, len, ..] = c.args;
    link(c, c.int(0), path, buffer, len)
}

fn link(c: &Context<'_>, fd: i32, path: u64, buffer: u64, len: u64) -> Served {
    #[allow(clippy::cast_possible_truncation, reason = "the length is a C int")]
    let len = len as u32 as i32;
    let len = usize::try_from(len).ok().filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    let path = c.read_path(VirtAddr::new(path))?;
    let target = if path.is_empty() {
        let open = c.process.files.get(fd)?;
        let link = matches!(open.object(), Object::Place).then(|| open.place()).flatten();
        let link = link.filter(|place| place.node().kind() == FileKind::Link);
        link.ok_or(Errno::ENOENT)?.node().target()?
    } else {
        c.find(fd, &path, LastLink::Stay)?.node().target()?
    };
    let target = &target[..target.len().min(len)];
    c.write_bytes(VirtAddr::new(buffer), target)?;
    Ok(target.len() as u64)
}
