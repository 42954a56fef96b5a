//! Pages of shared memory are swapped out. Unlike a process's own (`swap`) they are taken from their object first:
//!
//! ```text
//!   the object's maps, exclusively: nobody looks for its pages, nobody maps them
//!     entries, in all spaces, empty ── flush ── none but the object has the frame? ── written ── the object names the
//!                                               else it stays                                   place; the frame is free
//! ```
//!
//! So a page is in one place only, and whoever comes meanwhile waits.

use super::BATCH;
use super::age::Age;
use super::swap::{CLUSTER, Pick};
use crate::addr::{Frame, PAGE_BYTES, SwapSlot, index};
use crate::backing::SharedMemory;
use crate::error::Broken;
use crate::paging::FlushBatch;
use crate::phys::Marks;
use crate::rmap::{Changing, Copies};
use crate::swap::Swap;
use crate::system::System;

/// A page of an object, and its frame.
pub(crate) type Held = (u64, Frame);

/// How many pages of an object are looked at before the next one's turn.
const LOOK: usize = 2048;

/// Which page of which object is looked at next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ObjectHand {
    object: u64,
    page: u64,
}

impl System {
    /// Swaps out some pages of shared memory. Says how many frames are free for it.
    pub(super) fn swap_out_objects(
        &self,
        hand: &mut ObjectHand,
        pick: Pick,
        want: u64,
    ) -> Result<u64, Broken> {
        let Some(swap) = self.swap() else { return Ok(0) };
        let mut freed = 0;
        // Once round, and the first one's rest.
        for _ in 0..=swap.objects.count() {
            if freed >= want {
                break;
            }
            let Some((number, object)) = swap.objects.first_from(hand.object) else {
                *hand = ObjectHand::default();
                continue;
            };
            if number > hand.object {
                *hand = ObjectHand { object: number, page: 0 };
            }
            let (gone, next) =
                self.swap_out_some_of(swap, &object, hand.page, pick, want - freed)?;
            freed += gone;
            *hand = match next {
                Some(page) => ObjectHand { object: number, page },
                None => ObjectHand { object: number + 1, page: 0 },
            };
        }
        Ok(freed)
    }

    /// Of one object, from a page on. Says how many frames are free for it, and where to go on if not all were looked at.
    fn swap_out_some_of(
        &self,
        swap: &Swap,
        object: &SharedMemory,
        from: u64,
        pick: Pick,
        want: u64,
    ) -> Result<(u64, Option<u64>), Broken> {
        let maps = object.change_maps();
        let held = object.held_from(from, LOOK);
        let mut next = held.last().filter(|_| held.len() == LOOK).map(|&(page, _)| page + 1);
        let (mut going, mut batch) = (Vec::new(), FlushBatch::new());
        for (page, frame) in held {
            if going.len() as u64 >= want.min(BATCH) {
                next = Some(page);
                break;
            }
            match self.age_of_shared(&maps, page, frame, &mut batch) {
                Age::Stays => {}
                Age::Young if pick == Pick::Old => {}
                Age::Old | Age::Young => going.push((page, frame)),
            }
        }
        Ok((self.swap_out_pages(swap, object, &maps, &going, batch)?, next))
    }

    /// Swaps out these pages of an object, whatever they were used for, if they can go.
    pub(crate) fn swap_out_of(&self, object: &SharedMemory, pages: &[u64]) -> Result<(), Broken> {
        let goes = !pages.is_empty() && object.is_swappable();
        let Some(swap) = self.swap().filter(|_| goes) else { return Ok(()) };
        let _one_at_a_time = self.reclaim.begin();
        for part in pages.chunks(index(BATCH)) {
            let maps = object.change_maps();
            let mut batch = FlushBatch::new();
            let can_go = |&(page, frame): &Held| {
                self.age_of_shared(&maps, page, frame, &mut batch) != Age::Stays
            };
            let held = part.iter().filter_map(|&page| Some((page, object.held(page)?)));
            let going: Vec<Held> = held.collect::<Vec<_>>().into_iter().filter(can_go).collect();
            self.swap_out_pages(swap, object, &maps, &going, batch)?;
        }
        Ok(())
    }

    /// Looks how a page was used, and makes it a look older.
    fn age_of_shared(
        &self,
        maps: &Changing<'_>,
        page: u64,
        frame: Frame,
        batch: &mut FlushBatch,
    ) -> Age {
        match maps.age(page, batch) {
            None => Age::Stays,
            Some(accesses) => self.frames().step_age(frame, accesses),
        }
    }

    fn swap_out_pages(
        &self,
        swap: &Swap,
        object: &SharedMemory,
        maps: &Changing<'_>,
        pages: &[Held],
        mut batch: FlushBatch,
    ) -> Result<u64, Broken> {
        let unflushed = self.reclaim.unflushed();
        for run in pages.chunk_by(|one, next| one.0 + 1 == next.0) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                maps.zap(&(first.0..last.0 + 1), Copies::Stay, self, &mut batch);
            }
        }
        self.flush_now(batch)?;
        drop(unflushed);
        let frames = self.frames();
        // Whoever has emptied an entry and not flushed yet has a reference.
        let alone = |&&(_, frame): &&Held| frames.references(frame) == 1;
        let mut going: Vec<(SwapSlot, Held)> = Vec::new();
        for &held in pages.iter().filter(alone) {
            let Some(slot) = swap.reserve(frames) else { break };
            going.push((slot, held));
        }
        going.sort_unstable();
        let mut freed = 0;
        for run in going.chunk_by(|one, next| one.0.offset(1) == next.0) {
            for cluster in run.chunks(CLUSTER) {
                freed += self.write_cluster(swap, object, cluster)?;
            }
        }
        Ok(freed)
    }

    /// Writes pages to places one after the other, and gives up their frames. What cannot be written stays.
    fn write_cluster(
        &self,
        swap: &Swap,
        object: &SharedMemory,
        cluster: &[(SwapSlot, Held)],
    ) -> Result<u64, Broken> {
        let frames = self.frames();
        let Some(&(first, _)) = cluster.first() else { return Ok(0) };
        let mut bytes = vec![0; cluster.len() * PAGE_BYTES];
        for (&(_, (_, frame)), page) in cluster.iter().zip(bytes.chunks_mut(PAGE_BYTES)) {
            frames.memory().read(frame.addr(), page);
        }
        if let Err(error) = swap.write(first, &bytes) {
            log::error!("pages cannot be swapped out: {error}");
            cluster.iter().try_for_each(|&(slot, _)| swap.put(frames, slot))?;
            return Ok(0);
        }
        for &(slot, (page, frame)) in cluster {
            frames.unmark(frame, Marks::ACTIVE | Marks::REFERENCED);
            object.swap_to(page, slot)?;
        }
        Ok(cluster.len() as u64)
    }
}
