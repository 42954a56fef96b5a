//! The nested machine itself: that it comes up with the KVM that was asked for, that streams and
//! statuses pass unharmed, that what goes wrong is told. One boot a kind.
//!
//! It needs what `mmvisor nested setup` fetches, and fails without it: nothing here is skipped.

// allow-unwrap-in-tests does not reach the functions that the tests share.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm::nested::{Assets, Job, JobResult, Kind, Machine, NestedError, Outcome};

const BUSYBOX: &str = "/bin/busybox";
/// For a boot and its jobs, on a host that does much else.
const LIMIT: Duration = Duration::from_secs(240);

fn machine(kind: Kind) -> Machine {
    Machine::new(kind)
        .executable(Path::new(env!("CARGO_BIN_EXE_mmvisor")))
        .program(Path::new(BUSYBOX))
        .time_limit(LIMIT)
}

fn shell(script: &str) -> Job {
    Job::new([BUSYBOX, "sh", "-c", script]).time_limit(Duration::from_secs(60))
}

/// Bytes of every value, no two neighbouring blocks alike.
fn bytes(length: u32) -> Vec<u8> {
    let word = |i: u32| i.wrapping_mul(2_654_435_761).rotate_left(i % 31).to_le_bytes();
    (0..length / 4).flat_map(word).collect()
}

/// A file with these bytes and no name.
fn file(bytes: &[u8]) -> File {
    let path =
        std::env::temp_dir().join(format!("mmvisor-nested-boot-{:?}", std::thread::current().id()));
    let mut file = File::create_new(&path).unwrap();
    file.write_all(bytes).unwrap();
    drop(file);
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

fn boots_and_carries_streams(kind: Kind, npt: &str) {
    let (large, small) = (bytes(8 << 20), bytes(1 << 10));
    let cat = || Job::new([BUSYBOX, "cat"]);
    let jobs = vec![
        shell("cat /sys/module/kvm_amd/parameters/npt; test -c /dev/kvm"),
        cat().stdin(file(&large)),
        // Does not read its input: what is left of it must not reach the next job.
        shell("exit 125").stdin(large.clone()),
        cat().stdin(small.clone()),
        shell("echo out; echo err >&2; kill -SEGV $$"),
        Job::new(["/no/such/program"]),
        // Past its limit, and with a child that keeps its streams open.
        shell("busybox sleep 1000 & busybox sleep 1000")
            .env("PATH", "/bin")
            .time_limit(Duration::from_millis(300)),
        shell("busybox sleep 1000 & echo $A$B").env("A", "a b").env("PATH", "/bin"),
        Job::new([BUSYBOX, "sha256sum"]).stdin(file(b"")),
        Job::new(["/init", "nested", "run", "--help"]),
    ];
    let results = machine(kind).run_jobs(jobs).unwrap();
    let outcomes: Vec<_> = results.iter().map(|result| result.outcome.clone()).collect();
    let JobResult { stdout, .. } = &results[0];
    assert_eq!(String::from_utf8_lossy(stdout).trim(), npt);
    assert!(
        results[1].stdout == large,
        "{} bytes came back of {}",
        results[1].stdout.len(),
        large.len()
    );
    assert!(results[3].stdout == small);
    assert_eq!(
        (results[4].stdout.as_slice(), results[4].stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert!(
        matches!(&outcomes[5], Outcome::NotStarted(why) if why.contains("/no/such/program")),
        "{outcomes:?}"
    );
    assert_eq!(results[7].stdout, b"a b\n");
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -\n";
    assert_eq!(String::from_utf8_lossy(&results[8].stdout), of_nothing);
    assert!(String::from_utf8_lossy(&results[9].stdout).contains("--kvm"), "{:?}", results[9]);
    let zero = Outcome::Exited(0);
    let expected = [
        (0, zero.clone()),
        (1, zero.clone()),
        (2, Outcome::Exited(125)),
        (3, zero.clone()),
        (4, Outcome::Killed(11)),
        (6, Outcome::TimedOut),
        (7, zero.clone()),
        (8, zero.clone()),
        (9, zero),
    ];
    for (index, outcome) in expected {
        assert_eq!(outcomes[index], outcome, "job {index}: {:?}", results[index].stderr);
    }
}

#[test]
fn the_machine_with_nested_paging_runs_jobs_and_carries_their_streams() {
    boots_and_carries_streams(Kind::Npt, "Y");
}

#[test]
fn the_machine_with_shadow_paging_runs_jobs_and_carries_their_streams() {
    boots_and_carries_streams(Kind::Shadow, "N");
}

#[test]
fn a_kernel_panic_is_told_with_its_reason() {
    let panic =
        machine(Kind::Npt).run_jobs(vec![shell("echo c > /proc/sysrq-trigger")]).unwrap_err();
    assert!(
        matches!(&panic, NestedError::KernelPanic { log } if log.contains("sysrq triggered")),
        "{panic}"
    );
}

#[test]
fn a_machine_past_its_limit_is_stopped_even_if_it_never_stops_talking() {
    let limit = Duration::from_secs(20);
    let talker = Job::new([BUSYBOX, "yes"]);
    let mut sink = std::io::sink();
    let mut errors = std::io::sink();
    let streams =
        vmm::nested::Streams { stdout: &mut sink, stderr: &mut errors, side: &mut std::io::sink() };
    let stopped = machine(Kind::Npt).time_limit(limit).run(talker, streams).unwrap_err();
    assert!(
        matches!(stopped, NestedError::Timeout(_) | NestedError::BootTimeout { .. }),
        "{stopped}"
    );
}

/// What can be told without a boot.
fn refused(machine: &Machine) -> NestedError {
    machine.run_jobs(vec![shell("true")]).unwrap_err()
}

#[test]
fn a_qemu_that_ends_at_once_is_told_with_its_message() {
    let script = std::env::temp_dir().join(format!("mmvisor-false-qemu-{}", std::process::id()));
    std::fs::write(&script, "#!/bin/sh\necho no such accelerator >&2\nexit 3\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).unwrap();
    let assets = Assets { qemu: script.clone(), ..Assets::find().unwrap() };
    let error = refused(&machine(Kind::Npt).assets(assets)).to_string();
    std::fs::remove_file(script).unwrap();
    assert!(error.contains("exit status 3") && error.contains("no such accelerator"), "{error}");
}

#[test]
fn a_kernel_or_a_program_that_is_not_there_is_told_by_name() {
    let assets = Assets { kernel: PathBuf::from("/no/kernel"), ..Assets::find().unwrap() };
    let error = refused(&machine(Kind::Npt).assets(assets)).to_string();
    assert!(error.contains("/no/kernel"), "{error}");
    let error = refused(&machine(Kind::Npt).program(Path::new("/no/program"))).to_string();
    assert!(error.contains("/no/program"), "{error}");
}

#[test]
fn memory_that_cannot_hold_the_files_is_refused_with_what_is_needed() {
    let error = refused(&machine(Kind::Npt).memory_mib(64));
    assert!(
        matches!(error, NestedError::TooLittleMemory { memory_mib: 64, needed_mib: 192.. }),
        "{error}"
    );
}
