//! What merging equal pages saves: how much of the host's memory a hundred processes have, most of whose pages are equal
//! (the payload `merged`), before and after.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::lines;
use crate::rounds::Outcome;

/// Pages of each process, and how many of them are like no other's.
pub(crate) const PAGES: u64 = 256;
pub(crate) const OWN: u64 = 32;

/// How long nothing may change until all is taken to be merged, and how long that may take.
const QUIET: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(120);

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    /// What mmvisor has of the host's memory, in KiB.
    pub(crate) before: u64,
    pub(crate) after: u64,
    /// How long it took.
    pub(crate) time: Duration,
    /// What `--stats` says of it.
    pub(crate) told: String,
}

/// Runs so many processes.
pub(crate) fn measure(processes: u64) -> Outcome<Merged> {
    let (mmvisor, payload) = lines::payload("merged")?;
    let mut command = Command::new(mmvisor);
    command.args(["run", "--machine", "kvm", "--ksm=1", "--stats"]).arg(payload);
    command.args([processes, PAGES, OWN].map(|number| number.to_string())).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let figures = follow(&mut child);
    if figures.is_err() {
        child.kill()?;
    }
    let ended = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&ended.stderr);
    let (before, after, time) = figures.map_err(|error| format!("{error}: {text}"))?;
    let told = text.lines().find_map(|line| line.strip_prefix("ksm")).map(str::trim);
    match told {
        Some(told) if ended.status.success() => {
            Ok(Merged { before, after, time, told: told.to_owned() })
        }
        _ => Err(format!("{command:?}: {}: {text}", ended.status).into()),
    }
}

/// Takes it through its steps.
fn follow(child: &mut Child) -> Outcome<(u64, u64, Duration)> {
    let (pid, none) = (child.id(), "no pipe to the payload");
    let mut lines = BufReader::new(child.stdout.take().ok_or(none)?).lines();
    let mut stdin = child.stdin.take().ok_or(none)?;
    let go_on = |stdin: &mut ChildStdin| stdin.write_all(b"\n");
    lines.next().ok_or("it does not begin")??;
    let before = resident(pid)?;
    go_on(&mut stdin)?;
    lines.next().ok_or("it does not go on")??;
    let (after, time) = settled(pid)?;
    go_on(&mut stdin)?;
    Ok((before, after, time))
}

/// What a process has when it no longer becomes less, and how long that took.
fn settled(pid: u32) -> Outcome<(u64, Duration)> {
    let begun = Instant::now();
    let (mut least, mut last) = (resident(pid)?, begun);
    while last.elapsed() < QUIET {
        thread::sleep(Duration::from_millis(50));
        let now = resident(pid)?;
        if now < least {
            (least, last) = (now, Instant::now());
        }
        if begun.elapsed() > LIMIT {
            return Err("its memory becomes less for ever".into());
        }
    }
    Ok((least, last - begun))
}

/// What a process has of the host's memory, in KiB.
fn resident(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no VmRSS")?.parse()?)
}
