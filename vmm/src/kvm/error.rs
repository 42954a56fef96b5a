//! Why there is no virtual machine: what a person can do something about.

use std::io;
use std::path::PathBuf;

/// Why KVM cannot be used, or a machine not be made.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no such device.
    #[error(
        "{}. Load KVM (modprobe kvm_intel or kvm_amd), enable virtualization in the firmware or nested \
         virtualization in the host, or use the nested machine", self.cause()
    )]
    Missing(PathBuf),
    /// The user may not open it.
    #[error(
        "{}. Add this user to the group that owns the device (usually: usermod -aG kvm USER), or run \
         as root", self.cause()
    )]
    Permission(PathBuf),
    /// Opening it failed in another way.
    #[error("cannot open {}: {source}", .device.display())]
    Open {
        /// The device.
        device: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not the stable interface; a version below 0 means that it is no KVM at all.
    #[error("{}", self.cause())]
    Version {
        /// The device.
        device: PathBuf,
        /// What it answered.
        version: i32,
    },
    /// It lacks something that mmvisor is built on.
    #[error("this KVM has no {name} ({purpose}); a newer kernel is needed")]
    Capability {
        /// The capability's name in the kernel's documentation.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// KVM is there but makes no machine.
    #[error("{}. If another hypervisor runs on this host, end it", self.cause())]
    NoMachine(#[source] io::Error),
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
    /// The machine has as many vCPUs as KVM lets one have.
    #[error("this KVM gives a machine no more than {most} vCPUs")]
    TooManyVcpus {
        /// How many that are.
        most: usize,
    },
    /// Building the guest's own structures failed.
    #[error(transparent)]
    Broken(#[from] mm::error::Broken),
}

impl KvmError {
    /// Whether this host's KVM cannot be used at all, whatever is asked of it. Everything else (the
    /// guest's memory is too large, a step was refused half way) would be no better elsewhere.
    #[must_use]
    pub fn means_unusable(&self) -> bool {
        match self {
            KvmError::Missing(_)
            | KvmError::Permission(_)
            | KvmError::Open { .. }
            | KvmError::Version { .. }
            | KvmError::Capability { .. }
            | KvmError::NoMachine(_) => true,
            KvmError::MemorySize { .. }
            | KvmError::Host { .. }
            | KvmError::TooManyVcpus { .. }
            | KvmError::Broken(_) => false,
        }
    }

    /// What was wrong, without what to do about it.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            KvmError::Missing(device) => {
                format!("cannot open {}: it does not exist", device.display())
            }
            KvmError::Permission(device) => {
                format!("cannot open {}: permission denied", device.display())
            }
            KvmError::Version { device, version: ..0 } => {
                format!("{} is not KVM", device.display())
            }
            KvmError::Version { device, version } => {
                let device = device.display();
                format!("{device} speaks version {version} of its interface; version 12 is needed")
            }
            KvmError::NoMachine(source) => {
                format!("KVM could not create a virtual machine: {source}")
            }
            other => other.to_string(),
        }
    }

    /// A function that wraps an ioctl's failure.
    pub(super) fn host(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> KvmError {
        move |error| KvmError::Host { what, source: error.into() }
    }
}
