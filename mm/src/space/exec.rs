//! execve(2)'s fresh address space (Linux's `bprm_mm_init`). What goes into it is the loader's business.

use std::sync::Arc;

use super::AddressSpace;
use super::control::{Dumpable, READ_IMPLIES_EXEC};
use crate::phys::AllocError;

impl AddressSpace {
    /// An empty address space for the program that this process executes. Limits and capabilities stay,
    /// and so does what fork(2) would hand on; not `READ_IMPLIES_EXEC`,
    /// that nobody may look into it, nor that it is registered for barriers.
    ///
    /// # Errors
    /// [`AllocError`] when there is no frame for its root.
    pub fn for_exec(&self) -> Result<Self, AllocError> {
        let mut space = AddressSpace::new(Arc::clone(&self.system), self.limits)?;
        space.modes = self.modes.inherited();
        space.modes.personality &= !READ_IMPLIES_EXEC;
        space.modes.dumpable = Dumpable::Yes;
        space.modes.barriers = 0;
        Ok(space)
    }
}
