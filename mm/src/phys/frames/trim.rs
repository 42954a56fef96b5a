//! When free frames go back to the host, and which.
//!
//! Frames that are free but present (`idle`) are what the host's resident size is larger by than the
//! guest's. They save the host's work when a program maps and unmaps in turn, so some are kept:
//!
//! | the host's pages | idle at most | of what is in use |
//! |---|---|---|
//! | small (4 KiB) | 4 MiB | or 1/50 |
//! | huge (2 MiB)  | 8 MiB | or 1/8 |
//!
//! Past that, frames are given back until three quarters of it are left, so that the host is asked once
//! for many of them: first empty blocks, the last ones first, then the free frames of partly used blocks,
//! those with the most of them first. The emptiest block of pages is left alone: the next pages come from
//! it. The second kind splits the huge pages of the host, and what stays in use in them is slower from then
//! on, hence the wider bound. A program that touches 1 GiB and frees every second page has 512 MiB left:
//! the host holds 64 MiB more than that instead of 512.

use std::cmp::Reverse;

use super::BLOCK_FRAMES;
use super::block::Block;
use super::pool::Pool;
use super::set::FrameSet;
use crate::phys::HostPages;

/// Frames to be given back, which nobody can take meanwhile.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    /// Whole blocks, ascending.
    pub(super) blocks: Vec<usize>,
    /// Frames of blocks that are partly used.
    pub(super) parts: Vec<(usize, FrameSet)>,
}

/// How many frames may be idle when so many are in use.
pub(super) fn most_idle(pages: HostPages, in_use: u64) -> u64 {
    match pages {
        HostPages::Small => (2 * BLOCK_FRAMES).max(in_use / 50),
        HostPages::Huge => (4 * BLOCK_FRAMES).max(in_use / 8),
    }
}

impl Pool {
    /// Sends frames on their way back to the host, if more are idle than it is worth.
    pub(super) fn surplus(&mut self, pages: HostPages) -> Option<Surplus> {
        let most = most_idle(pages, self.stats.pages + self.stats.tables);
        if self.stats.idle <= most {
            return None;
        }
        let target = most / 4 * 3;
        let mut surplus = Surplus::default();
        while self.stats.idle > target {
            let Some(&block) = self.empty.last() else { break };
            self.change(block, Block::send_all);
            self.away += BLOCK_FRAMES;
            surplus.blocks.push(block);
        }
        surplus.blocks.sort_unstable();
        if self.stats.idle > target {
            surplus.parts = self.partly_idle(target);
        }
        Some(surplus)
    }

    /// Sends the idle frames of partly used blocks, until no more than `target` are idle.
    fn partly_idle(&mut self, target: u64) -> Vec<(usize, FrameSet)> {
        let idle = |block: &Option<Block>| block.as_ref().map_or(0, |block| block.listed.idle);
        let counted = self.blocks.iter().map(idle).enumerate().map(|(block, idle)| (idle, block));
        let mut partly: Vec<(u64, usize)> = counted.filter(|&(idle, _)| idle > 0).collect();
        partly.sort_unstable_by_key(|&(idle, block)| (Reverse(idle), block));
        let filling = partly.iter().position(|(_, block)| self.ready.contains(block));
        filling.map(|at| partly.remove(at));
        let mut parts = Vec::new();
        for (_, block) in partly {
            if self.stats.idle <= target {
                break;
            }
            let set = self.change(block, Block::send_idle).unwrap_or_default();
            self.away += set.len();
            parts.push((block, set));
        }
        parts
    }

    /// Frames that were on their way have arrived: the host holds no memory for them.
    pub(super) fn arrived(&mut self, block: usize, set: FrameSet) {
        let Some(count) = self.change(block, |block| block.arrived(set)) else { return };
        self.away -= count;
        self.stats.released += count;
        if self.blocks[block].as_ref().is_some_and(Block::is_gone) {
            self.empty.remove(&block);
            self.blocks[block] = None;
            self.untaken.insert(block);
            self.stats.taken -= BLOCK_FRAMES;
        }
    }

    /// Frames that were on their way are lost: the host did not take them.
    pub(super) fn lost(&mut self, count: u64) {
        self.away -= count;
    }
}
