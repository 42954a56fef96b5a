//! A process: an address space, descriptors, and what system calls ask about it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mm::space::SpaceUser;
use mm::vma::policy::Policy;

use super::{Family, Signals};
use crate::files::{Descriptors, Paths};

/// What a process is called.
#[derive(Debug)]
pub struct Identity {
    /// The program's absolute path (`/proc/self/exe`).
    pub executable: String,
    /// The first 15 bytes of its name (`PR_GET_NAME`).
    pub name: Mutex<[u8; 16]>,
}

/// One process of the guest, as its own thread has it; what others ask about it is in the process table.
#[derive(Debug)]
pub struct Process {
    /// The processes that it is one of.
    pub family: Arc<Family>,
    /// Its number. The guest's processes have numbers of their own.
    pub pid: i32,
    /// Its memory.
    pub space: SpaceUser,
    /// Its file descriptors, which others may share (`CLONE_FILES`).
    pub files: Arc<Descriptors>,
    /// Where it is.
    pub paths: Arc<Paths>,
    /// What it is called.
    pub identity: Identity,
    /// What it does about signals.
    pub signals: Arc<Signals>,
    /// From which nodes it wants its pages (set_mempolicy(2)); `None` for the default.
    pub policy: Mutex<Option<Policy>>,
    pub(super) recovery: AtomicU64,
    pub(super) clear_at_exit: AtomicU64,
}

impl Process {
    /// Arms the recovery address (0 disarms) and returns the one armed before.
    pub fn set_recovery(&self, address: u64) -> u64 {
        self.recovery.swap(address, Ordering::Relaxed)
    }

    /// Where a zero is written at its end if others use its memory then (set_tid_address(2)); 0 for nowhere.
    pub fn set_clear_at_exit(&self, address: u64) {
        self.clear_at_exit.store(address, Ordering::Relaxed);
    }
}
