//! What can no longer be done to memory with a descriptor, of small pages or huge ones (`F_ADD_SEALS` of fcntl(2);
//! Linux's `mm/memfd.c`).

use std::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;

use crate::error::Errno;
use crate::rmap::ObjectMaps;
use crate::vma::VmFlags;

bitflags! {
    /// `F_SEAL_*` of fcntl(2): what can no longer be done to a memfd.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Seals: u32 {
        /// No more seals.
        const SEAL = 1;
        /// It cannot become shorter.
        const SHRINK = 2;
        /// It cannot become longer.
        const GROW = 4;
        /// It cannot be written.
        const WRITE = 8;
        /// No new shared mapping can write it.
        const FUTURE_WRITE = 16;
        /// It cannot be made executable or not.
        const EXEC = 32;
    }
}

/// The seals of an object. None at first.
#[derive(Debug, Default)]
pub(super) struct Sealing(AtomicU32);

impl Sealing {
    /// Those there are.
    pub(super) fn now(&self) -> Seals {
        Seals::from_bits_truncate(self.0.load(Ordering::Relaxed))
    }

    /// Adds seals to an object that is mapped there.
    ///
    /// # Errors
    /// In this order: `EPERM` when it is sealed against that; `EBUSY` against writing, while shared memory may
    /// write it. Source: `memfd_add_seals`.
    pub(super) fn add(&self, seals: Seals, maps: &ObjectMaps) -> Result<(), Errno> {
        let maps = maps.change();
        if self.now().contains(Seals::SEAL) {
            return Err(Errno::EPERM);
        }
        let denies = seals.contains(Seals::WRITE) && !self.now().contains(Seals::WRITE);
        if denies && maps.may_be_written() {
            return Err(Errno::EBUSY);
        }
        self.0.fetch_or(seals.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Asks whether a length may change so, in bytes.
    ///
    /// # Errors
    /// `EPERM` if not.
    pub(super) fn allow_length(&self, old: u64, new: u64) -> Result<(), Errno> {
        let forbidden = new < old && self.now().contains(Seals::SHRINK)
            || new > old && self.now().contains(Seals::GROW);
        if forbidden { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Asks whether bytes may change otherwise than through a map.
    ///
    /// # Errors
    /// `EPERM` if not.
    pub(super) fn allow_write(&self) -> Result<(), Errno> {
        if self.deny_writes() { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Asks whether it may be mapped so, and says what the map can do then.
    ///
    /// # Errors
    /// `EPERM` a shared map that may write. Source: `memfd_check_seals_mmap`.
    pub(super) fn allow_map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        if !self.deny_writes() || !flags.contains(VmFlags::SHARED) {
            return Ok(flags);
        }
        if flags.contains(VmFlags::WRITE) {
            return Err(Errno::EPERM);
        }
        Ok(flags - VmFlags::MAYWRITE)
    }

    fn deny_writes(&self) -> bool {
        self.now().intersects(Seals::WRITE | Seals::FUTURE_WRITE)
    }
}
