//! Guest memory in ordinary memory: what the tests and the software executor run on.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BLOCK_FRAMES, HostPages, PhysMemory, Words};
use crate::addr::{Frame, FrameRun, GuestPhysAddr, PAGE_BYTES, index};
use crate::error::Broken;

/// Guest memory in ordinary memory. A frame exists once it is first touched: a machine that does little
/// is made and ended in no time.
#[derive(Debug)]
pub struct SoftwareMemory {
    blocks: Box<[OnceLock<Block>]>,
}

/// The frames of a block of 2 MiB.
type Block = Box<[OnceLock<Box<Words>>]>;

impl SoftwareMemory {
    /// Memory of `frames` frames, rounded down to blocks of 2 MiB, all zeros.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        let blocks = (0..frames / BLOCK_FRAMES).map(|_| OnceLock::new()).collect();
        SoftwareMemory { blocks }
    }

    /// Where a frame is, or will be.
    fn slot(&self, frame: Frame) -> &OnceLock<Box<Words>> {
        let number = frame.number();
        let block = self.blocks[index(number / BLOCK_FRAMES)]
            .get_or_init(|| (0..BLOCK_FRAMES).map(|_| OnceLock::new()).collect());
        &block[index(number % BLOCK_FRAMES)]
    }

    /// Cuts `len` bytes from `at` on at the ends of frames.
    fn pieces(&self, at: GuestPhysAddr, len: usize) -> impl Iterator<Item = Piece<'_>> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let addr = GuestPhysAddr::new(at.get() + done as u64);
            let first = index(addr.page_offset());
            let count = (PAGE_BYTES - first).min(len - done);
            let bytes = done..done + count;
            done += count;
            (count > 0).then(|| Piece { words: self.words(addr.frame()), first, bytes })
        })
    }
}

/// Bytes in one frame.
struct Piece<'a> {
    words: &'a Words,
    /// The place of the first one in the frame.
    first: usize,
    /// Which of all bytes these are.
    bytes: Range<usize>,
}

impl PhysMemory for SoftwareMemory {
    fn frames(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_FRAMES
    }

    fn grow(&self) -> Result<u64, Broken> {
        Ok(self.frames())
    }

    fn words(&self, frame: Frame) -> &Words {
        self.slot(frame).get_or_init(|| Box::new([const { AtomicU64::new(0) }; 512]))
    }

    fn read(&self, from: GuestPhysAddr, into: &mut [u8]) {
        for Piece { words, first, bytes } in self.pieces(from, into.len()) {
            for (place, byte) in (first..).zip(&mut into[bytes]) {
                *byte = words[place / 8].load(Ordering::Relaxed).to_le_bytes()[place % 8];
            }
        }
    }

    fn write(&self, to: GuestPhysAddr, from: &[u8]) {
        for Piece { words, first, bytes } in self.pieces(to, from.len()) {
            for (place, &byte) in (first..).zip(&from[bytes]) {
                let (word, shift) = (&words[place / 8], place % 8 * 8);
                word.fetch_and(!(0xff << shift), Ordering::Relaxed);
                word.fetch_or(u64::from(byte) << shift, Ordering::Relaxed);
            }
        }
    }

    fn zero(&self, frame: Frame) {
        for word in self.slot(frame).get().into_iter().flat_map(|words| words.iter()) {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn copy(&self, from: Frame, to: Frame) {
        for (source, target) in self.words(from).iter().zip(self.words(to)) {
            target.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn populate(&self, _run: FrameRun) {}

    fn host_pages(&self) -> HostPages {
        HostPages::Small
    }

    fn release(&self, run: FrameRun) -> Result<(), Broken> {
        for i in 0..run.count {
            self.zero(run.start.offset(i));
        }
        Ok(())
    }

    fn release_parts(&self, _block: FrameRun, parts: &[FrameRun]) -> Result<(), Broken> {
        parts.iter().try_for_each(|&part| self.release(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;

    #[test]
    fn bytes_written_across_frames_are_read_back() {
        let memory = SoftwareMemory::new(BLOCK_FRAMES);
        let at = GuestPhysAddr::new(PAGE_SIZE - 3);
        memory.write(at, b"across");
        let mut bytes = [0; 6];
        memory.read(at, &mut bytes);
        assert_eq!(&bytes, b"across");
        memory.release(FrameRun { start: Frame::new(0), count: 2 }).unwrap();
        memory.read(at, &mut bytes);
        assert_eq!(bytes, [0; 6]);
    }
}
