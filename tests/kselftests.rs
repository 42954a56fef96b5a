//! Linux's own tests of memory (`tools/testing/selftests/mm`), built from Debian's package of its source: each says the
//! same in a guest as natively, line by line, but for addresses and times.
//!
//! Nothing of them is in this repository. Where the package is not installed they fail, and say so: `make deps` installs
//! it.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

#[path = "common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use common::{MMVISOR, Ran, kvm_unusable, run};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A test, what it is built from besides, and what it prints.
struct Selftest {
    name: &'static str,
    also: &'static [&'static str],
    /// Lines that hold one of these are left out: they tell a time.
    times: &'static [&'static str],
}

const fn selftest(name: &'static str) -> Selftest {
    Selftest { name, also: &[], times: &[] }
}

/// Those that build without a library, and pass on a host.
const TESTS: [Selftest; 7] = [
    selftest("map_fixed_noreplace"),
    selftest("droppable"),
    selftest("mremap_dontunmap"),
    selftest("mlock2-tests"),
    Selftest { also: &["vm_util.c"], ..selftest("madv_populate") },
    Selftest { times: &[" time:", "pattern_seed="], ..selftest("mremap_test") },
    selftest("map_populate"),
];
/// Those that a version of Linux need not have: it came later.
const LATER: [&str; 1] = ["droppable"];

const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let trials = TESTS.map(|test| {
        Trial::ignorable_test(test.name, move || match kvm_unusable() {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => trial(&test),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn trial(test: &Selftest) -> Result<Completion, Failed> {
    let source = source()?;
    if !source.join(test.name).with_extension("c").exists() {
        if LATER.contains(&test.name) {
            return Ok(Completion::ignored_with("this version of Linux has none"));
        }
        return Err(format!("there is no {} in {}", test.name, source.display()).into());
    }
    let program = built(source, test)?;
    let native = run(&mut Command::new(&program), b"", LIMIT);
    let mut inside = Command::new(MMVISOR);
    let guest = run(inside.args(["run", "--machine=kvm"]).arg(&program), b"", LIMIT);
    let [native_says, guest_says] = [&native, &guest].map(|ran| verdicts(ran, test));
    let passed = (native.status, guest.status) == (Some(0), Some(0));
    if passed && guest_says == native_says {
        return Ok(Completion::Completed);
    }
    Err(format!("natively {native:?}\nin a guest {guest:?}").into())
}

/// What a test says, with all addresses alike.
fn verdicts(ran: &Ran, test: &Selftest) -> Vec<String> {
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let told = text.lines().filter(|line| !test.times.iter().any(|time| line.contains(time)));
    told.map(|line| {
        let mut parts = line.split("0x");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |line, part| {
            line + "ADDRESS" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit())
        })
    })
    .collect()
}

/// The directory of the tests, unpacked once for this build.
fn source() -> Result<&'static Path, Failed> {
    static SOURCE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    SOURCE.get_or_init(unpacked).as_deref().map_err(|why| why.as_str().into())
}

fn unpacked() -> Result<PathBuf, String> {
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kselftests");
    if let Some(found) = tests_in(&into) {
        return Ok(found);
    }
    let packages = fs::read_dir("/usr/src").map_err(|error| error.to_string())?;
    let is_source = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("linux-source-") && name.ends_with(".tar.xz")
    };
    let archive = packages.filter_map(Result::ok).map(|entry| entry.path()).filter(is_source).max();
    let archive = archive.ok_or("Debian's package linux-source is needed: make deps")?;
    // Whole, or not at all: another run may be cut off in the middle.
    let beside = into.with_extension(std::process::id().to_string());
    fs::create_dir_all(&beside).map_err(|error| error.to_string())?;
    let mut tar = Command::new("tar");
    tar.args(["--wildcards", "-xJf"]).arg(&archive).arg("-C").arg(&beside);
    // One of the first two is not there: that is an error to tar, at its end.
    for name in ["mm/*", "vm/*", "kselftest.h", "kselftest_harness.h"] {
        tar.arg(format!("*/tools/testing/selftests/{name}"));
    }
    run(&mut tar, b"", Duration::from_secs(300));
    let _ = fs::remove_dir_all(&into);
    fs::rename(&beside, &into).map_err(|error| error.to_string())?;
    tests_in(&into).ok_or_else(|| format!("there are no tests in {}", archive.display()))
}

fn tests_in(into: &Path) -> Option<PathBuf> {
    let directories = fs::read_dir(into).ok()?.filter_map(Result::ok);
    let tests = directories.map(|entry| entry.path().join("tools/testing/selftests"));
    tests.flat_map(|tests| [tests.join("mm"), tests.join("vm")]).find(|path| path.exists())
}

/// Builds a test.
fn built(source: &Path, test: &Selftest) -> Result<PathBuf, Failed> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kselftest-{}", test.name));
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-static", "-w", "-D__EXPORTED_HEADERS__", "-I.", "-o"]).arg(&program);
    compiler.arg(format!("{}.c", test.name)).args(test.also).current_dir(source);
    let ran = run(&mut compiler, b"", Duration::from_secs(60));
    if ran.status == Some(0) { Ok(program) } else { Err(ran.stderr.into()) }
}
