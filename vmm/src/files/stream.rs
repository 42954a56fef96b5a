//! The host's standard streams.

use std::os::fd::BorrowedFd;

use mm::backing::FileMode;

/// One of the host's streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    /// The host's own.
    #[must_use]
    pub fn host(self) -> BorrowedFd<'static> {
        match self {
            Stream::Input => rustix::stdio::stdin(),
            Stream::Output => rustix::stdio::stdout(),
            Stream::Error => rustix::stdio::stderr(),
        }
    }

    /// How the host has opened it; for nothing, if it is closed.
    #[must_use]
    pub fn mode(self) -> FileMode {
        match rustix::fs::fcntl_getfl(self.host()) {
            Ok(flags) => match flags & rustix::fs::OFlags::ACCMODE {
                rustix::fs::OFlags::RDONLY => FileMode::READ,
                rustix::fs::OFlags::WRONLY => FileMode::WRITE,
                _ => FileMode::READ | FileMode::WRITE,
            },
            Err(_) => FileMode::empty(),
        }
    }
}
