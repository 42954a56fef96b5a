//! What a guest's programs find at the paths: trees in memory, devices, and what of the host they were granted.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::room::Room;
use super::tree::{
    Device, Directory, Granted, LastLink, Make, MemoryTree, Mounts, Node, Place, find,
};

/// The minor numbers of the devices that trees in memory are on.
mod minor {
    pub(super) const ROOT: u32 = 2;
    pub(super) const DEVICES: u32 = super::super::tree::DEVICES;
    pub(super) const SHM: u32 = 25;
    pub(super) const TMP: u32 = 26;
}

/// What names and inodes in memory may take of the host's, in bytes: some ten thousand of them.
const ROOM: u64 = 24 << 20;
/// What umask(2) is at first.
const UMASK: u32 = 0o022;

/// A directory of the host that is granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The directory.
    pub directory: Arc<Granted>,
    /// Where the guest finds it: an absolute path without `.` and `..`.
    pub at: PathBuf,
}

/// Makes the root of a guest's paths; `proc` is what is at `/proc`, if anything.
#[must_use]
pub fn root(grants: Vec<Grant>, proc: Option<Node>) -> Arc<Place> {
    let room = Room::new(ROOM);
    let root = MemoryTree::root(minor::ROOT, 0o755, &room);
    let mut mounts = Mounts::default();
    for (name, node) in [
        ("tmp", tmp(minor::TMP, &room)),
        ("dev", devices(&room)),
        ("dev/shm", tmp(minor::SHM, &room)),
    ] {
        mount(&root, &mut mounts, Path::new(name), node);
    }
    if let Some(proc) = proc {
        mount(&root, &mut mounts, Path::new("proc"), proc);
    }
    for Grant { directory, at } in grants {
        mount(&root, &mut mounts, &at, Node::Granted(directory));
    }
    Place::root(Node::Directory(root), Arc::new(mounts))
}

/// Hangs a tree at a path, and makes the directories on the way where they are in memory, also in what hangs there.
fn mount(root: &Arc<Directory>, mounts: &mut Mounts, path: &Path, node: Node) {
    let names: Vec<&[u8]> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_encoded_bytes()),
            _ => None,
        })
        .collect();
    let mut at = Some(Arc::clone(root));
    let mut hung = Some(&*mounts);
    for name in &names {
        let Some(directory) = at else { break };
        hung = hung.and_then(|hung| hung.below(name)).map(|below| &**below);
        let made = directory
            .make(name, &Make::Directory { permissions: 0o755 })
            .or_else(|_| directory.lookup(name));
        at = match hung.and_then(Mounts::root).cloned().map_or(made, Ok) {
            Ok(Node::Directory(below)) => Some(below),
            _ => None,
        };
    }
    mounts.add(&names, node);
}

fn tmp(minor: u32, room: &Arc<Room>) -> Node {
    Node::Directory(MemoryTree::root(minor, 0o1777, room))
}

fn devices(room: &Arc<Room>) -> Node {
    let directory = MemoryTree::root(minor::DEVICES, 0o755, room);
    for (name, device) in Device::ALL {
        directory.put(name.as_bytes(), Node::Device(device));
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        // The directory is new.
        let _ = directory.make(name.as_bytes(), &Make::Link { target: target.as_bytes() });
    }
    let _ = directory.make(b"shm", &Make::Directory { permissions: 0o1777 });
    Node::Directory(directory)
}

/// Where a process is, and how it makes files (Linux's `fs_struct`).
#[derive(Debug)]
pub struct Paths {
    root: Arc<Place>,
    current: Mutex<Arc<Place>>,
    umask: AtomicU32,
}

impl Default for Paths {
    /// At the root of a namespace without grants.
    fn default() -> Self {
        Paths::new(root(Vec::new(), None), Path::new("/"))
    }
}

impl Paths {
    /// At a directory of a root, or at the root where that is not there.
    #[must_use]
    pub fn new(root: Arc<Place>, current: &Path) -> Self {
        let current = current.as_os_str().as_encoded_bytes();
        let found = find(&root, &root, current, LastLink::Follow);
        let found = found.ok().filter(|place| place.node().is_directory());
        let current = found.unwrap_or_else(|| Arc::clone(&root));
        Paths { root, current: Mutex::new(current), umask: AtomicU32::new(UMASK) }
    }

    /// A child's of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        Paths {
            root: Arc::clone(&self.root),
            current: Mutex::new(self.current()),
            umask: AtomicU32::new(self.umask()),
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Arc<Place> {
        &self.root
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Place>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current directory, where it is now.
    #[must_use]
    pub fn current(&self) -> Arc<Place> {
        let found = Arc::clone(&self.lock());
        let now = found.now();
        let mut current = self.lock();
        if Arc::ptr_eq(&current, &found) && !Arc::ptr_eq(&found, &now) {
            *current = Arc::clone(&now);
        }
        now
    }

    /// Goes to another one (chdir(2)).
    pub fn go(&self, place: Arc<Place>) {
        *self.lock() = place;
    }

    /// What is taken from the permissions of new files.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets that; gives what it was (umask(2)).
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_within_tmp_is_found() {
        let room = Room::new(ROOM);
        let root = MemoryTree::root(minor::ROOT, 0o755, &room);
        let mut mounts = Mounts::default();
        mount(&root, &mut mounts, Path::new("tmp"), tmp(minor::TMP, &room));
        mount(&root, &mut mounts, Path::new("/tmp/a/b"), tmp(minor::SHM, &room));
        let root = Place::root(Node::Directory(root), Arc::new(mounts));
        for path in [b"/tmp/a/b".as_slice(), b"/tmp/a"] {
            assert!(find(&root, &root, path, LastLink::Follow).is_ok(), "{path:?}");
        }
    }
}
