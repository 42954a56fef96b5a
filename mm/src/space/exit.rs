//! The two ends of an address space: its last user goes (Linux's `exit_mmap`), and its last holder goes
//! (`__mmdrop`). `space/users` counts both.

use std::sync::Arc;

use super::AddressSpace;
use crate::addr::{PageRange, VirtAddr};
use crate::error::Broken;
use crate::paging::FlushBatch;
use crate::vma::VmFlags;
use crate::vma::account::Account;
use crate::vma::tree::Tree;

impl AddressSpace {
    /// Unmaps everything, sealed or not. No vCPU may run in the space any more; what is left is its root,
    /// with the kernel half alone.
    ///
    /// Nothing is flushed: no vCPU gets at the old translations by way of another root. The tables are
    /// retired ([`System::retire`](crate::system::System)).
    ///
    /// # Errors
    /// [`Broken`] when a flush fails: the frames are then never used again.
    pub fn exit_mmap(&mut self) -> Result<(), Broken> {
        let tables = self.unmap_all()?;
        self.system.retire(tables)
    }

    /// Empties the space. What is left are its tables but for the root, which are returned.
    fn unmap_all(&mut self) -> Result<FlushBatch, Broken> {
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
        system.put_all(batch)?;
        let mut tables = FlushBatch::new();
        self.table.free_user_half(&mut tables);
        self.chains.clear(system.anon());
        self.vmas.iter().for_each(|vma| self.unlink(vma));
        self.vmas = Tree::new();
        self.account = Account { peak: self.account.peak, ..Account::default() };
        Ok(tables)
    }

    /// Both ends of a space that no vCPU has ever run in: its tables are free at once.
    ///
    /// # Errors
    /// [`Broken`] if a frame was not in use.
    pub(super) fn abandon(mut self) -> Result<(), Broken> {
        let mut tables = self.unmap_all()?;
        self.table.free_root(&mut tables);
        tables.put_all(self.system.frames())
    }

    /// Both ends at once, for a space that has one user and no other holder.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails: the frames are then never used again.
    pub fn exit(mut self) -> Result<(), Broken> {
        self.exit_mmap()?;
        self.free()
    }

    /// Frees the root of a space in which nothing is mapped any more.
    ///
    /// # Errors
    /// [`Broken`] when the flush fails: the frame is then never used again.
    pub fn free(self) -> Result<(), Broken> {
        let mut batch = FlushBatch::new();
        self.table.free_root(&mut batch);
        self.system.retire(batch)
    }
}
