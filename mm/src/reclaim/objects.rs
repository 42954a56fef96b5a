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

    /// Of one object, from a page on. Says how many frames are free for it, and where to go on if there are more.
    fn swap_out_some_of(
        &self,
        swap: &Swap,
        object: &SharedMemory,
        from: u64,
        pick: Pick,
        want: u64,
    ) -> Result<(u64, Option<u64>), Broken> {
        let maps = object.change_maps();
        let most = index(want.min(BATCH));
        let held = object.held_from(from, most);
        let next = held.last().filter(|_| held.len() == most).map(|&(page, _)| page + 1);
        let freed = self.swap_out_those(swap, object, &maps, &held, |age| match age {
            Age::Stays => false,
            Age::Young => pick == Pick::Any,
            Age::Old => true,
        })?;
        Ok((freed, next))
    }

    /// Swaps out these pages of an object, whatever they were used for, if they can go.
    pub(crate) fn swap_out_of(&self, object: &SharedMemory, pages: &[u64]) -> Result<(), Broken> {
        let goes = !pages.is_empty() && object.is_swappable();
        let Some(swap) = self.swap().filter(|_| goes) else { return Ok(()) };
        let _one_at_a_time = self.reclaim.begin();
        let mut pages = pages.to_vec();
        pages.sort_unstable();
        for part in pages.chunks(index(BATCH)) {
            let maps = object.change_maps();
            let held = part.iter().filter_map(|&page| Some((page, object.held(page)?)));
            let held: Vec<Held> = held.collect();
            self.swap_out_those(swap, object, &maps, &held, |age| age != Age::Stays)?;
        }
        Ok(())
    }

    /// Looks how pages were used, makes them a look older, and swaps out those which go. Says how many frames are free
    /// for it.
    fn swap_out_those(
        &self,
        swap: &Swap,
        object: &SharedMemory,
        maps: &Changing<'_>,
        held: &[Held],
        goes: impl Fn(Age) -> bool,
    ) -> Result<u64, Broken> {
        if object.stays() {
            return Ok(0);
        }
        let (frames, mut batch) = (self.frames(), FlushBatch::new());
        let pages: Vec<u64> = held.iter().map(|&(page, _)| page).collect();
        let ages = maps.age(&pages, &mut batch);
        let mut going: Vec<(SwapSlot, Held)> = Vec::new();
        for (&(page, frame), accesses) in held.iter().zip(ages) {
            let age = accesses.map_or(Age::Stays, |accesses| frames.step_age(frame, accesses));
            if goes(age) {
                let Some(slot) = swap.reserve(frames) else { break };
                going.push((slot, (page, frame)));
            }
        }
        let unflushed = self.reclaim.unflushed();
        for run in going.chunk_by(|one, next| one.1.0 + 1 == next.1.0) {
            if let (Some(&(_, (first, _))), Some(&(_, (last, _)))) = (run.first(), run.last()) {
                maps.zap(&(first..last + 1), Copies::StayAndLocked, self, &mut batch);
            }
        }
        // Also with A clear: who cleared it may not have flushed yet.
        going.iter().for_each(|&(_, (_, frame))| batch.lowered(frame));
        self.flush_now(batch)?;
        drop(unflushed);
        // Who has locked one meanwhile, or has emptied an entry and not flushed yet, has a reference.
        let (mut going, stays): (Vec<_>, Vec<_>) =
            going.into_iter().partition(|&(_, (_, frame))| frames.references(frame) == 1);
        stays.into_iter().try_for_each(|(slot, _)| swap.put(frames, slot))?;
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
