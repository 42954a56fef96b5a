//! Which neighbours are one VMA (Linux's `vma_merge` in today's form, `mm/vma.c`): a range that is new,
//! or one that exists and is about to change; merged to the left, to the right, or both.
//!
//! ```text
//!                   prev      range      next
//!   new, left     [AAAAAAAA][.........]            ->  [AAAAAAAAAAAAAAAAAA]
//!   new, right              [.........][AAAAAAAA]  ->            [AAAAAAAAAAAAAAAAAA]
//!   new, both     [AAAAAAAA][.........][AAAAAAAA]  ->  [AAAAAAAAAAAAAAAAAAAAAAAAAAA]
//!
//!                   prev      middle, of which all or a part is to become A
//!   whole, left   [AAAAAAAA][BBBBBBBBB]            ->  [AAAAAAAAAAAAAAAAAA]
//!   whole, right            [BBBBBBBBB][AAAAAAAA]  ->            [AAAAAAAAAAAAAAAAAA]
//!   whole, both   [AAAAAAAA][BBBBBBBBB][AAAAAAAA]  ->  [AAAAAAAAAAAAAAAAAAAAAAAAAAA]
//!   part, left    [AAAAAAAA][bbbbBBBBB]            ->  [AAAAAAAAAAAA][BBBBB]
//!   part, right             [BBBBBbbbb][AAAAAAAA]  ->  [BBBBB][AAAAAAAAAAAA]
//! ```
//!
//! Merging never fails and never allocates: it makes VMAs fewer, or moves a border.

mod outcome;

use std::sync::Arc;

pub use outcome::{Merge, Merged};

use super::area::{AnonId, Lineage, Vma};
use super::flags::VmFlags;
use super::tree::Tree;
use crate::addr::{PageRange, VirtAddr};
use crate::backing::Backing;

/// Where the memory that is to be merged comes from. It decides whether memory that came by fork may
/// lend its identity to a neighbour that has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// mmap(2): memory that was never written to.
    New,
    /// The end of the VMA before it, which grows (Linux's `vma_merge_extend`).
    Extension,
    /// mremap(2): a copy of a VMA elsewhere.
    Moved,
    /// A VMA that is there and changes.
    Existing,
}

/// Whether `right`, which begins where `left` ends, is the same kind of memory going on: everything
/// but the anonymous identity (Linux's `is_mergeable_vma` and its check of offsets).
#[must_use]
pub fn continues(left: &Vma, right: &Vma) -> bool {
    left.range().end() == right.range().start()
        && (left.flags ^ right.flags).difference(VmFlags::STICKY).is_empty()
        && same(left.backing.as_ref(), right.backing.as_ref())
        && left.pgoff.wrapping_add(left.range().pages()) == right.pgoff
        && left.has_rare_of(right)
}

/// Whether two neighbours could share their anonymous identity: they differ at most in what mprotect(2)
/// may change (Linux's `anon_vma_compatible`). Then they can merge once they are equal.
#[must_use]
pub fn may_share(left: &Vma, right: &Vma) -> bool {
    left.range().end() == right.range().start()
        && (left.flags ^ right.flags).difference(VmFlags::ACCESS | VmFlags::STICKY).is_empty()
        && same(left.backing.as_ref(), right.backing.as_ref())
        && left.pgoff.wrapping_add(left.range().pages()) == right.pgoff
        && left.policy() == right.policy()
}

/// Two maps of one file are the same memory only if they are of one open of it.
pub(crate) fn same(a: Option<&Arc<dyn Backing>>, b: Option<&Arc<dyn Backing>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// Whether memory with the identity `source` can become part of `target` (Linux's
/// `is_mergeable_anon_vma`).
fn identities_agree(target: &Vma, source: Option<AnonId>, origin: Origin) -> bool {
    match (target.anon(), source) {
        (None, Some(source)) => {
            source.lineage() == Lineage::Own || matches!(origin, Origin::New | Origin::Extension)
        }
        (Some(target), None) => target.lineage() == Lineage::Own,
        (target, source) => target == source,
    }
}

/// With which neighbours a range is to become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sides {
    Left,
    Right,
    Both,
}

impl Sides {
    fn of(left: Option<&Vma>, right: Option<&Vma>) -> Option<Self> {
        match (left, right) {
            (Some(left), Some(right)) => Some(match (left.anon(), right.anon()) {
                // The range agrees with each of them, but they do not with each other.
                (Some(a), Some(b)) if a != b => Sides::Left,
                _ => Sides::Both,
            }),
            (Some(_), None) => Some(Sides::Left),
            (None, Some(_)) => Some(Sides::Right),
            (None, None) => None,
        }
    }
}

/// Whether a VMA may vanish in another: not if its backing wants to hear of its end.
fn may_vanish(vma: &Vma) -> bool {
    vma.backing.as_ref().is_none_or(|backing| !backing.has_close_hook())
}

/// Inserts a VMA into the hole it fits in, as one with its neighbours where they are the same memory.
/// Returns the start of the VMA it is now part of, and how it was merged, if it was.
///
/// The tree must have room for one more ([`Tree::reserve`]).
pub fn insert_merged(tree: &mut Tree<Vma>, vma: Vma, origin: Origin) -> (VirtAddr, Option<Merge>) {
    match merge_new(tree, &vma, origin) {
        Some(Merged { range, how }) => (range.start(), Some(how)),
        None => {
            let start = vma.range().start();
            let _ = tree.insert(vma);
            (start, None)
        }
    }
}

/// Makes a hole part of its neighbours, if `vma`, which would fill it, is the same memory (Linux's
/// `vma_merge_new_range`). Returns the VMA that has grown.
pub fn merge_new(tree: &mut Tree<Vma>, vma: &Vma, origin: Origin) -> Option<Merged> {
    if vma.flags.intersects(VmFlags::SPECIAL) {
        return None;
    }
    let range = vma.range();
    let (left, right) = tree.touching(range);
    let left =
        left.filter(|prev| continues(prev, vma) && identities_agree(prev, vma.anon(), origin));
    let right =
        right.filter(|next| continues(vma, next) && identities_agree(next, vma.anon(), origin));
    let mut sides = Sides::of(left, right)?;
    if sides == Sides::Both && !right.is_some_and(may_vanish) {
        sides = Sides::Left;
    }
    let left = left.map(Vma::range);
    let right = right.map(|right| (right.range(), right.anon(), right.flags));
    let (anon, flags) = (vma.anon(), vma.flags);
    let (range, how) = match (sides, left, right) {
        (Sides::Both, Some(left), Some((right, right_anon, right_flags))) => {
            tree.remove(right.start());
            let (anon, sticky) = (right_anon.or(anon), flags | right_flags);
            (grow(tree, left, left.start(), right.end(), anon, sticky)?, Merge::NewBoth)
        }
        (Sides::Left, Some(left), _) => {
            (grow(tree, left, left.start(), range.end(), anon, flags)?, Merge::NewLeft)
        }
        (Sides::Right, _, Some((right, ..))) => {
            (grow(tree, right, range.start(), right.end(), anon, flags)?, Merge::NewRight)
        }
        _ => return None,
    };
    Some(Merged { range, how })
}

/// [`merge_new`] with the VMA before it only (Linux's `just_expand`).
pub fn merge_left(tree: &mut Tree<Vma>, vma: &Vma, origin: Origin) -> Option<Merged> {
    let range = vma.range();
    let left = tree
        .prev(range.start())
        .filter(|prev| continues(prev, vma) && identities_agree(prev, vma.anon(), origin))?
        .range();
    let range = grow(tree, left, left.start(), range.end(), vma.anon(), vma.flags)?;
    Some(Merged { range, how: Merge::NewLeft })
}

/// Makes `changed`, a part (or the whole) of an existing VMA as it is to be, one with the neighbours
/// that are then the same memory (Linux's `vma_merge_existing_range`). Returns the VMA it is part
/// of; `None`, and nothing has happened, if there is no such neighbour.
pub fn merge_existing(tree: &mut Tree<Vma>, changed: &Vma) -> Option<Merged> {
    let range = changed.range();
    let found = tree.near(range.start())?;
    let middle = found.span();
    let whole = middle.range();
    let (from_start, to_end) = (range.start() == whole.start(), range.end() == whole.end());
    if changed.flags.intersects(VmFlags::SPECIAL) || !(from_start || to_end) {
        return None;
    }
    let anon = middle.anon();
    let left = if from_start { found.touching_before() } else { None };
    let left = left
        .filter(|prev| continues(prev, changed) && identities_agree(prev, anon, Origin::Existing));
    let right = if to_end { found.touching_after() } else { None };
    let right = right
        .filter(|next| continues(changed, next) && identities_agree(next, anon, Origin::Existing));
    let mut sides = Sides::of(left, right)?;
    if from_start && to_end && !may_vanish(middle) {
        return None;
    }
    if sides == Sides::Both && !right.is_some_and(may_vanish) {
        sides = Sides::Left;
    }
    let left = left.map(Vma::range);
    let right = right.map(|right| (right.range(), right.anon(), right.flags));
    let flags = changed.flags;
    let (range, how) = match (sides, left, right) {
        (Sides::Both, Some(left), Some((right, right_anon, right_flags))) => {
            // The left one takes in the middle and the right.
            let (anon, sticky) = (right_anon.or(anon), flags | right_flags);
            let range = PageRange::new(left.start(), right.end())?;
            let joined = tree.uncarve(whole.start(), |vma| extend(vma, range, anon, sticky));
            (joined.then_some(range)?, Merge::WholeBoth)
        }
        (Sides::Left, Some(left), _) if to_end => {
            (absorb(tree, left, range.end(), anon, flags)?, Merge::WholeLeft)
        }
        (Sides::Left, Some(left), _) => {
            give_up(tree, whole, PageRange::new(range.end(), whole.end()));
            (grow(tree, left, left.start(), range.end(), anon, flags)?, Merge::PartLeft)
        }
        (Sides::Right, _, Some((right, ..))) => {
            let how = if from_start { Merge::WholeRight } else { Merge::PartRight };
            give_up(tree, whole, PageRange::new(whole.start(), range.start()));
            (grow(tree, right, range.start(), right.end(), anon, flags)?, how)
        }
        _ => return None,
    };
    Some(Merged { range, how })
}

/// Leaves the VMA at `whole` only `rest`.
fn give_up(tree: &mut Tree<Vma>, whole: PageRange, rest: Option<PageRange>) {
    match rest {
        Some(rest) => {
            tree.update(whole.start(), |vma| vma.resize(rest));
        }
        None => {
            tree.remove(whole.start());
        }
    }
}

/// Gives the VMA at `old` other bounds, an anonymous identity if it has none, and the sticky ones of
/// these flags.
fn grow(
    tree: &mut Tree<Vma>,
    old: PageRange,
    start: VirtAddr,
    end: VirtAddr,
    anon: Option<AnonId>,
    sticky: VmFlags,
) -> Option<PageRange> {
    let range = PageRange::new(start, end)?;
    tree.update(old.start(), |vma| extend(vma, range, anon, sticky));
    Some(range)
}

/// [`grow`] up to the end of the next VMA, which touches the one at `old` and vanishes in it.
fn absorb(
    tree: &mut Tree<Vma>,
    old: PageRange,
    end: VirtAddr,
    anon: Option<AnonId>,
    sticky: VmFlags,
) -> Option<PageRange> {
    let range = PageRange::new(old.start(), end)?;
    tree.absorb(old.start(), |vma| extend(vma, range, anon, sticky)).map(|_| range)
}

fn extend(vma: &mut Vma, range: PageRange, anon: Option<AnonId>, sticky: VmFlags) {
    vma.resize(range);
    vma.flags |= sticky & VmFlags::STICKY;
    if let Some(id) = anon {
        vma.adopt_anon(id);
    }
}

#[cfg(test)]
mod tests;
