//! mbind(2), set_mempolicy_home_node(2), and what get_mempolicy(2) tells: Linux's `mm/mempolicy.c`, as VMAs feel it.

use std::sync::Arc;

use super::AddressSpace;
use super::migrate::{Queue, Shared, Target};
use super::range::CallRange;
use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr};
use crate::backing::SharedPolicies;
use crate::error::{Broken, CallResult, Errno};
use crate::numa::{self, Which};
use crate::phys::{FrameKind, Order, Wish};
use crate::vma::Vma;
use crate::vma::limits::Capabilities;
use crate::vma::policy::{Mode, Policy};

/// `MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL`.
const MOVE_FLAGS: u64 = 7;
/// `MPOL_MF_STRICT`.
const STRICT: u64 = 1;
/// `MPOL_MF_MOVE`: pages that nobody else has.
pub(crate) const MOVE: u64 = 2;
/// `MPOL_MF_MOVE_ALL`: also those that others have.
pub(crate) const MOVE_ALL: u64 = 4;

/// What mbind(2) wants of the pages that are there.
struct Wanted<'a> {
    /// The nodes as the program gave them.
    nodes: u64,
    policy: Option<&'a Policy>,
    flags: u64,
}

impl Wanted<'_> {
    /// Whether a page on this node is where it should not be.
    fn is_misplaced(&self, node: u8) -> bool {
        self.nodes >> node & 1 == 0
    }
}

impl AddressSpace {
    /// Sets the memory policy of a range. `nodes` has a bit for each node. With `MPOL_MF_MOVE` or `MPOL_MF_MOVE_ALL` the
    /// pages that are on other nodes are moved to where the policy has them.
    ///
    /// # Errors
    /// In this order: `EINVAL` mode or its flags; `EINVAL` flags; `EPERM` moving all without
    /// `CAP_SYS_NICE`; `EINVAL` address unaligned, range wraps; `EINVAL` nodes; `EFAULT` a hole, or with the
    /// default policy nothing at all, and `EIO` a page on another node with `MPOL_MF_STRICT` alone, whichever
    /// comes first (nothing has changed); `ENOMEM` too many VMAs; `EIO` a page that could not be moved, with
    /// `MPOL_MF_STRICT` (all else is done). Source: mbind(2), Linux's `do_mbind`.
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
        self.settle_for_policy(range)?;
        let wanted = Wanted { nodes, policy: policy.as_ref(), flags };
        self.check_pages(range, &wanted)?;
        let mut queue = match range.user_half() {
            Some(user) if flags & (MOVE | MOVE_ALL) != 0 => {
                self.queue_pages(user, |node| wanted.is_misplaced(node), Shared::by_flags(flags))?
            }
            _ => Queue::default(),
        };
        if let Err(error) = self.change_policies(range, |_| Ok(Some(policy))) {
            self.put_back(&queue)?;
            return Err(error);
        }
        if let Some(user) = range.user_half().filter(|_| flags & (MOVE | MOVE_ALL) != 0) {
            self.split_remnants(user, |node| wanted.is_misplaced(node))?;
        }
        let failed = queue.not_queued() + self.migrate(&mut queue, Target::ByPolicy)?.left();
        if failed > 0 && flags & STRICT != 0 && policy.is_some() {
            return Err(Errno::EIO.into());
        }
        Ok(())
    }

    /// Sets the node with which looking for a page begins, for the policies of a range.
    ///
    /// # Errors
    /// In this order: `EINVAL` address unaligned; `EINVAL` any flag; `EINVAL` no such node; `EINVAL` range wraps;
    /// `EOPNOTSUPP` a policy that has none (those before it are changed); `ENOENT` no policy at all; `ENOMEM` too many
    /// VMAs. Source: Linux's `sys_set_mempolicy_home_node`.
    pub fn set_home_node(
        &mut self,
        addr: VirtAddr,
        len: u64,
        node: u64,
        flags: u64,
    ) -> CallResult<()> {
        if !addr.is_page_aligned() || flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        let home =
            u8::try_from(node).ok().filter(|&node| node < self.system.frames().nodes().count());
        let home = Some(home.ok_or(Errno::EINVAL)?);
        let Some(range) = CallRange::wrapped(addr, len)? else { return Ok(()) };
        self.settle_for_policy(range)?;
        let mut any = false;
        self.change_policies(range, |vma| match vma.policy() {
            None => Ok(None),
            Some(policy) if matches!(policy.mode, Mode::Bind | Mode::PreferredMany) => {
                any = true;
                Ok(Some(Some(Policy { home, ..*policy })))
            }
            Some(_) => Err(Errno::EOPNOTSUPP),
        })?;
        if any { Ok(()) } else { Err(Errno::ENOENT.into()) }
    }

    /// The running task's policy becomes another: what was brought in ahead of a touch is to come from where that has it.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub(crate) fn policy_changes(&self) -> Result<(), Broken> {
        match CallRange::of_pages(VirtAddr::ZERO, VirtAddr::TASK_END.get()) {
            Ok(Some(all)) => self.settle_for_policy(all),
            _ => Ok(()),
        }
    }

    /// The same of a range.
    fn settle_for_policy(&self, range: CallRange) -> Result<(), Broken> {
        match range.user_half().filter(|_| !self.system.frames().nodes().is_one()) {
            Some(range) => self.settle(range),
            None => Ok(()),
        }
    }

    /// Gives each VMA in a range the policy that `of` answers with; none where it answers with nothing (`mbind_range`).
    /// Holes are passed over.
    fn change_policies(
        &mut self,
        range: CallRange,
        mut of: impl FnMut(&Vma) -> Result<Option<Option<Policy>>, Errno>,
    ) -> CallResult<()> {
        let _ = self.walk_parts(range, |space, part| {
            let vma = space.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
            let Some(policy) = of(vma)?.filter(|policy| vma.policy() != policy.as_ref()) else {
                return Ok(part.end());
            };
            let old = vma.flags;
            let mut changed = vma.part(part);
            changed.set_policy(policy);
            let first = changed.pgoff;
            let object = vma.backing.as_ref().filter(|backing| backing.policies().is_some());
            let object = object.map(Arc::clone);
            let end = space.modify(changed, old)?;
            if let Some(policies) = object.as_ref().and_then(|object| object.policies()) {
                policies.set(first..first.saturating_add(part.pages()), policy)?;
            }
            Ok(end)
        })?;
        Ok(())
    }

    /// What is looked at before anything changes: holes, and with `MPOL_MF_STRICT` alone pages that are where
    /// they should not be (Linux's `queue_pages_range`).
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
            if strict && self.has_misplaced(vma, part, wanted) {
                return Err(Errno::EIO);
            }
        }
        Ok(())
    }

    /// Whether a page is there that is on a node where it should not be: zeros that were only read are on none.
    fn has_misplaced(&self, vma: &Vma, part: PageRange, wanted: &Wanted<'_>) -> bool {
        let frames = self.system.frames();
        self.table.look(part).any(|leaf| {
            let own = || leaf.entry.is_dirty() || self.is_lazy(leaf.entry);
            let frame = leaf.entry.frame().filter(|_| vma.backing.is_some() || own());
            let page = frame.filter(|&frame| frames.kind(frame) != Some(FrameKind::Zero));
            page.is_some_and(|page| wanted.is_misplaced(frames.nodes().of(page)))
        })
    }

    /// The policy of the memory at an address, which get_mempolicy(2) tells with `MPOL_F_ADDR`; `None` for the default
    /// one.
    ///
    /// # Errors
    /// `EFAULT` nothing mapped there. Source: `do_get_mempolicy`.
    pub fn policy_at(&self, addr: VirtAddr) -> CallResult<Option<Policy>> {
        let vma = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?;
        Ok(vma.policy_of(addr))
    }

    /// From which nodes a page of the process's own is to come (`get_vma_policy`).
    #[inline]
    pub(super) fn wish_for(&self, vma: &Vma, page: VirtAddr) -> Wish {
        if self.system.frames().nodes().is_one() {
            return Wish::ANY;
        }
        self.wish_of_order(vma, page, Order::PAGE)
    }

    /// The same of 2 MiB.
    pub(super) fn wish_for_huge(&self, vma: &Vma, start: VirtAddr) -> Wish {
        self.wish_of_order(vma, start, Order::HUGE)
    }

    /// The same of a run of this size.
    pub(super) fn wish_of_order(&self, vma: &Vma, start: VirtAddr, order: Order) -> Wish {
        let pages = order.frames();
        let base = vma.backing.as_ref().and_then(|backing| backing.policies());
        let base = base.map_or(0, SharedPolicies::base);
        let inside = start.bytes_from(vma.range().start()) >> PAGE_SHIFT;
        let index = base.wrapping_add(vma.pgoff / pages).wrapping_add(inside / pages);
        let nodes = self.system.frames().nodes();
        numa::wish(nodes, vma.policy_of(start).as_ref(), Which::Index(index))
    }

    /// Whether the pages around this one come from several nodes.
    #[inline]
    pub(super) fn interleaves(&self, vma: &Vma, page: VirtAddr) -> bool {
        let nodes = self.system.frames().nodes();
        !nodes.is_one() && numa::interleaves(nodes, vma.policy_of(page).as_ref())
    }
}
