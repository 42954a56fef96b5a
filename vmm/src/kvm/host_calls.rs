//! The calls to the host that take translations from vCPUs. Any of them may be refused, for want of the host's own
//! memory; so that it can be shown what happens then, each can be made to be.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use mm::error::Broken;
use mm::failure::FailPoint;

/// The calls for one machine.
#[derive(Debug)]
pub(super) struct HostCalls {
    vm: Arc<VmFd>,
    /// Counts them, and refuses some.
    pub(super) refusals: FailPoint,
}

impl HostCalls {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        HostCalls { vm, refusals: FailPoint::default() }
    }

    /// Gives KVM a slot, or another state of one that it has.
    ///
    /// # Safety
    /// The host's span is memory that vCPUs may read and write, in no other slot, and stays mapped for as long as
    /// they may reach it.
    pub(super) unsafe fn set_slot(
        &self,
        region: kvm_userspace_memory_region,
        what: &'static str,
    ) -> Result<(), Broken> {
        let failed = |source| Broken::Host { what, source };
        self.ask().map_err(failed)?;
        // SAFETY: what the caller promises.
        let set = unsafe { self.vm.set_user_memory_region(region) };
        set.map_err(|error| failed(error.into()))
    }

    /// Is asked before each call.
    ///
    /// # Errors
    /// `ENOMEM` where it is to be refused.
    pub(super) fn ask(&self) -> io::Result<()> {
        if self.refusals.refuses() {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        Ok(())
    }
}
