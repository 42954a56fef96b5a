//! Two NUMA nodes: the same program natively under a kernel that has them, in a nested machine, and in a guest of ours;
//! and where a host with two has the memory of a guest with three.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{MMVISOR, c_program, run};
use vmm::nested::{GUEST_EXECUTABLE, Job, Kind, Machine, Outcome};

const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn pages_are_on_the_nodes_on_which_linux_has_them() {
    let program = c_program("numa", "musl-gcc", &["-static"]);
    let machine = Machine::new(Kind::Npt).executable(Path::new(MMVISOR)).nodes(2).program(&program);
    let job = || Job::new([program.as_os_str()]).time_limit(LIMIT);
    let native = machine.time_limit(LIMIT).run_jobs(vec![job()]).unwrap().remove(0);
    assert_eq!(native.outcome, Outcome::Exited(0));
    let native = String::from_utf8(native.stdout).unwrap();

    let mut ours = Command::new(MMVISOR);
    ours.args(["run", "--nodes=2", "--mem=64M", "--numa-maps"]).arg(&program);
    let ours = run(&mut ours, b"", LIMIT);
    assert_eq!(ours.status, Some(0), "{ours:?}");
    // What it did last.
    let last = ours.stderr.lines().find(|line| line.starts_with("10000000000 "));
    let told = ["interleave:0-1 file=/dev/zero", " N0=8 ", " N1=8 "];
    let last = last.unwrap_or_else(|| panic!("{}", ours.stderr));
    assert!(told.iter().all(|told| last.contains(told)), "{last}");
    let ours = String::from_utf8(ours.stdout).unwrap();
    let pairs = native.lines().zip(ours.lines());
    let differ: Vec<_> = pairs.filter(|(native, ours)| native != ours).collect();
    assert_eq!(differ, [], "Linux, ours");
    assert_eq!(native, ours);
}

#[test]
fn the_memory_of_each_node_of_a_guest_is_on_one_of_the_hosts_in_turn() {
    const MIB: u64 = 1024;
    let program = c_program("bound", "musl-gcc", &["-static"]);
    let machine = Machine::new(Kind::Npt).executable(Path::new(MMVISOR)).nodes(2).program(&program);
    let path = program.as_os_str();
    let run = [GUEST_EXECUTABLE, "run", "--machine=kvm", "--nodes=3", "--mem=96M"];
    let job = Job::new([path].into_iter().chain(run.map(AsRef::as_ref)).chain([path]));
    let job = job.time_limit(LIMIT);
    let result = machine.time_limit(LIMIT).run_jobs(vec![job]).unwrap().remove(0);
    let told = String::from_utf8(result.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&result.stderr);
    let row = |policy: &str| -> Vec<u64> {
        let row = told.lines().find_map(|line| line.strip_prefix(policy));
        let row = row.unwrap_or_else(|| panic!("no {policy} in {told}, {stderr}"));
        row.split_whitespace().map(|kib| kib.parse().unwrap()).collect()
    };
    // 4, 8 and 16 MiB on three nodes, rounded up to blocks of 2; and the first has a little of the machine's own.
    let [on_0, none] = row("prefer:0")[..] else { panic!("{told}") };
    assert!((20 * MIB..28 * MIB).contains(&on_0) && none == 0, "{told}");
    let [none, on_1] = row("prefer:1")[..] else { panic!("{told}") };
    assert!((8 * MIB..12 * MIB).contains(&on_1) && none == 0, "{told}");
    assert!(told.ends_with("how: 0\n") && result.outcome == Outcome::Exited(0), "{told}, {stderr}");
}
