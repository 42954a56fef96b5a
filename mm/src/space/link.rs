//! What an address space tells the objects that it shows: where (Linux's `vma_link_file` and
//! `__remove_shared_vm_struct`), and that their pages have to stay for a moment.

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::VirtAddr;
use crate::rmap::{Held, Mapper, ObjectMaps, Writes};
use crate::segments::Segment;
use crate::vma::Vma;

impl AddressSpace {
    /// The space's number: a child's is higher than its parent's.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Tells a VMA's object that the space shows it there, and the reverse map where its own pages may be.
    /// Before there can be entries.
    pub(super) fn link(&self, vma: &Vma) {
        if let Some(maps) = maps_of(vma) {
            maps.add(&self.mapper(), vma.range(), vma.pgoff, Writes::of(vma.flags));
        }
        if let Some(segment) = segment_of(vma) {
            segment.opened();
        }
        self.chains.attach(vma);
    }

    /// Tells a VMA's object that the space does not show it there any more, and the reverse map that none of
    /// its pages is there. The entries are gone.
    pub(super) fn unlink(&self, vma: &Vma) {
        if let (Some(maps), Some(backing)) = (maps_of(vma), &vma.backing) {
            if !maps.remove(self.number, vma.range()) {
                backing.unmapped(&self.system);
            }
            if let Some(memory) = backing.huge() {
                memory.close(vma);
            }
        }
        if let Some(segment) = segment_of(vma) {
            segment.closed();
        }
        self.chains.detach(self.system.anon(), vma);
    }

    /// What the reverse map has to know of the space.
    pub(super) fn mapper(&self) -> Mapper {
        let (table, counters) = (Arc::clone(&self.table), Arc::clone(&self.counters));
        Mapper { number: self.number, table, counters }
    }

    /// Keeps the page at `addr`, if it is an object's or a copy of it: other spaces may take those away.
    /// Anonymous memory is this space's affair. Not while another is held.
    pub(super) fn hold(&self, addr: VirtAddr) -> Option<Held<'_>> {
        self.vmas.find_exact(addr).and_then(maps_of).map(ObjectMaps::hold)
    }
}

/// Where the VMA's object is mapped, if it wants to know.
pub(crate) fn maps_of(vma: &Vma) -> Option<&ObjectMaps> {
    vma.backing.as_ref()?.maps()
}

/// The segment that the VMA shows, if that is what it shows.
pub(super) fn segment_of(vma: &Vma) -> Option<&Segment> {
    vma.backing.as_ref()?.segment()
}
