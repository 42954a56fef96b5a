//! The same random calls on the host kernel and on our side, compared after each.
//!
//! ```text
//!   seed -> generate: acts, and what our side makes of them -> run: the player does them on the host
//!           (asks our side what is there,                      and both are compared, act by act
//!            so most calls hit something)                   -> shrink: the shortest that still differ
//! ```
//!
//! `in_guest` then compares our side in software with our side in a guest.
//!
//! `make fuzz-linux N=10000000 SEED=1` makes as many calls as one likes.

mod act;
mod answers;
mod commit;
mod found;
mod generate;
mod in_guest;
mod kernel;
mod limit;
mod model;
mod pages;
mod pool;
mod program;
mod run;
mod seeds;
mod shrink;
mod sizes;
mod tally;

use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use libtest_mimic::{Failed, Trial};
use mm::addr::index;
use mm::rules::Rule;

use crate::oracle::Oracle;
use kernel::Kernel;
use model::Start;
use seeds::Seeds;
use tally::Tally;

/// Acts in a sequence.
const LENGTH: u64 = 100;
/// Sequences from seeds that never change.
const FIXED: u64 = 2_000;
/// Sequences from seeds that nobody tried before.
const FRESH: u64 = 200;
/// Sequences in which a userfaultfd is served, from seeds that never change.
const SERVED: u64 = 600;
/// How many pages a fault may bring in, by turns.
const FAULT_AHEAD: [u64; 2] = [64, 1];
/// Within how many acts a missing rule has to show.
const NOTICED_WITHIN: u64 = 200_000;

/// What a sequence is compared on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Executors {
    /// The host's kernel and software.
    KernelSoftware,
    /// These, and a guest under the host's KVM.
    KernelSoftwareGuest,
}

/// The trials. With `MMVISOR_FUZZ_CALLS`, only so many calls, from `MMVISOR_FUZZ_SEED` on, and with
/// `MMVISOR_FUZZ_GUEST`, of any value, in a guest too; with `MMVISOR_FUZZ_NESTED` not on the host's kernel
/// but in the nested machine's guests; with `MMVISOR_FUZZ_PROGRAM` by a program on its own address space.
pub fn trials() -> Vec<Trial> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(calls) = number("MMVISOR_FUZZ_CALLS") {
        let first = number("MMVISOR_FUZZ_SEED").unwrap_or_else(fresh_seed);
        if std::env::var_os("MMVISOR_FUZZ_NESTED").is_some() {
            let seeds = first..first.saturating_add(calls.div_ceil(LENGTH));
            return in_guest::in_nested_machine(seeds).into();
        }
        if std::env::var_os("MMVISOR_FUZZ_PROGRAM").is_some() {
            let name = "differential::program::fuzz";
            return vec![Trial::ignorable_test(name, move || {
                program::fuzz(program::seeds(first, calls))
            })];
        }
        let executors = match std::env::var_os("MMVISOR_FUZZ_GUEST") {
            Some(_) => Executors::KernelSoftwareGuest,
            None => Executors::KernelSoftware,
        };
        let sequences = calls.div_ceil(LENGTH);
        let mut trials = vec![Trial::test("differential::fuzz", move || {
            many(first, sequences, executors).map(drop)
        })];
        trials.push(Trial::test("differential::fuzz_userfault", move || {
            served(first, sequences, executors).map(drop)
        }));
        if executors == Executors::KernelSoftwareGuest {
            trials.push(Trial::test("differential::fuzz_swapped", move || {
                in_guest::with_swap(first, sequences).map(drop)
            }));
        }
        return trials;
    }
    let mut trials = vec![Trial::test("differential::random_calls", random_calls)];
    trials.push(Trial::test("differential::userfault", served_calls));
    trials.push(Trial::test("differential::kernel", says_what_differs));
    trials.push(Trial::test("differential::max_map_count", max_map_count));
    trials.push(Trial::test("differential::overcommit", commit::compare));
    trials.extend(found::trials());
    trials.extend(in_guest::trials());
    trials.extend(program::trials());
    trials.extend(Rule::ALL.map(|rule| {
        Trial::test(format!("differential::notices_without::{rule:?}"), move || notices(rule))
    }));
    trials
}

/// The seeds that never change, and some that nobody tried before; together they meet every answer.
fn random_calls() -> Result<(), Failed> {
    let mut tally = many(1, FIXED, Executors::KernelSoftware)?;
    tally.add(&many(fresh_seed(), FRESH, Executors::KernelSoftware)?);
    if tally.left_out() > 0 {
        // Then the host's kernel is another one, and not all can be met.
        return Ok(());
    }
    let missing = tally.missing(answers::EXPECTED);
    if missing.is_empty() { Ok(()) } else { Err(format!("never met: {missing:#?}").into()) }
}

/// The same of a userfaultfd that is served.
fn served_calls() -> Result<(), Failed> {
    let mut tally = served(1, SERVED, Executors::KernelSoftwareGuest)?;
    tally.add(&served(fresh_seed(), SERVED / 10, Executors::KernelSoftwareGuest)?);
    if tally.left_out() > 0 {
        return Ok(());
    }
    let missing = tally.missing(answers::SERVED);
    if missing.is_empty() { Ok(()) } else { Err(format!("never met: {missing:#?}").into()) }
}

/// The same answers at the limit of VMAs.
fn max_map_count() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let start = Start::of(&mut oracle)?;
    limit::compare(&mut oracle, &start)?.map_or(Ok(()), |difference| Err(difference.into()))
}

/// What of the host's kernel is not compared, because it has other rules.
fn says_what_differs() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let start = Start::of(&mut oracle)?;
    for rule in Kernel::probe(&mut oracle, &start)?.rules() {
        println!("this kernel differs, and is not compared in this: {rule}");
    }
    Ok(())
}

/// A seed from the clock.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) << 20
}

/// So many sequences, from these seeds on, on all processors.
fn many(first: u64, sequences: u64, executors: Executors) -> Result<Tally, Failed> {
    many_from(first, sequences, executors, |start| start)
}

/// Sequences in which a userfaultfd is served, too: each kind of request is refused and met.
fn served(first: u64, sequences: u64, executors: Executors) -> Result<Tally, Failed> {
    many_from(first, sequences, executors, Start::with_serving)
}

/// The same, from another start.
fn many_from(
    first: u64,
    sequences: u64,
    executors: Executors,
    prepare: fn(Start) -> Start,
) -> Result<Tally, Failed> {
    let began = Instant::now();
    let tally = Mutex::new(Tally::default());
    Seeds::new(first..first + sequences).on_all_processors(|seeds| {
        let mut oracle = Oracle::start()?;
        let start = prepare(Start::of(&mut oracle)?);
        let kernel = Kernel::probe(&mut oracle, &start)?;
        let mut own = Tally::default();
        while let Some(seed) = seeds.next() {
            one(&mut oracle, &start, &kernel, seed, executors, &mut own)?;
        }
        tally.lock().map_err(|_| "another thread failed")?.add(&own);
        Ok(())
    })?;
    let tally = tally.into_inner().map_err(|_| "a thread panicked")?;
    let (calls, seconds) = (sequences * LENGTH, began.elapsed().as_secs());
    println!("{calls} acts from seeds {first} on without a difference, in {seconds} s:{tally}");
    Ok(tally)
}

/// One sequence, unless the host's kernel has other rules for it. A difference is shrunk.
fn one(
    oracle: &mut Oracle,
    start: &Start,
    kernel: &Kernel,
    seed: u64,
    executors: Executors,
    tally: &mut Tally,
) -> Result<(), Failed> {
    let of_seed = |failed: Failed| -> Failed {
        format!("seed {seed}: {}", failed.message().unwrap_or_default()).into()
    };
    let start = &start.clone().set(&fault_ahead(seed));
    let sequence = generate::sequence(start, seed, LENGTH).map_err(of_seed)?;
    if kernel.differs(&sequence.acts) {
        tally.leave_out();
        return Ok(());
    }
    let difference = run::compare(oracle, &sequence.acts, &sequence.ours).map_err(of_seed)?;
    if let Some(difference) = difference {
        let (acts, difference) = shrink::shrink(sequence.acts, difference, |fewer| {
            let ours = run::perform(start, fewer).ok()?;
            run::compare(oracle, fewer, &ours).ok().flatten()
        });
        let listing: String = acts.iter().map(|act| format!("{act}\n")).collect();
        return Err(format!("seed {seed}, shrunk:\n{listing}{difference}").into());
    }
    tally.add(&sequence.tally);
    if executors == Executors::KernelSoftwareGuest {
        in_guest::check(start, seed, sequence.acts).map_err(of_seed)?;
    }
    Ok(())
}

/// How many pages a fault may bring in, in a seed's sequence: what that changes must not be seen.
fn fault_ahead(seed: u64) -> [(&'static str, u64); 1] {
    [("mmvisor.fault_ahead", FAULT_AHEAD[index(seed) % FAULT_AHEAD.len()])]
}

/// Without one of the hidden rules, a difference is found soon.
fn notices(rule: Rule) -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let start = Start::of(&mut oracle)?.without(rule);
    if rule == Rule::MapLimit {
        let noticed = limit::compare(&mut oracle, &start)?;
        // The act may have a thousand ranges; how it ends tells the difference.
        let told = noticed.as_deref().unwrap_or("nothing");
        println!("without {rule:?}: {}", told.rsplit("}], ").next().unwrap_or(told));
        return if noticed.is_some() { Ok(()) } else { Err("nothing shows at the limit".into()) };
    }
    for seed in 1..=NOTICED_WITHIN / LENGTH {
        let start = start.clone().set(&fault_ahead(seed));
        let sequence = generate::sequence(&start, seed, LENGTH)?;
        if let Some(difference) = run::compare(&mut oracle, &sequence.acts, &sequence.ours)? {
            let acts = (seed - 1) * LENGTH + difference.act as u64;
            println!("without {rule:?}: after {acts} acts");
            return Ok(());
        }
    }
    Err(format!("{NOTICED_WITHIN} acts did not show that {rule:?} is missing").into())
}
