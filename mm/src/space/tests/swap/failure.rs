//! What becomes of pages where something fails: no place, no frame, a store that does not take or give them.

use std::io;
use std::num::NonZeroU64;
use std::sync::Mutex;

use super::*;
use crate::addr::{PAGE_BYTES, SwapSlot};
use crate::failure::FailPoint;

/// From the first time on.
pub(super) const FIRST: NonZeroU64 = NonZeroU64::MIN;

/// A store that fails when it is told to.
#[derive(Debug)]
pub(super) struct Faulty {
    store: MemoryStore,
    pub(super) reads: FailPoint,
    pub(super) writes: FailPoint,
    /// How many pages were written at a time.
    runs: Mutex<Vec<usize>>,
    /// How many were read.
    pub(super) read_runs: Mutex<Vec<usize>>,
}

impl SwapStore for Arc<Faulty> {
    fn slots(&self) -> u64 {
        self.store.slots()
    }

    fn write(&self, first: SwapSlot, pages: &[u8]) -> io::Result<()> {
        if self.writes.refuses() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.runs.lock().unwrap().push(pages.len() / PAGE_BYTES);
        self.store.write(first, pages)
    }

    fn read(&self, first: SwapSlot, pages: &mut [u8]) -> io::Result<()> {
        if self.reads.refuses() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.read_runs.lock().unwrap().push(pages.len() / PAGE_BYTES);
        self.store.read(first, pages)
    }
}

impl Faulty {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Faulty {
            store: MemoryStore::new(100),
            reads: FailPoint::default(),
            writes: FailPoint::default(),
            runs: Mutex::default(),
            read_runs: Mutex::default(),
        })
    }
}

fn faulty(frames: u64) -> (SoftwareMachine, Arc<Faulty>) {
    let store = Faulty::new();
    let m = stored(frames, Box::new(Arc::clone(&store)));
    map_at(&m, 0, 40, RW).unwrap();
    fill(&m, 0..40);
    (m, store)
}

#[test]
fn pages_are_written_together_with_one_flush() {
    let (m, store) = faulty(1024);
    let flushes = m.sink.flushes();
    page_out(&m, 0, 40);
    assert_eq!((m.sink.flushes() - flushes, &*store.runs.lock().unwrap()), (1, &vec![32, 8]));
    end(vec![m], vec![]);
}

#[test]
fn what_cannot_be_written_stays_in_memory() {
    let (m, store) = faulty(1024);
    store.writes.refuse_from(FIRST);
    page_out(&m, 0, 40);
    audited(&[&m]);
    assert_eq!((counts(&m), taken(&m), m.frames.stats().pages), ((0, 40), (40, 40), 40));
    assert_eq!(bytes(&m, 0..20), (100..120).collect::<Vec<u8>>());
    assert_eq!(moved(&m), (0, 0));
    store.writes.stop();
    swap_out_all(&m);
    assert_eq!((taken(&m), m.frames.stats().pages), ((40, 0), 0));
    assert_eq!(bytes(&m, 0..40), (100..140).collect::<Vec<u8>>());
    end(vec![m], vec![]);
}

#[test]
fn what_cannot_be_read_is_a_bus_error_and_can_be_tried_again() {
    let (m, store) = faulty(1024);
    page_out(&m, 0, 40);
    store.reads.refuse_from(FIRST);
    assert_eq!(fault_of(m.load(page(1))), Fault::NoBacking(page(1)));
    advise(&m, 0, 40, Advice::WillNeed);
    assert_eq!((counts(&m), taken(&m), m.frames.stats().pages), ((0, 40), (40, 0), 0));
    store.reads.stop();
    assert_eq!(m.load(page(1)).unwrap(), 101);
    end(vec![m], vec![]);
}

#[test]
fn a_page_for_which_there_is_no_place_stays() {
    let (m, _) = faulty(1024);
    let system = Arc::clone(m.space.look().system());
    let failures = &system.swap().unwrap().failures;
    failures.refuse(NonZeroU64::new(2).unwrap());
    page_out(&m, 0, 3);
    assert_eq!((failures.stop(), counts(&m)), (3, (38, 2)));
    assert_eq!(bytes(&m, 0..3), [100, 101, 102]);
    end(vec![m], vec![]);
}

#[test]
fn a_page_for_which_there_is_no_frame_kills_only_if_nothing_else_can_go() {
    let (m, _) = faulty(512);
    page_out(&m, 0, 1);
    let system = Arc::clone(m.space.look().system());
    m.space.change().mlock2(page(1), 39 * PAGE_SIZE, 1).unwrap();
    let taken = use_up(&m, 0);
    assert_eq!(fault_of(m.load(page(0))), Fault::OutOfMemory(page(0)));
    assert_eq!(system.reclaimed().swapped, 0);
    m.space.change().munlockall();
    assert_eq!(m.load(page(0)).unwrap(), 100);
    assert!(system.reclaimed().swapped > 0);
    end(vec![m], taken);
}
