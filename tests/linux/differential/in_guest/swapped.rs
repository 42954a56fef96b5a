//! Software and guest with a swap area each, which few hosts have: what advice and want of memory swap out, what
//! calls make of it, and how vCPUs bring it back.
//!
//! Results, bytes and VMAs are compared with the host's kernel, too, where nothing is given up that is not swapped out:
//! there they are what they are without swap.
//!
//! Beside what is compared otherwise: how much of each VMA is in the area, and all the other lines of smaps. How many
//! swapped pages each call has met is counted, so that a run that met none cannot pass.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use libtest_mimic::{Completion, Failed, Trial};
use mm::addr::{PAGE_BYTES, PAGE_SIZE, VirtAddr, index};
use mm::replay::calls::MemoryCall as M;
use mm::sysctl::OfSize;
use vmm::kvm::FlushPolicy;

use super::super::act::{Act, Deed};
use super::super::kernel::Kernel;
use super::super::model::{Area, Model, Start};
use super::super::run::{self, Difference};
use super::super::seeds::Seeds;
use super::super::{LENGTH, fault_ahead, fresh_seed, generate, shrink};
use super::{LOOKED_AT, cannot_notice, check, compare, sweep};
use crate::common::kvm_unusable;
use crate::oracle::Oracle;

/// Sequences from seeds that never change, and from such that nobody tried before.
const FIXED: u64 = 200;
const FRESH: u64 = 40;
/// Every so many sequences have an area that is too small.
const TIGHT: u64 = 4;

/// What has to meet pages of a process's own that are in the area, and what such of shared memory.
const OWN: &[&str] = &[
    "touch",
    "fork",
    "exit_group",
    "munmap",
    "mmap",
    "mprotect",
    "mremap",
    "mlock",
    "mbind",
    "MADV_DONTNEED",
    "MADV_FREE",
    "MADV_WILLNEED",
    "MADV_COLD",
    "MADV_PAGEOUT",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MADV_DONTFORK",
    "MADV_GUARD_INSTALL",
];
const SHARED: &[&str] = &[
    "touch",
    "fork",
    "exit_group",
    "munmap",
    "mremap",
    "mprotect",
    "MADV_WILLNEED",
    "MADV_PAGEOUT",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
];

/// The trials.
pub fn trials() -> [Trial; 2] {
    [("swapped", random_calls as fn() -> _), ("notices_that_pages_leave_without_flush", leaves)]
        .map(|(name, run)| Trial::ignorable_test(format!("differential::in_guest::{name}"), run))
}

fn random_calls() -> Result<Completion, Failed> {
    if let Some(why) = kvm_unusable() {
        return Ok(Completion::ignored_with(why));
    }
    let mut met = many(1, FIXED)?;
    met.add(&many(fresh_seed(), FRESH)?);
    let missing = met.missing();
    if missing.is_empty() {
        return Ok(Completion::Completed);
    }
    Err(format!("no swapped pages were met by: {missing:?}").into())
}

/// A page that leaves memory by advice, or as memory runs out, is gone for the vCPU that used it; and it is noticed
/// where that is not so.
fn leaves() -> Result<Completion, Failed> {
    if let Some(why) = cannot_notice() {
        return Ok(Completion::ignored_with(why));
    }
    const PAGE: VirtAddr = VirtAddr::new(0x100_0000_0000);
    let start = Start::of(&mut Oracle::start()?)?.with_area(Area::Roomy).set(&fault_ahead(1));
    let (len, advice) = (PAGE_SIZE, 21);
    let paged_out = Deed::Call(M::Madvise { addr: PAGE, len, advice });
    for sharing in [1, 2] {
        let (prot, flags) = (3, 0x30 | sharing);
        let map = Deed::Call(M::Mmap { addr: PAGE, len, prot, flags, fd: -1, offset: 0 });
        for leaves in [&paged_out, &Deed::Reclaim] {
            let deeds =
                [map.clone(), Deed::Store(PAGE.get(), 1), leaves.clone(), Deed::Load(PAGE.get())];
            let acts = deeds.map(|deed| Act { process: 0, deed });
            if let Some(difference) = compare(&start, &acts, FlushPolicy::Chosen)? {
                return Err(difference.to_string().into());
            }
            match compare(&start, &acts, FlushPolicy::None)? {
                Some(Difference { act: 3, .. }) => {}
                other => return Err(format!("without a flush, {:?}: {other:?}", acts[2]).into()),
            }
        }
    }
    Ok(Completion::Completed)
}

/// In which size anonymous memory comes beside pages, by turns; mostly as on the host.
const SIZES: [Option<&str>; 4] = [None, Some("64k:always"), None, Some("2048k:always")];

fn size(seed: u64) -> Option<OfSize> {
    SIZES[index(seed / TIGHT) % SIZES.len()].and_then(|size| size.parse().ok())
}

/// The same start on a machine with a swap area.
pub fn start(start: &Start, seed: u64) -> Start {
    let area = if seed.is_multiple_of(TIGHT) { Area::Tight } else { Area::Roomy };
    let start = start.clone().with_area(area).set(&fault_ahead(seed / 2));
    match size(seed) {
        Some(size) => start.with_thp(vec![size]),
        None => start,
    }
}

/// So many sequences, from these seeds on, on all processors.
pub fn many(first: u64, sequences: u64) -> Result<Met, Failed> {
    let began = Instant::now();
    let met = Mutex::new(Met::default());
    Seeds::new(first..first + sequences).on_all_processors(|seeds| {
        let mut oracle = Oracle::start()?;
        let bare = Start::of(&mut oracle)?;
        let kernel = Kernel::probe(&mut oracle, &bare)?;
        while let Some(seed) = seeds.next() {
            let start = start(&bare, seed);
            let found = one(&mut oracle, &kernel, &start, seed).map_err(|failed| -> Failed {
                format!("seed {seed}, swapped: {}", failed.message().unwrap_or_default()).into()
            })?;
            met.lock().map_err(|_| "another thread failed")?.add(&found);
        }
        Ok(())
    })?;
    let met = met.into_inner().map_err(|_| "a thread panicked")?;
    let (calls, seconds) = (sequences * LENGTH, began.elapsed().as_secs());
    println!(
        "{calls} acts with swap, from seeds {first} on, in {seconds} s: swapped pages met{met}"
    );
    Ok(met)
}

fn one(oracle: &mut Oracle, kernel: &Kernel, start: &Start, seed: u64) -> Result<Met, Failed> {
    let acts = generate::sequence(start, seed, LENGTH)?.acts;
    let mut met = Met::by(start, &acts)?;
    if size(seed).is_none() && !kernel.differs(&acts) && !loses_bytes(&acts) {
        // Whether there is swap shows in no result, no byte and no VMA.
        let start = start.clone().untold();
        let mut differ = |acts: &[Act]| {
            let acts = [acts, &loads(&start, acts)?].concat();
            run::compare(oracle, &acts, &run::perform(&start, &acts)?)
        };
        if let Some(difference) = differ(&acts)? {
            let fewer = |acts: &[Act]| differ(acts).ok().flatten();
            let (acts, difference) = shrink::shrink(acts, difference, fewer);
            let listing: String = acts.iter().map(|act| format!("{act}\n")).collect();
            return Err(format!("with swap, shrunk:\n{listing}{difference}").into());
        }
        met.compared = 1;
    }
    check(start, seed, acts)?;
    Ok(met)
}

/// A look at each page that there is after the acts.
fn loads(start: &Start, acts: &[Act]) -> Result<Vec<Act>, Failed> {
    let mut model = Model::new(start)?;
    acts.iter().try_for_each(|act| model.perform(act).map(drop))?;
    let of_process = |process| {
        let ranges = model.beginnings(process, LOOKED_AT).into_iter();
        let ranges = ranges.filter(|range| generate::is_changeable(range, start.top()));
        let pages = ranges.flat_map(|range| range.step_by(PAGE_BYTES));
        let pages = pages.filter(|&at| !model.is_watched(process, at)).collect::<Vec<_>>();
        pages.into_iter().map(move |at| Act { process, deed: Deed::Load(at) })
    };
    Ok((0..u8::MAX).flat_map(of_process).collect())
}

/// Whether memory may be given up without being swapped out, which a host that has enough does not.
fn loses_bytes(acts: &[Act]) -> bool {
    const FREE: u64 = 8;
    const DROPPABLE: u64 = 8;
    let gives_up = |act: &Act| match act.deed {
        Deed::Call(M::Madvise { advice, .. }) => advice == FREE,
        Deed::Call(M::Mmap { flags, .. }) => flags & 15 == DROPPABLE,
        _ => false,
    };
    acts.iter().any(gives_up) && acts.iter().any(|act| act.deed == Deed::Reclaim)
}

/// How many pages in the swap area acts have met, by what they are called: of processes' own, and of shared memory.
#[derive(Clone, Default, Debug)]
pub struct Met {
    by: BTreeMap<String, [u64; 2]>,
    /// Sequences that the host's kernel did, too.
    compared: u64,
}

impl Met {
    /// What the acts and the sweep meet in software.
    pub fn by(start: &Start, acts: &[Act]) -> Result<Self, Failed> {
        let mut model = Model::new(start)?;
        let mut met = Met::default();
        for act in acts {
            met.note(&model, act);
            model.perform(act)?;
        }
        for act in sweep(&model) {
            if !model.lines(act.process).is_empty() {
                met.note(&model, &act);
                model.perform(&act)?;
            }
        }
        Ok(met)
    }

    fn note(&mut self, model: &Model, act: &Act) {
        let range = match &act.deed {
            Deed::Call(M::Mlockall { .. }) | Deed::Fork(_) | Deed::Exit => Some((0, u64::MAX)),
            Deed::Call(call) => call.range().map(|(addr, len)| (addr.get(), len)),
            Deed::Touch(at, _) | Deed::Store(at, _) | Deed::Load(at) => Some((*at, 1)),
            _ => None,
        };
        let Some((start, len)) = range else { return };
        let found = model.swapped(act.process, &(start..start.saturating_add(len)));
        if found != [0; 2] {
            let all = self.by.entry(act.name()).or_default();
            all.iter_mut().zip(found).for_each(|(all, found)| *all += found);
        }
    }

    /// Takes in another's counts.
    pub fn add(&mut self, other: &Met) {
        self.compared += other.compared;
        for (name, found) in &other.by {
            let all = self.by.entry(name.clone()).or_default();
            all.iter_mut().zip(found).for_each(|(all, found)| *all += found);
        }
    }

    /// Whether a swapped page was touched.
    pub fn has_touched(&self) -> bool {
        self.by.contains_key("touch")
    }

    /// What met none of the pages that it should have.
    fn missing(&self) -> Vec<String> {
        let unmet = |names: &[&str], which: usize, whose: &str| -> Vec<String> {
            let met = |name: &str| self.by.get(name).is_some_and(|found| found[which] > 0);
            let unmet = names.iter().filter(|name| !met(name));
            unmet.map(|name| format!("{name}, {whose}")).collect()
        };
        [unmet(OWN, 0, "a process's own"), unmet(SHARED, 1, "of shared memory")].concat()
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by.iter().try_for_each(|(name, [own, shared])| {
            write!(f, "\n  {name:22}{own} own, {shared} of shared memory")
        })?;
        write!(f, "\n  {} sequences on the host's kernel, too", self.compared)
    }
}
