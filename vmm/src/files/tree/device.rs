//! The devices that every program expects.

use mm::addr::PAGE_BYTES;
use mm::error::Errno;
use nix::libc;

use crate::files::status::{FileKind, FileStatus, Timestamp};

/// A character device (Linux's `drivers/char/mem.c`, `random.c`).
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
}

impl Device {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("null", Device::Null),
        ("zero", Device::Zero),
        ("full", Device::Full),
        ("random", Device::Random),
        ("urandom", Device::Urandom),
    ];

    /// What stat(2) says: of the device 0:`minor` that it is found on.
    #[must_use]
    pub fn status(self) -> FileStatus {
        let minor = match self {
            Device::Null => 3,
            Device::Zero => 5,
            Device::Full => 7,
            Device::Random => 8,
            Device::Urandom => 9,
        };
        let since = Timestamp::default();
        FileStatus {
            device: rustix::fs::makedev(0, super::directory::DEVICES),
            inode: u64::from(minor),
            links: 1,
            kind: FileKind::Character,
            permissions: 0o666,
            uid: 0,
            gid: 0,
            stands_for: rustix::fs::makedev(1, minor),
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
    /// What the host says of random bytes.
    pub fn read(self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
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
    /// `ENOSPC` of `/dev/full`.
    pub fn write(self, len: usize) -> Result<usize, Errno> {
        match self {
            Device::Full => Err(Errno::from_raw(libc::ENOSPC)),
            Device::Null | Device::Zero | Device::Random | Device::Urandom => Ok(len),
        }
    }
}
