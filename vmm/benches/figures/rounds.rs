//! Two things measured in turn, so that whatever else the machine does meets both alike.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What goes wrong ends the benchmark with its sentence.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// How many rounds: `cargo bench` measures, whatever else starts a benchmark only goes through it.
pub(crate) fn wanted() -> u32 {
    if std::env::args().any(|argument| argument == "--bench") { 20 } else { 1 }
}

/// What a benchmark ends with.
pub(crate) fn end(done: Outcome<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("no figures: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// By the clock on the wall.
    pub(crate) wall: Duration,
    /// Of a processor. A busy machine hardly changes it; waiting is not in it.
    pub(crate) processor: Duration,
}

impl Spent {
    /// What `what` takes on this thread.
    pub(crate) fn on(what: impl FnOnce() -> Outcome<()>) -> Outcome<Spent> {
        let processor = processor_time();
        let wall = Instant::now();
        what()?;
        let wall = wall.elapsed();
        Ok(Spent { wall, processor: processor_time().saturating_sub(processor) })
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// A median with the least and the most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Outcome<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
            return Err("no round was measured".into());
        };
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Ok(Spread { median, least, most })
    }
}

/// A floor and what is measured against it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// The floor's seconds.
    pub(crate) floor: Spread,
    /// mmvisor's seconds.
    pub(crate) subject: Spread,
    /// mmvisor's by the floor's, round by round.
    pub(crate) ratio: Spread,
    /// The same of processor time.
    pub(crate) processor: Spread,
}

impl Pair {
    /// Of rounds of floor and mmvisor.
    pub(crate) fn of(pairs: &[(Spent, Spent)]) -> Outcome<Pair> {
        let ratio = |part: fn(&Spent) -> Duration| {
            Spread::of(
                pairs.iter().map(|(floor, subject)| part(subject).div_duration_f64(part(floor))),
            )
        };
        Ok(Pair {
            floor: Spread::of(pairs.iter().map(|(floor, _)| floor.wall.as_secs_f64()))?,
            subject: Spread::of(pairs.iter().map(|(_, subject)| subject.wall.as_secs_f64()))?,
            ratio: ratio(|spent| spent.wall)?,
            processor: ratio(|spent| spent.processor)?,
        })
    }
}

/// Measures `floor` and `subject` in turn, `rounds` times after one that does not count. Which is
/// first changes from round to round.
pub(crate) fn alternate(
    rounds: u32,
    mut floor: impl FnMut() -> Outcome<Spent>,
    mut subject: impl FnMut() -> Outcome<Spent>,
) -> Outcome<Pair> {
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let pair = if round % 2 == 0 {
            let first = floor()?;
            (first, subject()?)
        } else {
            let first = subject()?;
            (floor()?, first)
        };
        if round > 0 {
            pairs.push(pair);
        }
    }
    Pair::of(&pairs)
}
