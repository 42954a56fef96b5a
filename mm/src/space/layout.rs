//! Where things are in an address space. `PR_SET_MM` of prctl(2), which moves them, is in `space/fields`.

use std::ops::Range;

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::vma::place::{Direction, PlaceLayout};
use crate::vma::{Aslr, VmFlags, Vma};

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

impl AddressSpace {
    /// Says where the program's code is (`start_code`, `end_code`).
    pub fn set_code(&mut self, code: Range<VirtAddr>) {
        (self.layout.start_code, self.layout.end_code) = (code.start, code.end);
    }

    /// Says where the program's data is (`start_data`, `end_data`): `RLIMIT_DATA` counts it with the heap.
    pub fn set_data(&mut self, data: Range<VirtAddr>) {
        (self.layout.start_data, self.layout.end_data) = (data.start, data.end);
    }

    /// Says where the strings of the program's arguments and of its environment are.
    pub fn set_strings(&mut self, arguments: Range<VirtAddr>, environment: Range<VirtAddr>) {
        (self.layout.arg_start, self.layout.arg_end) = (arguments.start, arguments.end);
        (self.layout.env_start, self.layout.env_end) = (environment.start, environment.end);
    }

    /// Decides anew where mappings are placed, as execve(2) does for a fresh space: by the stack's limit,
    /// the personality and the randomness (Linux's `arch_pick_mmap_layout`).
    pub fn pick_layout(&mut self, aslr: &Aslr) {
        let direction =
            if self.modes.compat_layout() { Direction::BottomUp } else { Direction::TopDown };
        self.layout.place = PlaceLayout::pick(self.limits.stack.soft, direction, aslr);
    }

    /// Says where placement from the top down begins.
    pub fn set_mmap_base(&mut self, addr: VirtAddr) {
        self.layout.place.mmap_base = addr;
    }

    /// Says where the heap begins and ends, without mapping it.
    pub fn set_brk(&mut self, start: VirtAddr, current: VirtAddr) {
        self.layout.start_brk = start;
        self.layout.brk = current;
    }

    /// Takes over a VMA as it is, merged with nothing: the starting state of a trace.
    ///
    /// # Errors
    /// `EINVAL` where there is something already.
    pub fn adopt(&mut self, vma: Vma) -> CallResult<()> {
        let (flags, pages) = (vma.flags, vma.range().pages());
        self.link(&vma);
        if let Err(vma) = self.vmas.insert(vma) {
            self.unlink(&vma);
            return Err(Errno::EINVAL.into());
        }
        self.account.add(flags, pages);
        if flags.contains(VmFlags::ACCOUNT) {
            self.commit(pages)?;
        }
        Ok(())
    }

    /// Unmaps a range whatever is there, sealed or not.
    ///
    /// # Errors
    /// [`Broken`](crate::error::Broken) only.
    pub fn clear(&mut self, range: PageRange) -> CallResult<()> {
        let inside: Vec<PageRange> =
            self.vmas.range(range).filter_map(|vma| vma.range().intersect(range)).collect();
        for part in inside {
            self.vmas.update(part.start(), |vma| vma.flags.remove(VmFlags::SEALED));
        }
        self.unmap(range)
    }
}
