//! A case: what is run, where, and what must come of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mm::phys::FileAccess;
use serde_json::Value;
use vmm::kvm::FlushPolicy;

use crate::common::{self, Ran, Then};

/// How a run must end.
#[derive(Clone, Debug)]
pub enum Expect {
    /// With this status.
    Status(u8),
    /// With the same standard output and status as natively.
    AsNatively,
    /// With anything but success, which is status 0 and this text: a check that must fail, fails. What sees old memory
    /// may also end early, as if it were done.
    NoSuccess(&'static str),
    /// With a report of `mmvisor doctor --json` that fails these probes, and no other.
    FailsProbes(&'static [&'static str]),
}

/// Where a case makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// Everywhere.
    Anywhere,
    /// Too slow for an emulated machine.
    Direct,
    /// The lighter sibling of a `Direct` one.
    Nested,
    /// Where a missing flush shows: not under nested paging, which QEMU's emulation flushes anyway.
    ShadowPaging,
}

/// How often a program was given files natively: each time others.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// A file that a program is given.
#[derive(Clone, Debug)]
pub struct GivenFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is written too.
    pub access: FileAccess,
}

impl GivenFile {
    /// The option that gives it, if it is at `path`.
    fn option(&self, path: &Path) -> String {
        match self.access {
            FileAccess::Read => format!("--file={}:ro", path.display()),
            FileAccess::ReadWrite => format!("--file={}", path.display()),
        }
    }

    /// Where this run finds it.
    fn for_run(&self, run: &str) -> PathBuf {
        if self.access == FileAccess::Read {
            return self.path.clone();
        }
        let mut copy = self.path.clone().into_os_string();
        copy.push(format!(".{run}"));
        std::fs::copy(&self.path, &copy).unwrap();
        copy.into()
    }
}

/// A program to run.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in the list of tests.
    pub name: String,
    /// Arguments of `mmvisor` before the program.
    pub options: Vec<String>,
    /// The program's file; `None` for a command of mmvisor's own.
    pub program: Option<PathBuf>,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Files of the host that it has as descriptors from 3 up. One that it writes it has a copy of, in each run.
    pub files: Vec<GivenFile>,
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// And then; in the nested machine it always ends.
    pub stdin_then: Then,
    /// Environment of mmvisor itself.
    pub env: Vec<(&'static str, &'static str)>,
    /// How it must end.
    pub expect: Expect,
    /// Texts that must be in its standard output.
    pub prints: Vec<&'static str>,
    /// Texts that must be in its standard error.
    pub says: Vec<&'static str>,
    /// Where it makes sense.
    pub place: Where,
    /// How long it may take, under the host's KVM.
    pub limit: Duration,
}

impl Case {
    /// A program that must end with 0 everywhere.
    pub fn new(name: impl Into<String>, program: PathBuf, args: &[&str]) -> Self {
        Case {
            name: name.into(),
            options: vec!["run".to_owned(), "--machine=kvm".to_owned()],
            program: Some(program),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            files: Vec::new(),
            stdin: Vec::new(),
            stdin_then: Then::Ends,
            env: Vec::new(),
            expect: Expect::Status(0),
            prints: Vec::new(),
            says: Vec::new(),
            place: Where::Anywhere,
            limit: Duration::from_secs(60),
        }
    }

    /// A command of mmvisor's own.
    pub fn command(name: impl Into<String>, words: &[&str]) -> Self {
        let options = words.iter().map(|&word| word.to_owned()).collect();
        Case { options, program: None, ..Case::new(name, PathBuf::new(), &[]) }
    }

    pub fn natively(self) -> Self {
        self.expect(Expect::AsNatively)
    }

    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub fn only(mut self, place: Where) -> Self {
        self.place = place;
        self
    }

    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// With a file; the first one is descriptor 3.
    pub fn given(mut self, path: &Path, access: FileAccess) -> Self {
        self.files.push(GivenFile { path: path.to_owned(), access });
        self
    }

    /// Arguments of `mmvisor` before the program, the files where this run finds them.
    pub fn options_for(&self, run: &str) -> Vec<String> {
        let files = self.files.iter().map(|file| file.option(&file.for_run(run)));
        self.options.iter().cloned().chain(files).collect()
    }

    /// The same in the nested machine, which has copies at the files' own places.
    pub fn options_inside(&self) -> Vec<String> {
        let files = self.files.iter().map(|file| file.option(&file.path));
        self.options.iter().cloned().chain(files).collect()
    }

    pub fn input(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    pub fn prints(mut self, text: &'static str) -> Self {
        self.prints.push(text);
        self
    }

    pub fn says(mut self, text: &'static str) -> Self {
        self.says.push(text);
        self
    }

    /// With another policy than the default one.
    pub fn flushing(mut self, policy: FlushPolicy) -> Self {
        self.env.extend(policy.name().map(|name| (FlushPolicy::VARIABLE, name)));
        self
    }

    /// With a flush sink that does nothing: it must fail.
    pub fn without_flush(self) -> Self {
        self.flushing(FlushPolicy::None).only(Where::ShadowPaging).expect(Expect::NoSuccess(""))
    }

    /// Compares what was run with what must come of it.
    pub fn judge(&self, ran: &Ran) -> Result<(), String> {
        self.wrong(ran).map_or(Ok(()), |wrong| Err(format!("{wrong}\n{}", told(ran))))
    }

    /// The first thing that is not as it must be.
    fn wrong(&self, ran: &Ran) -> Option<String> {
        if ran.panicked() {
            return Some("mmvisor panicked".to_owned());
        }
        if ran.left_behind {
            return Some("it left processes behind".to_owned());
        }
        let stdout = String::from_utf8_lossy(&ran.stdout);
        for (text, stream, name) in (self.prints.iter().map(|text| (text, &*stdout, "output")))
            .chain(self.says.iter().map(|text| (text, &*ran.stderr, "error")))
        {
            if !stream.contains(text) {
                return Some(format!("{text:?} is not in standard {name}"));
            }
        }
        match &self.expect {
            Expect::Status(status) if ran.status == Some(*status) => None,
            Expect::Status(status) => Some(format!("the status should be {status}")),
            Expect::NoSuccess(done) => {
                let succeeded = ran.status == Some(0) && stdout.contains(done);
                succeeded.then(|| "it should fail".to_owned())
            }
            Expect::AsNatively => {
                let native = self.run_natively();
                let same = (native.status, &native.stdout) == (ran.status, &ran.stdout);
                (!same).then(|| {
                    let first = first_other(&native.stdout, &ran.stdout);
                    format!("{first}natively:\n{}\nbut in the guest:", told(&native))
                })
            }
            Expect::FailsProbes(wanted) => match failed_probes(&ran.stdout) {
                _ if ran.status != Some(1) => Some("the status should be 1".to_owned()),
                Ok(failed) if failed == *wanted => None,
                Ok(failed) => Some(format!("{failed:?} failed, not {wanted:?}")),
                Err(why) => Some(why),
            },
        }
    }

    fn run_natively(&self) -> Ran {
        let program = self.program.as_deref().unwrap_or("false".as_ref());
        // Only a shell opens files under numbers of one's choice.
        let mut opened = String::new();
        for (fd, file) in (3..).zip(&self.files) {
            let how = if file.access == FileAccess::Read { "<" } else { "<>" };
            let path = file.for_run(&format!("natively-{}", RUNS.fetch_add(1, Ordering::Relaxed)));
            opened += &format!(" {fd}{how}'{}'", path.display());
        }
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("exec \"$0\" \"$@\"{opened}")).arg(program);
        command.args(&self.args).env_clear();
        common::run_with_input(&mut command, &self.stdin, self.stdin_then, self.limit)
    }
}

/// What a run came to, its output cut to the last lines.
fn told(ran: &Ran) -> String {
    let stdout = String::from_utf8_lossy(&ran.stdout);
    let tail = stdout.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    let (status, stderr) = (ran.status, &ran.stderr);
    format!("status {status:?}\nstandard output: {}\nstandard error: {stderr}", &stdout[tail..])
}

/// The first line in which outputs differ.
fn first_other(native: &[u8], guest: &[u8]) -> String {
    let lines = |text: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(text).lines().map(str::to_owned).collect()
    };
    let (native, guest) = (lines(native), lines(guest));
    let same = native.iter().zip(&guest).take_while(|(native, guest)| native == guest).count();
    let line = |of: &[String]| of.get(same).cloned().unwrap_or_else(|| "(its end)".to_owned());
    format!("line {}, natively: {}\nin the guest: {}\n", same + 1, line(&native), line(&guest))
}

/// The probes that failed, by a report of `mmvisor doctor --json`, in its order.
fn failed_probes(report: &[u8]) -> Result<Vec<String>, String> {
    let report: Value = serde_json::from_slice(report).map_err(|error| error.to_string())?;
    let probes = report["probes"].as_array().ok_or("the report has no probes")?;
    let failed = probes.iter().filter(|probe| probe["outcome"]["result"] == "fail");
    Ok(failed.map(|probe| probe["name"].as_str().unwrap_or("nameless").to_owned()).collect())
}
