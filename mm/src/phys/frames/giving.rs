//! Frames that became free, and their way back to the host.

use super::set::FrameSet;
use super::trim::Surplus;
use super::{BLOCK_FRAMES, Frames, block, frames_of};
use crate::addr::FrameRun;
use crate::error::Broken;

impl Frames {
    /// Frees frames whose last reference was given up.
    pub(super) fn free(&self, block: usize, set: FrameSet) -> Result<(), Broken> {
        let surplus = {
            let mut pool = self.lock();
            pool.free(block, set);
            self.publish(&pool);
            pool.surplus(self.memory.host_pages())
        };
        surplus.map_or(Ok(()), |surplus| self.give_back(surplus))
    }

    /// Gives frames, which are marked as on their way, to the host. If it refuses some, the others are
    /// given all the same, since somebody may wait for them.
    pub(super) fn give_back(&self, surplus: Surplus) -> Result<(), Broken> {
        let mut answer = Ok(());
        for blocks in surplus.blocks.chunk_by(|a, b| a + 1 == *b) {
            let start = frames_of(blocks[0], &(0..0)).start;
            let run = FrameRun { start, count: blocks.len() as u64 * BLOCK_FRAMES };
            let parts = blocks.iter().map(|&block| (block, FrameSet::FULL));
            answer = answer.and(self.arrive(self.memory.release(run), parts));
        }
        for (block, set) in surplus.parts {
            let runs: Vec<FrameRun> = set.runs().map(|slots| frames_of(block, &slots)).collect();
            let released = self.memory.release_parts(frames_of(block, &block::ALL), &runs);
            answer = answer.and(self.arrive(released, std::iter::once((block, set))));
        }
        answer
    }

    /// Frames on their way have arrived, or never will.
    fn arrive(
        &self,
        released: Result<(), Broken>,
        parts: impl Iterator<Item = (usize, FrameSet)>,
    ) -> Result<(), Broken> {
        let mut pool = self.lock();
        for (block, set) in parts {
            match released {
                Ok(()) => pool.arrived(block, set),
                Err(_) => pool.lost(set.len()),
            }
        }
        self.arrived.notify_all();
        released
    }
}
