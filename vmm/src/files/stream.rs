//! Streams of the host: the standard ones, and the ends of pipes and of pairs of sockets that the guest's programs have
//! made. The host's own do the waiting, the order of bytes and the end of a stream as Linux does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mm::backing::FileMode;
use mm::error::Errno;
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::Epoll;
use crate::task::Pidfd;

/// One of the host's streams.
#[derive(Debug)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
    /// One that nobody outside the guest has: the end of a pipe, a socket of a pair, or an eventfd.
    Own(OwnedFd),
    /// An epoll instance.
    Epoll(Epoll),
    /// A process, which can be read once it has ended.
    Process(Pidfd),
}

impl Stream {
    /// A pipe: the end that is read, and the one that is written.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` the host allows no more.
    pub fn pipe(flags: PipeFlags) -> Result<[Self; 2], Errno> {
        let ends = rustix::pipe::pipe_with(flags | PipeFlags::CLOEXEC);
        let (read, write) = ends.map_err(of_host)?;
        Ok([Stream::Own(read), Stream::Own(write)])
    }

    /// A pair of connected sockets.
    ///
    /// # Errors
    /// Of socketpair(2), as the host checks.
    pub fn pair(kind: SocketType, flags: SocketFlags) -> Result<[Self; 2], Errno> {
        let flags = flags | SocketFlags::CLOEXEC;
        let ends = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None::<Protocol>);
        let (one, other) = ends.map_err(of_host)?;
        Ok([Stream::Own(one), Stream::Own(other)])
    }

    /// An eventfd.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` the host allows no more.
    pub fn event(value: u32, flags: EventfdFlags) -> Result<Self, Errno> {
        rustix::event::eventfd(value, flags | EventfdFlags::CLOEXEC)
            .map(Stream::Own)
            .map_err(of_host)
    }

    /// The host's own.
    #[must_use]
    pub fn host(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Input => rustix::stdio::stdin(),
            Stream::Output => rustix::stdio::stdout(),
            Stream::Error => rustix::stdio::stderr(),
            Stream::Own(fd) => fd.as_fd(),
            Stream::Epoll(epoll) => epoll.host(),
            Stream::Process(pidfd) => pidfd.host(),
        }
    }

    /// Whether anything can be read or written, once it is ready.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        !matches!(self, Stream::Process(_))
    }

    /// How the host has opened it; for nothing, if it is closed.
    #[must_use]
    pub fn mode(&self) -> FileMode {
        match rustix::fs::fcntl_getfl(self.host()) {
            Ok(flags) => match flags & OFlags::ACCMODE {
                OFlags::RDONLY => FileMode::READ,
                OFlags::WRONLY => FileMode::WRITE,
                _ => FileMode::READ | FileMode::WRITE,
            },
            Err(_) => FileMode::empty(),
        }
    }

    /// Sets `O_NONBLOCK` and its like (`F_SETFL` of fcntl(2)), but for the standard streams: those are the host's, and
    /// other programs share their flags.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_status(&self, flags: i32) -> Result<(), Errno> {
        match self {
            Stream::Input
            | Stream::Output
            | Stream::Error
            | Stream::Epoll(_)
            | Stream::Process(_) => Ok(()),
            Stream::Own(fd) => {
                let flags = OFlags::from_bits_retain(flags.cast_unsigned());
                let settable = OFlags::APPEND | OFlags::NONBLOCK;
                rustix::fs::fcntl_setfl(fd, flags & settable).map_err(of_host)
            }
        }
    }
}

/// The host's errno, as the guest has it.
pub(super) fn of_host(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
