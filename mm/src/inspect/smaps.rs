//! The line `VmFlags` of `/proc/PID/smaps` (Linux's `show_smap_vma_flags`, `fs/proc/task_mmu.c`).

use std::fmt;

use crate::vma::VmFlags;

/// The line of a VMA with these flags: two letters for each, in the order of the bits, and a space after
/// the last one too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmFlagsLine(pub VmFlags);

impl fmt::Display for VmFlagsLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VmFlags: ")?;
        self.0.mnemonics().try_for_each(|name| write!(f, "{name} "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_as_linux_prints_it_for_a_heap_and_for_locked_shared_memory() {
        let heap = VmFlags::DATA_DEFAULT | VmFlags::ACCOUNT;
        assert_eq!(VmFlagsLine(heap).to_string(), "VmFlags: rd wr mr mw me ac ");
        let shared = VmFlags::DATA_DEFAULT | VmFlags::SHARED | VmFlags::MAYSHARE | VmFlags::LOCKED;
        let line = VmFlagsLine(shared | VmFlags::LOCKONFAULT | VmFlags::SEALED).to_string();
        assert_eq!(line, "VmFlags: rd wr sh mr mw me ms lo lf sl ");
        assert_eq!(VmFlagsLine(VmFlags::empty()).to_string(), "VmFlags: ");
    }
}
