//! What an address space tells the reverse map of anonymous memory: which VMAs have whose pages (Linux's
//! `anon_vma_prepare`, `anon_vma_fork`), and what is written into a frame's record when it becomes a page
//! (`folio_add_new_anon_rmap`) or is taken over by its last owner (`page_move_anon_rmap`).

use super::AddressSpace;
use crate::addr::{Frame, FrameRun, VirtAddr};
use crate::paging::Entry;
use crate::phys::{AllocError, ReverseOwner};
use crate::rmap::SpaceChains;
use crate::rules::Rule;
use crate::vma::merge::may_share;
use crate::vma::{AnonId, Lineage, VmFlags, Vma};

impl AddressSpace {
    /// Gives a VMA that is about to get its first own page the identity of its anonymous memory; a
    /// neighbour's where the two could be one VMA but for it (`find_mergeable_anon_vma`).
    ///
    /// # Errors
    /// [`AllocError`] when there is no memory for it; nothing has changed.
    pub(super) fn prepare_anon(&self, vma: &Vma) -> Result<(), AllocError> {
        if vma.anon().is_some() || !self.rule(Rule::Identity) {
            return Ok(());
        }
        let neighbour = || {
            let right = self.vmas.get(vma.range().end()).filter(|next| may_share(vma, next));
            let left = self.vmas.prev(vma.range().start()).filter(|prev| may_share(prev, vma));
            let own = |vma: &Vma| vma.anon().filter(|id| id.lineage() == Lineage::Own);
            let neighbour = right.and_then(own).or_else(|| left.and_then(own));
            neighbour.filter(|_| self.rule(Rule::IdentityReuse))
        };
        self.chains.prepare(self.system.anon(), vma, || self.mapper(), neighbour)
    }

    /// A new identity of anonymous memory, which no VMA has yet: for one that is
    /// [adopted](Self::adopt).
    ///
    /// # Errors
    /// [`AllocError`] when there is no memory for it.
    pub(crate) fn new_anon(&self, lineage: Lineage) -> Result<AnonId, AllocError> {
        self.chains.begin(self.system.anon(), self.mapper(), lineage)
    }

    /// The identity of the child's copy of a VMA: each becomes a branch of its own of the memory's family.
    pub(super) fn branch(
        &self,
        vma: &Vma,
        child: &AddressSpace,
    ) -> Result<Option<AnonId>, AllocError> {
        if vma.anon().is_none() || vma.flags.contains(VmFlags::WIPEONFORK) {
            return Ok(None);
        }
        let inherited = self.rule(Rule::ForkLineage);
        let lineage = if inherited { Lineage::Inherited } else { Lineage::Own };
        let (all, mapper) = (self.system.anon(), child.mapper());
        self.chains.fork_into(&child.chains, all, vma, mapper, lineage)
    }

    /// Notes where the pages of the VMA at `addr` are, which has grown or merged.
    pub(super) fn attach_at(&self, addr: VirtAddr) {
        if let Some(found) = self.vmas.near(addr) {
            self.chains.attach(found.span());
        }
    }

    /// What the space has of anonymous memory.
    pub(crate) fn chains(&self) -> &SpaceChains {
        &self.chains
    }

    /// Says of new frames whose pages they are: those of the VMA from `page` on. Before they have entries.
    pub(super) fn own_pages(&self, vma: &Vma, page: VirtAddr, run: FrameRun) {
        if let Some(id) = vma.anon() {
            let owner = ReverseOwner { id: id.number(), index: vma.page_index(page) };
            self.system.frames().set_owners(run, owner);
        }
    }

    /// Takes over the page of an entry, which nobody else names: others need not be asked about it any
    /// more.
    pub(super) fn take_over(&self, vma: &Vma, entry: Entry) {
        if let (Some(id), Some(frame)) = (vma.anon(), entry.frame()) {
            self.system.frames().move_owner(frame, id.number());
        }
    }
}

/// One frame as a run.
pub(super) fn run_of(start: Frame) -> FrameRun {
    FrameRun { start, count: 1 }
}
