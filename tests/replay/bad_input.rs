//! What a person sees whose trace is none: a sentence on standard error that names the file and the line,
//! status 2, never a panic.

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use crate::common::{MMVISOR, Ran};
use crate::{Counts, replay, scratch};

/// A trace on standard input, which is refused: the counts so far, then a sentence with these words.
fn refused(trace: &[u8], words: &[&str]) -> Counts {
    let ran = replay(&["-"], trace);
    let shown = String::from_utf8_lossy(&trace[..trace.len().min(300)]);
    assert_eq!(ran.status, Some(2), "{shown}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{shown}: {ran:?}");
    assert!(ran.stderr.starts_with("mmvisor: stdin: line "), "{shown}: {ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is not in {:?}", ran.stderr);
    }
    Counts::of(&ran)
}

/// A file that cannot be read: one sentence, nothing else.
fn unreadable(path: &str, says: &str) {
    let ran = replay(&[path], b"");
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    let sentence = format!("mmvisor: {path}: cannot read the trace: {says}");
    assert!(ran.stderr.starts_with(&sentence) && ran.stderr.lines().count() == 1, "{ran:?}");
}

#[test]
fn a_file_that_is_not_there_or_no_file() {
    unreadable("/no/such/file", "No such file or directory");
    unreadable("/tmp", "Is a directory");
    unreadable("/dev/null/file", "Not a directory");
}

#[test]
fn a_command_line_that_makes_no_sense() {
    for args in [&[][..], &["a", "b"], &["--no-such-option", "a"]] {
        let ran = replay(args, b"");
        assert_eq!(ran.status, Some(125), "{ran:?}");
        assert!(ran.stderr.contains("error: ") && ran.stderr.contains("--help"), "{ran:?}");
    }
    assert_eq!(replay(&["--help"], b"").status, Some(0));
}

#[test]
fn binary_garbage() {
    let every_byte: Vec<u8> = (0..=255).collect();
    refused(&every_byte, &[]);
    refused(&fs::read(MMVISOR).unwrap(), &["line 1: "]);
    refused(&[0xff; 5000], &["line 1: ", "is no event"]);
    refused(&[b'('; 100_000], &["line 1: "]);
    refused(&[b"mmap(".as_slice(), &[b'['; 100_000]].concat(), &["line 1: "]);
}

#[test]
fn an_empty_trace_and_one_of_comments_are_traces() {
    for trace in ["", "\n\n", "# nothing\n", "12  +++ exited with 0 +++\n"] {
        let counts = Counts::of_good(&replay(&["-"], trace.as_bytes()));
        assert_eq!((counts.calls, counts.checks), (0, 0));
    }
}

const GOOD: &str =
    "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7ffff7ffd000";

/// A line cut anywhere is refused, or reads as another: then it is a mismatch at most.
#[test]
fn a_line_cut_anywhere() {
    assert_eq!(Counts::of_good(&replay(&["-"], GOOD.as_bytes())).checks, 1);
    let result = GOOD.find("= 0x").unwrap();
    for end in 1..GOOD.len() {
        let cut = &GOOD.as_bytes()[..end];
        if end <= result + "= ".len() {
            refused(cut, &["line 1: "]);
        } else {
            let ran = replay(&["-"], cut);
            assert!(matches!(ran.status, Some(1 | 2)), "{ran:?}");
        }
    }
}

#[test]
fn nothing_after_a_malformed_line_is_replayed() {
    let trace = format!("{GOOD}\nmunmap(0x7ffff7ffd000, 8192) = 5\nmunmap(0x1000\n{GOOD}\n");
    let counts = refused(trace.as_bytes(), &["line 3: ", "munmap", "no closing `)`"]);
    assert_eq!((counts.calls, counts.checks, counts.mismatches), (2, 2, 1));
}

#[test]
fn unknown_names() {
    // A call is skipped: there are many.
    let counts = Counts::of_good(&replay(&["-"], b"frobnicate(1, \"a\", {b=2}) = 0\n"));
    assert_eq!((counts.calls, counts.checks, counts.skipped), (1, 0, 1));
    let flag = GOOD.replace("PROT_READ", "PROT_PEEK");
    refused(flag.as_bytes(), &["`prot` of mmap", "`PROT_PEEK`"]);
    refused(b"munmap(0x1000, 4096) = -1 EWHAT (What)\n", &["`EWHAT`"]);
    refused(b"@wait 5\n", &["`@wait` is unknown", "@maps"]);
    refused(b"@touch 0x1000 y = ok\n", &["`y`", "r, w or x"]);
    refused(b"@maps\n1000-2000 rw-p 0 0:0 0\n", &["@maps has no @end"]);
    refused(b"@maps\nrw-p 0 0:0 0\n@end\n", &["no line of /proc/PID/maps"]);
    refused(b"<... munmap resumed>) = 0\n", &["`<unfinished ...>`"]);
}

#[test]
fn a_starting_state_that_cannot_be() {
    let overlap = "@maps\n1000-3000 rw-p 0 0:0 0\n2000-4000 rw-p 0 0:0 0\n@end\n";
    refused(overlap.as_bytes(), &["line 1: ", "starting state"]);
    let odd = "@maps\n1001-3000 rw-p 0 0:0 0\n@end\n";
    refused(odd.as_bytes(), &["line 1: ", "starting state"]);
}

#[test]
fn numbers_at_their_extremes_are_linuxs_errors() {
    let trace = "mmap(NULL, 18446744073709551615, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = \
                 -1 ENOMEM (Cannot allocate memory)\n\
                 mmap(0xfffffffffffff000, 4096, PROT_NONE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = \
                 -1 ENOMEM (Cannot allocate memory)\n\
                 munmap(0xffffffffffffffff, 18446744073709551615) = -1 EINVAL (Invalid argument)\n\
                 mremap(0x8000000000000000, 9223372036854775808, 18446744073709551615, 0) = \
                 -1 EINVAL (Invalid argument)\n\
                 madvise(0, 18446744073709551615, MADV_DONTNEED) = -1 EINVAL (Invalid argument)\n\
                 @touch 0xffffffffffffffff w = SEGV_MAPERR\n";
    let counts = Counts::of(&replay(&["-"], trace.as_bytes()));
    assert_eq!((counts.checks, counts.mismatches), (6, 0));
}

/// A file on standard output that takes nothing.
#[test]
fn output_that_cannot_be_written() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let path = scratch("good.trace");
    fs::write(&path, GOOD).unwrap();
    let mut command = Command::new(MMVISOR);
    command.arg("replay").arg(&path).stdout(full).stderr(Stdio::piped());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    let ran = Ran { status: Some(125), stdout: Vec::new(), stderr, left_behind: false };
    assert!(!ran.panicked() && ran.stderr.contains("cannot print the result"), "{ran:?}");
}
