//! userfaultfd(2) in traces: what `@uffd` says.

use std::sync::Arc;

use super::{Linux, Task};
use crate::addr::VirtAddr;
use crate::error::CallResult;
use crate::userfault::Userfault;

impl Linux {
    /// Registers a range with the userfaultfd `fd`, for these modes (`UFFDIO_REGISTER_MODE_*`).
    ///
    /// # Errors
    /// See [`AddressSpace::userfault_register`](crate::space::AddressSpace::userfault_register).
    pub fn register(
        &mut self,
        task: Task,
        uffd: &Arc<Userfault>,
        addr: VirtAddr,
        len: u64,
        modes: u64,
    ) -> CallResult<()> {
        self.space(task)?.change().userfault_register(uffd, addr, len, modes).map(drop)
    }

    /// Unregisters a range.
    ///
    /// # Errors
    /// See [`AddressSpace::userfault_unregister`](crate::space::AddressSpace::userfault_unregister).
    pub fn unregister(
        &mut self,
        task: Task,
        uffd: &Arc<Userfault>,
        addr: VirtAddr,
        len: u64,
    ) -> CallResult<()> {
        self.space(task)?.change().userfault_unregister(uffd, addr, len)
    }
}
