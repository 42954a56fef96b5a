//! Of NUMA nodes.

use mm::replay::calls::{MemoryCall as M, Pointee};

use super::{Deed, Deeds, Found, of_one};

pub(super) const FOUND: &[Found] =
    &[("of_nodes_that_no_kernel_has_whole_words_are_looked_at", past_the_last_node)];

/// The last word's highest bit is one more than the mask is said to have.
fn past_the_last_node() -> Deeds {
    let mask = |last| {
        let mut mask = vec![0; 512];
        (mask[0], mask[511]) = (1, last);
        Pointee::Shown(mask)
    };
    let set = |last, maxnode| Deed::Call(M::SetMempolicy { mode: 2, nodes: mask(last), maxnode });
    of_one([set(0, 32_768), set(1 << 63, 32_768), set(1 << 63, 32_769)])
}
