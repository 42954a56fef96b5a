//! The frame table and the allocator of frames.
//!
//! Memory is taken from the host, and given back, in blocks of 2 MiB; frames are handed out of a
//! block in ascending order, so that pages touched one after another lie side by side (a flush costs
//! by the contiguous run). Pages and page tables never share a block while there is a choice: a
//! table between two data pages would cut every run in two.
//!
//! A block of pages is made present as a whole when it is taken, huge where the host can: 90 us for
//! 512 pages on software KVM, against some 5 us for each page that the guest is the first to touch. A
//! small program does not need 18 pages, so the first few come from a block that is left alone.
//!
//! ```text
//!   alloc ──> pool    which block? (the lock)          get, put, map, unmap, owner, kind
//!     │        └ block   which frames of it?                      │ no lock
//!     │           └ set     512 bits                              v
//!     └─────────────────────────────────────────> directory ──> record ──> count
//!   put of the last reference ──> pool (the lock) ──> trim: too much idle? ──> the host
//! ```

mod block;
mod count;
mod counting;
mod directory;
mod folio;
mod giving;
mod kind;
mod mark;
mod pool;
mod record;
mod set;
mod sync;
mod trim;

pub use kind::{Contents, FrameKind, Order, Place};
pub use mark::Marks;
pub use record::ReverseOwner;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use block::Want;
use count::Counts;
use directory::Directory;
use pool::{Pool, Reach, Taken, Within};

use super::nodes::{Nodes, Wish};
use super::{BLOCK_FRAMES, PhysMemory};
use crate::addr::{Frame, FrameRun, index};
use crate::error::Broken;
use crate::failure::FailPoint;

/// Frames in a block, as an index.
const SLOTS: usize = index(BLOCK_FRAMES);

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum AllocError {
    /// The guest's memory is used up.
    #[error("the guest's memory is used up")]
    OutOfMemory,
    /// The machine stops.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// Counts of the frame table, in frames of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameStats {
    /// In use as pages of programs and backings.
    pub pages: u64,
    /// In use as page tables and by the machine, the zero frame included.
    pub tables: u64,
    /// The most pages and tables in use at one time.
    pub peak: u64,
    /// In blocks taken from the host and not given back.
    pub taken: u64,
    /// Free, but the host holds memory for them: by so much its resident size is larger than the
    /// guest's.
    pub idle: u64,
    /// Given back to the host, in all.
    pub released: u64,
    /// Guest memory as it has grown so far.
    pub total: u64,
    /// Bytes, not frames: the records of all frames that were ever used.
    pub record_bytes: u64,
}

/// All frames of one machine: who uses which, and how often.
///
/// Counting takes no lock. Who may do what is the protocol of Linux's folios:
///
/// - [`get`](Frames::get) and [`dup`](Frames::dup) are for those who know of a reference that cannot go
///   away meanwhile; who only found the frame's number uses [`try_get`](Frames::try_get), and asks again
///   afterwards whether the frame still is what it was found as.
/// - Every entry that names a frame holds a reference, and is one of its maps. It is unmapped as the entry
///   is cleared; the reference is given up when the flush is confirmed.
/// - Whoever gives up the last reference frees the frame. Entries must not name it then.
#[derive(Debug)]
pub struct Frames {
    memory: Arc<dyn PhysMemory>,
    nodes: Nodes,
    records: Directory,
    /// Innermost lock of the crate: nothing else is taken under it.
    pool: Mutex<Pool>,
    /// Frames that were on their way back to the host have arrived.
    arrived: Condvar,
    /// Pages in use, to be read without the lock.
    pages_in_use: Arc<AtomicU64>,
    zero: OnceLock<Frame>,
    huge_zeros: OnceLock<FrameRun>,
    /// Whether there were ever folios of several frames.
    folios: AtomicBool,
    failures: FailPoint,
    /// Allocations for which there was no frame.
    refusals: AtomicU64,
}

impl Frames {
    /// Manages all frames of `memory`. Frame 0 is never handed out.
    #[must_use]
    pub fn new(memory: Arc<dyn PhysMemory>) -> Self {
        Frames::with_nodes(memory, Nodes::ONE)
    }

    /// The same, of a machine with several NUMA nodes.
    #[must_use]
    pub fn with_nodes(memory: Arc<dyn PhysMemory>, nodes: Nodes) -> Self {
        let mut pool = Pool::default();
        pool.grow_to(memory.frames());
        Frames {
            memory,
            nodes,
            records: Directory::new(),
            pool: Mutex::new(pool),
            arrived: Condvar::new(),
            pages_in_use: Arc::default(),
            zero: OnceLock::new(),
            huge_zeros: OnceLock::new(),
            folios: AtomicBool::new(false),
            failures: FailPoint::default(),
            refusals: AtomicU64::new(0),
        }
    }

    /// The memory that the frames are in.
    #[must_use]
    pub fn memory(&self) -> &dyn PhysMemory {
        &*self.memory
    }

    /// How they are divided among the machine's NUMA nodes.
    #[inline]
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The number of pages in use, kept up to date: a flush sink weighs its methods by it.
    #[must_use]
    pub fn pages_in_use(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.pages_in_use)
    }

    /// Where allocations can be made to fail: a run counts as one.
    #[must_use]
    pub fn failures(&self) -> &FailPoint {
        &self.failures
    }

    /// How many allocations there have been for which there was no frame.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> FrameStats {
        let record_bytes = self.records.bytes();
        let stats = self.lock().stats;
        // The pages of zeros are nobody's tables.
        let huge = self.huge_zeros.get().map_or(0, |run| run.count);
        let tables = stats.tables - u64::from(self.zero.get().is_some()) - huge;
        FrameStats { total: self.memory.frames(), record_bytes, tables, ..stats }
    }

    fn publish(&self, pool: &Pool) {
        self.pages_in_use.store(pool.stats.pages, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        // A panic elsewhere leaves the pool consistent: every change under the lock is complete.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Taking frames.
impl Frames {
    /// A frame with one reference.
    ///
    /// # Errors
    /// [`AllocError`] when memory is used up, or the host failed.
    pub fn alloc(&self, kind: FrameKind, contents: Contents) -> Result<Frame, AllocError> {
        Ok(self.alloc_run(kind, contents, 1)?.start)
    }

    /// Between one and `most` contiguous frames, each with one reference.
    ///
    /// # Errors
    /// [`AllocError`] when not even one is left, or the host failed.
    pub fn alloc_run(
        &self,
        kind: FrameKind,
        contents: Contents,
        most: u64,
    ) -> Result<FrameRun, AllocError> {
        self.alloc_run_at(kind, contents, most, Place::Anywhere, Wish::ANY)
    }

    /// A frame with one reference, from where it is wished.
    ///
    /// # Errors
    /// [`AllocError`] when none is left there, or the host failed.
    pub fn alloc_on(
        &self,
        kind: FrameKind,
        contents: Contents,
        wish: Wish,
    ) -> Result<Frame, AllocError> {
        Ok(self.alloc_run_at(kind, contents, 1, Place::Anywhere, wish)?.start)
    }

    /// Between one and `most` contiguous frames of one node, as it is wished; pages at a place if they are free there.
    ///
    /// # Errors
    /// [`AllocError`] when not even one is left on the nodes that will do, or the host failed.
    pub fn alloc_run_at(
        &self,
        kind: FrameKind,
        contents: Contents,
        most: u64,
        place: Place,
        wish: Wish,
    ) -> Result<FrameRun, AllocError> {
        let most = index(most.clamp(1, BLOCK_FRAMES));
        self.alloc_where(kind, contents, wish, Lack::Told, |pool, within, reach| {
            let at = pool.take_at(place, most, within);
            Some([at.or_else(|| pool.take(kind.into(), Want::UpTo(most), within, reach))?])
        })
    }

    /// A naturally aligned run of that size, each frame with one reference. Below 2 MiB it means nothing that there is
    /// none: nobody waits for one, or gives up memory for it.
    ///
    /// # Errors
    /// [`AllocError`] when no such run is left, though smaller ones may be; or the host failed.
    pub fn alloc_order(
        &self,
        kind: FrameKind,
        contents: Contents,
        order: Order,
    ) -> Result<FrameRun, AllocError> {
        self.alloc_order_on(kind, contents, order, Wish::ANY)
    }

    /// The same, from where it is wished.
    ///
    /// # Errors
    /// As of [`alloc_order`](Self::alloc_order), of the nodes that will do.
    pub fn alloc_order_on(
        &self,
        kind: FrameKind,
        contents: Contents,
        order: Order,
        wish: Wish,
    ) -> Result<FrameRun, AllocError> {
        let (purpose, frames) = (kind.into(), order.frames());
        if order >= Order::HUGE {
            return self.alloc_where(kind, contents, wish, Lack::Told, |pool, within, _| {
                pool.take_blocks(purpose, index(frames / BLOCK_FRAMES), within)
            });
        }
        self.alloc_where(kind, contents, wish, Lack::Usual, |pool, within, reach| {
            Some([pool.take(purpose, Want::Aligned(index(frames)), within, reach)?])
        })
    }

    /// The frame of zeros that stands for all memory that was only read. It has no counts: getting, giving
    /// up, mapping and unmapping it changes nothing. It is made at the first call.
    ///
    /// # Errors
    /// [`AllocError`] if there is no frame for it.
    pub fn zero_frame(&self) -> Result<Frame, AllocError> {
        if let Some(&frame) = self.zero.get() {
            return Ok(frame);
        }
        let made = self.alloc(FrameKind::Zero, Contents::Zeroed)?;
        let frame = *self.zero.get_or_init(|| {
            self.counts(made, Counts::pin);
            made
        });
        if frame != made {
            // Another thread was first.
            self.put(made)?;
        }
        Ok(frame)
    }

    /// 2 MiB of zeros, for huge pages that were only read (Linux's `huge_zero_folio`): as
    /// [`zero_frame`](Self::zero_frame), but for the size.
    ///
    /// # Errors
    /// [`AllocError`] if there are no such frames in one piece.
    pub fn huge_zeros(&self) -> Result<FrameRun, AllocError> {
        if let Some(&run) = self.huge_zeros.get() {
            return Ok(run);
        }
        let made = self.alloc_order(FrameKind::Zero, Contents::Zeroed, Order::HUGE)?;
        let run = *self.huge_zeros.get_or_init(|| {
            self.counts_of_run(made, Counts::pin);
            made
        });
        if run != made {
            // Another thread was first.
            self.put_run(made)?;
        }
        Ok(run)
    }

    /// Takes frames by `take`, and makes them what the caller wants.
    fn alloc_where<T: IntoIterator<Item = Taken>>(
        &self,
        kind: FrameKind,
        contents: Contents,
        wish: Wish,
        lack: Lack,
        take: impl Fn(&mut Pool, Within, Reach) -> Option<T>,
    ) -> Result<FrameRun, AllocError> {
        if self.failures.refuses() {
            return Err(self.refuse());
        }
        let (all, surplus) = {
            let (mut pool, all) = self.take(wish, lack, take)?;
            // A new block may be present as a whole, and most of it idle.
            let surplus = pool.surplus(self.memory.host_pages());
            (all, surplus)
        };
        let mut run: Option<FrameRun> = None;
        for Taken { block, slots, populate } in all {
            if let Some(slots) = populate.filter(|_| contents != Contents::Shown) {
                self.memory.populate(frames_of(block, &slots));
            }
            if contents == Contents::Zeroed {
                for slot in slots.dirty.slots() {
                    self.memory.zero(frames_of(block, &(slot..slot)).start);
                }
            }
            let past = || Broken::Invariant(format!("there are no records of block {block}"));
            let records = self.records.find_or_make(block).ok_or_else(past)?;
            records.take(slots.range.clone(), kind);
            let part = frames_of(block, &slots.range);
            run = Some(run.map_or(part, |run| FrameRun { count: run.count + part.count, ..run }));
        }
        if let Some(surplus) = surplus {
            self.give_back(surplus)?;
        }
        run.ok_or(AllocError::OutOfMemory)
    }

    /// Notes that somebody got none: something may be given up then.
    pub(crate) fn refuse(&self) -> AllocError {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        AllocError::OutOfMemory
    }

    /// Takes frames: from node after node as it is wished.
    fn take<T>(
        &self,
        wish: Wish,
        lack: Lack,
        take: impl Fn(&mut Pool, Within, Reach) -> Option<T>,
    ) -> Result<(MutexGuard<'_, Pool>, T), AllocError> {
        let mut pool = self.lock();
        loop {
            let taken = if self.nodes.is_one() {
                self.take_within(&mut pool, Within::ALL, &take)?
            } else {
                let mut nodes = self.nodes.order(wish).map(|node| self.nodes.blocks(node));
                let found = nodes
                    .find_map(|node| self.take_within(&mut pool, node.into(), &take).transpose());
                found.transpose()?
            };
            if let Some(all) = taken {
                self.publish(&pool);
                return Ok((pool, all));
            }
            if lack == Lack::Usual {
                return Err(AllocError::OutOfMemory);
            }
            if pool.away == 0 {
                return Err(self.refuse());
            }
            // Frames that the host is just taking can be had again in a moment.
            pool = self.arrived.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes frames of these blocks: where it is best, else of memory that is added, else anywhere among them.
    fn take_within<T>(
        &self,
        pool: &mut Pool,
        within: Within,
        take: impl Fn(&mut Pool, Within, Reach) -> Option<T>,
    ) -> Result<Option<T>, AllocError> {
        loop {
            if let Some(all) = take(pool, within, Reach::Preferred) {
                return Ok(Some(all));
            }
            if pool.blocks.len() >= within.end || !pool.grow_to(self.memory.grow()?) {
                return Ok(take(pool, within, Reach::Anywhere));
            }
        }
    }
}

/// What it is that there are no such frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lack {
    /// Memory is short: something may be given up, or is just about to come.
    Told,
    /// Nothing: the caller does with less.
    Usual,
}

/// The frames of slots of a block.
fn frames_of(block: usize, slots: &Range<usize>) -> FrameRun {
    let start = Frame::new(block as u64 * BLOCK_FRAMES + slots.start as u64);
    FrameRun { start, count: slots.len() as u64 }
}

/// The block of a frame, and its slot there.
fn position(frame: Frame) -> (usize, usize) {
    let number = frame.number();
    (index(number / BLOCK_FRAMES), index(number % BLOCK_FRAMES))
}

/// Cuts a run at the ends of blocks.
fn blocks_of(run: FrameRun) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut left = run;
    std::iter::from_fn(move || {
        let (block, slot) = position(left.start);
        let count = left.count.min(BLOCK_FRAMES - slot as u64);
        left = FrameRun { start: left.start.offset(count), count: left.count - count };
        (count > 0).then(|| (block, slot..slot + index(count)))
    })
}

#[cfg(test)]
mod tests;
