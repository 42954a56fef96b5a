//! pidfd_open(2), pidfd_send_signal(2), and descriptors of processes in other calls (Linux's `kernel/pid.c`).

use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::descriptors::descriptor;
use super::send::{given, own, send};
use super::{Context, Served};
use crate::files::{Object, Open, Stream};
use crate::task::{Info, Process, SI_USER, Target, To};

/// `PIDFD_THREAD`.
const THREAD: i32 = libc::O_EXCL;
/// `PIDFD_SIGNAL_THREAD`, `_THREAD_GROUP`, `_PROCESS_GROUP`.
const SIGNAL: [i32; 3] = [1, 2, 4];

/// pidfd_open(2). In this order: `EINVAL` unknown flags, or no process's number; `ESRCH`; `EMFILE`.
pub(super) fn pidfd_open(c: &mut Context<'_>) -> Served {
    let (pid, flags) = (c.int(0), c.int(1));
    if flags & !(libc::O_NONBLOCK | THREAD) != 0 || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let stream = Stream::Process(c.process.family.pidfd(pid)?);
    let open = Open::new(Object::Stream(Arc::new(stream)));
    open.set_status(flags & libc::O_NONBLOCK)?;
    Ok(descriptor(c.process.open_as(Arc::new(open), 0, libc::FD_CLOEXEC)?))
}

/// The number of the process behind a descriptor, and the descriptor's `O_NONBLOCK`.
///
/// # Errors
/// `EBADF` it is no such descriptor; `ESRCH` the process is no more.
pub(super) fn behind(process: &Process, fd: i32) -> Result<(i32, i32), Errno> {
    let open = process.files.get(fd)?;
    let Object::Stream(stream) = open.object() else { return Err(Errno::EBADF) };
    let Stream::Process(pidfd) = &**stream else { return Err(Errno::EBADF) };
    Ok((process.family.pid_behind(pidfd)?, open.status() & libc::O_NONBLOCK))
}

/// pidfd_send_signal(2). In this order: `EINVAL` unknown flags, or several; `EBADF`; `EFAULT`, `EINVAL`, `EPERM` what is to
/// be told; as of kill(2).
pub(super) fn pidfd_send_signal(c: &mut Context<'_>) -> Served {
    let (number, flags) = (c.int(1), c.int(3));
    if flags != 0 && !SIGNAL.contains(&flags) {
        return Err(Errno::EINVAL.into());
    }
    let pid = match behind(c.process, c.int(0)) {
        Ok((pid, _)) => pid,
        // Nobody has this number.
        Err(Errno::ESRCH) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let to_group = flags == SIGNAL[2];
    let told = match c.address(2) {
        VirtAddr::ZERO => None,
        at => {
            let [first] = c.read_words(at)?;
            if first & u64::from(u32::MAX) != u64::from(number.cast_unsigned()) {
                return Err(Errno::EINVAL.into());
            }
            Some(given(c, 2, if to_group { 0 } else { pid })?)
        }
    };
    let to = if flags == SIGNAL[0] { To::Task } else { To::Process };
    let target = if to_group { Target::Group(pid) } else { Target::Process(pid) };
    let own = own(c, SI_USER);
    send(c, target, number, to, |signal| match told {
        Some(bytes) => Info::given(signal, bytes),
        None => own(signal),
    })
}
