//! The devices that every program expects.

use mm::addr::PAGE_BYTES;
use mm::error::Errno;
use nix::libc;

use crate::files::status::{FileKind, FileStatus, Timestamp};

/// A character device (Linux's `drivers/char/mem.c`, `random.c`, and of `fs/userfaultfd.c`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// `/dev/null`: empty, and takes everything.
    Null,
    /// `/dev/zero`: zeros.
    Zero,
    /// `/dev/full`: zeros, and no room.
    Full,
    /// `/dev/random`: the host's random bytes.
    Random,
    /// `/dev/urandom`: the same.
    Urandom,
    /// `/dev/userfaultfd`: makes userfaultfds for who may open it, by ioctl(2) alone.
    Userfaultfd,
}

impl Device {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("null", Device::Null),
        ("zero", Device::Zero),
        ("full", Device::Full),
        ("random", Device::Random),
        ("urandom", Device::Urandom),
        ("userfaultfd", Device::Userfaultfd),
    ];

    /// What stat(2) says: of the device 0:`minor` that it is found on.
    #[must_use]
    pub fn status(self) -> FileStatus {
        let (major, minor, permissions) = match self {
            Device::Null => (1, 3, 0o666),
            Device::Zero => (1, 5, 0o666),
            Device::Full => (1, 7, 0o666),
            Device::Random => (1, 8, 0o666),
            Device::Urandom => (1, 9, 0o666),
            // Linux gives it the first number that is free.
            Device::Userfaultfd => (10, 257, 0o600),
        };
        let since = Timestamp::default();
        FileStatus {
            device: rustix::fs::makedev(0, super::directory::DEVICES),
            inode: u64::from(minor),
            links: 1,
            kind: FileKind::Character,
            permissions,
            uid: 0,
            gid: 0,
            stands_for: rustix::fs::makedev(major, minor),
            size: 0,
            block: 4096,
            blocks: 0,
            accessed: since,
            modified: since,
            changed: since,
        }
    }

    /// Fills a buffer; says how many bytes there are.
    ///
    /// # Errors
    /// What the host says of random bytes; `EINVAL` of `/dev/userfaultfd`.
    pub fn read(self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Device::Userfaultfd => return Err(Errno::EINVAL),
            Device::Null => return Ok(0),
            Device::Zero | Device::Full => into.fill(0),
            Device::Random | Device::Urandom => {
                let flags = rustix::rand::GetRandomFlags::empty();
                // A page at most: no call of the host's is cut short.
                let part = into.len().min(PAGE_BYTES);
                let got = rustix::rand::getrandom(&mut into[..part], flags);
                return got.map_err(|errno| Errno::from_raw(errno.raw_os_error()));
            }
        }
        Ok(into.len())
    }

    /// Takes so many bytes; says how many it took.
    ///
    /// # Errors
    /// `ENOSPC` of `/dev/full`; `EINVAL` of `/dev/userfaultfd`.
    pub fn write(self, len: usize) -> Result<usize, Errno> {
        match self {
            Device::Userfaultfd => Err(Errno::EINVAL),
            Device::Full => Err(Errno::from_raw(libc::ENOSPC)),
            Device::Null | Device::Zero | Device::Random | Device::Urandom => Ok(len),
        }
    }
}
