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
//!   block:  never used ──take──> partly used <──> full
//!               ^                    │ last frame freed
//!               └── given back <── empty (a few are kept, their bytes dirty)
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BLOCK_FRAMES, PhysMemory};
use crate::addr::{Frame, FrameRun, index};
use crate::error::Broken;
use crate::failure::FailPoint;

/// How many empty blocks keep their memory, so that a program that maps and unmaps in turn does not
/// pay the host for each round.
const EMPTY_BLOCKS_KEPT: usize = 4;

/// How many pages are handed out before the host is asked for a whole block of them at once.
const PAGES_ONE_BY_ONE: u64 = 16;

/// Frames in a block, as an index.
const SLOTS: usize = index(BLOCK_FRAMES);

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A page that belongs to the mappings that name it: it may be written by its only owner.
    Anonymous,
    /// A page that belongs to a backing: a private mapping copies it before writing.
    Cached,
    /// The same, of shared memory: it is counted apart (Linux's `folio_test_swapbacked`).
    Shared,
    /// The page of zeros, which any mapping may name and none may write.
    Zero,
    /// A page table, or another frame that no program may map.
    Table,
}

/// Whether the caller relies on the bytes of a new frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// All zeros.
    Zeroed,
    /// Anything: the caller overwrites all of it.
    Any,
}

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
    /// In use as page tables and by the machine.
    pub tables: u64,
    /// The most pages and tables in use at one time.
    pub peak: u64,
    /// In blocks taken from the host and not given back.
    pub taken: u64,
    /// Given back to the host, in all.
    pub released: u64,
    /// Guest memory as it has grown so far.
    pub total: u64,
}

/// One block's record.
#[derive(Debug)]
struct Block {
    kind: BlockKind,
    presence: Presence,
    /// A set bit is a frame in use.
    used: [u64; 8],
    /// A set bit is a frame that may hold other bytes than zeros.
    dirty: [u64; 8],
    used_count: u32,
    /// References to each frame.
    refs: Box<[u32; SLOTS]>,
    kinds: Box<[FrameKind; SLOTS]>,
}

/// What a block is kept for. Tables have blocks of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BlockKind {
    Pages,
    Tables,
}

/// What of a block the host holds memory for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    /// What was touched.
    Touched,
    /// All of it.
    Whole,
}

impl From<FrameKind> for BlockKind {
    fn from(kind: FrameKind) -> Self {
        match kind {
            FrameKind::Anonymous | FrameKind::Cached | FrameKind::Shared => BlockKind::Pages,
            FrameKind::Zero | FrameKind::Table => BlockKind::Tables,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// `None`: the host holds no memory for the block.
    blocks: Vec<Option<Block>>,
    /// Of present pages.
    partial_whole: BTreeSet<usize>,
    /// Of pages that come one by one.
    partial_touched: BTreeSet<usize>,
    partial_tables: BTreeSet<usize>,
    /// Empty, their memory kept.
    empty: BTreeSet<usize>,
    /// The host holds no memory for these.
    untaken: BTreeSet<usize>,
    stats: FrameStats,
}

/// All frames of one machine: who uses which, and how often.
#[derive(Debug)]
pub struct Frames {
    memory: Arc<dyn PhysMemory>,
    /// Innermost lock of the crate: nothing else is taken under it.
    inner: Mutex<Inner>,
    /// Pages in use, to be read without the lock.
    pages_in_use: Arc<AtomicU64>,
    failures: FailPoint,
}

impl Frames {
    /// Manages all frames of `memory`. Frame 0 is never handed out.
    #[must_use]
    pub fn new(memory: Arc<dyn PhysMemory>) -> Self {
        let mut inner = Inner::default();
        inner.add_blocks(memory.frames());
        let failures = FailPoint::default();
        Frames { memory, inner: Mutex::new(inner), pages_in_use: Arc::default(), failures }
    }

    /// The memory that the frames are in.
    #[must_use]
    pub fn memory(&self) -> &dyn PhysMemory {
        &*self.memory
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
        if self.failures.refuses() {
            return Err(AllocError::OutOfMemory);
        }
        let (run, dirty) = {
            let mut inner = self.lock();
            let index = self.block_with_space(&mut inner, kind.into())?;
            let taken = inner.take_run(index, kind, most);
            self.pages_in_use.store(inner.stats.pages, Ordering::Relaxed);
            taken
        };
        if contents == Contents::Zeroed {
            for i in (0..run.count).filter(|i| dirty & (1 << i) != 0) {
                self.memory.zero(run.start.offset(i));
            }
        }
        Ok(run)
    }

    /// One more reference to a frame in use.
    pub fn get(&self, frame: Frame) {
        let mut inner = self.lock();
        let (block, slot) = position(frame);
        if let Some(Some(block)) = inner.blocks.get_mut(block) {
            block.refs[slot] += 1;
        }
    }

    /// Gives up one reference; the last one frees the frame.
    ///
    /// # Errors
    /// [`Broken`] if the frame was not in use, or the host failed to take memory back.
    pub fn put(&self, frame: Frame) -> Result<(), Broken> {
        self.put_run(FrameRun { start: frame, count: 1 })
    }

    /// Gives up one reference to each frame of the run.
    ///
    /// # Errors
    /// [`Broken`] if one was not in use, or the host failed to take memory back.
    pub fn put_run(&self, run: FrameRun) -> Result<(), Broken> {
        let mut surplus = Vec::new();
        {
            let mut inner = self.lock();
            for i in 0..run.count {
                inner.put(run.start.offset(i))?;
            }
            self.pages_in_use.store(inner.stats.pages, Ordering::Relaxed);
            while inner.empty.len() > EMPTY_BLOCKS_KEPT {
                let Some(index) = inner.empty.pop_last() else { break };
                surplus.push(index);
            }
        }
        self.release_blocks(surplus)
    }

    /// How many references a frame has; 0 for a free one.
    #[must_use]
    pub fn references(&self, frame: Frame) -> u32 {
        let inner = self.lock();
        let (block, slot) = position(frame);
        inner.blocks.get(block).and_then(Option::as_ref).map_or(0, |b| b.refs[slot])
    }

    /// Whether the caller, who holds a reference, is the only owner of an anonymous frame, and so may
    /// let it be written in place.
    #[must_use]
    pub fn is_exclusive(&self, frame: Frame) -> bool {
        let inner = self.lock();
        let (block, slot) = position(frame);
        inner
            .blocks
            .get(block)
            .and_then(Option::as_ref)
            .is_some_and(|b| b.refs[slot] == 1 && b.kinds[slot] == FrameKind::Anonymous)
    }

    /// What a frame in use is used for.
    #[must_use]
    pub fn kind(&self, frame: Frame) -> Option<FrameKind> {
        let inner = self.lock();
        let (block, slot) = position(frame);
        let block = inner.blocks.get(block)?.as_ref()?;
        (block.refs[slot] > 0).then(|| block.kinds[slot])
    }

    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> FrameStats {
        FrameStats { total: self.memory.frames(), ..self.lock().stats }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the table consistent: every change under the lock is complete.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of the kind with a free frame, taken from the host if need be.
    fn block_with_space(&self, inner: &mut Inner, kind: BlockKind) -> Result<usize, AllocError> {
        let few = inner.stats.pages < PAGES_ONE_BY_ONE;
        let presence = match kind {
            BlockKind::Pages if !few => Presence::Whole,
            BlockKind::Pages | BlockKind::Tables => Presence::Touched,
        };
        let preferred = match (kind, presence) {
            (BlockKind::Tables, _) => inner.partial_tables.first(),
            (BlockKind::Pages, Presence::Whole) => inner.partial_whole.first(),
            (BlockKind::Pages, Presence::Touched) => {
                inner.partial_whole.first().or_else(|| inner.partial_touched.first())
            }
        };
        if let Some(&index) = preferred {
            return Ok(index);
        }
        if let Some(index) = inner.empty.pop_first() {
            inner.reuse_empty(index, kind);
            return Ok(index);
        }
        if inner.untaken.is_empty() {
            let frames = self.memory.grow()?;
            inner.add_blocks(frames);
        }
        if let Some(index) = inner.untaken.pop_first() {
            if presence == Presence::Whole {
                self.memory.populate(block_run(index));
            }
            inner.take_block(index, kind, presence);
            return Ok(index);
        }
        // Memory is used up but for blocks that are not preferred.
        let rest = [&inner.partial_touched, &inner.partial_whole, &inner.partial_tables];
        rest.iter().find_map(|blocks| blocks.first().copied()).ok_or(AllocError::OutOfMemory)
    }

    /// Gives whole blocks, which nobody uses and no list names, back to the host.
    fn release_blocks(&self, mut indices: Vec<usize>) -> Result<(), Broken> {
        indices.sort_unstable();
        for run in indices.chunk_by(|a, b| a + 1 == *b) {
            let start = block_run(run[0]).start;
            let count = run.len() as u64 * BLOCK_FRAMES;
            self.memory.release(FrameRun { start, count })?;
            let mut inner = self.lock();
            inner.stats.released += count;
            inner.stats.taken -= count;
            for &index in run {
                inner.blocks[index] = None;
                inner.untaken.insert(index);
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Where a block of that kind is named while it is partly used.
    fn partial(&mut self, kind: BlockKind, presence: Presence) -> &mut BTreeSet<usize> {
        match (kind, presence) {
            (BlockKind::Pages, Presence::Whole) => &mut self.partial_whole,
            (BlockKind::Pages, Presence::Touched) => &mut self.partial_touched,
            (BlockKind::Tables, _) => &mut self.partial_tables,
        }
    }

    fn add_blocks(&mut self, frames: u64) {
        let have = self.blocks.len();
        let blocks = usize::try_from(frames / BLOCK_FRAMES).unwrap_or(usize::MAX);
        self.blocks.resize_with(blocks.max(have), || None);
        self.untaken.extend(have..blocks);
    }

    fn take_block(&mut self, index: usize, kind: BlockKind, presence: Presence) {
        let mut block = Block {
            kind,
            presence,
            used: [0; 8],
            dirty: [0; 8],
            used_count: 0,
            refs: Box::new([0; SLOTS]),
            kinds: Box::new([FrameKind::Anonymous; SLOTS]),
        };
        if index == 0 {
            block.used[0] = 1;
            block.used_count = 1;
            block.refs[0] = 1;
            block.kinds[0] = FrameKind::Table;
        }
        self.blocks[index] = Some(block);
        self.partial(kind, presence).insert(index);
        self.stats.taken += BLOCK_FRAMES;
    }

    fn reuse_empty(&mut self, index: usize, kind: BlockKind) {
        if let Some(block) = &mut self.blocks[index] {
            block.kind = kind;
            let presence = block.presence;
            self.partial(kind, presence).insert(index);
        }
    }

    /// Takes up to `most` contiguous free frames of the block, which has one. Also says, a bit a
    /// frame, which of them are dirty.
    fn take_run(&mut self, index: usize, kind: FrameKind, most: u64) -> (FrameRun, u64) {
        let mut count = 0_u32;
        let mut dirty = 0;
        let mut first = 0;
        let mut full = None;
        if let Some(block) = &mut self.blocks[index] {
            first = block.first_free();
            // The dirty mask has 64 bits, so that is the longest run.
            for slot in first..(first + crate::addr::index(most.clamp(1, 64))).min(SLOTS) {
                let (word, bit) = (slot / 64, 1 << (slot % 64));
                if block.used[word] & bit != 0 {
                    break;
                }
                block.used[word] |= bit;
                dirty |= u64::from(block.dirty[word] & bit != 0) << count;
                block.dirty[word] |= bit;
                block.refs[slot] = 1;
                block.kinds[slot] = kind;
                count += 1;
            }
            block.used_count += count;
            full = (u64::from(block.used_count) == BLOCK_FRAMES)
                .then_some((block.kind, block.presence));
        }
        if let Some((kind, presence)) = full {
            self.partial(kind, presence).remove(&index);
        }
        let count = u64::from(count);
        match kind.into() {
            BlockKind::Pages => self.stats.pages += count,
            BlockKind::Tables => self.stats.tables += count,
        }
        self.stats.peak = self.stats.peak.max(self.stats.pages + self.stats.tables);
        (FrameRun { start: block_run(index).start.offset(first as u64), count }, dirty)
    }

    fn put(&mut self, frame: Frame) -> Result<(), Broken> {
        let unused = || Broken::Invariant(format!("{frame:?} is given up, but nobody uses it"));
        let (index, slot) = position(frame);
        let block = self.blocks.get_mut(index).and_then(Option::as_mut).ok_or_else(unused)?;
        block.refs[slot] = block.refs[slot].checked_sub(1).ok_or_else(unused)?;
        if block.refs[slot] > 0 {
            return Ok(());
        }
        block.used[slot / 64] &= !(1 << (slot % 64));
        block.used_count -= 1;
        let (block_kind, presence) = (block.kind, block.presence);
        let is_empty = block.used_count == 0;
        match block.kinds[slot].into() {
            BlockKind::Pages => self.stats.pages -= 1,
            BlockKind::Tables => self.stats.tables -= 1,
        }
        if is_empty {
            self.partial(block_kind, presence).remove(&index);
            self.empty.insert(index);
        } else {
            self.partial(block_kind, presence).insert(index);
        }
        Ok(())
    }
}

impl Block {
    fn first_free(&self) -> usize {
        let word = self.used.iter().position(|&w| w != u64::MAX).unwrap_or(0);
        word * 64 + self.used[word].trailing_ones() as usize
    }
}

fn block_run(index: usize) -> FrameRun {
    FrameRun { start: Frame::new(index as u64 * BLOCK_FRAMES), count: BLOCK_FRAMES }
}

fn position(frame: Frame) -> (usize, usize) {
    let number = frame.number();
    (index(number / BLOCK_FRAMES), index(number % BLOCK_FRAMES))
}

#[cfg(test)]
mod tests;
