//! All anonymous memory of a machine, by number: from what a frame says to the family and the node.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::chain::Entries;
use super::family::{Family, ROOT};
use super::{AnonChain, AnonFamily, Kept};
use crate::addr::{Frame, PAGE_SHIFT, VirtAddr, index};
use crate::failure::FailPoint;
use crate::paging::Entry;
use crate::phys::{AllocError, Frames, ReverseOwner};
use crate::rmap::Mapper;
use crate::space::Counters;

/// Few spaces: as many as take some two microseconds to search.
const FEW_CHAINS: usize = 8;

/// The anonymous memory of a machine (all `anon_vma`s of Linux).
#[derive(Debug, Default)]
pub struct AnonVmas {
    /// A leaf lock: nothing is taken under it.
    places: RwLock<Places>,
    /// Allocations of nodes and chains (Linux's `anon_vma_cachep` and `anon_vma_chain_cachep`). Each counts
    /// that a first write or a fork makes for one VMA.
    pub failures: FailPoint,
}

#[derive(Debug, Default)]
struct Places {
    /// By number, from 1.
    used: Vec<Option<Place>>,
    vacant: Vec<NonZeroU32>,
}

/// Where a node is.
#[derive(Clone, Debug)]
struct Place {
    family: Arc<AnonFamily>,
    at: u32,
}

/// An entry that names a page, as the reverse map finds it. It stays where it is while it is looked at, but
/// may change and vanish: it is changed by compare-and-exchange.
#[derive(Debug)]
pub struct Found<'a> {
    /// The number of its space: a child's is higher than its parent's.
    pub space: u64,
    /// The page's address there.
    pub addr: VirtAddr,
    /// Where the entry is.
    pub slot: &'a AtomicU64,
    /// The entry as it was found.
    pub entry: Entry,
    /// Whose page another would be that took its place there.
    pub owner: ReverseOwner,
    /// What its space counts.
    pub counters: &'a Counters,
}

impl AnonVmas {
    /// A family of its own for memory that is written for the first time (`__anon_vma_prepare`).
    pub(super) fn found(&self, mapper: Mapper) -> Result<(NonZeroU32, Kept), AllocError> {
        if self.failures.refuses() {
            return Err(AllocError::OutOfMemory);
        }
        let family = Arc::new(Family::new());
        let number = self.change().add(Place { family: Arc::clone(&family), at: ROOT });
        let number = number.ok_or(AllocError::OutOfMemory)?;
        // Nobody asks for a number that no frame has.
        let chain = family.found(number.get(), mapper);
        Ok((number, Kept { family, chain }))
    }

    /// What a child has of a family of its parent's (`anon_vma_fork`).
    pub(super) fn fork(
        &self,
        parent: &Kept,
        mapper: Mapper,
    ) -> Result<(NonZeroU32, Kept), AllocError> {
        if self.failures.refuses() {
            return Err(AllocError::OutOfMemory);
        }
        let family = &parent.family;
        let number = |at| {
            let place = Place { family: Arc::clone(family), at };
            self.change().add(place).map(NonZeroU32::get)
        };
        let chain = family.fork(&parent.chain, mapper, number).ok_or(AllocError::OutOfMemory)?;
        let number = NonZeroU32::new(chain.number).ok_or(AllocError::OutOfMemory)?;
        Ok((number, Kept { family: Arc::clone(family), chain }))
    }

    /// Ends what a space has of a family (`unlink_anon_vmas`). Its entries are gone, its page table is not.
    pub(super) fn unlink(&self, kept: &Kept) {
        kept.family.unlink(&kept.chain, |number| self.change().remove(number));
    }

    /// Goes through the entries that name an anonymous frame, in all spaces: each at most once, a parent's
    /// before its child's, until `then` says that it is enough. It costs a search for each space that the
    /// page may be in, and nothing for those that it cannot be in.
    ///
    /// The caller has a reference to the frame, so that it is no other one meanwhile, and no lock that comes
    /// after that of a family; `then` takes none but the allocator's, and does not ask in its turn. Spaces go
    /// on: what is found may have changed when `then` sees it. No entry is missed that is there from the
    /// beginning to the end, even if it is moved, and none that is copied meanwhile from one that was found,
    /// unless it was changed first: who empties all that he finds leaves none behind.
    pub fn entries_of<B>(
        &self,
        frames: &Frames,
        frame: Frame,
        then: impl FnMut(Found<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.entries_in(frames, frame, usize::MAX, then)
    }

    /// The same, but nothing is found if more than a few spaces would have to be searched: for who can do
    /// without.
    pub(crate) fn few_entries_of<B>(
        &self,
        frames: &Frames,
        frame: Frame,
        then: impl FnMut(Found<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.entries_in(frames, frame, FEW_CHAINS, then)
    }

    fn entries_in<B>(
        &self,
        frames: &Frames,
        frame: Frame,
        most: usize,
        mut then: impl FnMut(Found<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(owner) = frames.owner(frame) else { return ControlFlow::Continue(()) };
        let Some(place) = self.place(owner.id) else { return ControlFlow::Continue(()) };
        place.family.each_chain(place.at, owner.id, most, |chain| {
            look(chain, owner, |found| {
                if found.entry.frame() == Some(frame) {
                    then(found)
                } else {
                    ControlFlow::Continue(())
                }
            })
        })
    }

    /// Checks every family.
    ///
    /// # Errors
    /// A sentence about the first invariant that does not hold:
    /// - what a node counts is what there is;
    /// - a chain is linked to its nodes, parents before children, and to their parents;
    /// - chains are of these spaces only.
    pub(crate) fn audit(&self, spaces: &[u64]) -> Result<(), String> {
        let all: Vec<_> = self.look().numbered().map(|(id, place)| (id, place.clone())).collect();
        for (id, Place { family, at }) in all {
            if at == ROOT {
                family.audit()?;
            }
            let mut chains = 0;
            let stranger = family.each_chain(at, id, usize::MAX, |chain| {
                chains += 1;
                let space = chain.mapper.number;
                if spaces.contains(&space) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(space)
                }
            });
            if let ControlFlow::Break(space) = stranger {
                return Err(format!(
                    "anonymous memory {id} is linked to space {space}, which is gone"
                ));
            }
            if chains == 0 {
                return Err(format!("anonymous memory {id} is nowhere"));
            }
        }
        Ok(())
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.look().numbered().count()
    }

    fn place(&self, number: u32) -> Option<Place> {
        self.look().used.get(number.checked_sub(1)? as usize)?.clone()
    }

    fn look(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries for Mapper {
    type Still<'a> = MutexGuard<'a, ()>;

    fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.table.hold_still()
    }
}

/// The entries in one chain's space where the page may be.
fn look<B>(
    chain: &AnonChain,
    owner: ReverseOwner,
    mut then: impl FnMut(Found<'_>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    chain.find(owner.index, |mapper, pages| {
        let Mapper { number: space, table, counters } = mapper;
        let owner = ReverseOwner { id: chain.number, ..owner };
        for addr in pages.map(|page| VirtAddr::new(page << PAGE_SHIFT)) {
            let large = table.large(addr);
            let (slot, entry) = match (&large, table.slot(addr)) {
                (Some(large), _) => (large.slot, large.entry.page_at(addr)),
                (None, Some(slot)) => (slot, Entry::new(slot.load(Ordering::Acquire))),
                (None, None) => continue,
            };
            then(Found { space: *space, addr, slot, entry, owner, counters })?;
        }
        ControlFlow::Continue(())
    })
}

impl Places {
    fn add(&mut self, place: Place) -> Option<NonZeroU32> {
        if let Some(number) = self.vacant.pop() {
            self.used[index(u64::from(number.get() - 1))] = Some(place);
            return Some(number);
        }
        let number = NonZeroU32::new(u32::try_from(self.used.len() + 1).ok()?)?;
        self.used.push(Some(place));
        Some(number)
    }

    fn remove(&mut self, number: u32) {
        let Some(number) = NonZeroU32::new(number) else { return };
        if let Some(place) = self.used.get_mut(number.get() as usize - 1) {
            *place = None;
            self.vacant.push(number);
        }
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Place)> {
        (1..).zip(&self.used).filter_map(|(id, place)| Some((id, place.as_ref()?)))
    }
}
