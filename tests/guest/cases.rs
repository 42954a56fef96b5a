//! The cases: what is run, and what must come of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::common::{self, Ran, c_program, payload};

/// What a run must come to.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Status 0.
    Success,
    /// The same standard output and status as natively.
    AsNatively,
    /// This status, and this text somewhere in standard error.
    Fails(u8, &'static str),
    /// Anything but success: a check that must fail, fails.
    NoSuccess,
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
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// Environment of mmvisor itself.
    pub env: Vec<(&'static str, &'static str)>,
    /// What must come of it.
    pub expect: Expect,
    /// Where it makes sense.
    pub place: Where,
    /// How long it may take, under the host's KVM.
    pub limit: Duration,
}

impl Case {
    fn new(name: impl Into<String>, program: PathBuf, args: &[&str]) -> Self {
        Case {
            name: name.into(),
            options: vec!["run".to_owned(), "--machine=kvm".to_owned()],
            program: Some(program),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            stdin: Vec::new(),
            env: Vec::new(),
            expect: Expect::Success,
            place: Where::Anywhere,
            limit: Duration::from_secs(60),
        }
    }

    fn natively(mut self) -> Self {
        self.expect = Expect::AsNatively;
        self
    }

    fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    fn only(mut self, place: Where) -> Self {
        self.place = place;
        self
    }

    fn input(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    fn without_flush(mut self) -> Self {
        self.env.push(("MMVISOR_TEST_WITHOUT_FLUSH", "1"));
        self.place = Where::ShadowPaging;
        self.expect = Expect::NoSuccess;
        self
    }

    /// Compares what was run with what must come of it.
    pub fn judge(&self, ran: &Ran) -> Result<(), String> {
        let told = || {
            let stdout = String::from_utf8_lossy(&ran.stdout);
            let tail = stdout.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
            format!(
                "status {:?}\nstandard output: {}\nstandard error: {}",
                ran.status,
                &stdout[tail..],
                ran.stderr
            )
        };
        let holds = match &self.expect {
            _ if ran.stderr.contains("panicked") => false,
            Expect::Success => ran.status == Some(0),
            Expect::Fails(status, text) => ran.status == Some(*status) && ran.stderr.contains(text),
            Expect::NoSuccess => ran.status.is_none_or(|status| status != 0),
            Expect::AsNatively => {
                let native = self.run_natively();
                if (ran.status, &ran.stdout) != (native.status, &native.stdout) {
                    let native = String::from_utf8_lossy(&native.stdout).into_owned();
                    return Err(format!("natively: {native}\nin the guest: {}", told()));
                }
                true
            }
        };
        if holds { Ok(()) } else { Err(format!("expected {:?}, got {}", self.expect, told())) }
    }

    fn run_natively(&self) -> Ran {
        let mut command = Command::new(self.program.as_deref().unwrap_or("false".as_ref()));
        command.args(&self.args).env_clear();
        common::run(&mut command, &self.stdin, self.limit)
    }
}

/// awk's array script, with `n` elements.
fn awk(n: u32) -> String {
    format!(
        "BEGIN {{ for (i = 0; i < {n}; i++) a[i] = i * 7 % 1000; \
         s = 0; for (k in a) s += a[k]; print s, length(a) }}"
    )
}

/// Lines of text that are the same every time.
fn lines(n: u32) -> Vec<u8> {
    let mut state = 12345u32;
    let mut text = Vec::new();
    for _ in 0..n {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{:08x} {}\n", state, state >> 20).as_bytes());
    }
    text
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = payloads();
    cases.extend(others_programs());
    cases.extend(c_programs());
    cases.extend(without_flush());
    cases.push(Case {
        options: vec!["doctor".to_owned()],
        program: None,
        ..Case::new("doctor", PathBuf::new(), &[])
    });
    cases
}

fn payloads() -> Vec<Case> {
    let mut cases = vec![
        Case::new("hello", payload("hello"), &["some", "arguments"]).natively(),
        Case::new("tour", payload("tour"), &[]),
        Case::new("faults", payload("faults"), &[]),
        Case::new("badptr", payload("badptr"), &[]),
        Case::new("forger", payload("forger"), &["all"]),
        Case::new("exit-7", payload("exit"), &["7"]).expect(Expect::Fails(7, "")),
    ];
    for seed in 1..=8 {
        let seed = seed.to_string();
        cases.push(Case::new(format!("stress-{seed}"), payload("stress"), &[&seed, "400"]));
    }
    cases
}

/// Programs that nobody here wrote.
fn others_programs() -> Vec<Case> {
    let busybox = || PathBuf::from("/bin/busybox");
    let case = |name: &str, args: &[&str]| Case::new(name, busybox(), args).natively();
    vec![
        case("awk-300000", &["awk", &awk(300_000)]).only(Where::Direct),
        case("awk-20000", &["awk", &awk(20_000)]).only(Where::Nested),
        case("sha256sum", &["sha256sum"]).input(lines(50_000)),
        case("sort", &["sort", "-k2n"]).input(lines(50_000)).only(Where::Direct),
        case("sort-2000", &["sort", "-k2n"]).input(lines(2_000)).only(Where::Nested),
        case("bc", &["bc"]).input("scale=20\n2^521-1\n22/7\nquit\n"),
        case("dc", &["dc"]).input("2 100 ^ p 17 % p\n"),
        case("false", &["false"]),
        case("true", &["true"]),
    ]
}

fn c_programs() -> Vec<Case> {
    let builds: [(&str, &[&str]); 3] =
        [("musl-gcc", &["-static"]), ("gcc", &["-static"]), ("gcc", &["-static-pie"])];
    let mut cases = Vec::new();
    for (compiler, flags) in builds {
        let program = c_program("alloc", compiler, flags);
        let name = format!("alloc-{compiler}{}", flags.concat());
        cases.push(Case::new(&name, program.clone(), &["200"]).natively().only(Where::Direct));
        cases
            .push(Case::new(format!("{name}-40"), program, &["40"]).natively().only(Where::Nested));
    }
    cases
}

/// What must fail when nothing is flushed: this proves that the tests above would notice.
fn without_flush() -> Vec<Case> {
    let faults = Case::new("faults-without-flush", payload("faults"), &[]).without_flush();
    let stress =
        Case::new("stress-without-flush", payload("stress"), &["1", "400"]).without_flush();
    vec![faults, stress]
}
