//! A slot of guest memory, and what KVM does when writes to it begin to be logged: it takes from every vCPU the
//! permission to write any page of it, and leaves the rest of their translations alone
//! (`kvm_mmu_slot_remove_write_access`, arch/x86/kvm/mmu/mmu.c). The next write of a page asks the guest's page
//! table again, which KVM does by itself where the entry still allows it.
//!
//! ```text
//!   vCPU   page fault ── reads the guest's entry ── installs it          reads on, and on ...  write: #PF
//!   host            edit ── log: (waits for the faults in progress) ── permissions go ── returns
//!                                                                          └ do not log: nothing happens
//! ```
//!
//! KVM first publishes the changed slot and waits until nobody uses the old one, as for any change
//! (`kvm/empty_slot`), and only then goes through the translations. So what a page fault has read before the
//! edit is in place by then, and loses its permission with the others.
//!
//! Measured on software KVM: 0.1 ms for either change, and 70 ns for each page that vCPUs have a translation of.

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use log::debug;
use mm::addr::FrameRun;
use mm::error::Broken;

use super::host_calls::HostCalls;

/// A slot that KVM has.
#[derive(Debug)]
pub(super) struct MemorySlot {
    region: kvm_userspace_memory_region,
}

/// Whether writes to a slot are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Log {
    Off,
    On,
}

impl MemorySlot {
    /// Gives KVM a slot.
    ///
    /// # Safety
    /// The host's span is memory that vCPUs may read and write, in no other slot, and stays mapped for as long as
    /// the machine has vCPUs.
    pub(super) unsafe fn add(
        host: &HostCalls,
        region: kvm_userspace_memory_region,
    ) -> Result<Self, Broken> {
        let what = "add a memory slot (above 4 GiB this takes a CPU with unrestricted guests)";
        // SAFETY: what the caller promises.
        unsafe { host.set_slot(region, what) }?;
        Ok(MemorySlot { region })
    }

    /// Whether it has a frame of the run.
    pub(super) fn has_of(&self, run: FrameRun) -> bool {
        let (start, end) = (run.start.addr().get(), run.start.offset(run.count).addr().get());
        let slot = &self.region;
        start < slot.guest_phys_addr + slot.memory_size && slot.guest_phys_addr < end
    }

    /// Takes the permission to write all of it.
    pub(super) fn write_protect(&mut self, host: &HostCalls) -> Result<(), Broken> {
        // It is the change that does it: a slot that stays logged would keep the permissions given since.
        if self.log() == Log::On {
            self.change(host, Log::Off)?;
        }
        self.change(host, Log::On)?;
        if let Err(error) = self.change(host, Log::Off) {
            debug!(
                "slot {} is logged until it is write-protected again: {error}",
                self.region.slot
            );
        }
        Ok(())
    }

    fn log(&self) -> Log {
        if self.region.flags & KVM_MEM_LOG_DIRTY_PAGES == 0 { Log::Off } else { Log::On }
    }

    fn change(&mut self, host: &HostCalls, log: Log) -> Result<(), Broken> {
        let flags = if log == Log::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let region = kvm_userspace_memory_region { flags, ..self.region };
        // SAFETY: the span is what `add` demands.
        unsafe { host.set_slot(region, CHANGE) }?;
        self.region = region;
        Ok(())
    }
}

/// What is being done to a slot for the sake of translations.
pub(super) const CHANGE: &str = "change the slots that flush translations";
