//! The guest's physical memory: the one seam to whoever owns the bytes, the frame table and the
//! allocator of frames.
//!
//! vCPUs write this memory at any time, the hardware sets accessed and dirty bits in it. So there is
//! never a reference to its bytes: words are atomics, bytes are copied.

mod frames;
mod nodes;
mod software;

pub use frames::{
    AllocError, Contents, FrameKind, FrameStats, Frames, Marks, Order, Place, ReverseOwner,
};
pub use nodes::{Beyond, NODES_MOST, Nodes, Wish};
pub use software::SoftwareMemory;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;

use crate::addr::{Frame, FrameRun, GuestPhysAddr};
use crate::error::Broken;
use crate::paging::AccessKind;

/// Frames in a block of 2 MiB: the unit in which memory is taken from the host and given back.
pub const BLOCK_FRAMES: u64 = 512;

/// The 512 words of a frame.
pub type Words = [AtomicU64; 512];

/// In which pages the host holds the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostPages {
    /// Of 4 KiB: any frame can be given back by itself.
    Small,
    /// Of 2 MiB where it can: giving back a part of one splits it.
    Huge,
}

/// What a host file lets be done with its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileAccess {
    /// They are read.
    Read,
    /// They are read and written.
    ReadWrite,
}

/// Part of a host file: as many bytes as a block has, from `offset` on, of which some or all may lie past the
/// file's end.
#[derive(Clone, Copy, Debug)]
pub struct FilePart<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// In bytes, a multiple of a page.
    pub offset: u64,
    /// How it was opened.
    pub access: FileAccess,
}

/// Bytes of a host file that are there no more: somebody has made it shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the host file has become shorter")]
pub struct Gone;

/// The guest's physical memory, from frame 0 up to [`frames`](PhysMemory::frames).
///
/// All methods may run on any thread while vCPUs run. Naming a frame past the end is a bug of the
/// caller, and panics.
pub trait PhysMemory: Debug + Send + Sync {
    /// How many frames there are now.
    fn frames(&self) -> u64;

    /// Adds frames at the end, at least a block, and says how many there are now. The new ones read
    /// as zeros. `Ok` with the old number when the memory is as large as it may become.
    ///
    /// # Errors
    /// [`Broken`] if the host refuses a slot within that size.
    fn grow(&self) -> Result<u64, Broken>;

    /// The words of a frame, for page tables: entries are read, written and compared-and-exchanged
    /// whole.
    fn words(&self, frame: Frame) -> &Words;

    /// Copies bytes out of guest memory. The span may cross frames.
    fn read(&self, from: GuestPhysAddr, into: &mut [u8]);

    /// Copies bytes into guest memory. The span may cross frames.
    fn write(&self, to: GuestPhysAddr, bytes: &[u8]);

    /// Fills a frame with zeros.
    fn zero(&self, frame: Frame);

    /// Copies a whole frame.
    fn copy(&self, from: Frame, to: Frame);

    /// A hint that all of these frames will be used soon: the host may make them present, huge where
    /// it can.
    fn populate(&self, run: FrameRun);

    /// In which pages the host holds what it is asked to populate.
    fn host_pages(&self) -> HostPages;

    /// Gives the bytes back to the host; the frames read as zeros afterwards.
    ///
    /// # Errors
    /// [`Broken`] if the host refuses; the bytes are then unspecified.
    fn release(&self, run: FrameRun) -> Result<(), Broken>;

    /// The same of parts of a block of 2 MiB that is otherwise in use. The host is to leave them out until
    /// they are touched or populated: it must not make the block one huge page again, zeros and all.
    ///
    /// # Errors
    /// As of [`release`](PhysMemory::release).
    fn release_parts(&self, block: FrameRun, parts: &[FrameRun]) -> Result<(), Broken>;

    /// Shows a part of a host file in the place of a block's bytes, shared with everybody who maps the file. The
    /// block's own bytes are gone. From then on only the methods that say so may be used on its frames.
    ///
    /// # Errors
    /// What the host says; [`io::ErrorKind::Unsupported`] where there is no such memory. The block is then as
    /// it was.
    fn show(&self, block: FrameRun, part: FilePart<'_>) -> io::Result<()> {
        let _ = (block, part);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Of a run of frames that shows a part of a file: which pages the host has in its memory, so that nobody waits
    /// for a device who touches them. Where it has all, it gets ready for that. May be shorter than the run.
    fn cached(&self, run: FrameRun) -> Vec<bool> {
        let _ = run;
        Vec::new()
    }

    /// Whether the host has a block that shows a part of a file in one piece, which one entry of its own page table
    /// maps: then one of the guest's is best, too.
    fn is_one_piece(&self, block: FrameRun) -> bool {
        let _ = block;
        false
    }

    /// Which of these pages of a file the host says are in its page cache (mincore(2)), if it says so.
    fn page_cache(&self, file: BorrowedFd<'_>, pages: Range<u64>) -> Option<Vec<bool>> {
        let _ = (file, pages);
        None
    }

    /// Has the host do what an access to a frame that shows a file needs, as the access itself would.
    ///
    /// # Errors
    /// [`Gone`] if the host refuses the page: it is past the file's end, or its device is full or broken.
    fn try_access(&self, frame: Frame, kind: AccessKind) -> Result<(), Gone> {
        let _ = (frame, kind);
        Ok(())
    }

    /// Gives a block that shows a file ordinary memory again: zeros.
    ///
    /// # Errors
    /// [`Broken`] if the host refuses.
    fn hide(&self, block: FrameRun) -> Result<(), Broken> {
        let _ = block;
        Ok(())
    }

    /// [`read`](Self::read), also of frames that show a file.
    ///
    /// # Errors
    /// [`Gone`]; `into` is then unspecified.
    fn try_read(&self, from: GuestPhysAddr, into: &mut [u8]) -> Result<(), Gone> {
        self.read(from, into);
        Ok(())
    }

    /// [`write`](Self::write), also to frames that show a file.
    ///
    /// # Errors
    /// [`Gone`]; some of the bytes may be written then.
    fn try_write(&self, to: GuestPhysAddr, bytes: &[u8]) -> Result<(), Gone> {
        self.write(to, bytes);
        Ok(())
    }

    /// [`copy`](Self::copy), also from a frame that shows a file to one that does not.
    ///
    /// # Errors
    /// [`Gone`]; the bytes of `to` are then unspecified.
    fn try_copy(&self, from: Frame, to: Frame) -> Result<(), Gone> {
        self.copy(from, to);
        Ok(())
    }
}
