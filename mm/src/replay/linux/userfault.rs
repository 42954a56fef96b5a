//! userfaultfd(2) in traces: descriptors, and what `@uffd` says.

use std::sync::Arc;

use super::object::unmappable;
use super::{Linux, Task};
use crate::addr::VirtAddr;
use crate::backing::FileMode;
use crate::error::{Broken, CallResult};
use crate::vma::Userfault;

impl Linux {
    /// A new userfaultfd; answers with its descriptor.
    pub(super) fn new_userfault(&mut self, task: Task) -> Result<u64, Broken> {
        let mut files = self.files(task)?;
        let fd = files.lowest_free();
        files.set(fd, unmappable(FileMode::READ | FileMode::WRITE));
        Ok(u64::from(fd.unsigned_abs()))
    }

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
        self.space(task)?.change().userfault_register(uffd, addr, len, modes)
    }

    /// Unregisters a range.
    ///
    /// # Errors
    /// See [`AddressSpace::userfault_unregister`](crate::space::AddressSpace::userfault_unregister).
    pub fn unregister(&mut self, task: Task, addr: VirtAddr, len: u64) -> CallResult<()> {
        self.space(task)?.change().userfault_unregister(addr, len)
    }
}
