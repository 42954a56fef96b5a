//! Protections, guard regions and seals: what the processor says of an access after each call.

use guest::call::number;
use guest::check_eq;
use guest::errno::Errno;
use guest::fault::Answer;
use guest::memory::{self, PAGE};

use super::area::{
    AREA, PRIVATE, READ, RW, call, fresh, holds, map, page, unmapped, unreadable, unwritable,
};

const DONTNEED: u64 = 4;
const GUARD_INSTALL: u64 = 102;
const GUARD_REMOVE: u64 = 103;

pub(crate) fn all() {
    protections();
    keys();
    guard_regions();
    seals();
}

fn protect(first: u64, pages: u64, prot: u64) -> Result<u64, Errno> {
    call(number::MPROTECT, [page(first), pages * PAGE, prot])
}

fn protections() {
    fresh(4);
    check_eq!(protect(1, 2, READ), Ok(0), "mprotect");
    unwritable(1, Answer::denied(page(1)), "that may be read");
    holds(2, 3, "that may be read");
    check_eq!(protect(1, 1, 0), Ok(0), "mprotect");
    unreadable(1, Answer::denied(page(1)), "that is hidden");
    // Over a hole: what is before it has changed, what is behind it has not.
    check_eq!(call(number::MUNMAP, [page(2), PAGE]), Ok(0), "munmap");
    check_eq!(protect(0, 4, READ), Err(Errno::ENOMEM), "mprotect over a hole");
    unwritable(0, Answer::denied(page(0)), "before the hole");
    unmapped(2, "the hole");
    memory::store(page(3), 8);
    check_eq!(protect(0, 2, RW), Ok(0), "mprotect");
    holds(1, 2, "that was hidden");
    memory::store(page(1), 8);
    check_eq!(protect(0, 1, 0x300_0000), Err(Errno::EINVAL), "both PROT_GROWS");
    check_eq!(protect(0, 1, 0x100_0000), Err(Errno::EINVAL), "PROT_GROWSDOWN");
}

fn keys() {
    fresh(1);
    let protect = |key: u64| call(number::PKEY_MPROTECT, [AREA, PAGE, READ, key]);
    check_eq!(protect(u64::MAX), Ok(0), "pkey_mprotect without a key");
    unwritable(0, Answer::denied(AREA), "that may be read");
    check_eq!(protect(99), Err(Errno::EINVAL), "pkey_mprotect with a key that is not there");
}

fn guard_regions() {
    fresh(4);
    let advise = |first, pages, advice| call(number::MADVISE, [page(first), pages * PAGE, advice]);
    check_eq!(advise(1, 2, GUARD_INSTALL), Ok(0), "MADV_GUARD_INSTALL");
    unmapped(1, "that is guarded");
    unwritable(2, Answer::unmapped(page(2)), "that is guarded");
    holds(0, 1, "beside a guard");
    holds(3, 4, "beside a guard");
    check_eq!(advise(0, 4, DONTNEED), Ok(0), "MADV_DONTNEED");
    unmapped(1, "whose guard MADV_DONTNEED leaves");
    holds(3, 0, "that MADV_DONTNEED emptied");
    check_eq!(protect(0, 4, READ), Ok(0), "mprotect");
    unmapped(2, "whose guard mprotect leaves");
    check_eq!(protect(0, 4, RW), Ok(0), "mprotect");
    let moved = call(number::MREMAP, [AREA, 4 * PAGE, 4 * PAGE, 3, page(8)]);
    check_eq!(moved, Ok(page(8)), "mremap");
    unmapped(9, "whose guard moved along");
    check_eq!(advise(8, 4, GUARD_REMOVE), Ok(0), "MADV_GUARD_REMOVE");
    holds(9, 0, "that was guarded");
    memory::store(page(10), 6);
    holds(10, 6, "that was guarded");
    check_eq!(call(number::MLOCK, [page(8), PAGE]), Ok(0), "mlock");
    check_eq!(advise(8, 1, GUARD_INSTALL), Err(Errno::EINVAL), "a guard in locked memory");
}

fn seals() {
    fresh(1);
    // Sealed memory stays as long as the process does: it lies apart from the rest.
    let sealed = page(512);
    map(512, 3, RW, PRIVATE);
    memory::store(sealed, 4);
    check_eq!(call(number::MPROTECT, [page(513), PAGE, READ]), Ok(0), "mprotect");
    check_eq!(call(number::MSEAL, [sealed, PAGE, 1]), Err(Errno::EINVAL), "mseal with flags");
    check_eq!(call(number::MSEAL, [sealed, 4 * PAGE, 0]), Err(Errno::ENOMEM), "mseal of a hole");
    check_eq!(call(number::MSEAL, [sealed, 2 * PAGE, 0]), Ok(0), "mseal");
    let eperm = Err(Errno::EPERM);
    check_eq!(call(number::MUNMAP, [sealed, PAGE]), eperm, "munmap of sealed memory");
    check_eq!(protect(512, 1, READ), eperm, "mprotect of sealed memory");
    let moved = call(number::MREMAP, [sealed, PAGE, PAGE, 3, page(8)]);
    check_eq!(moved, eperm, "mremap of sealed memory");
    let over = call(number::MMAP, [sealed, PAGE, RW, PRIVATE, u64::MAX, 0]);
    check_eq!(over, eperm, "mmap over sealed memory");
    let advise = |at| call(number::MADVISE, [at, PAGE, DONTNEED]);
    check_eq!(advise(page(513)), eperm, "MADV_DONTNEED of sealed memory that cannot be written");
    holds(512, 4, "that is sealed");
    memory::store(sealed, 5);
    unwritable(513, Answer::denied(page(513)), "that is sealed read-only");
    check_eq!(advise(sealed), Ok(0), "MADV_DONTNEED of sealed memory that can be written");
    holds(512, 0, "that was emptied");
    check_eq!(call(number::MUNMAP, [page(514), PAGE]), Ok(0), "munmap beside sealed memory");
}
