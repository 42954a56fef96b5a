//! madvise(2) with every advice, process_madvise(2), mincore(2), msync(2).

use guest::call::number;
use guest::check_eq;
use guest::errno::Errno;
use guest::memory::{self, PAGE};

use super::area::{AREA, READ, RW, SHARED, call, fresh, holds, map, out, page, put, scratch};

const DONTNEED: u64 = 4;
const REMOVE: u64 = 9;
const POPULATE_READ: u64 = 22;
const POPULATE_WRITE: u64 = 23;
const DONTNEED_LOCKED: u64 = 24;

pub(crate) fn all() {
    flags();
    contents();
    population();
    several_ranges();
    residency();
    synchronization();
}

fn advise(first: u64, pages: u64, advice: u64) -> Result<u64, Errno> {
    call(number::MADVISE, [page(first), pages * PAGE, advice])
}

/// The advice that only marks, and what cannot be.
fn flags() {
    fresh(4);
    // NORMAL RANDOM SEQUENTIAL WILLNEED, DONTFORK DOFORK, DONTDUMP DODUMP, WIPEONFORK KEEPONFORK, COLD
    // PAGEOUT.
    for advice in [0, 1, 2, 3, 10, 11, 16, 17, 18, 19, 20, 21, 0] {
        check_eq!(advise(1, 2, advice), Ok(0), "advice {advice}");
        holds(1, 2, "after advice");
    }
    for advice in [5, 6, 7, 26, 99, 104, u64::from(u32::MAX)] {
        check_eq!(advise(1, 2, advice), Err(Errno::EINVAL), "advice {advice}");
    }
    check_eq!(call(number::MADVISE, [AREA + 1, PAGE, 0]), Err(Errno::EINVAL), "inside a page");
    check_eq!(call(number::MADVISE, [AREA, 0, 0]), Ok(0), "of nothing");
    check_eq!(advise(2, 4, 1), Err(Errno::ENOMEM), "past the end of what is mapped");
    map(8, 1, RW, SHARED);
    check_eq!(advise(8, 1, 18), Err(Errno::EINVAL), "MADV_WIPEONFORK of shared memory");
    check_eq!(advise(8, 1, 8), Err(Errno::EINVAL), "MADV_FREE of shared memory");
}

/// The advice that takes contents away.
fn contents() {
    fresh(4);
    check_eq!(advise(1, 2, DONTNEED), Ok(0), "MADV_DONTNEED");
    holds(0, 1, "beside it");
    holds(1, 0, "after MADV_DONTNEED");
    memory::store(page(1), 5);
    holds(1, 5, "written again");
    // A hole ends nothing: what is behind it is gone as well.
    check_eq!(call(number::MUNMAP, [page(2), PAGE]), Ok(0), "munmap");
    check_eq!(advise(1, 3, DONTNEED), Err(Errno::ENOMEM), "MADV_DONTNEED over a hole");
    holds(1, 0, "before the hole");
    holds(3, 0, "behind the hole");
    map(8, 2, RW, SHARED);
    memory::store(page(8), 5);
    check_eq!(advise(8, 1, DONTNEED), Ok(0), "MADV_DONTNEED of shared memory");
    holds(8, 5, "whose object has it");
    check_eq!(advise(8, 1, REMOVE), Ok(0), "MADV_REMOVE");
    holds(8, 0, "whose object has it no more");
    check_eq!(advise(0, 1, REMOVE), Err(Errno::EINVAL), "MADV_REMOVE of private memory");
    check_eq!(call(number::MLOCK, [AREA, PAGE]), Ok(0), "mlock");
    check_eq!(advise(0, 1, DONTNEED), Err(Errno::EINVAL), "MADV_DONTNEED of locked memory");
    holds(0, 1, "that is locked");
    check_eq!(advise(0, 1, DONTNEED_LOCKED), Ok(0), "MADV_DONTNEED_LOCKED");
    holds(0, 0, "after MADV_DONTNEED_LOCKED");
}

/// Whether page `n` is resident.
fn resident(n: u64) -> u64 {
    let came = call(number::MINCORE, [page(n), PAGE, out()]);
    check_eq!(came, Ok(0), "mincore of page {n}");
    scratch(0) & 1
}

fn population() {
    fresh(1);
    map(0, 4, RW, super::area::PRIVATE);
    check_eq!(resident(0), 0, "a page that was never touched");
    check_eq!(advise(0, 1, POPULATE_READ), Ok(0), "MADV_POPULATE_READ");
    check_eq!(advise(1, 1, POPULATE_WRITE), Ok(0), "MADV_POPULATE_WRITE");
    check_eq!(resident(1), 1, "a page that was populated");
    check_eq!(resident(3), 0, "a page that was not");
    check_eq!(call(number::MPROTECT, [page(2), PAGE, READ]), Ok(0), "mprotect");
    check_eq!(advise(2, 1, POPULATE_WRITE), Err(Errno::EINVAL), "of what cannot be written");
    check_eq!(advise(3, 2, POPULATE_READ), Err(Errno::ENOMEM), "of a hole");
    // MAP_POPULATE.
    map(0, 2, RW, super::area::PRIVATE | 0x8000);
    check_eq!(resident(1), 1, "a page of MAP_POPULATE");
}

fn several_ranges() {
    /// PIDFD_SELF_THREAD.
    const ITSELF: u64 = (-10000_i64).cast_unsigned();
    fresh(1);
    let ranges = put(&[AREA, PAGE, page(8), PAGE]);
    let advise = |fd, at, count, flags| call(number::PROCESS_MADVISE, [fd, at, count, 1, flags]);
    check_eq!(advise(ITSELF, ranges, 2, 0), Ok(PAGE), "process_madvise, the second unmapped");
    check_eq!(advise(ITSELF, ranges + 16, 1, 0), Err(Errno::ENOMEM), "process_madvise of nothing");
    check_eq!(advise(ITSELF, ranges, 2, 1), Err(Errno::EINVAL), "process_madvise with flags");
    check_eq!(advise(ITSELF, page(8), 1, 0), Err(Errno::EFAULT), "process_madvise's pointer");
    check_eq!(advise(99, ranges, 2, 0), Err(Errno::EBADF), "process_madvise's descriptor");
}

fn residency() {
    fresh(3);
    let mincore = |addr, len, to| call(number::MINCORE, [addr, len, to]);
    check_eq!(mincore(AREA, 2 * PAGE + 1, out()), Ok(0), "mincore");
    check_eq!(scratch(0), 0x01_0101, "three pages");
    check_eq!(mincore(AREA + 1, PAGE, out()), Err(Errno::EINVAL), "mincore inside a page");
    check_eq!(mincore(AREA, PAGE, page(8)), Err(Errno::EFAULT), "mincore's vector");
    check_eq!(mincore(AREA, 4 * PAGE, out()), Err(Errno::ENOMEM), "mincore of a hole");
    check_eq!(scratch(0), 0x01_0101, "what lies before the hole");
    check_eq!(mincore(AREA, 1 << 63, out()), Err(Errno::ENOMEM), "mincore of everything");
}

fn synchronization() {
    fresh(2);
    let sync = |pages, flags| call(number::MSYNC, [AREA, pages * PAGE, flags]);
    check_eq!(sync(2, 4), Ok(0), "msync");
    check_eq!(sync(2, 5), Err(Errno::EINVAL), "MS_SYNC and MS_ASYNC");
    check_eq!(sync(2, 8), Err(Errno::EINVAL), "unknown flags");
    check_eq!(sync(3, 4), Err(Errno::ENOMEM), "msync of a hole");
    check_eq!(call(number::MLOCK, [AREA, PAGE]), Ok(0), "mlock");
    check_eq!(sync(1, 2), Err(Errno::EBUSY), "MS_INVALIDATE of locked memory");
}
