//! Which process the calling thread runs (Linux's `current->tgid`): what is noted of who did something last.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<i32> = const { Cell::new(0) };
}

/// The number of the process that the calling thread runs; 0 for none.
#[must_use]
pub fn pid() -> i32 {
    CURRENT.get()
}

/// The calling thread runs this process from now on.
pub fn enter(pid: i32) {
    CURRENT.set(pid);
}
