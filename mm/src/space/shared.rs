//! An address space behind its lock (Linux's `mmap_lock`): faults and the host's accesses take it
//! shared, changes take it exclusively.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::AddressSpace;
use super::access::{Accessed, pieces};
use super::fault::Rights;
use crate::addr::{GuestPhysAddr, VirtAddr, index};
use crate::backing::{BackingError, Brought};
use crate::error::{AccessError, Broken, Fault};
use crate::paging::AccessKind;
use crate::phys::Gone;
use crate::system::System;
use crate::userfault::{Accessor, GivenUp};

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

    /// Makes an access of the program's at `addr` possible, with the exclusive lock if that is what it takes, with the
    /// page's pager if it has one, and with who serves a userfaultfd. The caller has no lock. If a signal came while it
    /// waited, the access is not possible yet, and will fault again.
    ///
    /// # Errors
    /// The fault that the program gets as a signal.
    pub fn fault(&self, addr: VirtAddr, kind: AccessKind) -> Result<(), AccessError> {
        self.fault_for(addr, kind, Accessor::Program)
    }

    /// The same on behalf of a call, or somebody else.
    ///
    /// # Errors
    /// The fault; also if a call gave up its wait.
    pub(crate) fn fault_for(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        accessor: Accessor,
    ) -> Result<(), AccessError> {
        self.try_all((addr, kind), accessor, |space| Ok(space.fault(addr, kind)?.into()))
    }

    /// Attempts something that needs the page at `addr`, until nothing is in its way. Memory is made for it by
    /// whatever can make some.
    fn try_all(
        &self,
        (addr, kind): (VirtAddr, AccessKind),
        accessor: Accessor,
        mut attempt: impl FnMut(&AddressSpace) -> Result<Accessed, AccessError>,
    ) -> Result<(), AccessError> {
        let system = {
            let space = self.look();
            match attempt(&space) {
                // Nearly all end here.
                Ok(Accessed::Done) => return Ok(()),
                Ok(_) => {}
                Err(AccessError::Fault(Fault::OutOfMemory(_)))
                    if !space.system().pagers.is_empty() => {}
                Err(error) => return Err(error),
            }
            Arc::clone(space.system())
        };
        // What was brought must not go again before it is used, nor be given up for the memory that it needs.
        let mut brought = None;
        loop {
            match system.or_page_out(|| attempt(&self.look()))? {
                Accessed::Done => return Ok(()),
                Accessed::NeedsExclusive => {
                    let accessed = system.or_page_out(|| self.alone(addr, &mut attempt))?;
                    if accessed == Accessed::Done {
                        return Ok(());
                    }
                }
                Accessed::ForHandler => {
                    drop(brought.take());
                    let told =
                        system.or_page_out(|| self.look().tell_handler(addr, kind, accessor));
                    match told?.map(|waiting| waiting.wait(accessor)) {
                        // Served, or not to be any more: once more.
                        None | Some(Ok(())) => {}
                        Some(Err(GivenUp)) if accessor == Accessor::Program => return Ok(()),
                        Some(Err(GivenUp)) => return Err(Fault::NoBacking(addr).into()),
                    }
                }
                Accessed::NeedsPage => {
                    drop(brought.take());
                    brought = self.bring(addr, &system)?;
                }
            }
        }
    }

    /// Attempts it under the exclusive lock, up to where a page has to be brought.
    fn alone(
        &self,
        addr: VirtAddr,
        attempt: &mut impl FnMut(&AddressSpace) -> Result<Accessed, AccessError>,
    ) -> Result<Accessed, AccessError> {
        let mut space = self.change();
        loop {
            space.make_way(addr)?;
            let accessed = attempt(&space)?;
            if accessed != Accessed::NeedsExclusive {
                return Ok(accessed);
            }
        }
    }

    /// Has the pager of the page at `addr` bring it, with no lock held.
    fn bring(&self, addr: VirtAddr, system: &System) -> Result<Option<Brought>, AccessError> {
        let wanted = {
            let space = self.look();
            let vma = space.vmas().find_exact(addr);
            vma.and_then(|vma| Some((Arc::clone(vma.backing.as_ref()?), vma.page_index(addr))))
        };
        // If it is another's by now, the next attempt will tell.
        let Some((backing, page)) = wanted else { return Ok(None) };
        backing.bring(page, system).map_err(|error| match error {
            BackingError::NoPage => Fault::NoBacking(addr).into(),
            BackingError::OutOfMemory => Fault::OutOfMemory(addr).into(),
            BackingError::Broken(broken) => broken.into(),
        })
    }

    /// Does what a call has left for pagers to be done. The caller has no lock.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn serve_pagers(&self) -> Result<(), Broken> {
        let system = {
            let space = self.look();
            if !space.system().pagers.are_due() {
                return Ok(());
            }
            Arc::clone(space.system())
        };
        system.serve_pagers()
    }

    /// Copies bytes out of the program's memory.
    ///
    /// # Errors
    /// The fault at the first byte that cannot be read; what was copied before it stays in `into`.
    pub fn read(&self, addr: VirtAddr, into: &mut [u8]) -> Result<(), AccessError> {
        self.read_for(addr, into, Accessor::Call)
    }

    /// The same on behalf of `accessor`.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn read_for(
        &self,
        addr: VirtAddr,
        into: &mut [u8],
        accessor: Accessor,
    ) -> Result<(), AccessError> {
        for piece in pieces(addr, into.len())? {
            self.at(piece.addr, AccessKind::Read, (accessor, Rights::Own), |space, at| {
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
        self.write_for(addr, bytes, Accessor::Call)
    }

    /// The same on behalf of `accessor`.
    ///
    /// # Errors
    /// As of [`write`](Self::write).
    pub fn write_for(
        &self,
        addr: VirtAddr,
        bytes: &[u8],
        accessor: Accessor,
    ) -> Result<(), AccessError> {
        for piece in pieces(addr, bytes.len())? {
            self.at(piece.addr, AccessKind::Write, (accessor, Rights::Own), |space, at| {
                space.system().memory().try_write(at, &bytes[piece.bytes.clone()])
            })?;
        }
        Ok(())
    }

    /// Copies bytes out of the program's memory, as a debugger may: also where the program may not read them
    /// (`access_remote_vm` with `FOLL_FORCE`). Says how many there were before the first that cannot be read, or that a
    /// userfaultfd is asked for: nobody waits.
    ///
    /// # Errors
    /// [`Broken`] alone.
    pub fn read_forced(&self, addr: VirtAddr, into: &mut [u8]) -> Result<usize, Broken> {
        self.forced(addr, into.len(), AccessKind::Read, |space, at, bytes| {
            space.system().memory().try_read(at, &mut into[bytes])
        })
    }

    /// Copies bytes into the program's memory, as a debugger may: where the program may not write private memory, it
    /// gets a copy of its own of what is there. Says how many were copied before the first that cannot be written.
    ///
    /// # Errors
    /// [`Broken`] alone.
    pub fn write_forced(&self, addr: VirtAddr, bytes: &[u8]) -> Result<usize, Broken> {
        self.forced(addr, bytes.len(), AccessKind::Write, |space, at, part| {
            space.system().memory().try_write(at, &bytes[part])
        })
    }

    fn forced(
        &self,
        addr: VirtAddr,
        len: usize,
        kind: AccessKind,
        mut then: impl FnMut(&AddressSpace, GuestPhysAddr, Range<usize>) -> Result<(), Gone>,
    ) -> Result<usize, Broken> {
        let room = VirtAddr::TASK_END.get().saturating_sub(addr.get());
        let len = len.min(index(room));
        let mut done = 0;
        for piece in pieces(addr, len).into_iter().flatten() {
            let one = |space: &AddressSpace, at| then(space, at, piece.bytes.clone());
            match self.at(piece.addr, kind, (Accessor::Visitor, Rights::Forced), one) {
                Ok(()) => done = piece.bytes.end,
                Err(AccessError::Fault(_)) => break,
                Err(AccessError::Broken(broken)) => return Err(broken),
            }
        }
        Ok(done)
    }

    /// Ends the space: all its pages and tables are free afterwards.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub fn exit(self) -> Result<(), Broken> {
        let space = self.into_inner();
        let system = Arc::clone(space.system());
        space.exit()?;
        system.serve_pagers()
    }

    /// Runs `then` on the translated address while the lock, held shared, keeps the page there.
    fn at(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        (accessor, rights): (Accessor, Rights),
        mut then: impl FnMut(&AddressSpace, GuestPhysAddr) -> Result<(), Gone>,
    ) -> Result<(), AccessError> {
        self.try_all((addr, kind), accessor, |space| {
            space.access(addr, kind, rights, &mut |at| then(space, at))
        })
    }
}
