//! Who makes the accesses of a trace: a processor, which walks page tables and reports faults.
//!
//! ```text
//!   Linux::access ──> Processor ─┬─ SoftwareProcessor   walks in software (here)
//!                                └─ a vCPU in ring 3    walks in hardware (the machine's crate)
//!                          fault ──> SharedSpace::fault ──> the same access again, or the signal
//! ```

use std::fmt::Debug;

use super::super::software;
use crate::addr::VirtAddr;
use crate::error::AccessError;
use crate::paging::AccessKind;
use crate::space::SharedSpace;

/// An access of one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteAccess {
    /// Reads it, executes it, or writes it back as it is.
    Touch(AccessKind),
    /// Writes it.
    Store(u8),
}

impl ByteAccess {
    /// The permission that it takes.
    #[must_use]
    pub fn kind(self) -> AccessKind {
        match self {
            ByteAccess::Touch(kind) => kind,
            ByteAccess::Store(_) => AccessKind::Write,
        }
    }
}

/// A processor in ring 3.
///
/// It may remember translations, as hardware does; the machine's flush sink takes them away. A change of
/// address space takes away nothing.
pub trait Processor: Debug {
    /// One access in an address space, below [`VirtAddr::TASK_END`]. Faults go to
    /// [`SharedSpace::fault`], and what that resolves is tried again. Answers with the byte that a read
    /// found; another access, with any.
    ///
    /// # Errors
    /// The fault that the program would get, or what is broken.
    fn access(
        &mut self,
        space: &SharedSpace,
        addr: VirtAddr,
        access: ByteAccess,
    ) -> Result<u8, AccessError>;
}

/// A processor that walks in software and remembers nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct SoftwareProcessor;

impl Processor for SoftwareProcessor {
    fn access(
        &mut self,
        space: &SharedSpace,
        addr: VirtAddr,
        access: ByteAccess,
    ) -> Result<u8, AccessError> {
        let at = software::access(space, addr, access.kind())?;
        let space = space.look();
        let memory = space.system().memory();
        let mut byte = [0];
        memory.read(at, &mut byte);
        match access {
            ByteAccess::Store(byte) => memory.write(at, &[byte]),
            ByteAccess::Touch(AccessKind::Write) => memory.write(at, &byte),
            ByteAccess::Touch(AccessKind::Read | AccessKind::Execute) => {}
        }
        Ok(byte[0])
    }
}
