//! What memory costs a program, natively and in a guest: the payload `pages` measures itself.
//!
//! Each run is the second of two alike, one right after the other: it gets the memory that the first one has
//! just given back. Any other free memory is dear on a host that is itself a guest and reports what is free to
//! its own host (`page_reporting`): 15 us a page instead of 0.2 to 2, which would be all that is measured.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::rounds::{Outcome, Pair, Spent};

/// Each figure as the payload names it, as it is printed, and the most that it shall be of the native one.
pub(crate) const FIGURES: [(&str, &str, &str); 7] = [
    ("touch", "touch, fresh pages of 4 KiB", "3"),
    ("again", "touch them once more", "-"),
    ("fork", "fork", "0.25"),
    ("copy", "write them while a child has them", "1"),
    ("read", "read them after a fork", "1"),
    ("reap", "fork, exit, wait", "-"),
    ("unmap", "munmap", "1"),
];

/// Measures all figures with so much memory, natively and in a guest in turn.
pub(crate) fn measure(rounds: u32, mebibytes: u64) -> Outcome<Vec<Pair>> {
    let mmvisor = Path::new(env!("CARGO_BIN_EXE_mmvisor"));
    let payload = mmvisor.with_file_name("pages");
    if !payload.exists() {
        let sentence =
            format!("there is no {}: cargo build --workspace makes it", payload.display());
        return Err(sentence.into());
    }
    // Twice for the copies, and some.
    let memory = format!("--mem={}M", 2 * mebibytes + 64);
    let native = || second(|| run(Command::new(&payload).arg(mebibytes.to_string())));
    let hosted = || {
        let mut command = Command::new(mmvisor);
        command.args(["run", "--machine", "kvm", &memory]).arg(&payload);
        command.arg(mebibytes.to_string());
        second(|| run(&mut command))
    };
    let mut figures = vec![Vec::new(); FIGURES.len()];
    for round in 0..rounds {
        let (floor, subject) = if round % 2 == 0 {
            let floor = native()?;
            (floor, hosted()?)
        } else {
            let subject = hosted()?;
            (native()?, subject)
        };
        for (at, pair) in floor.into_iter().zip(subject).enumerate() {
            figures[at].push(pair);
        }
    }
    figures.iter().map(|pairs| Pair::of(pairs)).collect()
}

/// Does something twice.
fn second<T>(mut run: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    run()?;
    run()
}

/// The payload's lines: a name, and nanoseconds by the clock and of the processor.
fn run(command: &mut Command) -> Outcome<Vec<Spent>> {
    let output = command.env_clear().stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    if !output.status.success() || lines.len() != FIGURES.len() {
        return Err(format!("{command:?}: {}, printed {text:?}", output.status).into());
    }
    let spent = |(line, (name, ..)): (&&str, &(&str, &str, &str))| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [said, wall, processor] if said == *name => Ok(Spent {
                wall: Duration::from_nanos(wall.parse()?),
                processor: Duration::from_nanos(processor.parse()?),
            }),
            _ => Err(format!("{line:?} stands where {name} must").into()),
        }
    };
    lines.iter().zip(&FIGURES).map(spent).collect()
}
