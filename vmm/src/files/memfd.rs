//! Memory with a descriptor (memfd_create(2)): of small pages, or of huge ones.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mm::addr::PAGE_SIZE;
use mm::backing::{Backing, HugeMemory, Seals, SharedMemory, huge_page_size};
use mm::error::Errno;
use mm::system::System;
use nix::libc;
use nix::libc::{
    MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGE_MASK, MFD_HUGE_SHIFT, MFD_HUGETLB,
    MFD_NOEXEC_SEAL,
};

/// The longest name in bytes (`MFD_NAME_MAX_LEN`): with `memfd:` before it, a file name.
pub const LONGEST_NAME: usize = 249;

/// What a memfd's bytes are in.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Pages of 4 KiB.
    Small(Arc<SharedMemory>),
    /// Huge pages (`MFD_HUGETLB`).
    Huge(Arc<HugeMemory>),
}

/// What memfd_create(2) has made.
#[derive(Debug)]
pub struct Memfd {
    memory: Memory,
    permissions: u32,
    inode: u64,
    /// Since 1970.
    made: std::time::Duration,
}

impl Memfd {
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
    pub fn new(system: &System, name: &str, flags: u32) -> Result<Self, Errno> {
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
        Ok(Memfd {
            permissions: if never_executable { 0o666 } else { 0o777 },
            inode: memory.backing().name().inode,
            memory,
            made: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        })
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
        if seals.contains(Seals::EXEC) && self.permissions & 0o111 != 0 {
            // What can be executed for ever must not change either.
            seals |= Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE;
        }
        self.memory.add_seals(seals)
    }

    /// What fstat(2) says, as the words of `struct stat` (arch/x86/include/uapi/asm/stat.h).
    #[must_use]
    pub fn stat(&self) -> [u64; 18] {
        const SECTOR: u64 = 512;
        const SECTORS: u64 = PAGE_SIZE / SECTOR;
        let mode = u64::from(libc::S_IFREG | self.permissions);
        let (seconds, nanoseconds) = (self.made.as_secs(), u64::from(self.made.subsec_nanos()));
        let time = [seconds, nanoseconds];
        let [size, blocks] = match &self.memory {
            Memory::Small(memory) => [memory.len(), memory.present_pages() * SECTORS],
            Memory::Huge(memory) => [memory.len(), memory.present() / SECTOR],
        };
        let block = self.memory.backing().page_size();
        let first = [1, self.inode, 0, mode, 0, 0, size, block, blocks];
        let mut words = [0; 18];
        words[..9].copy_from_slice(&first);
        for place in [9, 11, 13] {
            words[place..place + 2].copy_from_slice(&time);
        }
        words
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
