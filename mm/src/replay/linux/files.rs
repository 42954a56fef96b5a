//! The descriptors of a traced process, and what is behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::addr::PAGE_SIZE;
use crate::backing::{Backing, FileMode, OpenFile, Seals, SharedMemory};
use crate::error::Errno;
use crate::replay::engine::Reply;

/// What a descriptor stands for.
#[derive(Clone, Debug)]
pub(super) enum Descriptor {
    /// Something that can be mapped, or says why not.
    File(Arc<OpenFile>),
    /// The same of a memfd, with the memory behind it.
    Memfd(Arc<OpenFile>, Arc<SharedMemory>),
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
            Some(Descriptor::File(file) | Descriptor::Memfd(file, _)) => {
                Ok(Arc::clone(file) as Arc<dyn Backing>)
            }
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
        let again = |file: &OpenFile| Arc::new(OpenFile::new(Arc::clone(file.object()), mode));
        let again = match self.0.get(&old) {
            Some(Descriptor::File(file)) => Descriptor::File(again(file)),
            Some(Descriptor::Memfd(file, memory)) => {
                Descriptor::Memfd(again(file), Arc::clone(memory))
            }
            Some(Descriptor::Other) | None => return,
        };
        self.0.insert(new, again);
    }

    /// Seals a memfd (`F_ADD_SEALS`, which has succeeded).
    pub(super) fn seal(&self, fd: i32, seals: Seals) {
        if let Some(Descriptor::Memfd(_, memory)) = self.0.get(&fd) {
            let _ = memory.add_seals(seals);
        }
    }

    /// Gives a memfd another length, in bytes (ftruncate(2), which has succeeded). Files have any. What
    /// a memfd loses is not taken from those who map it: that is not supported.
    pub(super) fn truncate(&self, fd: i32, len: u64) -> Reply<()> {
        let Some(Descriptor::Memfd(_, memory)) = self.0.get(&fd) else { return Reply::Is(()) };
        let pages = len.div_ceil(PAGE_SIZE);
        if pages < memory.pages() || memory.set_pages(pages).is_err() {
            return Reply::Unsupported;
        }
        Reply::Is(())
    }
}
