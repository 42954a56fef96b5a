//! A flush that fails, and what must hold then: whatever a vCPU could reach before the operation, and nobody
//! has flushed since, stays what it was. It is not handed out again, now or later.
//!
//! ```text
//!   before    page 0 -> F (A set)    page 1 -> G (A clear)     tables T
//!   the call  empties both ── flush of F: refused ──> Broken
//!   after     F and T: in use, and of the same bytes, however much memory others take     G: anything
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::*;
use super::fixture::{Fixture, Kind};
use super::{Answer, Case};
use crate::addr::{Frame, FrameRun};
use crate::error::Broken;
use crate::failure::FailPoint;
use crate::paging::{FlushRequest, FlushSink, ForkedPages, ForkedRoot, TableChange};
use crate::phys::{AllocError, Contents, FrameKind, Words};
use crate::replay::CountingSink;

/// A sink of which a flush can be made to fail. It remembers what the others were for.
#[derive(Debug, Default)]
pub(super) struct FailingSink {
    pub(super) point: FailPoint,
    pub(super) counts: Arc<CountingSink>,
    confirmed: Mutex<Confirmed>,
}

/// What has been flushed.
#[derive(Clone, Debug, Default)]
struct Confirmed {
    frames: BTreeSet<Frame>,
    tables: bool,
}

impl FailingSink {
    fn confirmed(&self) -> std::sync::MutexGuard<'_, Confirmed> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlushSink for FailingSink {
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
        if self.point.refuses() {
            let source = std::io::Error::from_raw_os_error(12);
            return Err(Broken::Host { what: "flush in a test", source });
        }
        let mut confirmed = self.confirmed();
        confirmed.tables |= request.tables == TableChange::Unlinked;
        confirmed.frames.extend(request.leaves.iter().flat_map(frames_of));
        drop(confirmed);
        self.counts.flush(request)
    }

    fn forked_root(&self, pages: ForkedPages) -> ForkedRoot {
        self.counts.forked_root(pages)
    }
}

fn frames_of(run: &FrameRun) -> impl Iterator<Item = Frame> + use<> {
    let start = run.start;
    (0..run.count).map(move |i| start.offset(i))
}

/// Fails the `nth` flush of a case, and says what is wrong with the outcome.
pub(super) fn fail(case: &Case, nth: NonZeroU64) -> Result<(), String> {
    let fixture = Fixture::new();
    (case.prepare)(&fixture);
    let before = Reachable::of(&fixture);
    *fixture.flushes.confirmed() = Confirmed::default();
    fixture.watch(Kind::Flush, Some(nth));
    let told = (case.call)(&fixture);
    fixture.stop(Kind::Flush);
    if !matches!(&told, Answer::Broken(why) if why.contains("flush in a test")) {
        return Err(format!("answered {told:?}"));
    }
    fixture.audit().map_err(|error| format!("audit: {error}"))?;
    let confirmed = fixture.flushes.confirmed().clone();
    before.is_kept(&fixture, &confirmed)?;
    // Others take all the memory that they can get.
    let frames = &fixture.m.frames;
    let mut taken = Vec::new();
    loop {
        match frames.alloc(FrameKind::Anonymous, Contents::Zeroed) {
            Ok(frame) => taken.push(frame),
            Err(AllocError::OutOfMemory) => break,
            Err(AllocError::Broken(broken)) => return Err(broken.to_string()),
        }
    }
    before.is_kept(&fixture, &confirmed)?;
    taken.into_iter().for_each(|frame| frames.put(frame).unwrap());
    Ok(())
}

/// Frames that a vCPU could get at before the operation.
struct Reachable {
    /// Pages of entries that may be cached, with their bytes.
    pages: BTreeMap<Frame, Vec<u64>>,
    /// Tables that a vCPU may be using; what is in them may change.
    tables: BTreeSet<Frame>,
}

impl Reachable {
    fn of(fixture: &Fixture) -> Self {
        let mut reachable = Reachable { pages: BTreeMap::new(), tables: BTreeSet::new() };
        let (space, children) = (fixture.m.space.look(), fixture.children.borrow());
        for space in [&*space].into_iter().chain(children.iter()) {
            reachable.add(space);
        }
        reachable
    }

    fn add(&mut self, space: &AddressSpace) {
        let memory = space.system().memory();
        let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END).unwrap();
        let cached = space.table().look(all).filter(|leaf| leaf.entry.is_accessed());
        for frame in cached.filter_map(|leaf| leaf.entry.frame()) {
            self.pages.insert(frame, bytes_of(memory.words(frame)));
        }
        let mut level = vec![space.table().root()];
        for below_root in [false, true, true] {
            self.tables.extend(&level);
            let entries = if below_root { 512 } else { 256 };
            let children = |&frame: &Frame| {
                let words = memory.words(frame)[..entries].iter();
                let entries = words.map(|word| Entry::new(word.load(Ordering::Relaxed)));
                entries.filter(|entry| !entry.is_large()).filter_map(Entry::frame)
            };
            level = level.iter().flat_map(children).collect();
        }
        self.tables.extend(level);
    }

    /// Whether all of it that has not been flushed is what it was.
    fn is_kept(&self, fixture: &Fixture, confirmed: &Confirmed) -> Result<(), String> {
        let frames = &fixture.m.frames;
        if confirmed.tables {
            // A flush of everything.
            return Ok(());
        }
        for (&frame, bytes) in
            self.pages.iter().filter(|(frame, _)| !confirmed.frames.contains(frame))
        {
            if frames.references(frame) == 0 {
                return Err(format!("{frame:?} is free, and vCPUs can still use it"));
            }
            if bytes_of(frames.memory().words(frame)) != *bytes {
                return Err(format!("{frame:?} has other bytes, and vCPUs can still use it"));
            }
        }
        match self.tables.iter().find(|&&table| frames.kind(table) != Some(FrameKind::Table)) {
            Some(table) => {
                Err(format!("{table:?} is no table any more, and vCPUs can still use it"))
            }
            None => Ok(()),
        }
    }
}

fn bytes_of(words: &Words) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}
