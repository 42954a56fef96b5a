//! Files of a process whose offsets mean something: its memory, and its page map.

use std::sync::Arc;

use mm::addr::{PAGE_SIZE, PageRange, VirtAddr};
use mm::calls::{Caller, PAGEMAP_SCAN, pagemap_scan};
use mm::error::{CallResult, Errno};
use mm::inspect::pagemap;

use super::Of;
use crate::files::FileKind;
use crate::files::tree::{Made, MadeFile, Offsets};

/// Which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `mem`: the bytes at an address.
    Memory,
    /// `pagemap`: a word for each page.
    Pagemap,
}

/// Such a file.
#[derive(Clone, Debug)]
pub(super) struct AtOffsets {
    pub(super) kind: Kind,
    pub(super) inode: u64,
    pub(super) process: Of,
}

impl Made for AtOffsets {
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn inode(&self) -> u64 {
        self.inode
    }

    fn permissions(&self) -> u32 {
        match self.kind {
            Kind::Memory => 0o600,
            Kind::Pagemap => 0o400,
        }
    }

    fn open(&self) -> Result<Arc<dyn MadeFile>, Errno> {
        self.process.get()?;
        Ok(Arc::new(self.clone()))
    }
}

/// How many bytes were moved, of some.
fn some(count: usize) -> CallResult<usize> {
    if count == 0 { Err(Errno::EIO.into()) } else { Ok(count) }
}

impl MadeFile for AtOffsets {
    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize> {
        // Of who has ended there is nothing.
        let Ok(process) = self.process.get() else { return Ok(0) };
        match self.kind {
            Kind::Memory => some(process.space.read_forced(VirtAddr::new(offset), into)?),
            Kind::Pagemap => {
                let wrong = |number: usize| !number.is_multiple_of(8);
                if wrong(into.len()) || !offset.is_multiple_of(8) {
                    return Err(Errno::EINVAL.into());
                }
                let start = (offset / 8).checked_mul(PAGE_SIZE).map(VirtAddr::new);
                let Some(start) = start.filter(|&start| start < VirtAddr::TASK_END) else {
                    return Ok(0);
                };
                let most = VirtAddr::TASK_END.bytes_from(start) / PAGE_SIZE;
                let pages = (into.len() as u64 / 8).min(most);
                let Some(range) = PageRange::from_len(start, pages * PAGE_SIZE) else {
                    return Ok(0);
                };
                let space = process.space.look();
                let mut count = 0;
                for (word, to) in pagemap(&space, range).zip(into.chunks_exact_mut(8)) {
                    to.copy_from_slice(&word.bits().to_le_bytes());
                    count += 8;
                }
                Ok(count)
            }
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> CallResult<usize> {
        if self.kind == Kind::Pagemap {
            return Err(Errno::EINVAL.into());
        }
        let Ok(process) = self.process.get() else { return Ok(0) };
        some(process.space.write_forced(VirtAddr::new(offset), bytes)?)
    }

    fn ioctl(&self, caller: &dyn Caller, request: u64, argument: VirtAddr) -> CallResult<u64> {
        match (self.kind, request) {
            (Kind::Memory, _) => Err(Errno::ENOTTY.into()),
            (Kind::Pagemap, PAGEMAP_SCAN) => {
                let process = self.process.get().ok();
                pagemap_scan(caller, process.as_ref().map(|process| &*process.space), argument)
            }
            (Kind::Pagemap, _) => Err(Errno::EINVAL.into()),
        }
    }

    fn offsets(&self) -> Offsets {
        match self.kind {
            Kind::Memory => Offsets::All,
            Kind::Pagemap => Offsets::SoughtAnywhere,
        }
    }
}
