//! What can be waited for together with signals: the host's own eventfd(2), which is readable while it is rung.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mm::error::Errno;
use rustix::event::{EventfdFlags, eventfd};

use crate::files::stream::of_host;

/// A bell.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    /// One that is silent.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` the host allows no more.
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(Bell).map_err(of_host)
    }

    /// Rings until it is silenced.
    pub(super) fn ring(&self) {
        // What it counts would have to wrap for it to refuse.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Rings no more.
    pub(super) fn silence(&self) {
        // It refuses if it is silent.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }

    /// What is waited for.
    pub(crate) fn host(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
