//! `/proc/PID/smaps` and `/proc/PID/smaps_rollup` (Linux's `show_smap`, `show_smaps_rollup` and
//! `show_smap_vma_flags`, `fs/proc/task_mmu.c`), as a kernel without protection keys prints them.

use std::fmt;

use super::maps::{MapsLine, line};
use super::usage::{Usage, write_line};
use crate::addr::VirtAddr;
use crate::backing::BackingName;
use crate::space::AddressSpace;
use crate::vma::VmFlags;

/// What smaps says about one VMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmapsEntry {
    /// Its line in maps, which comes first.
    pub line: MapsLine,
    /// Bytes of its pages.
    pub page_size: u64,
    /// The memory behind it.
    pub usage: Usage,
    /// Whether pages larger than the smallest may come there.
    pub thp_eligible: bool,
}

impl fmt::Display for SmapsEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line)?;
        write_line(f, "Size", self.line.range.len())?;
        write_line(f, "KernelPageSize", self.page_size)?;
        write_line(f, "MMUPageSize", self.page_size)?;
        self.usage.write(f, &[])?;
        writeln!(f, "THPeligible:    {:8}", u8::from(self.thp_eligible))?;
        writeln!(f, "{}", VmFlagsLine(self.line.flags))
    }
}

/// What smaps says, VMA by VMA: each is looked at when it is asked for.
pub fn smaps(space: &AddressSpace) -> impl Iterator<Item = SmapsEntry> + '_ {
    space.vmas().iter().map(|vma| SmapsEntry {
        line: line(space, vma),
        page_size: vma.page_size(),
        usage: Usage::of(space, vma),
        thp_eligible: space.is_thp_eligible(vma),
    })
}

/// What smaps_rollup says: all VMAs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmapsRollup {
    /// The first address of the first VMA; 0 if there is none.
    pub start: VirtAddr,
    /// The first address after the last VMA; 0 if there is none.
    pub end: VirtAddr,
    /// The memory behind all of them.
    pub usage: Usage,
}

impl fmt::Display for SmapsRollup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = BackingName { path: "[rollup]".to_owned(), ..BackingName::default() };
        super::maps::write_line(f, self.start..self.end, *b"---p", 0, &name)?;
        let usage = &self.usage;
        let by_class = [
            ("Pss_Anon", usage.pss_anon),
            ("Pss_File", usage.pss_file),
            ("Pss_Shmem", usage.pss_shmem),
        ];
        writeln!(f)?;
        usage.write(f, &by_class)
    }
}

/// What smaps_rollup says of an address space.
#[must_use]
pub fn smaps_rollup(space: &AddressSpace) -> SmapsRollup {
    let empty = SmapsRollup { start: VirtAddr::ZERO, end: VirtAddr::ZERO, usage: Usage::default() };
    space.vmas().iter().fold(empty, |mut all, vma| {
        if all.end == VirtAddr::ZERO {
            all.start = vma.range().start();
        }
        all.end = vma.range().end();
        all.usage += Usage::of(space, vma);
        all
    })
}

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
