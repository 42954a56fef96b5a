//! The descriptors of a traced process, and what is behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backing::{Backing, FileMode, HugeMemory, OpenFile, Seals, SharedMemory};
use crate::error::{CallResult, Errno};
use crate::system::System;

/// An open file.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    /// The open: what maps of it are the same memory.
    pub(super) file: Arc<OpenFile>,
    /// What can change about it.
    pub(super) length: Length,
}

/// What decides about an object's length.
#[derive(Clone, Debug)]
pub(super) enum Length {
    /// It has none.
    None,
    /// A memfd, which can be sealed against changes of it, or a regular file.
    Memory(Arc<SharedMemory>),
    /// A memfd of huge pages.
    HugePages(Arc<HugeMemory>),
}

impl From<Arc<OpenFile>> for Descriptor {
    fn from(file: Arc<OpenFile>) -> Self {
        Descriptor { file, length: Length::None }
    }
}

/// The descriptors of a process.
#[derive(Clone, Debug)]
pub(super) struct Files(BTreeMap<i32, Descriptor>);

impl Default for Files {
    /// The three standard streams, as a terminal has them: open for both.
    fn default() -> Self {
        let stream = OpenFile::unmappable(FileMode::READ | FileMode::WRITE);
        let stream = Descriptor::from(Arc::new(stream));
        Files((0..3).map(|fd| (fd, stream.clone())).collect())
    }
}

impl Files {
    /// The file that mmap(2) shall map.
    pub(super) fn to_map(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        let descriptor = self.0.get(&fd).ok_or(Errno::EBADF)?;
        Ok(Arc::clone(&descriptor.file) as Arc<dyn Backing>)
    }

    /// Makes `fd` stand for something.
    pub(super) fn set(&mut self, fd: i32, descriptor: impl Into<Descriptor>) {
        self.0.insert(fd, descriptor.into());
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
        if let Some(Descriptor { file, length }) = self.0.get(&old).cloned() {
            let file = Arc::new(OpenFile::new(Arc::clone(file.object()), mode));
            self.0.insert(new, Descriptor { file, length });
        }
    }

    /// Seals a memfd (`F_ADD_SEALS`, which has succeeded).
    pub(super) fn seal(&self, fd: i32, seals: Seals) {
        let _ = match self.0.get(&fd).map(|descriptor| &descriptor.length) {
            Some(Length::Memory(memory)) => memory.add_seals(seals),
            Some(Length::HugePages(memory)) => memory.add_seals(seals),
            Some(Length::None) | None => Ok(()),
        };
    }

    /// Changes the length of a file, in bytes (ftruncate(2)).
    ///
    /// # Errors
    /// In this order: `EINVAL` negative; `EBADF`; `EINVAL` not a file that has a length, or not open for
    /// writing, or huge pages cut; `EPERM` a seal. Source: Linux's `do_sys_ftruncate`.
    pub(super) fn truncate(&self, fd: i32, len: u64, system: &System) -> CallResult<()> {
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL.into());
        }
        let Descriptor { file, length } = self.0.get(&fd).ok_or(Errno::EBADF)?;
        match length {
            _ if !file.mode().contains(FileMode::WRITE) => Err(Errno::EINVAL.into()),
            Length::Memory(memory) => memory.truncate(len, system),
            Length::HugePages(memory) => memory.truncate(len, system),
            Length::None => Err(Errno::EINVAL.into()),
        }
    }
}
