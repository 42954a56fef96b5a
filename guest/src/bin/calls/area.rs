//! The pages that all parts work on, and how they call.

#![allow(unsafe_code)]

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::fault::{self, Answer};
use guest::memory::{self, PAGE};
use guest::{check_eq, must};

/// The first page. Nothing else lies near it.
pub(crate) const AREA: u64 = 0x1000_0000_0000;
/// How many pages there are.
pub(crate) const PAGES: u64 = 64;
/// A page for what calls read and write, apart from the others.
const SCRATCH: u64 = AREA + 1024 * PAGE;

/// PROT_READ and PROT_WRITE.
pub(crate) const RW: u64 = 3;
/// PROT_READ.
pub(crate) const READ: u64 = 1;
/// MAP_PRIVATE, MAP_ANONYMOUS and MAP_FIXED.
pub(crate) const PRIVATE: u64 = 0x32;
/// MAP_SHARED, MAP_ANONYMOUS and MAP_FIXED.
pub(crate) const SHARED: u64 = 0x31;

/// The address of page `n`.
pub(crate) const fn page(n: u64) -> u64 {
    AREA + n * PAGE
}

/// Makes a call that changes memory of the area at most.
pub(crate) fn call<const N: usize>(number: u64, args: [u64; N]) -> Result<u64, Errno> {
    // SAFETY: every call here is about pages of the area and the scratch page, which Rust knows nothing
    // of, or changes how later calls are answered.
    unsafe { syscall(number, args) }
}

/// Maps pages, as a new object or new memory.
pub(crate) fn map(first: u64, pages: u64, prot: u64, flags: u64) {
    let no_file = u64::MAX;
    let args = [page(first), pages * PAGE, prot, flags, no_file, 0];
    check_eq!(call(number::MMAP, args), Ok(page(first)), "mmap of {pages} pages at {first}");
}

/// Empties the area, and maps its first `pages` pages, private and writable; each holds its number plus
/// one.
pub(crate) fn fresh(pages: u64) {
    must!(call(number::MUNMAP, [AREA, PAGES * PAGE]));
    map(0, pages, RW, PRIVATE);
    for n in 0..pages {
        memory::store(page(n), n + 1);
    }
}

/// What the page holds: its first word.
pub(crate) fn holds(n: u64, wanted: u64, what: &str) {
    check_eq!(fault::load(page(n)), Ok(wanted), "page {n} {what}");
}

/// A read of the page is a signal.
pub(crate) fn unreadable(n: u64, wanted: Answer, what: &str) {
    let came = fault::read(page(n)).err().map(|caught| caught.answer());
    check_eq!(came, Some(wanted), "a read of page {n} {what}");
}

/// A write to the page is a signal.
pub(crate) fn unwritable(n: u64, wanted: Answer, what: &str) {
    let came = fault::write(page(n)).err().map(|caught| caught.answer());
    check_eq!(came, Some(wanted), "a write to page {n} {what}");
}

/// Nothing is mapped at the page.
pub(crate) fn unmapped(n: u64, what: &str) {
    unreadable(n, Answer::unmapped(page(n)), what);
}

/// Puts words where calls can read them; the answer is their address.
pub(crate) fn put(words: &[u64]) -> u64 {
    map_scratch();
    for (at, word) in (SCRATCH..).step_by(8).zip(words) {
        memory::store(at, *word);
    }
    SCRATCH
}

/// Where calls can write, and [`scratch`] finds it.
pub(crate) fn out() -> u64 {
    map_scratch();
    SCRATCH
}

/// The same, with what it holds, where nothing can be mapped just now.
pub(crate) const fn out_as_it_is() -> u64 {
    SCRATCH
}

/// Word `index` of what a call wrote.
pub(crate) fn scratch(index: u64) -> u64 {
    memory::load(SCRATCH + index * 8)
}

fn map_scratch() {
    let args = [SCRATCH, PAGE, RW, PRIVATE, u64::MAX, 0];
    must!(call(number::MMAP, args));
}
