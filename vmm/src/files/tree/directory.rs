//! A directory in memory, and the tree that it is part of (Linux's tmpfs).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mm::backing::BackingName;
use mm::error::Errno;
use mm::system::System;

use super::link::Link;
use super::node::{Entry, Make, Node, Removed};
use crate::files::attributes::Attributes;
use crate::files::memory_file::MemoryFile;
use crate::files::room::{Room, Taken};
use crate::files::status::{FileKind, FileStatus};

/// The minor number of the device that `/dev` is on. (1 is the kernel's own, of memfds.)
pub const DEVICES: u32 = 6;
/// What a name counts for in a directory's size (`BOGO_DIRENT_SIZE`).
const NAME_SIZE: u64 = 20;
/// What a name takes of the host's memory, about, in bytes.
const NAME_ROOM: u64 = 384;
/// What an inode takes.
const INODE_ROOM: u64 = 2048;
/// The first place of a name in a directory, after `.` and `..`.
const FIRST: u64 = 2;

/// A tree in memory: what its directories share.
#[derive(Debug)]
pub struct MemoryTree {
    device: u64,
    inodes: AtomicU64,
    room: Arc<Room>,
    /// Over every change of names (`s_vfs_rename_mutex`, and the directories' own locks).
    changing: Mutex<()>,
}

/// A directory in memory.
#[derive(Debug)]
pub struct Directory {
    tree: Arc<MemoryTree>,
    attributes: Attributes,
    names: Mutex<Names>,
    _room: Option<Taken>,
}

/// Directories one below the other, each with its name in the one above.
pub(super) type Down = Vec<(Vec<u8>, Arc<Directory>)>;

/// A name in a directory.
#[derive(Debug)]
struct Name {
    /// Where it is among the others.
    place: u64,
    node: Node,
    room: Taken,
}

#[derive(Debug)]
struct Names {
    nodes: BTreeMap<Vec<u8>, Name>,
    /// The place of the next one to come.
    next: u64,
    /// Where `..` leads.
    above: Weak<Directory>,
    /// rmdir(2) has taken it out of the tree.
    removed: Removal,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Removal {
    InTree,
    Removed,
}

impl MemoryTree {
    /// The root of an empty tree on the device 0:`minor`, for whose names and inodes there is so much room.
    #[must_use]
    pub fn root(minor: u32, permissions: u32, room: &Arc<Room>) -> Arc<Directory> {
        let tree = Arc::new(MemoryTree {
            device: rustix::fs::makedev(0, minor),
            inodes: AtomicU64::new(1),
            room: Arc::clone(room),
            changing: Mutex::default(),
        });
        Directory::new(&tree, permissions, &Weak::new(), None)
    }

    fn new_inode(&self) -> u64 {
        self.inodes.fetch_add(1, Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<Taken, Errno> {
        self.room.take(bytes).ok_or(Errno::ENOSPC)
    }

    /// A new file, which has no name yet.
    fn new_file(
        &self,
        system: &System,
        permissions: u32,
        path: &str,
    ) -> Result<Arc<MemoryFile>, Errno> {
        let room = self.take(INODE_ROOM)?;
        let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        let name = BackingName { major, minor, inode: self.new_inode(), path: path.to_owned() };
        Ok(Arc::new(MemoryFile::regular(system, name, permissions & 0o7777, room)))
    }

    pub(super) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    fn new(
        tree: &Arc<MemoryTree>,
        permissions: u32,
        above: &Weak<Directory>,
        room: Option<Taken>,
    ) -> Arc<Self> {
        let inode = tree.new_inode();
        let attributes =
            Attributes::new(FileKind::Directory, tree.device, inode, permissions & 0o7777, 2);
        let names = Names {
            nodes: BTreeMap::new(),
            next: FIRST,
            above: Weak::clone(above),
            removed: Removal::InTree,
        };
        Arc::new(Directory {
            tree: Arc::clone(tree),
            attributes,
            names: Mutex::new(names),
            _room: room,
        })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree that it is in.
    #[must_use]
    pub fn tree(&self) -> &Arc<MemoryTree> {
        &self.tree
    }

    /// What it has beside its names.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// What stat(2) says.
    #[must_use]
    pub fn status(&self) -> FileStatus {
        let names = self.names().nodes.len() as u64;
        self.attributes.status((names + FIRST) * NAME_SIZE, 4096, 0)
    }

    /// What has a name in it.
    ///
    /// # Errors
    /// `ENOENT` nothing has.
    pub fn lookup(&self, name: &[u8]) -> Result<Node, Errno> {
        self.names().nodes.get(name).map(|name| name.node.clone()).ok_or(Errno::ENOENT)
    }

    /// Whether there are no names in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names().nodes.is_empty()
    }

    /// Whether it has been removed from the tree.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.names().removed == Removal::Removed
    }

    /// Its names from a place on, each with the place after it.
    #[must_use]
    pub fn entries(&self, from: u64) -> Vec<Entry> {
        self.attributes.read();
        let names = self.names();
        let mut entries: Vec<Entry> = names
            .nodes
            .iter()
            .filter(|(_, name)| name.place >= from)
            .map(|(text, name)| Entry {
                name: text.clone(),
                inode: name.node.inode(),
                kind: name.node.kind(),
                next: name.place + 1,
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.next);
        entries
    }

    /// Gives something new a name; `permissions` are those that are left after the umask.
    ///
    /// # Errors
    /// `EEXIST` something has that name; `ENOSPC` there is no room; `ENOENT` the directory has been removed.
    pub fn make(self: &Arc<Self>, name: &[u8], make: &Make<'_>) -> Result<Node, Errno> {
        let _changing = self.tree.change();
        if self.names().nodes.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let own = |more: usize| self.tree.take(INODE_ROOM + more as u64);
        let node = match make {
            Make::Directory { permissions } => {
                let above = Arc::downgrade(self);
                let room = own(0)?;
                Node::Directory(Directory::new(&self.tree, *permissions, &above, Some(room)))
            }
            Make::File { permissions, system, path } => {
                Node::File(self.tree.new_file(system, *permissions, path)?)
            }
            Make::Link { target } => {
                let (inode, room) = (self.tree.new_inode(), own(target.len())?);
                Node::Link(Arc::new(Link::new(target.to_vec(), self.tree.device, inode, room)))
            }
        };
        node.attributes().into_iter().for_each(|made| made.made_in(&self.attributes));
        self.enter(name, node.clone(), self.tree.take(NAME_ROOM)?)?;
        Ok(node)
    }

    /// A file in the tree without a name (`O_TMPFILE`); it can be given one.
    ///
    /// # Errors
    /// `ENOSPC` there is no room.
    pub fn nameless(
        &self,
        system: &System,
        permissions: u32,
        path: &str,
    ) -> Result<Arc<MemoryFile>, Errno> {
        self.tree.new_file(system, permissions, &format!("{path}/#0 (deleted)"))
    }

    /// Gives a device a name, whatever had it.
    pub fn put(&self, name: &[u8], node: Node) {
        let _changing = self.tree.change();
        // It has not been removed, and there is room.
        let _ = self.tree.take(NAME_ROOM).and_then(|room| self.enter(name, node, room));
    }

    /// Gives something that is there a further name (link(2)).
    ///
    /// # Errors
    /// `EEXIST` something has that name; `ENOSPC` there is no room; `ENOENT` the directory, or what is to be named, has been removed.
    pub fn add(&self, name: &[u8], node: &Node) -> Result<(), Errno> {
        let _changing = self.tree.change();
        if self.names().nodes.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if node.attributes().is_none_or(|attributes| attributes.links() == 0) {
            return Err(Errno::ENOENT);
        }
        self.enter(name, node.clone(), self.tree.take(NAME_ROOM)?)
    }

    /// Puts in a name that is free. The tree is held.
    pub(super) fn enter(&self, name: &[u8], node: Node, room: Taken) -> Result<(), Errno> {
        let mut names = self.names();
        if names.removed == Removal::Removed {
            return Err(Errno::ENOENT);
        }
        match &node {
            // `..` in it is one more name of this one.
            Node::Directory(_) => self.attributes.link(),
            other => other.attributes().into_iter().for_each(Attributes::link),
        }
        node.tell_links();
        let place = names.next;
        names.next += 1;
        names.nodes.insert(name.to_vec(), Name { place, node, room });
        self.attributes.written();
        Ok(())
    }

    /// Takes out a name that is there. The tree is held.
    pub(super) fn leave(&self, name: &[u8]) -> Option<(Node, Taken)> {
        let Name { node, room, .. } = self.names().nodes.remove(name)?;
        match &node {
            Node::Directory(_) => self.attributes.unlink(),
            other => other.attributes().into_iter().for_each(Attributes::unlink),
        }
        node.tell_links();
        self.attributes.written();
        Some((node, room))
    }

    /// Takes a name away (unlink(2), rmdir(2)).
    ///
    /// # Errors
    /// In this order: `ENOENT`; of a file that is a directory `EISDIR`; of a directory that is none `ENOTDIR`, that is
    /// not empty `ENOTEMPTY`.
    pub fn remove(&self, name: &[u8], what: Removed) -> Result<(), Errno> {
        let _changing = self.tree.change();
        match (self.lookup(name)?, what) {
            (Node::Directory(_), Removed::File) => return Err(Errno::EISDIR),
            (Node::Directory(directory), Removed::Directory) => directory.retire()?,
            (_, Removed::Directory) => return Err(Errno::ENOTDIR),
            (_, Removed::File) => {}
        }
        self.leave(name);
        Ok(())
    }

    /// Takes it out of use, if it is empty. The tree is held.
    ///
    /// # Errors
    /// `ENOTEMPTY`.
    pub(super) fn retire(&self) -> Result<(), Errno> {
        let mut names = self.names();
        if !names.nodes.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        names.removed = Removal::Removed;
        drop(names);
        self.attributes.unlink();
        self.attributes.unlink();
        Ok(())
    }

    /// Whether it is `other`, or lies below it. The tree is held.
    pub(super) fn is_within(self: &Arc<Self>, other: &Arc<Directory>) -> bool {
        let mut at = Some(Arc::clone(self));
        while let Some(directory) = at {
            if Arc::ptr_eq(&directory, other) {
                return true;
            }
            at = directory.names().above.upgrade();
        }
        false
    }

    /// Its tree's root, and the names from there to it, with what they are now. `None` where it is not in the tree any more.
    pub(super) fn way(self: &Arc<Self>) -> Option<(Arc<Directory>, Down)> {
        // Nothing is moved meanwhile.
        let _changing = self.tree.change();
        let (mut at, mut names) = (Arc::clone(self), Vec::new());
        loop {
            let above = {
                let names = at.names();
                if names.removed == Removal::Removed {
                    return None;
                }
                names.above.upgrade()
            };
            let Some(above) = above else { break };
            let of_this =
                |node: &Node| matches!(node, Node::Directory(one) if Arc::ptr_eq(one, &at));
            let name = {
                let names = above.names();
                let found = names.nodes.iter().find(|(_, name)| of_this(&name.node));
                found.map(|(name, _)| name.clone())
            };
            names.push((name?, at));
            at = above;
        }
        names.reverse();
        Some((at, names))
    }

    /// Has it lie in another directory from now on. The tree is held.
    pub(super) fn move_to(&self, above: &Arc<Directory>) {
        self.names().above = Arc::downgrade(above);
    }
}
