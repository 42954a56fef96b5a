//! What a trace's descriptors refer to.

use std::ops::Range;
use std::sync::Arc;

use super::{Linux, Task};
use crate::addr::Frame;
use crate::backing::{
    Backing, BackingError, BackingName, FileMode, OpenFile, Placement, Seals, SharedMemory, no_sync,
};
use crate::error::{Broken, Errno};
use crate::vma::{MapFlags, VmFlags};

/// What kind of object a descriptor refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    /// A memfd.
    Memfd,
    /// A regular file on a file system that places maps for huge pages, as ext4 does.
    File,
    /// Something that cannot be mapped.
    Unmappable,
}

/// A regular file in memory.
#[derive(Debug)]
struct RegularFile(SharedMemory);

impl Backing for RegularFile {
    fn page(&self, index: u64) -> Result<Frame, BackingError> {
        self.0.page(index)
    }

    fn name(&self) -> BackingName {
        self.0.name()
    }

    fn placement(&self) -> Placement {
        Placement::HugeAligned
    }

    fn validated_flags(&self) -> MapFlags {
        MapFlags::SYNC
    }

    fn map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        no_sync(flags)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.0.is_resident(index)
    }

    fn punch(&self, pages: Range<u64>) -> Result<(), Errno> {
        self.0.punch(pages)
    }
}

impl Linux {
    /// Makes `fd` refer to a new object of so many pages.
    ///
    /// # Errors
    /// [`Broken`] when there is no such task.
    pub fn open(
        &mut self,
        task: Task,
        fd: i32,
        kind: ObjectKind,
        pages: u64,
        mode: FileMode,
        seals: Seals,
    ) -> Result<(), Broken> {
        let memory = |path: &dyn Fn(u64) -> String| {
            let inode = self.system.new_inode();
            let name = BackingName { major: 0, minor: 1, inode, path: path(inode) };
            let memory = SharedMemory::file(Arc::clone(self.system.frames()), pages, name);
            let _ = memory.add_seals(seals);
            memory
        };
        let file = match kind {
            ObjectKind::Memfd => {
                let memory = memory(&|_| "/memfd:trace (deleted)".to_owned());
                Arc::new(OpenFile::new(Arc::new(memory), mode))
            }
            ObjectKind::File => {
                let file = RegularFile(memory(&|inode| format!("/trace/{inode}")));
                Arc::new(OpenFile::new(Arc::new(file), mode))
            }
            ObjectKind::Unmappable => Arc::new(OpenFile::unmappable(mode)),
        };
        self.files(task)?.set(fd, file);
        Ok(())
    }

    /// Makes `fd` another open of what `of` refers to.
    ///
    /// # Errors
    /// [`Broken`] when there is no such task.
    pub fn reopen(&mut self, task: Task, of: i32, fd: i32, mode: FileMode) -> Result<(), Broken> {
        self.files(task)?.reopen(of, fd, mode);
        Ok(())
    }

    /// Makes `fd` the same open as `old`.
    ///
    /// # Errors
    /// [`Broken`] when there is no such task.
    pub fn dup(&mut self, task: Task, old: i32, fd: i32) -> Result<(), Broken> {
        self.files(task)?.dup(old, fd);
        Ok(())
    }

    /// Closes `fd`.
    ///
    /// # Errors
    /// [`Broken`] when there is no such task.
    pub fn close(&mut self, task: Task, fd: i32) -> Result<(), Broken> {
        self.files(task)?.close(fd);
        Ok(())
    }
}
