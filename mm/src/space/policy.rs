//! mbind(2), set_mempolicy(2), get_mempolicy(2): Linux's `mm/mempolicy.c`, as VMAs feel it.

use super::AddressSpace;
use super::range::CallRange;
use crate::addr::{PageRange, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::vma::Vma;
use crate::vma::limits::Capabilities;
use crate::vma::policy::Policy;

/// `MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL`.
const MOVE_FLAGS: u64 = 7;
/// `MPOL_MF_STRICT`.
const STRICT: u64 = 1;
/// `MPOL_MF_MOVE_ALL`.
const MOVE_ALL: u64 = 4;

/// What mbind(2) wants of the pages that are there.
struct Wanted<'a> {
    /// The nodes as the program gave them.
    nodes: u64,
    policy: Option<&'a Policy>,
    flags: u64,
}

impl AddressSpace {
    /// Sets the memory policy of a range. `nodes` has a bit for each node.
    ///
    /// # Errors
    /// In this order: `EINVAL` mode or its flags; `EINVAL` flags; `EPERM` moving all without
    /// `CAP_SYS_NICE`; `EINVAL` address unaligned, range wraps; `EINVAL` nodes; `EFAULT` a hole, or with the
    /// default policy nothing at all, and `EIO` a page on another node with `MPOL_MF_STRICT` alone, whichever
    /// comes first (nothing has changed); `ENOMEM` too many VMAs. Source: mbind(2), Linux's `do_mbind`.
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
        let Some(range) = CallRange::wrapped(addr, len)? else { return Ok(()) };
        let policy = Policy::new(mode, nodes, self.system.nodes())?;
        self.check_pages(range, &Wanted { nodes, policy: policy.as_ref(), flags })?;
        // A hole was refused above, or is none to the default policy.
        let _ = self.walk_parts(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            if vma.policy() == policy.as_ref() {
                return Ok(part.end());
            }
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.set_policy(policy);
            space.modify(changed, old)
        })?;
        Ok(())
    }

    /// What is looked at before anything changes: holes, and with `MPOL_MF_STRICT` pages that are where
    /// they should not be (Linux's `queue_pages_range`). Every page is on node 0.
    fn check_pages(&self, range: CallRange, wanted: &Wanted<'_>) -> Result<(), Errno> {
        // Pages that may be moved are no failure; the default policy has them anywhere.
        let strict = wanted.flags & MOVE_FLAGS == STRICT && wanted.policy.is_some();
        let whole = wanted.policy.is_some();
        let user = range.user_half().ok_or(Errno::EFAULT)?;
        let mut parts = self.vmas.range(user).peekable();
        let first = parts.peek().ok_or(Errno::EFAULT)?;
        if whole && first.range().start() > range.start() {
            return Err(Errno::EFAULT);
        }
        while let Some(vma) = parts.next() {
            let goes_on =
                parts.peek().is_some_and(|next| next.range().start() == vma.range().end());
            if whole && vma.range().end() < range.end() && !goes_on {
                return Err(Errno::EFAULT);
            }
            let Some(part) = vma.range().intersect(user) else { continue };
            if strict && wanted.nodes & 1 == 0 && self.has_pages(vma, part) {
                return Err(Errno::EIO);
            }
        }
        Ok(())
    }

    /// Whether a page is there that is on some node: zeros that were only read are on none.
    fn has_pages(&self, vma: &Vma, part: PageRange) -> bool {
        self.table.look(part).any(|leaf| {
            let own = || leaf.entry.is_dirty() || self.is_lazy(leaf.entry);
            leaf.entry.frame().is_some() && (vma.backing.is_some() || own())
        })
    }

    /// The policy of the VMA at an address; `None` for the default one.
    ///
    /// # Errors
    /// `EFAULT` nothing mapped there. Source: get_mempolicy(2) with `MPOL_F_ADDR`.
    pub fn policy_at(&self, addr: VirtAddr) -> CallResult<Option<Policy>> {
        let vma = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?;
        Ok(vma.policy().copied())
    }
}
