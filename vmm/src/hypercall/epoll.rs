//! epoll_create(2), epoll_ctl(2), epoll_wait(2), and eventfd(2) (Linux's `fs/eventpoll.c`, `fs/eventfd.c`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use rustix::event::EventfdFlags;

use super::descriptors::{close_on_exec, descriptor};
use super::pause::left;
use super::poll::{mask, with_mask};
use super::{Context, Served, Stop, time};
use crate::files::{Epoll, Event, Object, Open, Stream};
use crate::task::rest;

/// Bytes of a `struct epoll_event`, which has no padding.
const EVENT: u64 = 12;
/// The most events that can be asked for (`EP_MAX_EVENTS`).
const MOST: i32 = i32::MAX / 12;

fn install(c: &Context<'_>, stream: Stream, close_on_exec: i32) -> Served {
    let open = Arc::new(Open::new(Object::Stream(Arc::new(stream))));
    Ok(descriptor(c.process.open_as(open, 0, close_on_exec)?))
}

/// epoll_create(2).
pub(super) fn epoll_create(c: &mut Context<'_>) -> Served {
    if c.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    install(c, Stream::Epoll(Epoll::new()?), 0)
}

/// epoll_create1(2).
pub(super) fn epoll_create1(c: &mut Context<'_>) -> Served {
    if c.int(0) & !libc::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    install(c, Stream::Epoll(Epoll::new()?), close_on_exec(c.int(0)))
}

/// eventfd(2).
pub(super) fn eventfd(c: &mut Context<'_>) -> Served {
    c.args[1] = 0;
    eventfd2(c)
}

/// eventfd2(2): the host's own.
pub(super) fn eventfd2(c: &mut Context<'_>) -> Served {
    let flags = c.int(1);
    if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let of_host = EventfdFlags::from_bits_truncate(flags.cast_unsigned());
    let stream = Stream::event(c.int(0).cast_unsigned(), of_host)?;
    install(c, stream, close_on_exec(flags))
}

/// The open behind a descriptor; one that only says where it is counts as none.
fn open(c: &Context<'_>, fd: i32) -> Result<Arc<Open>, Errno> {
    let open = c.process.files.get(fd)?;
    if matches!(open.object(), Object::Place) { Err(Errno::EBADF) } else { Ok(open) }
}

fn stream(open: &Open) -> Option<&Arc<Stream>> {
    match open.object() {
        Object::Stream(stream) => Some(stream),
        _ => None,
    }
}

/// epoll_ctl(2). In this order: `EFAULT` the event; `EBADF`; `EPERM` what cannot be waited for; `EINVAL` no epoll; as of
/// [`Epoll::control`].
pub(super) fn epoll_ctl(c: &mut Context<'_>) -> Served {
    let (operation, fd) = (c.int(1), c.int(2));
    let mut event = Event { flags: 0, data: 0 };
    if operation != libc::EPOLL_CTL_DEL {
        let bytes = c.read_bytes(c.address(3), 12)?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        event = Event { flags: word(0), data: u64::from(word(8)) << 32 | u64::from(word(4)) };
    }
    let watcher = open(c, c.int(0))?;
    let watched = open(c, fd)?;
    if watched.awaited().is_none() {
        return Err(Errno::EPERM.into());
    }
    match stream(&watcher).map(|stream| &**stream) {
        Some(Stream::Epoll(epoll)) => {
            epoll.control(operation, &watched, fd, event, c.process.files.watches())?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// epoll_wait(2).
pub(super) fn epoll_wait(c: &mut Context<'_>) -> Served {
    let limit = millis(c.int(3));
    wait(c, limit)
}

/// epoll_pwait(2).
pub(super) fn epoll_pwait(c: &mut Context<'_>) -> Served {
    let limit = millis(c.int(3));
    let mask = mask(c, c.address(4), c.args[5])?;
    with_mask(c, mask, |c| wait(c, limit))
}

/// epoll_pwait2(2).
pub(super) fn epoll_pwait2(c: &mut Context<'_>) -> Served {
    let limit = match c.address(3) {
        VirtAddr::ZERO => None,
        at => Some(time::timespec(c, at)?),
    };
    let mask = mask(c, c.address(4), c.args[5])?;
    with_mask(c, mask, |c| wait(c, limit))
}

/// A time in milliseconds; a negative one is for ever.
fn millis(millis: i32) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

/// Waits for events (`ep_poll`). A signal is `EINTR`, always; one that waits does not count where nothing is waited for.
fn wait(c: &Context<'_>, limit: Option<Duration>) -> Served {
    let (events_at, most) = (c.address(1), c.int(2));
    let watcher = open(c, c.int(0))?;
    let most = usize::try_from(most).ok().filter(|_| (1..=MOST).contains(&most));
    let most = most.ok_or(Errno::EINVAL)?;
    c.check_user(events_at, most as u64 * EVENT)?;
    let Some(Stream::Epoll(epoll)) = stream(&watcher).map(|stream| &**stream) else {
        return Err(Errno::EINVAL.into());
    };
    let until = limit.map(time::end_of);
    loop {
        let events = epoll.events(most)?;
        if !events.is_empty() {
            return tell(c, events_at, &events);
        }
        if until.is_some_and(|until| limit == Some(Duration::ZERO) || until <= Instant::now()) {
            return Ok(0);
        }
        let mut fds = [PollFd::new(epoll.host(), PollFlags::POLLIN)];
        match rest(c.process, &mut fds, until.map(left)) {
            Ok(ready) => _ = ready?,
            Err(_) => return Err(Stop::Errno(Errno::EINTR)),
        }
    }
}

fn tell(c: &Context<'_>, at: VirtAddr, events: &[Event]) -> Served {
    let mut bytes = Vec::with_capacity(events.len() * 12);
    for event in events {
        bytes.extend_from_slice(&event.flags.to_le_bytes());
        bytes.extend_from_slice(&event.data.to_le_bytes());
    }
    c.write_bytes(at, &bytes)?;
    Ok(events.len() as u64)
}
