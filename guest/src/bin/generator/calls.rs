//! The memory calls. They are printed as strace would, flags as numbers.

#![allow(unsafe_code)]

use core::fmt;

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::memory::PAGE;

use crate::acts::Generator;
use crate::area::control;
use crate::trace::put;
use crate::turns::UNMAPPABLE;

const FIXED: u64 = 0x10;
const ANONYMOUS: u64 = 0x20;
const SYNC: u64 = 0x8_0000;
const MREMAP_FIXED: u64 = 2;
const DONTUNMAP: u64 = 4;
/// The caller itself, for process_madvise(2).
const PIDFD_SELF: u64 = (-10000_i64).cast_unsigned();
/// How many pages mincore(2) is asked for at most.
const RESIDENCY: usize = 64;

/// A call's result as strace has it.
struct Shown<'a>(&'a Result<u64, Errno>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Addresses.
            Ok(value) if *value >= 1 << 20 => write!(f, "{value:#x}"),
            Ok(value) => write!(f, "{value}"),
            Err(error) => write!(f, "-1 {error}"),
        }
    }
}

impl Generator {
    /// Makes a call.
    pub(crate) fn make<const N: usize>(number: u64, args: [u64; N]) -> Result<u64, Errno> {
        // SAFETY: what nobody here has references to is changed, or what the caller has given for it.
        unsafe { syscall(number, args) }
    }

    /// Writes down a call of a kind, and what it has answered.
    pub(crate) fn tell(
        &mut self,
        kind: &str,
        text: fmt::Arguments<'_>,
        result: &Result<u64, Errno>,
    ) {
        self.count(if result.is_ok() { kind } else { "refused" });
        put!(&mut self.trace, "{} {text} = {}\n", self.process, Shown(result));
    }

    pub(crate) fn mmap(&mut self) {
        let len = self.new_len();
        let (addr, mut flags) = match self.below(10) {
            0..=4 => (self.page(), FIXED),
            5 => (self.page(), 0x10_0000),
            6 | 7 => (self.page() + if self.chance(20) { self.below(PAGE) } else { 0 }, 0),
            _ => (0, 0),
        };
        flags |= match self.below(20) {
            0..=14 => 2,
            15..=18 => 1,
            _ => self.pick([3, 8, 0, 4]),
        };
        for (flag, chance) in [
            (0x100, 3),
            (0x2000, 3),
            (0x4000, 5),
            (0x8000, 4),
            (0x1_0000, 2),
            (0x2_0000, 3),
            (0x40, 1),
            (SYNC, 1),
        ] {
            if self.chance(chance) {
                flags |= flag;
            }
        }
        let (mut fd, mut offset) = (u64::MAX, 0);
        let file = self.some_file();
        if let Some(file) = file
            && self.chance(30)
        {
            fd = file;
            // It is the file system's to refuse.
            flags &= !SYNC;
            let pages = self.below(6) * PAGE;
            offset = self.odd(pages);
        } else {
            flags |= ANONYMOUS;
        }
        if self.chance(1) {
            fd = self.pick([77, UNMAPPABLE]);
            flags &= !ANONYMOUS;
        }
        let (addr, len, prot) = (self.odd(addr), self.odd(len), self.random.prot());
        if Self::too_large(len) || (flags & FIXED != 0 && self.endangers(addr, len)) {
            return;
        }
        let result = Self::make(number::MMAP, [addr, len, prot, flags, fd, offset]);
        let fd = fd.cast_signed();
        let call = format_args!("mmap({addr:#x}, {len}, {prot}, {flags:#x}, {fd}, {offset:#x})");
        self.tell("mmap", call, &result);
    }

    pub(crate) fn munmap(&mut self) {
        let (addr, len) = self.odd_range();
        if self.endangers(addr, len) {
            return;
        }
        let result = Self::make(number::MUNMAP, [addr, len]);
        self.tell("munmap", format_args!("munmap({addr:#x}, {len})"), &result);
    }

    pub(crate) fn mprotect(&mut self) {
        let (addr, len) = self.odd_range();
        let prot = self.random.new_prot();
        if self.endangers(addr, len) {
            return;
        }
        let result = Self::make(number::MPROTECT, [addr, len, prot]);
        self.tell("mprotect", format_args!("mprotect({addr:#x}, {len}, {prot:#x})"), &result);
    }

    pub(crate) fn mremap(&mut self) {
        let (addr, old_len) = self.odd_range();
        let new_len = self.random.new_len(old_len);
        let flags = self.random.mremap_flags();
        let to = self.page();
        let (to, new_len) = (self.odd(to), self.odd(new_len));
        let old_len = if self.chance(2) { 0 } else { old_len };
        let fixed = flags & MREMAP_FIXED != 0 && self.endangers(to, new_len);
        if Self::too_large(new_len) || self.endangers(addr, old_len) || fixed {
            return;
        }
        let result = Self::make(number::MREMAP, [addr, old_len, new_len, flags, to]);
        // strace shows the address where it is looked at.
        if flags & (MREMAP_FIXED | DONTUNMAP) != 0 {
            let call = format_args!("mremap({addr:#x}, {old_len}, {new_len}, {flags}, {to:#x})");
            self.tell("mremap", call, &result);
        } else {
            let call = format_args!("mremap({addr:#x}, {old_len}, {new_len}, {flags})");
            self.tell("mremap", call, &result);
        }
    }

    pub(crate) fn madvise(&mut self) {
        let (addr, len) = self.odd_range();
        let advice = self.pick([
            0, 1, 2, 2, 3, 4, 4, 8, 9, 10, 10, 11, 11, 12, 13, 15, 16, 17, 18, 18, 19, 20, 21, 22,
            23, 23, 24, 102, 102, 103, 103, 5, 99,
        ]);
        if self.endangers(addr, len) {
            return;
        }
        let drained = matches!(advice, 8 | 20 | 21);
        if drained {
            self.drain_lists();
        }
        let result = Self::make(number::MADVISE, [addr, len, advice]);
        self.tell("madvise", format_args!("madvise({addr:#x}, {len}, {advice})"), &result);
        if drained {
            self.drain_lists();
        }
    }

    /// Has Linux put pages on the lists that they belong on, which it does in batches, one a processor: until then
    /// advice about them is not followed. mbind(2) with `MPOL_MF_MOVE` does so first, also where nothing is mapped.
    fn drain_lists(&mut self) {
        const NOWHERE: u64 = 0x1000_0000_0000;
        const MPOL_MF_MOVE: u64 = 2;
        let _ = Self::make(number::MBIND, [NOWHERE, PAGE, 0, 0, 0, MPOL_MF_MOVE]);
    }

    pub(crate) fn lock(&mut self) {
        let (addr, len) = self.odd_range();
        if self.endangers(addr, len) {
            return;
        }
        control().set_locked();
        match self.below(10) {
            0..=3 => {
                let result = Self::make(number::MLOCK, [addr, len]);
                self.tell("lock", format_args!("mlock({addr:#x}, {len})"), &result);
            }
            4 => {
                let flags = self.pick([0, 1, 1, 2]);
                let result = Self::make(number::MLOCK2, [addr, len, flags]);
                self.tell("lock", format_args!("mlock2({addr:#x}, {len}, {flags})"), &result);
            }
            5..=8 => {
                let result = Self::make(number::MUNLOCK, [addr, len]);
                self.tell("lock", format_args!("munlock({addr:#x}, {len})"), &result);
            }
            _ if self.chance(50) => {
                let result = Self::make::<0>(number::MUNLOCKALL, []);
                self.tell("lock", format_args!("munlockall()"), &result);
            }
            _ => {
                // Locking everything at once would bring in the generator's own memory, all of it.
                let flags = self.pick([2, 2, 6, 4, 0, 8]);
                let result = Self::make(number::MLOCKALL, [flags]);
                self.tell("lock", format_args!("mlockall({flags})"), &result);
            }
        }
    }

    pub(crate) fn brk(&mut self) {
        let Ok(base) = Self::make(number::BRK, [0]) else { return };
        let target = self.random.heap_end(base);
        if Self::too_large(target.saturating_sub(base)) {
            return;
        }
        let result = Self::make(number::BRK, [target]);
        self.tell("brk", format_args!("brk({target:#x})"), &result);
    }

    pub(crate) fn msync(&mut self) {
        let (addr, len) = self.odd_range();
        let flags = self.pick([1, 2, 4, 6, 0, 3, 5, 8]);
        let result = Self::make(number::MSYNC, [addr, len, flags]);
        self.tell("msync", format_args!("msync({addr:#x}, {len}, {flags})"), &result);
    }

    /// Of what is no file, of which a kernel reads ahead as it likes.
    pub(crate) fn mincore(&mut self) {
        let (addr, len) = self.odd_range();
        let len = len.min(RESIDENCY as u64 * PAGE);
        let end = addr.saturating_add(len).saturating_add(PAGE);
        let meets = |vma: &crate::seen::Vma| vma.of_file && vma.start < end && addr < vma.end;
        if self.vmas.all().iter().any(meets) {
            return;
        }
        let mut pages = [0_u8; RESIDENCY + 1];
        let result = Self::make(number::MINCORE, [addr, len, pages.as_mut_ptr() as u64]);
        self.count(if result.is_ok() { "mincore" } else { "refused" });
        put!(&mut self.trace, "{} mincore({addr:#x}, {len}, [", self.process);
        let count = usize::try_from(len.div_ceil(PAGE)).unwrap_or(0);
        for (at, page) in pages.iter().take(if result.is_ok() { count } else { 0 }).enumerate() {
            put!(&mut self.trace, "{}{}", if at > 0 { ", " } else { "" }, page & 1);
        }
        put!(&mut self.trace, "]) = {}\n", Shown(&result));
    }

    pub(crate) fn process_madvise(&mut self) {
        let (addr, len) = self.odd_range();
        let advice = self.pick([4, 10, 2, 99]);
        let pidfd = self.pick([PIDFD_SELF, PIDFD_SELF, 55]);
        if self.endangers(addr, len) {
            return;
        }
        let ranges = [addr, len];
        let args = [pidfd, ranges.as_ptr() as u64, 1, advice, 0];
        let result = Self::make(number::PROCESS_MADVISE, args);
        let (pidfd, ranges) =
            (pidfd.cast_signed(), format_args!("[{{iov_base={addr:#x}, iov_len={len}}}]"));
        let call = format_args!("process_madvise({pidfd}, {ranges}, 1, {advice}, 0)");
        self.tell("process_madvise", call, &result);
    }

    /// mseal, which nothing undoes, and remap_file_pages.
    pub(crate) fn rare(&mut self) {
        let (addr, len) = self.odd_range();
        if self.endangers(addr, len) {
            return;
        }
        if self.chance(40) {
            let result = Self::make(number::MSEAL, [addr, len, 0]);
            return self.tell("mseal", format_args!("mseal({addr:#x}, {len}, 0)"), &result);
        }
        let (offset, prot) = (self.below(6), if self.chance(4) { 1 } else { 0 });
        let result = Self::make(number::REMAP_FILE_PAGES, [addr, len, prot, offset, 0]);
        let call = format_args!("remap_file_pages({addr:#x}, {len}, {prot}, {offset}, 0)");
        self.tell("remap_file_pages", call, &result);
    }
}
