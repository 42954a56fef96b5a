//! Whose turn it is: each process waits at a pipe of its own.

use guest::call::{number, syscall};
use guest::family::{self, End, Forked};
use guest::proc::OWN_FILES;
use guest::{check, must, process};

use crate::area::{PROCESSES, control};

/// A byte that gives the turn, and one that says that the child in this slot ends (as 'a' + slot).
const TURN: u8 = b'!';
const ENDS: u8 = b'a';
const F_DUPFD: u64 = 0;

/// A descriptor that is of no use to those who map or cut files.
pub(crate) const UNMAPPABLE: u64 = pipe(0)[0];

/// The descriptors of a slot's pipe, to read and to write.
const fn pipe(slot: usize) -> [u64; 2] {
    let first = OWN_FILES + 100 + 2 * slot as u64;
    [first, first + 1]
}

/// Makes the pipes of all slots, beyond the descriptors that are tried.
pub(crate) fn open_pipes() {
    for slot in 0..PROCESSES {
        let mut made = [0_u32; 2];
        // SAFETY: the call writes the two descriptors.
        must!(unsafe { syscall(number::PIPE, [made.as_mut_ptr() as u64]) });
        for (from, to) in made.into_iter().zip(pipe(slot)) {
            // SAFETY: the calls touch no memory.
            let moved = must!(unsafe { syscall(number::FCNTL, [from.into(), F_DUPFD, to]) });
            check!(moved == to, "descriptor {to} is taken");
            // SAFETY: as above.
            must!(unsafe { syscall(number::CLOSE, [from.into()]) });
        }
    }
}

/// Gives the turn to the process in this slot.
pub(crate) fn pass(slot: usize) {
    process::write_all(pipe(slot)[1], &[TURN]);
}

/// Waits for the turn. Who is told meanwhile that a child ends waits for that, and has the turn: the child's slot, its
/// number in the trace, and how it ended.
pub(crate) fn wait(slot: usize) -> Option<(u32, End)> {
    let mut byte = [0_u8];
    let args = [pipe(slot)[0], byte.as_mut_ptr() as u64, 1];
    // SAFETY: the call writes the byte.
    must!(unsafe { syscall(number::READ, args) });
    if byte[0] == TURN {
        return None;
    }
    let child = usize::from(byte[0] - ENDS);
    let control = control();
    let pid = control.pid(child);
    let (ended, end) = must!(family::wait(pid.cast_signed(), 0));
    check!(ended == pid, "waited for {pid}, and {ended} came");
    let name = control.name(child);
    control.leave(child);
    Some((name, end))
}

/// Makes a process in a slot; who it is, and the number that it has in the trace.
pub(crate) fn fork(slot: usize, parent: usize) -> (Forked, u32) {
    let name = control().enter(slot, parent);
    let forked = must!(family::fork());
    if let Forked::Parent(pid) = forked {
        control().set_pid(slot, pid);
    }
    (forked, name)
}

/// Ends the process in this slot; its parent has the turn.
pub(crate) fn end(slot: usize) -> ! {
    let byte = ENDS + u8::try_from(slot).unwrap_or(0);
    process::write_all(pipe(control().parent(slot))[1], &[byte]);
    process::exit(0)
}
