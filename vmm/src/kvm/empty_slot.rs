//! Memory slots that hold nothing. They exist for what KVM does when they change:
//!
//! - **deleted** ([`DummySlot`]): KVM drops every translation of the machine
//!   (`KVM_X86_QUIRK_SLOT_ZAP_ALL`, which `doctor` checks).
//! - **changed in any way** ([`GraceSlot`] too): KVM publishes the new list of slots and waits until no vCPU
//!   uses the old one (`synchronize_srcu_expedited` in `kvm_swap_active_memslots`, virt/kvm/kvm_main.c). A
//!   vCPU holds on to the list from one stay in ring 3 to the next, so all of the handling of a page fault.
//!
//! ```text
//!   vCPU   page fault ── reads the guest's entry ──────────────────────── installs it ── ring 3
//!   host              ─────────────── edit ── change a slot ........(waits)............. returns
//! ```
//!
//! A deletion waits first and drops then, so it needs no wait of its own. Each is added when it is first needed:
//! many a program ends before, and a change takes a twentieth of the time that a machine takes to be made.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use log::debug;
use mm::addr::PAGE_SIZE;
use mm::error::Broken;
use vm_memory::MmapRegion;

use super::KvmError;
use super::host_calls::HostCalls;
use super::memory_slot::CHANGE;

/// The first slot's number: far from those of guest memory, and below the 32,764 that KVM allows.
const FIRST: u32 = 32_000;
/// The first slot's address is the first multiple of this past guest memory.
const ALIGNMENT: u64 = 1 << 30;

/// A 4 KiB slot that no page table ever points to.
#[derive(Debug)]
struct EmptySlot {
    host: Arc<HostCalls>,
    page: MmapRegion,
    slot: u32,
    address: u64,
}

impl EmptySlot {
    /// One that KVM does not have yet. `index` tells apart those of one machine.
    fn new(host: Arc<HostCalls>, memory_limit: u64, index: u32) -> Result<Self, KvmError> {
        let page = MmapRegion::new(4096)
            .map_err(|error| KvmError::MemorySize { bytes: PAGE_SIZE, why: error.to_string() })?;
        let address = memory_limit.next_multiple_of(ALIGNMENT) + u64::from(index) * PAGE_SIZE;
        Ok(EmptySlot { host, page, slot: FIRST + index, address })
    }

    fn set(&self, state: SlotState) -> Result<(), Broken> {
        let region = kvm_userspace_memory_region {
            slot: self.slot,
            flags: if state == SlotState::Logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: self.address,
            memory_size: if state == SlotState::Deleted { 0 } else { PAGE_SIZE },
            userspace_addr: self.page.as_ptr() as u64,
        };
        // SAFETY: the page is ours, in no other slot, and holds nothing; were it unmapped before the
        // machine ends, KVM would find no page there and a guest that reaches it would exit.
        unsafe { self.host.set_slot(region, CHANGE) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Added,
    /// Added, and writes to it are logged.
    Logged,
    Deleted,
}

/// The slot that is deleted.
#[derive(Debug)]
pub(super) struct DummySlot {
    slot: EmptySlot,
    /// Whether KVM has the slot now. The lock keeps deletion and addition a pair.
    state: Mutex<SlotState>,
}

impl DummySlot {
    pub(super) fn new(host: Arc<HostCalls>, memory_limit: u64) -> Result<Self, KvmError> {
        let slot = EmptySlot::new(host, memory_limit, 0)?;
        Ok(DummySlot { slot, state: Mutex::new(SlotState::Deleted) })
    }

    /// Flushes everything: the deletion does it, the addition prepares the next one.
    pub(super) fn delete_and_add(&self) -> Result<(), Broken> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == SlotState::Deleted {
            self.slot.set(SlotState::Added)?;
            *state = SlotState::Added;
        }
        self.slot.set(SlotState::Deleted)?;
        *state = SlotState::Deleted;
        match self.slot.set(SlotState::Added) {
            Ok(()) => *state = SlotState::Added,
            Err(error) => debug!("dummy slot not added back yet: {error}"),
        }
        Ok(())
    }
}

/// The slot that is only changed: added, then from not logged to logged, and back the next time.
#[derive(Debug)]
pub(super) struct GraceSlot {
    slot: EmptySlot,
    /// The lock makes sure that each change is one: KVM does nothing about a slot that stays as it is.
    state: Mutex<SlotState>,
}

impl GraceSlot {
    pub(super) fn new(host: Arc<HostCalls>, memory_limit: u64) -> Result<Self, KvmError> {
        let slot = EmptySlot::new(host, memory_limit, 1)?;
        Ok(GraceSlot { slot, state: Mutex::new(SlotState::Deleted) })
    }

    /// Returns when every page fault that KVM was handling has been handled: what KVM reads of a guest's
    /// page table for one that it still handles, it reads after this was called.
    pub(super) fn wait(&self) -> Result<(), Broken> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let other = match *state {
            SlotState::Deleted | SlotState::Logged => SlotState::Added,
            SlotState::Added => SlotState::Logged,
        };
        self.slot.set(other)?;
        *state = other;
        Ok(())
    }
}
