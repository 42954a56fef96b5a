//! Cutting VMAs at an address (Linux's `split_vma`), and changing a part of one (`vma_modify`).

use super::area::Vma;
use super::merge::{Merge, merge_existing};
use super::tree::Tree;
use crate::addr::{PageRange, VirtAddr};
use crate::error::Errno;

/// Cuts the VMA that contains `addr` in two there, unless it begins there. The two halves are the same
/// memory, and would merge again. The tree must have room for one more ([`Tree::reserve`]).
///
/// # Errors
/// `EINVAL` where the backing forbids it (Linux's `may_split`: special mappings, parts of huge pages).
pub fn split_at(tree: &mut Tree<Vma>, addr: VirtAddr) -> Result<(), Errno> {
    let Some(vma) = tree.find_exact(addr).filter(|vma| vma.range().start() < addr) else {
        return Ok(());
    };
    if let Some(backing) = &vma.backing {
        backing.may_split(addr)?;
    }
    tell_cuts(vma, 1);
    let whole = vma.range();
    let halves = (PageRange::new(whole.start(), addr), PageRange::new(addr, whole.end()));
    if let (Some(low), Some(high)) = halves {
        let upper = vma.part(high);
        let _ = tree.cut(whole.start(), upper, |vma| vma.resize(low));
    }
    Ok(())
}

/// A VMA is cut so often: a segment of System V shared memory counts its VMAs.
fn tell_cuts(vma: &Vma, cuts: usize) {
    if let Some(segment) = vma.backing.as_ref().and_then(|backing| backing.segment()) {
        (0..cuts).for_each(|_| segment.opened());
    }
}

/// Gives `changed.range()`, a part of one existing VMA, the attributes of `changed`: merged with the
/// neighbours that are then the same memory, or else cut out (Linux's `vma_modify`). Returns where the
/// VMA ends that the range is part of then, and how it was merged, if it was. The tree must have room for
/// two more ([`Tree::reserve`]).
///
/// # Errors
/// `ENOMEM` when it would have to be cut and there are `max_map_count` VMAs already; `EINVAL` where the
/// backing forbids the cut. As in Linux the cut at the range's start may have been made then.
#[inline]
pub fn modify(
    tree: &mut Tree<Vma>,
    changed: Vma,
    max_map_count: usize,
) -> Result<(VirtAddr, Option<Merge>), Errno> {
    if let Some(merged) = merge_existing(tree, &changed) {
        return Ok((merged.range.end(), Some(merged.how)));
    }
    Ok((cut_out(tree, changed, max_map_count)?, None))
}

/// [`modify`] without a look at the neighbours.
///
/// # Errors
/// As of [`modify`].
pub fn cut_out(
    tree: &mut Tree<Vma>,
    changed: Vma,
    max_map_count: usize,
) -> Result<VirtAddr, Errno> {
    let range = changed.range();
    let middle = tree.near(range.start()).ok_or(Errno::ENOMEM)?.span();
    let whole = middle.range();
    let lower = PageRange::new(whole.start(), range.start());
    let upper = PageRange::new(range.end(), whole.end()).map(|upper| middle.part(upper));
    let may_cut = |addr, vmas| match &middle.backing {
        _ if vmas >= max_map_count => Err(Errno::ENOMEM),
        Some(backing) => backing.may_split(addr),
        None => Ok(()),
    };
    if lower.is_some() {
        may_cut(range.start(), tree.len())?;
    }
    if upper.is_some()
        && let Err(errno) = may_cut(range.end(), tree.len() + usize::from(lower.is_some()))
    {
        split_at(tree, range.start())?;
        return Err(errno);
    }
    tell_cuts(middle, usize::from(lower.is_some()) + usize::from(upper.is_some()));
    // A fault may have given it an identity since `changed` was made.
    if let Some(id) = middle.anon() {
        changed.adopt_anon(id);
    }
    let start = whole.start();
    match (lower, upper) {
        (Some(lower), Some(upper)) => {
            let _ = tree.carve(start, changed, upper, |vma| vma.resize(lower));
        }
        (Some(lower), None) => {
            let _ = tree.cut(start, changed, |vma| vma.resize(lower));
        }
        (None, Some(upper)) => {
            let _ = tree.cut(start, upper, |vma| *vma = changed);
        }
        (None, None) => {
            tree.update(start, |vma| *vma = changed);
        }
    }
    Ok(range.end())
}
