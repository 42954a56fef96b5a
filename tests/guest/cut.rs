//! A file that a guest has mapped, while somebody else cuts it short and makes it longer again.
//!
//! - `cut.c` has private and shared maps touched by process after process: nobody is told another page's bytes, and who
//!   does not end is killed by `SIGBUS`. Under the host's KVM only; also with a file that is written whole each time, so
//!   that the host has it in large pieces.
//! - The payload `cuts` is both sides: two processes of a guest and one of the host write at once, and account for every
//!   byte and every `SIGBUS`. Natively, under the host's KVM, and in the nested machine with nested and with shadow
//!   paging. `MMVISOR_CUTS` says how many rounds there are: under the host's KVM 10,000 take one to two minutes.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};
use vmm::nested::{GUEST_EXECUTABLE, Job, Kind, Machine, Outcome};

use crate::common::{self, MMVISOR, Ran, c_program, kvm_unusable, payload};

/// A file that `cut.c` touches.
struct Cut {
    name: &'static str,
    /// Processes that touch it, one after the other.
    rounds: u32,
    /// Its length, at most.
    pages: u32,
    /// How it becomes whole again.
    again: fn(&File, u64),
}

const SMALL: Cut = Cut {
    name: "a-file-is-cut-while-it-is-mapped",
    rounds: 2000,
    pages: 64,
    again: |file, len| file.set_len(len).unwrap(),
};

/// Two huge pages.
const LARGE: Cut = Cut {
    name: "a-file-in-large-pieces-is-cut-while-it-is-mapped",
    rounds: 400,
    pages: 1024,
    again: |file, len| {
        file.set_len(0).unwrap();
        file.write_all_at(&vec![0; usize::try_from(len).unwrap()], 0).unwrap();
    },
};

/// Rounds of `cuts`, natively and under the host's KVM, and in the nested machine.
const CUTS: &str = "1500";
const NESTED_CUTS: &str = "40";
/// A run of `cuts`, a boot included.
const LIMIT: Duration = Duration::from_secs(300);

/// The trials.
pub fn trials() -> Vec<Trial> {
    let nested = |kind: Kind| {
        let name = format!("{}::a-file-is-cut-by-one-of-three", kind.to_string().to_lowercase());
        Trial::test(name, move || nested_cuts(kind))
    };
    vec![
        kvm_trial(&SMALL),
        kvm_trial(&LARGE),
        Trial::test("natively::a-file-is-cut-by-one-of-three", || cuts("natively", &[])),
        Trial::ignorable_test("kvm::a-file-is-cut-by-one-of-three", || {
            if let Some(why) = kvm_unusable() {
                return Ok(Completion::ignored_with(why));
            }
            cuts("guest", &[MMVISOR, "run", "--machine=kvm"]).map(|()| Completion::Completed)
        }),
        nested(Kind::Npt),
        nested(Kind::Shadow),
    ]
}

/// The arguments of `cuts`, whose writers are run by `runner`.
fn arguments(rounds: &str, file: &Path, runner: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["host", rounds, "1"].map(OsString::from).into();
    words.push(file.into());
    words.extend(runner.iter().map(OsString::from));
    if !runner.is_empty() {
        words.extend(["--file".into(), file.into()]);
    }
    words.push(payload("cuts").into());
    words.extend(["guest", "1"].map(OsString::from));
    words
}

fn cuts(name: &str, runner: &[&str]) -> Result<(), Failed> {
    let rounds = std::env::var("MMVISOR_CUTS").unwrap_or_else(|_| CUTS.to_owned());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cuts-{name}"));
    let mut command = Command::new(payload("cuts"));
    command.args(arguments(&rounds, &file, runner)).env_remove("RUST_LOG");
    let ran = common::run(&mut command, &[], LIMIT);
    let right = ran.status == Some(0) && !ran.left_behind && !ran.panicked();
    if right { Ok(()) } else { Err(Failed::from(format!("{ran:?}"))) }
}

/// All three in the nested machine, the file on a disk of its own memory.
fn nested_cuts(kind: Kind) -> Result<(), Failed> {
    let mut argv: Vec<OsString> = vec![payload("cuts").into()];
    let runner = [GUEST_EXECUTABLE, "run", "--machine=kvm"];
    argv.extend(arguments(NESTED_CUTS, &PathBuf::from("/cuts"), &runner));
    let machine = Machine::new(kind).executable(Path::new(MMVISOR)).time_limit(LIMIT);
    let results = machine.program(&payload("cuts")).run_jobs(vec![Job::new(argv)])?;
    let right = results.iter().all(|result| result.outcome == Outcome::Exited(0));
    if right { Ok(()) } else { Err(Failed::from(format!("{results:?}"))) }
}

fn kvm_trial(cut: &'static Cut) -> Trial {
    Trial::ignorable_test(format!("kvm::{}", cut.name), || {
        if let Some(why) = kvm_unusable() {
            return Ok(Completion::ignored_with(why));
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(cut.name);
        let ran = cut_beside(cut, &path);
        if ran.status == Some(0) && !ran.left_behind {
            return Ok(Completion::Completed);
        }
        Err(Failed::from(format!("{ran:?}")))
    })
}

/// Runs the program, and cuts the file all the while.
fn cut_beside(cut: &Cut, path: &Path) -> Ran {
    let file = File::create(path).unwrap();
    let len = u64::from(cut.pages) * 4096;
    (cut.again)(&file, len);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random: u64 = 1;
            while !ended.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Half of the time it is whole, and for long enough that a process can end.
                if random >> 63 == 0 {
                    (cut.again)(&file, len);
                    thread::sleep(Duration::from_millis(2));
                } else {
                    // Never through a word.
                    file.set_len((random >> 33) % len / 8 * 8).unwrap();
                    thread::sleep(Duration::from_micros(10));
                }
            }
        });
        let mut command = Command::new(MMVISOR);
        command.args(["run", "--machine=kvm", "--file"]).arg(path);
        command.arg(c_program("cut", "gcc", &["-static"]));
        command.args([cut.rounds, cut.pages].map(|number| number.to_string()));
        let ran = common::run(&mut command, &[], Duration::from_secs(300));
        ended.store(true, Ordering::Relaxed);
        ran
    })
}
