//! What is in a directory of the host that the guest was granted (`--dir`).
//!
//! Each file is held by a descriptor that can only name it (`O_PATH`), and found from its directory's by one name, which
//! is neither `..` nor a path, without following links. So whatever anybody does to the directories meanwhile, nothing
//! outside of the grant is ever reached.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mm::backing::{FileMode, HostFile};
use mm::error::Errno;
use mm::phys::FileAccess;
use mm::system::System;
use nix::libc;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};

use super::node::{Entry, Make, Removed};
use crate::credentials::current;
use crate::files::attributes::SetTime;
use crate::files::status::{FileKind, FileStatus};
use crate::files::stream::of_host;

/// A directory that was granted, with all below.
#[derive(Debug)]
pub struct GrantedTree {
    access: FileAccess,
    /// The regular files that are open, by device, inode and access: all opens of one show the same memory.
    open: Mutex<BTreeMap<(u64, u64, FileAccess), Weak<HostFile>>>,
}

/// A file of the host in such a tree.
#[derive(Debug)]
pub struct Granted {
    tree: Arc<GrantedTree>,
    handle: OwnedFd,
    kind: FileKind,
    inode: u64,
}

impl GrantedTree {
    /// Grants a directory.
    ///
    /// # Errors
    /// What the host says; `ENOTDIR` it is none.
    pub fn grant(path: &Path, access: FileAccess) -> Result<Arc<Granted>, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(of_host)?;
        let tree = GrantedTree { access, open: Mutex::default() };
        Granted::of(&Arc::new(tree), handle)
    }

    /// Whether nothing in it can be changed.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.access == FileAccess::Read
    }
}

impl Granted {
    fn of(tree: &Arc<GrantedTree>, handle: OwnedFd) -> Result<Arc<Self>, Errno> {
        let stat = rustix::fs::fstat(&handle).map_err(of_host)?;
        Ok(Arc::new(Granted {
            tree: Arc::clone(tree),
            handle,
            kind: FileKind::of_mode(stat.st_mode),
            inode: stat.st_ino,
        }))
    }

    /// A file that is open on the host, alone and to be read only.
    ///
    /// # Errors
    /// What the host says.
    pub fn alone(file: &File) -> Result<Arc<Self>, Errno> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(of_host)?;
        let tree = GrantedTree { access: FileAccess::Read, open: Mutex::default() };
        Granted::of(&Arc::new(tree), handle)
    }

    /// The tree that it is in.
    #[must_use]
    pub fn tree(&self) -> &Arc<GrantedTree> {
        &self.tree
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Its number on the host.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// What stat(2) says.
    ///
    /// # Errors
    /// What the host says.
    pub fn status(&self) -> Result<FileStatus, Errno> {
        rustix::fs::fstat(&self.handle).map(|stat| FileStatus::from(&stat)).map_err(of_host)
    }

    /// What has a name in this directory.
    ///
    /// # Errors
    /// `ENOENT`; what else the host says.
    pub fn lookup(&self, name: &[u8]) -> Result<Arc<Self>, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let name = Path::new(OsStr::from_bytes(name));
        let handle = rustix::fs::openat2(&self.handle, name, flags, Mode::empty(), resolve);
        Granted::of(&self.tree, handle.map_err(of_host)?)
    }

    /// Where this link leads.
    ///
    /// # Errors
    /// What the host says.
    pub fn target(&self) -> Result<Vec<u8>, Errno> {
        let target = rustix::fs::readlinkat(&self.handle, "", Vec::new()).map_err(of_host)?;
        Ok(target.into_bytes())
    }

    /// The names of this directory, of which the first is told to be at `from`; each with the place after it.
    ///
    /// # Errors
    /// What the host says.
    pub fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        let directory = self.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory).map_err(of_host)? {
            let entry = entry.map_err(of_host)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = FileKind::of_mode(entry.file_type().as_raw_mode());
                entries.push((name.to_vec(), entry.ino(), kind));
            }
        }
        // The host's order is not known to stay. Sorted, a place is a number.
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let first = usize::try_from(from.saturating_sub(2)).unwrap_or(usize::MAX);
        let numbered = (3..).zip(entries).skip(first);
        Ok(numbered.map(|(next, (name, inode, kind))| Entry { name, inode, kind, next }).collect())
    }

    /// The same file, opened.
    fn reopen(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::open(
            self.by_descriptor(),
            flags | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        )
        .map_err(of_host)
    }

    /// A path that names exactly what the handle does, also after it has been moved or unlinked.
    fn by_descriptor(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_fd().as_raw_fd())
    }

    /// Opens this regular file.
    ///
    /// # Errors
    /// `EROFS` for writing, where nothing can be changed; `EACCES` a device or a pipe, `ENXIO` a socket; what the host
    /// says.
    pub fn open(
        &self,
        system: &System,
        mode: FileMode,
        path: &str,
    ) -> Result<Arc<HostFile>, Errno> {
        match self.kind {
            FileKind::Regular => {}
            FileKind::Other(libc::S_IFSOCK) => return Err(Errno::ENXIO),
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Link => return Err(Errno::ELOOP),
            FileKind::Character | FileKind::Other(_) => return Err(Errno::EACCES),
        }
        let access = if mode.contains(FileMode::WRITE) {
            self.check_writable()?;
            FileAccess::ReadWrite
        } else {
            FileAccess::Read
        };
        let flags = match access {
            FileAccess::Read => OFlags::RDONLY,
            FileAccess::ReadWrite => OFlags::RDWR,
        };
        let file = File::from(self.reopen(flags)?);
        let device = self.status()?.device;
        let mut open = self.tree.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, file| file.strong_count() > 0);
        let key = (device, self.inode, access);
        if let Some(file) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let opened = system.open_file(file, access, path.to_owned());
        let opened =
            opened.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        open.insert(key, Arc::downgrade(&opened));
        Ok(opened)
    }

    /// Whether anything can be changed.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.tree.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Makes something new in this directory.
    ///
    /// # Errors
    /// `EROFS`; `EEXIST`; what else the host says.
    pub fn make(&self, name: &[u8], make: &Make<'_>) -> Result<Arc<Self>, Errno> {
        let at = Path::new(OsStr::from_bytes(name));
        match rustix::fs::statat(&self.handle, at, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(_) => self.check_writable()?,
        }
        match make {
            Make::Directory { permissions } => {
                rustix::fs::mkdirat(&self.handle, at, Mode::from_raw_mode(*permissions))
            }
            Make::File { permissions, .. } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(*permissions);
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                rustix::fs::openat2(&self.handle, at, flags, mode, resolve).map(drop)
            }
            Make::Link { target } => {
                rustix::fs::symlinkat(Path::new(OsStr::from_bytes(target)), &self.handle, at)
            }
        }
        .map_err(of_host)?;
        let made = self.lookup(name)?;
        let who = current();
        if (who.uids.files, who.gids.files) != (0, 0)
            && let Err(errno) = made.set_owner(Some(who.uids.files), Some(who.gids.files))
        {
            log::debug!("a file on the host is not given to who made it: {errno:?}");
        }
        Ok(made)
    }

    /// Gives another file of the tree a further name here.
    ///
    /// # Errors
    /// `EROFS`; what the host says.
    pub fn add(&self, name: &[u8], other: &Granted) -> Result<(), Errno> {
        self.check_writable()?;
        let name = Path::new(OsStr::from_bytes(name));
        let from = other.by_descriptor();
        rustix::fs::linkat(rustix::fs::CWD, from, &self.handle, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(of_host)
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// `EROFS`; what the host says.
    pub fn remove(&self, name: &[u8], what: Removed) -> Result<(), Errno> {
        self.lookup(name)?.check_writable()?;
        let flags = match what {
            Removed::File => AtFlags::empty(),
            Removed::Directory => AtFlags::REMOVEDIR,
        };
        let name = Path::new(OsStr::from_bytes(name));
        rustix::fs::unlinkat(&self.handle, name, flags).map_err(of_host)
    }

    /// Moves a name of this directory to another one.
    ///
    /// # Errors
    /// `EROFS`; what the host says.
    pub fn rename(&self, name: &[u8], to: &Granted, new: &[u8], flags: u32) -> Result<(), Errno> {
        self.check_writable()?;
        let [name, new] = [name, new].map(|name| Path::new(OsStr::from_bytes(name)));
        let flags = RenameFlags::from_bits_retain(flags);
        rustix::fs::renameat_with(&self.handle, name, &to.handle, new, flags).map_err(of_host)
    }

    /// The words of a `struct statfs`, as statfs(2) writes it.
    ///
    /// # Errors
    /// What the host says.
    pub fn statfs(&self) -> Result<[u64; 15], Errno> {
        let stat = rustix::fs::fstatfs(&self.handle).map_err(of_host)?;
        let signed = [stat.f_type, stat.f_bsize].map(i64::cast_unsigned);
        let last = [stat.f_namelen, stat.f_frsize, stat.f_flags].map(i64::cast_unsigned);
        Ok([
            signed[0],
            signed[1],
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
            0,
            last[0],
            last[1],
            last[2],
            0,
            0,
            0,
            0,
        ])
    }

    /// chmod(2).
    ///
    /// # Errors
    /// `EROFS`; what the host says.
    pub fn set_permissions(&self, permissions: u32) -> Result<(), Errno> {
        self.check_writable()?;
        let mode = Mode::from_raw_mode(permissions);
        rustix::fs::chmod(self.by_descriptor(), mode).map_err(of_host)
    }

    /// chown(2).
    ///
    /// # Errors
    /// `EROFS`; what the host says.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        self.check_writable()?;
        let uid = uid.map(rustix::fs::Uid::from_raw);
        let gid = gid.map(rustix::fs::Gid::from_raw);
        rustix::fs::chownat(&self.handle, "", uid, gid, AtFlags::EMPTY_PATH).map_err(of_host)
    }

    /// utimensat(2).
    ///
    /// # Errors
    /// `EROFS`; what the host says.
    pub fn set_times(&self, accessed: SetTime, modified: SetTime) -> Result<(), Errno> {
        self.check_writable()?;
        let times = rustix::fs::Timestamps {
            last_access: accessed.timespec(),
            last_modification: modified.timespec(),
        };
        rustix::fs::utimensat(&self.handle, "", &times, AtFlags::EMPTY_PATH).map_err(of_host)
    }
}
