//! Guest memory in ordinary memory: what the tests and the software executor run on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BLOCK_FRAMES, PhysMemory, Words};
use crate::addr::{Frame, FrameRun, GuestPhysAddr, index};
use crate::error::Broken;

/// Guest memory in ordinary memory. A block of 2 MiB exists once it is first touched.
#[derive(Debug)]
pub struct SoftwareMemory {
    blocks: Box<[OnceLock<Box<[Words]>>]>,
}

impl SoftwareMemory {
    /// Memory of `frames` frames, rounded down to blocks of 2 MiB, all zeros.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        let blocks = (0..frames / BLOCK_FRAMES).map(|_| OnceLock::new()).collect();
        SoftwareMemory { blocks }
    }

    /// The word that holds the byte at `addr`, and the byte's place in it.
    fn word(&self, addr: GuestPhysAddr) -> (&AtomicU64, usize) {
        let words = self.words(addr.frame());
        (&words[index(addr.page_offset() / 8)], index(addr.get() % 8))
    }
}

impl PhysMemory for SoftwareMemory {
    fn frames(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_FRAMES
    }

    fn grow(&self) -> Result<u64, Broken> {
        Ok(self.frames())
    }

    fn words(&self, frame: Frame) -> &Words {
        let number = frame.number();
        let block = self.blocks[index(number / BLOCK_FRAMES)].get_or_init(|| {
            (0..BLOCK_FRAMES).map(|_| [const { AtomicU64::new(0) }; 512]).collect()
        });
        &block[index(number % BLOCK_FRAMES)]
    }

    fn read(&self, from: GuestPhysAddr, into: &mut [u8]) {
        for (addr, byte) in (from.get()..).zip(into) {
            let (word, place) = self.word(GuestPhysAddr::new(addr));
            *byte = word.load(Ordering::Relaxed).to_le_bytes()[place];
        }
    }

    fn write(&self, to: GuestPhysAddr, bytes: &[u8]) {
        for (addr, &byte) in (to.get()..).zip(bytes) {
            let (word, place) = self.word(GuestPhysAddr::new(addr));
            let shift = place * 8;
            word.fetch_and(!(0xff << shift), Ordering::Relaxed);
            word.fetch_or(u64::from(byte) << shift, Ordering::Relaxed);
        }
    }

    fn zero(&self, frame: Frame) {
        for word in self.words(frame) {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn copy(&self, from: Frame, to: Frame) {
        for (source, target) in self.words(from).iter().zip(self.words(to)) {
            target.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn populate(&self, _run: FrameRun) {}

    fn release(&self, run: FrameRun) -> Result<(), Broken> {
        for i in 0..run.count {
            self.zero(run.start.offset(i));
        }
        Ok(())
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
