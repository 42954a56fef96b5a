//! What single things cost a program (tests/programs/costs.c, which measures itself), natively and in a guest, and how
//! often each leaves the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lines;
use crate::rounds::{Outcome, Pair};
use crate::whole;

/// How often each thing is done in a round.
pub(crate) const TIMES: u64 = 1000;

/// Each figure as the program names it, as it is printed, and the most that it shall be of the native one.
pub(crate) const FIGURES: [(&str, &str, &str); 4] = [
    ("segv", "a caught SIGSEGV (floor: native)", "-"),
    ("fork", "fork, exit, wait", "-"),
    ("pipe", "a pipe's round trip", "-"),
    ("read", "4 KiB of a granted file", "-"),
];

/// The program, and a directory with the file that it reads, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Costs {
    program: PathBuf,
    directory: PathBuf,
}

impl Costs {
    /// Builds the program; `None` where there is no compiler.
    pub(crate) fn new(directory: &Path) -> Outcome<Option<Costs>> {
        let Some(program) = whole::built(directory, "costs") else {
            return Ok(None);
        };
        let directory = directory.join(format!("costs-{}", std::process::id()));
        let costs = Costs { program, directory };
        fs::create_dir(&costs.directory)?;
        fs::write(costs.directory.join("file"), [7; 4096])?;
        Ok(Some(costs))
    }

    /// Measures all figures, natively and in a guest in turn.
    pub(crate) fn measure(&self, rounds: u32) -> Outcome<Vec<Pair>> {
        let times = TIMES.to_string();
        let native = || {
            let file = self.directory.join("file");
            lines::run(Command::new(&self.program).arg(file).arg(&times), &FIGURES)
        };
        let hosted = || {
            let mut command = self.command();
            command.arg(&self.program).args(["/granted/file", &times]);
            lines::run(&mut command, &FIGURES)
        };
        lines::alternate(rounds, FIGURES.len(), native, hosted)
    }

    /// How often one of a thing leaves the guest: calls, page faults, and other exceptions.
    pub(crate) fn exits(&self, thing: &str) -> Outcome<[f64; 3]> {
        let (none, all) = (self.counted(thing, 0)?, self.counted(thing, TIMES)?);
        let mut each = [0.0; 3];
        for (each, (all, none)) in each.iter_mut().zip(all.into_iter().zip(none)) {
            *each = (all - none) / TIMES as f64;
        }
        Ok(each)
    }

    /// The exits of a run in which a thing is done so often.
    fn counted(&self, thing: &str, times: u64) -> Outcome<[f64; 3]> {
        let mut command = self.command();
        command.arg("--stats=json").arg(&self.program);
        command.args(["/granted/file", &times.to_string(), thing]);
        let output = command.env_clear().stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{command:?}: {}, said {text:?}", output.status).into());
        }
        let exits = &serde_json::from_str::<Value>(&text)?["exits"];
        let count = |name| exits[name].as_f64().ok_or_else(|| format!("no {name} in {text:?}"));
        Ok([count("calls")?, count("page_faults")?, count("exceptions")?])
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mmvisor"));
        command.args(["run", "--machine", "kvm", "--dir"]);
        command.arg(format!("{}:/granted:ro", self.directory.display()));
        command
    }
}

impl Drop for Costs {
    fn drop(&mut self) {
        // Nothing is left to be done about a directory that stays in the build's.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
