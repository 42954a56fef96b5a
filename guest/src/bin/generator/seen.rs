//! What a process can see of its memory.

#![allow(unsafe_code)]

use guest::call::{number, syscall};
use guest::memory::{self, PAGE, TASK_SIZE};
use guest::must;
use guest::proc::{close, kib, lines, open, range};
use guest::script::SIZES;

use crate::area::{OWN, control};
use crate::choose::WINDOW;
use crate::trace::{Trace, put};

/// How many VMAs are remembered at most.
const VMAS: usize = 600;
/// How many pages of a VMA are looked at.
const LOOKED_AT: usize = 32;
/// The sizes of smaps that are compared: always; unless it is a regular file, of which a kernel reads ahead and maps
/// around as it likes; and as long as nothing was locked.
const ALWAYS: [&str; 5] =
    ["KernelPageSize", "Anonymous", "AnonHugePages", "ShmemPmdMapped", "THPeligible"];
const UNLESS_FILE: &str = "Rss";
const UNTIL_LOCKED: &str = "LazyFree";
/// Bits of a pagemap word: present, in the swap area, of a file or shared, a guard, write-protected by userfaultfd.
const PAGEMAP: [(u32, u8); 5] = [(63, 1), (62, 2), (61, 4), (58, 8), (57, 16)];

/// What is known of a VMA.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Whether it shows a regular file.
    pub(crate) of_file: bool,
    /// Whether it may be changed.
    pub(crate) changeable: bool,
}

/// The VMAs of a process.
#[derive(Debug)]
pub(crate) struct Vmas {
    all: [Vma; VMAS],
    count: usize,
    /// Of the lines, but for the numbers of devices and inodes.
    checksum: u64,
}

/// The words of a line of maps: range, permissions, offset, device, inode, name.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.splitn(6, |&byte| byte == b' ')
}

fn name(line: &[u8]) -> &[u8] {
    words(line).nth(5).unwrap_or(b"").trim_ascii()
}

impl Vmas {
    /// None so far.
    pub(crate) const fn new() -> Self {
        let none = Vma { start: 0, end: 0, of_file: false, changeable: false };
        Vmas { all: [none; VMAS], count: 0, checksum: 0 }
    }

    /// Looks at them.
    pub(crate) fn look(&mut self) {
        let image_end = memory::last_image_page() + PAGE;
        self.count = 0;
        // FNV-1a (Fowler, Noll, Vo).
        self.checksum = 0xcbf2_9ce4_8422_2325;
        must!(lines(c"/proc/self/maps", |line| {
            if name(line) == b"[vsyscall]" {
                return;
            }
            for word in words(line).take(3).chain([name(line)]) {
                for &byte in word {
                    self.checksum = (self.checksum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
                }
            }
            let Some((start, end)) = range(line) else { return };
            let heap = name(line) == b"[heap]" && start >= image_end;
            let elsewhere = start >= WINDOW && !OWN.contains(&start);
            let changeable = heap || (elsewhere && name(line) != b"[stack]" && end < TASK_SIZE);
            let of_file = name(line).starts_with(b"/tmp/");
            if let Some(vma) = self.all.get_mut(self.count) {
                *vma = Vma { start, end, of_file, changeable };
                self.count += 1;
            }
        }));
    }

    /// All of them, by address.
    pub(crate) fn all(&self) -> &[Vma] {
        self.all.get(..self.count).unwrap_or(&[])
    }

    /// Those that may be changed.
    pub(crate) fn changeable(&self) -> impl Iterator<Item = &Vma> + Clone {
        self.all().iter().filter(|vma| vma.changeable)
    }

    /// Where the stack that exec made begins.
    pub(crate) fn stack(&self) -> u64 {
        self.all().last().map_or(TASK_SIZE, |vma| vma.start)
    }

    /// Says how many there are, and their checksum.
    pub(crate) fn tell(&self, trace: &mut Trace) {
        put!(trace, "# {} VMAs, {:016x}\n", self.count, self.checksum);
    }
}

/// Unmaps the kernel's own pages, which are not everywhere.
pub(crate) fn forget_vdso() {
    let mut found = [(0, 0); 8];
    let mut count = 0;
    must!(lines(c"/proc/self/maps", |line| {
        if name(line).starts_with(b"[v")
            && name(line) != b"[vsyscall]"
            && let (Some(range), Some(to)) = (range(line), found.get_mut(count))
        {
            *to = range;
            count += 1;
        }
    }));
    for &(start, end) in found.get(..count).unwrap_or(&[]) {
        // SAFETY: nothing here calls what is there.
        must!(unsafe { syscall(number::MUNMAP, [start, end - start]) });
    }
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or("?")
}

/// Prints the VMAs as the trace has them.
pub(crate) fn tell_maps(trace: &mut Trace, process: u32) {
    put!(trace, "{process} @maps\n");
    must!(lines(c"/proc/self/maps", |line| {
        if name(line) == b"[vsyscall]" {
            return;
        }
        for word in words(line).take(3) {
            put!(trace, "{} ", text(word));
        }
        // A file of two numbers would not be the same in two runs; one name is one file here.
        let name = name(line);
        let inode = name
            .iter()
            .fold(0_u32, |sum, &byte| (sum.wrapping_mul(31) + u32::from(byte)) & 0xff_ffff);
        put!(trace, "00:{:02x} {} {}\n", u32::from(inode > 0), inode, text(name));
    }));
    put!(trace, "@end\n");
}

/// Prints VmFlags and sizes, and the words of pagemap, of all that may be changed.
pub(crate) fn tell_pages(trace: &mut Trace, process: u32, vmas: &Vmas) {
    let mut at: Option<Vma> = None;
    let mut sizes = [0; SIZES.len()];
    must!(lines(c"/proc/self/smaps", |line| {
        if let Some((start, _)) = range(line) {
            at = vmas.changeable().find(|vma| vma.start == start).copied();
            return;
        }
        let Some(vma) = at else { return };
        for (size, name) in sizes.iter_mut().zip(SIZES) {
            if let Some(value) = kib(line, name) {
                *size = value;
            }
        }
        let Some(flags) = line.strip_prefix(b"VmFlags:") else { return };
        put!(trace, "{process} @flags {:#x} =", vma.start);
        for flag in text(flags).split_ascii_whitespace().filter(|&flag| flag != "sd") {
            put!(trace, " {flag}");
        }
        put!(trace, "\n# {:#x}", vma.start);
        for (name, size) in SIZES.into_iter().zip(sizes) {
            let compared = ALWAYS.contains(&name)
                || (name == UNLESS_FILE && !vma.of_file)
                || (name == UNTIL_LOCKED && !control().is_locked());
            if compared {
                put!(trace, " {name} {size}");
            }
        }
        put!(trace, "\n");
    }));
    let file = must!(open(c"/proc/self/pagemap"));
    for vma in vmas.changeable().filter(|vma| !vma.of_file) {
        tell_pagemap(trace, file, vma);
    }
    close(file);
}

fn tell_pagemap(trace: &mut Trace, file: u64, vma: &Vma) {
    let mut words = [0_u64; LOOKED_AT];
    let pages = ((vma.end - vma.start) / PAGE).min(LOOKED_AT as u64);
    let args = [file, words.as_mut_ptr() as u64, pages * 8, vma.start / PAGE * 8];
    // SAFETY: the call writes no more than so many words.
    must!(unsafe { syscall(number::PREAD64, args) });
    put!(trace, "# {:#x} pages", vma.start);
    for word in words.into_iter().take(usize::try_from(pages).unwrap_or(0)) {
        let bits = PAGEMAP.into_iter().filter(|&(bit, _)| word >> bit & 1 != 0);
        put!(trace, " {:x}", bits.map(|(_, value)| value).sum::<u8>());
    }
    put!(trace, "\n");
}
