//! What a person sees who asks `mmvisor run` for the impossible: a sentence and status 125, never a
//! panic; and what becomes of programs that do impossible things: their own death, told in a line.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{MMVISOR, Ran, kvm_unusable, payload, run};

const LIMIT: Duration = Duration::from_secs(60);

fn mmvisor(args: &[&str]) -> Ran {
    let mut command = Command::new(MMVISOR);
    command.args(args).env_remove("RUST_LOG");
    run(&mut command, b"", LIMIT)
}

/// mmvisor refused: status 125, one line that has all of `words`, nothing on standard output.
fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is not in {:?}", ran.stderr);
    }
}

/// A file of the given bytes that may be executed.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// `hello`'s file with some bytes replaced.
fn patched(name: &str, patches: &[(usize, &[u8])]) -> PathBuf {
    let mut bytes = fs::read(payload("hello")).unwrap();
    for &(at, patch) in patches {
        bytes[at..at + patch.len()].copy_from_slice(patch);
    }
    file(name, &bytes)
}

fn refused_file(path: &Path, words: &[&str]) {
    refused(&mmvisor(&["run", path.to_str().unwrap()]), words);
}

#[test]
fn a_file_that_is_not_there() {
    refused(&mmvisor(&["run", "/no/such/file"]), &["/no/such/file", "no such file"]);
}

#[test]
fn a_directory() {
    refused(&mmvisor(&["run", "/tmp"]), &["/tmp", "directory"]);
}

#[test]
fn a_file_that_is_no_program() {
    refused_file(
        &file("text", b"just some text, long enough for a header........................"),
        &["ELF"],
    );
    refused_file(&file("empty", b""), &["empty"]);
    refused_file(&file("script", b"#!/bin/sh\necho hello\n"), &["script"]);
}

#[test]
fn a_program_of_32_bits() {
    refused_file(&patched("elf32", &[(4, &[1])]), &["32-bit"]);
}

#[test]
fn a_program_for_another_architecture() {
    refused_file(&patched("aarch64", &[(18, &[183, 0])]), &["aarch64"]);
}

#[test]
fn a_program_cut_short() {
    let whole = fs::read(payload("hello")).unwrap();
    for len in [20, 64, 100] {
        refused_file(&file(&format!("cut-{len}"), &whole[..len]), &["cut-"]);
    }
}

#[test]
fn a_dynamic_program_is_told_which_interpreter_it_wants() {
    refused(&mmvisor(&["run", "/bin/ls"]), &["dynamic", "/lib64/ld-linux-x86-64.so.2"]);
}

#[test]
fn an_entry_point_outside_the_program() {
    refused_file(&patched("entry", &[(24, &[0; 8])]), &["entry"]);
}

#[test]
fn memory_sizes_that_make_no_sense() {
    let hello = payload("hello");
    let hello = hello.to_str().unwrap();
    for (size, word) in [
        ("0", "no memory"),
        ("1E", "this host has"),
        ("99999999999E", "memory"),
        ("lots", "size"),
        ("-1", ""),
    ] {
        refused(&mmvisor(&["run", &format!("--mem={size}"), hello]), &[word]);
    }
    refused(&mmvisor(&["run", "--mem", "900T", hello]), &["this host has"]);
}

#[test]
fn options_that_do_not_exist() {
    refused(&mmvisor(&["run", "--no-such-option", "/bin/true"]), &["--no-such-option"]);
    refused(&mmvisor(&["no-such-command"]), &["no-such-command"]);
    refused(&mmvisor(&["run", "--env", "novalue", "/bin/true"]), &["NAME=VALUE"]);
}

#[test]
fn a_trace_file_that_cannot_be_made() {
    let hello = payload("hello");
    let ran = mmvisor(&["run", "--trace=/no/such/directory/trace", hello.to_str().unwrap()]);
    refused(&ran, &["/no/such/directory/trace"]);
}

#[test]
fn too_little_memory_for_the_program_kills_it_and_not_mmvisor() {
    if let Some(why) = kvm_unusable() {
        return println!("not run: {why}");
    }
    let ran =
        mmvisor(&["run", "--mem", "2M", "/bin/busybox", "awk", "BEGIN { while (1) a[i++] = i }"]);
    assert!(matches!(ran.status, Some(125 | 137)), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
}
