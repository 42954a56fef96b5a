//! A process: an address space, streams, and what system calls ask about it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mm::space::SpaceUser;
use mm::vma::policy::Policy;

use crate::hypercall::Streams;

/// How many signals there are; numbered from 1.
pub(super) const SIGNALS: usize = 64;

/// A `struct sigaction` as the kernel has it: handler, flags, restorer, mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SignalAction {
    /// The handler's address, 0 (default) or 1 (ignore).
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// Who the process says it is.
#[derive(Debug)]
pub struct Identity {
    /// Process id. The guest's processes have numbers of their own.
    pub pid: i32,
    /// Parent's process id.
    pub parent: i32,
    /// The program's absolute path (`/proc/self/exe`).
    pub executable: String,
    /// The first 15 bytes of its name (`PR_GET_NAME`).
    pub name: Mutex<[u8; 16]>,
}

/// One process of the guest.
#[derive(Debug)]
pub struct Process {
    /// Its memory.
    pub space: SpaceUser,
    /// Its file descriptors.
    pub streams: Streams,
    /// Who it is.
    pub identity: Identity,
    /// What it wants done about signals; kept for it to ask, delivered in a later version.
    pub actions: Mutex<[SignalAction; SIGNALS]>,
    /// From which nodes it wants its pages (set_mempolicy(2)); `None` for the default.
    pub policy: Mutex<Option<Policy>>,
    signal_mask: AtomicU64,
    recovery: AtomicU64,
}

impl Process {
    /// A fresh process.
    #[must_use]
    pub fn new(space: SpaceUser, streams: Streams, identity: Identity) -> Self {
        Process {
            space,
            streams,
            identity,
            actions: Mutex::new([SignalAction::default(); SIGNALS]),
            policy: Mutex::new(None),
            signal_mask: AtomicU64::new(0),
            recovery: AtomicU64::new(0),
        }
    }

    /// Blocked signals, a bit each, signal 1 lowest.
    #[must_use]
    pub fn signal_mask(&self) -> u64 {
        self.signal_mask.load(Ordering::Relaxed)
    }

    /// Sets the blocked signals and returns the old ones.
    pub fn set_signal_mask(&self, mask: u64) -> u64 {
        self.signal_mask.swap(mask, Ordering::Relaxed)
    }

    /// Arms the recovery address (0 disarms) and returns the one armed before.
    pub fn set_recovery(&self, address: u64) -> u64 {
        self.recovery.swap(address, Ordering::Relaxed)
    }
}
