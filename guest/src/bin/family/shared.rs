//! Processes in one address space: vfork(2), and clone(2) with `CLONE_VM`.

use core::sync::atomic::{AtomicU64, Ordering};

use guest::family::{self, CLONE_VFORK, CLONE_VM, End, SIGCHLD};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::{check, check_eq, must, process};

use crate::{child, expect};

/// What the child writes and the parent reads.
static WORD: AtomicU64 = AtomicU64::new(0);

/// A stack's top.
fn stack() -> u64 {
    const SIZE: u64 = 16 * PAGE;
    must!(memory::map(Place::Anywhere, SIZE, Prot::RW, Flags::OWN)) + SIZE
}

extern "C" fn write(value: u64) -> ! {
    WORD.store(value, Ordering::Release);
    process::exit(3)
}

/// Answers each of the parent's even words by the odd one after it.
extern "C" fn answer(last: u64) -> ! {
    let mut seen = 0;
    while seen < last {
        let word = WORD.load(Ordering::Acquire);
        if word != seen && word.is_multiple_of(2) {
            WORD.store(word + 1, Ordering::Release);
            seen = word;
        }
        core::hint::spin_loop();
    }
    process::exit(0)
}

pub(crate) fn all() {
    let pid = begin(CLONE_VM | CLONE_VFORK | SIGCHLD, write, 41);
    // Not before it has ended.
    check_eq!(WORD.load(Ordering::Acquire), 41, "what a vforked child wrote");
    expect(pid, End::Exited(3), "a vforked child");

    let at = must!(memory::map(Place::Anywhere, PAGE, Prot::RW, Flags::OWN));
    memory::store(at, 5);
    expect(child(|| 0), End::Exited(0), "a fork between");
    check_eq!(memory::load(at), 5, "memory after both");

    const ROUNDS: u64 = 1000;
    WORD.store(0, Ordering::Release);
    let pid = begin(CLONE_VM | SIGCHLD, answer, 2 * ROUNDS);
    for round in 1..=ROUNDS {
        WORD.store(2 * round, Ordering::Release);
        while WORD.load(Ordering::Acquire) != 2 * round + 1 {
            core::hint::spin_loop();
        }
    }
    expect(pid, End::Exited(0), "a child that runs beside its parent");
    check!(WORD.load(Ordering::Acquire) == 2 * ROUNDS + 1, "the last answer");
}

#[allow(unsafe_code)]
fn begin(flags: u64, code: extern "C" fn(u64) -> !, argument: u64) -> u64 {
    // SAFETY: the stack is the child's alone, and the code uses nothing but it and an atomic word.
    must!(unsafe { family::clone(flags, stack(), code, argument) })
}
