//! The guest of the nested machine: sequences as traces, one boot or more for each kind of paging.
//!
//! `make fuzz-nested N=5000 SEED=1` makes as many calls as one likes.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use mm::addr::PAGE_SIZE;
use vmm::kvm::FlushPolicy;
use vmm::nested::{GUEST_EXECUTABLE, Job, JobResult, Kind, Machine, NestedError, Outcome};

use super::super::model::Start;
use super::super::{LENGTH, fault_ahead, generate};
use super::{as_trace, flush_of, swapped};
use crate::common::MMVISOR;
use crate::oracle::Oracle;

/// Sequences that every test run makes.
const SEQUENCES: u64 = 5;
/// Of so many seeds one is done with a swap area as well.
const SWAPPED: u64 = 2;
/// The most seeds in a boot.
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
    let (mut rest, mut met) = (seeds.clone(), swapped::Met::default());
    while !rest.is_empty() {
        let now = rest.start..rest.end.min(rest.start + IN_A_BOOT);
        rest.start = now.end;
        for (Trace { seed, swap, met: found, .. }, result) in run(kind, now, flush_of)? {
            met.add(&found);
            let text = String::from_utf8_lossy(&result.stdout);
            if result.outcome != Outcome::Exited(0) || !text.contains(" 0 skipped, 0 assumed") {
                let errors = String::from_utf8_lossy(&result.stderr);
                let what =
                    format!("{:?}, seed {seed}, swap {swap:?}: {text}{errors}", result.outcome);
                return Err(what.into());
            }
        }
    }
    let (acts, seconds) = ((seeds.end - seeds.start) * LENGTH, began.elapsed().as_secs());
    let summary =
        format!("{acts} acts from seeds {} on in the nested machine's guest", seeds.start);
    println!("{summary}, {kind}, without a difference, in {seconds} s; swapped pages met:{met}");
    let meets_some = seeds.clone().any(|seed| seed.is_multiple_of(SWAPPED));
    if meets_some && !met.has_touched() {
        return Err("no swapped page was touched".into());
    }
    Ok(())
}

fn notices() -> Result<(), Failed> {
    let results = run(Kind::Shadow, 1..SEQUENCES + 1, |_| FlushPolicy::None)?;
    let first = results
        .iter()
        .map(|(_, result)| result)
        .find(|result| result.outcome != Outcome::Exited(0));
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
) -> Result<Vec<(Trace, JobResult)>, Failed> {
    let start = Start::of(&mut Oracle::start()?)?;
    let mut traces = Vec::new();
    for seed in seeds {
        let mut starts = vec![start.clone().set(&fault_ahead(seed))];
        starts.extend(seed.is_multiple_of(SWAPPED).then(|| swapped::start(&start, seed / SWAPPED)));
        for start in starts {
            let sequence = generate::sequence(&start, seed, LENGTH)?;
            traces.push(Trace {
                seed,
                text: as_trace::trace(&start, &sequence.acts)?,
                flush: flush(seed),
                swap: start.area().pages(),
                met: swapped::Met::by(&start, &sequence.acts)?,
            });
        }
    }
    let machine = Machine::new(kind).executable(Path::new(MMVISOR)).time_limit(LIMIT);
    let jobs = || traces.iter().map(job).collect();
    let results = match machine.run_jobs(jobs()) {
        // Emulated processors have hung in a kernel's start, before anything of ours ran.
        Err(NestedError::BootTimeout { .. }) => machine.run_jobs(jobs())?,
        results => results?,
    };
    Ok(traces.into_iter().zip(results).collect())
}

/// A sequence for the machine.
struct Trace {
    seed: u64,
    text: String,
    flush: FlushPolicy,
    /// Pages of its swap area.
    swap: Option<u64>,
    /// What the walk in software met there.
    met: swapped::Met,
}

fn job(trace: &Trace) -> Job {
    let mut argv = [GUEST_EXECUTABLE, "replay", "--in-guest"].map(OsString::from).to_vec();
    argv.extend(trace.swap.map(|pages| format!("--swap={}", pages * PAGE_SIZE).into()));
    argv.push("-".into());
    let job = Job::new(argv).stdin(trace.text.as_bytes().to_vec());
    trace.flush.name().into_iter().fold(job, |job, name| job.env(FlushPolicy::VARIABLE, name))
}
