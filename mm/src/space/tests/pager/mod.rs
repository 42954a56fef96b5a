//! Memory of a pager: its pages come and go, and nothing of them is lost.

mod ahead;
mod ends;
mod late;
mod shortage;
mod together;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::backing::{PageBytes, PagedMemory, Pager};
use crate::phys::{Contents, FrameKind, Frames, SoftwareMemory};
use crate::replay::CountingSink;
use crate::system::System;

const SHARED: MapFlags = MapFlags::FIXED.union(MapFlags::from_bits_retain(1));
const PRIVATE: MapFlags = MapFlags::FIXED.union(MapFlags::from_bits_retain(2));

/// What is outside memory: by offset, pages that were taken; the others are their own number and one, all over.
#[derive(Debug, Default)]
struct Store {
    taken: Mutex<BTreeMap<u64, PageBytes>>,
    fills: AtomicU64,
    takes: AtomicU64,
    watched: Mutex<Vec<u64>>,
    refuses_fills: AtomicBool,
    refuses_takes: AtomicBool,
}

impl Store {
    fn fill(&self, offset: u64, page: &mut PageBytes) -> io::Result<()> {
        assert_eq!(*page, [0; 4096]);
        refused(&self.refuses_fills)?;
        self.fills.fetch_add(1, Ordering::Relaxed);
        match self.taken.lock().unwrap().get(&offset) {
            Some(taken) => *page = *taken,
            None => page.fill((offset / PAGE_SIZE + 1) as u8),
        }
        Ok(())
    }

    fn take(&self, offset: u64, page: &PageBytes) -> io::Result<()> {
        refused(&self.refuses_takes)?;
        self.takes.fetch_add(1, Ordering::Relaxed);
        self.taken.lock().unwrap().insert(offset, *page);
        Ok(())
    }

    fn counts(&self) -> (u64, u64) {
        (self.fills.load(Ordering::Relaxed), self.takes.load(Ordering::Relaxed))
    }

    /// The first byte of a page that was taken.
    fn byte(&self, page: u64) -> Option<u8> {
        self.taken.lock().unwrap().get(&(page * PAGE_SIZE)).map(|page| page[0])
    }
}

fn refused(switch: &AtomicBool) -> io::Result<()> {
    if switch.load(Ordering::Relaxed) { Err(io::Error::other("refused")) } else { Ok(()) }
}

/// A pager of so many pages, over a store.
fn pager(pages: u64, store: &Arc<Store>) -> Pager {
    let (filling, taking) = (Arc::clone(store), Arc::clone(store));
    Pager::new("pages", pages * PAGE_SIZE, move |offset, page| filling.fill(offset, page))
        .taking(move |offset, page| taking.take(offset, page))
}

fn watched(pages: u64, store: &Arc<Store>) -> Pager {
    let watching = Arc::clone(store);
    pager(pages, store).watching(move |offset, page| {
        assert!(page[1..4000].iter().all(|&byte| byte == page[1]));
        watching.watched.lock().unwrap().push(offset / PAGE_SIZE);
    })
}

fn system(m: &SoftwareMachine) -> Arc<System> {
    Arc::clone(m.space.look().system())
}

fn map(m: &SoftwareMachine, at: u64, memory: &PagedMemory) {
    memory.map(&m.space, page(at), RW, SHARED).unwrap();
}

fn paged(pages: u64) -> (SoftwareMachine, Arc<Store>, PagedMemory) {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(pages, &store).open(&system(&m));
    map(&m, 0, &memory);
    (m, store, memory)
}

/// Ends everything: nothing is left.
fn end(m: SoftwareMachine, memory: PagedMemory) {
    let system = system(&m);
    audit_all(&[&m.space.look()]).unwrap();
    m.space.exit().unwrap();
    drop(memory);
    system.free_retired().unwrap();
    let left = m.frames.stats();
    assert_eq!((left.pages, left.tables), (0, 0));
}

/// A machine of 2 MiB.
fn small() -> SoftwareMachine {
    SoftwareMachine::new(512, Limits::default()).unwrap()
}

#[test]
fn a_page_is_filled_when_it_is_first_touched() {
    let (m, store, memory) = paged(4);
    assert_eq!((store.counts(), memory.in_memory()), ((0, 0), 0));
    assert_eq!(m.load(page(2)).unwrap(), 3);
    assert_eq!(m.load(page(2).offset(4095)).unwrap(), 3);
    assert_eq!((store.counts(), memory.in_memory()), ((1, 0), 1));
    // The others are not, for being near.
    assert_eq!(m.space.look().mincore(page(0), 4 * PAGE_SIZE).unwrap(), [0, 0, 1, 0]);
    assert!(maps_text(&m.space.look()).contains(" pages\n"));
    end(m, memory);
}

#[test]
fn the_host_reads_and_writes_it_likewise() {
    let (m, store, memory) = paged(3);
    let mut bytes = [0; 8192];
    m.space.read(page(0).offset(100), &mut bytes).unwrap();
    assert_eq!([bytes[0], bytes[4096 - 101], bytes[4096 - 100], bytes[8191]], [1, 1, 2, 3]);
    m.space.write(page(1), &[9; 4096]).unwrap();
    memory.evict(3).unwrap();
    assert_eq!((store.byte(0), store.byte(1), store.byte(2)), (None, Some(9), None));
    end(m, memory);
}

#[test]
fn what_cannot_be_filled_is_sigbus_until_it_can() {
    let (m, store, memory) = paged(2);
    store.refuses_fills.store(true, Ordering::Relaxed);
    let at = page(1).offset(8);
    assert_eq!(fault_of(m.load(at)), Fault::NoBacking(at));
    assert_eq!(fault_of(m.space.write(at, &[1])), Fault::NoBacking(at));
    assert_eq!(m.frames.stats().pages, 0);
    store.refuses_fills.store(false, Ordering::Relaxed);
    assert_eq!(m.load(at).unwrap(), 2);
    end(m, memory);
}

#[test]
fn past_the_end_there_is_nothing() {
    let m = machine();
    let memory = Pager::new("short", PAGE_SIZE + 1, |_, page| {
        page[0] = 1;
        Ok(())
    });
    let memory = memory.open(&system(&m));
    let file = Some(memory.backing());
    let request =
        MapRequest { addr: page(0), len: 3 * PAGE_SIZE, prot: RW, flags: PRIVATE, file, offset: 0 };
    m.space.change().mmap(&request).unwrap();
    drop(request);
    assert_eq!((m.load(page(1)).unwrap(), m.load(page(1).offset(1)).unwrap()), (1, 0));
    assert_eq!(fault_of(m.load(page(2))), Fault::NoBacking(page(2)));
    end(m, memory);
}

#[test]
fn a_closure_that_panics_has_failed() {
    let m = machine();
    let panics = Arc::new(AtomicBool::new(true));
    let (fill, take) = (Arc::clone(&panics), Arc::clone(&panics));
    let memory = Pager::new("panics", PAGE_SIZE, move |_, _| {
        assert!(!fill.load(Ordering::Relaxed), "on purpose");
        Ok(())
    });
    let memory = memory.taking(move |_, page| {
        assert!(!take.load(Ordering::Relaxed), "on purpose");
        assert_eq!(page[0], 5);
        Ok(())
    });
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    assert_eq!(fault_of(m.load(page(0))), Fault::NoBacking(page(0)));
    panics.store(false, Ordering::Relaxed);
    m.store(page(0), 5).unwrap();
    panics.store(true, Ordering::Relaxed);
    assert_eq!((memory.evict(1).unwrap(), memory.sync()), (0, Err(Errno::EIO)));
    panics.store(false, Ordering::Relaxed);
    assert_eq!(memory.evict(1).unwrap(), 1);
    end(m, memory);
}

#[test]
fn what_was_written_is_taken_when_it_leaves_and_nothing_else() {
    let (m, store, memory) = paged(4);
    for at in 0..3 {
        m.load(page(at)).unwrap();
    }
    m.store(page(1), 77).unwrap();
    assert_eq!(memory.evict(2).unwrap(), 2, "the first two");
    assert_eq!((store.counts(), memory.in_memory()), ((3, 1), 1));
    assert_eq!(m.load(page(1)).unwrap(), 77);
    assert_eq!(m.load(page(1).offset(1)).unwrap(), 2);
    assert_eq!(memory.evict(9).unwrap(), 2);
    assert_eq!(store.counts(), (4, 1), "clean since it was filled again");
    end(m, memory);
}

#[test]
fn a_page_that_is_not_taken_stays() {
    let (m, store, memory) = paged(2);
    m.store(page(0), 77).unwrap();
    m.load(page(1)).unwrap();
    store.refuses_takes.store(true, Ordering::Relaxed);
    assert_eq!(memory.evict(2).unwrap(), 1);
    assert_eq!(memory.in_memory(), 1);
    assert_eq!(m.load(page(0)).unwrap(), 77);
    assert_eq!(memory.sync(), Err(Errno::EIO));
    store.refuses_takes.store(false, Ordering::Relaxed);
    assert_eq!(memory.sync(), Ok(()));
    assert_eq!(store.byte(0), Some(77));
    assert_eq!((memory.evict(2).unwrap(), store.counts()), (1, (2, 1)));
    end(m, memory);
}

#[test]
fn who_watches_sees_each_page_that_leaves() {
    let (m, store) = (machine(), Arc::default());
    let memory = watched(3, &store).open(&system(&m));
    map(&m, 0, &memory);
    m.load(page(2)).unwrap();
    m.store(page(0), 7).unwrap();
    memory.evict(3).unwrap();
    assert_eq!(*store.watched.lock().unwrap(), [0, 2]);
    store.refuses_takes.store(true, Ordering::Relaxed);
    m.store(page(1), 7).unwrap();
    memory.evict(3).unwrap();
    assert_eq!(*store.watched.lock().unwrap(), [0, 2], "it stays");
    store.refuses_takes.store(false, Ordering::Relaxed);
    end(m, memory);
    assert_eq!(*store.watched.lock().unwrap(), [0, 2, 1]);
}

#[test]
fn a_pager_that_takes_nothing_is_only_read_or_copied() {
    let m = machine();
    let memory = Pager::new("fixed", 2 * PAGE_SIZE, |_, page| {
        page[0] = 3;
        Ok(())
    });
    let memory = memory.open(&system(&m));
    assert_eq!(errno_of(memory.map(&m.space, page(0), RW, SHARED)), Errno::EACCES);
    memory.map(&m.space, page(0), Prot::READ, SHARED).unwrap();
    assert_eq!(errno_of(protect(&m, 0, 1, RW)), Errno::EACCES);
    memory.map(&m.space, page(4), RW, PRIVATE).unwrap();
    m.store(page(4), 9).unwrap();
    assert_eq!(m.load(page(5)).unwrap(), 3);
    assert_eq!(memory.evict(2).unwrap(), 2);
    assert_eq!([0, 1, 4, 5].map(|at| m.load(page(at)).unwrap()), [3, 3, 9, 3]);
    end(m, memory);
}

#[test]
fn the_oldest_leave_when_there_are_more_than_shall_be_kept() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(100, &store).keeping(4).open(&system(&m));
    map(&m, 0, &memory);
    for at in 0..100 {
        m.store(page(at), 200).unwrap();
        assert!(memory.in_memory() <= 4, "{}", memory.in_memory());
    }
    assert!((0..100).all(|at| m.load(page(at)).unwrap() == 200));
    assert_eq!(store.counts(), (200, 100));
    end(m, memory);
}

#[test]
fn msync_has_pages_taken_that_stay() {
    let (m, store, memory) = paged(4);
    m.store(page(0), 50).unwrap();
    m.store(page(3), 53).unwrap();
    let faults =
        |m: &SoftwareMachine| m.space.look().counters().faults.backed.load(Ordering::Relaxed);
    let before = faults(&m);
    m.space.msync(page(0), 2 * PAGE_SIZE, 4).unwrap();
    assert_eq!((store.byte(0), store.byte(3)), (Some(50), None));
    m.space.msync(page(0), 2 * PAGE_SIZE, 4).unwrap();
    assert_eq!(store.counts(), (2, 1), "once");
    m.store(page(0), 60).unwrap();
    assert_eq!(faults(&m), before, "its entry stayed");
    m.space.msync(page(0), 4 * PAGE_SIZE, 4).unwrap();
    assert_eq!((store.byte(0), store.byte(3)), (Some(60), Some(53)));
    m.space.msync(page(0), 4 * PAGE_SIZE, 1).unwrap();
    store.refuses_takes.store(true, Ordering::Relaxed);
    m.store(page(0), 61).unwrap();
    assert_eq!(errno_of(m.space.msync(page(0), 4 * PAGE_SIZE, 4)), Errno::EIO);
    store.refuses_takes.store(false, Ordering::Relaxed);
    m.space.msync(page(0), PAGE_SIZE, 4).unwrap();
    assert_eq!(store.byte(0), Some(61));
    end(m, memory);
}

#[test]
fn no_more_is_taken_after_the_first_page_that_is_not() {
    let (m, asked) = (machine(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&asked);
    let memory = Pager::new("refuses", 4 * PAGE_SIZE, |_, _| Ok(())).taking(move |offset, _| {
        count.fetch_add(1, Ordering::Relaxed);
        if offset == PAGE_SIZE { Err(io::Error::other("on purpose")) } else { Ok(()) }
    });
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    (0..4).for_each(|at| m.store(page(at), 1).unwrap());
    assert_eq!((memory.sync(), asked.load(Ordering::Relaxed)), (Err(Errno::EIO), 2));
    assert_eq!((memory.evict(4).unwrap(), asked.load(Ordering::Relaxed)), (3, 5));
    end(m, memory);
}

#[test]
fn madv_pageout_has_its_pages_leave() {
    let (m, store, memory) = paged(4);
    for at in 0..4 {
        m.store(page(at), 30 + at as u8).unwrap();
    }
    let advice = Advice::PageOut as i32;
    m.space.change().madvise(page(1), 2 * PAGE_SIZE, advice).unwrap();
    assert_eq!(store.counts().1, 0, "not under the lock");
    system(&m).serve_pagers().unwrap();
    assert_eq!((store.counts().1, memory.in_memory()), (2, 2));
    assert_eq!(system(&m).reclaimed().paged, 2);
    assert!(!system(&m).pagers.are_due(), "it is done");
    assert_eq!([0, 1, 2, 3].map(|at| m.load(page(at)).unwrap()), [30, 31, 32, 33]);
    end(m, memory);
}

#[test]
fn what_was_to_leave_and_was_touched_again_stays() {
    let (m, _, memory) = paged(4);
    (0..4).for_each(|at| _ = m.load(page(at)).unwrap());
    let advice = Advice::PageOut as i32;
    m.space.change().madvise(page(2), PAGE_SIZE, advice).unwrap();
    m.load(page(2)).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!(m.space.look().mincore(page(0), 4 * PAGE_SIZE).unwrap(), [1; 4]);
    end(m, memory);
}

/// Fails if it does not come to its end.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    let waited = ended.recv_timeout(Duration::from_secs(60));
    assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "it waits for itself");
    thread.join().unwrap();
}

#[test]
fn a_closure_that_touches_its_own_page_is_refused_it() {
    in_time(|| {
        let m = Arc::new(machine());
        let (filling, taking) = (Arc::downgrade(&m), Arc::downgrade(&m));
        let found = Arc::new(Mutex::new(Vec::new()));
        let (seen, seen_too) = (Arc::clone(&found), Arc::clone(&found));
        let memory = Pager::new("itself", PAGE_SIZE, move |_, _| {
            let error = filling.upgrade().unwrap().space.read(page(0), &mut [0]);
            seen.lock().unwrap().push(fault_of(error));
            Ok(())
        });
        let memory = memory.taking(move |_, _| {
            let Some(m) = taking.upgrade() else { return Ok(()) };
            seen_too.lock().unwrap().push(fault_of(m.space.write(page(0), &[1])));
            Ok(())
        });
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        m.store(page(0), 1).unwrap();
        assert_eq!(memory.evict(1).unwrap(), 1);
        assert_eq!(*found.lock().unwrap(), [Fault::NoBacking(page(0)); 2]);
        end(Arc::into_inner(m).unwrap(), memory);
    });
}

/// A pager of one page that takes it only when it is told to: says when it has begun, and waits.
fn slow_pager() -> (Pager, Receiver<()>, Sender<()>) {
    slow_pager_of(1)
}

/// The same of so many pages.
fn slow_pager_of(pages: u64) -> (Pager, Receiver<()>, Sender<()>) {
    let (may_go_on, goes_on) = channel::<()>();
    let (begun, beginning) = channel();
    let goes_on = Mutex::new(goes_on);
    let pager = Pager::new("slow", pages * PAGE_SIZE, |_, _| Ok(())).taking(move |_, _| {
        begun.send(()).unwrap();
        goes_on.lock().unwrap().recv().map_err(io::Error::other)
    });
    (pager, beginning, may_go_on)
}
