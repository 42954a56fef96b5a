//! The descriptors of a traced process, and what is behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backing::{Backing, FileMode, OpenFile};
use crate::error::Errno;

/// What a descriptor stands for.
#[derive(Clone, Debug)]
pub(super) enum Descriptor {
    /// Something that can be mapped, or says why not.
    File(Arc<OpenFile>),
    /// Something else, which cannot be mapped: a stream, a userfaultfd.
    Other,
}

/// The descriptors of a process.
#[derive(Clone, Debug)]
pub(super) struct Files(BTreeMap<i32, Descriptor>);

impl Default for Files {
    /// The three standard streams.
    fn default() -> Self {
        Files((0..3).map(|fd| (fd, Descriptor::Other)).collect())
    }
}

impl Files {
    /// The file that mmap(2) shall map.
    pub(super) fn to_map(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        match self.0.get(&fd) {
            Some(Descriptor::File(file)) => Ok(Arc::clone(file) as Arc<dyn Backing>),
            Some(Descriptor::Other) => Err(Errno::ENODEV),
            None => Err(Errno::EBADF),
        }
    }

    /// Makes `fd` stand for something.
    pub(super) fn set(&mut self, fd: i32, descriptor: Descriptor) {
        self.0.insert(fd, descriptor);
    }

    /// Closes `fd`.
    pub(super) fn close(&mut self, fd: i32) {
        self.0.remove(&fd);
    }

    /// The lowest number that stands for nothing.
    pub(super) fn lowest_free(&self) -> i32 {
        (0..).find(|fd| !self.0.contains_key(fd)).unwrap_or(i32::MAX)
    }

    /// Another descriptor of the same open file.
    pub(super) fn dup(&mut self, old: i32, new: i32) {
        if let Some(descriptor) = self.0.get(&old).cloned() {
            self.0.insert(new, descriptor);
        }
    }

    /// A new open of the object behind a descriptor.
    pub(super) fn reopen(&mut self, old: i32, new: i32, mode: FileMode) {
        if let Some(Descriptor::File(file)) = self.0.get(&old) {
            let again = OpenFile::new(Arc::clone(file.object()), mode);
            self.0.insert(new, Descriptor::File(Arc::new(again)));
        }
    }
}
