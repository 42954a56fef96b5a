//! `mmvisor run` in the nested machine, as its user sees it: the same output and status as under the
//! host's KVM, one line that says where, and refusals before anything is booted. A boot each, so there
//! are few.
//!
//! It needs what `mmvisor nested setup` fetches, and fails without it: nothing here is skipped.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{MMVISOR, Ran, kvm_unusable, payload, run};

/// A boot and a small program, on a host that does much else.
const LIMIT: Duration = Duration::from_secs(240);
/// What begins the line that says where the program runs.
const NOTICE: &str = "mmvisor: running in the nested machine";
/// A variable that names the KVM device, and one that is not there.
const NO_KVM: (&str, &str) = ("MMVISOR_KVM", "/nonexistent/kvm");

fn mmvisor(args: &[&str]) -> Command {
    let mut command = Command::new(MMVISOR);
    command.arg("run").args(args).env_remove("RUST_LOG");
    command
}

/// What the program's own diagnostics and mmvisor's are without the notice, which must be the first line.
fn without_notice(ran: &Ran, why: &str) -> String {
    let (notice, rest) = ran.stderr.split_once('\n').unwrap_or((&ran.stderr, ""));
    assert!(notice.starts_with(NOTICE) && notice.ends_with(why), "{ran:?}");
    assert!(!rest.contains(NOTICE), "{ran:?}");
    rest.to_owned()
}

/// A path for a file of this test.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-nested-{name}"))
}

#[test]
fn a_program_called_by_a_relative_path_sees_and_does_what_it_does_under_the_hosts_kvm() {
    let hello = payload("hello");
    let (directory, name) = (hello.parent().unwrap(), "./hello");
    let ran = |machine: &str| {
        let trace = scratch(&format!("trace-{machine}"));
        let options = [format!("--machine={machine}"), format!("--trace={}", trace.display())];
        let words = ["--mem=64M", "--maps", name, "", "--", "--maps"];
        let args: Vec<&str> = options.iter().map(String::as_str).chain(words).collect();
        let ran = run(mmvisor(&args).current_dir(directory), b"", LIMIT);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        (ran, fs::read_to_string(trace).unwrap())
    };
    let (nested, nested_trace) = ran("nested");
    let rest = without_notice(&nested, ": as asked");
    assert!(rest.contains(hello.to_str().unwrap()) && rest.contains("[stack]"), "{rest}");
    assert!(nested_trace.ends_with("+++ exited with 0 +++\n"), "{nested_trace}");
    assert_eq!(nested.stdout, b"hello from ring 3  -- --maps\n");
    if let Some(why) = kvm_unusable() {
        return println!("not compared with the host's KVM: {why}");
    }
    let (direct, direct_trace) = ran("kvm");
    assert_eq!(nested.stdout, direct.stdout);
    assert_eq!(nested_trace, direct_trace);
}

#[test]
fn standard_input_reaches_the_program_whole() {
    let input: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let natively = run(Command::new("/bin/busybox").arg("sha256sum"), &input, LIMIT);
    let nested =
        run(&mut mmvisor(&["--machine=nested", "/bin/busybox", "sha256sum"]), &input, LIMIT);
    assert_eq!((nested.status, &nested.stdout), (Some(0), &natively.stdout), "{nested:?}");
    assert_eq!(without_notice(&nested, ": as asked"), "");
}

#[test]
fn where_kvm_cannot_be_used_the_nested_machine_is_and_the_line_says_why() {
    let script = "BEGIN { print ENVIRON[\"A\"] > \"/dev/stderr\"; exit 7 }";
    let mut command = mmvisor(&["--env=A=b c", "/bin/busybox", "awk", script]);
    let ran = run(command.env(NO_KVM.0, NO_KVM.1), b"", LIMIT);
    assert_eq!(ran.status, Some(7), "{ran:?}");
    let why = format!(": cannot open {}: it does not exist", NO_KVM.1);
    assert_eq!(without_notice(&ran, &why), "b c\n");
}

#[test]
fn a_signals_line_calls_the_program_as_its_user_did() {
    let exit = payload("exit");
    let mut command = mmvisor(&["--machine=nested", "./exit", "zero"]);
    let ran = run(command.current_dir(exit.parent().unwrap()), b"", LIMIT);
    assert_eq!(ran.status, Some(139), "{ran:?}");
    let rest = without_notice(&ran, ": as asked");
    let line = rest.lines().find(|line| line.contains("SIGSEGV")).unwrap_or_default();
    assert!(line.starts_with("mmvisor: ./exit: killed by SIGSEGV"), "{rest}");
}

/// mmvisor refused: status 125, and standard error has all of `words`.
fn refused(command: &mut Command, words: &[&str]) -> String {
    let ran = run(command.env(NO_KVM.0, NO_KVM.1), b"", LIMIT);
    assert_eq!((ran.status, ran.stdout.len()), (Some(125), 0), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is not in {:?}", ran.stderr);
    }
    ran.stderr
}

#[test]
fn without_kvm_a_run_under_kvm_is_one_sentence() {
    let told = refused(&mut mmvisor(&["--machine=kvm", "/bin/busybox", "true"]), &[NO_KVM.1]);
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_device_that_is_no_kvm_is_told() {
    let mut command = mmvisor(&["--machine=kvm", "/bin/busybox", "true"]);
    let ran = run(command.env(NO_KVM.0, "/dev/null"), b"", LIMIT);
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert_eq!(ran.stderr, "mmvisor: /dev/null is not KVM\n");
}

#[test]
fn what_cannot_be_run_is_refused_before_a_machine_is_booted() {
    for (args, words) in [
        (&["/no/such/program"][..], &["/no/such/program", "no such file"][..]),
        (&["/bin/ls"], &["dynamic", "ld-linux"]),
        (&["/tmp"], &["/tmp", "directory"]),
        (&["--mem=1E", "/bin/busybox", "true"], &["--mem is", "this host has"]),
        (&["--trace=/no/such/directory/trace", "/bin/busybox"], &["/no/such/directory/trace"]),
    ] {
        for machine in ["--machine=nested", "--machine=auto"] {
            let told = refused(mmvisor(&[machine]).args(args), words);
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }
}

#[test]
fn without_kvm_and_without_what_the_nested_machine_is_made_of_both_are_told() {
    let mut command = mmvisor(&["/bin/busybox", "true"]);
    command.env("MMVISOR_CACHE", "/nonexistent/cache");
    refused(&mut command, &[NO_KVM.1, "nested setup"]);
}
