//! The examples of pagers, run as a reader would, and what they print.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use common::{MMVISOR, Ran, kvm_unusable, payload, run};
use vmm::kvm::Kind;

const LIMIT: Duration = Duration::from_secs(120);

/// An example, built once with the others.
fn example(name: &str) -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let profile = Path::new(MMVISOR).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "mmvisor", "--examples"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile.parent().unwrap());
        assert!(build.status().unwrap().success(), "the examples do not build");
        profile.join("examples")
    });
    let mut command = Command::new(directory.join(name));
    command.env_remove("RUST_LOG");
    command
}

/// Runs a command if there is a KVM to run it on.
fn on_kvm(command: &mut Command) -> Option<Ran> {
    if let Some(why) = kvm_unusable() {
        eprintln!("skipped: {why}");
        return None;
    }
    let ran = run(command, b"", LIMIT);
    assert!(!ran.panicked() && !ran.left_behind, "{ran:?}");
    Some(ran)
}

fn text(ran: &Ran) -> String {
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// The numbers in a line that has all of these words.
fn numbers(text: &str, words: &str) -> Vec<u64> {
    let line = text.lines().find(|line| line.contains(words));
    let line = line.unwrap_or_else(|| panic!("{words:?} is not in {text:?}"));
    let digits = line.split(|c: char| !c.is_ascii_alphanumeric());
    digits.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn a_program_out_of_a_compressed_file_does_what_it_does_out_of_its_own() {
    for (name, arguments) in [("faults", [].as_slice()), ("stress", ["1", "400"].as_slice())] {
        let program = payload(name);
        let mut command = example("compressed");
        let Some(ran) = on_kvm(command.arg(&program).args(arguments)) else { return };
        let mut plainly = Command::new(MMVISOR);
        let plain = run(plainly.arg("run").arg(&program).args(arguments), b"", LIMIT);
        assert_eq!((ran.status, text(&ran)), (plain.status, text(&plain)), "{}", ran.stderr);
        let path = program.display().to_string();
        let said = ran.stderr.replace(&path, "PROGRAM");
        let [pages, packed, whole, filled] = numbers(&said, "decompressed")[..] else {
            panic!("{said}")
        };
        assert!(packed < whole && whole == program.metadata().unwrap().len(), "{said}");
        assert!(0 < filled && filled <= pages, "{said}");
    }
}

#[test]
fn more_memory_than_there_is_comes_back_as_its_checksums_say() {
    let Some(ran) = on_kvm(example("checksums").arg(payload("ledger"))) else { return };
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let said = text(&ran);
    assert!(said.contains("4096 pages, 3 rounds: all is there\n"), "{ran:?}");
    // All pages are gone at least once a round, and each that is touched again has been compared.
    let [evictions, compared, left] = numbers(&said, "evictions,")[..] else { panic!("{said}") };
    assert!(evictions > 3 * 4096 - 2048 && compared > 2 * 4096 - 2048 && left < 2048, "{said}");
}

#[test]
fn a_page_that_was_damaged_outside_is_sigbus() {
    let Some(ran) = on_kvm(example("checksums").arg(payload("ledger")).arg("100")) else { return };
    assert_eq!(ran.status, Some(128 + 7), "{ran:?}");
    assert!(text(&ran).contains("eviction 100: damaged the page at "), "{ran:?}");
    assert!(ran.stderr.contains("SIGBUS") && ran.stderr.contains("BUS_ADRERR"), "{ran:?}");
    assert!(ran.stderr.contains("has been damaged"), "{ran:?}");
}

/// Where what leaves memory is not flushed, what is written after that is lost.
#[test]
fn without_flushes_what_was_written_is_lost() {
    if !matches!(Kind::detect(), Kind::Soft | Kind::Shadow) {
        eprintln!("skipped: the processor need not have kept what is not flushed");
        return;
    }
    let mut command = example("checksums");
    command.arg(payload("ledger")).env("MMVISOR_TEST_FLUSH", "none");
    let Some(ran) = on_kvm(&mut command) else { return };
    assert_ne!(ran.status, Some(0), "{ran:?}");
}
