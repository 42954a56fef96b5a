//! Why there is no virtual machine: what a person can do something about.

use std::io;

/// Why KVM cannot be used, or a machine not be made.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no such device.
    #[error(
        "cannot open /dev/kvm: it does not exist. Load KVM (modprobe kvm_intel or kvm_amd), enable \
         virtualization in the firmware or nested virtualization in the host, or use the nested machine"
    )]
    Missing,
    /// The user may not open it.
    #[error(
        "cannot open /dev/kvm: permission denied. Add this user to the group that owns the device \
         (usually: usermod -aG kvm USER), or run as root"
    )]
    Permission,
    /// Opening it failed in another way.
    #[error("cannot open /dev/kvm: {0}")]
    Open(#[source] io::Error),
    /// It is not the stable interface.
    #[error("/dev/kvm speaks version {0} of its interface; version 12 is needed")]
    Version(i32),
    /// It lacks something that mmvisor is built on.
    #[error("this KVM has no {name} ({purpose}); a newer kernel is needed")]
    Capability {
        /// The capability's name in the kernel's documentation.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// The size asked for cannot be had.
    #[error("cannot make a guest memory of {bytes} bytes: {why}")]
    MemorySize {
        /// The size asked for.
        bytes: u64,
        /// Why not.
        why: String,
    },
    /// The host refused a step.
    #[error("KVM could not {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why the host refused.
        source: io::Error,
    },
    /// Building the guest's own structures failed.
    #[error(transparent)]
    Broken(#[from] mm::error::Broken),
}

impl KvmError {
    /// A function that wraps an ioctl's failure.
    pub(super) fn host(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> KvmError {
        move |error| KvmError::Host { what, source: error.into() }
    }
}
