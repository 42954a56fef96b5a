//! The cases in the nested machine: one boot for each kind of paging runs them all, and each trial then
//! looks at its own result.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use vmm::nested::{GUEST_EXECUTABLE, Job, JobResult, Kind, Machine, Outcome};

use crate::cases::{self, Case, Where};
use crate::common::{MMVISOR, Ran};

/// How much slower than under the host's KVM a case may be: the processor is emulated.
const SLOWER: u32 = 3;
/// A boot and all its cases.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// A machine and what its cases came to, once it has run.
#[derive(Debug)]
struct Run {
    kind: Kind,
    cases: Vec<Case>,
    results: OnceLock<Result<Vec<JobResult>, String>>,
}

/// A trial a case and kind. `filter` is the name that was asked for: a boot runs only what is wanted.
pub fn trials(filter: Option<&str>) -> Vec<Trial> {
    [Kind::Npt, Kind::Shadow].into_iter().flat_map(|kind| trials_of(kind, filter)).collect()
}

fn trials_of(kind: Kind, filter: Option<&str>) -> Vec<Trial> {
    let name = |case: &Case| format!("{}::{}", kind.to_string().to_lowercase(), case.name);
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| match case.place {
            Where::Anywhere | Where::Nested => true,
            Where::Direct => false,
            Where::ShadowPaging => kind == Kind::Shadow,
        })
        .filter(|case| filter.is_none_or(|filter| name(case).contains(filter)))
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
        let results = self.results.get_or_init(|| self.boot()).as_ref()?;
        let result = &results[index];
        if let Outcome::NotStarted(why) = &result.outcome {
            return Err(why.into());
        }
        let status = match result.outcome {
            Outcome::TimedOut => None,
            ref ended => Some(ended.exit_status()),
        };
        let stderr = String::from_utf8_lossy(&result.stderr).into_owned();
        Ok(self.cases[index].judge(&Ran { status, stdout: result.stdout.clone(), stderr })?)
    }

    /// Boots the machine and runs everything.
    fn boot(&self) -> Result<Vec<JobResult>, String> {
        let mut machine = Machine::new(self.kind).executable(Path::new(MMVISOR)).time_limit(LIMIT);
        let mut programs: Vec<&Path> =
            self.cases.iter().filter_map(|case| case.program.as_deref()).collect();
        programs.sort_unstable();
        programs.dedup();
        for program in programs {
            machine = machine.file(program, program);
        }
        let jobs = self.cases.iter().map(job).collect();
        machine.run_jobs(jobs).map_err(|error| error.to_string())
    }
}

fn job(case: &Case) -> Job {
    let mut argv = vec![OsString::from(GUEST_EXECUTABLE)];
    argv.extend(case.options.iter().map(OsString::from));
    argv.extend(case.program.iter().map(|path| path.clone().into_os_string()));
    argv.extend(case.args.iter().map(OsString::from));
    let mut job = Job::new(argv).stdin(case.stdin.clone()).time_limit(case.limit * SLOWER);
    for &(key, value) in &case.env {
        job = job.env(key, value);
    }
    job
}
