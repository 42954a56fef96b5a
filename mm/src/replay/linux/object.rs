//! What a trace's descriptors refer to.

use std::ops::Range;
use std::sync::Arc;

use super::files::{Descriptor, Length};
use super::{Linux, Task};
use crate::addr::{Frame, PAGE_SHIFT};
use crate::backing::{
    Backing, BackingError, BackingName, FileMode, HugeMemory, OpenFile, Placement, Seals,
    SharedMemory, no_sync,
};
use crate::error::{Broken, CallResult, Errno};
use crate::paging::AccessKind;
use crate::promise::Payer;
use crate::rmap::ObjectMaps;
use crate::rules::Rule;
use crate::system::System;
use crate::vma::{MapFlags, VmFlags};

/// What kind of object a descriptor refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    /// A memfd.
    Memfd,
    /// A memfd of huge pages, of so many bytes each (`MFD_HUGETLB`): 2 MiB or 1 GiB. Its length is not known.
    HugeMemfd(u64),
    /// A regular file on a file system that places maps for huge pages, as ext4 does.
    File,
    /// Something that cannot be mapped.
    Unmappable,
}

/// The length, in pages, of an object whose length is not known.
pub(super) const LONG_ENOUGH: u64 = u64::MAX >> PAGE_SHIFT;

/// The most pages of a regular file: ext4's largest file has 2^32 - 1 blocks.
const LARGEST_FILE: u64 = u32::MAX as u64;

/// A regular file in memory.
#[derive(Debug)]
struct RegularFile(Arc<SharedMemory>);

impl Backing for RegularFile {
    fn page(&self, index: u64, payer: &dyn Payer) -> Result<Frame, BackingError> {
        self.0.page(index, payer)
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

    fn map(&self, flags: VmFlags, _: Range<u64>) -> Result<VmFlags, Errno> {
        no_sync(flags)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.0.is_resident(index)
    }

    fn residency(&self, pages: Range<u64>) -> Vec<bool> {
        self.0.residency(pages)
    }

    fn at_hand(&self, pages: Range<u64>) -> Vec<Option<Frame>> {
        self.0.at_hand(pages)
    }

    fn prepare(&self, index: u64, kind: AccessKind) -> Result<(), BackingError> {
        self.0.prepare(index, kind)
    }

    fn wants_write_notify(&self) -> bool {
        self.0.wants_write_notify()
    }

    fn punch(&self, pages: Range<u64>, system: &System) -> CallResult<()> {
        if pages.end > LARGEST_FILE {
            // fallocate(2) looks at that first. Maps may lie past it.
            return Err(Errno::EFBIG.into());
        }
        self.0.punch(pages, system)
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        self.0.maps()
    }
}

impl Linux {
    /// A memfd or another object of shared memory, of so many pages.
    pub(super) fn shared_memory(&self, pages: u64, name: BackingName) -> Arc<SharedMemory> {
        SharedMemory::file(Arc::clone(self.system.frames()), pages, name)
            .promised_by_page(self.system.no_promise())
            .swappable(&self.system)
    }

    /// A regular file of so many pages.
    pub(super) fn regular_file(&self, pages: u64, name: BackingName) -> Arc<dyn Backing> {
        Arc::new(RegularFile(self.file_memory(pages, name)))
    }

    fn file_memory(&self, pages: u64, name: BackingName) -> Arc<SharedMemory> {
        Arc::new(SharedMemory::file(Arc::clone(self.system.frames()), pages, name))
    }

    /// Makes `fd` refer to a new object of so many pages; `seals` are a memfd's.
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
        let name = |path| BackingName { major: 0, minor: 1, inode: self.system.new_inode(), path };
        let open = |object: Arc<dyn Backing>| Arc::new(OpenFile::new(object, mode));
        let descriptor = match kind {
            ObjectKind::Memfd => {
                let name = name("/memfd:trace (deleted)".to_owned());
                let memory = self.shared_memory(pages, name);
                // Nothing seals it against seals yet.
                let _ = memory.add_seals(seals);
                Descriptor { file: open(Arc::clone(&memory) as _), length: Length::Memory(memory) }
            }
            ObjectKind::HugeMemfd(size) => {
                let none = || Broken::Invariant(format!("there are no pages of {size} bytes"));
                let pool = self.system.huge_pool(size).ok_or_else(none)?;
                let memory = HugeMemory::file(pool, name("/memfd:trace (deleted)".to_owned()));
                let memory = Arc::new(memory);
                let _ = memory.add_seals(seals);
                let file = open(Arc::clone(&memory) as _);
                Descriptor { file, length: Length::HugePages(memory) }
            }
            ObjectKind::File => {
                let memory = self.file_memory(pages, name(format!("/trace/{fd}")));
                let object = Arc::new(RegularFile(Arc::clone(&memory)));
                Descriptor { file: open(object), length: Length::Memory(memory) }
            }
            ObjectKind::Unmappable => Arc::new(OpenFile::unmappable(mode)).into(),
        };
        self.files(task)?.set(fd, descriptor);
        Ok(())
    }

    /// Changes the length of the file that `fd` refers to, in bytes (ftruncate(2)).
    ///
    /// # Errors
    /// `EINVAL`: negative, not a file that has a length, not open for writing; `EBADF`; `EPERM` a seal.
    pub fn truncate(&mut self, task: Task, fd: i32, len: u64) -> CallResult<()> {
        self.files(task)?.truncate(fd, len, &self.system)
    }

    /// Makes `fd` another open of what `of` refers to.
    ///
    /// # Errors
    /// [`Broken`] when there is no such task.
    pub fn reopen(&mut self, task: Task, of: i32, fd: i32, mode: FileMode) -> Result<(), Broken> {
        if self.system.rules.apply(Rule::OpenFile) {
            self.files(task)?.reopen(of, fd, mode);
        } else {
            self.files(task)?.dup(of, fd);
        }
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
