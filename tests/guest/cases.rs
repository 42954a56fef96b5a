//! The cases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mm::phys::FileAccess;
use vmm::kvm::FlushPolicy;

use crate::case::{Case, Expect, Where};
use crate::common::{Then, c_example, c_program, payload};

/// awk's array script, with `n` elements.
fn awk(n: u32) -> String {
    format!(
        "BEGIN {{ for (i = 0; i < {n}; i++) a[i] = i * 7 % 1000; \
         s = 0; for (k in a) s += a[k]; print s, length(a) }}"
    )
}

/// Lines of text that are the same every time.
fn lines(n: u32) -> Vec<u8> {
    let mut state = 12345u32;
    let mut text = Vec::new();
    for _ in 0..n {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{:08x} {}\n", state, state >> 20).as_bytes());
    }
    text
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = payloads();
    cases.extend(ends());
    cases.extend(processes());
    cases.extend(races());
    cases.extend(swapped());
    cases.extend(bad_input());
    cases.extend(others_programs());
    cases.extend(c_programs());
    cases.extend(signals());
    cases.push(Case::command("doctor", &["doctor"]));
    cases.extend(without_flush());
    cases
}

fn payloads() -> Vec<Case> {
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

/// With the flush that a fork of few pages would not choose.
fn write_protected(case: Case) -> Case {
    let name = format!("{}-by-write-protection", case.name);
    Case { name, ..case.flushing(FlushPolicy::WriteProtection) }
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

/// Each way a program ends, and what is said of it.
fn ends() -> Vec<Case> {
    let exit = |way: &str| Case::new(format!("exit-{way}"), payload("exit"), &[way]).natively();
    vec![
        exit("0"),
        exit("7"),
        exit("255"),
        // What the payload says, and mmvisor adds nothing to.
        exit("256").says("a status is from 0 to 255"),
        exit("panic").says("as told"),
        exit("trap").says("killed by SIGILL (ILL_ILLOPN) at address 0x"),
        exit("null")
            .says("killed by SIGSEGV (SEGV_MAPERR) at address 0x0, rip 0x")
            .says("; the nearest is 0"),
        exit("zero")
            .says("killed by SIGSEGV (SEGV_MAPERR) at address 0x0, rip 0x0; the nearest is 0"),
    ]
}

/// What a program, or who runs it, asks for and cannot have.
fn bad_input() -> Vec<Case> {
    let badptr = || payload("badptr");
    // As long as Linux lets one be, nearly; together nearly as many as it lets be passed.
    let argument = "x".repeat(120_000);
    let arguments = [argument.as_str(); 17];
    vec![
        Case::new("badptr", badptr(), &[]).natively(),
        Case::new("unknown-call-traced", badptr(), &[])
            .option("--trace")
            .says("syscall_0x3fff(")
            .says("= -1 ENOSYS (Function not implemented)")
            .says("= -1 EFAULT (Bad address)")
            .says("= -1 EBADF (Bad file descriptor)"),
        Case::new("memory-runs-out", "/bin/busybox".into(), &["awk", ENDLESS_ARRAY])
            .option("--mem=8M")
            .expect(Expect::Status(137))
            .says("out of memory: process 1 is killed; of 8192 kB, ")
            .says("resident, in kB:\n      pid        own      files     shared\n        1       ")
            .says("killed by SIGKILL")
            .says("a larger --mem may help"),
        Case::new("memory-too-small-to-start", payload("hello"), &arguments)
            .option("--mem=2M")
            .expect(Expect::Status(125))
            .says("mmvisor: ")
            .says("a larger --mem may help"),
    ]
}

/// What `hugetlb.c` has printed on Linux 6.18 with a pool of eight pages.
const POOLED: &str = include_str!("../programs/hugetlb.txt");
/// What Linux 6.18 answers to tests/programs/userfault.c: others lack some of it.
const USERFAULT: &str = include_str!("../programs/userfault.txt");
/// What Linux 6.18 answers root in tests/programs/credentials.c.
const CREDENTIALS: &str = include_str!("../programs/credentials.txt");
/// In which order tests/programs/userfault_pager.c is told of the pages that it writes.
const WRITTEN: &str = "\ndirty: 0 8 21 0 0 0 0 29 0 0 22 1 0 14 26 4 0 12 13 0 20 23 16 9 25 0 0 17 0 0 24 0 0 0 0 0 0 27 0 0 \
                       18 15 5 0 0 3 0 0 7 0 0 0 30 0 0 11 10 2 6 28 0 19 0 0\n";

/// Fills any memory.
const ENDLESS_ARRAY: &str = "BEGIN { while (1) a[i++] = i }";

/// Programs that nobody here wrote.
fn others_programs() -> Vec<Case> {
    let busybox = || PathBuf::from("/bin/busybox");
    let case = |name: &str, args: &[&str]| Case::new(name, busybox(), args).natively();
    vec![
        case("awk-300000", &["awk", &awk(300_000)]).only(Where::Direct),
        case("awk-20000", &["awk", &awk(20_000)]).only(Where::Nested),
        case("sha256sum", &["sha256sum"]).input(lines(50_000)),
        case("sort", &["sort", "-k2n"]).input(lines(50_000)).only(Where::Direct),
        case("sort-2000", &["sort", "-k2n"]).input(lines(2_000)).only(Where::Nested),
        case("bc", &["bc"]).input("scale=20\n2^521-1\n22/7\nquit\n"),
        case("dc", &["dc"]).input("2 100 ^ p 17 % p\n"),
        case("false", &["false"]),
        case("true", &["true"]),
        case("shell", &["sh", "-c", "echo $(seq 5 | sort -rn) | tr 1-5 a-e; (exit 3); echo $?"]),
        // In memory, and in a directory of the host.
        case("applets", &["sh", "-c", FILES, "sh", "/tmp"]),
        case("applets-granted", &["sh", "-c", FILES, "sh", "/tmp"])
            .option(&format!("--dir={}:/tmp", std::env::temp_dir().display()))
            .only(Where::Direct),
    ]
}

/// What `room.c` finds.
const ROOM: &str = "programs: Cannot allocate memory after many\n\
                    directories: No space left on device after many, as many as before\n\
                    links: No space left on device after many, as many as before\n\
                    files: No space left on device after many, as many as before\n\
                    Too many open files in system after many\n";

/// A script for busybox.
const FILES: &str = include_str!("../programs/files.sh");

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

fn c_programs() -> Vec<Case> {
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
    for compiler in ["musl-gcc", "gcc"] {
        let family = |name: &str, args: &[&str]| {
            let program = c_program("family", compiler, &["-static"]);
            Case::new(format!("family-{name}-{compiler}"), program, args).natively()
        };
        // With memory that comes several pages at a time.
        let folios = family("folios", &["4", "300"]).option("--mthp=16k:always,64k:always");
        cases.push(folios.only(Where::Direct));
        let files =
            Case::new(format!("files-{compiler}"), c_program("files", compiler, &["-static"]), &[]);
        cases.push(
            files
                .natively()
                .given(&written(compiler), FileAccess::ReadWrite)
                .given(&payload("hello"), FileAccess::Read),
        );
        let memfd = c_program("memfd", compiler, &["-static"]);
        cases.push(Case::new(format!("memfd-{compiler}"), memfd, &[]).natively());
        cases.push(family("c-40", &["40"]).only(Where::Direct));
        cases.push(family("c-4", &["4"]).only(Where::Nested));
    }
    let peaks = c_program("peaks", "gcc", &["-static"]);
    cases.push(Case::new("peaks", peaks, &[]).natively());
    let sizes = c_program("sizes", "gcc", &["-static", "-Wno-unused-result"]);
    cases.push(Case::new("sizes", sizes, &[]).natively());
    // As root; natively it need not be.
    let credentials = c_program("credentials", "gcc", &["-static"]);
    cases.push(Case::new("credentials", credentials, &[]).prints(CREDENTIALS));
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
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("pipes", compiler, &["-static"]);
        cases.push(Case::new(format!("pipes-{compiler}"), program, &[]).natively());
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("futex", compiler, &["-static"]);
        cases.push(Case::new(format!("futex-{compiler}"), program, &[]).natively());
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("ready", compiler, &["-static", "-Wno-unused-result"]);
        cases.push(Case::new(format!("ready-{compiler}"), program, &[]).natively());
    }
    for (name, compiler) in
        [("usage", "musl-gcc"), ("usage", "gcc"), ("others", "musl-gcc"), ("others", "gcc")]
    {
        let program = c_program(name, compiler, &["-static", "-Wno-unused-result"]);
        cases.push(Case::new(format!("{name}-{compiler}"), program, &[]).natively());
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("groups", compiler, &["-static", "-Wno-unused-result"]);
        cases.push(Case::new(format!("groups-{compiler}"), program, &[]).natively());
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("segments", compiler, &["-static"]);
        cases.push(Case::new(format!("segments-{compiler}"), program.clone(), &[]).natively());
        let most = Case::new(format!("segments-most-{compiler}"), program, &["most"]);
        cases.push(most.option("--mem=64M").prints("errno 28\nmade 4096\n").only(Where::Direct));
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("exec", compiler, &["-static", "-Wno-stringop-overread"]);
        cases.push(Case::new(format!("exec-{compiler}"), program, &["caller"]).natively());
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = |name| c_program(name, compiler, &["-static", "-Wno-stringop-overflow"]);
        let (calls, pager) = (program("userfault"), program("userfault_pager"));
        cases.push(Case::new(format!("userfault-{compiler}"), calls, &[]).prints(USERFAULT));
        cases.push(Case::new(format!("userfault-pager-{compiler}"), pager, &[]).natively());
    }
    let queries = c_program("queries", "gcc", &["-static"]);
    cases.push(Case::new("queries", queries, &[]).natively());
    let forced = c_program("forced", "gcc", &["-static"]);
    cases.push(Case::new("forced", forced, &[]).natively());
    let host = format!("--dir={}:/tmp", std::env::temp_dir().display());
    let room = Case::new("room", c_program("room", "gcc", &["-static"]), &[]);
    cases.push(room.prints(ROOM).only(Where::Direct));
    let wild = |name, calls| Case::new(name, c_program("wild", "gcc", &["-static"]), &[calls, "7"]);
    let wild = |name, calls| wild(name, calls).option("--mem=64M").prints("enough\n");
    cases.push(wild("wild-100000", "100000").only(Where::Direct));
    cases.push(wild("wild-2000", "2000").only(Where::Nested));
    let table = |name| Case::new(name, c_program("table", "musl-gcc", &["-static"]), &["/tmp"]);
    cases.push(table("table").natively());
    cases.push(table("table-granted").natively().option(&host).only(Where::Direct));
    // In memory, and in a directory of the host.
    let paths = |name| Case::new(name, c_program("paths", "gcc", &["-static"]), &["/tmp"]);
    cases.push(paths("paths").natively());
    cases.push(paths("paths-granted").natively().option(&host).only(Where::Direct));
    let appends = |name, words: &[&str]| {
        Case::new(name, c_program("appends", "gcc", &["-static", "-Wno-unused-result"]), words)
    };
    cases.push(appends("appends", &["/tmp"]).natively());
    let granted = appends("appends-granted", &["files", "/tmp"]).natively();
    cases.push(granted.option(&host).only(Where::Direct));
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("lazy", compiler, &["-static"]);
        let case = Case::new(format!("lazy-{compiler}"), program, &[]).natively();
        cases.push(
            case.option("--mem=16M").option("--stats").says("given up   for want of memory: "),
        );
    }
    for compiler in ["musl-gcc", "gcc"] {
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
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("khugepaged", compiler, &["-static"]);
        let case = |name: &str, rounds: &str| {
            let case = Case::new(format!("{name}-{compiler}"), program.clone(), &[rounds]);
            let case = case.prints(" rounds\n").option("--khugepaged=1");
            case.option("--mem=64M").option("--stats").says("\nkhugepaged ")
        };
        cases.push(case("khugepaged", "20").only(Where::Direct));
        cases.push(case("khugepaged-once", "2").only(Where::Nested));
    }
    for compiler in ["musl-gcc", "gcc"] {
        let program = c_program("equal", compiler, &["-static"]);
        let equal = Case::new(format!("equal-{compiler}"), program, &["4", "64", "40"]);
        let equal = equal.option("--ksm=1").option("--mem=64M").option("--stats");
        cases.push(equal.prints("4 processes\n").says("\nksm "));
    }
    for compiler in ["musl-gcc", "gcc"] {
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
    // Where its stack, its heap and itself are.
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
    // As the example's own first lines say.
    for (name, flags) in
        [("example-bare", ["-static", "-nostdlib"].as_slice()), ("example-libc", &["-static"])]
    {
        let example = Case::new(name, c_example(flags), &[]);
        cases.push(example.prints("read-only: signal 11, si_code 2\n").prints("[stack]\n"));
    }
    cases
}

/// Signals: handlers, what waits, calls that are interrupted, stops; the same natively.
fn signals() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in ["musl-gcc", "gcc"] {
        let case = |name: &str, program: &str, args: &[&str]| {
            let program = c_program(program, compiler, &["-static"]);
            Case::new(format!("signals-{name}-{compiler}"), program, args).natively()
        };
        cases.extend([
            case("handlers", "signals", &[]),
            case("handlers-of-sse", "signals", &["sse"]).only(Where::Direct),
            case("handlers-growing", "signals", &["growing"]),
            case("pending", "pending", &[]),
            case("sigreturn", "sigreturn", &[]),
            case("waits", "waits", &[]),
            Case { stdin_then: Then::StaysOpen, ..case("read", "waits", &["read"]) }
                .only(Where::Direct),
            case("stops", "stops", &[]),
            case("barrier", "barrier", &["500", "100"]).only(Where::Direct),
            case("barrier-2000", "barrier", &["20", "100"]).only(Where::Nested),
        ]);
    }
    // A million of its own faults.
    let barrier = c_program("barrier", "musl-gcc", &["-static"]);
    let million = Case::new("signals-barrier-million", barrier, &["10000", "100"]).natively();
    let limit = Duration::from_secs(600);
    cases.push(Case { limit, ..million.only(Where::Direct) });
    let made_up = |count: &str| {
        let program = c_program("sigreturn", "gcc", &["-static"]);
        Case::new(format!("signals-made-up-frames-{count}"), program, &[count])
    };
    cases.push(made_up("1000").prints("1000 frames\n").only(Where::Direct));
    cases.push(made_up("50").prints("50 frames\n").only(Where::Nested));
    let random = |count: &str| {
        let program = c_program("signal_calls", "gcc", &["-static"]);
        Case::new(format!("signals-random-calls-{count}"), program, &[count]).natively()
    };
    cases.push(random("500").only(Where::Direct));
    cases.push(random("20").only(Where::Nested));
    let traced = Case::new("signals-traced", c_program("signals", "gcc", &["-static"]), &[]);
    cases.push(
        traced
            .option("--trace")
            .says("rt_sigaction(SIGSEGV, {sa_handler=0x")
            .says("--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---")
            .says("--- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=1, si_uid=0} ---")
            .says("rt_sigreturn()"),
    );
    cases
}

/// The race, with this done besides.
fn without_flush_of(what: &str, kind: &str, options: &[&str]) -> Case {
    let name = format!("race-{what}-{kind}-without-flush");
    let case = Case::new(name, payload("race"), &["100", "1", kind, what]).without_flush();
    options.iter().fold(case, |case, option| case.option(option))
}

/// What must fail when nothing is flushed: this proves that the tests above would notice.
fn without_flush() -> Vec<Case> {
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
        without_flush_of("split", "private", &["--mem=64M"]),
        without_flush_of("collapse", "private", &["--mem=64M"]),
        without_flush_of("pageout", "private", &["--mem=8M", "--swap=64M"]),
        without_flush_of("pageout", "memfd", &["--mem=8M", "--swap=64M"]),
        without_flush_of("pressure", "shared", &["--mem=8M", "--swap=64M"]),
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
