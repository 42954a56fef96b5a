//! The guest of the nested machine: sequences as traces, one boot for each kind of paging.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use vmm::kvm::FlushPolicy;
use vmm::nested::{GUEST_EXECUTABLE, Job, JobResult, Kind, Machine, NestedError, Outcome};

use super::super::model::Start;
use super::super::{LENGTH, fault_ahead, generate};
use super::as_trace;
use crate::common::MMVISOR;
use crate::oracle::Oracle;

/// Sequences in a boot.
const SEQUENCES: u64 = 5;
/// A boot and all its sequences.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The trials: both kinds agree; and shadow paging does not where nothing is flushed.
pub fn trials() -> Vec<Trial> {
    let agrees = |name: &str, kind: Kind| {
        Trial::test(format!("differential::in_guest::{name}"), move || agree(kind))
    };
    vec![
        agrees("nested_npt", Kind::Npt),
        agrees("nested_shadow", Kind::Shadow),
        Trial::test("differential::in_guest::nested_shadow_notices_without_flush", notices),
    ]
}

fn agree(kind: Kind) -> Result<(), Failed> {
    let mut calls = 0;
    for (seed, result) in (1..).zip(run(kind, &[])?) {
        let text = String::from_utf8_lossy(&result.stdout);
        let whole = || format!("seed {seed}: {text}{}", String::from_utf8_lossy(&result.stderr));
        if result.outcome != Outcome::Exited(0) || !text.contains(" 0 skipped, 0 assumed") {
            return Err(format!("{:?}, {}", result.outcome, whole()).into());
        }
        calls += LENGTH;
    }
    println!("{calls} acts in the nested machine's guest, {kind}, without a difference");
    Ok(())
}

fn notices() -> Result<(), Failed> {
    let results = run(Kind::Shadow, &[(FlushPolicy::WITHOUT_FLUSH, "1")])?;
    let first = results.iter().find(|result| result.outcome != Outcome::Exited(0));
    let Some(first) = first else {
        return Err("no trace shows that nothing is flushed".into());
    };
    let text = String::from_utf8_lossy(&first.stdout);
    println!("without flushes: {}", text.lines().next().unwrap_or_default());
    Ok(())
}

/// Boots the machine and replays a trace for each seed.
fn run(kind: Kind, env: &[(&str, &str)]) -> Result<Vec<JobResult>, Failed> {
    let start = Start::of(&mut Oracle::start()?)?;
    let mut traces = Vec::new();
    for seed in 1..=SEQUENCES {
        let start = start.clone().set(&fault_ahead(seed));
        let sequence = generate::sequence(&start, seed, LENGTH)?;
        traces.push(as_trace::trace(&start, &sequence.acts)?);
    }
    let machine = Machine::new(kind).executable(Path::new(MMVISOR)).time_limit(LIMIT);
    let jobs = || traces.iter().map(|trace| job(trace, env)).collect();
    match machine.run_jobs(jobs()) {
        // Emulated processors have hung in a kernel's start, before anything of ours ran.
        Err(NestedError::BootTimeout { .. }) => Ok(machine.run_jobs(jobs())?),
        results => Ok(results?),
    }
}

fn job(trace: &str, env: &[(&str, &str)]) -> Job {
    let argv = [GUEST_EXECUTABLE, "replay", "--in-guest", "-"].map(OsString::from);
    let job = Job::new(argv).stdin(trace.as_bytes().to_vec());
    env.iter().fold(job, |job, (key, value)| job.env(key, value))
}
