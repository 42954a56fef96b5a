//! What reading a file costs a program that has it mapped, natively and in a guest: the payload `mapped` measures
//! itself. The file is in the host's memory all the while.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lines;
use crate::rounds::{Outcome, Pair};

/// Each figure as the payload names it, as it is printed, and the most that it shall be of the native one.
pub(crate) const FIGURES: [(&str, &str, &str); 4] = [
    ("order", "read a mapped file in order", "1.1"),
    ("again", "read it once more", "1.1"),
    ("random", "read it page by page at random", "1.1"),
    ("touch", "read a word of each page", "-"),
];

/// The same of a file that the host has in pieces of 2 MiB, where its file system makes such.
pub(crate) const LARGE: [(&str, &str, &str); 4] = [
    ("order", "a mapped file in large pieces, in order", "1.1"),
    ("again", "read it once more", "1.1"),
    ("random", "read it page by page at random", "1.1"),
    ("touch", "read a word of each page", "-"),
];

/// How a file is written, which decides in what pieces the host keeps it: MiB at a time.
#[derive(Clone, Copy)]
pub(crate) enum Written {
    Small = 1,
    Large = 4,
}

/// A file of so many bytes that is gone when this is dropped.
struct Mapped(PathBuf);

impl Mapped {
    fn new(directory: &Path, mebibytes: u64, written: Written) -> Outcome<Mapped> {
        let made = Mapped(directory.join(format!("mapped-{}", std::process::id())));
        let mut file = File::create(&made.0)?;
        for part in 0..mebibytes / written as u64 {
            let byte = u8::try_from(part % 251)?;
            file.write_all(&vec![byte; (written as usize) << 20])?;
        }
        file.sync_all()?;
        Ok(made)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Nothing is left to be done about a file that stays in the build's directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Measures all figures with a file of that size, natively and in a guest in turn.
pub(crate) fn measure(rounds: u32, mebibytes: u64, written: Written) -> Outcome<Vec<Pair>> {
    let file = Mapped::new(Path::new(env!("CARGO_TARGET_TMPDIR")), mebibytes, written)?;
    let (mmvisor, payload) = lines::payload("mapped")?;
    let size = mebibytes.to_string();
    let native = || {
        // Only a shell opens files under numbers of one's choice.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r#"exec "$0" "$1" 3<"$2""#]).arg(&payload).arg(&size).arg(&file.0);
        lines::run(&mut shell, &FIGURES)
    };
    let hosted = || {
        let mut command = Command::new(mmvisor);
        command.args(["run", "--machine", "kvm", &format!("--mem={}M", mebibytes + 64), "--file"]);
        command.arg(format!("{}:ro", file.0.display())).arg(&payload).arg(&size);
        lines::run(&mut command, &FIGURES)
    };
    lines::alternate(rounds, FIGURES.len(), native, hosted)
}
