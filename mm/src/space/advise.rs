//! madvise(2), the advice that changes what a page holds (Linux's `madvise_dontneed_free`). Advice
//! that only hints is accepted; the rest comes with the complete VMA layer.

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::paging::FlushBatch;
use crate::vma::VmFlags;

/// What madvise(2) is told, as far as it is known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// A hint without visible effect: `MADV_NORMAL`, `RANDOM`, `SEQUENTIAL`, `WILLNEED`, `COLD`.
    Hint,
    /// Drops the pages: `MADV_DONTNEED`. Anonymous memory reads as zeros afterwards.
    DontNeed,
    /// The pages may be dropped: `MADV_FREE`. They are, at once, which the man page allows.
    Free,
}

impl Advice {
    /// From madvise's number; `None` where Linux, or we so far, answer `EINVAL`.
    #[must_use]
    pub fn from_number(advice: u64) -> Option<Self> {
        match advice {
            0..=3 | 20 => Some(Advice::Hint),
            4 => Some(Advice::DontNeed),
            8 => Some(Advice::Free),
            _ => None,
        }
    }
}

impl AddressSpace {
    /// Takes advice about a range. Over a hole it goes on past it, and then answers `ENOMEM`.
    ///
    /// # Errors
    /// `EINVAL`: address unaligned, length overflows, locked pages, or `MADV_FREE` on memory that is
    /// not anonymous and private. `ENOMEM`: a hole. Source: madvise(2), Linux's `mm/madvise.c`.
    pub fn madvise(&mut self, addr: VirtAddr, len: u64, advice: Advice) -> CallResult<()> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        let aligned = page_align(len).ok_or(Errno::EINVAL)?;
        let end = addr.checked_add(aligned).ok_or(Errno::EINVAL)?;
        if aligned == 0 {
            return Ok(());
        }
        let Some(range) = PageRange::new(addr, end.min(VirtAddr::TASK_END)) else {
            return Err(Errno::ENOMEM.into());
        };
        let mut batch = FlushBatch::new();
        let mut covered = 0;
        let mut refused = None;
        for vma in self.vmas.range(range) {
            let Some(part) = vma.range().intersect(range) else { continue };
            covered += part.len();
            match advice {
                Advice::Hint => {}
                Advice::DontNeed if !vma.flags.contains(VmFlags::LOCKED) => {
                    self.zap(part, &mut batch);
                }
                Advice::Free if vma.backing.is_none() && vma.is_private() => {
                    self.zap(part, &mut batch);
                }
                Advice::DontNeed | Advice::Free => {
                    refused = Some(Errno::EINVAL);
                    break;
                }
            }
        }
        self.finish(batch)?;
        match refused {
            Some(errno) => Err(errno.into()),
            None if covered < end.bytes_from(addr) => Err(Errno::ENOMEM.into()),
            None => Ok(()),
        }
    }
}
