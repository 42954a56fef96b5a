//! A process's descriptors (Linux's `files_struct`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mm::error::Errno;
use nix::libc;

use super::room::Room;
use super::{Object, Open, Stream};

/// The highest descriptor plus one that any `RLIMIT_NOFILE` allows here.
pub const DESCRIPTORS: i32 = 4096;

#[derive(Clone, Debug)]
struct Descriptor {
    open: Arc<Open>,
    /// `FD_CLOEXEC`.
    flags: i32,
}

/// How many opens there can be in all processes together (Linux's `file-max`).
const OPENS: u64 = 16_384;

/// How many descriptors all epolls together can watch (`fs.epoll.max_user_watches`).
const WATCHES: u64 = 16_384;

/// A process's descriptors.
#[derive(Debug)]
pub struct Descriptors {
    table: Mutex<BTreeMap<i32, Descriptor>>,
    /// How many more there can be of any process.
    opens: Arc<Room>,
    /// How many more can be watched by any epoll.
    watches: Arc<Room>,
}

impl Default for Descriptors {
    /// 0, 1 and 2.
    fn default() -> Self {
        let streams = [Stream::Input, Stream::Output, Stream::Error];
        let open = |stream| Descriptor {
            open: Arc::new(Open::new(Object::Stream(Arc::new(stream)))),
            flags: 0,
        };
        let table = (0..).zip(streams.map(open));
        let (opens, watches) = (Room::new(OPENS), Room::new(WATCHES));
        Descriptors { table: Mutex::new(table.collect()), opens, watches }
    }
}

impl Descriptors {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Descriptor>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child's: the same opens behind the same numbers, a table of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        let (opens, watches) = (Arc::clone(&self.opens), Arc::clone(&self.watches));
        Descriptors { table: Mutex::new(self.lock().clone()), opens, watches }
    }

    /// The room for descriptors that are watched by epolls.
    #[must_use]
    pub fn watches(&self) -> &Arc<Room> {
        &self.watches
    }

    /// The highest descriptor that is open; -1 for none.
    #[must_use]
    pub fn highest(&self) -> i32 {
        self.lock().keys().next_back().copied().unwrap_or(-1)
    }

    /// The open behind a descriptor.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn get(&self, fd: i32) -> Result<Arc<Open>, Errno> {
        let open = self.lock().get(&fd).map(|descriptor| Arc::clone(&descriptor.open));
        open.ok_or(Errno::EBADF)
    }

    /// The lowest free descriptor from `least` on and below `most`, made to stand for an open; `flags` are
    /// `FD_CLOEXEC` or 0.
    ///
    /// # Errors
    /// `EINVAL` if no descriptor can be as high as `least`; `EMFILE`: there is no free one; `ENFILE`: nothing more can be
    /// open in all processes together.
    pub fn insert(&self, open: Arc<Open>, least: i32, most: i32, flags: i32) -> Result<i32, Errno> {
        if !(0..most).contains(&least) {
            return Err(Errno::EINVAL);
        }
        let mut table = self.lock();
        let free = (least..most).find(|fd| !table.contains_key(fd)).ok_or(Errno::EMFILE)?;
        open.count(&self.opens)?;
        table.insert(free, Descriptor { open, flags });
        Ok(free)
    }

    /// Makes a descriptor stand for an open, whatever it stood for.
    ///
    /// # Errors
    /// `EBADF` if there can be no such descriptor.
    pub fn replace(&self, fd: i32, open: Arc<Open>, flags: i32) -> Result<(), Errno> {
        if !(0..DESCRIPTORS).contains(&fd) {
            return Err(Errno::EBADF);
        }
        self.lock().insert(fd, Descriptor { open, flags });
        Ok(())
    }

    /// The numbers of all, in order.
    #[must_use]
    pub fn all(&self) -> Vec<i32> {
        self.lock().keys().copied().collect()
    }

    /// Closes a descriptor.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn close(&self, fd: i32) -> Result<(), Errno> {
        // What was open ends outside the lock.
        let closed = self.lock().remove(&fd);
        closed.map(drop).ok_or(Errno::EBADF)
    }

    /// Closes those that are to be (execve(2)).
    pub fn close_on_exec(&self) {
        let mut table = self.lock();
        let (closed, stay) = std::mem::take(&mut *table)
            .into_iter()
            .partition(|(_, descriptor)| descriptor.flags & libc::FD_CLOEXEC != 0);
        *table = stay;
        drop(table);
        // What was open ends outside the lock.
        drop::<BTreeMap<_, _>>(closed);
    }

    /// A descriptor's own flags (`F_GETFD`).
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn flags(&self, fd: i32) -> Result<i32, Errno> {
        self.lock().get(&fd).map(|descriptor| descriptor.flags).ok_or(Errno::EBADF)
    }

    /// Sets them (`F_SETFD`).
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn set_flags(&self, fd: i32, flags: i32) -> Result<(), Errno> {
        let mut table = self.lock();
        table.get_mut(&fd).ok_or(Errno::EBADF)?.flags = flags & libc::FD_CLOEXEC;
        Ok(())
    }
}
