//! `/proc/PID/maps` (Linux's `show_map_vma`, `fs/proc/task_mmu.c`).

use std::fmt;
use std::ops::Range;

use crate::addr::{PAGE_SHIFT, PageRange, VirtAddr};
use crate::backing::BackingName;
use crate::space::AddressSpace;
use crate::vma::{VmFlags, Vma};

/// The column at which the name begins.
pub(crate) const NAME_COLUMN: usize = 73;

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapsLine {
    /// The addresses.
    pub range: PageRange,
    /// What may be done.
    pub flags: VmFlags,
    /// Bytes from the start of the backing; 0 for anonymous memory.
    pub offset: u64,
    /// The backing, or `[heap]` or `[stack]` as its path, or nothing.
    pub name: BackingName,
}

impl MapsLine {
    /// The second column: `rwxp` or `s`, as letters.
    #[must_use]
    pub fn permissions(&self) -> [u8; 4] {
        let letter = |flag, letter| if self.flags.contains(flag) { letter } else { b'-' };
        [
            letter(VmFlags::READ, b'r'),
            letter(VmFlags::WRITE, b'w'),
            letter(VmFlags::EXEC, b'x'),
            if self.flags.contains(VmFlags::MAYSHARE) { b's' } else { b'p' },
        ]
    }
}

impl fmt::Display for MapsLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.range.start()..self.range.end();
        write_line(f, range, self.permissions(), self.offset, &self.name)
    }
}

/// Writes a line without its end (`show_vma_header_prefix`, and the name).
pub(super) fn write_line(
    f: &mut fmt::Formatter<'_>,
    range: Range<VirtAddr>,
    permissions: [u8; 4],
    offset: u64,
    name: &BackingName,
) -> fmt::Result {
    let line = format!(
        "{:08x}-{:08x} {} {:08x} {:02x}:{:02x} {} ",
        range.start.get(),
        range.end.get(),
        permissions.map(char::from).iter().collect::<String>(),
        offset,
        name.major,
        name.minor,
        name.inode,
    );
    if name.path.is_empty() {
        // Linux prints the space after the inode even when no name follows.
        return f.write_str(&line);
    }
    write!(f, "{line:NAME_COLUMN$}{}", name.path)
}

/// The lines of an address space, in order.
pub fn maps(space: &AddressSpace) -> impl Iterator<Item = MapsLine> + '_ {
    space.vmas().iter().map(|vma| line(space, vma))
}

/// All lines, as the file has them.
#[must_use]
pub fn maps_text(space: &AddressSpace) -> String {
    maps(space).map(|line| format!("{line}\n")).collect()
}

/// The line of one VMA.
pub(super) fn line(space: &AddressSpace, vma: &Vma) -> MapsLine {
    let range = vma.range();
    let (offset, name) = match &vma.backing {
        Some(backing) => (vma.pgoff << PAGE_SHIFT, backing.name()),
        None => (0, BackingName { path: special(space, range).to_owned(), ..Default::default() }),
    };
    MapsLine { range, flags: vma.flags, offset, name }
}

/// `[heap]` where the VMA meets the heap, `[stack]` where the first stack pointer lies in it
/// (`get_vma_name`).
pub(super) fn special(space: &AddressSpace, range: PageRange) -> &'static str {
    let layout = space.layout();
    if range.start() < layout.brk && range.end() > layout.start_brk {
        "[heap]"
    } else if range.contains(layout.start_stack) {
        "[stack]"
    } else {
        ""
    }
}
