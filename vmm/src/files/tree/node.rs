//! What a name stands for (Linux's `inode`).

use std::sync::Arc;

use mm::error::Errno;
use mm::system::System;

use super::made::{self, Made};
use super::{Device, Directory, Granted, Link};
use crate::files::attributes::{Attributes, SetTime};
use crate::files::memory_file::{Memory, MemoryFile};
use crate::files::permission::{Access, check, check_new_owner, check_owner, permissions_to_set};
use crate::files::status::{FileKind, FileStatus};

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory in memory.
    Directory(Arc<Directory>),
    /// A file in memory.
    File(Arc<MemoryFile>),
    /// A symbolic link in memory.
    Link(Arc<Link>),
    /// A device.
    Device(Device),
    /// Something in a directory of the host.
    Granted(Arc<Granted>),
    /// Something that is made as it is looked at.
    Made(Arc<dyn Made>),
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// The number of what has it.
    pub inode: u64,
    /// What that is.
    pub kind: FileKind,
    /// The place after it (`d_off`).
    pub next: u64,
}

/// What is to be made; permissions are those that the umask leaves.
#[derive(Clone, Copy, Debug)]
pub enum Make<'a> {
    /// An empty directory (mkdir(2)).
    Directory {
        /// Who may do what.
        permissions: u32,
    },
    /// An empty file (open(2) with `O_CREAT`).
    File {
        /// Who may do what.
        permissions: u32,
        /// Where its bytes will be.
        system: &'a System,
        /// What maps will call it.
        path: &'a str,
    },
    /// A symbolic link (symlink(2)).
    Link {
        /// Where it leads.
        target: &'a [u8],
    },
}

/// What is to be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// Anything but a directory (unlink(2)).
    File,
    /// An empty directory (rmdir(2)).
    Directory,
}

impl Node {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        match self {
            Node::Directory(_) => FileKind::Directory,
            Node::File(_) => FileKind::Regular,
            Node::Link(_) => FileKind::Link,
            Node::Device(_) => FileKind::Character,
            Node::Granted(file) => file.kind(),
            Node::Made(made) => made.kind(),
        }
    }

    /// Whether there can be names in it.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// Its number on its device.
    #[must_use]
    pub fn inode(&self) -> u64 {
        match self {
            Node::Directory(directory) => directory.attributes().inode(),
            Node::File(file) => file.attributes().inode(),
            Node::Link(link) => link.attributes().inode(),
            Node::Device(device) => device.status().inode,
            Node::Granted(file) => file.inode(),
            Node::Made(made) => made.inode(),
        }
    }

    /// Its attributes, if it is in memory.
    #[must_use]
    pub fn attributes(&self) -> Option<&Attributes> {
        match self {
            Node::Directory(directory) => Some(directory.attributes()),
            Node::File(file) => Some(file.attributes()),
            Node::Link(link) => Some(link.attributes()),
            Node::Device(_) | Node::Granted(_) | Node::Made(_) => None,
        }
    }

    /// Tells a file in memory how many paths lead to it.
    pub(super) fn tell_links(&self) {
        if let Node::File(file) = self
            && let Memory::Small(memory) = file.memory()
        {
            memory.set_links(file.attributes().links());
        }
    }

    /// What lstat(2) says.
    ///
    /// # Errors
    /// What the host says.
    pub fn status(&self) -> Result<FileStatus, Errno> {
        Ok(match self {
            Node::Directory(directory) => directory.status(),
            Node::File(file) => file.status(),
            Node::Link(link) => link.status(),
            Node::Device(device) => device.status(),
            Node::Granted(file) => return file.status(),
            Node::Made(made) => made::status(&**made),
        })
    }

    /// What has a name in it.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT`; what the host says.
    pub fn lookup(&self, name: &[u8]) -> Result<Node, Errno> {
        match self {
            Node::Directory(directory) => directory.lookup(name),
            Node::Granted(file) if self.is_directory() => file.lookup(name).map(Node::Granted),
            Node::Made(made) => made.lookup(name).map(Node::Made),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Where it leads.
    ///
    /// # Errors
    /// `EINVAL` it is no link; what the host says.
    pub fn target(&self) -> Result<Vec<u8>, Errno> {
        match self {
            Node::Link(link) => Ok(link.target()),
            Node::Granted(file) if file.kind() == FileKind::Link => file.target(),
            Node::Made(made) => made.target(),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether it is a directory that has been removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        match self {
            Node::Directory(directory) => directory.is_removed(),
            Node::Granted(file) => file.status().is_ok_and(|status| status.links == 0),
            _ => false,
        }
    }

    /// Its names from a place on.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT` it has been removed; what the host says.
    pub fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        match self {
            _ if self.is_removed() => Err(Errno::ENOENT),
            Node::Directory(directory) => Ok(directory.entries(from)),
            Node::Granted(file) if self.is_directory() => file.entries(from),
            Node::Made(made) => made.entries(from),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Makes something new in it.
    ///
    /// # Errors
    /// `ENOTDIR`; `EEXIST`; `EROFS`; `ENOENT` it has been removed; what the host says.
    pub fn make(&self, name: &[u8], make: &Make<'_>) -> Result<Node, Errno> {
        match self {
            Node::Directory(directory) => directory.make(name, make),
            Node::Granted(file) if self.is_directory() => file.make(name, make).map(Node::Granted),
            // Nothing can be made in it, but for what Linux makes itself.
            Node::Made(_) if self.is_directory() => Err(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Gives something that is there a further name in it (link(2)).
    ///
    /// # Errors
    /// In this order: `EXDEV` it is in another tree; `EPERM` a directory; `EEXIST`, `ENOENT`, `EROFS`; what the host
    /// says.
    pub fn add(&self, name: &[u8], node: &Node) -> Result<(), Errno> {
        match (self, node) {
            (Node::Directory(directory), Node::File(_) | Node::Link(_)) => {
                directory.add(name, node)
            }
            (Node::Granted(into), Node::Granted(file))
                if Arc::ptr_eq(into.tree(), file.tree()) && !node.is_directory() =>
            {
                into.add(name, file)
            }
            _ if node.is_directory() => Err(Errno::EPERM),
            _ => Err(Errno::EXDEV),
        }
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EROFS`; what the host says.
    pub fn remove(&self, name: &[u8], what: Removed) -> Result<(), Errno> {
        match self {
            Node::Directory(directory) => directory.remove(name, what),
            Node::Granted(file) if self.is_directory() => file.remove(name, what),
            Node::Made(_) if self.is_directory() => Err(Errno::EPERM),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// chmod(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` a link; `EPERM` a device, or another's; `EROFS`; what the host says.
    pub fn set_permissions(&self, permissions: u32) -> Result<(), Errno> {
        match self {
            _ if self.kind() == FileKind::Link => Err(Errno::EOPNOTSUPP),
            Node::Granted(file) => file.set_permissions(permissions_to_set(self, permissions)?),
            _ => self.own()?.map_or(Ok(()), |own| {
                own.set_permissions(permissions_to_set(self, permissions)?);
                Ok(())
            }),
        }
    }

    /// chown(2); `None` leaves it.
    ///
    /// # Errors
    /// `EPERM` a device, or it may not; `EROFS`; what the host says.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        check_new_owner(self, uid, gid)?;
        if let Node::Granted(file) = self {
            return file.set_owner(uid, gid);
        }
        self.own()?.into_iter().for_each(|own| own.set_owner(uid, gid));
        Ok(())
    }

    /// utimensat(2).
    ///
    /// # Errors
    /// `EPERM` a device, or another's; `EACCES` another's that it may not write, to now; `EROFS`; what the host says.
    pub fn set_times(&self, accessed: SetTime, modified: SetTime) -> Result<(), Errno> {
        let now = [accessed, modified] == [SetTime::Now; 2];
        match check_owner(self) {
            // Who may write it may say that it has been.
            Err(Errno::EPERM) if now => check(self, Access::WRITE)?,
            owned => owned?,
        }
        if let Node::Granted(file) = self {
            return file.set_times(accessed, modified);
        }
        self.own()?.into_iter().for_each(|own| own.set_times(accessed, modified));
        Ok(())
    }

    /// Its attributes, to be changed.
    fn own(&self) -> Result<Option<&Attributes>, Errno> {
        match self {
            Node::Device(_) | Node::Made(_) => Err(Errno::EPERM),
            _ => Ok(self.attributes()),
        }
    }

    /// Whether anything of it can be changed.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn check_writable(&self) -> Result<(), Errno> {
        match self {
            Node::Granted(file) => file.check_writable(),
            _ => Ok(()),
        }
    }

    /// Whether both are the same.
    #[must_use]
    pub fn is(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Directory(one), Node::Directory(other)) => Arc::ptr_eq(one, other),
            (Node::File(one), Node::File(other)) => Arc::ptr_eq(one, other),
            (Node::Link(one), Node::Link(other)) => Arc::ptr_eq(one, other),
            (Node::Device(one), Node::Device(other)) => one == other,
            (Node::Granted(_), Node::Granted(_)) => match (self.status(), other.status()) {
                (Ok(one), Ok(other)) => (one.device, one.inode) == (other.device, other.inode),
                _ => false,
            },
            _ => false,
        }
    }
}
