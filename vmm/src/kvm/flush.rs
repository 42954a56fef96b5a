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
//! ```text
//!   request ──┬─ tables changed ─────────────────────────────> dummy slot
//!             └─ leaves: sort, merge ──> cheaper of the two ──> notifier ──(refused)──> dummy slot
//!                                                                                        │(refused)
//!                                                                                      Broken
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use log::{debug, warn};
use mm::addr::{FrameRun, PAGE_SIZE};
use mm::error::Broken;
use mm::paging::{FlushRequest, FlushSink, TableChange};
use vm_memory::MmapRegion;

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

/// The dummy slot's number: far from those of guest memory, and below the 32,764 that KVM allows.
const DUMMY_SLOT: u32 = 32_000;
/// The dummy slot's address is the first multiple of this past guest memory.
const DUMMY_ALIGNMENT: u64 = 1 << 30;

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
    dummy_slot: AtomicU64,
    fallbacks: AtomicU64,
    ignored: AtomicU64,
}

/// Flushes the vCPUs of one machine.
#[derive(Debug)]
pub struct KvmSink {
    memory: Arc<GuestMemory>,
    dummy: DummySlot,
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
        Ok(KvmSink { memory, dummy, policy, resident, counters: Counters::default() })
    }

    /// How often each method was used.
    #[must_use]
    pub fn counts(&self) -> FlushCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FlushCounts {
            notifier: get(&self.counters.notifier),
            notifier_runs: get(&self.counters.notifier_runs),
            notifier_frames: get(&self.counters.notifier_frames),
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

    fn notifier_is_cheaper(&self, runs: &[FrameRun], frames: u64) -> bool {
        match self.policy {
            FlushPolicy::NotifierOnly | FlushPolicy::LeavesOnly => return true,
            FlushPolicy::DummyOnly => return false,
            FlushPolicy::Chosen | FlushPolicy::None => {}
        }
        let retouched = self.resident.load(Ordering::Relaxed).saturating_sub(frames);
        let notifier = (runs.len() as u64)
            .saturating_mul(NOTIFIER_RUN_NS)
            .saturating_add(frames.saturating_mul(NOTIFIER_FRAME_NS));
        let dummy = DUMMY_NS.saturating_add(retouched.saturating_mul(RETOUCH_NS));
        notifier <= dummy
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
        if !self.notifier_is_cheaper(&runs, frames) {
            return self.flush_all();
        }
        if self.notify(&runs) {
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

/// A 4 KiB memory slot that no page table ever points to. It exists to be deleted: KVM then drops every
/// translation of the machine (`KVM_X86_QUIRK_SLOT_ZAP_ALL`, which `doctor` checks).
#[derive(Debug)]
struct DummySlot {
    vm: Arc<VmFd>,
    page: MmapRegion,
    address: u64,
    /// Whether KVM has the slot now. The lock keeps deletion and addition a pair.
    present: Mutex<SlotState>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Added,
    Deleted,
}

impl DummySlot {
    fn new(vm: Arc<VmFd>, memory_limit: u64) -> Result<Self, KvmError> {
        let page = MmapRegion::new(4096)
            .map_err(|error| KvmError::MemorySize { bytes: PAGE_SIZE, why: error.to_string() })?;
        let address = memory_limit.next_multiple_of(DUMMY_ALIGNMENT);
        let slot = DummySlot { vm, page, address, present: Mutex::new(SlotState::Deleted) };
        slot.set(SlotState::Added)?;
        *slot.present.lock().unwrap_or_else(PoisonError::into_inner) = SlotState::Added;
        Ok(slot)
    }

    /// Flushes everything: the deletion does it, the addition prepares the next one.
    fn delete_and_add(&self) -> Result<(), Broken> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == SlotState::Deleted {
            self.set(SlotState::Added)?;
            *present = SlotState::Added;
        }
        self.set(SlotState::Deleted)?;
        *present = SlotState::Deleted;
        match self.set(SlotState::Added) {
            Ok(()) => *present = SlotState::Added,
            Err(error) => debug!("dummy slot not added back yet: {error}"),
        }
        Ok(())
    }

    fn set(&self, state: SlotState) -> Result<(), Broken> {
        let region = kvm_userspace_memory_region {
            slot: DUMMY_SLOT,
            flags: 0,
            guest_phys_addr: self.address,
            memory_size: if state == SlotState::Added { PAGE_SIZE } else { 0 },
            userspace_addr: self.page.as_ptr() as u64,
        };
        // SAFETY: the page is ours, in no other slot, and holds nothing; were it unmapped before the
        // machine ends, KVM would find no page there and a guest that reaches it would exit.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(|error| Broken::Host {
            what: "delete or add the slot that flushes all translations",
            source: error.into(),
        })
    }
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
