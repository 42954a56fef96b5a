//! mmvisor killed (SIGKILL) at any moment: no process, no file and no shared memory of it is left. Under the host's KVM, with
//! a swap area and a directory that the guest is granted; and the nested machine, while it boots and runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest::random::Random;
use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{MMVISOR, kvm_unusable, payload};

/// How often it is killed, and after how long at most.
const ROUNDS: u32 = 40;
const LATEST: Duration = Duration::from_millis(800);
const NESTED_ROUNDS: u32 = 4;
const NESTED_LATEST: Duration = Duration::from_secs(5);
/// How long the host may take to end what is left.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// The trials.
pub fn trials() -> Vec<Trial> {
    vec![
        Trial::ignorable_test("kvm::killed-at-any-moment", || {
            if let Some(why) = kvm_unusable() {
                return Ok(Completion::ignored_with(why));
            }
            killed("kvm", ROUNDS, LATEST).map(|()| Completion::Completed)
        }),
        Trial::test("nested::killed-at-any-moment", || {
            killed("nested", NESTED_ROUNDS, NESTED_LATEST)
        }),
    ]
}

/// What there is of a directory's names and of shared memory by the name of this mmvisor or its user.
fn left(directory: &Path) -> Result<BTreeSet<PathBuf>, Failed> {
    let mut left = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        left.insert(entry?.path());
    }
    Ok(left)
}

/// The System V segments that a process made, as the host lists them.
fn segments_of(pid: u32) -> Result<usize, Failed> {
    const CREATOR: usize = 4;
    let text = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let pid = pid.to_string();
    let made = |line: &&str| line.split_whitespace().nth(CREATOR) == Some(&pid);
    Ok(text.lines().filter(made).count())
}

/// The processes that have this in their environment, threads that still end among them.
fn processes_with(mark: &str) -> Vec<u32> {
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|word| word == mark.as_bytes())
    };
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_marked).collect()
}

fn killed(machine: &str, rounds: u32, latest: Duration) -> Result<(), Failed> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into();
    let mut random = Random::new(seed);
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("killed-{machine}"));
    let _ = fs::remove_dir_all(&scratch);
    let (temporary, granted) = (scratch.join("temporary"), scratch.join("granted"));
    fs::create_dir_all(&temporary)?;
    fs::create_dir_all(&granted)?;
    let shared = left(Path::new("/dev/shm"))?;
    for round in 0..rounds {
        let after = Duration::from_micros(random.below(u64::try_from(latest.as_micros())?));
        let mark = format!("MMVISOR_TEST_KILLED={}-{machine}-{round}", std::process::id());
        let (name, value) = mark.split_once('=').ok_or("no mark")?;
        let mut command = Command::new(MMVISOR);
        command.args(["run", &format!("--machine={machine}"), "--mem=32M", "--swap=64M"]);
        if machine == "kvm" {
            command.arg(format!("--dir={}:/d", granted.display()));
        }
        command.arg(payload("swap")).args(["48", "4"]);
        command.env(name, value).env("TMPDIR", &temporary);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        thread::sleep(after);
        child.kill()?;
        child.wait()?;
        let of_round = |what: String| -> Failed {
            format!("seed {seed}, round {round}, killed after {after:?}: {what}").into()
        };
        let until = Instant::now() + GONE_WITHIN;
        loop {
            let processes = processes_with(&mark);
            if processes.is_empty() {
                break;
            }
            if Instant::now() > until {
                return Err(of_round(format!("processes {processes:?} are left")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        let files: Vec<PathBuf> = left(&temporary)?.into_iter().chain(left(&granted)?).collect();
        let shared_now: Vec<PathBuf> =
            left(Path::new("/dev/shm"))?.difference(&shared).cloned().collect();
        if !files.is_empty() || !shared_now.is_empty() || segments_of(child.id())? > 0 {
            return Err(of_round(format!("{files:?} and {shared_now:?} are left")));
        }
    }
    println!("{machine}: killed {rounds} times, seed {seed}");
    Ok(())
}
