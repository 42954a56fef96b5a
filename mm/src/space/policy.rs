//! mbind(2), set_mempolicy(2), get_mempolicy(2): Linux's `mm/mempolicy.c`, as VMAs feel it.

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{VirtAddr, page_align};
use crate::error::{CallResult, Errno};
use crate::vma::limits::Capabilities;
use crate::vma::policy::Policy;

/// `MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL`.
const MOVE_FLAGS: u64 = 7;
/// `MPOL_MF_MOVE_ALL`.
const MOVE_ALL: u64 = 4;

impl AddressSpace {
    /// Sets the memory policy of a range. `nodes` has a bit for each node.
    ///
    /// # Errors
    /// In this order: `EINVAL` mode or its flags; `EINVAL` flags; `EPERM` moving all without
    /// `CAP_SYS_NICE`; `EINVAL` address unaligned, range wraps; `EINVAL` nodes; `EFAULT` a hole (nothing
    /// has changed); `ENOMEM` too many VMAs. Source: mbind(2), Linux's `do_mbind`.
    pub fn mbind(
        &mut self,
        addr: VirtAddr,
        len: u64,
        mode: u64,
        nodes: u64,
        flags: u64,
    ) -> CallResult<()> {
        Policy::check_mode(mode)?;
        if flags & !MOVE_FLAGS != 0 {
            return Err(Errno::EINVAL.into());
        }
        if flags & MOVE_ALL != 0 && !self.limits.may(Capabilities::SYS_NICE) {
            return Err(Errno::EPERM.into());
        }
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        // A length that overflows is an empty range.
        let len = page_align(len).unwrap_or(0);
        let Some(range) = super::control::whole(addr, len)? else { return Ok(()) };
        let policy = Policy::new(mode, nodes, self.system.nodes())?.map(Arc::new);
        let mut covered = range.start();
        for vma in self.vmas.range(range) {
            if vma.range().start() > covered {
                return Err(Errno::EFAULT.into());
            }
            covered = vma.range().end();
        }
        if covered < range.end() {
            return Err(Errno::EFAULT.into());
        }
        self.walk(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.policy == policy {
                return Ok(part.end());
            }
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.policy.clone_from(&policy);
            Ok(space.modify(changed, old)?)
        })
    }

    /// The policy of the VMA at an address; `None` for the default one.
    ///
    /// # Errors
    /// `EFAULT` nothing mapped there. Source: get_mempolicy(2) with `MPOL_F_ADDR`.
    pub fn policy_at(&self, addr: VirtAddr) -> CallResult<Option<Policy>> {
        let vma = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?;
        Ok(vma.policy.as_deref().copied())
    }
}
