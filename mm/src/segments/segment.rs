//! One segment, and what there is to tell of it.

use std::ptr;
use std::sync::Arc;

use super::{Home, lock, now, numbers};
use crate::addr::PAGE_SIZE;
use crate::backing::Backing;
use crate::current;
use crate::error::Errno;

/// A segment: its number and its memory. It ends when nobody has it attached any more and its number is gone.
#[derive(Debug)]
pub struct Segment {
    id: i32,
    len: u64,
    object: Arc<dyn Backing>,
    home: Home,
}

/// What shmctl(2) tells of a segment. Times are in seconds since 1970, 0 for never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Its key; [`PRIVATE`](super::PRIVATE) once it was removed.
    pub key: i32,
    /// Who may do what with it; [`REMOVED`](Self::REMOVED), [`LOCKED`](Self::LOCKED).
    pub mode: u32,
    /// Whose it is: the user.
    pub owner: u32,
    /// The group.
    pub group: u32,
    /// The user who made it.
    pub made_by: u32,
    /// His group then.
    pub made_by_group: u32,
    /// The process that made it.
    pub creator: i32,
    /// The process that attached it or took it off last; 0 for nobody.
    pub last: i32,
    /// How many VMAs show it.
    pub attached: u64,
    /// When it was attached last.
    pub attached_at: i64,
    /// When it was taken off last.
    pub detached_at: i64,
    /// When what is told of it was changed last.
    pub changed: i64,
}

impl Status {
    /// It goes when nobody has it attached (`SHM_DEST`).
    pub const REMOVED: u32 = 0o1000;
    /// It stays in memory (`SHM_LOCKED`).
    pub const LOCKED: u32 = 0o2000;

    pub(super) fn is_removed(&self) -> bool {
        self.mode & Self::REMOVED != 0
    }
}

/// One more that has a segment attached, until it is dropped: so it stays while it is being mapped.
#[derive(Debug)]
pub struct Attached<'a>(&'a Segment);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.less(|_| {});
    }
}

impl Segment {
    pub(super) fn new(id: i32, len: u64, object: Arc<dyn Backing>, home: Home) -> Self {
        Segment { id, len, object, home }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// How often places had come round when it was made, in its number.
    #[must_use]
    pub fn sequence(&self) -> u16 {
        numbers::sequence_of(self.id)
    }

    /// Its length in bytes, as it was asked for.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether its length is 0, which none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What its bytes are in.
    #[must_use]
    pub fn object(&self) -> &Arc<dyn Backing> {
        &self.object
    }

    /// Its length in bytes as it is mapped: whole pages of it.
    #[must_use]
    pub fn mapped_len(&self) -> u64 {
        self.len.checked_next_multiple_of(self.object.page_size()).unwrap_or(0)
    }

    /// How many of its pages, of 4 KiB, are in memory, and how many in the swap area.
    #[must_use]
    pub fn present(&self) -> (u64, u64) {
        if let Some(memory) = self.object.shared_memory() {
            let swapped = memory.swapped_pages();
            return (memory.present_pages() - swapped.min(memory.present_pages()), swapped);
        }
        (self.object.huge().map_or(0, |memory| memory.present() / PAGE_SIZE), 0)
    }

    /// Has it stay attached meanwhile.
    ///
    /// # Errors
    /// `EIDRM` it is gone.
    pub fn attach(&self) -> Result<Attached<'_>, Errno> {
        self.with(|status| status.attached += 1).ok_or(Errno::EIDRM)?;
        Ok(Attached(self))
    }

    /// There is one more VMA of it (`shm_open`).
    pub(crate) fn opened(&self) {
        // As long as anybody has it attached it is there.
        let _ = self.with(|status| {
            status.attached += 1;
            status.attached_at = now();
            status.last = current::pid();
        });
    }

    /// There is one less (`shm_close`).
    pub(crate) fn closed(&self) {
        self.less(|status| {
            status.detached_at = now();
            status.last = current::pid();
        });
    }

    /// A VMA that was to be one more has become a part of another.
    pub(crate) fn merged(&self) {
        self.less(|_| {});
    }

    /// Changes what is told of it, as long as it is there; another one may have its place.
    fn with(&self, change: impl FnOnce(&mut Status)) -> Option<()> {
        let table = self.home.upgrade()?;
        let mut table = lock(&table);
        let entry = table.entries.get_mut(&numbers::place_of(self.id));
        entry.filter(|entry| ptr::eq(&*entry.segment, self)).map(|entry| change(&mut entry.status))
    }

    /// One less has it; if that was the last one, and it was removed, it is gone.
    fn less(&self, change: impl FnOnce(&mut Status)) {
        let _ = self.with(|status| {
            change(status);
            // Each that is taken off was attached.
            status.attached = status.attached.saturating_sub(1);
        });
        let Some(table) = self.home.upgrade() else { return };
        // It ends outside the lock.
        let gone = lock(&table).reap(numbers::place_of(self.id));
        drop(gone);
    }
}
