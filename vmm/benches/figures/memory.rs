//! What memory costs a program, natively and in a guest: the payload `pages` measures itself.
//!
//! Each run is the second of two alike, one right after the other: it gets the memory that the first one has
//! just given back. Any other free memory is dear on a host that is itself a guest and reports what is free to
//! its own host (`page_reporting`): 15 us a page instead of 0.2 to 2, which would be all that is measured.

use std::process::Command;

use crate::lines;
use crate::rounds::{Outcome, Pair};

/// Each figure as the payload names it, as it is printed, and the most that it shall be of the native one.
pub(crate) type Figures = [(&'static str, &'static str, &'static str); 7];

/// In pages of 4 KiB.
pub(crate) const SMALL: Figures = [
    ("touch", "touch, fresh pages of 4 KiB", "3"),
    ("again", "touch them once more", "-"),
    ("fork", "fork", "0.25"),
    ("copy", "write them while a child has them", "1"),
    ("read", "read them after a fork", "1"),
    ("reap", "fork, exit, wait", "-"),
    ("unmap", "munmap", "1"),
];

/// In pages of 2 MiB.
pub(crate) const HUGE: Figures = [
    ("touch", "touch, fresh pages of 2 MiB", "1.2"),
    ("again", "touch them once more", "-"),
    ("fork", "fork", "-"),
    ("copy", "write them while a child has them", "-"),
    ("read", "read them after a fork", "-"),
    ("reap", "fork, exit, wait", "-"),
    ("unmap", "munmap", "-"),
];

/// Measures all figures with so much memory, natively and in a guest in turn; `mode` is the payload's.
pub(crate) fn measure(
    figures: &Figures,
    mode: &str,
    rounds: u32,
    mebibytes: u64,
) -> Outcome<Vec<Pair>> {
    let (mmvisor, payload) = lines::payload("pages")?;
    // Twice for the copies, and some.
    let memory = format!("--mem={}M", 2 * mebibytes + 64);
    let size = mebibytes.to_string();
    let native = || second(|| lines::run(Command::new(&payload).args([&size, mode]), figures));
    let hosted = || {
        let mut command = Command::new(mmvisor);
        command.args(["run", "--machine", "kvm", &memory]).arg(&payload);
        command.args([&size, mode]);
        second(|| lines::run(&mut command, figures))
    };
    lines::alternate(rounds, figures.len(), native, hosted)
}

/// Does something twice.
fn second<T>(mut run: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    run()?;
    run()
}
