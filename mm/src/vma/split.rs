//! Cutting VMAs at an address (Linux's `split_vma`).

use super::area::Vma;
use super::tree::Tree;
use crate::addr::{PageRange, VirtAddr};

/// Cuts the VMA that contains `addr` in two there, unless it begins there. The two halves are the same
/// memory, and would merge again.
pub fn split_at(tree: &mut Tree<Vma>, addr: VirtAddr) {
    let Some(vma) = tree.find_exact(addr).filter(|vma| vma.range().start() < addr) else { return };
    let whole = vma.range();
    let halves = (PageRange::new(whole.start(), addr), PageRange::new(addr, whole.end()));
    if let (Some(low), Some(high)) = halves {
        let upper = vma.part(high);
        tree.update(whole.start(), |vma| vma.resize(low));
        let _ = tree.insert(upper);
    }
}

/// Cuts at both ends of `range`, so that every VMA is wholly inside or wholly outside.
pub fn isolate(tree: &mut Tree<Vma>, range: PageRange) {
    split_at(tree, range.start());
    split_at(tree, range.end());
}

/// By how many VMAs the count grows when `range` is isolated.
#[must_use]
pub fn splits_needed(tree: &Tree<Vma>, range: PageRange) -> usize {
    let cuts = |addr: VirtAddr| tree.find_exact(addr).is_some_and(|vma| vma.range().start() < addr);
    usize::from(cuts(range.start())) + usize::from(cuts(range.end()))
}
