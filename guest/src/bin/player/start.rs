//! The descriptors that every script begins with.

use core::ffi::CStr;

use guest::call::{number, syscall};
use guest::must;
use guest::proc::OWN_FILES;

const O_RDWR: u64 = 2;
const F_DUPFD: u64 = 0;

/// Moves standard input and output out of the scripts' way, to the answer's descriptors; 0 and 1 become
/// /dev/null. Standard error stays.
pub(crate) fn move_files() -> (u64, u64) {
    let moved = [0, 1].map(|old| {
        // SAFETY: the call touches no memory.
        must!(unsafe { syscall(number::FCNTL, [old, F_DUPFD, OWN_FILES]) })
    });
    // Whatever else was inherited would give the scripts' files other numbers.
    // SAFETY: only files that nobody here uses are closed.
    must!(unsafe { syscall(number::CLOSE_RANGE, [3, OWN_FILES - 1, 0]) });
    let null = must!(open(c"/dev/null"));
    for old in [0, 1] {
        // SAFETY: the call touches no memory.
        must!(unsafe { syscall(number::DUP2, [null, old]) });
    }
    // SAFETY: the file is ours, and this is its last use.
    must!(unsafe { syscall(number::CLOSE, [null]) });
    (moved[0], moved[1])
}

fn open(path: &CStr) -> Result<u64, guest::errno::Errno> {
    // SAFETY: the call only reads the path.
    unsafe { syscall(number::OPEN, [path.as_ptr() as u64, O_RDWR]) }
}
