//! How much of the host's memory mmvisor has at the most, whatever a guest does: twice as much live data as memory and
//! processes forked over it, random calls with random arguments, processes without end, names and opens without end.
//! Under the host's KVM only. Where tests are built with debug assertions, mmvisor audits the space at the end, and that
//! no page is left.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{MMVISOR, c_program, kill_group, kvm_unusable, payload};

/// MiB that the guest may use.
const MEMORY: u64 = 64;
/// MiB that mmvisor itself may need beside it.
const BESIDE: u64 = 64;
const LIMIT: Duration = Duration::from_secs(600);

/// A program that wants more than there is.
struct Greedy {
    name: &'static str,
    options: &'static [&'static str],
    program: fn() -> PathBuf,
    args: &'static [&'static str],
    /// What it prints at its end.
    prints: &'static str,
    /// MiB that it fills at least.
    fills: u64,
}

const ALL: [Greedy; 4] = [
    Greedy {
        name: "swapped-memory",
        options: &["--swap=1G"],
        program: || payload("swap"),
        args: &["128", "4"],
        prints: "4 processes over 128 MiB: ",
        fills: MEMORY / 2,
    },
    Greedy {
        name: "a-million-random-calls",
        options: &[],
        program: || c_program("wild", "gcc", &["-static"]),
        args: &["1000000", "11", "8"],
        prints: "enough\n",
        fills: 1,
    },
    Greedy {
        name: "processes-without-end",
        options: &[],
        program: || payload("family"),
        args: &["until-refused"],
        prints: "family: done",
        fills: 1,
    },
    Greedy {
        name: "names-without-end",
        options: &[],
        program: || c_program("room", "gcc", &["-static"]),
        args: &[],
        prints: "Too many open files in system after many\n",
        fills: 1,
    },
];

/// A trial each.
pub fn trials() -> Vec<Trial> {
    let trial = |greedy: Greedy| {
        Trial::ignorable_test(format!("kvm::bounded-{}", greedy.name), move || {
            if let Some(why) = kvm_unusable() {
                return Ok(Completion::ignored_with(why));
            }
            let peak = peak(&greedy)?;
            println!("{}: {peak} MiB for --mem {MEMORY}M", greedy.name);
            if (greedy.fills..=MEMORY + BESIDE).contains(&peak) {
                return Ok(Completion::Completed);
            }
            Err(Failed::from(format!("{peak} MiB of the host's memory for --mem {MEMORY}M")))
        })
    };
    ALL.into_iter().map(trial).collect()
}

/// KiB in a process's memfds, which are in its memory only where they are mapped.
fn memfds(process: &Path) -> u64 {
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let memfds = files.map(|file| file.path()).filter(|path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
    });
    memfds.filter_map(|path| Some(std::fs::metadata(path).ok()?.blocks() / 2)).sum()
}

/// Runs the program; the most memory that mmvisor has had, in MiB.
fn peak(greedy: &Greedy) -> Result<u64, Failed> {
    let mut child = Command::new(MMVISOR)
        .args(["run", "--machine=kvm", &format!("--mem={MEMORY}M")])
        .args(greedy.options)
        .arg((greedy.program)())
        .args(greedy.args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let own = PathBuf::from(format!("/proc/{}", child.id()));
    let (begun, mut peak) = (Instant::now(), 0);
    let ended = loop {
        // It is the most so far; of a process that has ended there is none.
        let text = std::fs::read_to_string(own.join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) + memfds(&own));
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        if begun.elapsed() > LIMIT {
            kill_group(&child);
            child.wait()?;
            return Err(Failed::from("it does not end"));
        }
        thread::sleep(Duration::from_millis(10));
    };
    if kill_group(&child) {
        return Err(Failed::from("it left processes behind"));
    }
    // The little that it prints is in the pipe.
    let mut printed = Vec::new();
    child.stdout.take().ok_or("it has no pipe")?.read_to_end(&mut printed)?;
    let printed = String::from_utf8_lossy(&printed);
    match ended.success() && printed.contains(greedy.prints) {
        true => Ok(peak.div_ceil(1 << 10)),
        false => Err(Failed::from(format!("{ended}, after {peak} KiB: {printed}"))),
    }
}
