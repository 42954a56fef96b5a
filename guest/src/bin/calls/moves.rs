//! mremap(2) in all its forms, and remap_file_pages(2).

use guest::call::number;
use guest::check_eq;
use guest::errno::Errno;
use guest::memory::{self, PAGE};

use super::area::{AREA, RW, SHARED, call, fresh, holds, map, page, unmapped};

const MAYMOVE: u64 = 1;
const FIXED: u64 = 2;
const DONTUNMAP: u64 = 4;

pub(crate) fn all() {
    in_place();
    to_an_address();
    keeping_the_source();
    duplicate();
    several();
    refused();
    file_pages();
}

fn remap(from: u64, old: u64, new: u64, flags: u64, to: u64) -> Result<u64, Errno> {
    call(number::MREMAP, [page(from), old * PAGE, new * PAGE, flags, page(to)])
}

fn in_place() {
    fresh(2);
    check_eq!(remap(0, 2, 1, 0, 0), Ok(AREA), "a shrink");
    unmapped(1, "that was cut off");
    check_eq!(remap(0, 1, 3, 0, 0), Ok(AREA), "growth in place");
    holds(0, 1, "after growth");
    holds(2, 0, "that is new");
    map(3, 1, RW, super::area::PRIVATE);
    memory::store(page(3), 7);
    // What was mapped behind merged with it, and is grown over as a part of it; now it is not.
    check_eq!(call(number::MPROTECT, [page(3), PAGE, 1]), Ok(0), "mprotect");
    check_eq!(remap(0, 3, 4, 0, 0), Err(Errno::ENOMEM), "growth where something is");
    let moved = remap(0, 3, 4, MAYMOVE, 0);
    check_eq!(moved.map(memory::load), Ok(1), "a move to where there is room");
    unmapped(0, "that moved away");
    check_eq!(moved.and_then(|at| call(number::MUNMAP, [at, 4 * PAGE])), Ok(0), "munmap");
}

fn to_an_address() {
    fresh(6);
    check_eq!(remap(0, 2, 2, MAYMOVE | FIXED, 4), Ok(page(4)), "a move over others");
    unmapped(0, "that moved away");
    holds(4, 1, "that was moved over");
    holds(5, 2, "that was moved over");
    check_eq!(remap(4, 2, 1, MAYMOVE | FIXED, 0), Ok(AREA), "a move that shrinks");
    holds(0, 1, "that came back");
    unmapped(5, "that was cut off");
}

fn keeping_the_source() {
    fresh(2);
    check_eq!(remap(0, 2, 2, MAYMOVE | FIXED | DONTUNMAP, 8), Ok(page(8)), "MREMAP_DONTUNMAP");
    holds(8, 1, "that moved");
    holds(0, 0, "that stayed, empty");
    memory::store(page(0), 5);
    holds(8, 1, "that is no longer the same");
}

fn duplicate() {
    fresh(1);
    check_eq!(remap(0, 0, 1, MAYMOVE, 0), Err(Errno::EINVAL), "a second map of private memory");
    map(0, 2, RW, SHARED);
    memory::store(page(1), 9);
    check_eq!(remap(0, 0, 2, MAYMOVE | FIXED, 8), Ok(page(8)), "a second map of shared memory");
    memory::store(page(8), 3);
    holds(0, 3, "written through the other map");
    holds(9, 9, "seen through the other map");
}

fn several() {
    fresh(4);
    check_eq!(call(number::MUNMAP, [page(2), PAGE]), Ok(0), "munmap");
    check_eq!(call(number::MPROTECT, [page(1), PAGE, 1]), Ok(0), "mprotect");
    check_eq!(remap(0, 4, 4, MAYMOVE | FIXED, 8), Ok(page(8)), "a move of several VMAs");
    holds(8, 1, "the first");
    holds(9, 2, "the second");
    unmapped(10, "a hole that moved along");
    holds(11, 4, "behind the hole");
    check_eq!(remap(8, 2, 3, MAYMOVE, 0), Err(Errno::EFAULT), "growth of several VMAs");
}

fn refused() {
    fresh(2);
    let refuse = |args: [u64; 5], errno, what: &str| {
        check_eq!(call(number::MREMAP, args), Err(errno), "mremap, {what}");
    };
    refuse([AREA + 1, PAGE, PAGE, 0, 0], Errno::EINVAL, "inside a page");
    refuse([AREA, PAGE, 0, 0, 0], Errno::EINVAL, "to nothing");
    refuse([AREA, PAGE, PAGE, 8, 0], Errno::EINVAL, "unknown flags");
    refuse([AREA, PAGE, PAGE, FIXED, page(8)], Errno::EINVAL, "MREMAP_FIXED alone");
    refuse([AREA, PAGE, PAGE, 3, AREA], Errno::EINVAL, "onto itself");
    refuse([page(8), PAGE, 2 * PAGE, 1, 0], Errno::EFAULT, "of nothing");
    refuse([AREA, PAGE, PAGE, 3, 0x7fff_ffff_f000], Errno::EINVAL, "past the end");
}

fn file_pages() {
    fresh(1);
    map(0, 4, RW, SHARED);
    for n in 0..4 {
        memory::store(page(n), 10 + n);
    }
    let args = |n, prot, pgoff| [page(n), PAGE, prot, pgoff, 0];
    check_eq!(call(number::REMAP_FILE_PAGES, args(0, 0, 2)), Ok(0), "remap_file_pages");
    holds(0, 12, "that shows another page of its object");
    memory::store(page(0), 99);
    holds(2, 99, "that is shown twice");
    check_eq!(call(number::REMAP_FILE_PAGES, args(0, 1, 2)), Err(Errno::EINVAL), "with a prot");
    check_eq!(call(number::REMAP_FILE_PAGES, args(9, 0, 2)), Err(Errno::EINVAL), "of nothing");
}
