//! A name is moved (rename(2)).

use std::sync::Arc;

use mm::error::Errno;
use nix::libc;

use super::directory::Directory;
use super::node::Node;
use super::place::Place;
use super::walk::{Last, Walked};
use crate::files::room::Taken;
use crate::files::{Access, check_access, check_removal};

/// What is to be renamed, and to what.
#[derive(Debug)]
pub struct Renaming {
    /// The old name.
    pub old: Walked,
    /// The new one.
    pub new: Walked,
    /// `RENAME_*`.
    pub flags: u32,
}

impl Renaming {
    /// Does it.
    ///
    /// # Errors
    /// In this order: `EXDEV` two trees; `EBUSY` a path that ends with no name; `ENOENT`; `EEXIST` with
    /// `RENAME_NOREPLACE`; `ENOTDIR` a slash after what is no directory; `EINVAL` a directory into itself; `ENOTEMPTY` in
    /// place of a directory that it lies in; `EBUSY` a tree hangs there; `ENOTDIR`, `EISDIR` a directory in place of
    /// something else, or the other way round; `ENOTEMPTY`. Source: Linux's `do_renameat2`, `vfs_rename`.
    pub fn rename(&self) -> Result<(), Errno> {
        let (from, to) = (&self.old.directory, &self.new.directory);
        if !is_one_tree(from.node(), to.node()) {
            return Err(Errno::EXDEV);
        }
        let Last::Name(old) = &self.old.last else { return Err(Errno::EBUSY) };
        let Last::Name(new) = &self.new.last else {
            let kept = self.flags & libc::RENAME_NOREPLACE != 0;
            return Err(if kept { Errno::EEXIST } else { Errno::EBUSY });
        };
        match (from.node(), to.node()) {
            (Node::Directory(one), Node::Directory(other)) => {
                let _changing = one.tree().change();
                let moved = self.check(old, new)?;
                self.in_memory(one, other, [old, new], moved)
            }
            (Node::Granted(one), Node::Granted(other)) => {
                self.check(old, new)?;
                one.rename(old, other, new, self.flags)
            }
            _ => Err(Errno::EXDEV),
        }
    }

    /// What both sides have to be asked; gives what is moved.
    fn check(&self, old: &[u8], new: &[u8]) -> Result<Node, Errno> {
        let (from, to) = (&self.old.directory, &self.new.directory);
        let moved = from.node().lookup(old)?;
        let replaced = match to.node().lookup(new) {
            Ok(_) if self.flags & libc::RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
            Ok(node) => Some(node),
            Err(Errno::ENOENT) if self.exchanges() => return Err(Errno::ENOENT),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let other_is_file = replaced.as_ref().is_some_and(|node| !node.is_directory());
        let slashed = self.old.slash || (self.new.slash && !self.exchanges());
        if (!moved.is_directory() && slashed)
            || (self.exchanges() && other_is_file && self.new.slash)
        {
            return Err(Errno::ENOTDIR);
        }
        if is_within(to, from, &moved) {
            return Err(Errno::EINVAL);
        }
        if replaced.as_ref().is_some_and(|replaced| is_within(from, to, replaced)) {
            return Err(if self.exchanges() { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if from.is_busy(old) || to.is_busy(new) {
            return Err(Errno::EBUSY);
        }
        self.check_permissions(&moved, replaced.as_ref())?;
        Ok(moved)
    }

    /// `may_delete` and `may_create`; and that a directory which lies elsewhere afterwards has another `..`.
    fn check_permissions(&self, moved: &Node, replaced: Option<&Node>) -> Result<(), Errno> {
        let (from, to) = (self.old.directory.node(), self.new.directory.node());
        check_removal(from, moved)?;
        match replaced {
            Some(replaced) if replaced.is(moved) => return Ok(()),
            Some(replaced) => check_removal(to, replaced)?,
            None => check_access(to, Access::WRITE | Access::EXECUTE)?,
        }
        if from.is(to) {
            return Ok(());
        }
        let exchanged = replaced.filter(|_| self.exchanges());
        for node in [Some(moved), exchanged].into_iter().flatten() {
            if node.is_directory() {
                check_access(node, Access::WRITE)?;
            }
        }
        Ok(())
    }

    fn exchanges(&self) -> bool {
        self.flags & libc::RENAME_EXCHANGE != 0
    }

    /// The tree is held.
    fn in_memory(
        &self,
        from: &Arc<Directory>,
        to: &Arc<Directory>,
        [old, new]: [&[u8]; 2],
        moved: Node,
    ) -> Result<(), Errno> {
        let replaced = to.lookup(new).ok();
        if replaced.as_ref().is_some_and(|replaced| replaced.is(&moved)) {
            return Ok(());
        }
        if let Node::Directory(directory) = &moved
            && to.is_within(directory)
        {
            return Err(Errno::EINVAL);
        }
        if to.is_removed() {
            return Err(Errno::ENOENT);
        }
        if self.exchanges() {
            let Some((other, one_room)) = to.leave(new) else { return Err(Errno::ENOENT) };
            let Some((_, other_room)) = from.leave(old) else { return Err(Errno::ENOENT) };
            to.take(new, moved, one_room)?;
            return from.take(old, other, other_room);
        }
        match (&moved, &replaced) {
            (_, None) => {}
            (Node::Directory(_), Some(Node::Directory(other))) => other.retire()?,
            (Node::Directory(_), Some(_)) => return Err(Errno::ENOTDIR),
            (_, Some(Node::Directory(_))) => return Err(Errno::EISDIR),
            (_, Some(_)) => {}
        }
        to.leave(new);
        let Some((_, room)) = from.leave(old) else { return Err(Errno::ENOENT) };
        to.take(new, moved, room)
    }
}

impl Directory {
    /// Enters what was moved here.
    fn take(self: &Arc<Self>, name: &[u8], moved: Node, room: Taken) -> Result<(), Errno> {
        if let Node::Directory(directory) = &moved {
            directory.move_to(self);
        }
        self.enter(name, moved, room)
    }
}

/// Whether `place` is in what has just been found in `above`, or is it.
fn is_within(place: &Arc<Place>, above: &Arc<Place>, found: &Node) -> bool {
    // Where they are beside each other nothing can be in the other.
    !Arc::ptr_eq(place, above) && found.is_directory() && place.is_within(found)
}

fn is_one_tree(one: &Node, other: &Node) -> bool {
    match (one, other) {
        (Node::Directory(one), Node::Directory(other)) => Arc::ptr_eq(one.tree(), other.tree()),
        (Node::Granted(one), Node::Granted(other)) => Arc::ptr_eq(one.tree(), other.tree()),
        _ => false,
    }
}
