//! Processes behind descriptors (pidfd_open(2)): such a one is for ever this process's, though its number comes again.
//!
//! What is told of its end is an eventfd of the host's, so that whoever waits for descriptors waits for this one as for
//! others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mm::error::Errno;
use rustix::event::EventfdFlags;

use super::family::Family;

/// What is told of a process's end.
#[derive(Clone, Debug)]
pub(super) struct Ending(Arc<OwnedFd>);

impl Ending {
    fn new() -> Result<Self, Errno> {
        let host = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        host.map(|host| Ending(Arc::new(host)))
            .map_err(|error| Errno::from_raw(error.raw_os_error()))
    }

    /// It has ended.
    pub(super) fn tell(&self) {
        if let Err(error) = rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
            log::warn!("cannot tell of a process's end: {error}");
        }
    }
}

/// A process behind a descriptor.
#[derive(Debug)]
pub struct Pidfd {
    pid: i32,
    birth: u64,
    ending: Ending,
}

impl Pidfd {
    /// The host's descriptor that can be read once the process has ended.
    #[must_use]
    pub fn host(&self) -> BorrowedFd<'_> {
        self.ending.0.as_fd()
    }
}

impl Family {
    /// A descriptor for a process, or for the zombie of one.
    ///
    /// # Errors
    /// `ESRCH` there is none; `EMFILE` the host's.
    pub fn pidfd(&self, pid: i32) -> Result<Pidfd, Errno> {
        let mut table = self.lock();
        let member = table.get_mut(pid).ok_or(Errno::ESRCH)?;
        let ending = match &member.ending {
            Some(ending) => ending.clone(),
            None => {
                let ending = Ending::new()?;
                if !member.is_alive() {
                    ending.tell();
                }
                member.ending.insert(ending).clone()
            }
        };
        Ok(Pidfd { pid, birth: member.birth, ending })
    }

    /// The number of the process behind a descriptor.
    ///
    /// # Errors
    /// `ESRCH` it is no more, not even a zombie.
    pub fn pid_behind(&self, pidfd: &Pidfd) -> Result<i32, Errno> {
        let table = self.lock();
        let is_there = table.get(pidfd.pid).is_some_and(|member| member.birth == pidfd.birth);
        if is_there { Ok(pidfd.pid) } else { Err(Errno::ESRCH) }
    }
}
