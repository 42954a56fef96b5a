//! Three kinds of failure, never mixed: [`Errno`] is the guest's answer to a call, [`Fault`] is a
//! signal for an access, [`Broken`] is a bug of ours or a failure of the host.

use crate::addr::VirtAddr;

pub use nix::errno::Errno;

/// Why an access by the guest cannot be completed: what the program would see as a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No VMA there, or a guard region: `SIGSEGV`, `SEGV_MAPERR`.
    NotMapped(VirtAddr),
    /// The VMA forbids the access: `SIGSEGV`, `SEGV_ACCERR`.
    Denied(VirtAddr),
    /// Past the end of the backing, or the backing failed: `SIGBUS`, `BUS_ADRERR`.
    NoBacking(VirtAddr),
    /// A page that is marked as lost (`UFFDIO_POISON`): `SIGBUS`, `BUS_MCEERR_AR`.
    Poisoned(VirtAddr),
    /// No memory for the page: the process is killed with `SIGKILL`, as Linux's OOM killer does.
    OutOfMemory(VirtAddr),
}

impl Fault {
    /// The faulting address.
    #[must_use]
    pub fn address(self) -> VirtAddr {
        match self {
            Fault::NotMapped(a)
            | Fault::Denied(a)
            | Fault::NoBacking(a)
            | Fault::Poisoned(a)
            | Fault::OutOfMemory(a) => a,
        }
    }
}

/// Something that must not happen: a bug in mmvisor, or a host that refused what it had promised.
/// The guest never sees it as an answer; the machine stops.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The host refused memory or a mapping.
    #[error("the host could not {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why the host refused.
        source: std::io::Error,
    },
    /// An invariant of ours does not hold.
    #[error("internal error: {0}")]
    Invariant(String),
}

impl Broken {
    /// A host failure with the last OS error.
    #[must_use]
    pub fn last_os_error(what: &'static str) -> Self {
        Broken::Host { what, source: std::io::Error::last_os_error() }
    }
}

/// How a call of the guest can fail.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The guest is told.
    #[error("{0}")]
    Errno(#[from] Errno),
    /// The machine stops.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// How an access of the guest can fail.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The guest gets a signal (or, inside a call, `EFAULT`).
    #[error("{0:?}")]
    Fault(Fault),
    /// The machine stops.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<Fault> for AccessError {
    fn from(fault: Fault) -> Self {
        AccessError::Fault(fault)
    }
}

/// The result of a call of the guest.
pub type CallResult<T> = Result<T, CallError>;
