//! Twice as much live data as memory, and processes forked over it: how much of the host's memory mmvisor has at the
//! most. Under the host's KVM only.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{MMVISOR, kvm_unusable, payload};

/// MiB that the guest may use.
const MEMORY: u64 = 64;
/// MiB that mmvisor itself may need beside it.
const BESIDE: u64 = 64;
const LIMIT: Duration = Duration::from_secs(300);

/// The trial.
pub fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("kvm::swapped-memory-is-not-the-hosts", || {
        if let Some(why) = kvm_unusable() {
            return Ok(Completion::ignored_with(why));
        }
        let peak = peak()?;
        if peak <= MEMORY + BESIDE {
            return Ok(Completion::Completed);
        }
        Err(Failed::from(format!("{peak} MiB of the host's memory for --mem {MEMORY}M")))
    })]
}

/// Runs the program; the most memory that mmvisor has had, in MiB.
fn peak() -> Result<u64, Failed> {
    let mut child = Command::new(MMVISOR)
        .args(["run", "--machine=kvm", &format!("--mem={MEMORY}M"), "--swap=1G"])
        .arg(payload("swap"))
        .args([&(2 * MEMORY).to_string(), "4"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let (begun, mut peak) = (Instant::now(), 0);
    loop {
        // It is the most so far; of a process that has ended there is none.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = kib.unwrap_or(0).max(peak);
        if let Some(ended) = child.try_wait()? {
            let seen = peak > MEMORY << 9;
            return match ended.success() && seen {
                true => Ok(peak.div_ceil(1 << 10)),
                false => Err(Failed::from(format!("{ended}, after {peak} KiB"))),
            };
        }
        if begun.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Err(Failed::from("it does not end"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
