//! What a way to the swap area and back costs a program (the payload `pages` measures itself), against a file in the same
//! directory that is written and read as fast as one can: 128 KiB at a time.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::lines;
use crate::rounds::{Outcome, Pair, Spent};

/// Each figure as the payload names it, as it is printed, and the most that it shall be of the file's.
type Figures = [(&'static str, &'static str, &'static str); 2];
/// What the payload is asked for, and its figures: of a process's own memory and of shared memory.
pub(crate) const FIGURES: [(&str, Figures); 2] = [
    ("swap", [("out", "out, MADV_PAGEOUT", "1.3"), ("in", "in, page by page", "1.3")]),
    ("swap-shared", [("out", "shared, out", "1.3"), ("in", "shared, in", "1.3")]),
];

/// Bytes that the floor moves at a time.
const PIECE: usize = 128 << 10;

/// Measures a kind of memory, so much of it, by a file and in a guest in turn.
pub(crate) fn measure(
    rounds: u32,
    mebibytes: u64,
    (asked, figures): &(&str, Figures),
) -> Outcome<Vec<Pair>> {
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
        command.args([&mebibytes.to_string(), *asked]);
        lines::run(&mut command, figures)
    };
    lines::alternate(rounds, figures.len(), by_file, hosted)
}

/// A file where the swap area is, that has no name any more.
fn unnamed() -> Outcome<File> {
    let path = std::env::temp_dir().join(format!("mmvisor-bench-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
