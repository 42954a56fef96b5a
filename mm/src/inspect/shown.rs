//! What a page-table entry shows of the page behind it: the one place that decides it for smaps, its
//! roll-up and pagemap.
//!
//! ```text
//!   entry                                        shows
//!   ahead, never accessed                        nothing
//!   ahead, only read; the page of zeros          zeros: they count as no page (`vm_normal_page`)
//!   guard region, poison, protection alone       a mark
//!   a place of the swap area                     a swapped page
//!   anything else that names a frame             a page, also where PROT_NONE hides it
//! ```

use crate::addr::{Frame, SwapSlot};
use crate::paging::{Entry, Owner};
use crate::phys::Marks;
use crate::space::{AddressSpace, PageClass};

/// What the program can know of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shown {
    /// Nothing there.
    Nothing,
    /// No page, but a mark: a guard region's, of `UFFDIO_POISON`, or that the page to come is write-protected.
    Marker,
    /// A page that is in the swap area.
    Swapped(SwapSlot),
    /// Zeros that were only read; the frame is the one of all zeros, unless it could not be had.
    Zeros(Frame),
    /// A page.
    Page(ShownPage),
}

/// A page that counts as resident.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShownPage {
    pub(crate) frame: Frame,
    pub(crate) class: PageClass,
    /// How many entries name it, of all processes; at least this one.
    pub(crate) maps: u32,
    pub(crate) dirty: bool,
    /// Accessed through this entry.
    pub(crate) accessed: bool,
    /// The same, or used otherwise.
    pub(crate) referenced: bool,
    /// `MADV_FREE` gave it up, and it was not written since.
    pub(crate) lazy: bool,
}

impl Shown {
    /// What an entry of the space shows.
    pub(crate) fn of(space: &AddressSpace, entry: Entry) -> Self {
        let frames = space.system().frames();
        if entry.is_marker() {
            return Shown::Marker;
        }
        if let Some(slot) = entry.swap_slot() {
            return Shown::Swapped(slot);
        }
        let Some(frame) = entry.frame().filter(|_| entry.is_resident()) else {
            return Shown::Nothing;
        };
        let own = entry.owner() == Owner::Process;
        let only_read = own && entry.is_ahead() && !entry.is_dirty();
        match PageClass::of(entry.asked_for(), frames) {
            Some(class) if !only_read => {
                let marks = frames.marks(frame);
                let dirty = entry.is_dirty() || marks.contains(Marks::DIRTY);
                Shown::Page(ShownPage {
                    frame,
                    class,
                    maps: frames.maps(frame).max(1),
                    dirty,
                    accessed: entry.is_referenced(),
                    referenced: entry.is_referenced() || marks.contains(Marks::REFERENCED),
                    lazy: !dirty && marks.contains(Marks::LAZY),
                })
            }
            _ => Shown::Zeros(frames.zero_frame().unwrap_or(frame)),
        }
    }
}
