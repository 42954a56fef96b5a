//! Making a changed page table visible to all vCPUs, running ones included.
//!
//! Editing the guest's table from the host does not do that by itself, and under shadow paging not even
//! the guest's own `invlpg` does. Two ways work for any change on every KVM measured:
//!
//! - **notifier:** change the host's protection of the data pages and change it back. KVM is told
//!   (mmu notifier) and drops every translation to them before the call returns. By way of
//!   executable, never of read-only: there another vCPU's write makes its `KVM_RUN` fail and a host
//!   thread's is killed. Costs by run and page.
//! - **dummy slot:** delete a memory slot that holds nothing. KVM drops every translation of the machine,
//!   and each page is faulted in again when it is next touched. The only way that covers entries that
//!   point to tables (shown: a table frame reused without it let one address read another's page).
//!
//! Where no more is taken than the permission to write, there is a third:
//!
//! - **write protection:** log the writes to a slot of guest memory, and log them no more (`kvm/memory_slot`).
//!   KVM takes that permission from all translations and leaves them otherwise as they are: 1 GiB that a fork
//!   has made read-only is read on at full speed. Under shadow paging only: elsewhere KVM would have to cut
//!   its large pages for it.
//!
//! The notifier misses one case: KVM, in a vCPU's page fault, reads the guest's entry and only then begins to
//! watch for notifications. A vCPU that runs while an entry is edited and notified could so install what it
//! had read before. Where one may have run, the notifier waits first until every such page fault has been
//! handled (the grace slot); what they have installed it then drops. The dummy slot does that by itself. The
//! wait takes 1.5 ms where the host is busy, and is spared where no vCPU is inside that can be in such a page
//! fault (`kvm/presence`).
//!
//! ```text
//!   request ──┬─ tables changed ──────────────────────────────────────> dummy slot ──(refused)──> Broken
//!             ├─ only writes: sort, merge ──> the cheapest ──┬─> write protection ──(refused)──> dummy slot
//!             └─ leaves: sort, merge ──> the cheaper ────────┴─> notifier ─────────(refused)──> dummy slot
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{debug, info, warn};
use mm::addr::FrameRun;
use mm::error::Broken;
use mm::paging::{FlushRequest, FlushSink, ForkedPages, ForkedRoot, Others, TableChange};
use mm::phys::BLOCK_FRAMES;

use super::empty_slot::{DummySlot, GraceSlot};
use super::presence::Presence;
use super::{GuestMemory, Kind, KvmError};

/// Nanoseconds of the notifier for each run of frames (software KVM, measured: 15 us for one page,
/// 118 us for 512).
const NOTIFIER_RUN_NS: u64 = 12_000;
/// Nanoseconds of the notifier for each frame.
const NOTIFIER_FRAME_NS: u64 = 230;
/// Nanoseconds of the dummy slot itself (measured: 100 to 200 us).
const DUMMY_NS: u64 = 150_000;
/// Nanoseconds for each frame that must be faulted in again after the dummy slot.
const RETOUCH_NS: u64 = 800;
/// Nanoseconds of the write protection of a slot, twice a change of it (measured: 190 us).
const PROTECT_NS: u64 = 200_000;
/// Nanoseconds for each frame that vCPUs may have a translation of (measured: 18 ms for 262,144).
const PROTECT_FRAME_NS: u64 = 70;
/// Nanoseconds for each frame of a fresh root, whose accessed bits are clear, when it is touched again
/// (measured: 650 ms for 262,144).
const RELEARN_NS: u64 = 2_500;
/// Nanoseconds for a large entry there (measured: 4 to 10 us).
const RELEARN_LARGE_NS: u64 = 4_000;
/// Nanoseconds for each entry that a fork copies, and has not to where a large one says the same (measured:
/// 8 to 24 ms for 262,144).
const COPY_NS: u64 = 60;

/// Nanoseconds of the wait for page faults that KVM is handling.
const GRACE_NS: u64 = 40_000;

/// Which method a sink uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlushPolicy {
    /// The cheaper one of those that are sufficient.
    #[default]
    Chosen,
    /// The notifier for leaf entries, however many; the dummy slot for tables, where it alone works.
    NotifierOnly,
    /// The dummy slot for everything.
    DummyOnly,
    /// Write protection for all that it can do, where it can be used at all; the cheaper one for the rest.
    WriteProtection,
    /// The notifier for everything, tables too. Wrong: as [`FlushPolicy::None`].
    LeavesOnly,
    /// Nothing at all. Wrong: it exists to show that a test of flushing can fail.
    None,
}

impl FlushPolicy {
    /// The environment variable that asks for another policy than the default one: one that every flush
    /// must bear, or [`FlushPolicy::None`], which proves that the tests of flushing can fail. A program must
    /// never run with that.
    pub const VARIABLE: &'static str = "MMVISOR_TEST_FLUSH";
    /// Its values.
    const BY_NAME: [(&'static str, FlushPolicy); 2] =
        [("none", FlushPolicy::None), ("write-protection", FlushPolicy::WriteProtection)];

    /// What the variable must be to ask for this policy; `None` for the default one and others that it cannot
    /// ask for.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::BY_NAME.iter().find(|(_, policy)| *policy == self).map(|(name, _)| *name)
    }

    /// The policy that this process was asked for by its environment; that it was is told in the log.
    #[must_use]
    pub fn of_environment() -> FlushPolicy {
        let Some(asked) = std::env::var_os(Self::VARIABLE) else { return FlushPolicy::Chosen };
        let known = Self::BY_NAME.iter().find(|(name, _)| *name == asked);
        match known.map(|(_, policy)| *policy) {
            Some(FlushPolicy::None) => {
                warn!("{}: nothing is flushed, what runs may see old memory", Self::VARIABLE);
                FlushPolicy::None
            }
            Some(policy) => {
                info!("{}: flushes by {policy:?}", Self::VARIABLE);
                policy
            }
            None => {
                warn!("{} is {asked:?}, which asks for nothing known", Self::VARIABLE);
                FlushPolicy::Chosen
            }
        }
    }
}

/// How often each method was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct FlushCounts {
    /// Requests answered by the notifier.
    pub notifier: u64,
    /// Runs of frames that those had.
    pub notifier_runs: u64,
    /// Frames that those had.
    pub notifier_frames: u64,
    /// Of those, the ones that waited for page faults of vCPUs that may have run meanwhile.
    pub graces: u64,
    /// Those that need not wait, because no such vCPU was inside KVM.
    pub graces_spared: u64,
    /// Requests answered by write protection.
    pub write_protection: u64,
    /// Requests answered by the dummy slot.
    pub dummy_slot: u64,
    /// Of those, the ones where the host had refused the notifier.
    pub fallbacks: u64,
    /// Requests ignored ([`FlushPolicy::None`]).
    pub ignored: u64,
}

#[derive(Debug, Default)]
struct Counters {
    notifier: AtomicU64,
    notifier_runs: AtomicU64,
    notifier_frames: AtomicU64,
    graces: AtomicU64,
    graces_spared: AtomicU64,
    write_protection: AtomicU64,
    dummy_slot: AtomicU64,
    fallbacks: AtomicU64,
    ignored: AtomicU64,
}

/// Flushes the vCPUs of one machine.
#[derive(Debug)]
pub struct KvmSink {
    memory: Arc<GuestMemory>,
    dummy: DummySlot,
    grace: GraceSlot,
    presence: Arc<Presence>,
    kind: Kind,
    policy: FlushPolicy,
    /// Frames in use, kept by the allocator's owner: what a dummy slot makes faults for.
    resident: Arc<AtomicU64>,
    counters: Counters,
}

impl KvmSink {
    /// A sink for the machine of `vm`; one for each machine. `resident` is the number of frames in use,
    /// kept up to date by the caller: it only weighs the methods against each other.
    ///
    /// # Errors
    /// [`KvmError`] if the host has no page for the slots that flush translations.
    pub fn new(
        vm: &super::Vm,
        policy: FlushPolicy,
        resident: Arc<AtomicU64>,
    ) -> Result<KvmSink, KvmError> {
        let memory = Arc::clone(vm.memory());
        let dummy = DummySlot::new(Arc::clone(memory.host()), memory.limit())?;
        let grace = GraceSlot::new(Arc::clone(memory.host()), memory.limit())?;
        let presence = Arc::clone(vm.presence());
        let counters = Counters::default();
        let kind = vm.kind();
        Ok(KvmSink { memory, dummy, grace, presence, kind, policy, resident, counters })
    }

    /// How often each method was used.
    #[must_use]
    pub fn counts(&self) -> FlushCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FlushCounts {
            notifier: get(&self.counters.notifier),
            notifier_runs: get(&self.counters.notifier_runs),
            notifier_frames: get(&self.counters.notifier_frames),
            graces: get(&self.counters.graces),
            graces_spared: get(&self.counters.graces_spared),
            write_protection: get(&self.counters.write_protection),
            dummy_slot: get(&self.counters.dummy_slot),
            fallbacks: get(&self.counters.fallbacks),
            ignored: get(&self.counters.ignored),
        }
    }

    /// Flushes everything, by the dummy slot.
    ///
    /// # Errors
    /// [`Broken`] if the host refuses.
    pub fn flush_all(&self) -> Result<(), Broken> {
        self.counters.dummy_slot.fetch_add(1, Ordering::Relaxed);
        self.dummy.delete_and_add()
    }

    /// How a request is best answered that changes no table.
    fn method(&self, runs: &[FrameRun], takes: Takes, others: Others) -> Method {
        let protects = takes == Takes::Writes && self.can_write_protect();
        match self.policy {
            FlushPolicy::NotifierOnly | FlushPolicy::LeavesOnly => return Method::Notifier,
            FlushPolicy::DummyOnly => return Method::DummySlot,
            FlushPolicy::WriteProtection if protects => return Method::WriteProtection,
            FlushPolicy::Chosen | FlushPolicy::WriteProtection | FlushPolicy::None => {}
        }
        let frames: u64 = runs.iter().map(|run| run.count).sum();
        // What is no more is not touched again.
        let retouch = |frames: u64| frames.saturating_mul(RETOUCH_NS);
        let resident = self.resident.load(Ordering::Relaxed);
        let still = if takes == Takes::Writes { frames } else { 0 };
        let notifier = (runs.len() as u64)
            .saturating_mul(NOTIFIER_RUN_NS)
            .saturating_add(frames.saturating_mul(NOTIFIER_FRAME_NS))
            .saturating_add(retouch(still))
            .saturating_add(if self.are_out(others) { 0 } else { GRACE_NS });
        let dummy = DUMMY_NS.saturating_add(retouch(resident.saturating_sub(frames - still)));
        let ways = [(notifier, Method::Notifier), (dummy, Method::DummySlot)];
        let protection = protects.then_some((self.protection_cost(), Method::WriteProtection));
        let cheapest = ways.into_iter().chain(protection).min_by_key(|(cost, _)| *cost);
        cheapest.map_or(Method::DummySlot, |(_, method)| method)
    }

    /// Nanoseconds of write protection.
    fn protection_cost(&self) -> u64 {
        let resident = self.resident.load(Ordering::Relaxed);
        PROTECT_NS.saturating_add(resident.saturating_mul(PROTECT_FRAME_NS))
    }

    /// Whether KVM takes permissions to write without more ado.
    fn can_write_protect(&self) -> bool {
        matches!(self.kind, Kind::Soft | Kind::Shadow)
    }

    /// Whether none of the vCPUs that may have used the entries is inside KVM.
    fn are_out(&self, others: Others) -> bool {
        match others {
            Others::Stopped => true,
            Others::In(root) => !self.presence.is_any_inside(Some(root.addr().get())),
            Others::MayRun => !self.presence.is_any_inside(None),
        }
    }

    /// Whether no vCPU is in a page fault for which KVM has read an entry as it was.
    fn settled(&self, others: Others) -> bool {
        if others == Others::Stopped {
            return true;
        }
        if self.are_out(others) {
            self.counters.graces_spared.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.counters.graces.fetch_add(1, Ordering::Relaxed);
        let waited = self.grace.wait();
        if let Err(error) = &waited {
            debug!("the grace slot was refused, using the dummy slot: {error}");
        }
        waited.is_ok()
    }

    /// Whether the host has done it. Any refusal leaves the rest to the dummy slot: a run whose
    /// protection did not change was not flushed either.
    fn notify(&self, runs: &[FrameRun]) -> bool {
        const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let done = runs.iter().all(|run| {
            // Two threads may do this on one run at once. Each one's pair of calls surrounds at least one
            // real change (the host's own lock orders them), so each is flushed after its own edit.
            let detour = self.memory.protect(*run, READ_WRITE | libc::PROT_EXEC);
            let back = self.memory.protect(*run, READ_WRITE);
            for error in [&detour, &back].into_iter().filter_map(|result| result.as_ref().err()) {
                debug!("notifier refused for {run:?}, using the dummy slot: {error}");
            }
            detour.is_ok() && back.is_ok()
        });
        if done {
            self.counters.notifier.fetch_add(1, Ordering::Relaxed);
            self.counters.notifier_runs.fetch_add(runs.len() as u64, Ordering::Relaxed);
            let frames: u64 = runs.iter().map(|run| run.count).sum();
            self.counters.notifier_frames.fetch_add(frames, Ordering::Relaxed);
        }
        done
    }

    /// Whether the slots of all these frames were write-protected. No wait comes before it: it waits itself.
    fn write_protect(&self, runs: &[FrameRun]) -> bool {
        let done = self.memory.write_protect(runs);
        match &done {
            Ok(()) => _ = self.counters.write_protection.fetch_add(1, Ordering::Relaxed),
            Err(error) => debug!("write protection refused, using the dummy slot: {error}"),
        }
        done.is_ok()
    }
}

impl FlushSink for KvmSink {
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
        if request.is_empty() {
            return Ok(());
        }
        if self.policy == FlushPolicy::None {
            self.counters.ignored.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if request.tables == TableChange::Unlinked && self.policy != FlushPolicy::LeavesOnly {
            return self.flush_all();
        }
        let (runs, takes) = match &request.leaves[..] {
            [] => (merged(&request.writes), Takes::Writes),
            leaves => (merged(&[leaves, &request.writes].concat()), Takes::All),
        };
        let done = match self.method(&runs, takes, request.others) {
            Method::DummySlot => return self.flush_all(),
            Method::Notifier => self.settled(request.others) && self.notify(&runs),
            Method::WriteProtection => self.write_protect(&runs),
        };
        if done {
            return Ok(());
        }
        self.counters.fallbacks.fetch_add(1, Ordering::Relaxed);
        self.flush_all()
    }

    fn forked_root(&self, ForkedPages { pages, large, promotable }: ForkedPages) -> ForkedRoot {
        let large = large.saturating_add(promotable);
        let fresh = pages.saturating_sub(large).saturating_mul(RELEARN_NS)
            + (large / BLOCK_FRAMES).saturating_mul(RELEARN_LARGE_NS);
        let protected = self.protection_cost().saturating_add(promotable.saturating_mul(COPY_NS));
        let kept = match self.policy {
            FlushPolicy::WriteProtection => true,
            FlushPolicy::Chosen => protected < fresh,
            _ => false,
        };
        if kept && self.can_write_protect() { ForkedRoot::Kept } else { ForkedRoot::Fresh }
    }
}

/// What a request takes from leaf entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    /// The permission to write, at most.
    Writes,
    /// Anything.
    All,
}

/// How leaf entries are flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Notifier,
    WriteProtection,
    DummySlot,
}

/// The same frames in order, with no run touching another.
fn merged(runs: &[FrameRun]) -> Vec<FrameRun> {
    let mut sorted = runs.to_vec();
    sorted.sort_unstable_by_key(|run| run.start);
    let mut out: Vec<FrameRun> = Vec::with_capacity(sorted.len());
    for run in sorted.into_iter().filter(|run| run.count > 0) {
        match out.last_mut() {
            Some(last) if run.start <= last.start.offset(last.count) => {
                let end = run.start.offset(run.count).max(last.start.offset(last.count));
                last.count = end.number() - last.start.number();
            }
            _ => out.push(run),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm::addr::Frame;

    fn run(start: u64, count: u64) -> FrameRun {
        FrameRun { start: Frame::new(start), count }
    }

    #[test]
    fn runs_are_sorted_and_touching_or_overlapping_ones_merged() {
        //   5 6 7 8 . 10 11 . . 20
        let runs = [run(20, 1), run(7, 2), run(5, 2), run(10, 2), run(6, 1), run(3, 0)];
        assert_eq!(merged(&runs), [run(5, 4), run(10, 2), run(20, 1)]);
    }
}
