//! open(2) and its kin.

use std::sync::Arc;

use mm::backing::FileMode;
use mm::error::Errno;
use nix::libc;

use super::descriptors::{close_on_exec, descriptor};
use super::{Context, Served, Stop};
use crate::files::tree::{Last, LastLink, Make, Node, Place};
use crate::files::{Access, FileKind, Object, Open, check_access, check_owner};

/// The flags that open(2) knows (`VALID_OPEN_FLAGS`); it ignores all others.
const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | LARGE_FILE
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | libc::O_TMPFILE;
/// `O_LARGEFILE` as the kernel has it.
const LARGE_FILE: i32 = 0o100_000;
/// What counts beside `O_PATH`.
const WITH_PATH: i32 = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_PATH | libc::O_CLOEXEC;
/// The most links that are followed where a file is made.
const MOST_LINKS: u32 = 40;
/// The bit of `O_TMPFILE` that is not `O_DIRECTORY`.
const NAMELESS: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// open(2).
pub(super) fn open(c: &mut Context<'_>) -> Served {
    let [path, flags, mode, ..] = c.args;
    c.args[..4].copy_from_slice(&[u64::from(libc::AT_FDCWD.cast_unsigned()), path, flags, mode]);
    openat(c)
}

/// creat(2).
pub(super) fn creat(c: &mut Context<'_>) -> Served {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    let [path, mode, ..] = c.args;
    c.args[..3].copy_from_slice(&[path, u64::from(flags.cast_unsigned()), mode]);
    open(c)
}

/// openat(2).
pub(super) fn openat(c: &mut Context<'_>) -> Served {
    let flags = c.int(2);
    let flags = if flags & libc::O_PATH == 0 { flags & KNOWN } else { flags & WITH_PATH };
    let creates = flags & (libc::O_CREAT | NAMELESS) != 0;
    let permissions = if creates { c.int(3).cast_unsigned() & 0o7777 } else { 0 };
    check(flags)?;
    let path = c.read_path(c.address(1))?;
    let opened = opened(c, c.int(0), &path, Wanted { flags, permissions })?;
    Ok(descriptor(c.process.open_as(Arc::new(opened), 0, close_on_exec(flags))?))
}

/// What open(2) is to do.
#[derive(Clone, Copy)]
struct Wanted {
    flags: i32,
    permissions: u32,
}

impl Wanted {
    fn has(self, flag: i32) -> bool {
        self.flags & flag == flag
    }

    /// What the file is opened for. 3 is for neither, but asks for both.
    fn mode(self) -> FileMode {
        match self.flags & libc::O_ACCMODE {
            _ if self.has(libc::O_PATH) => FileMode::empty(),
            libc::O_RDONLY => FileMode::READ,
            libc::O_WRONLY => FileMode::WRITE,
            libc::O_RDWR => FileMode::READ | FileMode::WRITE,
            _ => FileMode::empty(),
        }
    }

    /// What may be done with it has to be this.
    fn access(self) -> Access {
        let mut access = match self.flags & libc::O_ACCMODE {
            libc::O_RDONLY => Access::READ,
            libc::O_WRONLY => Access::WRITE,
            _ => Access::READ | Access::WRITE,
        };
        access.set(Access::WRITE, access.contains(Access::WRITE) || self.has(libc::O_TRUNC));
        access
    }

    fn writes(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY && !self.has(libc::O_PATH)
    }
}

/// Flags that contradict each other (`build_open_flags`).
fn check(flags: i32) -> Result<(), Errno> {
    let creates_directory = libc::O_CREAT | libc::O_DIRECTORY;
    if flags & NAMELESS != 0 {
        let whole = flags & libc::O_TMPFILE == libc::O_TMPFILE;
        if !whole || flags & libc::O_CREAT != 0 || flags & libc::O_ACCMODE == libc::O_RDONLY {
            return Err(Errno::EINVAL);
        }
    } else if flags & creates_directory == creates_directory {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn opened(c: &Context<'_>, fd: i32, path: &[u8], wanted: Wanted) -> Result<Open, Stop> {
    if wanted.has(libc::O_TMPFILE) {
        let directory = c.find(fd, path, LastLink::Follow)?;
        return nameless(c, &directory, wanted);
    }
    let place = if wanted.has(libc::O_CREAT) {
        match made(c, fd, path, wanted)? {
            Found::Made(place) => return open_place(c, place, wanted, Since::Now),
            Found::Before(place) => place,
        }
    } else {
        let stays = wanted.has(libc::O_NOFOLLOW);
        c.find(fd, path, if stays { LastLink::Stay } else { LastLink::Follow })?
    };
    open_place(c, place, wanted, Since::Before)
}

/// What open(2) with `O_CREAT` finds.
enum Found {
    Before(Arc<Place>),
    Made(Arc<Place>),
}

/// Finds a file, or makes it; through links, which may lead to where it is to be made.
fn made(c: &Context<'_>, fd: i32, path: &[u8], wanted: Wanted) -> Result<Found, Stop> {
    let mut walked = c.find_parent(fd, path)?;
    for _ in 0..=MOST_LINKS {
        let directory = &walked.directory;
        let name = match &walked.last {
            Last::Root | Last::Here => return Ok(Found::Before(Arc::clone(directory))),
            Last::Above => return Ok(Found::Before(directory.parent())),
            Last::Name(_) if walked.slash => return Err(Errno::EISDIR.into()),
            Last::Name(name) => name,
        };
        let found = match directory.child(name) {
            Ok(_) if wanted.has(libc::O_EXCL) => return Err(Errno::EEXIST.into()),
            Ok(found) => found,
            Err(Errno::ENOENT) => match make(c, directory, name, wanted) {
                // Another process was faster.
                Err(Stop::Errno(Errno::EEXIST)) if !wanted.has(libc::O_EXCL) => continue,
                made => return made.map(Found::Made),
            },
            Err(errno) => return Err(errno.into()),
        };
        if found.node().kind() != FileKind::Link || wanted.has(libc::O_NOFOLLOW) {
            return Ok(Found::Before(found));
        }
        if let Node::Made(made) = found.node()
            && let Some(jump) = made.jump()
        {
            return Ok(Found::Before(jump?));
        }
        let target = found.node().target()?;
        walked = crate::files::tree::find_parent(c.process.paths.root(), directory, &target)?;
    }
    Err(Errno::ELOOP.into())
}

fn make(
    c: &Context<'_>,
    directory: &Arc<Place>,
    name: &[u8],
    wanted: Wanted,
) -> Result<Arc<Place>, Stop> {
    let path = directory.shown_below(name);
    let system = Arc::clone(c.process.space.look().system());
    let permissions = wanted.permissions & !c.process.paths.umask();
    let make = Make::File { permissions, system: &system, path: &path };
    check_access(directory.node(), Access::WRITE | Access::EXECUTE)?;
    let node = directory.node().make(name, &make)?;
    Ok(directory.with(name, node))
}

/// A file without a name (`O_TMPFILE`).
fn nameless(c: &Context<'_>, directory: &Arc<Place>, wanted: Wanted) -> Result<Open, Stop> {
    match directory.node() {
        Node::Directory(tree) => {
            let system = Arc::clone(c.process.space.look().system());
            check_access(directory.node(), Access::WRITE | Access::EXECUTE)?;
            let permissions = wanted.permissions & !c.process.paths.umask();
            let path = directory.shown();
            let file = tree.nameless(&system, permissions, &path)?;
            let place = directory.with(b"(deleted)", Node::File(Arc::clone(&file)));
            Ok(Open::at(place, Object::Memory(file), wanted.mode(), wanted.flags))
        }
        node if node.is_directory() => Err(Errno::EOPNOTSUPP.into()),
        _ => Err(Errno::ENOTDIR.into()),
    }
}

/// Since when what is opened is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    Before,
    Now,
}

/// Opens what is at a place (`do_open`, `may_open`).
fn open_place(
    c: &Context<'_>,
    place: Arc<Place>,
    wanted: Wanted,
    since: Since,
) -> Result<Open, Stop> {
    let node = place.node();
    let kind = node.kind();
    if wanted.has(libc::O_DIRECTORY) && kind != FileKind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    if wanted.has(libc::O_PATH) {
        return Ok(Open::at(place, Object::Place, FileMode::empty(), 0));
    }
    match kind {
        FileKind::Link => return Err(Errno::ELOOP.into()),
        FileKind::Directory
            if wanted.has(libc::O_CREAT) || wanted.access().contains(Access::WRITE) =>
        {
            return Err(Errno::EISDIR.into());
        }
        _ => {}
    }
    if kind == FileKind::Regular && (wanted.writes() || wanted.has(libc::O_TRUNC)) {
        node.check_writable()?;
    }
    if since == Since::Before {
        check_access(node, wanted.access())?;
    }
    if wanted.has(libc::O_NOATIME) {
        check_owner(node)?;
    }
    let system = Arc::clone(c.process.space.look().system());
    let truncates = wanted.has(libc::O_TRUNC) && since == Since::Before;
    let mode = wanted.mode();
    let object = match node {
        Node::Directory(_) => Object::Directory,
        Node::Granted(_) if kind == FileKind::Directory => Object::Directory,
        Node::File(file) => Object::Memory(Arc::clone(file)),
        Node::Device(device) => Object::Device(*device),
        Node::Link(_) => return Err(Errno::ELOOP.into()),
        Node::Made(_) if kind == FileKind::Directory => Object::Directory,
        Node::Made(made) => {
            made.check_open(mode)?;
            Object::Made(made.open()?)
        }
        Node::Granted(file) => {
            let path = place.shown();
            let changes = if truncates { mode | FileMode::WRITE } else { mode };
            Object::File(file.open(&system, changes, &path)?)
        }
    };
    // Only files can be read past memory (`FMODE_CAN_ODIRECT`).
    if wanted.has(libc::O_DIRECT) && !matches!(object, Object::Memory(_) | Object::File(_)) {
        return Err(Errno::EINVAL.into());
    }
    let open = Open::at(place, object, mode, wanted.flags);
    if truncates && let Some(content) = open.content() {
        content.truncate(0, &system)?;
    }
    Ok(open)
}
