//! Whole programs, from their start to their end: natively, and by `mmvisor run`.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::rounds::{Outcome, Spent};

/// An array of 300,000 elements, built and summed up.
const AWK: &str = "BEGIN { for (i = 0; i < 300000; i++) a[i] = i * 7 % 1000; s = 0; \
                   for (k in a) s += a[k]; print s, length(a) }";
/// What it prints.
const AWK_PRINTS: &str = "149850000 300000\n";
/// Where Debian's package busybox-static has it.
const BUSYBOX: &str = "/bin/busybox";

/// How many writes the write barrier catches.
pub(crate) const CAUGHT: u64 = 20_000;

/// A program with arguments, and what it prints.
#[derive(Debug)]
pub(crate) struct Whole {
    path: PathBuf,
    args: &'static [&'static str],
    prints: &'static str,
}

impl Whole {
    /// busybox's awk; `None` where there is no busybox.
    pub(crate) fn awk() -> Option<Whole> {
        let path = PathBuf::from(BUSYBOX);
        path.exists().then_some(Whole { path, args: &["awk", AWK], prints: AWK_PRINTS })
    }

    /// A write barrier by mprotect and a handler of `SIGSEGV`; `None` where there is no compiler.
    pub(crate) fn barrier(directory: &Path) -> Option<Whole> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs/barrier.c");
        let path = directory.join("barrier");
        let built =
            Command::new("gcc").args(["-O1", "-static", "-o"]).arg(&path).arg(source).status();
        let prints = "caught 20000, wrong 0, sum cc703844d122757c\n";
        built.is_ok_and(|status| status.success()).then_some(Whole {
            path,
            args: &["20", "1000"],
            prints,
        })
    }

    /// Runs it natively.
    pub(crate) fn native(&self) -> Outcome<Spent> {
        self.run(Command::new(&self.path).args(self.args))
    }

    /// Runs it under mmvisor.
    pub(crate) fn hosted(&self) -> Outcome<Spent> {
        let mmvisor = env!("CARGO_BIN_EXE_mmvisor");
        self.run(
            Command::new(mmvisor).args(["run", "--machine", "kvm"]).arg(&self.path).args(self.args),
        )
    }

    fn run(&self, command: &mut Command) -> Outcome<Spent> {
        let command = command.env_clear().stdin(Stdio::null()).stderr(Stdio::inherit());
        let processor = children()?;
        let started = Instant::now();
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let wall = started.elapsed();
        if !output.status.success() || output.stdout != self.prints.as_bytes() {
            let printed = String::from_utf8_lossy(&output.stdout);
            return Err(format!("{command:?}: {}, printed {printed:?}", output.status).into());
        }
        Ok(Spent { wall, processor: children()?.saturating_sub(processor) })
    }
}

/// Processor time of all children that have ended.
fn children() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}

/// The least program, as a file that is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Hello(PathBuf);

impl Hello {
    /// Writes the program to the directory.
    pub(crate) fn new(directory: &Path, bytes: &[u8]) -> io::Result<Hello> {
        let file = Hello(directory.join(format!("hello-{}", std::process::id())));
        fs::write(&file.0, bytes)?;
        fs::set_permissions(&file.0, Permissions::from_mode(0o755))?;
        Ok(file)
    }

    /// To be run.
    pub(crate) fn program(&self) -> Whole {
        Whole { path: self.0.clone(), args: &[], prints: "hello\n" }
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        // Nothing is left to be done about a file that stays in the build's directory.
        let _ = fs::remove_file(&self.0);
    }
}
