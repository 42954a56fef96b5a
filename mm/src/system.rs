//! What all address spaces of one machine share: memory, frames, the flush sink and the hooks.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::addr::{PageRange, VirtAddr};
use crate::error::{Broken, Errno};
use crate::failure::FailPoint;
use crate::paging::{AccessKind, FlushBatch, FlushSink, KernelHalf};
use crate::phys::{Frames, PhysMemory};
use crate::sysctl::Sysctl;
use crate::vma::{AnonId, Lineage, MapFlags, Vma};

/// Is told what happens to address spaces (in Linux: perf events, uprobes, mmu notifiers, the munmap
/// profile). It cannot refuse anything.
pub trait Observer: Debug + Send + Sync {
    /// mmap(2) names a descriptor, open or not (`audit_mmap_fd`).
    fn descriptor_mapped(&self, _fd: i32, _flags: MapFlags) {}
    /// munmap(2) is called with this address, whatever comes of it (`profile_munmap` of old).
    fn unmap_called(&self, _addr: VirtAddr) {}
    /// A mapping was made or grew; `vma` is what was asked for, before merging.
    fn mapped(&self, _vma: &Vma) {}
    /// Whatever was in the range is gone.
    fn unmapped(&self, _range: PageRange) {}
    /// The range's permissions changed.
    fn protected(&self, _range: PageRange) {}
    /// A page was brought in for an access at the address.
    fn faulted(&self, _addr: VirtAddr, _kind: AccessKind) {}
    /// The address space is about to go.
    fn released(&self) {}
}

/// May veto what a program asks for (in Linux: the security modules and the commit limit). A veto is
/// the call's errno, and nothing has changed.
pub trait Guardian: Debug + Send + Sync {
    /// Before a mapping is made (`security_mmap_file`).
    ///
    /// # Errors
    /// The errno that the call shall return.
    fn may_map(&self, _vma: &Vma) -> Result<(), Errno> {
        Ok(())
    }

    /// Before an address is used (`security_mmap_addr`).
    ///
    /// # Errors
    /// The errno that the call shall return.
    fn may_use_address(&self, _addr: VirtAddr) -> Result<(), Errno> {
        Ok(())
    }

    /// Before `pages` more are promised (`security_vm_enough_memory`).
    ///
    /// # Errors
    /// The errno that the call shall return; Linux says `ENOMEM`.
    fn may_commit(&self, _pages: u64) -> Result<(), Errno> {
        Ok(())
    }
}

/// Observes nothing and allows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Observer for NoHooks {}
impl Guardian for NoHooks {}

/// What all address spaces of one machine share.
#[derive(Debug)]
pub struct System {
    frames: Arc<Frames>,
    sink: Box<dyn FlushSink>,
    kernel: KernelHalf,
    /// Is told what happens.
    pub observer: Box<dyn Observer>,
    /// May veto.
    pub guardian: Box<dyn Guardian>,
    /// The machine's settings.
    pub sysctl: Sysctl,
    /// Allocations of room for VMAs in an address space (Linux's `vm_area_cachep` and the maple tree's
    /// nodes). Each counts, also where the space has room to spare. Those of frames are at
    /// [`Frames::failures`].
    pub vma_failures: FailPoint,
    /// Pages promised to all address spaces.
    committed: AtomicU64,
    next_anon: AtomicU32,
    next_inode: AtomicU64,
}

impl System {
    /// A machine whose vCPUs are flushed by `sink` and whose address spaces all have `kernel` as their
    /// upper half.
    #[must_use]
    pub fn new(frames: Arc<Frames>, sink: Box<dyn FlushSink>, kernel: KernelHalf) -> Self {
        System {
            frames,
            sink,
            kernel,
            observer: Box::new(NoHooks),
            guardian: Box::new(NoHooks),
            sysctl: Sysctl::default(),
            vma_failures: FailPoint::default(),
            committed: AtomicU64::new(0),
            next_anon: AtomicU32::new(1),
            next_inode: AtomicU64::new(1),
        }
    }

    /// The frame table.
    #[must_use]
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The guest's physical memory.
    #[must_use]
    pub fn memory(&self) -> &dyn PhysMemory {
        self.frames.memory()
    }

    /// The upper half of every address space.
    #[must_use]
    pub fn kernel(&self) -> KernelHalf {
        self.kernel
    }

    /// Flushes a batch and frees its frames.
    ///
    /// # Errors
    /// [`Broken`] when the sink cannot flush.
    pub fn finish(&self, batch: FlushBatch) -> Result<(), Broken> {
        batch.finish(&*self.sink, &self.frames)
    }

    /// A new identity for anonymous memory.
    pub(crate) fn new_anon(&self, lineage: Lineage) -> AnonId {
        loop {
            // Wraps past 0 after 2^32 of them.
            if let Some(id) = AnonId::new(self.next_anon.fetch_add(1, Ordering::Relaxed), lineage) {
                return id;
            }
        }
    }

    /// Promises `pages` more to a process that has `mapped` pages (Linux's
    /// `security_vm_enough_memory_mm` and `__vm_enough_memory`).
    ///
    /// # Errors
    /// The guardian's veto; `ENOMEM` when the overcommit mode forbids it.
    pub(crate) fn commit(&self, pages: u64, mapped: u64) -> Result<(), Errno> {
        self.guardian.may_commit(pages)?;
        let before = self.committed.fetch_add(pages, Ordering::Relaxed);
        if self.sysctl.allows(before.saturating_add(pages), pages, mapped) {
            return Ok(());
        }
        self.uncommit(pages);
        Err(Errno::ENOMEM)
    }

    /// Takes back a promise of `pages` (Linux's `vm_unacct_memory`).
    pub(crate) fn uncommit(&self, pages: u64) {
        self.committed.fetch_sub(pages, Ordering::Relaxed);
    }

    /// The machine's NUMA nodes, a bit each. There is one so far.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        1
    }

    /// Pages promised to all address spaces (`Committed_AS` of /proc/meminfo).
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// A new inode number for a memory object.
    pub(crate) fn new_inode(&self) -> u64 {
        self.next_inode.fetch_add(1, Ordering::Relaxed)
    }
}
