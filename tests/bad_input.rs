//! What a person sees who asks `mmvisor run` for the impossible: a sentence and status 125, never a
//! panic; and what becomes of programs that do impossible things: their own death, told in a line.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{MMVISOR, Ran, payload, run};

const LIMIT: Duration = Duration::from_secs(60);

fn mmvisor(args: &[&str]) -> Ran {
    let mut command = Command::new(MMVISOR);
    command.args(args).env_remove("RUST_LOG");
    run(&mut command, b"", LIMIT)
}

/// mmvisor refused: status 125, a sentence on standard error that has all of `words`, nothing on standard
/// output, no panic, nothing left behind.
fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stdout.is_empty() && !ran.panicked() && !ran.left_behind, "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is not in {:?}", ran.stderr);
    }
}

/// mmvisor refused, in a single line that names the file.
fn refused_file(path: &Path, words: &[&str]) {
    let path = path.to_str().unwrap();
    let ran = mmvisor(&["run", path]);
    refused(&ran, words);
    assert!(ran.stderr.starts_with(&format!("mmvisor: {path}: ")), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

/// mmvisor refused what it was asked for, and says where to read more.
fn refused_words(words: &[&str], says: &str) {
    let ran = mmvisor(words);
    refused(&ran, &["error: ", says, "--help"]);
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

/// Fields of a file's header, by their offset (elf(5), `Elf64_Ehdr`).
mod header {
    pub const CLASS: usize = 4;
    pub const BYTE_ORDER: usize = 5;
    pub const TYPE: usize = 16;
    pub const MACHINE: usize = 18;
    pub const ENTRY: usize = 24;
    pub const TABLE: usize = 32;
    pub const ENTRY_SIZE: usize = 54;
    pub const COUNT: usize = 56;
    pub const SIZE: usize = 64;
}

/// Fields of a program header, by their offset (elf(5), `Elf64_Phdr`).
mod segment {
    pub const OFFSET: usize = 8;
    pub const ADDRESS: usize = 16;
    pub const FILE_SIZE: usize = 32;
    pub const MEMORY_SIZE: usize = 40;
    pub const SIZE: usize = 56;
}

/// `hello` with fields of its second segment replaced: the code, at 0x401000 and at 0x1000 in the file.
fn segment(name: &str, fields: &[(usize, u64)]) -> PathBuf {
    let values = fields.iter().map(|&(field, value)| (field, value.to_le_bytes()));
    let values: Vec<_> =
        values.map(|(at, bytes)| (header::SIZE + segment::SIZE + at, bytes)).collect();
    let patches: Vec<(usize, &[u8])> = values.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    patched(name, &patches)
}

#[test]
fn a_file_that_is_not_there() {
    refused_file(Path::new("/no/such/file"), &["no such file"]);
    refused_file(Path::new("/dev/null/file"), &["no such file"]);
}

#[test]
fn what_is_no_file() {
    refused_file(Path::new("/tmp"), &["a directory"]);
    refused_file(Path::new("/dev/zero"), &["not a regular file"]);
    let pipe = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipe");
    let _ = fs::remove_file(&pipe);
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused_file(&pipe, &["not a regular file"]);
}

#[test]
fn a_swap_area_for_which_there_is_no_file() {
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm", "--swap=1M"]).arg(payload("hello"));
    command.env("TMPDIR", "/no/such/directory");
    refused(
        &run(&mut command, b"", LIMIT),
        &["--swap: no file in /no/such/directory: No such file"],
    );
    let too_much =
        mmvisor(&["run", "--machine=kvm", "--swap=8E", payload("hello").to_str().unwrap()]);
    refused(&too_much, &["--swap: no file in "]);
}

#[test]
fn a_file_that_may_not_be_executed() {
    let path = patched("not-executable", &[]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    refused_file(&path, &["chmod +x"]);
}

#[test]
fn a_file_that_is_no_program() {
    refused_file(&file("text", &[b'a'; 200]), &["not an ELF program"]);
    refused_file(&file("empty", b""), &["not an ELF program"]);
    refused_file(&file("script", b"#!/bin/sh\necho hello\n"), &["script", "/bin/sh"]);
    refused_file(&patched("object", &[(header::TYPE, &[1])]), &["object file"]);
    refused_file(&patched("core", &[(header::TYPE, &[4])]), &["core dump"]);
}

#[test]
fn a_program_of_32_bits() {
    refused_file(&patched("elf32", &[(header::CLASS, &[1])]), &["32-bit"]);
}

#[test]
fn a_program_for_another_architecture() {
    refused_file(&patched("aarch64", &[(header::MACHINE, &[183, 0])]), &["aarch64"]);
    refused_file(&patched("i386", &[(header::MACHINE, &[3, 0]), (header::CLASS, &[1])]), &["386"]);
    refused_file(&patched("big-endian", &[(header::BYTE_ORDER, &[2])]), &["big-endian"]);
}

#[test]
fn a_program_cut_short() {
    let whole = fs::read(payload("hello")).unwrap();
    for (len, what) in [
        (20, "its ELF header should reach byte 64"),
        (64, "its program headers should reach byte"),
        (100, "its program headers should reach byte"),
        (0x1010, "segment 1 should reach byte"),
    ] {
        let cut = file(&format!("cut-{len}"), &whole[..len]);
        refused_file(&cut, &["truncated", what, &format!("the file has {len} bytes")]);
    }
}

#[test]
fn a_dynamic_program_is_told_which_interpreter_it_wants_and_that_it_comes_later() {
    refused_file(
        Path::new("/bin/ls"),
        &["dynamic", "come later", "/lib64/ld-linux-x86-64.so.2", "-static"],
    );
}

#[test]
fn an_entry_point_outside_the_program() {
    for (name, entry) in [("entry-0", 0_u64), ("entry-data", 0x40_0000), ("entry-far", u64::MAX)] {
        let bytes = entry.to_le_bytes();
        refused_file(&patched(name, &[(header::ENTRY, &bytes)]), &["entry point", "executable"]);
    }
}

#[test]
fn program_headers_that_are_none() {
    refused_file(&patched("no-headers", &[(header::COUNT, &[0, 0])]), &["0 program headers"]);
    refused_file(&patched("many-headers", &[(header::COUNT, &[255, 255])]), &["65535"]);
    refused_file(&patched("large-headers", &[(header::ENTRY_SIZE, &[57])]), &["57 bytes each"]);
    refused_file(&patched("far-headers", &[(header::TABLE, &[255; 8])]), &["truncated"]);
}

#[test]
fn segments_that_overlap() {
    let overlapping = segment("overlap", &[(segment::ADDRESS, 0x40_0000)]);
    refused_file(&overlapping, &["segments 0 and 1 overlap", "0x400000"]);
}

#[test]
fn segments_that_leave_the_user_half() {
    for (name, field, value) in [
        ("across-the-end", segment::ADDRESS, 0x7fff_ffff_f000_u64),
        ("in-the-gap", segment::ADDRESS, 1 << 63),
        ("in-the-kernel-half", segment::ADDRESS, 0xffff_ffff_8000_0000),
        ("as-large-as-the-half", segment::MEMORY_SIZE, 1 << 47),
    ] {
        refused_file(&segment(name, &[(field, value)]), &["segment 1", "outside the user half"]);
    }
    refused_file(&segment("at-zero", &[(segment::ADDRESS, 0)]), &["segment 1", "link it higher"]);
}

#[test]
fn sizes_that_overflow_or_contradict_each_other() {
    let far = [(segment::OFFSET, u64::MAX - 0xfff)];
    refused_file(&segment("file-overflow", &far), &["segment 1", "file offset", "overflow"]);
    let large = [(segment::MEMORY_SIZE, u64::MAX)];
    refused_file(&segment("overflow", &large), &["segment 1", "address", "overflow"]);
    let both = [(segment::MEMORY_SIZE, u64::MAX), (segment::FILE_SIZE, u64::MAX)];
    refused_file(&segment("both-overflow", &both), &["segment 1", "overflow"]);
    let more = [(segment::FILE_SIZE, 1 << 20)];
    refused_file(&segment("more-in-file", &more), &["segment 1", "more bytes in the file"]);
    let askew = [(segment::OFFSET, 0x1001)];
    refused_file(&segment("askew", &askew), &["segment 1", "differ within a page"]);
}

#[test]
fn memory_sizes_that_make_no_sense() {
    let hello = payload("hello");
    let hello = hello.to_str().unwrap();
    for (size, says) in [
        ("0", "no memory at all"),
        ("99999999999E", "no machine has that much"),
        ("lots", "a size is a number"),
        ("-1", "a size is a number"),
        ("", "a size is a number"),
    ] {
        refused_words(&["run", &format!("--mem={size}"), hello], says);
    }
}

#[test]
fn more_memory_than_the_host_has() {
    let hello = payload("hello");
    for size in ["1E", "900T"] {
        let ran = mmvisor(&["run", "--mem", size, hello.to_str().unwrap()]);
        refused(&ran, &["mmvisor: --mem is ", "but this host has "]);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
}

#[test]
fn options_that_do_not_exist() {
    refused_words(&["run", "--no-such-option", "/bin/true"], "--no-such-option");
    refused_words(&["no-such-command"], "no-such-command");
    refused_words(&["run", "--env", "novalue", "/bin/true"], "NAME=VALUE");
    refused_words(&["run", "--env", "=value", "/bin/true"], "NAME=VALUE");
    refused_words(&["run"], "required arguments were not provided");
}

#[test]
fn a_trace_file_that_cannot_be_made() {
    let hello = payload("hello");
    let ran = mmvisor(&["run", "--trace=/no/such/directory/trace", hello.to_str().unwrap()]);
    refused(&ran, &["/no/such/directory/trace"]);
}

#[test]
fn files_that_cannot_be_given() {
    let hello = payload("hello");
    let read_only = file("read-only", b"bytes");
    for (given, words) in [
        ("/no/such/file", &["--file /no/such/file", "No such file"][..]),
        ("/dev/null", &["--file /dev/null", "not a regular file"]),
        ("/tmp", &["--file /tmp", "not a regular file"]),
        // The kernel refuses to have a running program written.
        (env!("CARGO_BIN_EXE_mmvisor"), &["--file ", "Text file busy", ":ro"]),
    ] {
        let ran = mmvisor(&["run", "--file", given, hello.to_str().unwrap()]);
        refused(&ran, words);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    let given = read_only.to_str().unwrap();
    let words = ["run", "--machine=nested", "--file", given, hello.to_str().unwrap()];
    refused(&mmvisor(&words), &["nested machine has a copy", ":ro"]);
    refused_words(&["run", "--file", ":ro", "/bin/true"], "PATH:ro");
}

#[test]
fn directories_that_cannot_be_granted() {
    let hello = payload("hello");
    let hello = hello.to_str().unwrap();
    for (given, words) in [
        ("/no/such/directory", &["--dir /no/such/directory", "No such file"][..]),
        ("/dev/null", &["--dir /dev/null", "Not a directory"]),
    ] {
        let ran = mmvisor(&["run", "--dir", given, hello]);
        refused(&ran, words);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    refused(&mmvisor(&["run", "--machine=nested", "--dir=/tmp", hello]), &["--dir /tmp", "no way"]);
    for given in ["", ":ro", ":/x", "/tmp:x", "/tmp:/a/../b"] {
        refused_words(&["run", "--dir", given, hello], "");
    }
}
