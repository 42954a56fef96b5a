//! msync(2): Linux's `mm/msync.c`.

use super::AddressSpace;
use crate::addr::{VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::vma::VmFlags;

const MS_ASYNC: u64 = 1;
const MS_INVALIDATE: u64 = 2;
const MS_SYNC: u64 = 4;

impl AddressSpace {
    /// Writes changed pages of shared files back. No backing here has anything to write back yet, so
    /// only the checks are left.
    ///
    /// # Errors
    /// In this order: `EINVAL` unknown flags, address unaligned, both `ASYNC` and `SYNC`; `ENOMEM` the
    /// range wraps; then going upwards `ENOMEM` a hole (at once with `MS_ASYNC` alone, else at the
    /// end), `EBUSY` locked with `MS_INVALIDATE`. Source: msync(2).
    pub fn msync(&self, addr: VirtAddr, len: u64, flags: u64) -> CallResult<()> {
        if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
            || !addr.is_page_aligned()
            || flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC
        {
            return Err(Errno::EINVAL.into());
        }
        // A length that overflows is an empty range.
        let len = page_align(len).unwrap_or(0);
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        let (mut at, mut hole) = (addr, false);
        while at < end {
            let range = self.vmas.find_range(at).ok_or(Errno::ENOMEM)?;
            if at < range.start() {
                if flags == MS_ASYNC || range.start() >= end {
                    return Err(Errno::ENOMEM.into());
                }
                hole = true;
            }
            if flags & MS_INVALIDATE != 0
                && self.vmas.find(at).is_some_and(|vma| vma.flags.contains(VmFlags::LOCKED))
            {
                return Err(Errno::EBUSY.into());
            }
            at = range.end();
        }
        if hole { Err(Errno::ENOMEM.into()) } else { Ok(()) }
    }
}
