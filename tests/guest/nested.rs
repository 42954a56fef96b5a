//! The cases in the nested machine: one boot for each kind of paging runs them all, and each trial then
//! looks at its own result.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use vmm::nested::{GUEST_EXECUTABLE, Job, JobResult, Kind, Machine, NestedError, Outcome};

use crate::case::{Case, Where};
use crate::common::{MMVISOR, Ran};

/// How much slower than under the host's KVM a case may be: the processor is emulated.
const SLOWER: u32 = 3;
/// How often a machine is booted for cases that are left.
const BOOTS: u32 = 3;
/// A boot and all its cases.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// A machine and what its cases came to, once it has run.
#[derive(Debug)]
struct Run {
    kind: Kind,
    cases: Vec<Case>,
    /// For each case; `Err` says why the machine was lost in it.
    results: OnceLock<Vec<Result<JobResult, String>>>,
}

/// A trial a case and kind. `filter` is the name that was asked for: a boot runs only what is wanted.
pub fn trials(cases: &[Case], filter: Option<&str>) -> Vec<Trial> {
    [Kind::Npt, Kind::Shadow].into_iter().flat_map(|kind| trials_of(kind, cases, filter)).collect()
}

fn trials_of(kind: Kind, cases: &[Case], filter: Option<&str>) -> Vec<Trial> {
    let name = |case: &Case| format!("{}::{}", kind.to_string().to_lowercase(), case.name);
    let cases: Vec<Case> = cases
        .iter()
        .filter(|case| match case.place {
            Where::Anywhere | Where::Nested => true,
            Where::Direct => false,
            Where::ShadowPaging => kind == Kind::Shadow,
        })
        .filter(|case| filter.is_none_or(|filter| name(case).contains(filter)))
        .cloned()
        .collect();
    let names: Vec<String> = cases.iter().map(name).collect();
    let run = Arc::new(Run { kind, cases, results: OnceLock::new() });
    names
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let run = Arc::clone(&run);
            Trial::test(name, move || run.judge(index))
        })
        .collect()
}

impl Run {
    fn judge(&self, index: usize) -> Result<(), Failed> {
        let results = self.results.get_or_init(|| self.boot());
        let Some(result) = results.get(index) else {
            return Err("the machine was lost before this case, and in each boot after it".into());
        };
        let result = result.as_ref()?;
        if let Outcome::NotStarted(why) = &result.outcome {
            return Err(why.into());
        }
        let status = match result.outcome {
            Outcome::TimedOut => None,
            ref ended => Some(ended.exit_status()),
        };
        let stderr = String::from_utf8_lossy(&result.stderr).into_owned();
        // What a job leaves behind ends with it, in the machine; that is its own tests' to judge.
        let stdout = result.stdout.clone();
        Ok(self.cases[index].judge(&Ran { status, stdout, stderr, left_behind: false })?)
    }

    /// Boots the machine and runs everything. Where the machine is lost, that case has failed; the rest
    /// runs in another one.
    fn boot(&self) -> Vec<Result<JobResult, String>> {
        let mut machine = Machine::new(self.kind).executable(Path::new(MMVISOR)).time_limit(LIMIT);
        let mut programs: Vec<&Path> =
            self.cases.iter().filter_map(|case| case.program.as_deref()).collect();
        let files = self.cases.iter().flat_map(|case| &case.files);
        programs.extend(files.map(|file| file.path.as_path()));
        programs.sort_unstable();
        programs.dedup();
        for program in programs {
            machine = machine.file(program, program);
        }
        let mut results: Vec<Result<JobResult, String>> = Vec::new();
        for _boot in 0..BOOTS {
            let before = results.len();
            if before == self.cases.len() {
                break;
            }
            let begun = Instant::now();
            let jobs = self.cases[before..].iter().map(job).collect();
            let mut ends = Vec::new();
            let end = machine.run_each(jobs, |result| {
                results.push(Ok(result));
                ends.push(begun.elapsed());
            });
            self.tell(before, &results, &ends);
            match end {
                Ok(()) => {}
                // Emulated processors have hung in a kernel's start, before anything of ours ran.
                Err(error @ NestedError::BootTimeout { .. }) => {
                    eprintln!("{}: {error}; booting it once more", self.kind);
                }
                Err(error) => results.push(Err(error.to_string())),
            }
        }
        results
    }

    /// Prints what ran in the boot, so that nobody has to take its word for it, and how long each case took (the first
    /// with the boot).
    fn tell(&self, first: usize, results: &[Result<JobResult, String>], ends: &[Duration]) {
        let (kind, count) = (self.kind, ends.len());
        let seconds = ends.last().map_or(0, Duration::as_secs);
        eprintln!("one boot of the nested machine, {kind}, ran {count} cases in {seconds} s:");
        let mut begun = Duration::ZERO;
        for ((case, result), &ended) in self.cases.iter().zip(results).skip(first).zip(ends) {
            let outcome = result.as_ref().map(|result| &result.outcome);
            let took = ended.saturating_sub(begun).as_secs_f64();
            eprintln!("    {:<28} {took:6.1} s  {outcome:?}", case.name);
            begun = ended;
        }
    }
}

fn job(case: &Case) -> Job {
    let mut argv = vec![OsString::from(GUEST_EXECUTABLE)];
    argv.extend(case.options_inside().into_iter().map(OsString::from));
    argv.extend(case.program.iter().map(|path| path.clone().into_os_string()));
    argv.extend(case.args.iter().map(OsString::from));
    let mut job = Job::new(argv).stdin(case.stdin.clone()).time_limit(case.limit * SLOWER);
    for &(key, value) in &case.env {
        job = job.env(key, value);
    }
    job
}
