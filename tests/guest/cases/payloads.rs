//! Payloads: one alone, in several processes, on several vCPUs, with more data than memory.

use std::time::Duration;

use super::write_protected;
use crate::case::{Case, Expect, Where};
use crate::common::payload;

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = alone();
    cases.extend(processes());
    cases.extend(races());
    cases.extend(swapped());
    cases
}

fn alone() -> Vec<Case> {
    let mut cases = vec![
        Case::new("hello", payload("hello"), &["some", "arguments"]).natively(),
        Case::new("tour", payload("tour"), &[]),
        Case::new("faults", payload("faults"), &[]),
        Case::new("calls", payload("calls"), &[]),
        Case::new("calls-traced", payload("calls"), &[])
            .option("--trace")
            .says("mremap(0x100000000000, 8192, 4096, 0) = 0x100000000000")
            .says("madvise(0x100000001000, 8192, MADV_GUARD_INSTALL) = 0")
            .says(", 2, MADV_RANDOM, 0) = 4096")
            .says("mseal(0x100000200000, 8192, 0) = 0")
            .says("= -1 EPERM (Operation not permitted)")
            .says("mbind(0x100000000000, 4096, MPOL_BIND, [0x00000000000001], 64, 0) = 0")
            .says("prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) = 0")
            .says("prlimit64(0, RLIMIT_AS, NULL, {rlim_cur=RLIM64_INFINITY, ")
            .says("@touch 0x100000001000 r = SEGV_MAPERR"),
        Case::new("forger", payload("forger"), &["all"]),
    ];
    for seed in 1..=8 {
        let seed = seed.to_string();
        cases.push(Case::new(format!("stress-{seed}"), payload("stress"), &[&seed, "400"]));
    }
    cases
}

/// Processes that make processes. Under the host's KVM as many as there can be, elsewhere a few.
fn processes() -> Vec<Case> {
    let family = |name: &str, args: &[&str]| {
        Case::new(format!("family-{name}"), payload("family"), args).natively()
    };
    // Tenths of 64 MiB.
    let tree = |count, pages| family(&format!("tree-{count}"), &["tree", count, pages]);
    let long = Duration::from_secs(300);
    let in_guest = Expect::Status(0);
    vec![
        Case { limit: long, ..tree("500", "16384").only(Where::Direct) },
        tree("20", "160").only(Where::Nested),
        write_protected(tree("20", "160")),
        family("calls", &["calls"]),
        family("shared", &["shared"]),
        family("storm", &["storm", "10", "1"]).only(Where::Direct),
        family("storm-2", &["storm", "2", "1"]).only(Where::Nested),
        // Natively its children would stay.
        family("outlive", &["outlive"]).expect(in_guest.clone()),
        // The host allows more processes than KVM does vCPUs.
        Case { limit: long, ..family("until-refused", &["until-refused"]).only(Where::Direct) }
            .expect(in_guest)
            .prints("family: done"),
        family("calls-traced", &["calls"])
            .option("--trace")
            .option("--trace-page=7fffffffecd8")
            .says("fork() = 2\n# page 0x7fffffffe000 of 1: r-- ")
            .says("# page 0x7fffffffe000 of 2: rw- AD own, frame 0x")
            .says(", named by 2\n")
            .says("[pid     2] exit_group(1) = ?\n[pid     2] +++ exited with 1 +++\n")
            .says("[pid     1] wait4(2, [{WIFEXITED(s) && WEXITSTATUS(s) == 1}], 0, NULL) = 2\n")
            .says("{WIFSIGNALED(s) && WTERMSIG(s) == SIGSEGV}], 0, NULL)")
            .says("WNOHANG, NULL) = 0\n")
            .says("clone(child_stack=NULL, flags=CLONE_SIGHAND|SIGCHLD) = -1 EINVAL (Invalid argument)\n")
            .says("+++ killed by SIGTERM +++"),
        family("stats", &["tree", "20", "160"])
            .option("--stats")
            .says("processes  21\n")
            .says("\na MiB      "),
    ]
}

/// One vCPU writes what another one takes away from it, so many times each change; `make race` does it thousands of times.
fn races() -> Vec<Case> {
    let race = |name: &str, args: &[&str]| {
        let case = Case::new(format!("race-{name}"), payload("race"), args).natively();
        Case { limit: Duration::from_secs(600), ..case }
    };
    // The page goes from node to node.
    let moves = |name: &str, args: &[&str]| {
        Case::new(format!("race-moves-{name}"), payload("race"), args).option("--nodes=2")
    };
    // It is in a huge page, which comes and goes, also by another thread.
    let huge = |what: &str, rounds: &str, seed: &str| {
        race(&format!("{what}-{rounds}"), &[rounds, seed, "private", what])
            .option("--mem=64M")
            .option("--khugepaged=1")
    };
    // It leaves memory.
    let leaves = |what: &str, rounds: &str, seed: &str, kind: &str| {
        race(&format!("{what}-{kind}-{rounds}"), &[rounds, seed, kind, what])
            .option("--mem=8M")
            .option("--swap=64M")
    };
    let mut cases = vec![
        race("private", &["700", "1", "private"]).only(Where::Direct),
        race("shared", &["700", "2", "shared"]).only(Where::Direct),
        write_protected(race("private-300", &["300", "5", "private"]).only(Where::Direct)),
        race("private-15", &["15", "3", "private"]).only(Where::Nested),
        race("shared-15", &["15", "4", "shared"]).only(Where::Nested),
        moves("private", &["700", "6", "private", "moves"]).only(Where::Direct),
        moves("shared", &["500", "7", "shared", "moves"]).only(Where::Direct),
        moves("private-30", &["30", "8", "private", "moves"]).only(Where::Nested),
        moves("shared-30", &["30", "9", "shared", "moves"]).only(Where::Nested),
        huge("split", "150", "10").option("--swap=64M").only(Where::Direct),
        huge("split", "10", "11").option("--swap=64M").only(Where::Nested),
        huge("collapse", "200", "12").only(Where::Direct),
        huge("collapse", "20", "13").only(Where::Nested),
    ];
    let kinds = [("private", "200", "14"), ("shared", "150", "15"), ("memfd", "150", "16")];
    for (kind, rounds, seed) in kinds {
        cases.extend([
            leaves("pageout", rounds, seed, kind).only(Where::Direct),
            leaves("pageout", "10", seed, kind).only(Where::Nested),
            leaves("pressure", "60", seed, kind).only(Where::Direct),
            leaves("pressure", "6", seed, kind).only(Where::Nested),
        ]);
    }
    cases
}

/// Twice as much live data as memory, four processes forked over it; each finds what is its own.
fn swapped() -> Vec<Case> {
    let swap_of = |name: &str, memory: &str, arguments: &[&str]| {
        Case::new(format!("swap-{name}"), payload("swap"), arguments)
            .option(memory)
            .option("--swap=256M")
            .option("--stats")
            .says(" swapped out, ")
    };
    let swap = |name, memory, data| swap_of(name, memory, &[data, "4"]);
    let shared = |name, memory, data| swap_of(name, memory, &[data, "4", "shared"]);
    let direct = swap("32m", "--mem=32M", "64").only(Where::Direct);
    vec![
        write_protected(direct.clone()),
        direct.prints("4 processes over 64 MiB: e9a4a0179dcf5e47\n"),
        swap("6m", "--mem=6M", "12").only(Where::Nested).prints("4 processes over 12 MiB: "),
        write_protected(shared("shared-32m", "--mem=32M", "64").only(Where::Direct)),
        shared("shared", "--mem=8M", "16").prints("over 16 MiB: "),
        // What is not in use goes there also if nothing is forked.
        swap("alone", "--mem=8M", "16").prints("over 16 MiB: "),
        // Without it the program is killed.
        Case::new("swap-none", payload("swap"), &["16", "1"])
            .option("--mem=8M")
            .expect(Expect::Status(137)),
        Case::new("swap-too-small", payload("swap"), &["32", "1"])
            .option("--mem=8M")
            .option("--swap=8M")
            .expect(Expect::Status(137)),
    ]
}
