//! A process: an address space, descriptors, and what system calls ask about it.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::File;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mm::current;
use mm::error::Errno;
use mm::space::SpaceUser;
use mm::vma::limits::Resource;
use mm::vma::policy::Policy;

use super::{Family, Launch, Signals};
use crate::credentials::{self, SharedCredentials};
use crate::files::{DESCRIPTORS, Descriptors, Open, Paths};

/// What a process is called.
#[derive(Debug)]
pub struct Identity {
    /// The program's absolute path (`/proc/self/exe`).
    pub executable: String,
    /// Its file.
    pub image: Arc<File>,
    /// How programs are started in it.
    pub launch: Launch,
    /// The first 15 bytes of its name (`PR_GET_NAME`).
    pub name: Mutex<[u8; 16]>,
}

impl Identity {
    /// Of a program that was called by this name, from the file at `executable`.
    #[must_use]
    pub fn new(name: &CStr, executable: String, image: Arc<File>, launch: Launch) -> Self {
        Identity { executable, image, launch, name: Mutex::new(short_name(name)) }
    }
}

/// A process that nobody can find any more, once those who have found it are done.
pub(super) fn sole(mut process: Arc<Process>) -> Process {
    loop {
        match Arc::try_unwrap(process) {
            Ok(process) => return process,
            Err(shared) => process = shared,
        }
        std::thread::yield_now();
    }
}

thread_local! {
    static SIGNALS: RefCell<Option<Arc<Signals>>> = const { RefCell::new(None) };
}

/// What the process that the calling thread runs does about signals.
pub(super) fn current_signals() -> Option<Arc<Signals>> {
    SIGNALS.with_borrow(Clone::clone)
}

/// The calling thread runs this process from now on.
pub(super) fn enter(process: &Process) {
    current::enter(process.pid);
    SIGNALS.set(Some(Arc::clone(&process.signals)));
    credentials::enter(&process.credentials);
}

/// The first bytes of a path's last part.
fn short_name(path: &CStr) -> [u8; 16] {
    let name = path.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut short = [0; 16];
    let len = name.len().min(15);
    short[..len].copy_from_slice(&name[..len]);
    short
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
    /// Who it is and what it may do.
    pub credentials: SharedCredentials,
    /// From which nodes it wants its pages (set_mempolicy(2)); `None` for the default.
    pub policy: Mutex<Option<Policy>>,
    /// How much rather than others it is killed when memory runs out, from -1,000 to 1,000 (`oom_score_adj`).
    pub oom_adjustment: AtomicI32,
    pub(super) recovery: AtomicU64,
    pub(super) clear_at_exit: AtomicU64,
}

impl Process {
    /// Arms the recovery address (0 disarms) and returns the one armed before.
    pub fn set_recovery(&self, address: u64) -> u64 {
        self.recovery.swap(address, Ordering::Relaxed)
    }

    /// The highest descriptor plus one that it may have (`RLIMIT_NOFILE`).
    #[must_use]
    pub fn most_files(&self) -> i32 {
        let limit = self.space.look().limits().get(Resource::OpenFiles).soft;
        i32::try_from(limit).map_or(DESCRIPTORS, |limit| limit.min(DESCRIPTORS))
    }

    /// The lowest free descriptor from `least` on, made to stand for an open; `flags` are `FD_CLOEXEC` or 0.
    ///
    /// # Errors
    /// As of [`Descriptors::insert`].
    pub fn open_as(&self, open: Arc<Open>, least: i32, flags: i32) -> Result<i32, Errno> {
        self.files.insert(open, least, self.most_files(), flags)
    }

    /// Its memory's calls go by its credentials from now on.
    pub fn apply_credentials(&self) {
        let capabilities = self.credentials.get().of_memory();
        if self.space.look().limits().capabilities != capabilities {
            self.space.change().limits_mut().capabilities = capabilities;
        }
    }

    /// Where a zero is written at its end if others use its memory then (set_tid_address(2)); 0 for nowhere.
    pub fn set_clear_at_exit(&self, address: u64) {
        self.clear_at_exit.store(address, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn a_process_is_called_by_the_first_15_bytes_of_the_last_part() {
        assert_eq!(&short_name(c"/a/b"), b"b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&short_name(c"0123456789abcdef"), b"0123456789abcde\0");
    }
}
