//! What the integration tests share: running a command with a time limit, and the programs to run.

#![allow(dead_code, reason = "each test uses its part")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use vmm::kvm::Kvm;
use wait_timeout::ChildExt;

/// The binary under test.
pub const MMVISOR: &str = env!("CARGO_BIN_EXE_mmvisor");

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// Its exit status as a shell shows it; `None` when it ran out of time and was killed.
    pub status: Option<u8>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Whether processes of its group were still there when it had ended by itself.
    pub left_behind: bool,
}

impl Ran {
    /// Whether it, or a program of the host that it started, panicked. (A payload's panic is no thread's.)
    pub fn panicked(&self) -> bool {
        let panic = |line: &str| line.starts_with("thread '") && line.contains(" panicked at ");
        self.stderr.lines().any(panic)
    }
}

/// What becomes of a command's standard input once all is written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// It ends.
    Ends,
    /// It stays open until the command ends: who reads on waits.
    StaysOpen,
}

/// Runs a command to its end or its time limit. It is in a process group of its own, which is killed as
/// a whole, so nothing is left behind.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Ran {
    run_with_input(command, stdin, Then::Ends, limit)
}

/// The same, its standard input as is said.
pub fn run_with_input(command: &mut Command, stdin: &[u8], then: Then, limit: Duration) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let (mut input, mut output, mut errors) =
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    thread::scope(|scope| {
        let input = scope.spawn(move || {
            // A program need not read its input.
            let _ = input.write_all(stdin);
            (then == Then::StaysOpen).then_some(input)
        });
        let output = scope.spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).map(|_| bytes)
        });
        let errors = scope.spawn(move || {
            let mut bytes = Vec::new();
            errors.read_to_end(&mut bytes).map(|_| bytes)
        });
        let ended = child.wait_timeout(limit).unwrap();
        let killed = kill_group(&child);
        if ended.is_none() {
            let _ = child.wait();
        }
        drop(input.join().unwrap());
        let stderr = String::from_utf8_lossy(&errors.join().unwrap().unwrap()).into_owned();
        Ran {
            status: ended.map(shell_status),
            stdout: output.join().unwrap().unwrap(),
            stderr,
            left_behind: ended.is_some() && killed,
        }
    })
}

/// Kills a command's process group, which it leads; says whether anything of it was there. A command that
/// has been waited for is not.
pub fn kill_group(child: &Child) -> bool {
    let group = Pid::from_raw(child.id().try_into().unwrap());
    killpg(group, Signal::SIGKILL).is_ok()
}

/// An exit status as a shell shows it.
pub fn shell_status(status: ExitStatus) -> u8 {
    match status.code() {
        Some(code) => u8::try_from(code).unwrap(),
        None => 128 + u8::try_from(status.signal().unwrap()).unwrap(),
    }
}

/// Why the host's KVM cannot be used here; `None` if it can.
pub fn kvm_unusable() -> Option<String> {
    Kvm::open().err().map(|error| error.to_string())
}

/// A payload of the crate `guest`, built once.
pub fn payload(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let directory = Path::new(MMVISOR).parent().unwrap();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "mmvisor-guest"]);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(directory.parent().unwrap());
        let status = build.status().unwrap();
        assert!(status.success(), "the payloads do not build");
    });
    directory.join(name)
}

/// A C program of `tests/programs`, built by `compiler` with `flags`.
pub fn c_program(name: &str, compiler: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new("tests/programs").join(name).with_extension("c");
    compile(&source, compiler, &[&["-O1", "-Wall"], flags].concat())
}

/// The example of `resources`, built as its first lines say, with `flags` before the rest.
pub fn c_example(flags: &[&str]) -> PathBuf {
    compile(Path::new("resources/example.c"), "gcc", &[flags, &["-I", "resources"]].concat())
}

/// Builds a C program, its path and the compiler's working directory the workspace's.
fn compile(source: &Path, compiler: &str, flags: &[&str]) -> PathBuf {
    let words: Vec<&str> = source.file_stem().into_iter().filter_map(OsStr::to_str).collect();
    let name = [words.as_slice(), &[compiler], flags].concat().join("-").replace('/', "-");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Built under another name first: two tests may build it at once.
    let fresh = out.with_extension(format!("{:?}", thread::current().id()));
    let status = Command::new(compiler)
        .args(flags)
        .arg("-o")
        .arg(&fresh)
        .arg(source)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .unwrap_or_else(|error| panic!("{compiler}: {error}; `make deps` installs it"));
    assert!(status.success(), "{} does not build with {compiler}", source.display());
    std::fs::rename(&fresh, &out).unwrap();
    out
}
