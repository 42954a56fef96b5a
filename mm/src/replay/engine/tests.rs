//! The engine on an executor that knows pages and permissions only.

mod echo;
mod fake;

use super::*;
use crate::replay::trace::tests::generate;
use echo::Echo;
use fake::Fake;
use proptest::prelude::*;

/// What a replay came to: its mismatches, its summary, its exit status.
struct Ran {
    mismatches: Vec<String>,
    summary: String,
    status: u8,
}

fn run(fake: &mut Fake, addresses: AddressMode, trace: &str) -> Ran {
    let mut mismatches = Vec::new();
    let mut note = |mismatch: Mismatch| mismatches.push(mismatch.to_string());
    let report = replay(Reader::new(trace.as_bytes()), fake, addresses, &mut note);
    let status = report.exit_status();
    Ran { mismatches, summary: report.summary.to_string(), status }
}

/// Replays without a mismatch and gives the summary.
fn good(fake: &mut Fake, addresses: AddressMode, trace: &str) -> String {
    let ran = run(fake, addresses, trace);
    assert_eq!(ran.mismatches, [""; 0], "{trace}");
    assert_eq!(ran.status, 0);
    ran.summary
}

fn exact(trace: &str) -> Ran {
    run(&mut Fake::new(), AddressMode::Exact, trace)
}

const MAP: &str = "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)";

#[test]
fn equal_results_are_counted_and_nothing_is_told() {
    let trace = format!(
        "{MAP} = 0x6fffe000\n\
         @touch 0x6fffe000 w = ok\n\
         @touch 0x6fffe000 x = SEGV_ACCERR\n\
         @store 0x6fffe000 0x2a\n\
         @load 0x6fffe000 = 0x2a\n\
         @flags 0x6fffe000 = rd wr\n\
         @rss anon=3 file=7\n\
         @maps\n6fffe000-6ffff000 rw-p 00000000 00:00 0\n6ffff000-70000000 rw-p 00000000 00:00 0\n@end\n\
         munmap(0x6fffe001, 4096) = -1 EINVAL (Invalid argument)\n\
         munmap(0x6fffe000, 8192) = 0\n"
    );
    let summary = good(&mut Fake::new(), AddressMode::Exact, &trace);
    assert_eq!(summary, "3 calls, 10 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn each_difference_is_a_line_with_both_sides() {
    let ran = exact(&format!(
        "{MAP} = 0x6fff0000\n\
         munmap(0x1001, 4096) = 0\n\
         @touch 0x1000 w = ok\n\
         @load 0x1000 = 0x2a\n\
         @flags 0x1000 = rd wr\n\
         @rss anon=4\n\
         @maps 1000-2000\n00001000-00002000 rw-p 00000000 00:00 0\n@end\n\
         mincore(0x6fffe000, 8192, [1, 0]) = 0\n\
         getrlimit(RLIMIT_STACK, {{rlim_cur=8192*1024, rlim_max=8192*1024}}) = 0\n"
    ));
    assert_eq!(
        ran.mismatches,
        [
            "1: mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0): \
             expected 0x6fff0000, got 0x6fffe000",
            "2: munmap(0x1001, 4096): expected 0, got -1 EINVAL (Invalid argument)",
            "3: @touch 0x1000 w: expected ok, got SEGV_MAPERR",
            "4: @load 0x1000: expected 0x2a, got SEGV_MAPERR",
            "5: @flags 0x1000: expected rd wr, got no VMA",
            "6: @rss: expected anon=4, got anon=3",
            "7: @maps 00001000-00002000: expected 00001000-00002000 rw-p 00000000, got no further VMA",
            "10: mincore(0x6fffe000, 8192, [1, 0]): expected [1, 0], got [1, 1]",
            "11: getrlimit(RLIMIT_STACK, {rlim_cur=8192*1024, rlim_max=8192*1024}): expected \
             {rlim_cur=8192*1024, rlim_max=8192*1024}, got {rlim_cur=8192*1024, rlim_max=RLIM64_INFINITY}",
        ]
    );
    assert_eq!(ran.summary, "4 calls, 11 checks, 9 mismatches, 0 skipped, 0 assumed");
    assert_eq!(ran.status, 1);
}

#[test]
fn what_is_not_modelled_or_not_supported_is_skipped_and_counted() {
    let ran = exact(
        "read(0, \"a\", 1) = 1\n\
         mlock(0x1000, 4096) = 0\n\
         munmap(0x1000, 4096) = ?\n\
         @resident 0x1000+1 = 0\n",
    );
    assert_eq!(ran.summary, "3 calls, 0 checks, 0 mismatches, 4 skipped, 0 assumed");
    assert_eq!(ran.status, 0);
}

#[test]
fn a_malformed_line_ends_the_replay_after_what_is_before_it() {
    let ran = exact("munmap(0x1001, 1) = 0\nmunmap(\nmunmap(0x1001, 1) = 0\n");
    assert_eq!(ran.mismatches.len(), 1);
    assert_eq!(ran.status, 2);
}

#[test]
fn the_first_maps_is_the_starting_state_and_later_ones_are_checked() {
    let mut fake = Fake::new();
    let maps = "@maps\n00001000-00002000 rw-p 00000000 00:00 0\n@end\n";
    let summary = good(&mut fake, AddressMode::Exact, &format!("@thp never\n{maps}{maps}"));
    assert_eq!(summary, "0 calls, 1 checks, 0 mismatches, 0 skipped, 0 assumed");
    assert_eq!(fake.log, ["create 0", "@thp never", "import 1 lines into 0", "exit 0"]);
}

#[test]
fn a_maps_after_a_call_is_a_check() {
    let ran = exact("brk(NULL) = 0x100000\n@maps\n00001000-00002000 rw-p 00000000 00:00 0\n@end\n");
    assert_eq!(ran.mismatches.len(), 1);
}

#[test]
fn execve_begins_afresh_with_the_maps_that_follow() {
    let mut fake = Fake::new();
    let trace = format!(
        "{MAP} = 0x6fffe000\n\
         execve(\"/bin/a\", [\"a\"], 0x1) = -1 ENOENT (No such file or directory)\n\
         @touch 0x6fffe000 w = ok\n\
         execve(\"/bin/a\", [\"a\"], 0x1) = 0\n\
         @maps\n00001000-00002000 rw-p 00000000 00:00 0\n@end\n\
         @touch 0x6fffe000 w = SEGV_MAPERR\n\
         @touch 0x1000 w = ok\n\
         mprotect(0x1000, 4096, PROT_READ) = 0\n"
    );
    let summary = good(&mut fake, AddressMode::Exact, &trace);
    assert_eq!(summary, "4 calls, 5 checks, 0 mismatches, 0 skipped, 0 assumed");
    assert!(fake.log.contains(&"0 executes 1 lines".to_owned()));
}

#[test]
fn what_a_program_that_cannot_be_loaded_had_mapped_is_assumed_once() {
    let trace = "execve(\"/bin/a\", [\"a\"], 0x1) = 0\n\
                 mprotect(0x5000, 8192, PROT_READ) = 0\n\
                 mprotect(0x4000, 12288, PROT_READ|PROT_WRITE) = 0\n\
                 @touch 0x4000 w = ok\n\
                 mprotect(0x9000, 4096, PROT_READ) = -1 ENOMEM (Cannot allocate memory)\n";
    let summary = good(&mut Fake::new(), AddressMode::Exact, trace);
    assert_eq!(summary, "4 calls, 4 checks, 0 mismatches, 0 skipped, 2 assumed");
    // In a space that the trace has explained, nothing is assumed.
    let ran = exact("mprotect(0x5000, 8192, PROT_READ) = 0\n");
    assert_eq!(ran.mismatches.len(), 1);
    let mut loaded = Fake::loading_at(0x5000);
    let summary = good(&mut loaded, AddressMode::Exact, trace.lines().next().unwrap());
    assert_eq!(summary, "1 calls, 0 checks, 0 mismatches, 0 skipped, 0 assumed");
    assert_eq!(loaded.log[1], "0 executes /bin/a");
}

#[test]
fn addresses_of_a_randomized_run_are_translated() {
    let trace = "execve(\"/bin/a\", [\"a\"], 0x1) = 0\n\
                 brk(NULL) = 0x55aa00000123\n\
                 brk(0x55aa00003000) = 0x55aa00003000\n\
                 @touch 0x55aa00002000 w = ok\n\
                 mmap(NULL, 16384, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7f0000000000\n\
                 mmap(0x7f0000001000, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, 3, 0x1000) = 0x7f0000001000\n\
                 @touch 0x7f0000000000 w = SEGV_ACCERR\n\
                 @touch 0x7f0000001000 w = ok\n\
                 mprotect(0x55aa11110000, 4096, PROT_READ) = 0\n\
                 munmap(0x7f0000000000, 16384) = 0\n\
                 @touch 0x7f0000000000 w = SEGV_MAPERR\n\
                 munmap(0x7e0000000000, 4096) = 0\n\
                 brk(0x55aa00002000) = 0x55aa00002000\n";
    let summary = good(&mut Fake::new(), AddressMode::Relocated, trace);
    // The last touch and the last munmap are on what the trace does not explain (any more).
    assert_eq!(summary, "9 calls, 10 checks, 0 mismatches, 2 skipped, 1 assumed");
}

#[test]
fn a_translated_call_that_fails_has_linuxs_partial_effects_and_no_others() {
    const FIXED: &str = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)";
    let noreplace = FIXED.replace("MAP_FIXED", "MAP_FIXED_NOREPLACE");
    let trace = format!(
        "mmap(0x5000, 4096, {FIXED} = 0x5000\n\
         mmap(0x5000, 8192, {noreplace} = -1 EEXIST (File exists)\n\
         @touch 0x6000 r = SEGV_MAPERR\n\
         mprotect(0x5000, 8192, PROT_READ) = -1 ENOMEM (Cannot allocate memory)\n\
         @touch 0x5000 w = SEGV_ACCERR\n\
         munmap(0x8000, 4096) = 0\n"
    );
    let summary = good(&mut Fake::new(), AddressMode::Relocated, &trace);
    assert_eq!(summary, "4 calls, 6 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn neighbours_of_the_trace_that_are_none_with_us_get_a_call_each() {
    // The trace places upwards, we place downwards.
    let trace = "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n\
                 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000001000\n\
                 mprotect(0x7f0000000000, 8192, PROT_READ|PROT_WRITE) = 0\n\
                 @touch 0x7f0000000000 w = ok\n\
                 @touch 0x7f0000001000 w = ok\n\
                 mremap(0x7f0000001000, 4096, 8192, MREMAP_MAYMOVE) = 0x7f0000100000\n\
                 @touch 0x7f0000101000 w = ok\n\
                 @touch 0x7f0000001000 w = SEGV_MAPERR\n\
                 munmap(0x7f0000000000, 4096) = 0\n\
                 munmap(0x7f0000100000, 8192) = 0\n";
    let summary = good(&mut Fake::new(), AddressMode::Relocated, trace);
    assert_eq!(summary, "6 calls, 10 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn a_relocated_result_is_still_checked() {
    let ran = run(
        &mut Fake::new(),
        AddressMode::Relocated,
        "mmap(NULL, 0, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n\
         mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = -1 ENOMEM (Cannot allocate memory)\n",
    );
    assert_eq!(ran.mismatches.len(), 2);
    // The break did not move in the trace, and does with us.
    let ran = run(
        &mut Fake::new(),
        AddressMode::Relocated,
        "brk(NULL) = 0x55aa00000123\nbrk(0x55aa00003000) = 0x55aa00000123\n",
    );
    assert_eq!(ran.mismatches, ["2: brk(0x55aa00003000): expected 0x100000, got 0x102000"]);
}

#[test]
fn a_fork_has_a_copy_and_a_thread_the_same() {
    let trace = format!(
        "1 {MAP} = 0x6fffe000\n\
         1 clone(child_stack=NULL, flags=SIGCHLD) = 2\n\
         2 munmap(0x6fffe000, 8192) = 0\n\
         1 @touch 0x6fffe000 w = ok\n\
         1 clone3({{flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=NULL, stack_size=0}}, 88) = 3\n\
         3 munmap(0x6fffe000, 4096) = 0\n\
         1 @touch 0x6fffe000 w = SEGV_MAPERR\n\
         3 +++ exited with 0 +++\n\
         1 @touch 0x6ffff000 w = ok\n\
         2 +++ exited with 0 +++\n\
         1 fork() = 2\n\
         2 @touch 0x6ffff000 w = ok\n"
    );
    let mut fake = Fake::new();
    good(&mut fake, AddressMode::Exact, &trace);
    assert_eq!(
        fake.log,
        [
            "create 0",
            "0 spawns 1, Copied",
            "0 spawns 2, Shared",
            "exit 2",
            "exit 1",
            "0 spawns 3, Copied",
            "exit 0",
            "exit 3"
        ]
    );
}

#[test]
fn a_child_may_run_before_the_call_that_made_it_has_returned() {
    let mut fake = Fake::new();
    good(
        &mut fake,
        AddressMode::Exact,
        "1 vfork( <unfinished ...>\n\
         2 execve(\"/bin/a\", [\"a\"], 0x1) = 0\n\
         1 <... vfork resumed>) = 2\n\
         2 +++ exited with 0 +++\n\
         1 +++ exited with 0 +++\n\
         9 +++ exited with 0 +++\n",
    );
    assert_eq!(fake.log, ["create 0", "0 spawns 1, Shared", "exit 1", "exit 0"]);
}

#[test]
fn pids_that_come_and_go_name_the_same_task() {
    for trace in [
        // The parent is named first by the return of its call, or by a line after the child's.
        "brk(NULL) = 0x100000\n\
         clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n\
         [pid 1] <... clone resumed>) = 2\n\
         [pid 2] brk(NULL) = 0x100000\n\
         [pid 2] +++ exited with 0 +++\n\
         brk(NULL) = 0x100000\n",
        "brk(NULL) = 0x100000\n\
         clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n\
         [pid 2] brk(NULL) = 0x100000\n\
         [pid 1] <... clone resumed>) = 2\n\
         [pid 1] brk(NULL) = 0x100000\n\
         [pid 2] +++ exited with 0 +++\n\
         brk(NULL) = 0x100000\n",
    ] {
        let mut fake = Fake::new();
        good(&mut fake, AddressMode::Exact, trace);
        assert_eq!(fake.log, ["create 0", "0 spawns 1, Copied", "exit 1", "exit 0"], "{trace}");
    }
}

#[test]
fn a_thread_that_calls_execve_is_the_process_from_then_on() {
    let mut fake = Fake::loading_at(0x5000);
    good(
        &mut fake,
        AddressMode::Exact,
        "1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2\n\
         2 execve(\"/bin/a\", [\"a\"], 0x1 <unfinished ...>\n\
         1 +++ superseded by execve in pid 2 +++\n\
         1 <... execve resumed>) = 0\n\
         1 @touch 0x5000 w = ok\n",
    );
    let expected = ["create 0", "0 spawns 1, Shared", "exit 0", "1 executes /bin/a", "exit 1"];
    assert_eq!(fake.log, expected);
}

#[test]
fn file_calls_are_told_and_not_compared() {
    let mut fake = Fake::new();
    let summary = good(
        &mut fake,
        AddressMode::Exact,
        "openat(AT_FDCWD, \"/a\", O_RDONLY) = 3</a>\n\
         openat(AT_FDCWD, \"/b\", O_RDONLY) = -1 ENOENT (No such file or directory)\n\
         close(3</a>) = 0\n",
    );
    assert_eq!(summary, "3 calls, 0 checks, 0 mismatches, 0 skipped, 0 assumed");
    assert_eq!(fake.log.len(), 4);
    assert_eq!(fake.log[2], "0: Close { fd: 3 } = 0");
}

proptest! {
    #[test]
    fn any_events_are_replayed_and_the_same_answers_are_no_mismatch(
        events in prop::collection::vec(generate::event(), 0..40),
    ) {
        let lines: Vec<_> = events.iter().map(|event| format!("{event}\n")).collect();
        let text = lines.concat();
        for addresses in [AddressMode::Exact, AddressMode::Relocated] {
            let mut mismatches = Vec::new();
            let mut note = |mismatch: Mismatch| mismatches.push(mismatch.to_string());
            let report = replay(Reader::new(text.as_bytes()), &mut Echo, addresses, &mut note);
            prop_assert!(report.ended.is_none());
            if addresses == AddressMode::Exact {
                prop_assert_eq!(mismatches, Vec::<String>::new());
            }
        }
    }
}
