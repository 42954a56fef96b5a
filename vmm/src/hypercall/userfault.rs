//! A userfaultfd's descriptor: ioctl(2), read(2) and poll(2) on it.

use mm::addr::VirtAddr;
use mm::calls::{OpenUserfault, USERFAULTFD_IOC_NEW, new_userfault, userfault_ioctl};
use mm::error::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};

use super::memory::install_userfault;
use super::{Context, Served, Stop};
use crate::files::{MESSAGE, Open, UserfaultFile, UserfaultRead, of_fork};
use crate::task::rest;

/// ioctl(2).
pub(super) fn ioctl(c: &Context<'_>, file: &UserfaultFile, request: u64) -> Served {
    file.queue().with_space(|space| {
        let open = OpenUserfault { uffd: file.uffd(), space: space.map(|space| &**space) };
        Ok(userfault_ioctl(c.process, open, request, c.address(2))?)
    })
}

/// ioctl(2) of `/dev/userfaultfd`. `EINVAL` anything but `USERFAULTFD_IOC_NEW`.
pub(super) fn make(c: &Context<'_>, request: u64) -> Served {
    if request != USERFAULTFD_IOC_NEW {
        return Err(Errno::EINVAL.into());
    }
    Ok(new_userfault(c.process, c.args[2])?)
}

/// Whether poll(2) can wait for it (`userfaultfd_poll`). Who is not ready to be refused by read(2) is told that something is
/// wrong.
pub(super) fn can_be_awaited(open: &Open, file: &UserfaultFile) -> bool {
    file.uffd().is_initialized() && open.status() & libc::O_NONBLOCK != 0
}

/// read(2) into `pieces`, of each the address and the length: as many messages as there are and fit, waiting for the first
/// (`userfaultfd_read_iter`).
pub(super) fn read(
    c: &Context<'_>,
    open: &Open,
    file: &UserfaultFile,
    pieces: &[(VirtAddr, usize)],
) -> Served {
    if !file.uffd().is_initialized() {
        return Err(Errno::EINVAL.into());
    }
    let room: usize = pieces.iter().map(|&(_, len)| len).sum();
    let mut done = 0;
    while room - done >= MESSAGE {
        let nonblocking = done > 0 || open.status() & libc::O_NONBLOCK != 0;
        let patience = if nonblocking { Patience::None } else { Patience::UntilASignal };
        let message = match next(c, file, patience) {
            Ok(message) => message,
            Err(Stop::Broken(broken)) => return Err(broken.into()),
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        };
        match put(c, pieces, done, &message) {
            Ok(()) => done += MESSAGE,
            Err(Stop::Errno(_)) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    if done == 0 { Err(Errno::EINVAL.into()) } else { Ok(done as u64) }
}

/// Whether a message is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    None,
    UntilASignal,
}

/// The next message; that of a fork once the child's userfaultfd has a descriptor here.
fn next(c: &Context<'_>, file: &UserfaultFile, patience: Patience) -> Result<[u8; MESSAGE], Stop> {
    let queue = file.queue();
    loop {
        match queue.read() {
            Some(UserfaultRead::Message(message)) => return Ok(message),
            Some(UserfaultRead::Fork(number, child)) => {
                let child = UserfaultFile::of_child(child).ok_or(Errno::EFAULT);
                let fd = child.and_then(|child| install_userfault(c.process, child));
                queue.forked(number, fd.map(drop));
                return Ok(of_fork(fd?));
            }
            None if patience == Patience::None => return Err(Errno::EAGAIN.into()),
            None => {
                let bell = PollFd::new(queue.bell().host(), PollFlags::POLLIN);
                rest(c.process, &mut [bell], None)??;
            }
        }
    }
}

/// Copies a message out to where `skipped` bytes are before it.
fn put(
    c: &Context<'_>,
    pieces: &[(VirtAddr, usize)],
    mut skipped: usize,
    message: &[u8],
) -> Result<(), Stop> {
    let mut rest = message;
    for &(at, len) in pieces {
        let skip = skipped.min(len);
        skipped -= skip;
        let (now, later) = rest.split_at(rest.len().min(len - skip));
        if !now.is_empty() {
            c.write_bytes(at.offset(skip as u64), now)?;
        }
        rest = later;
    }
    Ok(())
}
