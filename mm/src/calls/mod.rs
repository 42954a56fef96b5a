//! The memory calls as a program makes them: a number, six registers, and memory that pointers lead to
//! (Linux's `SYSCALL_DEFINE`s).
//!
//! Whoever runs programs serves their calls here: a guest's, whose pointers lead into its own memory, and a
//! trace's, whose pointers lead to what was recorded. What the two do not share is behind [`Caller`]; which
//! argument is looked at first, and with which errno, is written down once.
//!
//! ```text
//!   registers ──> serve ──> arguments read and checked ──> AddressSpace ──> results written
//!                                 │ Caller::read, file          │ errno           │ Caller::write
//! ```

mod advice;
mod limit;
mod lock;
mod map;
mod migrate;
mod numa;
mod pagemap_scan;
mod prctl;
mod procmap;
mod reach;
mod segments;
mod userfault;

#[cfg(test)]
mod tests;

pub use pagemap_scan::{PAGEMAP_SCAN, pagemap_scan};
pub use procmap::{PROCMAP_QUERY, procmap_query};
pub use userfault::{
    OpenUserfault, UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_MOVE, UFFDIO_POISON,
    UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
    USERFAULTFD_IOC_NEW, ioctl as userfault_ioctl, new_userfault,
};

use std::sync::Arc;

use nix::libc;

use crate::addr::VirtAddr;
use crate::backing::Backing;
use crate::error::{AccessError, CallError, CallResult, Errno};
use crate::segments::Asker;
use crate::space::{SharedSpace, SpaceUser};
use crate::userfault::Served;
use crate::vma::policy::Policy;

/// Who makes a call: everything that a memory call needs beside its registers and the address space's own
/// state.
pub trait Caller {
    /// The caller's address space.
    fn space(&self) -> &SharedSpace;

    /// The caller's process id.
    fn pid(&self) -> i32;

    /// A use of another process's address space, by its number; `None` where it has ended.
    ///
    /// # Errors
    /// `ESRCH` there is no such process.
    fn other(&self, _pid: i32) -> Result<Option<SpaceUser>, Errno> {
        Err(Errno::ESRCH)
    }

    /// Whether it may do this with another process, or the zombie of one.
    fn may_reach(&self, _pid: i32, _reach: Reach) -> bool {
        true
    }

    /// Who it is to segments of shared memory.
    fn asker(&self) -> Asker {
        Asker::root(self.space().look().limits().capabilities)
    }

    /// The process behind a descriptor (pidfd_open(2)).
    ///
    /// # Errors
    /// `EBADF` the descriptor is no such one; `ESRCH` the process is no more.
    fn process_behind(&self, _fd: i32) -> Result<i32, Errno> {
        Err(Errno::EBADF)
    }

    /// Copies bytes in from the caller's memory (`copy_from_user`).
    ///
    /// # Errors
    /// The fault at the first byte that cannot be read: the call answers `EFAULT`.
    fn read(&self, from: VirtAddr, into: &mut [u8]) -> Result<(), AccessError> {
        self.space().read(from, into)
    }

    /// Copies bytes out to the caller's memory (`copy_to_user`).
    ///
    /// # Errors
    /// The fault at the first byte that cannot be written: the call answers `EFAULT`.
    fn write(&self, to: VirtAddr, bytes: &[u8]) -> Result<(), AccessError> {
        self.space().write(to, bytes)
    }

    /// The open file behind a descriptor. One that cannot be mapped says so in its
    /// [`mode`](Backing::mode).
    ///
    /// # Errors
    /// `EBADF` where the descriptor is not open.
    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno>;

    /// The lowest free descriptor, made to stand for a new userfaultfd of the caller's memory; `flags` are
    /// userfaultfd(2)'s.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`: there are too many.
    fn install(&self, served: Served, flags: i32) -> Result<i32, Errno>;

    /// The task's own memory policy; `None` for the default one.
    fn policy(&self) -> Option<Policy>;

    /// Sets the task's own memory policy.
    fn set_policy(&self, policy: Option<Policy>);
}

/// What a call does with another process, by which it is decided who may (ptrace(2), "Ptrace access mode checking";
/// prlimit(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Its bytes are read or written (`PTRACE_MODE_ATTACH_REALCREDS`).
    Attach,
    /// It is advised (`PTRACE_MODE_READ_FSCREDS`).
    Advise,
    /// It is asked where its pages are, or they are moved (`PTRACE_MODE_READ_REALCREDS`).
    Place,
    /// Its limits are told or set (`check_prlimit_permission`).
    Limit,
}

impl Reach {
    /// What is said to who may not.
    fn refused(self) -> Errno {
        match self {
            Reach::Advise => Errno::EACCES,
            Reach::Attach | Reach::Place | Reach::Limit => Errno::EPERM,
        }
    }

    /// What is said of a process that has ended, to who may. Others are told that they may not; of memory that is
    /// looked for first (`mm_access`) all are told so.
    fn ended(self) -> Errno {
        match self {
            Reach::Place => Errno::EINVAL,
            Reach::Attach | Reach::Advise | Reach::Limit => Errno::ESRCH,
        }
    }

    /// Whether memory is looked for first, and may be reached by all who have it.
    fn is_of_memory(self) -> bool {
        matches!(self, Reach::Attach | Reach::Advise)
    }
}

/// Serves a memory call; `None` if the number is not one's.
///
/// # Errors
/// The call's errno, or [`Broken`](crate::error::Broken).
pub fn serve(caller: &dyn Caller, number: u64, args: [u64; 6]) -> Option<CallResult<u64>> {
    let serve = handler(number)?;
    Some(serve(&Call { caller, args }))
}

/// Whether [`serve`] has this call.
#[must_use]
pub fn serves(number: u64) -> bool {
    handler(number).is_some()
}

/// What serves one call.
type Handler = fn(&Call<'_>) -> CallResult<u64>;

fn handler(number: u64) -> Option<Handler> {
    Some(match libc::c_long::try_from(number).ok()? {
        libc::SYS_mmap => map::mmap,
        libc::SYS_munmap => map::munmap,
        libc::SYS_mprotect => map::mprotect,
        libc::SYS_pkey_mprotect => map::pkey_mprotect,
        libc::SYS_mremap => map::mremap,
        libc::SYS_brk => map::brk,
        libc::SYS_remap_file_pages => map::remap_file_pages,
        libc::SYS_madvise => advice::madvise,
        libc::SYS_process_madvise => advice::process_madvise,
        libc::SYS_mincore => advice::mincore,
        libc::SYS_msync => advice::msync,
        libc::SYS_mlock => lock::mlock,
        libc::SYS_mlock2 => lock::mlock2,
        libc::SYS_munlock => lock::munlock,
        libc::SYS_mlockall => lock::mlockall,
        libc::SYS_munlockall => lock::munlockall,
        libc::SYS_mseal => lock::mseal,
        libc::SYS_mbind => numa::mbind,
        libc::SYS_set_mempolicy => numa::set_mempolicy,
        libc::SYS_get_mempolicy => numa::get_mempolicy,
        libc::SYS_set_mempolicy_home_node => numa::set_mempolicy_home_node,
        libc::SYS_move_pages => migrate::move_pages,
        libc::SYS_migrate_pages => migrate::migrate_pages,
        libc::SYS_prctl => prctl::prctl,
        libc::SYS_personality => prctl::personality,
        libc::SYS_prlimit64 => limit::prlimit64,
        libc::SYS_getrlimit => limit::getrlimit,
        libc::SYS_setrlimit => limit::setrlimit,
        libc::SYS_process_vm_readv => reach::process_vm_readv,
        libc::SYS_process_vm_writev => reach::process_vm_writev,
        libc::SYS_shmget => segments::shmget,
        libc::SYS_shmat => segments::shmat,
        libc::SYS_shmdt => segments::shmdt,
        libc::SYS_shmctl => segments::shmctl,
        libc::SYS_userfaultfd => userfault::userfaultfd,
        _ => return None,
    })
}

/// A call under way.
struct Call<'a> {
    caller: &'a dyn Caller,
    args: [u64; 6],
}

impl Call<'_> {
    /// Argument `index` as an address.
    fn address(&self, index: usize) -> VirtAddr {
        VirtAddr::new(self.args[index])
    }

    /// Argument `index` as a C `int`: the upper half of the register does not count.
    #[allow(clippy::cast_possible_truncation, reason = "the kernel truncates too")]
    fn int(&self, index: usize) -> i32 {
        self.args[index] as i32
    }

    /// Argument `index` as a C `unsigned int`, for those whose bits are flags.
    fn word(&self, index: usize) -> u64 {
        self.args[index] & u64::from(u32::MAX)
    }

    /// Does something with the address space of a process, 0 for the caller's own. It stays while that lasts, though the
    /// process may end.
    ///
    /// # Errors
    /// `ESRCH` there is no such process. It has ended, and who may not: as of [`Reach`].
    fn with_space<T>(
        &self,
        pid: i32,
        reach: Reach,
        act: impl FnOnce(&SharedSpace) -> CallResult<T>,
    ) -> CallResult<T> {
        if pid == 0 || pid == self.caller.pid() {
            return act(self.caller.space());
        }
        let other = self.caller.other(pid)?;
        let is_own = |other: &SpaceUser| {
            reach.is_of_memory() && std::ptr::eq(&raw const **other, self.caller.space())
        };
        let Some(other) = other else {
            let first = if reach.is_of_memory() || self.caller.may_reach(pid, reach) {
                reach.ended()
            } else {
                reach.refused()
            };
            return Err(first.into());
        };
        let answer = if is_own(&other) || self.caller.may_reach(pid, reach) {
            act(&other)
        } else {
            Err(reach.refused().into())
        };
        other.put()?;
        answer
    }

    /// The answer to a call that may have left something for pagers to be done. No lock is held.
    fn served<T>(&self, answer: CallResult<T>) -> CallResult<T> {
        self.caller.space().serve_pagers()?;
        answer
    }

    /// Whether `len` bytes lie in the user half at all (Linux's `access_ok`).
    fn check_user(at: VirtAddr, len: u64) -> Result<(), Errno> {
        let end = at.checked_add(len).filter(|&end| end <= VirtAddr::TASK_END);
        end.map(|_| ()).ok_or(Errno::EFAULT)
    }

    /// Copies bytes in.
    fn read(&self, from: VirtAddr, into: &mut [u8]) -> CallResult<()> {
        self.caller.read(from, into).map_err(bad_address)
    }

    /// Copies bytes out.
    fn write(&self, to: VirtAddr, bytes: &[u8]) -> CallResult<()> {
        self.caller.write(to, bytes).map_err(bad_address)
    }

    /// Copies 64-bit words in.
    fn read_words<const N: usize>(&self, from: VirtAddr) -> CallResult<[u64; N]> {
        let mut bytes = [[0; 8]; N];
        self.read(from, bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    /// Copies 64-bit words out.
    fn write_words(&self, to: VirtAddr, words: &[u64]) -> CallResult<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(to, &bytes)
    }
}

/// Inside a call a bad pointer is `EFAULT`.
fn bad_address(error: AccessError) -> CallError {
    match error {
        AccessError::Fault(_) => Errno::EFAULT.into(),
        AccessError::Broken(broken) => broken.into(),
    }
}

/// What a call without a value answers.
fn done(result: CallResult<()>) -> CallResult<u64> {
    result.map(|()| 0)
}
