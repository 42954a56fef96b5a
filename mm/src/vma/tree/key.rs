//! A row's key and what the row leads to, in one word: a search that has found the key has the index too,
//! and waits for no other line of memory.
//!
//! ```text
//!      63                                 29 28                        0
//!     ┌─────────────────────────────────────┬───────────────────────────┐
//!     │ end of the span, in pages (35 bits) │ index in an arena         │
//!     └─────────────────────────────────────┴───────────────────────────┘
//! ```
//!
//! Spans end on page boundaries of the user half, which has 2^35 pages. Ends differ within a node, so words
//! are in the order of their ends, whatever the indices.

use crate::addr::{PAGE_SHIFT, VirtAddr, low_half};

/// Bits of an index.
const INDEX_BITS: u32 = 29;
const INDEX: u64 = (1 << INDEX_BITS) - 1;
/// From an address to its page number's place.
const SHIFT: u32 = INDEX_BITS - PAGE_SHIFT;

/// How many indices there are.
pub(super) const MAX_INDICES: usize = 1 << INDEX_BITS;

const _: () = assert!(VirtAddr::TASK_END.get() <= u64::MAX >> SHIFT);

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key(u64);

impl Key {
    /// The key of a row that is not there: above every address.
    pub(super) const NEVER: Key = Key(u64::MAX);

    /// `end` is a span's; `to` is below [`MAX_INDICES`].
    pub(super) const fn new(end: VirtAddr, to: u32) -> Self {
        debug_assert!((to as usize) < MAX_INDICES);
        Key(end.get() << SHIFT | to as u64)
    }

    /// The highest key of a span that ends at or below `addr`, an address of the user half.
    pub(super) const fn last_at(addr: VirtAddr) -> Self {
        Key(addr.get() << SHIFT | INDEX)
    }

    pub(super) const fn end(self) -> VirtAddr {
        VirtAddr::new(self.0 >> INDEX_BITS << PAGE_SHIFT)
    }

    pub(super) const fn to(self) -> u32 {
        low_half(self.0 & INDEX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;

    const LAST: u32 = low_half(INDEX);

    #[test]
    fn a_key_gives_back_its_end_and_its_index() {
        for end in [VirtAddr::new(PAGE_SIZE), VirtAddr::new(0x7fff_f000), VirtAddr::TASK_END] {
            for to in [0, 1, 0x1234_5678, LAST] {
                let key = Key::new(end, to);
                assert_eq!((key.end(), key.to()), (end, to));
            }
        }
    }

    #[test]
    fn a_key_is_passed_from_its_end_on_whatever_its_index() {
        let end = VirtAddr::new(0x7fff_f000);
        for to in [0, LAST] {
            assert!(Key::new(end, to) <= Key::last_at(end));
            assert!(Key::new(end, to) <= Key::last_at(end.offset(1)));
            assert!(Key::new(end, to) > Key::last_at(VirtAddr::new(end.get() - 1)));
        }
    }

    #[test]
    fn no_address_passes_a_row_that_is_not_there() {
        assert!(Key::NEVER > Key::last_at(VirtAddr::new(VirtAddr::TASK_END.get() - 1)));
    }
}
