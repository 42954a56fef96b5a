//! The flush batch: what must be shown to the vCPUs before a frame may be used for anything else.
//!
//! Every removal or lowering of a permission goes through a [`FlushBatch`]. Frames taken out of the
//! tables stay in quarantine in it until the [`FlushSink`] has confirmed that no vCPU can still use
//! the old translation.
//!
//! ```text
//!     entry cleared ──> batch (quarantine) ──flush──> sink confirms ──> frame is free
//!                          │ A was clear: no vCPU ever cached it, nothing to show,
//!                          └ but the frame waits with the others
//! ```

use std::fmt::Debug;
use std::sync::Arc;

use super::entry::{Entry, Owner};
use crate::addr::{Frame, FrameRun};
use crate::error::Broken;
use crate::phys::{FrameKind, Frames, Marks};

/// What a sink has to make visible.
#[derive(Clone, Debug, Default)]
pub struct FlushRequest {
    /// Frames whose leaf entries were lowered, as physically contiguous runs in no order.
    pub leaves: Vec<FrameRun>,
    /// Frames that may not be written any more by leaf entries which are otherwise as they were, as such
    /// runs. Old translations of these may stay as long as they only read.
    pub writes: Vec<FrameRun>,
    /// Whether an entry that points to a table was changed. Only a flush of everything will do then.
    pub tables: TableChange,
    /// Whether vCPUs used the entries while they were changed.
    pub others: Others,
}

impl FlushRequest {
    /// Whether there is nothing to make visible.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.writes.is_empty() && self.tables == TableChange::None
    }
}

/// Whether a batch changed entries that point to tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TableChange {
    /// Leaf entries only.
    #[default]
    None,
    /// A table was unlinked or an entry repointed.
    Unlinked,
}

/// Whether vCPUs may have been running in the address space while its entries were changed. One that was
/// may be in the middle of a page fault for which its host has read an entry as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Others {
    /// They may, in any space.
    #[default]
    MayRun,
    /// They may in the space with this root, and in no other.
    In(Frame),
    /// None did: the only one that could has stopped for the change.
    Stopped,
}

impl Others {
    /// Those of two changes.
    fn and(self, other: Others) -> Others {
        match (self, other) {
            (one, Others::Stopped) | (Others::Stopped, one) => one,
            (Others::In(one), Others::In(other)) if one == other => self,
            _ => Others::MayRun,
        }
    }
}

/// What becomes of the root of a space that is forked while none of its vCPUs runs: its own pages may not be
/// written any more through the tables that they had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ForkedRoot {
    /// A fresh one takes its place, of which nothing was ever cached: nothing is flushed, and every
    /// translation is learnt anew.
    #[default]
    Fresh,
    /// It stays, and what it does not let write any more is flushed ([`FlushRequest::writes`]): what is only
    /// read goes on as before.
    Kept,
}

/// What is resident of a space that is forked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ForkedPages {
    /// Pages, in all.
    pub pages: u64,
    /// Those of them that large entries map.
    pub large: u64,
    /// Those that large entries will map if the root is a fresh one.
    pub promotable: u64,
}

/// Makes changed entries visible to all vCPUs, running ones included.
pub trait FlushSink: Debug + Send + Sync {
    /// Returns only when no vCPU can use a translation that the request names.
    ///
    /// # Errors
    /// [`Broken`] when even the strongest method failed; the frames then stay in quarantine for ever.
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken>;

    /// What is cheaper for a space with such pages, the next pass over them included.
    fn forked_root(&self, _pages: ForkedPages) -> ForkedRoot {
        ForkedRoot::default()
    }
}

impl<S: FlushSink + ?Sized> FlushSink for Arc<S> {
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
        (**self).flush(request)
    }

    fn forked_root(&self, pages: ForkedPages) -> ForkedRoot {
        (**self).forked_root(pages)
    }
}

/// The changes of one operation, to be flushed once.
#[must_use = "the frames in a batch are free only after `finish`"]
#[derive(Debug, Default)]
pub struct FlushBatch {
    request: FlushRequest,
    quarantine: Vec<FrameRun>,
    /// Whether entries of other spaces were changed than of the one that is asked about its vCPUs.
    elsewhere: bool,
    /// Frames whose last entry may be gone while the swap area holds them.
    swap_cached: Vec<Frame>,
    /// The first miscount, told at the end: until then the operation goes on as if all were well.
    miscounted: Option<Broken>,
}

impl FlushBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// A leaf entry that named `frame` was lowered or removed after a vCPU may have cached it.
    pub fn lowered(&mut self, frame: Frame) {
        push(&mut self.request.leaves, frame);
    }

    /// A leaf entry lost the permission to write, and nothing else, after a vCPU may have cached it.
    pub fn write_protected(&mut self, frame: Frame) {
        push(&mut self.request.writes, frame);
    }

    /// A leaf entry was emptied, or given another page: its page has one map less from now on, and one
    /// reference less once the flush is confirmed.
    pub fn emptied(&mut self, entry: Entry, frames: &Frames) {
        let Some(frame) = entry.frame() else { return };
        if entry.is_accessed() {
            self.lowered(frame);
        }
        remember(entry, frame, frames);
        if frames.marks(frame).contains(Marks::SWAP_CACHED) {
            self.swap_cached.push(frame);
        }
        self.note(frames.unmap(frame));
        self.put_later(frame);
    }

    /// Remembers a failure, the first one, to be told at the end.
    pub(crate) fn note(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.miscounted.get_or_insert(broken);
        }
    }

    /// A large entry was emptied: [`emptied`](Self::emptied) for all its frames, and what the hosts of vCPUs may
    /// keep below it goes with the tables.
    pub fn emptied_large(&mut self, entry: Entry, frames: &Frames) {
        let Some(run) = entry.large_run() else { return };
        self.table_unlinked();
        (0..run.count).for_each(|i| remember(entry, run.start.offset(i), frames));
        self.note(frames.unmap_run(run));
        self.quarantine.push(run);
    }

    /// The frames of a large entry may not be written any more.
    pub fn write_protected_run(&mut self, run: FrameRun) {
        self.request.writes.push(run);
    }

    /// The frames of a large entry lost more than that.
    pub fn lowered_run(&mut self, run: FrameRun) {
        self.request.leaves.push(run);
    }

    /// An entry that pointed to a table was changed.
    pub fn table_unlinked(&mut self) {
        self.request.tables = TableChange::Unlinked;
    }

    /// Whether vCPUs of the batch's space used the entries while they were changed; as long as nothing is
    /// said, any may have.
    pub fn set_others(&mut self, others: Others) {
        self.request.others = if self.elsewhere { Others::MayRun } else { others };
    }

    /// Entries are changed of spaces whose vCPUs nobody knows: any may run.
    pub fn reaches_elsewhere(&mut self) {
        self.elsewhere = true;
        self.request.others = Others::MayRun;
    }

    /// One reference to `frame` is to be given up once the flush is confirmed.
    pub fn put_later(&mut self, frame: Frame) {
        push(&mut self.quarantine, frame);
    }

    /// What will be flushed.
    #[must_use]
    pub fn request(&self) -> &FlushRequest {
        &self.request
    }

    /// Flushes, then gives up the quarantined references.
    ///
    /// # Errors
    /// [`Broken`] if the sink cannot flush: the frames are then never used again; or if an entry was
    /// emptied whose page it was no map of.
    pub fn finish(mut self, sink: &dyn FlushSink, frames: &Frames) -> Result<(), Broken> {
        if !self.request.is_empty() {
            sink.flush(&self.request)?;
        }
        self.request = FlushRequest::default();
        self.put_all(frames)
    }

    /// Gives up the quarantined references without a flush: no vCPU can use the old translations any more.
    ///
    /// # Errors
    /// [`Broken`] if a frame was not in use, or an entry was emptied whose page it was no map of.
    pub fn put_all(mut self, frames: &Frames) -> Result<(), Broken> {
        self.quarantine.drain(..).try_for_each(|run| frames.put_run(run))?;
        self.miscounted.map_or(Ok(()), Err)
    }

    /// Whether there is nothing to flush, to give up or to complain of.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.quarantine.is_empty() && self.miscounted.is_none()
    }

    /// Takes over what another batch holds.
    pub fn absorb(&mut self, other: FlushBatch) {
        if !other.request.is_empty() {
            self.request.others = self.request.others.and(other.request.others);
        }
        self.elsewhere |= other.elsewhere;
        self.request.leaves.extend(other.request.leaves);
        self.request.writes.extend(other.request.writes);
        if other.request.tables == TableChange::Unlinked {
            self.request.tables = TableChange::Unlinked;
        }
        self.quarantine.extend(other.quarantine);
        self.swap_cached.extend(other.swap_cached);
        self.miscounted = self.miscounted.take().or(other.miscounted);
    }

    /// Takes the frames that may be in the swap area's cache alone once the batch is finished.
    pub(crate) fn take_swap_cached(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.swap_cached)
    }

    /// How many references wait for the flush.
    #[must_use]
    pub fn quarantined(&self) -> u64 {
        self.quarantine.iter().map(|run| run.count).sum()
    }
}

/// Notes at a backing's page, which stays, what the entry that goes has known of it.
fn remember(entry: Entry, frame: Frame, frames: &Frames) {
    if entry.owner() == Owner::Backing && frames.kind(frame) != Some(FrameKind::Zero) {
        let mut marks = Marks::empty();
        marks.set(Marks::DIRTY, entry.is_dirty());
        marks.set(Marks::REFERENCED, entry.is_referenced());
        frames.mark(frame, marks);
    }
}

/// Appends a frame to the runs, growing the last run at either end where it fits.
fn push(runs: &mut Vec<FrameRun>, frame: Frame) {
    match runs.last_mut() {
        Some(last) if last.start.offset(last.count) == frame => last.count += 1,
        Some(last) if frame.offset(1) == last.start => {
            last.start = frame;
            last.count += 1;
        }
        _ => runs.push(FrameRun { start: frame, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_frames_form_one_run_in_either_direction() {
        let mut batch = FlushBatch::new();
        for number in [5, 6, 7, 9, 8, 20] {
            batch.lowered(Frame::new(number));
        }
        let runs: Vec<_> =
            batch.request().leaves.iter().map(|r| (r.start.number(), r.count)).collect();
        assert_eq!(runs, [(5, 3), (8, 2), (20, 1)]);
    }
}
