//! mseal(2): Linux's `mm/mseal.c`.

use super::AddressSpace;
use super::range::{CallRange, Coverage};
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::rules::Rule;
use crate::vma::VmFlags;

impl AddressSpace {
    /// Seals the VMAs of the range: from then on they can be neither unmapped, moved nor changed.
    ///
    /// # Errors
    /// In this order: `EINVAL` flags, address unaligned, length or range wraps; `ENOMEM` a hole
    /// (nothing is sealed then), or too many VMAs (what is before is sealed). Source: mseal(2).
    pub fn mseal(&mut self, addr: VirtAddr, len: u64, flags: u64) -> CallResult<()> {
        if flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        let Some(range) = CallRange::aligned(addr, len)? else { return Ok(()) };
        if self.coverage(range) == Coverage::Holes {
            return Err(Errno::ENOMEM.into());
        }
        self.walk(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.flags.contains(VmFlags::SEALED) || !space.rule(Rule::Seal) {
                return Ok(part.end());
            }
            let flags = vma.flags | VmFlags::SEALED;
            space.modify_flags(part, flags)
        })
    }
}
