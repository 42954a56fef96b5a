//! What a way to the swap area and back costs a program (the payload `pages` measures itself), against a file in the same
//! directory that is written and read as fast as one can: 128 KiB at a time.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::lines;
use crate::rounds::{Outcome, Pair, Spent};

/// Each figure as the payload names it, as it is printed, and the most that it shall be of the file's.
pub(crate) const FIGURES: [(&str, &str, &str); 2] =
    [("out", "out, MADV_PAGEOUT", "1.3"), ("in", "in, page by page", "1.3")];

/// Bytes that the floor moves at a time.
const PIECE: usize = 128 << 10;

/// Measures both with so much memory, by a file and in a guest in turn.
pub(crate) fn measure(rounds: u32, mebibytes: u64) -> Outcome<Vec<Pair>> {
    let (mmvisor, payload) = lines::payload("pages")?;
    let by_file = || {
        let file = unnamed()?;
        let mut piece = vec![1; PIECE];
        let places = || (0..mebibytes << 20).step_by(PIECE);
        let out = Spent::on(|| Ok(places().try_for_each(|at| file.write_all_at(&piece, at))?))?;
        let back =
            Spent::on(|| Ok(places().try_for_each(|at| file.read_exact_at(&mut piece, at))?))?;
        Ok(vec![out, back])
    };
    let hosted = || {
        let mut command = Command::new(mmvisor);
        let (memory, swap) = (2 * mebibytes, 2 * mebibytes);
        command.args(["run", "--machine", "kvm", &format!("--mem={memory}M")]);
        command.arg(format!("--swap={swap}M")).arg(&payload);
        command.args([&mebibytes.to_string(), "swap"]);
        lines::run(&mut command, &FIGURES)
    };
    lines::alternate(rounds, FIGURES.len(), by_file, hosted)
}

/// A file where the swap area is, that has no name any more.
fn unnamed() -> Outcome<File> {
    let path = std::env::temp_dir().join(format!("mmvisor-bench-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
