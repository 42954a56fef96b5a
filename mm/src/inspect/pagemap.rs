//! `/proc/PID/pagemap`: a word for each page (Linux's `pte_to_pagemap_entry`, `fs/proc/task_mmu.c`;
//! `Documentation/admin-guide/mm/pagemap.rst`).
//!
//! ```text
//!   63       62       61           60..59  58     57       56         55          54..........0
//!   present  swapped  file, shmem  0       guard  uffd-wp  exclusive  soft-dirty  frame number
//! ```

use std::iter::Peekable;

use bitflags::bitflags;

use super::shown::{Shown, ShownPage};
use crate::addr::{Frame, PAGE_SIZE, PageRange, VirtAddr};
use crate::paging::{Entry, Look, Owner};
use crate::phys::BLOCK_FRAMES;
use crate::space::AddressSpace;
use crate::vma::{VmFlags, Vma};

bitflags! {
    /// A page's word. The bits 0 to 54 of a page that is present are the number of the guest's frame, as
    /// one with `CAP_SYS_ADMIN` sees it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PagemapWord: u64 {
        /// Frame number.
        const FRAME = (1 << 55) - 1;
        /// Written since it was asked for (`clear_refs`): so far only whole VMAs say so.
        const SOFT_DIRTY = 1 << 55;
        /// Named by this entry alone.
        const EXCLUSIVE = 1 << 56;
        /// A userfaultfd is told of its first write.
        const UFFD_WP = 1 << 57;
        /// A guard region's.
        const GUARD = 1 << 58;
        /// A file's, or shared memory's.
        const BACKED = 1 << 61;
        /// Not present, but an entry says something.
        const SWAPPED = 1 << 62;
        /// There.
        const PRESENT = 1 << 63;
    }
}

/// What a mark's word has for a frame: Linux's markers are swap entries of type 31 (`SWP_PTE_MARKER`), and these are the
/// markers 1, 2 and 4 (`PTE_MARKER_UFFD_WP`, `_POISONED`, `_GUARD`).
const PROTECTION_MARKER: u64 = 1 << 5 | 31;
const POISON_MARKER: u64 = 2 << 5 | 31;
const GUARD_MARKER: u64 = 4 << 5 | 31;

/// The words of a range's pages, in order.
#[derive(Debug)]
pub struct Pagemap<'a> {
    space: &'a AddressSpace,
    at: VirtAddr,
    end: VirtAddr,
    leaves: Peekable<Look<'a>>,
    /// The VMA that holds `at`, or the next one, once it was looked for.
    vma: Option<&'a Vma>,
}

/// The words of the pages of a range. Nothing is gathered: each is looked at when it is asked for.
#[must_use]
pub fn pagemap(space: &AddressSpace, range: PageRange) -> Pagemap<'_> {
    space.notice_files(range);
    let leaves = space.table().look(range).peekable();
    let (at, end) = (range.start(), range.end());
    Pagemap { space, at, end, leaves, vma: space.vmas().find(at) }
}

impl Iterator for Pagemap<'_> {
    type Item = PagemapWord;

    fn next(&mut self) -> Option<PagemapWord> {
        if self.at >= self.end {
            return None;
        }
        let at = self.at;
        self.at = at.offset(PAGE_SIZE);
        if self.vma.is_some_and(|vma| vma.range().end() <= at) {
            self.vma = self.space.vmas().find(at);
        }
        let mut word = match self.leaves.next_if(|leaf| leaf.addr == at) {
            Some(leaf) => word(self.space, leaf.entry),
            None => PagemapWord::empty(),
        };
        let vma = self.vma.filter(|vma| vma.range().contains(at));
        let soft_dirty = vma.is_some_and(|vma| vma.flags.contains(VmFlags::SOFTDIRTY));
        word.set(PagemapWord::SOFT_DIRTY, soft_dirty);
        Some(word)
    }
}

fn word(space: &AddressSpace, entry: Entry) -> PagemapWord {
    let mut word = of_page(space, entry);
    let there = word.intersects(PagemapWord::PRESENT | PagemapWord::SWAPPED);
    word.set(PagemapWord::UFFD_WP, there && entry.is_protected());
    word
}

fn of_page(space: &AddressSpace, entry: Entry) -> PagemapWord {
    let frame = |number: u64| PagemapWord::from_bits_retain(number) & PagemapWord::FRAME;
    match Shown::of(space, entry) {
        Shown::Nothing => PagemapWord::empty(),
        // The area's number, 0, in the lowest five bits (`swp_type`), then the place (`swp_offset`).
        Shown::Swapped(slot) => PagemapWord::SWAPPED | frame(slot.number() << 5),
        Shown::Marker if entry.is_guard() => {
            PagemapWord::SWAPPED | PagemapWord::GUARD | frame(GUARD_MARKER)
        }
        Shown::Marker if entry.is_poison() => PagemapWord::SWAPPED | frame(POISON_MARKER),
        Shown::Marker => PagemapWord::SWAPPED | frame(PROTECTION_MARKER),
        Shown::Zeros(zeros) => {
            let mut word = PagemapWord::PRESENT | frame(zeros.number());
            // Linux's huge page of zeros is a page like others to it.
            word.set(PagemapWord::BACKED, entry.is_large());
            word
        }
        Shown::Page(ShownPage { frame: page, maps, .. }) => {
            let mut word = PagemapWord::PRESENT | frame(page.number());
            word.set(PagemapWord::BACKED, entry.owner() == Owner::Backing);
            // Of a huge page Linux asks only who has the first of its pages.
            let first = Frame::new(page.number() & !(BLOCK_FRAMES - 1));
            let maps = if entry.is_huge() { space.system().frames().maps(first) } else { maps };
            word.set(PagemapWord::EXCLUSIVE, maps <= 1);
            word
        }
    }
}
