//! The memory calls as typed functions, and loads and stores by address.
//!
//! All of these are safe functions because they refuse what is [`reserved`]: the program's image
//! and its live stack, all the memory that Rust has references into. A payload that asks for it is
//! wrong, and ends with a line that says so.

#![allow(unsafe_code)]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::bits::flag_word;
use crate::call::{number, syscall};
use crate::check;
use crate::errno::Errno;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// The end of the user half (Linux's `TASK_SIZE_MAX`, four-level paging).
pub const TASK_SIZE: u64 = (1 << 47) - PAGE;

flag_word! {
    /// What may be done with a mapping's bytes (mmap(2)). On x86 a writable page is readable, and so
    /// is an executable one where there are no protection keys.
    pub struct Prot {
        /// PROT_READ
        const READ = 1;
        /// PROT_WRITE
        const WRITE = 2;
        /// PROT_EXEC
        const EXEC = 4;
    }
}

flag_word! {
    /// What kind of mapping (mmap(2)); where it goes is [`Place`]'s to say.
    pub struct Flags {
        /// MAP_SHARED
        const SHARED = 0x1;
        /// MAP_PRIVATE
        const PRIVATE = 0x2;
        /// MAP_ANONYMOUS
        const ANONYMOUS = 0x20;
        /// MAP_GROWSDOWN
        const GROWSDOWN = 0x100;
        /// MAP_NORESERVE
        const NORESERVE = 0x4000;
        /// MAP_POPULATE
        const POPULATE = 0x8000;
        /// MAP_STACK
        const STACK = 0x2_0000;
    }
}

impl Prot {
    /// Readable and writable.
    pub const RW: Prot = Prot::READ.union(Prot::WRITE);
    /// Everything.
    pub const RWX: Prot = Prot::RW.union(Prot::EXEC);
    /// Readable and executable.
    pub const RX: Prot = Prot::READ.union(Prot::EXEC);
}

impl Flags {
    /// Zeros of the program's own: the flags of most mappings.
    pub const OWN: Flags = Flags::PRIVATE.union(Flags::ANONYMOUS);
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Where the system likes.
    Anywhere,
    /// At this address if it is free, otherwise anywhere.
    Hint(u64),
    /// At this address, in place of what is there (MAP_FIXED).
    Fixed(u64),
    /// At this address, or EEXIST (MAP_FIXED_NOREPLACE).
    IfFree(u64),
}

impl Place {
    const fn address_and_flag(self) -> (u64, u64) {
        match self {
            Place::Anywhere => (0, 0),
            Place::Hint(addr) => (addr, 0),
            Place::Fixed(addr) => (addr, 0x10),
            Place::IfFree(addr) => (addr, 0x10_0000),
        }
    }
}

/// Whether and where [`remap`] may move a mapping (mremap(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// It stays where it is, or the call fails.
    Never,
    /// Anywhere, if it does not fit where it is (MREMAP_MAYMOVE).
    Allowed,
    /// To this address, in place of what is there (MREMAP_FIXED).
    To(u64),
}

/// Maps `len` bytes of zeros, rounded up to pages (mmap(2)); the answer is the first address.
///
/// # Errors
/// As mmap(2): EINVAL for a length of 0 or a fixed address inside a page, EEXIST for
/// [`Place::IfFree`] where something is, ENOMEM.
pub fn map(place: Place, len: u64, prot: Prot, flags: Flags) -> Result<u64, Errno> {
    let (addr, flag) = place.address_and_flag();
    if let Place::Fixed(addr) = place {
        refuse_reserved("mmap", addr, len);
    }
    let no_file = u64::MAX;
    let args = [addr, len, prot.bits(), flags.bits() | flag, no_file, 0];
    // SAFETY: what it replaces, if anything, is not reserved.
    unsafe { syscall(number::MMAP, args) }
}

/// Unmaps whole pages (munmap(2)); holes are no error.
///
/// # Errors
/// EINVAL for an address inside a page, a length of 0 or a range past the user half.
pub fn unmap(addr: u64, len: u64) -> Result<(), Errno> {
    refuse_reserved("munmap", addr, len);
    // SAFETY: the range is not reserved.
    unsafe { syscall(number::MUNMAP, [addr, len]) }.map(drop)
}

/// Changes what may be done with whole pages (mprotect(2)).
///
/// # Errors
/// EINVAL for an address inside a page; ENOMEM where there is a hole, with what lies before the hole
/// changed.
pub fn protect(addr: u64, len: u64, prot: Prot) -> Result<(), Errno> {
    refuse_reserved("mprotect", addr, len);
    // SAFETY: the range is not reserved.
    unsafe { syscall(number::MPROTECT, [addr, len, prot.bits()]) }.map(drop)
}

/// Changes a mapping's length, and perhaps its place (mremap(2)); the answer is its address.
///
/// # Errors
/// As mremap(2): EFAULT where nothing is mapped, ENOMEM where it cannot grow in place, EINVAL for
/// addresses inside a page, a new length of 0, or ranges that overlap.
pub fn remap(addr: u64, len: u64, new_len: u64, moving: Move) -> Result<u64, Errno> {
    refuse_reserved("mremap", addr, len);
    let (flags, to) = match moving {
        Move::Never => (0, 0),
        Move::Allowed => (1, 0),
        Move::To(to) => {
            refuse_reserved("mremap", to, new_len);
            (3, to)
        }
    };
    // SAFETY: neither range is reserved.
    unsafe { syscall(number::MREMAP, [addr, len, new_len, flags, to]) }
}

/// Sets the end of the heap (brk(2)); the answer is where it is now, which is the old end where the
/// new one cannot be had. [`brk`]`(0)` asks.
#[must_use]
pub fn brk(end: u64) -> u64 {
    // SAFETY: the heap holds nothing of Rust's.
    unsafe { syscall(number::BRK, [end]) }.unwrap_or(0)
}

/// Reads the eight bytes at `addr`, of any alignment. A fault kills, unless it is caught
/// ([`crate::fault::load`]).
#[must_use]
pub fn load(addr: u64) -> u64 {
    let value: u64;
    // SAFETY: reading changes nothing, and the compiler cannot see which memory is read.
    unsafe { asm!("mov {}, qword ptr [{}]", out(reg) value, in(reg) addr, options(nostack)) };
    value
}

/// Writes eight bytes at `addr`, of any alignment. A fault kills, unless it is caught
/// ([`crate::fault::store`]).
pub fn store(addr: u64, value: u64) {
    refuse_reserved("a store", addr, 8);
    // SAFETY: the bytes are not reserved, so Rust has no reference to them.
    unsafe { asm!("mov qword ptr [{}], {}", in(reg) addr, in(reg) value, options(nostack)) };
}

static IMAGE_START: AtomicU64 = AtomicU64::new(0);
static IMAGE_END: AtomicU64 = AtomicU64::new(0);
static STACK_TOP: AtomicU64 = AtomicU64::new(0);
static CEDED_START: AtomicU64 = AtomicU64::new(0);
static CEDED_END: AtomicU64 = AtomicU64::new(0);

/// The last page of the program's image: of its data and bss.
#[must_use]
pub fn last_image_page() -> u64 {
    IMAGE_END.load(Ordering::Relaxed).saturating_sub(PAGE)
}

/// How far below the stack pointer the stack counts as in use.
const STACK_BELOW: u64 = 64 << 10;
/// How far above the stack pointer at entry the arguments, environment and auxiliary vector may
/// reach.
const STACK_ABOVE: u64 = 256 << 10;

/// Records what is Rust's: the image, and where the stack was at entry.
pub(crate) fn reserve(image: Range<u64>, stack: u64) {
    IMAGE_START.store(image.start, Ordering::Relaxed);
    IMAGE_END.store(image.end, Ordering::Relaxed);
    STACK_TOP.store(stack, Ordering::Relaxed);
}

/// Words of eight bytes in a page.
const WORDS: usize = 512;

/// One page of a payload's image.
#[repr(C, align(4096))]
#[derive(Debug)]
struct Page([u64; WORDS]);

/// Pages of a payload's image that are given away: a static of this type holds bytes that no Rust
/// code has a reference to, so they may be protected, written, executed and unmapped like any
/// mapping, once [`Ceded::cede`] has told their address.
#[derive(Debug)]
pub struct Ceded<const N: usize>(UnsafeCell<[Page; N]>);

// SAFETY: the bytes are never reached through the value, only by address.
unsafe impl<const N: usize> Sync for Ceded<N> {}

impl<const N: usize> Ceded<N> {
    /// Pages of zeros (the linker puts them into bss).
    #[must_use]
    pub const fn zeros() -> Self {
        Ceded(UnsafeCell::new([const { Page([0; WORDS]) }; N]))
    }

    /// Pages full of `word`, but that each page's last word is `tag` plus the page's number: a page
    /// tells which one it is.
    #[must_use]
    pub const fn tagged(word: u64, tag: u64) -> Self {
        let mut pages = [const { Page([0; WORDS]) }; N];
        let mut n = 0;
        while n < N {
            pages[n].0 = [word; WORDS];
            pages[n].0[WORDS - 1] = tag + n as u64;
            n += 1;
        }
        Ceded(UnsafeCell::new(pages))
    }

    /// Gives the pages away, instead of any given away before; the answer is the first one's
    /// address.
    #[must_use]
    pub fn cede(&'static self) -> u64 {
        let start = self.0.get() as u64;
        CEDED_START.store(start, Ordering::Relaxed);
        CEDED_END.store(start + N as u64 * PAGE, Ordering::Relaxed);
        start
    }
}

/// Whether any of these bytes belong to Rust: the image, but for what was ceded, and the stack in
/// use.
#[must_use]
pub fn reserved(addr: u64, len: u64) -> bool {
    let end = addr.saturating_add(len);
    let overlaps = |range: Range<u64>| addr < range.end && range.start < end;
    let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let ceded = read(&CEDED_START) <= addr && end <= read(&CEDED_END);
    let here = stack_pointer();
    // In std's programs nothing is recorded, and nothing here is called.
    let stack = here.saturating_sub(STACK_BELOW)..read(&STACK_TOP).saturating_add(STACK_ABOVE);
    (overlaps(read(&IMAGE_START)..read(&IMAGE_END)) && !ceded) || overlaps(stack)
}

fn refuse_reserved(what: &str, addr: u64, len: u64) {
    if reserved(addr, len) {
        check::fail(format_args!(
            "{what} of {len:#x} bytes at {addr:#x}: these are the payload's own"
        ));
    }
}

/// The stack pointer, in bytes.
#[must_use]
pub fn stack_pointer() -> u64 {
    let here: u64;
    // SAFETY: only reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    here
}
