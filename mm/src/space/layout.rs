//! Where things are in an address space, and `PR_SET_MM` of prctl(2), which says so.

use crate::addr::VirtAddr;
use crate::vma::place::PlaceLayout;

/// The fields of `mm_struct` that say where things are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Where mappings are placed.
    pub place: PlaceLayout,
    /// Where the heap begins.
    pub start_brk: VirtAddr,
    /// Where the heap ends, to the byte.
    pub brk: VirtAddr,
    /// The stack pointer at the program's start.
    pub start_stack: VirtAddr,
    /// Where the program's code begins.
    pub start_code: VirtAddr,
    /// Where the program's code ends.
    pub end_code: VirtAddr,
    /// Where the program's data begins.
    pub start_data: VirtAddr,
    /// Where the program's data ends.
    pub end_data: VirtAddr,
    /// Where the program's arguments begin.
    pub arg_start: VirtAddr,
    /// Where the program's arguments end.
    pub arg_end: VirtAddr,
    /// Where the program's environment begins.
    pub env_start: VirtAddr,
    /// Where the program's environment ends.
    pub env_end: VirtAddr,
    /// The auxiliary vector, words as they lie on the stack.
    pub auxv: Vec<u64>,
}

impl Layout {
    /// A fresh space's, for a stack limit in bytes.
    #[must_use]
    pub fn for_stack_limit(stack_limit: u64) -> Self {
        Layout {
            place: PlaceLayout::for_stack_limit(stack_limit),
            start_brk: VirtAddr::ZERO,
            brk: VirtAddr::ZERO,
            start_stack: VirtAddr::ZERO,
            start_code: VirtAddr::ZERO,
            end_code: VirtAddr::ZERO,
            start_data: VirtAddr::ZERO,
            end_data: VirtAddr::ZERO,
            arg_start: VirtAddr::ZERO,
            arg_end: VirtAddr::ZERO,
            env_start: VirtAddr::ZERO,
            env_end: VirtAddr::ZERO,
            auxv: Vec::new(),
        }
    }
}
