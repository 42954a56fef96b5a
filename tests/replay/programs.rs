//! Programs that nobody here wrote, traced and replayed: with addresses as they are, from the files and
//! from a starting state, and with addresses translated. Every result is Linux's.

use std::fs;
use std::path::Path;

use crate::strace::{Aslr, Trace, starting_state, trace};
use crate::{Counts, replay, scratch};

/// Traces a program in each way, and replays it.
fn replays(name: &str, program: &[&str]) {
    let randomized = trace(name, Aslr::On, program);
    let counts = good(&randomized, &["--relocate"]);
    println!("{name}, randomized: {counts:?}");

    let fixed = trace(name, Aslr::Off, program);
    if !host_is_reference() {
        eprintln!("skipped: this kernel is not the one whose placement is the rule");
        return;
    }
    let counts = good(&fixed, &[]);
    println!("{name}, without ASLR: {counts:?}");
    assert_eq!(counts.assumed, 0, "all files could be read");

    let counts = good(&fixed.with_start(&starting_state(name, program)), &[]);
    println!("{name}, from its starting state: {counts:?}");
    assert_eq!(counts.assumed, 0, "the maps and the files say all");
}

/// Replays a trace in which every call that is modelled must be compared, and equal.
fn good(trace: &Trace, options: &[&str]) -> Counts {
    let args = [options, &[trace.path.to_str().unwrap()]].concat();
    let counts = Counts::of_good(&replay(&args, b""));
    let compared = trace.compared_calls();
    assert!(compared > 0 && counts.checks >= compared, "{compared} calls: {counts:?}");
    assert_eq!(counts.mismatches, 0);
    counts
}

/// Whether the host's kernel is Linux 6.18 or later: earlier ones place the vDSO and heaps otherwise.
fn host_is_reference() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

#[test]
fn python_with_threads() {
    let script = "import threading\n\
                  def work(n):\n    return sum(len(bytearray(1000 + i)) for i in range(n))\n\
                  threads = [threading.Thread(target=work, args=(2000,)) for _ in range(4)]\n\
                  for thread in threads: thread.start()\n\
                  for thread in threads: thread.join()\n";
    replays("python", &["/usr/bin/python3", "-c", script]);
}

#[test]
fn gcc_with_the_compiler_and_the_linker_that_it_starts() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs/alloc.c");
    let out = scratch("compiled");
    let program = ["gcc", "-O1", "-o", out.to_str().unwrap(), source.to_str().unwrap()];
    replays("gcc", &program);
}

#[test]
fn sqlite() {
    let script = "create table t(a, b);\
                  with recursive c(x) as (select 1 union all select x + 1 from c where x < 5000)\
                  insert into t select x, hex(randomblob(50)) from c;\
                  create index i on t(b);\
                  select count(*) from t order by b;";
    replays("sqlite", &["sqlite3", ":memory:", script]);
}

#[test]
fn node_with_its_threads() {
    let script = "const a = []; for (let i = 0; i < 100000; i++) a.push({i}); a.length";
    replays("node", &["node", "-e", script]);
}

#[test]
fn a_shell_with_pipes_of_busybox() {
    let script = "i=0; while [ $i -lt 5 ]; do i=$((i+1)); busybox echo $i | busybox cat; done";
    replays("busybox", &["busybox", "sh", "-c", script]);
}

#[test]
fn lua() {
    let script = "local t = {} for i = 1, 100000 do t[i] = {i} end collectgarbage()";
    replays("lua", &["lua5.4", "-e", script]);
}

#[test]
fn a_trace_on_standard_input_is_replayed_as_one_in_a_file() {
    let trace = trace("stdin", Aslr::On, &["busybox", "true"]);
    let counts = Counts::of_good(&replay(&["--relocate", "-"], trace.text.as_bytes()));
    assert_eq!(counts, good(&trace, &["--relocate"]));
}

/// The sharpest look at the comparison itself: whichever result is changed, it is found.
#[test]
fn a_result_that_is_not_linuxs_is_found_wherever_it_is() {
    let trace = trace("changed", Aslr::Off, &["busybox", "echo"]);
    let changed = |line: &str| {
        let (call, result) = line.rsplit_once("= ").unwrap();
        let value = if result == "0" { "-1 ENOMEM (Cannot allocate memory)" } else { "0x123000" };
        format!("{call}= {value}")
    };
    let mut changes = 0;
    for (index, line) in trace.text.lines().enumerate() {
        let is_call = |name| line.contains(name) && !line.contains("<unfinished");
        // The address of the first brk is where the heap is, whatever it is.
        let is_first = line.contains("brk(NULL)");
        if is_first || !["brk(", "mprotect(", "munmap(", "prlimit64("].into_iter().any(is_call) {
            continue;
        }
        let lines = trace.text.lines().enumerate();
        let text: String = lines
            .map(|(at, line)| if at == index { changed(line) } else { line.to_owned() } + "\n")
            .collect();
        let ran = replay(&["-"], text.as_bytes());
        let told = String::from_utf8_lossy(&ran.stdout);
        assert_eq!(ran.status, Some(1), "{line}: {told}");
        assert!(told.starts_with(&format!("stdin:{}: ", index + 1)), "{line}: {told}");
        assert!(told.contains(": expected ") && told.contains(", got "), "{told}");
        changes += 1;
    }
    assert!(changes >= 3, "{}", trace.text);
}
