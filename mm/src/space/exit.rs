//! The end of an address space: Linux's `exit_mmap`.

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
use crate::error::Broken;
use crate::paging::FlushBatch;
use crate::vma::VmFlags;

impl AddressSpace {
    /// Frees every page and every table, with one flush. No vCPU may run in the space any more.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails: the frames are then never used again.
    pub fn exit(self) -> Result<(), Broken> {
        let system = Arc::clone(&self.system);
        if let Some(observer) = system.observer() {
            observer.released();
        }
        let promised = self.vmas.iter().filter(|vma| vma.flags.contains(VmFlags::ACCOUNT));
        system.uncommit(promised.map(|vma| vma.range().pages()).sum());
        let mut batch = FlushBatch::new();
        if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
            self.zap(all, &mut batch);
        }
        self.table.free_all(&mut batch);
        system.finish(batch)
    }
}
