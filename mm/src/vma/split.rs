//! Cutting VMAs at an address (Linux's `split_vma`), and changing a part of one (`vma_modify`).

use super::area::Vma;
use super::merge::merge_existing;
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
    let whole = vma.range();
    let halves = (PageRange::new(whole.start(), addr), PageRange::new(addr, whole.end()));
    if let (Some(low), Some(high)) = halves {
        let upper = vma.part(high);
        let _ = tree.cut(whole.start(), upper, |vma| vma.resize(low));
    }
    Ok(())
}

/// Gives `changed.range()`, a part of one existing VMA, the attributes of `changed`: merged with the
/// neighbours that are then the same memory, or else cut out (Linux's `vma_modify`). Returns where the
/// VMA ends that the range is part of then. The tree must have room for two more ([`Tree::reserve`]).
///
/// # Errors
/// `ENOMEM` when it would have to be cut and there are `max_map_count` VMAs already; as in Linux the cut
/// at the range's start may have been made then.
pub fn modify(tree: &mut Tree<Vma>, changed: Vma, max_map_count: usize) -> Result<VirtAddr, Errno> {
    let range = changed.range();
    if let Some(start) = merge_existing(tree, &changed) {
        return Ok(tree.get(start).map_or(range.end(), |vma| vma.range().end()));
    }
    let whole = tree.find_exact(range.start()).map_or(range, Vma::range);
    for border in [range.start(), range.end()] {
        if whole.start() < border && border < whole.end() {
            if tree.len() >= max_map_count {
                return Err(Errno::ENOMEM);
            }
            split_at(tree, border)?;
        }
    }
    tree.update(range.start(), |vma| {
        let anon = vma.anon();
        *vma = changed;
        // A fault may have given it an identity since `changed` was made.
        if let Some(id) = anon {
            vma.adopt_anon(id);
        }
    });
    Ok(range.end())
}
