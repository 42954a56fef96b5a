//! Instructions of one call of ours, counted by valgrind's callgrind: unlike times they do not depend on
//! what else the machine does.
//!
//! The benchmark is run again under callgrind, once with the shape alone and once with calls; the
//! difference is theirs. A runner such as gungraun would have to be installed apart, in the version that
//! matches its library; two runs and a subtraction need valgrind only.

use std::process::{Command, Stdio};

use crate::rounds::Outcome;
use crate::shape::Figure;

/// Counts instructions.
#[derive(Debug)]
pub(crate) struct Counter {
    vmas: u64,
    /// Instructions of the shape alone.
    shape: u64,
}

impl Counter {
    /// For calls with that many VMAs; `None` where there is no valgrind.
    pub(crate) fn new(vmas: u64) -> Outcome<Option<Counter>> {
        let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let shape = collected(Figure::Find, vmas, 0)?;
        Ok(Some(Counter { vmas, shape }))
    }

    /// Instructions of each call.
    pub(crate) fn count(&self, figure: Figure) -> Outcome<u64> {
        let calls = figure.calls(self.vmas);
        let all = collected(figure, self.vmas, calls)?;
        Ok(all.saturating_sub(self.shape) / calls)
    }
}

/// Instructions of a run of the benchmark that makes the shape and then `calls` calls.
fn collected(figure: Figure, vmas: u64, calls: u64) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["ours", figure.name(), &vmas.to_string(), &calls.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // ==PID== Collected : 12345
    let count =
        said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, n)| n.trim());
    match count {
        Some(count) if output.status.success() => Ok(count.parse()?),
        _ => Err(format!("callgrind did not count: {said}").into()),
    }
}
