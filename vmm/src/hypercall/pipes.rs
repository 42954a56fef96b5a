//! Pipes and pairs of sockets: between processes of the guest, but the host's own.

use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;
use rustix::net::{Shutdown, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::descriptors::close_on_exec;
use super::{Context, Served};
use crate::files::{Object, Open, Stream};

/// pipe(2).
pub(super) fn pipe(c: &mut Context<'_>) -> Served {
    c.args[1] = 0;
    pipe2(c)
}

/// pipe2(2). In this order: `EINVAL` unknown flags; `EMFILE` no descriptor, `ENFILE`; `EFAULT`. Source: Linux's
/// `do_pipe2`.
pub(super) fn pipe2(c: &mut Context<'_>) -> Served {
    let flags = c.int(1);
    // O_NOTIFICATION_PIPE makes a pipe for the kernel's own messages, of which there are none.
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let ends = Stream::pipe(PipeFlags::from_bits_truncate(flags.cast_unsigned()))?;
    both(c, ends, close_on_exec(flags), c.address(0))
}

/// socketpair(2), of `AF_UNIX`. In this order: `EINVAL` unknown flags; `EAFNOSUPPORT` another family; what the host
/// says of the type and the protocol; `EMFILE`; `EFAULT`. Source: Linux's `__sys_socketpair`.
pub(super) fn socketpair(c: &mut Context<'_>) -> Served {
    const KIND: i32 = 0xf;
    let (family, kind, protocol) = (c.int(0), c.int(1), c.int(2));
    let flags = kind & !KIND;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if family != libc::AF_UNIX {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    if protocol != 0 && protocol != libc::PF_UNIX {
        return Err(Errno::EPROTONOSUPPORT.into());
    }
    let flags_of_host = SocketFlags::from_bits_truncate(flags.cast_unsigned());
    let ends = Stream::pair(SocketType::from_raw((kind & KIND).cast_unsigned()), flags_of_host)?;
    both(c, ends, close_on_exec(flags), c.address(3))
}

/// Two descriptors, written as two `int`s. Where that fails neither is left.
fn both(c: &Context<'_>, ends: [Stream; 2], close_on_exec: i32, to: VirtAddr) -> Served {
    let files = &c.process.files;
    let [one, other] = ends.map(|end| Arc::new(Open::new(Object::Stream(Arc::new(end)))));
    let one = c.process.open_as(one, 0, close_on_exec)?;
    let both = c.process.open_as(other, 0, close_on_exec).map(|other| [one, other]);
    // What is closed here is open.
    let close = |fd| files.close(fd).unwrap_or_default();
    let both = both.inspect_err(|_| close(one))?;
    let bytes: Vec<u8> = both.iter().flat_map(|fd| fd.to_le_bytes()).collect();
    c.write_bytes(to, &bytes).inspect_err(|_| both.into_iter().for_each(close))?;
    Ok(0)
}

/// shutdown(2).
pub(super) fn shutdown(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    let how = match c.int(1) {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno::EINVAL.into()),
    };
    match open.object() {
        Object::Stream(stream) => rustix::net::shutdown(stream.host(), how)?,
        _ => return Err(Errno::ENOTSOCK.into()),
    }
    Ok(0)
}
