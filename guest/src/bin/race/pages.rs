//! What the page is a page of.

#![allow(unsafe_code)]

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::memory::{self, Flags, Place, Prot};
use guest::{check_eq, must};

/// `MADV_DONTNEED` of madvise(2).
pub(crate) const DONTNEED: u64 = 4;
/// `MADV_HUGEPAGE`.
pub(crate) const HUGEPAGE: u64 = 14;
/// `MADV_PAGEOUT`.
pub(crate) const PAGEOUT: u64 = 21;
/// `MADV_COLLAPSE`.
pub(crate) const COLLAPSE: u64 = 25;

/// `MPOL_MF_MOVE_ALL` of move_pages(2).
const MOVE_ALL: u64 = 4;

/// A kind of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Zeros of the program's own.
    Private,
    /// Shared zeros.
    Shared,
    /// A memfd's page.
    Memfd,
}

/// Memory of a kind.
#[derive(Debug)]
pub(crate) struct Pages {
    kind: Kind,
    /// The memfd that is mapped, if any has been.
    file: Option<u64>,
}

impl Pages {
    pub(crate) const fn new(kind: Kind) -> Self {
        Pages { kind, file: None }
    }

    /// Whether a child sees what its parent writes.
    pub(crate) fn are_shared(&self) -> bool {
        self.kind != Kind::Private
    }

    /// New memory, in place of what is there.
    pub(crate) fn map(&mut self, at: u64, length: u64) {
        let mapped = match self.kind {
            Kind::Private => memory::map(Place::Fixed(at), length, Prot::RW, Flags::OWN),
            Kind::Shared => {
                memory::map(Place::Fixed(at), length, Prot::RW, Flags::SHARED | Flags::ANONYMOUS)
            }
            Kind::Memfd => self.map_memfd(at, length),
        };
        check_eq!(mapped, Ok(at), "mmap");
    }

    fn map_memfd(&mut self, at: u64, length: u64) -> Result<u64, Errno> {
        /// `MAP_FIXED`.
        const FIXED: u64 = 0x10;
        // SAFETY: the call reads the name.
        let file = unsafe { syscall(number::MEMFD_CREATE, [c"race".as_ptr() as u64, 0]) }?;
        // SAFETY: the call touches no memory.
        unsafe { syscall(number::FTRUNCATE, [file, length]) }?;
        if let Some(before) = self.file.replace(file) {
            // SAFETY: as above; the map of it stays until the new one takes its place.
            unsafe { syscall(number::CLOSE, [before]) }?;
        }
        let args = [at, length, Prot::RW.bits(), Flags::SHARED.bits() | FIXED, file, 0];
        // SAFETY: only the race's own places are asked for.
        unsafe { syscall(number::MMAP, args) }
    }

    /// A word of the memfd, as read(2) has it; `None` where there is none.
    pub(crate) fn read_as_file(&self, at: u64) -> Option<u64> {
        let mut word = 0_u64;
        let args = [self.file?, &raw mut word as u64, 8, at];
        // SAFETY: the call writes the word.
        check_eq!(unsafe { syscall(number::PREAD64, args) }, Ok(8), "pread");
        Some(word)
    }
}

/// Advice about whole pages.
pub(crate) fn advise(at: u64, length: u64, advice: u64) -> Result<(), Errno> {
    // SAFETY: the race's pages are no memory of Rust's.
    unsafe { syscall(number::MADVISE, [at, length, advice]) }.map(drop)
}

/// Moves a page to a node, and says what became of it: where it is, or an errno, negated.
pub(crate) fn move_to(page: u64, node: i32) -> i32 {
    let mut status = i32::MIN;
    let (pages, nodes, to) = (&raw const page, &raw const node, &raw mut status);
    let [pages, nodes, to] = [pages as u64, nodes as u64, to as u64];
    // SAFETY: the page is no memory of Rust's, and the call writes nothing but the status.
    must!(unsafe { syscall(number::MOVE_PAGES, [0, 1, pages, nodes, to, MOVE_ALL]) });
    status
}
