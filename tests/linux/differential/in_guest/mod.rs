//! The third executor: the same acts in software and in a guest under KVM, compared after each.
//!
//! ```text
//!   acts, then a sweep ──┬─> software ──┐  results, VMAs, what mincore sees, after each;
//!   (every page that is  ├─> guest ─────┴─ VmFlags and accounts at the end
//!    left: read, written,│
//!    read again; exit)   └─> as a trace ──> `replay --in-guest` in the nested machine
//! ```
//!
//! Both have the same code for everything but translation. So what differs is a translation that should
//! have been flushed, an entry that hardware takes otherwise than the walk in software, or a fault that
//! was resolved for another access than the one that was made.
//!
//! `make fuzz-guest N=100000 SEED=1` makes as many calls as one likes.

mod as_trace;
mod nested;
mod swapped;

pub use nested::both as in_nested_machine;
pub use swapped::many as with_swap;

use std::sync::Arc;

use libtest_mimic::{Completion, Failed, Trial};
use mm::addr::{PAGE_BYTES, PAGE_SIZE};
use mm::swap::SwapStore;
use vmm::kvm::{FlushPolicy, Kind};
use vmm::machine::{Machine, MachineConfig};
use vmm::replay;
use vmm::swap_file::SwapFile;

use super::act::{Act, Deed};
use super::model::{Area, Model, Start};
use super::run::{self, Difference};
use super::sizes::Cause;
use super::{Executors, LENGTH, fault_ahead, generate, many, shrink};
use crate::common::kvm_unusable;
use crate::oracle::Oracle;

/// Memory of the guest: far more than the acts can touch.
const MEMORY: u64 = 256 << 20;
/// Sequences from seeds that never change.
const FIXED: u64 = 100;
/// Within how many acts it has to show that flushes are left out.
const NOTICED_WITHIN: u64 = 10_000;
/// The number of the sweep's first child: beyond those of the acts.
const FIRST_CHILD: u8 = 100;
/// How much of each VMA is looked at, in pages.
const LOOKED_AT: u64 = 8;

/// The trials.
pub fn trials() -> Vec<Trial> {
    let mut trials =
        vec![Trial::ignorable_test("differential::in_guest::random_calls", random_calls)];
    for (name, flush) in [
        ("notices_without_flush", FlushPolicy::None),
        ("notices_without_flush_of_tables", FlushPolicy::LeavesOnly),
    ] {
        let name = format!("differential::in_guest::{name}");
        trials.push(Trial::ignorable_test(name, move || notices(flush)));
    }
    trials.extend(swapped::trials());
    trials.extend(nested::trials());
    trials
}

/// The same seeds on the host's kernel, in software, and in the guest.
fn random_calls() -> Result<Completion, Failed> {
    if let Some(why) = kvm_unusable() {
        return Ok(Completion::ignored_with(why));
    }
    many(1, FIXED, Executors::KernelSoftwareGuest)?;
    Ok(Completion::Completed)
}

/// With a guest that is not flushed as it must be, a difference is found soon.
fn notices(flush: FlushPolicy) -> Result<Completion, Failed> {
    if let Some(why) = cannot_notice() {
        return Ok(Completion::ignored_with(why));
    }
    let start = Start::of(&mut Oracle::start()?)?;
    for seed in 1..=NOTICED_WITHIN / LENGTH {
        let start = start.clone().set(&fault_ahead(seed));
        let sequence = generate::sequence(&start, seed, LENGTH)?;
        if let Some(difference) = compare(&start, &sequence.acts, flush)? {
            println!("{flush:?}: in sequence {seed}, {difference}");
            return Ok(Completion::Completed);
        }
    }
    Err(format!("{NOTICED_WITHIN} acts did not show what {flush:?} leaves out").into())
}

/// Why a missing flush would not show here, if it would not.
pub fn cannot_notice() -> Option<String> {
    let kind = Kind::detect();
    kvm_unusable().or_else(|| {
        (!matches!(kind, Kind::Soft | Kind::Shadow)).then(|| {
            format!("a missing flush need not show under {kind}; the nested machine shows it")
        })
    })
}

/// How the guest of a seed's sequence is flushed: half of them by write protection, which nobody would choose
/// for so few pages. Whether pages are brought in ahead goes by the lowest bit.
fn flush_of(seed: u64) -> FlushPolicy {
    if seed & 2 == 0 { FlushPolicy::Chosen } else { FlushPolicy::WriteProtection }
}

/// Fails if software and guest differ, with the shortest acts that show it.
pub fn check(start: &Start, seed: u64, acts: Vec<Act>) -> Result<(), Failed> {
    let flush = flush_of(seed);
    let Some(difference) = compare(start, &acts, flush)? else { return Ok(()) };
    let (acts, difference) =
        shrink::shrink(acts, difference, |fewer| compare(start, fewer, flush).ok().flatten());
    let listing: String = acts.iter().map(|act| format!("{act}\n")).collect();
    Err(format!("software and guest, by {flush:?}, shrunk:\n{listing}{difference}").into())
}

/// Does the acts in software and in a new guest. Differences of the sweep are at the act past the last.
fn compare(start: &Start, acts: &[Act], flush: FlushPolicy) -> Result<Option<Difference>, Failed> {
    let guest = replay::in_guest(&Arc::new(machine(start, flush)?))?;
    let mut both = Both { software: Model::new(start)?, guest: Model::on(start, guest)? };
    for (at, act) in acts.iter().enumerate() {
        let what = both.perform(act)?.or_else(|| both.differ_in(start, act.process));
        if let Some(what) = what {
            return Ok(Some(Difference { act: at, what, cause: Cause::Other }));
        }
    }
    let differs = |what| Ok(Some(Difference { act: acts.len(), what, cause: Cause::Other }));
    let (software, guest) = (run::ends(&both.software), run::ends(&both.guest));
    if let Some((ours, guests)) = software.iter().zip(&guest).find(|(ours, guests)| ours != guests)
    {
        return differs(ours.unlike(guests));
    }
    for act in &sweep(&both.software) {
        if both.software.lines(act.process).is_empty() {
            continue;
        }
        // The last thing that a process does.
        let is_last = act.deed == Deed::Exit;
        let state = || is_last.then(|| both.differ_in(start, act.process)).flatten();
        let what = match state() {
            None => both.perform(act)?,
            what => what,
        };
        if let Some(what) = what {
            return differs(format!("{act}: {what}"));
        }
    }
    Ok(None)
}

fn machine(start: &Start, flush: FlushPolicy) -> Result<Machine, Failed> {
    let area = start.area().pages().map(|pages| pages * PAGE_SIZE);
    let file = area.map(|bytes| SwapFile::new(&std::env::temp_dir(), bytes)).transpose()?;
    let store = file.map(|file| Box::new(file) as Box<dyn SwapStore>);
    Ok(Machine::for_replay(MachineConfig { memory: MEMORY, flush, nodes: 1 }, store)?)
}

/// The two machines.
struct Both {
    software: Model,
    guest: Model,
}

impl Both {
    /// Does an act on both, and says how the answers differ. What is broken in the guest is a
    /// difference: it is not in software.
    fn perform(&mut self, act: &Act) -> Result<Option<String>, Failed> {
        let ours = self.software.perform(act)?;
        Ok(match self.guest.perform(act) {
            Ok(guests) if guests == ours => None,
            Ok(guests) => Some(format!("software answers {ours:x?}, the guest {guests:x?}")),
            Err(failed) => Some(format!("the guest: {:?}", failed.message())),
        })
    }

    /// How a process differs in its VMAs or in what is resident, or what is unsound with the guest's.
    fn differ_in(&self, start: &Start, process: u8) -> Option<String> {
        let Both { software, guest } = self;
        if let Err(failed) = start.is_sound(guest, process) {
            return Some(format!("the guest: {:?}", failed.message()));
        }
        let (ours, guests) = (software.lines(process), guest.lines(process));
        if ours != guests {
            return Some(format!("VMAs: software {ours:x?}, the guest {guests:x?}"));
        }
        if start.area() != Area::None {
            let (ours, guests) = (software.usages(process), guest.usages(process));
            let differ = ours.iter().zip(&guests).find(|(ours, guests)| ours != guests);
            if let Some((ours, guests)) = differ {
                return Some(format!("smaps: software {ours:x?}, the guest {guests:x?}"));
            }
        }
        software.beginnings(process, LOOKED_AT).into_iter().find_map(|range| {
            let ours = software.resident(process, range.clone());
            let guests = guest.resident(process, range.clone());
            let differ = ours != guests;
            differ.then(|| format!("resident in {range:x?}: {ours:?}, the guest {guests:?}"))
        })
    }
}

/// Every process reads all that is left, writes to it, and reads it again. Then each forks a child and
/// ends before it, so that tables of those that ended are those of the next.
///
/// A fork may fail: then there is no child to act.
fn sweep(model: &Model) -> Vec<Act> {
    let mut pages: Vec<(u8, u64)> = Vec::new();
    for process in 0..u8::MAX {
        let ranges = model.beginnings(process, LOOKED_AT);
        let addresses = ranges.into_iter().flat_map(|range| range.step_by(PAGE_BYTES));
        // A fault that a userfaultfd waits for has no end.
        pages
            .extend(addresses.filter(|&at| !model.is_watched(process, at)).map(|at| (process, at)));
    }
    let mut processes: Vec<u8> = pages.iter().map(|(process, _)| *process).collect();
    processes.dedup();
    let of = |owner: Option<u8>, process: Option<u8>, deed: fn(u64, u8) -> Deed| -> Vec<Act> {
        let numbered = pages.iter().zip((1..=u8::MAX).cycle());
        let owned = numbered.filter(|((by, _), _)| owner.is_none_or(|owner| owner == *by));
        let act = |(&(by, at), byte)| Act { process: process.unwrap_or(by), deed: deed(at, byte) };
        owned.map(act).collect()
    };
    let load: fn(u64, u8) -> Deed = |at, _| Deed::Load(at + 9);
    let store: fn(u64, u8) -> Deed = |at, byte| Deed::Store(at + 9, byte);
    let mut acts = [of(None, None, load), of(None, None, store), of(None, None, load)].concat();
    for (&parent, child) in processes.iter().zip(FIRST_CHILD..) {
        let act = |process, deed| vec![Act { process, deed }];
        acts.extend(act(parent, Deed::Fork(child)));
        acts.extend(of(Some(parent), Some(child), |at, byte| Deed::Store(at + 9, !byte)));
        acts.extend(of(Some(parent), Some(parent), load));
        acts.extend(act(parent, Deed::Exit));
        acts.extend(of(Some(parent), Some(child), load));
        acts.extend(act(child, Deed::Exit));
    }
    acts
}
