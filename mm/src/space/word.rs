//! Which memory an address names, whoever else names it otherwise (Linux's `get_futex_key`).

use super::AddressSpace;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::error::Errno;
use crate::vma::VmFlags;

/// A place in memory that two processes mean the same one by, or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Word {
    /// An address of one space.
    Own {
        /// The space's number.
        space: u64,
        /// Its address.
        addr: VirtAddr,
    },
    /// A byte of an object.
    Shared {
        /// The object's device, major and minor.
        device: (u32, u32),
        /// Its inode number.
        inode: u64,
        /// Which of its bytes.
        offset: u64,
    },
}

impl AddressSpace {
    /// What an address is to the space's users alone (`FUTEX_PRIVATE_FLAG`).
    #[must_use]
    pub fn own_word(&self, addr: VirtAddr) -> Word {
        Word::Own { space: self.number, addr }
    }

    /// What an address is to all: the object's byte in a shared map, else the space's.
    ///
    /// # Errors
    /// `EFAULT` nothing is mapped there.
    pub fn word(&self, addr: VirtAddr) -> Result<Word, Errno> {
        let vma = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?;
        let shared = vma.flags.contains(VmFlags::SHARED);
        let Some(backing) = vma.backing.as_ref().filter(|_| shared) else {
            return Ok(self.own_word(addr));
        };
        let name = backing.name();
        let offset = vma.page_index(addr).wrapping_mul(PAGE_SIZE).wrapping_add(addr.page_offset());
        Ok(Word::Shared { device: (name.major, name.minor), inode: name.inode, offset })
    }
}
