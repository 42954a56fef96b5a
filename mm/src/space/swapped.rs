//! What a space's calls do with pages that are in the swap area.
//!
//! ```text
//!   fork             one user more of the place
//!   mprotect, MADV_COLD   nothing: the page has its permission when it comes back
//!   munmap, MADV_DONTNEED, MADV_FREE, exit   one user less
//!   mremap           the entry moves
//!   mlock, populate  a fault brings it in
//!   MADV_WILLNEED    read into the cache, where a fault will find it
//! ```
//!
//! Entries come and go from outside (`reclaim/swap`): at any moment while the table is not held still, one that named
//! a page may name its place, and be flushed only later. So an operation waits at its end until that is done
//! (`Reclaim::wait_for_flush`).

use super::AddressSpace;
use crate::addr::{Frame, PageRange};
use crate::backing::BackingError;
use crate::error::Broken;
use crate::paging::{Entry, Owner};
use crate::phys::{FrameKind, Marks};
use crate::rmap::ObjectMaps;
use crate::vma::{VmFlags, Vma};

/// How many pages are read ahead at a time.
const AT_ONCE: usize = 64;

impl AddressSpace {
    /// One entry more names the place of this one's page, if it is in the swap area.
    pub(super) fn dup_swapped(&self, entry: Entry) {
        if let (Some(swap), Some(slot)) = (self.system.swap(), entry.swap_slot()) {
            swap.dup(slot);
        }
    }

    /// Whether pages of a VMA may not be swapped out, which each of their entries has to tell.
    pub(super) fn keeps_in_memory(&self, vma: &Vma) -> bool {
        vma.flags.contains(VmFlags::LOCKED) && self.system.swap().is_some()
    }

    /// Whether the page of an object's that this entry of a VMA names could leave memory but for a lock on it: a pager's,
    /// and with a swap area shared memory's.
    pub(crate) fn object_page_could_go(&self, vma: &Vma, entry: Entry) -> bool {
        let swapped = || self.system.swap().is_some() && self.is_of_shared_memory(entry);
        vma.backing.as_ref().is_some_and(|backing| backing.is_paged()) || swapped()
    }

    /// Whether the page is an object's that can be swapped out.
    pub(super) fn is_of_shared_memory(&self, entry: Entry) -> bool {
        let kind = entry.frame().and_then(|frame| self.system.frames().kind(frame));
        kind == Some(FrameKind::Shared)
    }

    /// Whether the page of an entry is in the swap area, but in memory as well (`mincore_swap`).
    pub(super) fn is_swap_cached(&self, entry: Entry) -> bool {
        match (self.system.swap(), entry.swap_slot()) {
            (Some(swap), Some(slot)) => swap.is_cached(slot),
            _ => false,
        }
    }

    /// Gives up the place of the page of an entry of the process's own, if nobody needs it there: then its only owner
    /// may write it in place.
    pub(super) fn release_place_of(&self, entry: Entry) -> Result<(), Broken> {
        match entry.frame() {
            Some(frame) if entry.owner() == Owner::Process => self.release_place(frame),
            _ => Ok(()),
        }
    }

    /// The same of a frame.
    pub(super) fn release_place(&self, frame: Frame) -> Result<(), Broken> {
        let frames = self.system.frames();
        match self.system.swap() {
            Some(swap) if frames.marks(frame).contains(Marks::SWAP_CACHED) => {
                swap.release(frames, frame)
            }
            _ => Ok(()),
        }
    }

    /// `MADV_WILLNEED` of pages in the swap area: as many as there is memory for (`swapin_walk_pmd_entry`,
    /// `shmem_swapin_range`).
    pub(super) fn swap_in_ahead(&self, vma: &Vma, part: PageRange) -> Result<(), Broken> {
        let Some(swap) = self.system.swap() else { return Ok(()) };
        let frames = self.system.frames();
        if let Some(backing) = &vma.backing {
            let pages = vma.page_index(part.start())..vma.page_index(part.end());
            let _held = backing.maps().map(ObjectMaps::hold);
            let pages = backing.swapped(pages);
            for pages in pages.chunks(AT_ONCE) {
                backing.read_ahead(pages)?;
            }
            for page in pages {
                match backing.page(page, self) {
                    Ok(frame) => frames.put(frame)?,
                    Err(BackingError::OutOfMemory) => break,
                    Err(BackingError::NoPage) => {}
                    Err(BackingError::Broken(broken)) => return Err(broken),
                }
            }
            return Ok(());
        }
        let leaves = self.table.cursor(part);
        let swapped = leaves.filter_map(|leaf| Some((leaf.addr, leaf.entry.swap_slot()?)));
        let (addrs, slots): (Vec<_>, Vec<_>) = swapped.unzip();
        for (addrs, slots) in addrs.chunks(AT_ONCE).zip(slots.chunks(AT_ONCE)) {
            swap.read_ahead(frames, slots, |i| self.wish_for(vma, addrs[i]))?;
        }
        Ok(())
    }
}
