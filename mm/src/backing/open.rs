//! One open of a file (Linux's `struct file`). Maps of two opens never merge, though they show the same
//! pages.

use std::ops::Range;
use std::sync::Arc;

use super::{
    Backing, BackingError, BackingName, Brought, FileMode, Folio, HugeMemory, Placement,
    SharedMemory, SharedPolicies,
};
use crate::addr::{Frame, FrameRun, VirtAddr};
use crate::error::{Broken, CallResult, Errno};
use crate::paging::AccessKind;
use crate::promise::Payer;
use crate::rmap::ObjectMaps;
use crate::segments::Segment;
use crate::system::System;
use crate::vma::{MapFlags, VmFlags};

/// An object as one open sees it.
#[derive(Clone, Debug)]
pub struct OpenFile {
    object: Arc<dyn Backing>,
    mode: FileMode,
    /// The segment that shmat(2) opened.
    segment: Option<Arc<Segment>>,
}

impl OpenFile {
    /// Opens an object.
    #[must_use]
    pub fn new(object: Arc<dyn Backing>, mode: FileMode) -> Self {
        OpenFile { object, mode, segment: None }
    }

    /// Opens a segment of System V shared memory (shmat(2)).
    #[must_use]
    pub fn of_segment(segment: Arc<Segment>, mode: FileMode) -> Self {
        OpenFile { object: Arc::clone(segment.object()), mode, segment: Some(segment) }
    }

    /// What was opened.
    #[must_use]
    pub fn object(&self) -> &Arc<dyn Backing> {
        &self.object
    }
}

impl OpenFile {
    /// An open of something in which there is nothing to map: a stream, a directory, a userfaultfd.
    #[must_use]
    pub fn unmappable(mode: FileMode) -> Self {
        OpenFile::new(Arc::new(Unmappable), mode | FileMode::UNMAPPABLE)
    }

    /// An open of `/dev/zero`.
    #[must_use]
    pub fn zeros(mode: FileMode) -> Self {
        OpenFile::new(Arc::new(Unmappable), mode | FileMode::ZEROS)
    }
}

#[derive(Debug)]
struct Unmappable;

impl Backing for Unmappable {
    fn page(&self, _: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        Err(BackingError::NoPage)
    }

    fn name(&self) -> BackingName {
        BackingName::default()
    }
}

impl Backing for OpenFile {
    fn page(&self, index: u64, payer: &dyn Payer) -> Result<Frame, BackingError> {
        self.object.page(index, payer)
    }

    fn is_ready(&self, index: u64) -> bool {
        self.object.is_ready(index)
    }

    fn is_paged(&self) -> bool {
        self.object.is_paged()
    }

    fn bring(&self, index: u64, system: &System) -> Result<Option<Brought>, BackingError> {
        self.object.bring(index, system)
    }

    fn name(&self) -> BackingName {
        self.object.name()
    }

    fn read_file(&self, offset: u64, into: &mut [u8]) -> usize {
        self.object.read_file(offset, into)
    }

    fn mode(&self) -> FileMode {
        self.mode
    }

    fn placement(&self) -> Placement {
        self.object.placement()
    }

    fn check_map(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        self.object.check_map(flags)
    }

    fn validated_flags(&self) -> MapFlags {
        self.object.validated_flags()
    }

    fn map(&self, flags: VmFlags, pages: Range<u64>) -> Result<VmFlags, Errno> {
        self.object.map(flags, pages)
    }

    fn is_resident(&self, index: u64) -> bool {
        self.object.is_resident(index)
    }

    fn residency(&self, pages: Range<u64>) -> Vec<bool> {
        self.object.residency(pages)
    }

    fn at_hand(&self, pages: Range<u64>) -> Vec<Option<Frame>> {
        self.object.at_hand(pages)
    }

    fn prepare(&self, index: u64, kind: AccessKind) -> Result<(), BackingError> {
        self.object.prepare(index, kind)
    }

    fn wants_write_notify(&self) -> bool {
        self.object.wants_write_notify()
    }

    fn punch(&self, pages: Range<u64>, system: &System) -> CallResult<()> {
        self.object.punch(pages, system)
    }

    fn sync(&self, pages: Range<u64>, system: &System) -> Result<(), Errno> {
        self.object.sync(pages, system)
    }

    fn unmapped(&self, system: &System) {
        self.object.unmapped(system);
    }

    fn swapped(&self, pages: Range<u64>) -> Vec<u64> {
        self.object.swapped(pages)
    }

    fn reclaim(&self, pages: &[u64], system: &System) -> Result<(), Broken> {
        self.object.reclaim(pages, system)
    }

    fn maps(&self) -> Option<&ObjectMaps> {
        self.object.maps()
    }

    fn shared_memory(&self) -> Option<&SharedMemory> {
        self.object.shared_memory()
    }

    fn folio(&self, index: u64) -> Option<(Folio, FrameRun)> {
        self.object.folio(index)
    }

    fn has_frame(&self, index: u64, frame: Frame) -> bool {
        self.object.has_frame(index, frame)
    }

    fn exchange_frame(&self, index: u64, old: Frame, new: Frame) -> bool {
        self.object.exchange_frame(index, old, new)
    }

    fn policies(&self) -> Option<&SharedPolicies> {
        self.object.policies()
    }

    fn is_shared_anonymous(&self) -> bool {
        self.object.is_shared_anonymous()
    }

    fn may_split(&self, addr: VirtAddr) -> Result<(), Errno> {
        self.object.may_split(addr)
    }

    fn huge(&self) -> Option<&HugeMemory> {
        self.object.huge()
    }

    fn segment(&self) -> Option<&Segment> {
        self.segment.as_deref()
    }

    fn has_close_hook(&self) -> bool {
        self.segment.is_some() || self.object.has_close_hook()
    }
}
