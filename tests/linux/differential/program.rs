//! A program that makes random calls on its own address space, chosen by what /proc/self/maps says is there (the payload
//! `generator`): what it writes down is the same natively and in a guest.
//!
//! ```text
//!   seed ──> generator ──┬── natively ─────── trace ─┬─ the same, byte for byte
//!                        └── in a guest ───── trace ─┘
//!                                               └─> mmvisor replay: no mismatch
//! ```
//!
//! So here nothing of ours chooses or performs; what is compared is all that a program meets: results, faults as its own
//! handlers are told of them, forks whose sides write in turns, VMAs by a checksum after each act, and now and then VmFlags, sizes
//! and pagemap. `make fuzz-program N=100000 SEED=1` makes as many calls as one likes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use vmm::kvm::FlushPolicy;
use vmm::nested::{GUEST_EXECUTABLE, Job, Kind, Machine, NestedError, Outcome};

use super::in_guest;
use super::kernel::Kernel;
use super::model::Start;
use super::seeds::Seeds;
use crate::common::{self, MMVISOR, Ran, kvm_unusable, payload};
use crate::oracle::Oracle;

/// Acts of a run.
const ACTS: u64 = 1000;
/// Every how many of them all is looked at.
const EVERY: u64 = 50;
/// Seeds under the host's KVM, and in the nested machine.
const SEEDS: Range<u64> = 1..101;
const NESTED_SEEDS: Range<u64> = 101..106;
/// Within how many seeds it has to show that nothing is flushed.
const NOTICED_WITHIN: u64 = 10;
/// A run, one that is expected to go wrong, and a boot with all its runs.
const LIMIT: Duration = Duration::from_secs(60);
const WRONG_LIMIT: Duration = Duration::from_secs(10);
const BOOT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Lines that are told before the first difference.
const BEFORE: usize = 8;

/// How often each kind of act was done.
type Made = BTreeMap<String, u64>;

/// The trials.
pub fn trials() -> Vec<Trial> {
    let nested = |name: &str, kind| {
        Trial::ignorable_test(format!("differential::program::{name}"), move || {
            if let Some(why) = incomparable()? {
                return Ok(Completion::ignored_with(why));
            }
            in_nested_machine(kind).map(|()| Completion::Completed)
        })
    };
    vec![
        Trial::ignorable_test("differential::program::in_a_guest", || fuzz(SEEDS)),
        Trial::ignorable_test("differential::program::notices_without_flush", notices),
        nested("nested_npt", Kind::Npt),
        nested("nested_shadow", Kind::Shadow),
    ]
}

/// The runs of so many acts from a seed on.
pub fn seeds(first: u64, acts: u64) -> Range<u64> {
    first..first.saturating_add(acts.div_ceil(ACTS))
}

/// Compares the runs of these seeds under the host's KVM.
pub fn fuzz(seeds: Range<u64>) -> Result<Completion, Failed> {
    let why = kvm_unusable().map_or_else(incomparable, |why| Ok(Some(why)))?;
    if let Some(why) = why {
        return Ok(Completion::ignored_with(why));
    }
    let (began, made) = (Instant::now(), Mutex::new(Made::new()));
    let all = seeds.clone();
    Seeds::new(all).on_all_processors(|seeds| {
        while let Some(seed) = seeds.next() {
            let trace = natively(seed, EVERY)?;
            let guest = |every| in_guest_of(seed, FlushPolicy::default(), every);
            // Where they differ, they are done again, and all is looked at after each act.
            compare(seed, &trace, &guest(EVERY))
                .or_else(|failed| compare(seed, &natively(seed, 1)?, &guest(1)).and(Err(failed)))?;
            replay(seed, &trace)?;
            count(&trace, &mut *made.lock().map_err(|_| "another thread failed")?);
        }
        Ok(())
    })?;
    let made = made.into_inner().map_err(|_| "a thread panicked")?;
    tell("under the host's KVM", &seeds, began, &made)?;
    Ok(Completion::Completed)
}

/// Says what was done; each kind must have been.
fn tell(place: &str, seeds: &Range<u64>, began: Instant, made: &Made) -> Result<(), Failed> {
    let (acts, seconds) = ((seeds.end - seeds.start) * ACTS, began.elapsed().as_secs());
    let counts = made.iter().fold(String::new(), |mut text, (kind, count)| {
        // A string takes everything.
        let _ = write!(text, " {kind} {count}");
        text
    });
    println!("{acts} acts of programs {place} without a difference, in {seconds} s:{counts}");
    let never = made.iter().find(|&(_, &count)| count == 0);
    match never {
        None if !made.is_empty() => Ok(()),
        never => Err(format!("never done: {never:?}").into()),
    }
}

/// Why the host's kernel cannot be compared with in this.
fn incomparable() -> Result<Option<String>, Failed> {
    let mut oracle = Oracle::start()?;
    let start = Start::of(&mut oracle)?;
    let rule = Kernel::probe(&mut oracle, &start)?.rules().next();
    if let Some(rule) = rule {
        return Ok(Some(format!("this kernel differs in {rule}")));
    }
    let swaps = std::fs::read_to_string("/proc/swaps")?.lines().count() > 1;
    Ok(swaps.then(|| "the host has swap".to_owned()))
}

fn arguments(seed: u64, every: u64) -> [String; 3] {
    [seed, ACTS, every].map(|number| number.to_string())
}

fn natively(seed: u64, every: u64) -> Result<String, Failed> {
    let mut command = Command::new(payload("generator"));
    command.args(arguments(seed, every)).env_clear();
    traced(&common::run(&mut command, b"", LIMIT))
}

/// The same run, all looked at after every so many acts.
fn in_guest_of(seed: u64, flush: FlushPolicy, every: u64) -> Ran {
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm"]).arg(payload("generator")).args(arguments(seed, every));
    command.env_remove("RUST_LOG").envs(flush.name().map(|name| (FlushPolicy::VARIABLE, name)));
    // Where a process dies that should not, the others wait for it.
    let limit = if flush == FlushPolicy::None { WRONG_LIMIT } else { LIMIT };
    common::run(&mut command, b"", limit)
}

/// What a run that ended well has written.
fn traced(ran: &Ran) -> Result<String, Failed> {
    if ran.status != Some(0) || ran.left_behind || ran.panicked() {
        let (status, stderr) = (ran.status, &ran.stderr);
        return Err(format!("the generator ended with {status:?}: {stderr}").into());
    }
    Ok(String::from_utf8(ran.stdout.clone())?)
}

/// Compares a run in a guest with that natively.
fn compare(seed: u64, native: &str, guest: &Ran) -> Result<(), Failed> {
    let of_seed = |what: &str| Failed::from(format!("seed {seed}: {what}"));
    let trace = traced(guest).map_err(|failed| of_seed(failed.message().unwrap_or_default()))?;
    match difference(native, &trace) {
        None => Ok(()),
        Some(told) => Err(of_seed(&told)),
    }
}

/// The first line that differs, with those before it.
fn difference(native: &str, guest: &str) -> Option<String> {
    if native == guest {
        return None;
    }
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (guest.lines().collect(), native.lines().collect());
    let same = ours.iter().zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count();
    let before = theirs[same.saturating_sub(BEFORE)..same].join("\n");
    let (theirs, ours) = (theirs.get(same), ours.get(same));
    Some(format!("line {}:\n{before}\nnatively   {theirs:?}\nin a guest {ours:?}", same + 1))
}

/// What the program did by what it saw is also what `mm` alone makes of it.
fn replay(seed: u64, trace: &str) -> Result<(), Failed> {
    let ran = common::run(Command::new(MMVISOR).args(["replay", "-"]), trace.as_bytes(), LIMIT);
    let text = String::from_utf8_lossy(&ran.stdout).into_owned() + &ran.stderr;
    let all = text.contains(" 0 mismatches, 0 skipped, 0 assumed");
    if ran.status == Some(0) && all {
        Ok(())
    } else {
        Err(format!("seed {seed}, replayed: {text}").into())
    }
}

/// Adds what a run says of how often it did what.
fn count(trace: &str, made: &mut Made) {
    for line in trace.lines().filter_map(|line| line.strip_prefix("# made ")) {
        if let Some((kind, count)) = line.split_once(' ') {
            *made.entry(kind.to_owned()).or_default() += count.parse().unwrap_or(0);
        }
    }
}

/// In a guest that is not flushed as it must be, a difference is found soon.
fn notices() -> Result<Completion, Failed> {
    let why = in_guest::cannot_notice().map_or_else(incomparable, |why| Ok(Some(why)))?;
    if let Some(why) = why {
        return Ok(Completion::ignored_with(why));
    }
    for seed in (SEEDS.start..).take(usize::try_from(NOTICED_WITHIN)?) {
        if let Err(failed) =
            compare(seed, &natively(seed, EVERY)?, &in_guest_of(seed, FlushPolicy::None, EVERY))
        {
            println!("without flushes: {}", failed.message().unwrap_or_default());
            return Ok(Completion::Completed);
        }
    }
    Err(format!("{NOTICED_WITHIN} runs did not show that nothing is flushed").into())
}

fn in_nested_machine(kind: Kind) -> Result<(), Failed> {
    let (began, mut made) = (Instant::now(), Made::new());
    let program = payload("generator");
    let machine = Machine::new(kind).executable(Path::new(MMVISOR)).time_limit(BOOT_LIMIT);
    let machine = machine.file(&program, &program);
    let job = |seed| {
        let mut argv = [GUEST_EXECUTABLE, "run", "--machine=kvm"].map(OsString::from).to_vec();
        argv.push(program.clone().into());
        argv.extend(arguments(seed, EVERY).map(OsString::from));
        Job::new(argv).time_limit(LIMIT * 3)
    };
    let results = match machine.run_jobs(NESTED_SEEDS.map(job).collect()) {
        // Emulated processors have hung in a kernel's start, before anything of ours ran.
        Err(NestedError::BootTimeout { .. }) => {
            machine.run_jobs(NESTED_SEEDS.map(job).collect())?
        }
        results => results?,
    };
    for (seed, result) in NESTED_SEEDS.zip(results) {
        let status = match &result.outcome {
            Outcome::NotStarted(why) => return Err(why.into()),
            Outcome::TimedOut => None,
            ended => Some(ended.exit_status()),
        };
        let stderr = String::from_utf8_lossy(&result.stderr).into_owned();
        let ran = Ran { status, stdout: result.stdout, stderr, left_behind: false };
        let trace = natively(seed, EVERY)?;
        compare(seed, &trace, &ran)?;
        count(&trace, &mut made);
    }
    tell(&format!("in the nested machine, {kind},"), &NESTED_SEEDS, began, &made)
}
