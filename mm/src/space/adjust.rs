//! Cutting VMAs and merging them, accounted for, and told where Linux tells its uprobes: `vma_prepare` and
//! `vma_complete`, around every change of a VMA's bounds. Only maps of files are told.
//!
//! ```text
//!                    file_unmapped      file_mapped            file_unmapped, of what is no more
//!   split            the whole          the kept half, the new one
//!   new, left        prev               prev, grown
//!   new, right       next               next, grown
//!   new, both        prev               prev, grown            next
//!   whole, left      prev               prev, grown            middle
//!   whole, right     next               next, grown            middle
//!   whole, both      prev               prev, grown            middle, next
//!   part, left       prev, middle       prev, middle
//!   part, right      middle, next       middle, next
//! ```

use super::AddressSpace;
use super::link::segment_of;
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::hooks::Observer;
use crate::rules::Rule;
use crate::vma::merge::{self, Merge, Merged, Origin};
use crate::vma::split::{self, cut_out};
use crate::vma::{VmFlags, Vma};

/// Which half of a VMA that is cut is the new one (`new_below` of Linux's `__split_vma`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NewHalf {
    Lower,
    Upper,
}

/// The VMAs around a range before it changes, where somebody is to be told: those that touch it, and the
/// one that it is a part of.
struct Before {
    left: Option<Vma>,
    middle: Option<Vma>,
    right: Option<Vma>,
}

impl AddressSpace {
    /// Cuts the VMA that contains `addr` in two there, unless it begins there. The tree must have room
    /// for one more.
    ///
    /// # Errors
    /// As of [`split::split_at`].
    pub(super) fn split_at(&mut self, addr: VirtAddr, new: NewHalf) -> CallResult<()> {
        let whole = self.system.observer().and_then(|_| self.vmas.find_exact(addr).cloned());
        let page = PageRange::from_len(addr, PAGE_SIZE);
        page.into_iter().for_each(|page| self.notice_files(page));
        split::split_at(&mut self.vmas, addr)?;
        self.split_over(addr)?;
        if let (Some(whole), Some(observer)) = (whole, self.system.observer()) {
            tell_split(observer, &whole, addr, new);
        }
        Ok(())
    }

    /// Gives a part of a VMA other attributes (`vma_modify`), and accounts for it. Returns where the
    /// VMA ends that it is part of then.
    ///
    /// # Errors
    /// `ENOMEM`: it would have to be cut and there are too many VMAs, or no memory for one more.
    pub(super) fn modify(&mut self, changed: Vma, old: VmFlags) -> CallResult<VirtAddr> {
        let (range, flags, pages) = (changed.range(), changed.flags, changed.range().pages());
        let max = self.max_map_count();
        self.reserve(2)?;
        self.split_ends(range)?;
        self.notice_files(range);
        let before = self.before(range);
        let result = if self.rule(Rule::Rejoin) {
            split::modify(&mut self.vmas, changed, max)
        } else {
            cut_out(&mut self.vmas, changed, max).map(|end| (end, None))
        };
        if let (Some(before), Some(observer)) = (&before, self.system.observer()) {
            match result {
                Ok((_, Some(how))) => self.tell_merged(observer, before, range, how),
                Ok((_, None)) => tell_cut_out(observer, before, range),
                // The cut at the start may have been made.
                Err(_) if self.vmas.get(range.start()).is_some() => {
                    tell_cut_at(observer, before, range.start());
                }
                Err(_) => {}
            }
        }
        let (end, merged) = result?;
        self.counters.merges.count(merged);
        if merged.is_some() {
            self.attach_at(range.start());
        }
        self.account.remove(old, pages);
        self.account.add(flags, pages);
        Ok(end)
    }

    /// Gives a part of the VMA that contains it other flags. See [`Self::modify`].
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub(super) fn modify_flags(
        &mut self,
        range: PageRange,
        flags: VmFlags,
    ) -> CallResult<VirtAddr> {
        let vma = self.vmas.find_exact(range.start()).ok_or(Errno::ENOMEM)?;
        let old = vma.flags;
        let mut changed = vma.part(range);
        changed.flags = flags;
        self.modify(changed, old)
    }

    /// Inserts a VMA into the hole it fits in, merged where it can be. Returns the start of the VMA it
    /// is part of then. The tree must have room for one more.
    pub(super) fn insert_merged(&mut self, vma: Vma, origin: Origin) -> VirtAddr {
        let range = vma.range();
        let before = self.before(range);
        // One that becomes a part of another does not count.
        let counted = segment_of(&vma).and_then(|_| vma.backing.clone());
        let (start, how) = merge::insert_merged(&mut self.vmas, vma, origin);
        if let Some(segment) =
            counted.as_ref().filter(|_| how.is_some()).and_then(|of| of.segment())
        {
            segment.merged();
        }
        self.merged_new(before, range, how, origin);
        start
    }

    /// Makes a hole part of its neighbours, if `vma`, which would fill it, is the same memory. Returns
    /// the VMA that has grown.
    pub(super) fn merge_new(&mut self, vma: &Vma, origin: Origin) -> Option<Merged> {
        let before = self.before(vma.range());
        let merged = merge::merge_new(&mut self.vmas, vma, origin);
        self.merged_new(before, vma.range(), merged.map(|merged| merged.how), origin);
        merged
    }

    fn merged_new(
        &mut self,
        before: Option<Before>,
        range: PageRange,
        how: Option<Merge>,
        origin: Origin,
    ) {
        self.counters.merges.count(how);
        if how.is_some() {
            // Its identity may be that of all now.
            self.attach_at(range.start());
        }
        let (Some(before), Some(how), Some(observer)) = (before, how, self.system.observer())
        else {
            return;
        };
        if origin == Origin::Moved {
            // Probes go along with the page-table entries (Linux's `skip_vma_uprobe`).
            before.tell_ends(observer, how);
            before.tell_gone(observer, how);
        } else {
            self.tell_merged(observer, &before, range, how);
        }
    }

    /// What is around a range, if somebody wants to know and a file is there.
    #[inline]
    fn before(&self, range: PageRange) -> Option<Before> {
        self.system.observer().and_then(|_| self.around(range))
    }

    /// What is around a range, if a file is there.
    fn around(&self, range: PageRange) -> Option<Before> {
        let (left, right) = self.vmas.touching(range);
        let middle = self.vmas.find_exact(range.start());
        let files = [left, middle, right].into_iter().flatten().any(|vma| vma.backing.is_some());
        let [left, middle, right] = [left, middle, right].map(Option::<&Vma>::cloned);
        files.then_some(Before { left, middle, right })
    }

    /// A range has become one with its neighbours.
    fn tell_merged(&self, observer: &dyn Observer, before: &Before, range: PageRange, how: Merge) {
        before.tell_ends(observer, how);
        let target = self.vmas.find_exact(range.start());
        let (first, second) = match how {
            Merge::PartLeft => (target, self.vmas.get(range.end())),
            Merge::PartRight => (self.vmas.prev(range.start()), target),
            _ => (target, None),
        };
        for vma in [first, second].into_iter().flatten().filter(|vma| vma.backing.is_some()) {
            observer.file_mapped(vma);
        }
        before.tell_gone(observer, how);
    }
}

impl Before {
    /// The VMAs whose bounds a merge changes, as they were.
    fn tell_ends(&self, observer: &dyn Observer, how: Merge) {
        let (left, middle, right) = (&self.left, &self.middle, &self.right);
        let (first, second) = match how {
            Merge::NewLeft | Merge::NewBoth | Merge::WholeLeft | Merge::WholeBoth => (left, &None),
            Merge::NewRight | Merge::WholeRight => (right, &None),
            Merge::PartLeft => (left, middle),
            Merge::PartRight => (middle, right),
        };
        tell_unmapped(observer, [first, second]);
    }

    /// The VMAs that a merge takes away.
    fn tell_gone(&self, observer: &dyn Observer, how: Merge) {
        let (first, second) = match how {
            Merge::NewBoth => (&None, &self.right),
            Merge::WholeLeft | Merge::WholeRight => (&self.middle, &None),
            Merge::WholeBoth => (&self.middle, &self.right),
            Merge::NewLeft | Merge::NewRight | Merge::PartLeft | Merge::PartRight => (&None, &None),
        };
        tell_unmapped(observer, [first, second]);
    }
}

fn tell_unmapped(observer: &dyn Observer, vmas: [&Option<Vma>; 2]) {
    for vma in vmas.into_iter().flatten().filter(|vma| vma.backing.is_some()) {
        observer.file_unmapped(vma, vma.range());
    }
}

/// A range was cut out of the VMA that it was a part of: at its start, then at its end.
fn tell_cut_out(observer: &dyn Observer, before: &Before, range: PageRange) {
    let Some(whole) = &before.middle else { return };
    tell_cut_at(observer, before, range.start());
    if let Some(rest) = PageRange::new(range.start(), whole.range().end()) {
        tell_split(observer, &whole.part(rest), range.end(), NewHalf::Upper);
    }
}

/// The VMA that a range is a part of was cut at the range's start.
fn tell_cut_at(observer: &dyn Observer, before: &Before, start: VirtAddr) {
    if let Some(whole) = &before.middle {
        tell_split(observer, whole, start, NewHalf::Lower);
    }
}

/// A VMA was cut in two at `addr`, if that is inside it.
fn tell_split(observer: &dyn Observer, whole: &Vma, addr: VirtAddr, new: NewHalf) {
    let range = whole.range();
    let halves = (PageRange::new(range.start(), addr), PageRange::new(addr, range.end()));
    let (Some(lower), Some(upper), Some(_)) = (halves.0, halves.1, &whole.backing) else { return };
    observer.file_unmapped(whole, range);
    let (kept, made) = match new {
        NewHalf::Lower => (upper, lower),
        NewHalf::Upper => (lower, upper),
    };
    observer.file_mapped(&whole.part(kept));
    observer.file_mapped(&whole.part(made));
}
