//! What must fail when nothing is flushed: this proves that the other tests would notice.

use crate::case::{Case, Expect};
use crate::common::{c_program, payload};

/// In which order tests/programs/userfault_pager.c is told of the pages that it writes.
const WRITTEN: &str = "\ndirty: 0 8 21 0 0 0 0 29 0 0 22 1 0 14 26 4 0 12 13 0 20 23 16 9 25 0 0 17 0 0 24 0 0 0 0 0 0 27 0 0 \
                       18 15 5 0 0 3 0 0 7 0 0 0 30 0 0 11 10 2 6 28 0 19 0 0\n";

/// The race, with this done besides.
fn race(what: &str, kind: &str, options: &[&str]) -> Case {
    let name = format!("race-{what}-{kind}-without-flush");
    let case = Case::new(name, payload("race"), &["100", "1", kind, what]).without_flush();
    options.iter().fold(case, |case, option| case.option(option))
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    vec![
        Case::new("faults-without-flush", payload("faults"), &[]).without_flush(),
        Case::new("calls-without-flush", payload("calls"), &[]).without_flush(),
        Case::new("stress-without-flush", payload("stress"), &["1", "400"]).without_flush(),
        Case::new("hugetlb-without-flush", c_program("hugetlb", "gcc", &["-static"]), &["2"])
            .option("--hugetlb=2M:8")
            .without_flush()
            .expect(Expect::NoSuccess("\n2 rounds\n")),
        Case::new(
            "userfault-without-flush",
            c_program("userfault_pager", "gcc", &["-static"]),
            &[],
        )
        .without_flush()
        .expect(Expect::NoSuccess(WRITTEN)),
        Case::new("race-without-flush", payload("race"), &["10", "1"]).without_flush(),
        Case::new("race-moves-without-flush", payload("race"), &["100", "1", "private", "moves"])
            .option("--nodes=2")
            .without_flush(),
        race("split", "private", &["--mem=64M"]),
        race("collapse", "private", &["--mem=64M"]),
        race("pageout", "private", &["--mem=8M", "--swap=64M"]),
        race("pageout", "memfd", &["--mem=8M", "--swap=64M"]),
        race("pressure", "shared", &["--mem=8M", "--swap=64M"]),
        Case::command("doctor-without-flush", &["doctor", "--json"])
            .without_flush()
            .expect(Expect::FailsProbes(&PROBES_OF_FLUSHING)),
    ]
}

/// Doctor's probes of flushing, by name and in its order: of leaf entries, of leaf entries that other
/// vCPUs are using, of tables, and of what the dummy slot relies on.
const PROBES_OF_FLUSHING: [&str; 8] = [
    "revoked, notifier",
    "revoked, dummy slot",
    "second vCPU, notifier",
    "second vCPU, dummy",
    "write protection",
    "second vCPU, protection",
    "reused table",
    "slot deletion",
];
