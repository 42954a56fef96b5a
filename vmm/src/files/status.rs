//! What stat(2) and statx(2) say of a file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc;

/// Bytes of a `struct statx`.
pub const STATX: usize = 256;
/// Bytes of what [`FileStatus::blocks`] counts.
pub(super) const SECTOR: u64 = 512;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// It has bytes at offsets.
    Regular,
    /// It has names in it.
    Directory,
    /// It leads elsewhere.
    Link,
    /// A device.
    Character,
    /// A pipe with a name, a socket, a device of blocks: nothing that can be opened here.
    Other(u32),
}

impl FileKind {
    /// Of the bits of a mode (`S_IFMT`).
    #[must_use]
    pub fn of_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Link,
            libc::S_IFCHR => FileKind::Character,
            other => FileKind::Other(other),
        }
    }

    /// Its bits of a mode.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Link => libc::S_IFLNK,
            FileKind::Character => libc::S_IFCHR,
            FileKind::Other(bits) => bits,
        }
    }

    /// `d_type` of getdents64(2).
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "four bits")]
    pub fn entry_type(self) -> u8 {
        (self.bits() >> 12) as u8
    }
}

/// What there is to say of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStatus {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// What it is.
    pub kind: FileKind,
    /// Who may do what with it (07777).
    pub permissions: u32,
    /// Whose it is.
    pub uid: u32,
    /// Which group's.
    pub gid: u32,
    /// The device that it is, if it is one.
    pub stands_for: u64,
    /// In bytes.
    pub size: u64,
    /// How many bytes are best read at once.
    pub block: u64,
    /// What it takes, in [`SECTOR`]s.
    pub blocks: u64,
    /// When it was read.
    pub accessed: Timestamp,
    /// When its bytes changed.
    pub modified: Timestamp,
    /// When anything of it changed.
    pub changed: Timestamp,
}

/// A time since 1970, or before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest, below a second.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).into()
    }

    fn words(self) -> [u64; 2] {
        [self.seconds.cast_unsigned(), u64::from(self.nanoseconds)]
    }

    /// A `struct statx_timestamp`.
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seconds.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.nanoseconds.to_le_bytes());
        bytes
    }
}

impl From<Duration> for Timestamp {
    fn from(since: Duration) -> Self {
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Timestamp { seconds, nanoseconds: since.subsec_nanos() }
    }
}

impl FileStatus {
    /// Kind and permissions (`st_mode`).
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.kind.bits() | self.permissions
    }

    /// The words of a `struct stat` (arch/x86/include/uapi/asm/stat.h).
    #[must_use]
    pub(crate) fn words(&self) -> [u64; 18] {
        let [accessed, modified, changed] =
            [self.accessed, self.modified, self.changed].map(Timestamp::words);
        [
            self.device,
            self.inode,
            self.links,
            u64::from(self.mode()) | u64::from(self.uid) << 32,
            u64::from(self.gid),
            self.stands_for,
            self.size,
            self.block,
            self.blocks,
            accessed[0],
            accessed[1],
            modified[0],
            modified[1],
            changed[0],
            changed[1],
            0,
            0,
            0,
        ]
    }

    /// As statx(2) writes it: what `STATX_BASIC_STATS` names (`include/uapi/linux/stat.h`).
    #[must_use]
    pub fn statx(&self) -> [u8; STATX] {
        let mut bytes = [0; STATX];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let small = |word: u64| u32::try_from(word).unwrap_or(u32::MAX).to_le_bytes();
        put(0, &libc::STATX_BASIC_STATS.to_le_bytes());
        put(4, &small(self.block));
        put(16, &small(self.links));
        put(20, &self.uid.to_le_bytes());
        put(24, &self.gid.to_le_bytes());
        put(28, &u16::try_from(self.mode()).unwrap_or(0).to_le_bytes());
        put(32, &self.inode.to_le_bytes());
        put(40, &self.size.to_le_bytes());
        put(48, &self.blocks.to_le_bytes());
        put(64, &self.accessed.bytes());
        put(96, &self.changed.bytes());
        put(112, &self.modified.bytes());
        for (at, device) in [(128, self.stands_for), (136, self.device)] {
            put(at, &rustix::fs::major(device).to_le_bytes());
            put(at + 4, &rustix::fs::minor(device).to_le_bytes());
        }
        bytes
    }
}

impl From<&rustix::fs::Stat> for FileStatus {
    fn from(stat: &rustix::fs::Stat) -> Self {
        let time = |seconds: i64, nanoseconds: u64| Timestamp {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        FileStatus {
            device: stat.st_dev,
            inode: stat.st_ino,
            links: stat.st_nlink,
            kind: FileKind::of_mode(stat.st_mode),
            permissions: stat.st_mode & !libc::S_IFMT,
            uid: stat.st_uid,
            gid: stat.st_gid,
            stands_for: stat.st_rdev,
            size: stat.st_size.cast_unsigned(),
            block: stat.st_blksize.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}
