//! epoll(7): the host's own, of the host's own streams. What is edge-triggered, for once or for one waiter only is so by
//! itself; what is kept here is which of the guest's descriptors is which of the host's.
//!
//! ```text
//!   guest:  (open, descriptor) ──> host: what it is awaited by, or a copy of that for the second of one open
//! ```
//!
//! Linux watches a descriptor until all copies of it are closed. So a copy that is made here is the open's: it is closed
//! with that, and the host forgets it then.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mm::error::Errno;
use nix::libc;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::stream::of_host;
use super::{Open, Room, Taken};

/// The most events of one call: more are told by the next one.
const EVENTS: usize = 1024;

/// What is watched for, and what is told with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// `EPOLL*`.
    pub flags: u32,
    /// The program's own.
    pub data: u64,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    host: OwnedFd,
    /// By open and descriptor. A leaf lock; over calls of the host that do not wait.
    watched: Mutex<BTreeMap<(usize, i32), Watched>>,
}

/// One that is watched. An open that has ended is watched no more.
#[derive(Debug)]
struct Watched {
    open: Weak<Open>,
    source: Source,
    _room: Taken,
}

/// What the host watches.
#[derive(Clone, Debug)]
enum Source {
    /// The descriptor that the open itself has.
    Own,
    /// A copy, which the open has.
    Copy(Weak<OwnedFd>),
}

impl Epoll {
    /// One that watches nothing.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM` the host's.
    pub fn new() -> Result<Self, Errno> {
        let host = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(of_host)?;
        Ok(Epoll { host, watched: Mutex::default() })
    }

    /// The host's.
    #[must_use]
    pub fn host(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<(usize, i32), Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// epoll_ctl(2) about descriptor `fd`, which stands for `open`. `room` is for those that are watched.
    ///
    /// # Errors
    /// In this order: `EPERM` what is open is never waited for; `EINVAL` what cannot be asked for, or an unknown
    /// operation; `EEXIST`, `ENOENT`; `ELOOP`; `ENOSPC`, `ENOMEM` there can be no more. Source: Linux's `do_epoll_ctl`.
    pub fn control(
        &self,
        operation: i32,
        open: &Arc<Open>,
        fd: i32,
        event: Event,
        room: &Arc<Room>,
    ) -> Result<(), Errno> {
        let awaited = open.awaited().ok_or(Errno::EPERM)?;
        let mut watched = self.watched();
        let of_open = Arc::as_ptr(open) as usize;
        let key = (of_open, fd);
        let known = watched.get(&key).map(|one| one.source.clone());
        let is_taken = watched
            .range((of_open, i32::MIN)..=(of_open, i32::MAX))
            .any(|(_, one)| matches!(one.source, Source::Own));
        let copy = match &known {
            Some(Source::Copy(copy)) => copy.upgrade(),
            None if is_taken && operation == libc::EPOLL_CTL_ADD => {
                Some(open.copy_of(awaited.host)?)
            }
            None if is_taken => return Err(Errno::ENOENT),
            Some(Source::Own) | None => None,
        };
        let source = copy.as_ref().map_or(awaited.host, |copy| copy.as_fd());
        // What is above these says how they are told.
        let told = u32::from(awaited.events.cast_unsigned()) | !u32::from(u16::MAX);
        let (data, flags) = (
            epoll::EventData::new_u64(event.data),
            epoll::EventFlags::from_bits_retain(event.flags & told),
        );
        match operation {
            libc::EPOLL_CTL_ADD => {
                let taken = room.take(1).or_else(|| {
                    watched.retain(|_, one| one.open.strong_count() > 0);
                    room.take(1)
                });
                let added = epoll::add(&self.host, source, data, flags).map_err(of_host);
                let added = added.and_then(|()| taken.ok_or(Errno::ENOSPC));
                match added {
                    Ok(room) => {
                        let source =
                            copy.map_or(Source::Own, |copy| Source::Copy(Arc::downgrade(&copy)));
                        let open = Arc::downgrade(open);
                        watched.insert(key, Watched { open, source, _room: room });
                        Ok(())
                    }
                    Err(errno) => {
                        if known.is_none() {
                            if errno == Errno::ENOSPC {
                                // It may have been added before there was found to be no room.
                                let _ = epoll::delete(&self.host, source);
                            }
                            copy.into_iter().for_each(|copy| open.drop_copy(&copy));
                        }
                        Err(errno)
                    }
                }
            }
            libc::EPOLL_CTL_MOD => epoll::modify(&self.host, source, data, flags).map_err(of_host),
            libc::EPOLL_CTL_DEL => {
                epoll::delete(&self.host, source).map_err(of_host)?;
                watched.remove(&key);
                copy.into_iter().for_each(|copy| open.drop_copy(&copy));
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// What has happened, at most so many, without a wait.
    ///
    /// # Errors
    /// The host's.
    pub fn events(&self, most: usize) -> Result<Vec<Event>, Errno> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(most.min(EVENTS));
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.host, spare_capacity(&mut events), Some(&now)).map_err(of_host)?;
        let event = |event: &epoll::Event| {
            let (flags, data) = (event.flags, event.data);
            Event { flags: flags.bits(), data: data.u64() }
        };
        Ok(events.iter().map(event).collect())
    }
}
