//! The same random calls on the host kernel and on our side, compared after each.

mod act;
mod generate;
mod model;
mod run;

use std::time::Instant;

use libtest_mimic::{Failed, Trial};

use crate::oracle::Oracle;
use act::Act;
use model::Start;
use run::Difference;

/// Acts in a sequence.
const LENGTH: usize = 100;

/// The trials: so many acts from these seeds on.
pub fn trials() -> Vec<Trial> {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (calls, seed) = (number("MMVISOR_FUZZ_CALLS", 20_000), number("MMVISOR_FUZZ_SEED", 1));
    vec![Trial::test("differential::random_calls", move || random_calls(calls, seed))]
}

fn random_calls(calls: u64, first: u64) -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let start = Start::of(&mut oracle)?;
    let began = Instant::now();
    let mut done = 0;
    for seed in first.. {
        let sequence = generate::sequence(&start, seed, LENGTH)
            .map_err(|failed| format!("seed {seed}: {}", failed.message().unwrap_or_default()))?;
        let difference = run::compare(&mut oracle, &sequence.acts, &sequence.ours)
            .map_err(|failed| format!("seed {seed}: {}", failed.message().unwrap_or_default()))?;
        if let Some(difference) = difference {
            let (acts, difference) = shrink(&mut oracle, &start, sequence.acts, difference)?;
            let listing: String = acts.iter().map(|act| format!("{act}\n")).collect();
            return Err(format!("seed {seed}, shrunk:\n{listing}{difference}").into());
        }
        done += sequence.acts.len() as u64;
        if done >= calls {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{done} acts without a difference, {:.0} a second", done as f64 / seconds);
    Ok(())
}

/// Leaves out acts for as long as a difference remains.
fn shrink(
    oracle: &mut Oracle,
    start: &Start,
    mut acts: Vec<Act>,
    mut difference: Difference,
) -> Result<(Vec<Act>, Difference), Failed> {
    acts.truncate(difference.act + 1);
    let mut size = acts.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < acts.len() {
            let mut fewer = acts.clone();
            let end = (at + size).min(acts.len());
            // Descriptors are numbered in the order in which they are opened.
            let kept =
                fewer.splice(at..end, std::iter::empty()).filter(Act::opens).collect::<Vec<_>>();
            if kept.len() == end - at {
                at = end;
                continue;
            }
            let _ = fewer.splice(at..at, kept);
            let ours = run::perform(start, &fewer);
            let found = match ours {
                Ok(ours) => run::compare(oracle, &fewer, &ours).ok().flatten(),
                Err(_) => None,
            };
            match found {
                Some(found) => {
                    fewer.truncate(found.act + 1);
                    (acts, difference) = (fewer, found);
                }
                None => at = end,
            }
        }
        size /= 2;
    }
    Ok((acts, difference))
}
