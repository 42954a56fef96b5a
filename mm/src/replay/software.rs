//! The software executor: an address space in ordinary memory, and accesses that walk its page table
//! as a vCPU would. All of the memory manager is tested on it, without KVM.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::addr::{GuestPhysAddr, VirtAddr};
use crate::error::{AccessError, Broken};
use crate::paging::{
    AccessKind, FlushRequest, FlushSink, ForkedPages, ForkedRoot, KernelHalf, TableChange,
};
use crate::phys::{AllocError, Frames, Nodes, SoftwareMemory};
use crate::space::{AddressSpace, SharedSpace};
use crate::system::System;
use crate::vma::limits::Limits;

/// A flush sink for a machine without translation caches: it only counts.
#[derive(Debug, Default)]
pub struct CountingSink {
    flushes: AtomicU64,
    table_flushes: AtomicU64,
    last: Mutex<FlushRequest>,
    forked_root: Mutex<ForkedRoot>,
}

impl CountingSink {
    /// How many flushes there were.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// How many of them were for unlinked tables.
    #[must_use]
    pub fn table_flushes(&self) -> u64 {
        self.table_flushes.load(Ordering::Relaxed)
    }

    /// What the last one was for.
    #[must_use]
    pub fn last(&self) -> FlushRequest {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decides what becomes of the root of a space that is forked from now on.
    pub fn set_forked_root(&self, root: ForkedRoot) {
        *self.forked_root.lock().unwrap_or_else(PoisonError::into_inner) = root;
    }
}

impl FlushSink for CountingSink {
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if request.tables == TableChange::Unlinked {
            self.table_flushes.fetch_add(1, Ordering::Relaxed);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = request.clone();
        Ok(())
    }

    fn forked_root(&self, _: ForkedPages) -> ForkedRoot {
        *self.forked_root.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One address space on a machine of ordinary memory.
#[derive(Debug)]
pub struct SoftwareMachine {
    /// The address space.
    pub space: SharedSpace,
    /// What it was asked to flush.
    pub sink: Arc<CountingSink>,
    /// Its frames.
    pub frames: Arc<Frames>,
}

impl SoftwareMachine {
    /// An empty address space on `frames` frames of memory.
    ///
    /// # Errors
    /// [`AllocError`] when that is not enough for a root table.
    pub fn new(frames: u64, limits: Limits) -> Result<Self, AllocError> {
        SoftwareMachine::prepared(frames, limits, |_| {})
    }

    /// The same, on a system that `prepare` has set up.
    ///
    /// # Errors
    /// [`AllocError`] when the frames are not enough for a root table.
    pub fn prepared(
        frames: u64,
        limits: Limits,
        prepare: impl FnOnce(&mut System),
    ) -> Result<Self, AllocError> {
        SoftwareMachine::on(Frames::new(Arc::new(SoftwareMemory::new(frames))), limits, prepare)
    }

    /// The same, whose memory is divided among so many NUMA nodes.
    ///
    /// # Errors
    /// [`AllocError`] when the frames are not enough for a root table.
    pub fn with_nodes(frames: u64, nodes: u8, limits: Limits) -> Result<Self, AllocError> {
        let nodes = Nodes::new(nodes, frames);
        let memory = Arc::new(SoftwareMemory::new(frames));
        SoftwareMachine::on(Frames::with_nodes(memory, nodes), limits, |_| {})
    }

    pub(crate) fn on(
        frames: Frames,
        limits: Limits,
        prepare: impl FnOnce(&mut System),
    ) -> Result<Self, AllocError> {
        let frames = Arc::new(frames);
        let sink = Arc::new(CountingSink::default());
        let mut system =
            System::new(Arc::clone(&frames), Box::new(Arc::clone(&sink)), KernelHalf::default());
        prepare(&mut system);
        let space = SharedSpace::new(AddressSpace::new(Arc::new(system), limits)?);
        Ok(SoftwareMachine { space, sink, frames })
    }

    /// One access of one byte as ring 3 would do it: walk, fault, walk again.
    ///
    /// # Errors
    /// The fault that the program would get.
    pub fn access(&self, addr: VirtAddr, kind: AccessKind) -> Result<GuestPhysAddr, AccessError> {
        access(&self.space, addr, kind)
    }

    /// Loads a byte.
    ///
    /// # Errors
    /// The fault that the program would get.
    pub fn load(&self, addr: VirtAddr) -> Result<u8, AccessError> {
        let at = self.access(addr, AccessKind::Read)?;
        let mut byte = [0];
        self.frames.memory().read(at, &mut byte);
        Ok(byte[0])
    }

    /// Stores a byte.
    ///
    /// # Errors
    /// The fault that the program would get.
    pub fn store(&self, addr: VirtAddr, byte: u8) -> Result<(), AccessError> {
        let at = self.access(addr, AccessKind::Write)?;
        self.frames.memory().write(at, &[byte]);
        Ok(())
    }
}

/// One access as ring 3 would do it: walk, fault, walk again. Answers with the place of the byte.
///
/// # Errors
/// The fault that the program would get.
pub(crate) fn access(
    space: &SharedSpace,
    addr: VirtAddr,
    kind: AccessKind,
) -> Result<GuestPhysAddr, AccessError> {
    loop {
        if let Ok(at) = space.look().table().walk(addr, kind) {
            return Ok(at);
        }
        space.fault(addr, kind)?;
    }
}
