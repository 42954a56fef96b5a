//! `mmvisor replay --in-guest`: what it says of a trace is what `mmvisor replay` says.

use std::fs;
use std::path::Path;

use crate::common::kvm_unusable;
use crate::{replay, scratch};

const TRACE: &str = "\
    mmap(0x10000, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x10000\n\
    @store 0x10123 0x2a\n\
    fork() = 8\n\
    8  @store 0x10123 7\n\
    @load 0x10123 = 0x2b\n\
    munmap(0x10000, 4096) = 0\n\
    8  @load 0x10123 = 7\n\
    @touch 0x10123 r = ok\n\
    @touch 0x11000 x = SEGV_MAPERR\n\
    frobnicate() = 0\n";
const SAYS: &str = "\
    FILE:5: @load 0x10123: expected 0x2b, got 0x2a\n\
    FILE:8: @touch 0x10123 r: expected ok, got SEGV_MAPERR\n\
    FILE:9: @touch 0x11000 x: expected SEGV_MAPERR, got SEGV_ACCERR\n\
    4 calls, 8 checks, 3 mismatches, 1 skipped, 0 assumed\n";

/// Replays the trace from a file, and gives what is said on standard error.
fn says_the_same(options: &[&str], path: &Path) -> String {
    fs::write(path, TRACE).unwrap();
    let file = path.to_str().unwrap();
    let ran = replay(&[options, &[file]].concat(), b"");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!((ran.status, said), (Some(1), SAYS.replace("FILE", file)), "{}", ran.stderr);
    ran.stderr
}

#[test]
fn software_and_the_hosts_kvm_say_the_same() {
    let path = scratch("same.trace");
    assert_eq!(says_the_same(&[], &path), "");
    if let Some(why) = kvm_unusable() {
        eprintln!("skipped: {why}");
        return;
    }
    assert_eq!(says_the_same(&["--in-guest", "--machine=kvm"], &path), "");
}

#[test]
fn the_nested_machine_says_the_same_about_the_file_of_this_host() {
    let path = scratch("odd name.trace");
    let said = says_the_same(&["--in-guest", "--machine=nested"], &path);
    assert!(said.contains("nested machine") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_bad_trace_ends_in_the_nested_machine_as_it_does_here() {
    let ran = replay(&["--in-guest", "--machine=nested", "-"], b"munmap(\n");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("mmvisor: stdin: line 1: "), "{ran:?}");
}

#[test]
fn a_file_that_cannot_be_read_needs_no_machine() {
    let ran = replay(&["--in-guest", "--machine=nested", "/no/such/file"], b"");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stderr.starts_with("mmvisor: /no/such/file: cannot read the trace"), "{ran:?}");
}

#[test]
fn a_machine_without_a_guest_is_refused() {
    let ran = replay(&["--machine=kvm", "-"], b"");
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("--in-guest"), "{ran:?}");
}
