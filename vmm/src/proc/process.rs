//! `/proc/PID`.

use std::fmt;
use std::sync::{Arc, PoisonError};

use mm::addr::VirtAddr;
use mm::calls::{Caller, PROCMAP_QUERY, procmap_query};
use mm::error::{CallResult, Errno};
use mm::inspect::{maps_text, numa_maps, smaps, smaps_rollup};
use mm::userfault::Accessor;
use nix::libc;

use super::memory::{AtOffsets, Kind};
use super::text::{Asked, Maker, Taker, Text, number};
use super::{INODES, Of, numbered, words};
use crate::files::tree::{Entry, Granted, Jump, Made, Node, Place};
use crate::files::{FileKind, Object, Open, Stream, status_of};
use crate::task::Process;

/// A process's directory.
#[derive(Debug)]
pub(super) struct Directory {
    pid: i32,
    process: Of,
}

/// What a name in it is.
#[derive(Clone, Copy)]
enum What {
    /// A text, with who may do what.
    Text(u32, fn(&Process) -> Result<Vec<u8>, Errno>),
    /// One that can be asked, too.
    Asked(fn(&Process) -> Result<Vec<u8>, Errno>, Asked),
    /// One that can be written.
    Written(fn(&Process) -> Result<Vec<u8>, Errno>, fn(&Process, &[u8]) -> Result<(), Errno>),
    AtOffsets(Kind),
    Link(Link),
    Descriptors,
    Tasks,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Executable,
    Current,
    Root,
    Descriptor(i32),
}

/// All names.
const NAMES: [(&str, What); 24] = [
    ("auxv", What::Text(0o400, words::auxv)),
    ("cmdline", What::Text(0o444, |process| words::strings(process, words::Strings::Arguments))),
    ("comm", What::Written(words::comm, words::set_comm)),
    ("coredump_filter", What::Written(words::core_filter, words::set_core_filter)),
    ("cwd", What::Link(Link::Current)),
    ("environ", What::Text(0o400, |process| words::strings(process, words::Strings::Environment))),
    ("exe", What::Link(Link::Executable)),
    ("fd", What::Descriptors),
    ("limits", What::Text(0o444, words::limits)),
    ("maps", What::Asked(|process| Ok(maps_text(&process.space.look()).into_bytes()), ask_maps)),
    ("mem", What::AtOffsets(Kind::Memory)),
    (
        "numa_maps",
        What::Text(0o444, |process| {
            let policy = *process.policy.lock().unwrap_or_else(PoisonError::into_inner);
            let space = process.space.look();
            Ok(lines(numa_maps(&space, policy)))
        }),
    ),
    ("oom_adj", What::Written(words::oom_adj, words::set_oom_adj)),
    ("oom_score", What::Text(0o444, words::oom_score)),
    ("oom_score_adj", What::Written(words::oom_score_adj, words::set_oom_score_adj)),
    ("pagemap", What::AtOffsets(Kind::Pagemap)),
    ("personality", What::Text(0o400, words::personality)),
    ("root", What::Link(Link::Root)),
    ("smaps", What::Text(0o444, |process| Ok(lines(smaps(&process.space.look()))))),
    (
        "smaps_rollup",
        What::Text(0o444, |process| {
            Ok(smaps_rollup(&process.space.look()).to_string().into_bytes())
        }),
    ),
    ("stat", What::Text(0o444, words::stat)),
    ("statm", What::Text(0o444, words::statm)),
    ("status", What::Text(0o444, words::status)),
    ("task", What::Tasks),
];

fn lines(lines: impl Iterator<Item = impl fmt::Display>) -> Vec<u8> {
    lines.map(|line| line.to_string()).collect::<String>().into_bytes()
}

/// What `maps` can be asked.
fn ask_maps(
    of: Option<&Process>,
    caller: &dyn Caller,
    request: u64,
    argument: VirtAddr,
) -> CallResult<u64> {
    match request {
        PROCMAP_QUERY => procmap_query(caller, of.map(|process| &*process.space), argument),
        _ => Err(Errno::ENOTTY.into()),
    }
}

impl What {
    fn kind(self) -> FileKind {
        match self {
            What::Text(..) | What::Asked(..) | What::Written(..) | What::AtOffsets(_) => {
                FileKind::Regular
            }
            What::Link(_) => FileKind::Link,
            What::Descriptors | What::Tasks => FileKind::Directory,
        }
    }
}

impl Directory {
    pub(super) fn new(pid: i32, process: std::sync::Weak<Process>) -> Self {
        Directory { pid, process: Of(process) }
    }

    fn inode_of(&self, index: u64) -> u64 {
        u64::from(self.pid.unsigned_abs()) * INODES + index
    }
}

impl Made for Directory {
    fn inode(&self) -> u64 {
        self.inode_of(1)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        let known = (2..).zip(NAMES).find(|(_, (known, _))| known.as_bytes() == name);
        let (index, (_, what)) = known.ok_or(Errno::ENOENT)?;
        let (inode, process) = (self.inode_of(index), self.process.clone());
        Ok(match what {
            What::Text(permissions, make) => {
                let make = maker(process, make);
                Arc::new(Text { inode, permissions, make, take: None, ask: None })
            }
            What::Asked(make, answer) => {
                let ask = Some((process.clone(), answer));
                let make = maker(process, make);
                Arc::new(Text { inode, permissions: 0o444, make, take: None, ask })
            }
            What::Written(make, take) => {
                let of = process.clone();
                let take: Taker = Arc::new(move |bytes| take(&*of.get()?, bytes));
                let make = maker(process, make);
                Arc::new(Text { inode, permissions: 0o644, make, take: Some(take), ask: None })
            }
            What::AtOffsets(kind) => Arc::new(AtOffsets { kind, inode, process }),
            What::Link(link) => Arc::new(ToFile { link, inode, process }),
            What::Descriptors => Arc::new(DescriptorLinks { inode, process }),
            What::Tasks => Arc::new(Tasks { pid: self.pid, inode, process }),
        })
    }

    fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        self.process.get().map_err(|_| Errno::ENOENT)?;
        let names = NAMES.map(|(name, what)| (name.as_bytes().to_vec(), what.kind()));
        Ok(numbered(names.into_iter(), from))
    }
}

/// Of a process that has ended there is nothing to read.
fn maker(process: Of, make: fn(&Process) -> Result<Vec<u8>, Errno>) -> Maker {
    Arc::new(move || make(&*process.get()?))
}

/// `task`: the process has one, which is itself.
#[derive(Debug)]
struct Tasks {
    pid: i32,
    inode: u64,
    process: Of,
}

impl Made for Tasks {
    fn inode(&self) -> u64 {
        self.inode
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        if super::number(name) != Some(self.pid) {
            return Err(Errno::ENOENT);
        }
        Ok(Arc::new(Directory { pid: self.pid, process: self.process.clone() }))
    }

    fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        let own = (self.pid.to_string().into_bytes(), FileKind::Directory);
        Ok(numbered([own].into_iter(), from))
    }
}

/// `fd`.
#[derive(Debug)]
struct DescriptorLinks {
    inode: u64,
    process: Of,
}

impl Made for DescriptorLinks {
    fn inode(&self) -> u64 {
        self.inode
    }

    fn permissions(&self) -> u32 {
        0o500
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let fd = text.parse().ok().filter(|fd| i32::to_string(fd) == text).ok_or(Errno::ENOENT)?;
        self.process.get()?.files.get(fd).map_err(|_| Errno::ENOENT)?;
        let inode = self.inode + 64 + u64::from(fd.unsigned_abs());
        Ok(Arc::new(ToFile { link: Link::Descriptor(fd), inode, process: self.process.clone() }))
    }

    fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        // A descriptor's place is its number, so that what is closed meanwhile moves nothing.
        let entry = |fd: i32| {
            let at = u64::from(fd.unsigned_abs()) + 2;
            let name = fd.to_string().into_bytes();
            Entry { name, inode: self.inode + 62 + at, kind: FileKind::Link, next: at + 1 }
        };
        let all = self.process.get()?.files.all().into_iter().map(entry);
        Ok(all.filter(|entry| entry.next > from).collect())
    }
}

/// A link that leads to what a process has.
#[derive(Debug)]
struct ToFile {
    link: Link,
    inode: u64,
    process: Of,
}

impl ToFile {
    /// Where it leads, and by which path; nowhere for what was found by none.
    fn place(&self) -> Result<(Option<Arc<Place>>, Vec<u8>), Errno> {
        let process = self.process.get()?;
        let of_place = |place: Arc<Place>| {
            let path = shown(&place);
            (Some(place), path)
        };
        Ok(match self.link {
            Link::Executable => {
                let path = process.identity.executable.as_bytes().to_vec();
                let file = Granted::alone(&process.identity.image)?;
                (Some(Place::alone(Node::Granted(file), &path)), path)
            }
            Link::Current => of_place(process.paths.current()),
            Link::Root => of_place(Arc::clone(process.paths.root())),
            Link::Descriptor(fd) => {
                let open = process.files.get(fd).map_err(|_| Errno::ENOENT)?;
                match (open.place(), open.object()) {
                    (Some(place), _) => of_place(Arc::clone(place)),
                    (None, Object::Memory(file)) => {
                        let path = unnamed(&open);
                        let name = path.strip_suffix(DELETED).unwrap_or(&path);
                        let node = Node::File(Arc::clone(file));
                        (Some(Place::alone(node, name)), path)
                    }
                    (None, _) => (None, unnamed(&open)),
                }
            }
        })
    }
}

/// What is added to the path of what is no more.
const DELETED: &[u8] = b" (deleted)";

/// A place's path, with what Linux adds if it is no more.
fn shown(place: &Place) -> Vec<u8> {
    let mut path = place.path();
    let gone = place.node().status().is_ok_and(|status| status.links == 0);
    if gone {
        path.extend_from_slice(DELETED);
    }
    path
}

/// What is open without a path.
fn unnamed(open: &Open) -> Vec<u8> {
    match open.object() {
        Object::Stream(stream) => of_stream(stream),
        Object::Memory(file) => file.memory().backing().name().path.into_bytes(),
        Object::File(file) => mm::backing::Backing::name(&**file).path.into_bytes(),
        Object::Userfault(_) => b"anon_inode:[userfaultfd]".to_vec(),
        Object::Device(_) | Object::Made(_) | Object::Directory | Object::Place => Vec::new(),
    }
}

/// What the host calls a stream, but for what would tell where its files are.
fn of_stream(stream: &Stream) -> Vec<u8> {
    let kind = status_of(stream).map(|status| (status.kind, status.inode));
    match kind {
        Ok((FileKind::Other(libc::S_IFIFO), inode)) => format!("pipe:[{inode}]"),
        Ok((FileKind::Other(libc::S_IFSOCK), inode)) => format!("socket:[{inode}]"),
        Ok((FileKind::Character, _)) => "/dev/console".to_owned(),
        _ => "host:[file]".to_owned(),
    }
    .into_bytes()
}

impl Made for ToFile {
    fn kind(&self) -> FileKind {
        FileKind::Link
    }

    fn inode(&self) -> u64 {
        self.inode
    }

    fn permissions(&self) -> u32 {
        0o777
    }

    fn target(&self) -> Result<Vec<u8>, Errno> {
        self.place().map(|(_, path)| path)
    }

    fn jump(&self) -> Option<Jump> {
        let place = self.place();
        // A stream cannot be opened a second time here.
        Some(place.and_then(|(place, _)| place.ok_or(Errno::ENXIO)))
    }
}

/// A number between bounds, as text.
pub(super) fn bounded(bytes: &[u8], least: i64, most: i64) -> Result<i64, Errno> {
    Some(number(bytes)?).filter(|value| (least..=most).contains(value)).ok_or(Errno::EINVAL)
}

/// Bytes of a process's memory, as many as there are.
pub(super) fn bytes(process: &Process, from: VirtAddr, to: VirtAddr) -> Vec<u8> {
    /// The most that is asked for: arguments take no more.
    const MOST: u64 = 6 << 20;
    let len = to.get().saturating_sub(from.get()).min(MOST);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    match process.space.read_for(from, &mut bytes, Accessor::Visitor) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}
