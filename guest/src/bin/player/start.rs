//! The state that every script begins with: the same in every run and on every host.

use core::ffi::CStr;

use guest::call::{number, syscall};
use guest::memory::{self, PAGE};
use guest::must;

use crate::inspect::OWN_FILES;

/// The argument that says that all this has been done.
pub(crate) const READY: &str = "ready";

const ADDR_NO_RANDOMIZE: u64 = 0x004_0000;
const RLIMIT_DATA: u64 = 2;
const RLIMIT_STACK: u64 = 3;
const RLIMIT_CORE: u64 = 4;
const RLIMIT_AS: u64 = 9;
const MADV_DONTDUMP: u64 = 16;
const O_RDWR: u64 = 2;
const F_DUPFD: u64 = 0;

/// Executes the player again without address randomization, with an empty environment and the limits
/// that decide about memory at their defaults. RLIMIT_MEMLOCK stays.
pub(crate) fn again() -> ! {
    // SAFETY: takes effect with the next program.
    must!(unsafe { syscall(number::PERSONALITY, [ADDR_NO_RANDOMIZE]) });
    limit(RLIMIT_STACK, 8 << 20);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_DATA, u64::MAX);
    limit(RLIMIT_AS, u64::MAX);
    let path = c"/proc/self/exe".as_ptr();
    let arguments = [c"player".as_ptr(), c"ready".as_ptr(), core::ptr::null()];
    let environment: [*const core::ffi::c_char; 1] = [core::ptr::null()];
    let args = [path as u64, arguments.as_ptr() as u64, environment.as_ptr() as u64];
    // SAFETY: the strings and vectors are ended as execve(2) has it.
    must!(unsafe { syscall(number::EXECVE, args) });
    guest::process::exit(1)
}

/// Sets a soft limit, as far as the hard one allows.
fn limit(resource: u64, value: u64) {
    let mut limits = [0_u64; 2];
    let args = [0, resource, 0, &raw mut limits as u64];
    // SAFETY: the call writes the two words.
    must!(unsafe { syscall(number::PRLIMIT64, args) });
    limits[0] = value.min(limits[1]);
    let args = [0, resource, &raw const limits as u64, 0];
    // SAFETY: the call reads the two words.
    must!(unsafe { syscall(number::PRLIMIT64, args) });
}

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

/// Makes the image's end unlike a heap, so that brk's VMA is always one of its own.
pub(crate) fn set_heap_apart() {
    let args = [memory::last_image_page(), PAGE, MADV_DONTDUMP];
    // SAFETY: changes what a core dump has.
    must!(unsafe { syscall(number::MADVISE, args) });
}

/// Makes memory that may only be executed readable, as it is on a processor without protection keys: where there
/// are keys Linux takes one for it, unless all are taken.
pub(crate) fn take_protection_keys() {
    // SAFETY: no memory has the key.
    while unsafe { syscall(number::PKEY_ALLOC, [0, 0]) }.is_ok() {}
}
