//! System V shared memory: segments by number and key (Linux's `ipc/shm.c`, `ipc/util.c`). What a segment's bytes are in
//! is an object like any other; this is who has it attached, and when it goes.
//!
//! ```text
//!   shmget ──> Entry, by its place ── id = sequence << 15 | place
//!                │ key: as long as nobody has removed it
//!   shmat ──> an open of it ── each VMA of that: opened, closed ──> attached
//!   IPC_RMID ──> removed ── and nobody has it attached ──> gone
//! ```
//!
//! Who looks at it by its number while another removes it finds it or does not: all is under one lock, a leaf, under which
//! no object ends.

mod asker;
mod numbers;
mod segment;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::addr::PAGE_SIZE;
use crate::backing::Backing;
use crate::current;
use crate::error::Errno;
use crate::vma::limits::Capabilities;

pub use asker::Asker;
use numbers::Numbers;
pub use segment::{Attached, Segment, Status};

/// The most segments (`kernel.shmmni`).
pub const MOST: u32 = 4096;
/// The most bytes of one (`kernel.shmmax`), and the most pages of all (`kernel.shmall`).
pub const LARGEST: u64 = u64::MAX - (1 << 24);
/// `IPC_PRIVATE`: a key that finds nothing.
pub const PRIVATE: i32 = 0;

/// All segments of a machine.
#[derive(Debug, Default)]
pub struct Segments(Arc<Mutex<Table>>);

/// Knows the table as long as the machine is there.
type Home = Weak<Mutex<Table>>;

#[derive(Debug, Default)]
struct Table {
    /// By their places, which are the lower bits of their numbers.
    entries: BTreeMap<u32, Entry>,
    /// Places by key.
    keys: BTreeMap<i32, u32>,
    numbers: Numbers,
    /// Pages of all of them, there or not (`shm_tot`).
    pages: u64,
}

#[derive(Debug)]
struct Entry {
    segment: Arc<Segment>,
    status: Status,
}

/// What a new segment is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its key.
    pub key: i32,
    /// Its length in bytes.
    pub len: u64,
    /// Who may do what with it: the lowest nine bits of a mode. Of one that is there, what its asker is to be allowed.
    pub mode: u32,
    /// Whose it is to be, and who asks for one that is there.
    pub asker: Asker,
}

/// What a key leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// A new segment (`IPC_CREAT`).
    Make,
    /// `ENOENT`.
    Refuse,
}

/// What is said of a segment that a key leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Present {
    /// Its number.
    Tell,
    /// `EEXIST` (`IPC_CREAT` and `IPC_EXCL`).
    Refuse,
}

/// What there is of all segments (`SHM_INFO`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// How many there are.
    pub segments: u64,
    /// Their pages, there or not.
    pub pages: u64,
    /// Pages in memory.
    pub resident: u64,
    /// Pages in the swap area.
    pub swapped: u64,
}

/// Seconds since 1970.
fn now() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec
}

impl Segments {
    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }

    /// The number of the segment with a key, or of a new one. `make` makes what its bytes are in, which is to have this
    /// number for its inode.
    ///
    /// # Errors
    /// In this order: of a key that leads to one: `EEXIST`; `EINVAL` it is smaller; `EACCES`. Else: `ENOENT`; `EINVAL` length 0 or
    /// above [`LARGEST`]; `ENOSPC` more pages than there can be, or pages that cannot be counted; what `make` says;
    /// `ENOSPC` too many segments. Source: shmget(2), Linux's `ipcget`, `newseg`.
    pub fn get(
        &self,
        wanted: &Wanted,
        absent: Absent,
        present: Present,
        make: impl FnOnce(i32) -> Result<Arc<dyn Backing>, Errno>,
    ) -> Result<i32, Errno> {
        let mut table = self.lock();
        if let Some(entry) = table.keys.get(&wanted.key).and_then(|at| table.entries.get(at)) {
            return match present {
                Present::Refuse => Err(Errno::EEXIST),
                Present::Tell if entry.segment.len() < wanted.len => Err(Errno::EINVAL),
                Present::Tell if !wanted.asker.may(&entry.status, wanted.mode) => {
                    Err(Errno::EACCES)
                }
                Present::Tell => Ok(entry.segment.id()),
            };
        }
        if absent == Absent::Refuse && wanted.key != PRIVATE {
            return Err(Errno::ENOENT);
        }
        if wanted.len == 0 || wanted.len > LARGEST {
            return Err(Errno::EINVAL);
        }
        let pages = wanted.len.div_ceil(PAGE_SIZE);
        let all = table.pages.checked_add(pages).filter(|&all| all <= LARGEST);
        let all = all.ok_or(Errno::ENOSPC)?;
        let next =
            table.numbers.next(|place| table.entries.contains_key(&place), table.entries.len());
        let (object, number) = match next {
            Some(number) => (make(number.id())?, number),
            // Linux looks for memory before it looks for a number.
            None => return make(0).and(Err(Errno::ENOSPC)),
        };
        table.numbers.take(number);
        let (id, place) = (number.id(), number.place);
        let segment = Segment::new(id, wanted.len, object, Arc::downgrade(&self.0));
        let status = Status {
            key: wanted.key,
            mode: wanted.mode & 0o777,
            owner: wanted.asker.user,
            group: wanted.asker.group,
            made_by: wanted.asker.user,
            made_by_group: wanted.asker.group,
            creator: current::pid(),
            changed: now(),
            ..Status::default()
        };
        table.pages = all;
        table.entries.insert(place, Entry { segment: Arc::new(segment), status });
        if wanted.key != PRIVATE {
            table.keys.insert(wanted.key, place);
        }
        Ok(id)
    }

    /// Removes a segment (`IPC_RMID`): nobody finds it by its key any more, and it goes when nobody has it attached.
    ///
    /// # Errors
    /// In this order: `EINVAL` there is none of this number; `EPERM` it is another's.
    pub fn remove(&self, id: i32, asker: &Asker) -> Result<(), Errno> {
        let gone = {
            let mut table = self.lock();
            let place = table.place(id)?;
            let entry = table.entries.get_mut(&place).ok_or(Errno::EINVAL)?;
            if !asker.may_set(&entry.status) {
                return Err(Errno::EPERM);
            }
            let key = std::mem::replace(&mut entry.status.key, PRIVATE);
            entry.status.mode |= Status::REMOVED;
            if key != PRIVATE {
                table.keys.remove(&key);
            }
            table.reap(place)
        };
        // Its memory ends outside the lock.
        drop(gone);
        Ok(())
    }

    /// Removes all segments, as the machine ends (`shm_exit_ns`).
    pub fn remove_all(&self) {
        let root = Asker::root(Capabilities::all());
        for (segment, _) in self.all() {
            // It may have gone by itself.
            let _ = self.remove(segment.id(), &root);
        }
    }

    /// The segment of this number, and what is to be told of it.
    ///
    /// # Errors
    /// `EINVAL` there is none.
    pub fn find(&self, id: i32) -> Result<(Arc<Segment>, Status), Errno> {
        let table = self.lock();
        let entry = table.entries.get(&table.place(id)?).ok_or(Errno::EINVAL)?;
        Ok((Arc::clone(&entry.segment), entry.status))
    }

    /// The same of the segment at a place (`SHM_STAT`): of the number the sequence does not count.
    ///
    /// # Errors
    /// `EINVAL` there is none.
    pub fn find_at(&self, place: i32) -> Result<(Arc<Segment>, Status), Errno> {
        let table = self.lock();
        let entry = table.entries.get(&numbers::place_of(place)).ok_or(Errno::EINVAL)?;
        Ok((Arc::clone(&entry.segment), entry.status))
    }

    /// Changes what is told of a segment.
    ///
    /// # Errors
    /// `EINVAL` there is none of this number.
    pub fn change(&self, id: i32, change: impl FnOnce(&mut Status)) -> Result<(), Errno> {
        let mut table = self.lock();
        let place = table.place(id)?;
        change(&mut table.entries.get_mut(&place).ok_or(Errno::EINVAL)?.status);
        Ok(())
    }

    /// Sets whose it is and who may do what with it (`IPC_SET`): of `mode` the lowest nine bits. `u32::MAX` is no user, and
    /// no group.
    ///
    /// # Errors
    /// In this order: `EINVAL` there is none of this number; `EPERM` it is another's; `EINVAL` no user or no group.
    pub fn set(
        &self,
        id: i32,
        owner: u32,
        group: u32,
        mode: u32,
        asker: &Asker,
    ) -> Result<(), Errno> {
        let mut set = Ok(());
        self.change(id, |status| {
            set = match [owner, group].contains(&u32::MAX) {
                _ if !asker.may_set(status) => Err(Errno::EPERM),
                true => Err(Errno::EINVAL),
                false => Ok(()),
            };
            if set.is_ok() {
                status.owner = owner;
                status.group = group;
                status.mode = status.mode & !0o777 | mode & 0o777;
                status.changed = now();
            }
        })?;
        set
    }

    /// The highest place that is taken; 0 where none is.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.lock().entries.keys().next_back().copied().unwrap_or(0)
    }

    /// All of them, by place.
    #[must_use]
    pub fn all(&self) -> Vec<(Arc<Segment>, Status)> {
        let table = self.lock();
        let all = table.entries.values().map(|entry| (Arc::clone(&entry.segment), entry.status));
        all.collect()
    }

    /// What there is of all of them.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let pages = self.lock().pages;
        let mut totals = Totals { pages, ..Totals::default() };
        for (segment, _) in self.all() {
            totals.segments += 1;
            let (resident, swapped) = segment.present();
            totals.resident += resident;
            totals.swapped += swapped;
        }
        totals
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// The place of a number.
    fn place(&self, id: i32) -> Result<u32, Errno> {
        let place = numbers::place_of(id);
        let entry = self.entries.get(&place).filter(|entry| entry.segment.id() == id);
        entry.map(|_| place).ok_or(Errno::EINVAL)
    }

    /// Takes a segment out if it was removed and nobody has it attached (`shm_may_destroy`).
    fn reap(&mut self, place: u32) -> Option<Entry> {
        let entry = self.entries.get(&place)?;
        if !entry.status.is_removed() || entry.status.attached > 0 {
            return None;
        }
        self.pages -= entry.segment.len().div_ceil(PAGE_SIZE);
        self.entries.remove(&place)
    }
}
