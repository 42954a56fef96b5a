//! C programs of ours, and the C example.

use std::path::{Path, PathBuf};

use mm::phys::FileAccess;

use super::COMPILERS;
use crate::case::{Case, Where};
use crate::common::{c_example, c_program, payload};

/// What `hugetlb.c` has printed on Linux 6.18 with a pool of eight pages.
const POOLED: &str = include_str!("../../programs/hugetlb.txt");
/// What Linux 6.18 answers to tests/programs/userfault.c: others lack some of it.
const USERFAULT: &str = include_str!("../../programs/userfault.txt");
/// The same of tests/programs/userfault_move.c.
const USERFAULT_MOVE: &str = include_str!("../../programs/userfault_move.txt");
/// What Linux 6.18 answers root in tests/programs/credentials.c.
const CREDENTIALS: &str = include_str!("../../programs/credentials.txt");
/// The same of tests/programs/permissions.c.
const PERMISSIONS: &str = include_str!("../../programs/permissions.txt");
/// What `room.c` finds.
const ROOM: &str = "programs: Cannot allocate memory after many\n\
                    directories: No space left on device after many, as many as before\n\
                    links: No space left on device after many, as many as before\n\
                    files: No space left on device after many, as many as before\n\
                    Too many open files in system after many\n";

/// A file for a case to write to.
fn written(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("written-{name}"));
    std::fs::write(&path, "some bytes").unwrap();
    path
}

/// A file of so many pages, each of which begins with its number and 1.
fn numbered(name: &str, pages: u32) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("numbered-{name}"));
    let page = |number: u32| {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    std::fs::write(&path, (1..=pages).flat_map(page).collect::<Vec<u8>>()).unwrap();
    path
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = alone();
    cases.extend(allocations());
    cases.extend(families());
    cases.extend(files());
    cases.extend(paths());
    cases.extend(userfaults());
    cases.extend(given_up());
    cases.extend(huge_pages());
    cases.extend(background());
    cases.extend(layouts());
    cases.extend(examples());
    cases
}

/// Those of which there is nothing to be said but what they are, and the same natively.
fn alone() -> Vec<Case> {
    let of_all: [(&str, &[&str], &[&str]); 8] = [
        ("memfd", &["-static"], &[]),
        ("pipes", &["-static"], &[]),
        ("futex", &["-static"], &[]),
        ("ready", &["-static", "-Wno-unused-result"], &[]),
        ("usage", &["-static", "-Wno-unused-result"], &[]),
        ("others", &["-static", "-Wno-unused-result"], &[]),
        ("groups", &["-static", "-Wno-unused-result"], &[]),
        ("exec", &["-static", "-Wno-stringop-overread"], &["caller"]),
    ];
    let mut cases = Vec::new();
    for (name, flags, arguments) in of_all {
        cases.extend(COMPILERS.map(|compiler| {
            let program = c_program(name, compiler, flags);
            Case::new(format!("{name}-{compiler}"), program, arguments).natively()
        }));
    }
    for (name, flags) in [
        ("peaks", ["-static"].as_slice()),
        ("sizes", &["-static", "-Wno-unused-result"]),
        ("queries", &["-static"]),
        ("forced", &["-static"]),
    ] {
        cases.push(Case::new(name, c_program(name, "gcc", flags), &[]).natively());
    }
    let wild = |name, calls| {
        Case::new(name, c_program("wild", "gcc", &["-static"]), &[calls, "7"])
            .option("--mem=64M")
            .prints("enough\n")
    };
    cases.push(wild("wild-100000", "100000").only(Where::Direct));
    cases.push(wild("wild-2000", "2000").only(Where::Nested));
    // As root; natively it need not be.
    let credentials = c_program("credentials", "gcc", &["-static"]);
    cases.push(Case::new("credentials", credentials, &[]).prints(CREDENTIALS));
    let permissions = c_program("permissions", "gcc", &["-static", "-Wno-unused-result"]);
    cases.push(Case::new("permissions", permissions, &[]).prints(PERMISSIONS));
    cases
}

/// Memory of a heap, in programs of each kind.
fn allocations() -> Vec<Case> {
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

/// Processes, and what they share.
fn families() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let family = |name: &str, args: &[&str]| {
            let program = c_program("family", compiler, &["-static"]);
            Case::new(format!("family-{name}-{compiler}"), program, args).natively()
        };
        // With memory that comes several pages at a time.
        let folios = family("folios", &["4", "300"]).option("--mthp=16k:always,64k:always");
        cases.push(folios.only(Where::Direct));
        cases.push(family("c-40", &["40"]).only(Where::Direct));
        cases.push(family("c-4", &["4"]).only(Where::Nested));
    }
    for compiler in COMPILERS {
        let program = c_program("scheduling", compiler, &["-static"]);
        cases.push(Case::new(format!("scheduling-{compiler}"), program, &[]).natively());
    }
    for compiler in COMPILERS {
        let program = c_program("segments", compiler, &["-static"]);
        cases.push(Case::new(format!("segments-{compiler}"), program.clone(), &[]).natively());
        let most = Case::new(format!("segments-most-{compiler}"), program, &["most"]);
        cases.push(most.option("--mem=64M").prints("errno 28\nmade 4096\n").only(Where::Direct));
    }
    cases
}

/// Files that are given as descriptors.
fn files() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let files =
            Case::new(format!("files-{compiler}"), c_program("files", compiler, &["-static"]), &[]);
        cases.push(
            files
                .natively()
                .given(&written(compiler), FileAccess::ReadWrite)
                .given(&payload("hello"), FileAccess::Read),
        );
    }
    // A file that the host may have in large pieces, as it is written in one.
    let pieces = Case::new("pieces", c_program("pieces", "gcc", &["-static"]), &[]).natively();
    cases.push(pieces.given(&numbered("pieces", 2048), FileAccess::Read));
    // More of a file than there is memory to show it in.
    for (step, place) in [("1", Where::Direct), ("64", Where::Nested)] {
        let program = c_program("windows", "gcc", &["-static"]);
        let case = Case::new(format!("windows-{step}"), program, &["40", step]).natively();
        cases.push(
            case.given(&written(&format!("windows-{step}")), FileAccess::ReadWrite)
                .option("--mem=24M")
                .option("--stats")
                .says(" of files\n")
                .only(place),
        );
    }
    cases
}

/// What is at which path, in memory and in a directory of the host.
fn paths() -> Vec<Case> {
    let mut cases = Vec::new();
    let host = format!("--dir={}:/tmp", std::env::temp_dir().display());
    let table = |name| Case::new(name, c_program("table", "musl-gcc", &["-static"]), &["/tmp"]);
    cases.push(table("table").natively());
    cases.push(table("table-granted").natively().option(&host).only(Where::Direct));
    let paths = |name| Case::new(name, c_program("paths", "gcc", &["-static"]), &["/tmp"]);
    cases.push(paths("paths").natively());
    cases.push(paths("paths-granted").natively().option(&host).only(Where::Direct));
    let appends = |name, words: &[&str]| {
        Case::new(name, c_program("appends", "gcc", &["-static", "-Wno-unused-result"]), words)
    };
    cases.push(appends("appends", &["/tmp"]).natively());
    let granted = appends("appends-granted", &["files", "/tmp"]).natively();
    cases.push(granted.option(&host).only(Where::Direct));
    let room = Case::new("room", c_program("room", "gcc", &["-static"]), &[]);
    cases.push(room.prints(ROOM).only(Where::Direct));
    cases
}

/// Faults that another process, or the program itself, serves.
fn userfaults() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let program = |name| c_program(name, compiler, &["-static", "-Wno-stringop-overflow"]);
        let (calls, pager) = (program("userfault"), program("userfault_pager"));
        cases.push(Case::new(format!("userfault-{compiler}"), calls, &[]).prints(USERFAULT));
        let moves = Case::new(format!("userfault-move-{compiler}"), program("userfault_move"), &[]);
        cases.push(moves.prints(USERFAULT_MOVE));
        cases.push(Case::new(format!("userfault-pager-{compiler}"), pager, &[]).natively());
    }
    cases
}

/// What is given up when memory runs out.
fn given_up() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let program = c_program("lazy", compiler, &["-static"]);
        let case = Case::new(format!("lazy-{compiler}"), program, &[]).natively();
        cases.push(
            case.option("--mem=16M").option("--stats").says("given up   for want of memory: "),
        );
    }
    cases
}

/// Huge pages, of all memory and of the pool.
fn huge_pages() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let program = c_program("huge", compiler, &["-static"]);
        let case = |name: &str, arguments| {
            Case::new(format!("huge-{name}-{compiler}"), program.clone(), arguments)
        };
        let often = case("pages", &["20"]).prints("20 rounds\n").option("--mem=128M");
        let always = case("always", &["5"]).prints("5 rounds\n").option("--thp=always");
        let small = case("promoted", &["2", "small"]).prints("2 rounds\n").option("--mem=256M");
        let once = case("once", &["1"]).prints("1 rounds\n").option("--mem=64M");
        let once_small =
            case("promoted-once", &["1", "small"]).prints("1 rounds\n").option("--mem=256M");
        cases.extend([often, always, small].map(|case| case.only(Where::Direct)));
        cases.extend([once, once_small].map(|case| case.only(Where::Nested)));
    }
    for compiler in COMPILERS {
        let program = c_program("hugetlb", compiler, &["-static"]);
        let case = |rounds: &'static str, printed| {
            Case::new(format!("hugetlb-{rounds}-{compiler}"), program.clone(), &[rounds])
                .option("--hugetlb=2M:8")
                .option("--mem=64M")
                .prints(POOLED)
                .prints(printed)
        };
        cases.push(case("20", "\n20 rounds\n").only(Where::Direct));
        cases.push(case("2", "\n2 rounds\n").only(Where::Nested));
    }
    cases
}

/// What is done in the background.
fn background() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let program = c_program("khugepaged", compiler, &["-static"]);
        let case = |name: &str, rounds: &str| {
            let case = Case::new(format!("{name}-{compiler}"), program.clone(), &[rounds]);
            let case = case.prints(" rounds\n").option("--khugepaged=1");
            case.option("--mem=64M").option("--stats").says("\nkhugepaged ")
        };
        cases.push(case("khugepaged", "20").only(Where::Direct));
        cases.push(case("khugepaged-once", "2").only(Where::Nested));
    }
    for compiler in COMPILERS {
        let program = c_program("equal", compiler, &["-static"]);
        let equal = Case::new(format!("equal-{compiler}"), program, &["4", "64", "40"]);
        let equal = equal.option("--ksm=1").option("--mem=64M").option("--stats");
        cases.push(equal.prints("4 processes\n").says("\nksm "));
    }
    cases
}

/// Where its stack, its heap and itself are.
fn layouts() -> Vec<Case> {
    let mut cases = Vec::new();
    let pie = || Case::new("", c_program("alloc", "gcc", &["-static-pie"]), &["40"]).natively();
    cases.push(
        Case { name: "aslr-seed".to_owned(), ..pie() }
            .option("--aslr=7")
            .option("--maps")
            .says("7fffeeccf000-")
            .says("555577f21000-")
            .says("-7f98338e2000 "),
    );
    cases.push(Case { name: "aslr".to_owned(), ..pie() }.option("--aslr"));
    cases.push(
        Case { name: "compat-layout".to_owned(), ..pie() }
            .option("--compat-layout")
            .option("--maps")
            .says("2aaaaaaab000-"),
    );
    cases
}

/// The C example, built as its own first lines say.
fn examples() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, flags) in
        [("example-bare", ["-static", "-nostdlib"].as_slice()), ("example-libc", &["-static"])]
    {
        let example = Case::new(name, c_example(flags), &[]);
        cases.push(example.prints("read-only: signal 11, si_code 2\n").prints("[stack]\n"));
    }
    cases
}
