//! The guest of the nested machine: sequences as traces, one boot or more for each kind of paging.
//!
//! `make fuzz-nested N=5000 SEED=1` makes as many calls as one likes.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use vmm::kvm::FlushPolicy;
use vmm::nested::{GUEST_EXECUTABLE, Job, JobResult, Kind, Machine, NestedError, Outcome};

use super::super::model::Start;
use super::super::{LENGTH, fault_ahead, generate};
use super::{as_trace, flush_of};
use crate::common::MMVISOR;
use crate::oracle::Oracle;

/// Sequences that every test run makes.
const SEQUENCES: u64 = 5;
/// The most sequences in a boot.
const IN_A_BOOT: u64 = 10;
/// A boot and all its sequences.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The trials: both kinds agree; and shadow paging does not where nothing is flushed.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::from(both(1..SEQUENCES + 1));
    trials
        .push(Trial::test("differential::in_guest::nested_shadow_notices_without_flush", notices));
    trials
}

/// The sequences of these seeds under both kinds.
pub fn both(seeds: Range<u64>) -> [Trial; 2] {
    [("nested_npt", Kind::Npt), ("nested_shadow", Kind::Shadow)].map(|(name, kind)| {
        let seeds = seeds.clone();
        Trial::test(format!("differential::in_guest::{name}"), move || agree(kind, seeds))
    })
}

fn agree(kind: Kind, seeds: Range<u64>) -> Result<(), Failed> {
    let began = Instant::now();
    let mut rest = seeds.clone();
    while !rest.is_empty() {
        let now = rest.start..rest.end.min(rest.start + IN_A_BOOT);
        rest.start = now.end;
        for (seed, result) in now.clone().zip(run(kind, now, flush_of)?) {
            let text = String::from_utf8_lossy(&result.stdout);
            if result.outcome != Outcome::Exited(0) || !text.contains(" 0 skipped, 0 assumed") {
                let errors = String::from_utf8_lossy(&result.stderr);
                return Err(format!("{:?}, seed {seed}: {text}{errors}", result.outcome).into());
            }
        }
    }
    let (acts, seconds) = ((seeds.end - seeds.start) * LENGTH, began.elapsed().as_secs());
    let summary =
        format!("{acts} acts from seeds {} on in the nested machine's guest", seeds.start);
    println!("{summary}, {kind}, without a difference, in {seconds} s");
    Ok(())
}

fn notices() -> Result<(), Failed> {
    let results = run(Kind::Shadow, 1..SEQUENCES + 1, |_| FlushPolicy::None)?;
    let first = results.iter().find(|result| result.outcome != Outcome::Exited(0));
    let Some(first) = first else {
        return Err("no trace shows that nothing is flushed".into());
    };
    let text = String::from_utf8_lossy(&first.stdout);
    println!("without flushes: {}", text.lines().next().unwrap_or_default());
    Ok(())
}

/// Boots the machine and replays a trace for each seed.
fn run(
    kind: Kind,
    seeds: Range<u64>,
    flush: fn(u64) -> FlushPolicy,
) -> Result<Vec<JobResult>, Failed> {
    let start = Start::of(&mut Oracle::start()?)?;
    let mut traces = Vec::new();
    for seed in seeds {
        let start = start.clone().set(&fault_ahead(seed));
        let sequence = generate::sequence(&start, seed, LENGTH)?;
        traces.push((as_trace::trace(&start, &sequence.acts)?, flush(seed)));
    }
    let machine = Machine::new(kind).executable(Path::new(MMVISOR)).time_limit(LIMIT);
    let jobs = || traces.iter().map(|(trace, flush)| job(trace, *flush)).collect();
    match machine.run_jobs(jobs()) {
        // Emulated processors have hung in a kernel's start, before anything of ours ran.
        Err(NestedError::BootTimeout { .. }) => Ok(machine.run_jobs(jobs())?),
        results => Ok(results?),
    }
}

fn job(trace: &str, flush: FlushPolicy) -> Job {
    let argv = [GUEST_EXECUTABLE, "replay", "--in-guest", "-"].map(OsString::from);
    let job = Job::new(argv).stdin(trace.as_bytes().to_vec());
    flush.name().into_iter().fold(job, |job, name| job.env(FlushPolicy::VARIABLE, name))
}
