//! Payloads that measure themselves: lines of a name, and nanoseconds by the clock and of the processor.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::rounds::{Outcome, Pair, Spent};

/// mmvisor, and a payload beside it.
pub(crate) fn payload(name: &str) -> Outcome<(&'static Path, PathBuf)> {
    let mmvisor = Path::new(env!("CARGO_BIN_EXE_mmvisor"));
    let payload = mmvisor.with_file_name(name);
    if !payload.exists() {
        let sentence =
            format!("there is no {}: cargo build --workspace makes it", payload.display());
        return Err(sentence.into());
    }
    Ok((mmvisor, payload))
}

/// Runs both in turn, and gives each of their figures.
pub(crate) fn alternate(
    rounds: u32,
    figures: usize,
    native: impl Fn() -> Outcome<Vec<Spent>>,
    hosted: impl Fn() -> Outcome<Vec<Spent>>,
) -> Outcome<Vec<Pair>> {
    let mut pairs = vec![Vec::new(); figures];
    for round in 0..rounds {
        let (floor, subject) = if round % 2 == 0 {
            let floor = native()?;
            (floor, hosted()?)
        } else {
            let subject = hosted()?;
            (native()?, subject)
        };
        for (at, pair) in floor.into_iter().zip(subject).enumerate() {
            pairs[at].push(pair);
        }
    }
    pairs.iter().map(|pairs| Pair::of(pairs)).collect()
}

/// Runs a payload that is to print these figures.
pub(crate) fn run(command: &mut Command, figures: &[(&str, &str, &str)]) -> Outcome<Vec<Spent>> {
    let output = command.env_clear().stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    if !output.status.success() || lines.len() != figures.len() {
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
    lines.iter().zip(figures).map(spent).collect()
}
