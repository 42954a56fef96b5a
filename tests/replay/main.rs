//! `mmvisor replay` as a user has it: traces of programs that nobody here wrote, which strace makes on the
//! spot; recordings of our own; bad input.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod in_guest;
mod programs;
mod recorded;
mod strace;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{MMVISOR, Ran, run};

/// A replay, on a host that does much else.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `mmvisor replay`.
fn replay(args: &[&str], stdin: &[u8]) -> Ran {
    let mut command = Command::new(MMVISOR);
    command.arg("replay").args(args).env_remove("RUST_LOG");
    let ran = run(&mut command, stdin, LIMIT);
    assert!(!ran.panicked() && !ran.left_behind, "{ran:?}");
    ran
}

/// A path for a file of these tests.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{name}"))
}

/// The last line of a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    calls: usize,
    checks: usize,
    mismatches: usize,
    skipped: usize,
    assumed: usize,
}

impl Counts {
    /// Of a replay that found nothing: the counts are all that it printed.
    fn of_good(ran: &Ran) -> Self {
        let text = String::from_utf8_lossy(&ran.stdout);
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        Self::of(ran)
    }

    fn of(ran: &Ran) -> Self {
        let text = String::from_utf8_lossy(&ran.stdout);
        let last = text.lines().last().unwrap();
        let words: Vec<&str> = last.split(", ").collect();
        let number = |index: usize, name: &str| {
            let (number, word) = words[index].split_once(' ').unwrap();
            assert_eq!(word, name, "{last}");
            number.parse().unwrap()
        };
        assert_eq!(words.len(), 5, "{last}");
        Counts {
            calls: number(0, "calls"),
            checks: number(1, "checks"),
            mismatches: number(2, "mismatches"),
            skipped: number(3, "skipped"),
            assumed: number(4, "assumed"),
        }
    }
}
