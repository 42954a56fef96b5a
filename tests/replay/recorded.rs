//! `mmvisor run --record`: what it writes replays without a mismatch.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{MMVISOR, Ran, c_program, kvm_unusable, payload, run};
use crate::{Counts, replay, scratch};

/// A program in a guest, perhaps in the nested machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Records a program; `options` come before it.
fn record(file: &Path, options: &[&str], program: &[&str]) -> Ran {
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--record"]).arg(file).args(options).args(program);
    run(command.env_remove("RUST_LOG"), b"", LIMIT)
}

/// A program's recording begins with its starting state, ends with its VMAs and its end, and replays with
/// every line equal, its addresses as they are or translated, in software or in a guest.
fn replays(name: &str, options: &[&str], program: &[&str], status: u8) -> Counts {
    let file = scratch(&format!("{name}.recording"));
    let ran = record(&file, options, program);
    assert_eq!(ran.status, Some(status), "{ran:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("@maps\n") && text.contains("\n@mmap_base 0x7ffff7fff000\n"),
        "{text}"
    );
    // Where there are several processes, it says whose end it is.
    let ends = ["+++ ", "--- ", "[pid     1] +++ "].map(|end| format!("\n@end\n{end}"));
    assert!(ends.iter().any(|end| text.contains(end)), "{text}");
    let file = file.to_str().unwrap();
    Counts::of_good(&replay(&["--relocate", file], b""));
    let counts = Counts::of_good(&replay(&[file], b""));
    if kvm_unusable().is_none() {
        assert_eq!(Counts::of_good(&replay(&["--in-guest", file], b"")), counts);
    }
    println!("{name}: {counts:?}");
    counts
}

#[test]
fn every_payload_replays() {
    for name in ["tour", "stress", "faults", "badptr", "hello"] {
        let counts = replays(name, &[], &[payload(name).to_str().unwrap()], 0);
        assert!(counts.checks >= 3, "{counts:?}");
    }
}

#[test]
fn processes_that_make_processes_replay() {
    let family = payload("family");
    for what in ["tree", "calls", "shared", "storm"] {
        let counts = replays(what, &[], &[family.to_str().unwrap(), what], 0);
        assert!(counts.checks >= 10, "{what}: {counts:?}");
    }
}

#[test]
fn a_program_that_nobody_here_wrote_replays() {
    let script = "BEGIN { for (i = 0; i < 20000; i++) a[i] = i; print length(a) }";
    let counts = replays("awk", &[], &["/bin/busybox", "awk", script], 0);
    assert!(counts.checks > 50, "{counts:?}");
}

#[test]
fn what_handlers_find_on_the_stack_makes_it_grow_in_a_replay_too() {
    let program = c_program("signals", "gcc", &["-static"]);
    let counts = replays("growing", &[], &[program.to_str().unwrap(), "growing"], 0);
    assert!(counts.checks > 100, "{counts:?}");
}

#[test]
fn a_program_that_dies_of_a_fault_replays_up_to_it() {
    let program = payload("exit");
    replays("killed", &[], &[program.to_str().unwrap(), "null"], 139);
}

#[test]
fn a_recording_from_the_nested_machine_is_in_the_hosts_file() {
    let program = payload("tour");
    replays("nested", &["--machine=nested", "--mem=64M"], &[program.to_str().unwrap()], 0);
}

#[test]
fn a_recording_that_cannot_be_written_and_one_beside_a_trace_are_refused() {
    let hello = payload("hello");
    let hello = hello.to_str().unwrap();
    let ran = record(Path::new("/no/such/directory/file"), &[], &[hello]);
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("/no/such/directory/file: cannot write the trace"), "{ran:?}");
    let ran = record(&scratch("unused"), &["--trace"], &[hello]);
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("--record") && ran.stderr.contains("--trace"), "{ran:?}");
}
