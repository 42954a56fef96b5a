//! Making a changed page table visible to all vCPUs, running ones included.
//!
//! Editing the guest's table from the host does not do that by itself, and under shadow paging not even
//! the guest's own `invlpg` does. Two ways work on every KVM measured:
//!
//! - **notifier:** change the host's protection of the data pages and change it back. KVM is told
//!   (mmu notifier) and drops every translation to them before the call returns. By way of
//!   executable, never of read-only: there another vCPU's write makes its `KVM_RUN` fail and a host
//!   thread's is killed. Costs by run and page.
//! - **dummy slot:** delete a memory slot that holds nothing. KVM drops every translation of the machine,
//!   and each page is faulted in again when it is next touched. The only way that covers entries that
//!   point to tables (shown: a table frame reused without it let one address read another's page).
//!
//! The notifier misses one case: KVM, in a vCPU's page fault, reads the guest's entry and only then begins to
//! watch for notifications. A vCPU that runs while an entry is edited and notified could so install what it
//! had read before. Where one may have run, the notifier waits first until every such page fault has been
//! handled (the grace slot); what they have installed it then drops. The dummy slot does that by itself. The
//! wait takes 1.5 ms where the host is busy, and is spared where no vCPU is inside that can be in such a page
//! fault (`kvm/presence`).
//!
//! ```text
//!   request ──┬─ tables changed ─────────────────────────────> dummy slot
//!             └─ leaves: sort, merge ──> cheaper of the two ──> notifier ──(refused)──> dummy slot
//!                                                                                        │(refused)
//!                                                                                      Broken
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{debug, warn};
use mm::addr::FrameRun;
use mm::error::Broken;
use mm::paging::{FlushRequest, FlushSink, Others, TableChange};

use super::empty_slot::{DummySlot, GraceSlot};
use super::presence::Presence;
use super::{GuestMemory, KvmError};

/// Nanoseconds of the notifier for each run of frames (software KVM, measured: 15 us for one page,
/// 118 us for 512).
const NOTIFIER_RUN_NS: u64 = 12_000;
/// Nanoseconds of the notifier for each frame.
const NOTIFIER_FRAME_NS: u64 = 230;
/// Nanoseconds of the dummy slot itself (measured: 100 to 200 us).
const DUMMY_NS: u64 = 150_000;
/// Nanoseconds for each frame that must be faulted in again after the dummy slot.
const RETOUCH_NS: u64 = 800;

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
    /// The notifier for everything, tables too. Wrong: as [`FlushPolicy::None`].
    LeavesOnly,
    /// Nothing at all. Wrong: it exists to show that a test of flushing can fail.
    None,
}

impl FlushPolicy {
    /// The environment variable, of any value, that asks for [`FlushPolicy::None`]. It exists to prove
    /// that the tests of flushing can fail; a program must never run with it.
    pub const WITHOUT_FLUSH: &'static str = "MMVISOR_TEST_WITHOUT_FLUSH";

    /// The policy that this process was asked for by its environment; one that is wrong is told in the
    /// log.
    #[must_use]
    pub fn of_environment() -> FlushPolicy {
        if std::env::var_os(Self::WITHOUT_FLUSH).is_none() {
            return FlushPolicy::Chosen;
        }
        warn!("{} is set: nothing is flushed, what runs may see old memory", Self::WITHOUT_FLUSH);
        FlushPolicy::None
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
    /// [`KvmError`] if the host refuses the dummy slot.
    pub fn new(
        vm: &super::Vm,
        policy: FlushPolicy,
        resident: Arc<AtomicU64>,
    ) -> Result<KvmSink, KvmError> {
        let memory = Arc::clone(vm.memory());
        let dummy = DummySlot::new(Arc::clone(vm.fd()), memory.limit())?;
        let grace = GraceSlot::new(Arc::clone(vm.fd()), memory.limit())?;
        let presence = Arc::clone(vm.presence());
        let counters = Counters::default();
        Ok(KvmSink { memory, dummy, grace, presence, policy, resident, counters })
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

    fn notifier_is_cheaper(&self, runs: &[FrameRun], frames: u64, others: Others) -> bool {
        match self.policy {
            FlushPolicy::NotifierOnly | FlushPolicy::LeavesOnly => return true,
            FlushPolicy::DummyOnly => return false,
            FlushPolicy::Chosen | FlushPolicy::None => {}
        }
        let retouched = self.resident.load(Ordering::Relaxed).saturating_sub(frames);
        let notifier = (runs.len() as u64)
            .saturating_mul(NOTIFIER_RUN_NS)
            .saturating_add(frames.saturating_mul(NOTIFIER_FRAME_NS))
            .saturating_add(if self.are_out(others) { 0 } else { GRACE_NS });
        let dummy = DUMMY_NS.saturating_add(retouched.saturating_mul(RETOUCH_NS));
        notifier <= dummy
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
        runs.iter().all(|run| {
            // Two threads may do this on one run at once. Each one's pair of calls surrounds at least one
            // real change (the host's own lock orders them), so each is flushed after its own edit.
            let detour = self.memory.protect(*run, READ_WRITE | libc::PROT_EXEC);
            let back = self.memory.protect(*run, READ_WRITE);
            for error in [&detour, &back].into_iter().filter_map(|result| result.as_ref().err()) {
                debug!("notifier refused for {run:?}, using the dummy slot: {error}");
            }
            detour.is_ok() && back.is_ok()
        })
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
        let runs = merged(&request.leaves);
        let frames = runs.iter().map(|run| run.count).sum();
        if !self.notifier_is_cheaper(&runs, frames, request.others) {
            return self.flush_all();
        }
        if self.settled(request.others) && self.notify(&runs) {
            self.counters.notifier.fetch_add(1, Ordering::Relaxed);
            self.counters.notifier_runs.fetch_add(runs.len() as u64, Ordering::Relaxed);
            self.counters.notifier_frames.fetch_add(frames, Ordering::Relaxed);
            return Ok(());
        }
        self.counters.fallbacks.fetch_add(1, Ordering::Relaxed);
        self.flush_all()
    }
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
