//! The descriptors of a traced process, and what is behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backing::{Backing, FileMode, OpenFile};
use crate::error::Errno;

/// The descriptors of a process, and the open file behind each.
#[derive(Clone, Debug)]
pub(super) struct Files(BTreeMap<i32, Arc<OpenFile>>);

impl Default for Files {
    /// The three standard streams, as a terminal has them: open for both.
    fn default() -> Self {
        let stream = Arc::new(OpenFile::unmappable(FileMode::READ | FileMode::WRITE));
        Files((0..3).map(|fd| (fd, Arc::clone(&stream))).collect())
    }
}

impl Files {
    /// The file that mmap(2) shall map.
    pub(super) fn to_map(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        let file = self.0.get(&fd).ok_or(Errno::EBADF)?;
        Ok(Arc::clone(file) as Arc<dyn Backing>)
    }

    /// Makes `fd` stand for something.
    pub(super) fn set(&mut self, fd: i32, file: Arc<OpenFile>) {
        self.0.insert(fd, file);
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
        if let Some(file) = self.0.get(&old).cloned() {
            self.0.insert(new, file);
        }
    }

    /// A new open of the object behind a descriptor.
    pub(super) fn reopen(&mut self, old: i32, new: i32, mode: FileMode) {
        if let Some(file) = self.0.get(&old) {
            let again = OpenFile::new(Arc::clone(file.object()), mode);
            self.0.insert(new, Arc::new(again));
        }
    }
}
