//! An address space behind its lock (Linux's `mmap_lock`): faults and the host's accesses take it
//! shared, changes take it exclusively.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::access::{Accessed, pieces};
use super::{AddressSpace, Resolved};
use crate::addr::{GuestPhysAddr, VirtAddr};
use crate::error::{AccessError, Broken};
use crate::paging::AccessKind;
use crate::phys::Gone;

/// An address space that several tasks use.
#[derive(Debug)]
pub struct SharedSpace(RwLock<AddressSpace>);

impl SharedSpace {
    /// Puts a space behind its lock.
    #[must_use]
    pub fn new(space: AddressSpace) -> Self {
        SharedSpace(RwLock::new(space))
    }

    /// For looking.
    pub fn look(&self) -> RwLockReadGuard<'_, AddressSpace> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For changing.
    pub fn change(&self) -> RwLockWriteGuard<'_, AddressSpace> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the space out again.
    #[must_use]
    pub fn into_inner(self) -> AddressSpace {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an access at `addr` possible, with the exclusive lock if that is what it takes.
    ///
    /// # Errors
    /// The fault that the program gets as a signal.
    pub fn fault(&self, addr: VirtAddr, kind: AccessKind) -> Result<(), AccessError> {
        if self.look().fault(addr, kind)? == Resolved::Done {
            return Ok(());
        }
        let mut space = self.change();
        space.make_way(addr)?;
        while space.fault(addr, kind)? == Resolved::NeedsExclusive {
            space.make_way(addr)?;
        }
        Ok(())
    }

    /// Copies bytes out of the program's memory.
    ///
    /// # Errors
    /// The fault at the first byte that cannot be read; what was copied before it stays in `into`.
    pub fn read(&self, addr: VirtAddr, into: &mut [u8]) -> Result<(), AccessError> {
        for piece in pieces(addr, into.len())? {
            self.at(piece.addr, AccessKind::Read, |space, at| {
                space.system().memory().try_read(at, &mut into[piece.bytes.clone()])
            })?;
        }
        Ok(())
    }

    /// Copies bytes into the program's memory.
    ///
    /// # Errors
    /// The fault at the first byte that cannot be written; what was copied before it stays.
    pub fn write(&self, addr: VirtAddr, bytes: &[u8]) -> Result<(), AccessError> {
        for piece in pieces(addr, bytes.len())? {
            self.at(piece.addr, AccessKind::Write, |space, at| {
                space.system().memory().try_write(at, &bytes[piece.bytes.clone()])
            })?;
        }
        Ok(())
    }

    /// Ends the space: all its pages and tables are free afterwards.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub fn exit(self) -> Result<(), Broken> {
        self.into_inner().exit()
    }

    /// Runs `then` on the translated address while the lock, held shared, keeps the page there.
    fn at(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        mut then: impl FnMut(&AddressSpace, GuestPhysAddr) -> Result<(), Gone>,
    ) -> Result<(), AccessError> {
        {
            let space = self.look();
            let done = space.access(addr, kind, &mut |at| then(&space, at))?;
            if done == Accessed::Done {
                return Ok(());
            }
        }
        let mut space = self.change();
        space.make_way(addr)?;
        while space.access(addr, kind, &mut |at| then(&space, at))? == Accessed::NeedsExclusive {
            space.make_way(addr)?;
        }
        Ok(())
    }
}
