//! Address space layout randomization, from a seed: the same seed places everything the same way.
//!
//! ```text
//!   TASK_END ─ stack_pages (22 bits) ─ stack_bytes (13 bits) ── the first strings
//!            ─ the stack's limit, 16 GiB, the guard gap ─ mmap_pages (28 bits) ── mmap_base
//!   start_brk + brk_pages (18 bits) ── the heap
//! ```

use crate::addr::{PAGE_SIZE, VirtAddr};

/// How many bits of a page number are random where mappings begin (`vm.mmap_rnd_bits`, its default).
const MMAP_BITS: u32 = 28;
/// Likewise for the stack's top (`STACK_RND_MASK`).
const STACK_BITS: u32 = 22;
/// How many bytes the first string of the stack is moved down at most (`arch_align_stack`).
const STACK_BYTES: u64 = 8192;
/// How many pages the heap's start is moved up, fewer than this (`arch_randomize_brk`, 1 GiB).
const BRK_PAGES: u64 = (1 << 30) / PAGE_SIZE;

/// By how much each part of an address space is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Aslr {
    mmap_pages: u64,
    stack_pages: u64,
    stack_bytes: u64,
    brk_pages: u64,
    /// Bytes kept free below the stack's limit for where its top could have been.
    stack_room: u64,
}

impl Aslr {
    /// Nothing is moved.
    pub const OFF: Aslr =
        Aslr { mmap_pages: 0, stack_pages: 0, stack_bytes: 0, brk_pages: 0, stack_room: 0 };

    /// Each part moved by as much as the seed says, with Linux's entropy on x86-64.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut state = seed;
        let mut next = || split_mix(&mut state);
        Aslr {
            mmap_pages: next() >> (64 - MMAP_BITS),
            stack_pages: next() >> (64 - STACK_BITS),
            stack_bytes: next() % STACK_BYTES,
            brk_pages: next() % BRK_PAGES,
            stack_room: ((1 << STACK_BITS) - 1) * PAGE_SIZE,
        }
    }

    /// Bytes that `mmap_base` is moved, downwards, or upwards where maps are placed upwards
    /// (`arch_mmap_rnd`).
    #[must_use]
    pub fn mmap_bytes(&self) -> u64 {
        self.mmap_pages * PAGE_SIZE
    }

    /// Bytes that lie between a fixed top and `mmap_base` for the stack's own randomness
    /// (`stack_maxrandom_size`).
    #[must_use]
    pub fn stack_room(&self) -> u64 {
        self.stack_room
    }

    /// The stack's end (`randomize_stack_top`).
    #[must_use]
    pub fn stack_top(&self) -> VirtAddr {
        VirtAddr::new(VirtAddr::TASK_END.get() - self.stack_pages * PAGE_SIZE)
    }

    /// Bytes left free between the strings at the stack's end and what is below (`arch_align_stack`).
    #[must_use]
    pub fn stack_bytes(&self) -> u64 {
        self.stack_bytes
    }

    /// The heap's start, for a program whose own memory ends at `end`, a page boundary: never right at it
    /// where it is moved (`arch_randomize_brk`).
    #[must_use]
    pub fn start_brk(&self, end: VirtAddr) -> VirtAddr {
        if self.stack_room == 0 {
            return end;
        }
        end.offset((1 + self.brk_pages) * PAGE_SIZE)
    }
}

/// The next number of a SplitMix64 generator.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_moves_by_the_same_and_another_by_something_else() {
        assert_eq!(Aslr::from_seed(7), Aslr::from_seed(7));
        assert_ne!(Aslr::from_seed(7), Aslr::from_seed(8));
    }

    #[test]
    fn each_part_uses_all_of_its_bits_and_no_more() {
        let (mut or, mut and) = ([0; 3], [u64::MAX; 3]);
        for seed in 0..200 {
            let aslr = Aslr::from_seed(seed);
            let parts = [aslr.mmap_pages, aslr.stack_pages, aslr.brk_pages];
            for (index, part) in parts.into_iter().enumerate() {
                or[index] |= part;
                and[index] &= part;
            }
            assert!(aslr.stack_bytes < 8192);
        }
        assert_eq!(or, [(1 << 28) - 1, (1 << 22) - 1, (1 << 18) - 1]);
        assert_eq!(and, [0; 3]);
    }

    #[test]
    fn off_moves_nothing() {
        let end = VirtAddr::new(0x40_1000);
        assert_eq!((Aslr::OFF.stack_top(), Aslr::OFF.start_brk(end)), (VirtAddr::TASK_END, end));
        assert_eq!(Aslr::OFF.mmap_bytes() + Aslr::OFF.stack_room() + Aslr::OFF.stack_bytes(), 0);
        assert_eq!(Aslr::OFF, Aslr::default());
    }
}
