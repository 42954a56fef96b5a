//! mseal(2): Linux's `mm/mseal.c`.

use super::AddressSpace;
use crate::addr::{VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::vma::VmFlags;

impl AddressSpace {
    /// Seals the VMAs of the range: from then on they can be neither unmapped, moved nor changed.
    ///
    /// # Errors
    /// In this order: `EINVAL` flags, address unaligned, length or range wraps; `ENOMEM` a hole
    /// (nothing is sealed then), or too many VMAs (what is before is sealed). Source: mseal(2).
    pub fn mseal(&mut self, addr: VirtAddr, len: u64, flags: u64) -> CallResult<()> {
        if flags != 0 || !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        let len = page_align(len).ok_or(Errno::EINVAL)?;
        let Some(range) = super::control::whole(addr, len)? else { return Ok(()) };
        let mut covered = range.start();
        for vma in self.vmas.range(range) {
            if vma.range().start() > covered {
                return Err(Errno::ENOMEM.into());
            }
            covered = vma.range().end();
        }
        if covered < range.end() {
            return Err(Errno::ENOMEM.into());
        }
        self.walk(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.flags.contains(VmFlags::SEALED) {
                return Ok(part.end());
            }
            let flags = vma.flags | VmFlags::SEALED;
            Ok(space.modify_flags(part, flags)?)
        })
    }
}
