//! `/proc`, as programs that look at memory read it (Linux's `fs/proc`).
//!
//! ```text
//!   Root ── self ──> PID      a link, for who asks
//!     ├── PID ── Directory ── Entry: a text, a link, or a file at offsets (mem, pagemap)
//!     ├── meminfo, cpuinfo ...
//!     └── sys/ ...
//! ```
//!
//! A text is made anew whenever it is read from its beginning. What is open of a process does not keep it: it reads as
//! empty when that has ended, or has another program.

mod memory;
mod process;
mod settings;
mod system;
mod text;
mod words;

use std::fmt;
use std::sync::{Arc, Weak};

use mm::error::Errno;

use crate::files::FileKind;
use crate::files::tree::{Entry, Made, Node};
use crate::task::{Family, Process};

/// The first inode number of a process's files, for each process.
const INODES: u64 = 1 << 20;

/// `/proc` itself.
struct Root(Weak<Family>);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/proc")
    }
}

/// `/proc` of these processes.
#[must_use]
pub fn root(family: &Arc<Family>) -> Node {
    Node::Made(Arc::new(Root(Arc::downgrade(family))))
}

impl Root {
    fn family(&self) -> Result<Arc<Family>, Errno> {
        self.0.upgrade().ok_or(Errno::ENOENT)
    }
}

impl Made for Root {
    fn inode(&self) -> u64 {
        1
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        let family = self.family()?;
        match name {
            b"self" => return Ok(Arc::new(ToSelf)),
            b"thread-self" => return Ok(Arc::new(ToSelf)),
            _ => {}
        }
        if let Some(pid) = number(name) {
            let process = family.process(pid).ok_or(Errno::ENOENT)?;
            return Ok(Arc::new(process::Directory::new(pid, process)));
        }
        system::lookup(&family, name)
    }

    fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        let family = self.family()?;
        let named = system::names().map(|(name, kind)| (name.as_bytes().to_vec(), kind));
        let links = [(b"self".to_vec(), FileKind::Link)];
        let processes = family.pids().into_iter();
        let processes = processes.map(|pid| (pid.to_string().into_bytes(), FileKind::Directory));
        Ok(numbered(links.into_iter().chain(named).chain(processes), from))
    }
}

/// Names as entries, of which the first is at place 2.
fn numbered(names: impl Iterator<Item = (Vec<u8>, FileKind)>, from: u64) -> Vec<Entry> {
    let all = (2..).zip(names).filter(|(at, _)| *at >= from);
    all.map(|(at, (name, kind))| Entry { inode: at, kind, next: at + 1, name }).collect()
}

/// A process's number, as a name.
fn number(name: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(name).ok()?;
    let number = text.parse().ok()?;
    // Neither a sign nor zeros before it.
    (number > 0 && text == i32::to_string(&number)).then_some(number)
}

/// `/proc/self`.
#[derive(Debug)]
struct ToSelf;

impl Made for ToSelf {
    fn kind(&self) -> FileKind {
        FileKind::Link
    }

    fn inode(&self) -> u64 {
        2
    }

    fn permissions(&self) -> u32 {
        0o777
    }

    fn target(&self) -> Result<Vec<u8>, Errno> {
        Ok(mm::current::pid().to_string().into_bytes())
    }
}

/// A process, as long as it has the program that it had.
#[derive(Clone)]
struct Of(Weak<Process>);

impl fmt::Debug for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a process")
    }
}

impl Of {
    /// `ESRCH` it has ended.
    fn get(&self) -> Result<Arc<Process>, Errno> {
        self.0.upgrade().ok_or(Errno::ESRCH)
    }
}
