//! Whole programs, from their start to their end: natively, and by `mmvisor run`.

use std::fs::{self, File, Permissions};
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

/// Lines that are sorted, and how many of them differ.
const LINES: u32 = 300_000;
const DIFFERENT: u32 = 1000;

/// A program with arguments, what it reads and what it prints.
#[derive(Debug)]
pub(crate) struct Whole {
    path: PathBuf,
    args: &'static [&'static str],
    input: Option<Made>,
    prints: String,
    /// The program, where it is made for this.
    _made: Option<Made>,
}

impl Whole {
    /// busybox's awk; `None` where there is no busybox.
    pub(crate) fn awk() -> Option<Whole> {
        busybox(&["awk", AWK], None, AWK_PRINTS.to_owned())
    }

    /// busybox's sort of lines most of which are equal to others, so that little is printed; `None` where there is no
    /// busybox.
    pub(crate) fn sort(directory: &Path) -> io::Result<Option<Whole>> {
        let mut lines = String::new();
        let mut state = 1_u32;
        for _ in 0..LINES {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            lines += &format!("line {:03}\n", (state >> 8) % DIFFERENT);
        }
        let input = Made::new(directory, "lines", lines.as_bytes())?;
        let prints = (0..DIFFERENT).map(|number| format!("line {number:03}\n")).collect();
        Ok(busybox(&["sort", "-u"], Some(input), prints))
    }

    /// A write barrier by mprotect and a handler of `SIGSEGV`; `None` where there is no compiler.
    pub(crate) fn barrier(directory: &Path) -> Option<Whole> {
        let prints = "caught 20000, wrong 0, sum cc703844d122757c\n".to_owned();
        let path = built(directory, "barrier")?;
        Some(Whole { path, args: &["20", "1000"], input: None, prints, _made: None })
    }

    /// The least program, of these bytes.
    pub(crate) fn hello(directory: &Path, bytes: &[u8]) -> io::Result<Whole> {
        let made = Made::new(directory, "hello", bytes)?;
        fs::set_permissions(&made.0, Permissions::from_mode(0o755))?;
        let (path, prints) = (made.0.clone(), "hello\n".to_owned());
        Ok(Whole { path, args: &[], input: None, prints, _made: Some(made) })
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
        let input = match &self.input {
            Some(made) => File::open(&made.0)?.into(),
            None => Stdio::null(),
        };
        let command = command.env_clear().stdin(input).stderr(Stdio::inherit());
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

/// busybox with these arguments, where it is.
fn busybox(args: &'static [&'static str], input: Option<Made>, prints: String) -> Option<Whole> {
    let path = PathBuf::from(BUSYBOX);
    path.exists().then_some(Whole { path, args, input, prints, _made: None })
}

/// One of tests/programs, built; `None` where there is no compiler.
pub(crate) fn built(directory: &Path, name: &str) -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs");
    let source = sources.join(name).with_extension("c");
    let path = directory.join(name);
    let built = Command::new("gcc").args(["-O1", "-static", "-o"]).arg(&path).arg(source).status();
    built.is_ok_and(|status| status.success()).then_some(path)
}

/// A file that is gone when this is dropped.
#[derive(Debug)]
struct Made(PathBuf);

impl Made {
    fn new(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<Made> {
        let made = Made(directory.join(format!("{name}-{}", std::process::id())));
        fs::write(&made.0, bytes)?;
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Nothing is left to be done about a file that stays in the build's directory.
        let _ = fs::remove_file(&self.0);
    }
}
