//! Traces made on the spot, as the trace format's document tells a user to make them.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{kill_group, run};
use crate::{LIMIT, scratch};

/// The calls that memory depends on.
const CALLS: &str = "trace=%memory,%process,prlimit64,setrlimit,prctl,personality,openat,close,dup,dup2,\
                     dup3,fcntl,ftruncate,memfd_create,shmat,shmdt,shmget";
/// Those whose results are compared; of the limits, those that memory depends on.
const COMPARED: [&str; 21] = [
    "mmap",
    "munmap",
    "mprotect",
    "pkey_mprotect",
    "mremap",
    "brk",
    "remap_file_pages",
    "madvise",
    "mlock",
    "mlock2",
    "munlock",
    "mlockall",
    "munlockall",
    "mseal",
    "msync",
    "mincore",
    "mbind",
    "set_mempolicy",
    "personality",
    "userfaultfd",
    "prlimit64",
];
const LIMITS: [&str; 4] = ["RLIMIT_STACK", "RLIMIT_DATA", "RLIMIT_AS", "RLIMIT_MEMLOCK"];

/// Where the program's addresses come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aslr {
    /// As the host has it: on.
    On,
    /// `setarch -R`.
    Off,
}

/// A trace in a file.
pub struct Trace {
    pub path: PathBuf,
    pub text: String,
}

/// Runs a program under strace, to its end, which must be a good one.
pub fn trace(name: &str, aslr: Aslr, program: &[&str]) -> Trace {
    let path = scratch(&format!("{name}-{aslr:?}.trace"));
    let options = ["-f", "-y", "-o", path.to_str().unwrap(), "-e", CALLS];
    let ran = run(&mut strace(aslr, &options, program), b"", LIMIT);
    assert_eq!(ran.status, Some(0), "{program:?}: {ran:?}");
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    Trace { path, text }
}

fn strace(aslr: Aslr, options: &[&str], program: &[&str]) -> Command {
    let mut command = match aslr {
        Aslr::On => Command::new("strace"),
        Aslr::Off => {
            let mut command = Command::new("setarch");
            command.args(["-R", "strace"]);
            command
        }
    };
    command.args(options).args(program).env_clear();
    // What is the same in every run.
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C");
    command
}

impl Trace {
    /// How many calls it has whose results are compared.
    pub fn compared_calls(&self) -> usize {
        self.text.lines().filter(|line| is_compared(line)).count()
    }

    /// The same trace with these lines directly after its first execve.
    pub fn with_start(&self, start: &str) -> Trace {
        let (first, rest) = self.text.split_once('\n').unwrap();
        assert!(first.contains(" execve(") && first.ends_with(" = 0"), "{first}");
        let text = format!("{first}\n{start}{rest}");
        let path = self.path.with_extension("start");
        fs::write(&path, &text).unwrap();
        Trace { path, text }
    }
}

/// Whether a line is (the end of) a call that is compared.
fn is_compared(line: &str) -> bool {
    let text = line.split_once(' ').map_or("", |(_pid, text)| text.trim_start());
    if text.ends_with("<unfinished ...>") || text.ends_with(" = ?") {
        return false;
    }
    let resumed = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>"));
    let call = resumed.or_else(|| text.split_once('('));
    call.is_some_and(|(name, arguments)| match name {
        // The second half of a call does not show which limit it is about.
        "prlimit64" => LIMITS.iter().any(|limit| arguments.contains(limit)),
        _ => COMPARED.contains(&name),
    })
}

/// The state in which execve leaves a program without ASLR, as lines of a trace: its maps and its heap.
/// The program is stopped at its first brk, which only asks where the heap is.
pub fn starting_state(name: &str, program: &[&str]) -> String {
    let output = scratch(&format!("{name}.first-brk"));
    let _ = fs::remove_file(&output);
    let stop = "inject=brk:signal=STOP:when=1";
    let options = ["-o", output.to_str().unwrap(), "-e", "trace=brk", "-e", stop];
    let mut command = strace(Aslr::Off, &options, program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut stopped = Group(command.spawn().unwrap());
    let until = Instant::now() + LIMIT;
    while !fs::read_to_string(&output).unwrap_or_default().contains("stopped by SIGSTOP") {
        assert!(stopped.0.try_wait().unwrap().is_none(), "{program:?}: it has no first brk");
        assert!(Instant::now() < until, "{program:?} was not stopped at its first brk");
        thread::sleep(Duration::from_millis(1));
    }
    let strace = stopped.0.id();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{}/maps", children.trim())).unwrap();
    let calls = fs::read_to_string(&output).unwrap();
    let heap = calls.lines().next().unwrap().rsplit_once("= ").unwrap().1;
    format!("@maps\n{maps}@end\n@brk {heap} {heap}\n")
}

/// A process group; it ends with this value.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        kill_group(&self.0);
        let _ = self.0.wait();
    }
}
