//! What an inode in memory has beside its bytes: whose it is, who may do what, when it was changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;

use super::status::{FileKind, FileStatus, Timestamp};
use crate::credentials::current;

/// An inode's attributes.
#[derive(Debug)]
pub struct Attributes {
    kind: FileKind,
    device: u64,
    inode: u64,
    now: Mutex<Now>,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    permissions: u32,
    uid: u32,
    gid: u32,
    links: u64,
    accessed: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
}

/// A time that is to be set (utimensat(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// To that of the call.
    Now,
    /// It stays as it is.
    Stays,
    /// To this.
    To(Timestamp),
}

impl SetTime {
    fn set(self, time: &mut Timestamp, now: Timestamp) {
        match self {
            SetTime::Now => *time = now,
            SetTime::Stays => {}
            SetTime::To(given) => *time = given,
        }
    }

    /// As the host's utimensat(2) is told it.
    #[must_use]
    pub fn timespec(self) -> rustix::fs::Timespec {
        let (seconds, nanoseconds) = match self {
            SetTime::Now => (0, libc::UTIME_NOW),
            SetTime::Stays => (0, libc::UTIME_OMIT),
            SetTime::To(time) => (time.seconds, i64::from(time.nanoseconds)),
        };
        rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
    }
}

impl Attributes {
    /// Those of a new inode with so many names: of who makes it.
    #[must_use]
    pub fn new(kind: FileKind, device: u64, inode: u64, permissions: u32, links: u64) -> Self {
        let made = Timestamp::now();
        let who = current();
        let now = Now {
            permissions,
            uid: who.uids.files,
            gid: who.gids.files,
            links,
            accessed: made,
            modified: made,
            changed: made,
        };
        Attributes { kind, device, inode, now: Mutex::new(now) }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has just been made in a directory: of one that has its group handed down, it is that group's.
    pub fn made_in(&self, directory: &Attributes) {
        let above = *directory.lock();
        if above.permissions & libc::S_ISGID != 0 {
            let mut now = self.lock();
            now.gid = above.gid;
            if self.kind == FileKind::Directory {
                now.permissions |= libc::S_ISGID;
            }
        }
    }

    /// Its number.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Who may do what (07777).
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.lock().permissions
    }

    /// How many names it has.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.lock().links
    }

    /// All of them, with what the inode knows itself.
    #[must_use]
    pub fn status(&self, size: u64, block: u64, blocks: u64) -> FileStatus {
        let now = *self.lock();
        FileStatus {
            device: self.device,
            inode: self.inode,
            links: now.links,
            kind: self.kind,
            permissions: now.permissions,
            uid: now.uid,
            gid: now.gid,
            stands_for: 0,
            size,
            block,
            blocks,
            accessed: now.accessed,
            modified: now.modified,
            changed: now.changed,
        }
    }

    /// Its bytes have been read: notes it where Linux does by default, `relatime`.
    pub fn read(&self) {
        const DAY: i64 = 24 * 60 * 60;
        let mut now = self.lock();
        let time = Timestamp::now();
        let stale = now.accessed <= now.modified.max(now.changed);
        if stale || time.seconds.saturating_sub(now.accessed.seconds) >= DAY {
            now.accessed = time;
        }
    }

    /// Its bytes, or the names in it, have changed.
    pub fn written(&self) {
        let mut now = self.lock();
        now.modified = Timestamp::now();
        now.changed = now.modified;
    }

    /// Has one more name.
    pub fn link(&self) {
        let mut now = self.lock();
        now.links = now.links.saturating_add(1);
        now.changed = Timestamp::now();
    }

    /// Has one less.
    pub fn unlink(&self) {
        let mut now = self.lock();
        now.links = now.links.saturating_sub(1);
        now.changed = Timestamp::now();
    }

    /// chmod(2).
    pub fn set_permissions(&self, permissions: u32) {
        let mut now = self.lock();
        now.permissions = permissions & 0o7777;
        now.changed = Timestamp::now();
    }

    /// chown(2); `None` leaves it. Who is given a program loses that it runs as its owner.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) {
        let mut now = self.lock();
        now.uid = uid.unwrap_or(now.uid);
        now.gid = gid.unwrap_or(now.gid);
        if self.kind == FileKind::Regular {
            let set_gid = if now.permissions & 0o010 == 0 { 0 } else { libc::S_ISGID };
            now.permissions &= !(libc::S_ISUID | set_gid);
        }
        now.changed = Timestamp::now();
    }

    /// utimensat(2).
    pub fn set_times(&self, accessed: SetTime, modified: SetTime) {
        let mut now = self.lock();
        let time = Timestamp::now();
        accessed.set(&mut now.accessed, time);
        modified.set(&mut now.modified, time);
        now.changed = time;
    }
}
