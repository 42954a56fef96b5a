//! Which neighbours are one VMA (Linux's `vma_merge` in today's form: a new range or an existing one;
//! left, right or both; `mm/vma.c`).
//!
//! ```text
//!            prev         middle        next
//!   left   [AAAAAAAA][AAAAAAAAAA]               ->  [AAAAAAAAAAAAAAAAAA]
//!   right            [AAAAAAAAAA][AAAAAAAA]     ->            [AAAAAAAAAAAAAAAAAA]
//!   both   [AAAAAAAA][AAAAAAAAAA][AAAAAAAA]     ->  [AAAAAAAAAAAAAAAAAAAAAAAAAAAA]
//! ```

use std::sync::Arc;

use super::area::Vma;
use super::flags::VmFlags;
use super::tree::Tree;
use crate::addr::{PageRange, VirtAddr};

/// Whether `right`, which begins where `left` ends, is the same memory going on.
#[must_use]
pub fn can_merge(left: &Vma, right: &Vma) -> bool {
    left.range().end() == right.range().start()
        && (left.flags ^ right.flags).difference(VmFlags::SOFTDIRTY).is_empty()
        && same_source(left, right)
        && left.pgoff + left.range().pages() == right.pgoff
        && (left.anon().is_none() || right.anon().is_none() || left.anon() == right.anon())
}

fn same_source(left: &Vma, right: &Vma) -> bool {
    match (&left.backing, &right.backing) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// Inserts a VMA into the hole it fits in, as one with its neighbours where they are the same memory.
/// Returns the start of the VMA it is now part of.
pub fn insert_merged(tree: &mut Tree<Vma>, vma: Vma) -> VirtAddr {
    let mut vma = vma;
    if let Some(right) = tree.get(vma.range().end()).filter(|next| can_merge(&vma, next)) {
        let (start, end, anon) = (vma.range().start(), right.range().end(), right.anon());
        // Three in a row merge only if the outer two agree as well: `vma` may have no anonymous
        // memory of its own, while they have two different ones.
        let left = tree.prev(start).filter(|prev| can_merge(prev, &vma));
        let agree =
            left.is_none_or(|prev| prev.anon().is_none() || anon.is_none() || prev.anon() == anon);
        if agree {
            tree.remove(vma.range().end());
            extend(&mut vma, start, end);
            if let Some(id) = anon {
                vma.adopt_anon(id);
            }
        }
    }
    let start = vma.range().start();
    let Some(prev) = tree.prev(start).filter(|prev| can_merge(prev, &vma)) else {
        let _ = tree.insert(vma);
        return start;
    };
    let first = prev.range().start();
    tree.update(first, |prev| {
        extend(prev, first, vma.range().end());
        if let Some(id) = vma.anon() {
            prev.adopt_anon(id);
        }
    });
    first
}

fn extend(vma: &mut Vma, start: VirtAddr, end: VirtAddr) {
    if let Some(range) = PageRange::new(start, end) {
        vma.resize(range);
    }
}
