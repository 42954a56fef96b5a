//! The hardware's page walk in software (SDM volume 3, 5.5.4): what the software executor and the
//! host's own reads and writes of guest memory go through, so that they meet the same permissions and
//! leave the same accessed and dirty bits as a vCPU.

use std::sync::atomic::Ordering;

use super::entry::{Access, Entry, Touch};
use super::table::PageTable;
use crate::addr::{GuestPhysAddr, PAGE_SIZE, TABLE_SPAN, VirtAddr};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Fetches an instruction.
    Execute,
}

impl AccessKind {
    /// What an entry must allow for it.
    #[must_use]
    pub const fn needed(self) -> Access {
        match self {
            AccessKind::Read => Access::READ,
            AccessKind::Write => Access::WRITE,
            AccessKind::Execute => Access::EXECUTE,
        }
    }

    /// What it leaves in an entry.
    #[must_use]
    pub const fn touch(self) -> Touch {
        match self {
            AccessKind::Write => Touch::Written,
            AccessKind::Read | AccessKind::Execute => Touch::Read,
        }
    }
}

/// Why a walk ended without a frame, as the page-fault error code's P bit has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// Some entry was not present.
    NotPresent,
    /// The leaf entry forbids the access.
    Protected,
}

impl PageTable {
    /// Translates `addr` for an access from ring 3, setting the leaf's accessed and dirty bits as the
    /// hardware does.
    ///
    /// # Errors
    /// [`Miss`] where the hardware would raise a page fault.
    pub fn walk(&self, addr: VirtAddr, kind: AccessKind) -> Result<GuestPhysAddr, Miss> {
        let large = self.large(addr);
        let slot = match &large {
            Some(large) => large.slot,
            None => self.slot(addr).ok_or(Miss::NotPresent)?,
        };
        let mut raw = slot.load(Ordering::Acquire);
        loop {
            let entry = Entry::new(raw);
            if !entry.is_present() {
                return Err(Miss::NotPresent);
            }
            if !entry.access().contains(kind.needed()) || !entry.is_user() {
                return Err(Miss::Protected);
            }
            let touched = entry.touched(kind.touch()).raw();
            // The entry may be cleared under the walk: only a successful exchange counts.
            match slot.compare_exchange_weak(raw, touched, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let frame = entry.frame().ok_or(Miss::NotPresent)?;
                    let span = if entry.is_large() { TABLE_SPAN } else { PAGE_SIZE };
                    return Ok(GuestPhysAddr::new(frame.addr().get() + addr.get() % span));
                }
                Err(now) => raw = now,
            }
        }
    }
}
