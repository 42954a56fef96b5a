//! What one address space has of anonymous memory: a chain for each identity that its VMAs have.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ranges::Piece;
use super::{AnonVmas, Kept};
use crate::addr::PAGE_SHIFT;
use crate::phys::AllocError;
use crate::rmap::Mapper;
use crate::vma::{AnonId, Lineage, Vma};

/// The chains of one space, by identity. The ranges of each are those of the VMAs that have it.
///
/// A lock of its own, since a fault may be the first write to a VMA; else the space's lock is held
/// exclusively.
#[derive(Debug, Default)]
pub(crate) struct SpaceChains(Mutex<BTreeMap<u32, Kept>>);

impl SpaceChains {
    /// A new identity, with a family of its own. It is in no VMA yet.
    pub(crate) fn begin(
        &self,
        all: &AnonVmas,
        mapper: Mapper,
        lineage: Lineage,
    ) -> Result<AnonId, AllocError> {
        begin(&mut self.lock(), all, mapper, lineage)
    }

    /// Gives a VMA an identity before its first own page comes, unless it has one: `neighbour`'s, or a new
    /// one. Nobody else in this space does so meanwhile.
    pub(crate) fn prepare(
        &self,
        all: &AnonVmas,
        vma: &Vma,
        mapper: impl FnOnce() -> Mapper,
        neighbour: impl FnOnce() -> Option<AnonId>,
    ) -> Result<(), AllocError> {
        let mut chains = self.lock();
        if vma.anon().is_some() {
            return Ok(());
        }
        let id = match neighbour() {
            Some(id) => id,
            None => begin(&mut chains, all, mapper(), Lineage::Own)?,
        };
        add(&chains, id, vma);
        vma.adopt_anon(id);
        Ok(())
    }

    /// The identity of a VMA's child in `child`, which has the same pages at first.
    pub(crate) fn fork_into(
        &self,
        child: &SpaceChains,
        all: &AnonVmas,
        vma: &Vma,
        mapper: Mapper,
        lineage: Lineage,
    ) -> Result<Option<AnonId>, AllocError> {
        let parents = self.lock();
        let Some(kept) = vma.anon().and_then(|id| parents.get(&id.number())) else {
            return Ok(None);
        };
        let (number, kept) = all.fork(kept, mapper)?;
        kept.chain.add(piece_of(vma));
        child.lock().insert(number.get(), kept);
        Ok(Some(AnonId::of(number, lineage)))
    }

    /// Notes where a VMA's pages are; what is known already stays. Before there are entries.
    #[inline]
    pub(crate) fn attach(&self, vma: &Vma) {
        if let Some(id) = vma.anon() {
            add(&self.lock(), id, vma);
        }
    }

    /// Notes that a VMA's pages are not there any more. The entries are gone.
    #[inline]
    pub(crate) fn detach(&self, all: &AnonVmas, vma: &Vma) {
        if let Some(id) = vma.anon() {
            self.shrink(all, id, vma);
        }
    }

    fn shrink(&self, all: &AnonVmas, id: AnonId, vma: &Vma) {
        let mut chains = self.lock();
        let last = chains.get(&id.number()).is_some_and(|kept| kept.chain.remove(piece_of(vma)));
        if last && let Some(kept) = chains.remove(&id.number()) {
            all.unlink(&kept);
        }
    }

    /// Ends all chains. The entries are gone, the root of the page table is not.
    pub(crate) fn clear(&self, all: &AnonVmas) {
        let chains = std::mem::take(&mut *self.lock());
        chains.values().for_each(|kept| all.unlink(kept));
    }

    /// Checks that the chains say what the VMAs do.
    ///
    /// # Errors
    /// A sentence about the first that does not.
    pub(crate) fn audit<'a>(&self, vmas: impl Iterator<Item = &'a Vma>) -> Result<(), String> {
        // By identity: what is noted, and how many pages the VMAs have.
        let noted = self.lock();
        let mut noted: BTreeMap<u32, (Vec<Piece>, u64)> =
            noted.iter().map(|(&id, kept)| (id, (kept.chain.pieces(), 0))).collect();
        for vma in vmas {
            let (Some(id), piece) = (vma.anon(), piece_of(vma)) else { continue };
            let Some((pieces, pages)) = noted.get_mut(&id.number()) else {
                return Err(format!("no chain is that of {vma:?}"));
            };
            if !pieces.iter().any(|known| known.covers(piece)) {
                return Err(format!("its chain does not know {vma:?}, only {pieces:x?}"));
            }
            *pages += piece.pages();
        }
        for (id, (pieces, pages)) in noted {
            let known: u64 = pieces.iter().map(|piece| piece.pages()).sum();
            if known != pages || pages == 0 {
                return Err(format!("chain {id} knows {pieces:x?}, its VMAs have {pages} pages"));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin(
    chains: &mut BTreeMap<u32, Kept>,
    all: &AnonVmas,
    mapper: Mapper,
    lineage: Lineage,
) -> Result<AnonId, AllocError> {
    let (number, kept) = all.found(mapper)?;
    chains.insert(number.get(), kept);
    Ok(AnonId::of(number, lineage))
}

fn add(chains: &BTreeMap<u32, Kept>, id: AnonId, vma: &Vma) {
    if let Some(kept) = chains.get(&id.number()) {
        kept.chain.add(piece_of(vma));
    }
}

fn piece_of(vma: &Vma) -> Piece {
    Piece::new(vma.range().start().get() >> PAGE_SHIFT, vma.range().pages(), vma.pgoff)
}
