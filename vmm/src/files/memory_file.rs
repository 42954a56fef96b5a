//! Files whose bytes are memory: those of a tree in memory, and what memfd_create(2) makes, which has no name there. Of
//! small pages, or of huge ones.

use std::sync::Arc;

use mm::addr::PAGE_SIZE;
use mm::backing::{Backing, BackingName, HugeMemory, Seals, SharedMemory, huge_page_size};
use mm::error::Errno;
use mm::system::System;
use nix::libc::{
    MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGE_MASK, MFD_HUGE_SHIFT, MFD_HUGETLB,
    MFD_NOEXEC_SEAL,
};

use super::attributes::Attributes;
use super::room::Taken;
use super::status::{FileKind, FileStatus, SECTOR};

/// The longest name in bytes (`MFD_NAME_MAX_LEN`): with `memfd:` before it, a file name.
pub const LONGEST_NAME: usize = 249;

/// What such a file's bytes are in.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Pages of 4 KiB.
    Small(Arc<SharedMemory>),
    /// Huge pages (`MFD_HUGETLB`).
    Huge(Arc<HugeMemory>),
}

/// A file in memory.
#[derive(Debug)]
pub struct MemoryFile {
    memory: Memory,
    attributes: Attributes,
    /// A memfd is counted where it is open.
    _room: Option<Taken>,
}

impl MemoryFile {
    /// An empty file of a tree in memory; it has no name there yet.
    #[must_use]
    pub fn regular(system: &System, name: BackingName, permissions: u32, room: Taken) -> Self {
        let device = rustix::fs::makedev(name.major, name.minor);
        let attributes = Attributes::new(FileKind::Regular, device, name.inode, permissions, 0);
        let memory = SharedMemory::tmpfs(system, name).swappable(system);
        // Only who made it by memfd_create(2) may seal it.
        let _ = memory.add_seals(Seals::SEAL);
        MemoryFile { memory: Memory::Small(memory), attributes, _room: Some(room) }
    }

    /// Whether these flags can be asked for.
    ///
    /// # Errors
    /// `EINVAL` unknown flags, or both `MFD_EXEC` and `MFD_NOEXEC_SEAL`. Source: `sanitize_flags` of Linux's
    /// `mm/memfd.c`.
    pub fn check(flags: u32) -> Result<(), Errno> {
        let plain = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
        let huge = MFD_HUGETLB | MFD_HUGE_MASK << MFD_HUGE_SHIFT;
        let known = if flags & MFD_HUGETLB == 0 { plain } else { plain | huge };
        let both = MFD_EXEC | MFD_NOEXEC_SEAL;
        if flags & !known != 0 || flags & both == both {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// An empty one; the flags have been checked.
    ///
    /// # Errors
    /// `ENODEV` no huge pages of that size. Source: memfd_create(2), `hugetlb_file_setup`.
    pub fn memfd(system: &System, name: &str, flags: u32) -> Result<Self, Errno> {
        let memory = if flags & MFD_HUGETLB == 0 {
            Memory::Small(SharedMemory::memfd(system, name).swappable(system))
        } else {
            let log2 = u64::from(flags >> MFD_HUGE_SHIFT & MFD_HUGE_MASK);
            let pool = huge_page_size(log2).and_then(|size| system.huge_pool(size));
            Memory::Huge(Arc::new(HugeMemory::memfd(system, name, pool.ok_or(Errno::ENODEV)?)))
        };
        let never_executable = flags & MFD_NOEXEC_SEAL != 0;
        let seals = match (never_executable, flags & MFD_ALLOW_SEALING != 0) {
            (true, _) => Seals::EXEC,
            (false, true) => Seals::empty(),
            (false, false) => Seals::SEAL,
        };
        // A new one is sealed against nothing, and nowhere mapped.
        let _ = memory.add_seals(seals);
        let permissions = if never_executable { 0o666 } else { 0o777 };
        let BackingName { major, minor, inode, .. } = memory.backing().name();
        let device = rustix::fs::makedev(major, minor);
        let attributes = Attributes::new(FileKind::Regular, device, inode, permissions, 0);
        Ok(MemoryFile { memory, attributes, _room: None })
    }

    /// What it has beside its bytes.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// `F_GET_SEALS` of fcntl(2).
    #[must_use]
    pub fn seals(&self) -> Seals {
        match &self.memory {
            Memory::Small(memory) => memory.seals(),
            Memory::Huge(memory) => memory.seals(),
        }
    }

    /// `F_ADD_SEALS` of fcntl(2), with bits as the program gives them.
    ///
    /// # Errors
    /// In this order: `EINVAL` unknown seals; `EPERM`, `EBUSY` as of [`SharedMemory::add_seals`]. Source:
    /// `memfd_add_seals` of Linux's `mm/memfd.c`.
    pub fn add_seals(&self, bits: u32) -> Result<(), Errno> {
        let mut seals = Seals::from_bits(bits).ok_or(Errno::EINVAL)?;
        if seals.contains(Seals::EXEC) && self.attributes.permissions() & 0o111 != 0 {
            // What can be executed for ever must not change either.
            seals |= Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE;
        }
        self.memory.add_seals(seals)
    }

    /// What fstat(2) says.
    #[must_use]
    pub fn status(&self) -> FileStatus {
        let [size, blocks] = match &self.memory {
            Memory::Small(memory) => [memory.len(), memory.present_pages() * (PAGE_SIZE / SECTOR)],
            Memory::Huge(memory) => [memory.len(), memory.present() / SECTOR],
        };
        self.attributes.status(size, self.memory.backing().page_size(), blocks)
    }
}

impl Memory {
    /// What mmap(2) maps.
    #[must_use]
    pub fn backing(&self) -> Arc<dyn Backing> {
        match self {
            Memory::Small(memory) => Arc::clone(memory) as Arc<dyn Backing>,
            Memory::Huge(memory) => Arc::clone(memory) as Arc<dyn Backing>,
        }
    }

    fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        match self {
            Memory::Small(memory) => memory.add_seals(seals),
            Memory::Huge(memory) => memory.add_seals(seals),
        }
    }
}
