//! mlock(2) and its kin.

use guest::call::number;
use guest::check_eq;
use guest::errno::Errno;
use guest::memory::PAGE;

use super::area::{AREA, PRIVATE, RW, call, fresh, holds, map, out, page, scratch};

pub(crate) fn all() {
    ranges();
    everything();
}

fn is_resident(n: u64) -> bool {
    check_eq!(call(number::MINCORE, [page(n), PAGE, out()]), Ok(0), "mincore");
    scratch(0) & 1 != 0
}

fn ranges() {
    fresh(1);
    map(0, 4, RW, PRIVATE);
    // The pages that the bytes touch, and they are brought in.
    check_eq!(call(number::MLOCK, [AREA + 1, PAGE]), Ok(0), "mlock");
    check_eq!(is_resident(1), true, "a page that was locked");
    check_eq!(is_resident(2), false, "a page that was not");
    check_eq!(call(number::MLOCK2, [page(2), PAGE, 1]), Ok(0), "MLOCK_ONFAULT");
    check_eq!(is_resident(2), false, "a page that is locked once it comes");
    check_eq!(call(number::MLOCK2, [page(2), PAGE, 2]), Err(Errno::EINVAL), "mlock2's flags");
    check_eq!(call(number::MLOCK, [page(3), 2 * PAGE]), Err(Errno::ENOMEM), "mlock of a hole");
    check_eq!(call(number::MUNLOCK, [AREA, 4 * PAGE]), Ok(0), "munlock");
    check_eq!(call(number::MUNLOCK, [page(4), PAGE]), Err(Errno::ENOMEM), "munlock of a hole");
    check_eq!(call(number::MPROTECT, [AREA, PAGE, 0]), Ok(0), "mprotect");
    let hidden = call(number::MLOCK, [AREA, PAGE]);
    check_eq!(hidden, Err(Errno::ENOMEM), "mlock of what cannot be touched");
}

fn everything() {
    fresh(1);
    check_eq!(call(number::MLOCKALL, [0]), Err(Errno::EINVAL), "mlockall without flags");
    check_eq!(call(number::MLOCKALL, [4]), Err(Errno::EINVAL), "MCL_ONFAULT alone");
    check_eq!(call(number::MLOCKALL, [8]), Err(Errno::EINVAL), "unknown flags");
    // MCL_FUTURE.
    check_eq!(call(number::MLOCKALL, [2]), Ok(0), "mlockall");
    map(8, 2, RW, PRIVATE);
    check_eq!(is_resident(9), true, "a page of what is locked from the start");
    check_eq!(call(number::MUNLOCKALL, [0]), Ok(0), "munlockall");
    map(16, 2, RW, PRIVATE);
    check_eq!(is_resident(17), false, "a page of what is not");
    holds(17, 0, "of a new map");
}
