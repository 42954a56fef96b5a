//! Two NUMA nodes: the same program natively under a kernel that has them, in a nested machine, and in a guest of ours.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{MMVISOR, c_program, run};
use vmm::nested::{Job, Kind, Machine, Outcome};

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
    ours.args(["run", "--nodes=2", "--mem=64M"]).arg(&program);
    let ours = run(&mut ours, b"", LIMIT);
    assert_eq!(ours.status, Some(0), "{ours:?}");
    let ours = String::from_utf8(ours.stdout).unwrap();
    let pairs = native.lines().zip(ours.lines());
    let differ: Vec<_> = pairs.filter(|(native, ours)| native != ours).collect();
    assert_eq!(differ, [], "Linux, ours");
    assert_eq!(native, ours);
}
