//! Memory of a pager: its pages come and go, and nothing of them is lost.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
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
fn who_goes_on_page_by_page_gets_several_at_once() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(100, &store).ahead(16).open(&system(&m));
    map(&m, 0, &memory);
    for at in [50, 3, 70] {
        m.load(page(at)).unwrap();
    }
    assert_eq!(memory.in_memory(), 3, "one each for who jumps about");
    m.load(page(71)).unwrap();
    assert_eq!(memory.in_memory(), 3 + 16);
    let backed = |m: &SoftwareMachine| {
        let space = m.space.look();
        space.counters().faults.backed.load(Ordering::Relaxed)
    };
    let before = backed(&m);
    for at in 71..100 {
        assert_eq!(m.load(page(at)).unwrap(), at as u8 + 1);
    }
    assert_eq!((memory.in_memory(), store.counts().0), (2 + 30, 32), "and none past the end");
    assert!(backed(&m) - before < 5, "{}", backed(&m) - before);
    end(m, memory);
}

#[test]
fn pages_come_ahead_also_where_memory_is_short() {
    let (m, store) = (small(), Arc::default());
    let memory = pager(2000, &store).ahead(64).open(&system(&m));
    map(&m, 0, &memory);
    for at in 0..2000 {
        m.store(page(at), (at % 250) as u8).unwrap();
    }
    assert!((0..2000).all(|at| m.load(page(at)).unwrap() == (at % 250) as u8));
    end(m, memory);
}

#[test]
fn what_was_brought_stays_until_it_is_used() {
    let (m, _, memory) = paged(2);
    let brought = memory.backing().bring(1, &system(&m)).unwrap();
    assert!(brought.is_some());
    assert_eq!((memory.evict(2).unwrap(), memory.in_memory()), (0, 1));
    drop(brought);
    assert_eq!(memory.evict(2).unwrap(), 1);
    end(m, memory);
}

#[test]
fn who_asks_for_pages_to_be_taken_waits_for_those_that_another_takes() {
    let m = machine();
    let (may_go_on, goes_on) = channel::<()>();
    let (begun, beginning) = channel();
    let goes_on = Mutex::new(goes_on);
    let memory = Pager::new("slow", PAGE_SIZE, |_, _| Ok(())).taking(move |_, _| {
        begun.send(()).unwrap();
        goes_on.lock().unwrap().recv().map_err(io::Error::other)
    });
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    m.store(page(0), 1).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| memory.evict(1).unwrap());
        beginning.recv().unwrap();
        let synced = scope.spawn(|| memory.sync().unwrap());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!synced.is_finished());
        may_go_on.send(()).unwrap();
    });
    assert_eq!(memory.in_memory(), 0);
    end(m, memory);
}

/// A machine of 2 MiB.
fn small() -> SoftwareMachine {
    SoftwareMachine::new(512, Limits::default()).unwrap()
}

#[test]
fn more_than_there_is_memory_is_written_and_read() {
    for keep_watch in [false, true] {
        let (m, store) = (small(), Arc::default());
        let memory = if keep_watch { watched(2000, &store) } else { pager(2000, &store) };
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        for at in 0..2000 {
            m.store(page(at), (at % 251) as u8).unwrap();
        }
        for at in (0..2000).rev() {
            assert_eq!(m.load(page(at)).unwrap(), (at % 251) as u8, "{at}");
        }
        assert!(system(&m).reclaimed().paged > 3000, "{:?}", system(&m).reclaimed());
        end(m, memory);
    }
}

#[test]
fn other_memory_gets_its_frames() {
    for written in [false, true] {
        let (m, store) = (small(), Arc::default());
        let memory = pager(450, &store).open(&system(&m));
        map(&m, 0, &memory);
        map_at(&m, 1024, 400, RW).unwrap();
        for at in 0..450 {
            if written { m.store(page(at), 1).unwrap() } else { _ = m.load(page(at)).unwrap() }
        }
        for at in 1024..1424 {
            m.store(page(at), 7).unwrap();
        }
        assert!((1024..1424).all(|at| m.load(page(at)).unwrap() == 7));
        assert!(memory.in_memory() < 112, "{}", memory.in_memory());
        end(m, memory);
        assert_eq!(store.counts().1, if written { 450 } else { 0 });
    }
}

/// Memory of a pager that has all frames there are; of each second page it is known by its entry alone that it was
/// written.
fn used_up(memory: Pager) -> (SoftwareMachine, PagedMemory) {
    let m = small();
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    for at in 0..2000 {
        m.load(page(at)).unwrap();
        if at % 2 == 0 {
            m.store(page(at), 1).unwrap();
        }
    }
    while m.frames.stats().pages + m.frames.stats().tables < 500 {
        m.load(page(memory.in_memory() % 2000)).unwrap();
    }
    (m, memory)
}

#[test]
fn who_has_locks_gets_the_pages_that_nobody_has_written() {
    let store = Arc::default();
    let (m, memory) = used_up(pager(2000, &store));
    let (takes, pages) = (store.counts().1, memory.in_memory());
    // Under the lock of its space.
    map_at(&m, 4096, 4096, RW).unwrap();
    for at in (4096..8192).step_by(512) {
        m.space.change().madvise(page(at), PAGE_SIZE, Advice::PopulateWrite as i32).unwrap();
    }
    assert_eq!(store.counts().1, takes, "no closure was called");
    assert!(memory.in_memory() < pages);
    assert!(
        (0..2000)
            .all(|at| m.load(page(at)).unwrap() == if at % 2 == 0 { 1 } else { (at + 1) as u8 })
    );
    end(m, memory);
}

#[test]
fn who_has_locks_gets_no_page_that_is_watched() {
    let store = Arc::default();
    let (m, memory) = used_up(watched(2000, &store));
    let seen = store.watched.lock().unwrap().len();
    map_at(&m, 4096, 512, RW).unwrap();
    let all = 512 * PAGE_SIZE;
    let populated = m.space.change().madvise(page(4096), all, Advice::PopulateWrite as i32);
    assert_eq!(errno_of(populated), Errno::ENOMEM);
    assert_eq!(store.watched.lock().unwrap().len(), seen);
    // Who has none gets them.
    (4096..4196).for_each(|at| m.store(page(at), 1).unwrap());
    assert!(store.watched.lock().unwrap().len() > seen);
    end(m, memory);
}

#[test]
fn who_finds_no_page_waits_for_those_that_another_has_taken() {
    let m = small();
    let (may_go_on, goes_on) = channel::<()>();
    let (begun, beginning) = channel();
    let goes_on = Mutex::new(goes_on);
    let memory = Pager::new("slow", PAGE_SIZE, |_, _| Ok(())).taking(move |_, _| {
        begun.send(()).unwrap();
        goes_on.lock().unwrap().recv().map_err(io::Error::other)
    });
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    m.store(page(0), 1).unwrap();
    map_at(&m, 1024, 1, RW).unwrap();
    map_at(&m, 1025, 1, RW).unwrap();
    // The page table, too.
    m.store(page(1024), 1).unwrap();
    let all = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(all).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| memory.evict(1).unwrap());
        beginning.recv().unwrap();
        let stored = scope.spawn(|| m.store(page(1025), 1));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stored.is_finished());
        may_go_on.send(()).unwrap();
        stored.join().unwrap().unwrap();
    });
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    end(m, memory);
}

#[test]
fn no_closure_is_called_within_another() {
    in_time(|| {
        let m = Arc::new(small());
        map_at(&m, 3000, 2000, RW).unwrap();
        let taking = Arc::downgrade(&m);
        let inside = AtomicU64::new(0);
        let refused = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&refused);
        let memory = Pager::new("nested", 2000 * PAGE_SIZE, |_, _| Ok(()));
        let memory = memory.taking(move |offset, _| {
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
            // Needs a frame, and there is none but those that are being taken.
            let written =
                taking.upgrade().map(|m| m.space.write(page(3000 + offset / PAGE_SIZE), &[1]));
            inside.fetch_sub(1, Ordering::Relaxed);
            if let Some(Err(error)) = written {
                assert!(matches!(fault_of::<()>(Err(error)), Fault::OutOfMemory(_)));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        // In the end all of memory is the program's own.
        let stored = (0..2000).take_while(|&at| m.store(page(at), 1).is_ok()).count();
        assert!(stored > 400 && refused.load(Ordering::Relaxed) > 0);
        end(Arc::into_inner(m).unwrap(), memory);
    });
}

#[test]
fn where_nothing_can_be_taken_memory_is_at_its_end() {
    let (m, store) = (small(), Arc::default());
    let memory = pager(2000, &store).open(&system(&m));
    map(&m, 0, &memory);
    store.refuses_takes.store(true, Ordering::Relaxed);
    let failed = (0..2000).find_map(|at| Some((at, m.store(page(at), 1).err()?)));
    let (at, error) = failed.unwrap();
    assert!(at > 400, "{at}");
    assert_eq!(fault_of::<()>(Err(error)), Fault::OutOfMemory(page(at)));
    store.refuses_takes.store(false, Ordering::Relaxed);
    m.store(page(at), 1).unwrap();
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
fn what_nobody_maps_any_more_is_taken() {
    let (m, store, memory) = paged(4);
    m.store(page(0), 50).unwrap();
    m.store(page(1), 51).unwrap();
    unmap(&m, 0, 1).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!(store.counts().1, 0, "some is mapped");
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    unmap(&m, 1, 3).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!(store.counts().1, 0, "by the child");
    SharedSpace::new(child).exit().unwrap();
    assert_eq!((store.byte(0), store.byte(1)), (Some(50), Some(51)));
    assert_eq!(memory.in_memory(), 2);
    end(m, memory);
    assert_eq!(store.counts(), (2, 2));
}

#[test]
fn a_process_that_ends_has_its_pages_taken() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(2, &store).open(&system(&m));
    let user = SpaceUser::new(AddressSpace::new(system(&m), Limits::default()).unwrap());
    memory.map(&user, page(0), RW, SHARED).unwrap();
    user.write(page(1), &[8]).unwrap();
    user.put().unwrap();
    assert_eq!(store.byte(1), Some(8));
    end(m, memory);
}

#[test]
fn the_host_may_let_go_of_it_first() {
    let (m, store, memory) = paged(2);
    drop(memory);
    m.store(page(0), 50).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 2);
    assert_eq!(Arc::strong_count(&store), 3);
    unmap(&m, 0, 2).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!((store.byte(0), Arc::strong_count(&store)), (Some(50), 1));
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn several_spaces_show_one_page() {
    let (m, store, memory) = paged(2);
    m.store(page(0), 40).unwrap();
    let child = SharedSpace::new(m.space.change().fork(Vcpus::Stopped).unwrap());
    memory.map(&m.space, page(10), RW, PRIVATE).unwrap();
    child.write(page(0), &[41]).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(10)).unwrap()), (41, 41));
    m.store(page(10), 1).unwrap();
    audit_all(&[&m.space.look(), &child.look()]).unwrap();
    assert_eq!(memory.evict(1).unwrap(), 1);
    audit_all(&[&m.space.look(), &child.look()]).unwrap();
    assert_eq!(store.byte(0), Some(41));
    assert_eq!([0, 10].map(|at| m.load(page(at)).unwrap()), [41, 1]);
    child.exit().unwrap();
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
    assert_eq!([0, 1, 2, 3].map(|at| m.load(page(at)).unwrap()), [30, 31, 32, 33]);
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
fn closures_may_use_the_memory_of_the_program_that_waits() {
    in_time(|| {
        let m = Arc::new(small());
        map_at(&m, 3000, 4, RW).unwrap();
        // Memory that they need is not made by closures.
        (3000..3003).for_each(|at| m.store(page(at), 100).unwrap());
        let (filling, taking) = (Arc::downgrade(&m), Arc::downgrade(&m));
        let memory = Pager::new("reads", 2000 * PAGE_SIZE, move |offset, bytes| {
            let m = filling.upgrade().unwrap();
            let mut byte = [0];
            m.space.read(page(3000), &mut byte).unwrap();
            m.space.write(page(3001), &offset.to_le_bytes()).unwrap();
            // Also changes: no lock is held.
            map_at(&m, 3010, 1, RW).unwrap();
            unmap(&m, 3010, 1).unwrap();
            bytes[0] = byte[0];
            Ok(())
        });
        let memory = memory.taking(move |offset, bytes| {
            if let Some(m) = taking.upgrade() {
                m.space.write(page(3002), &offset.to_le_bytes()).unwrap();
                map_at(&m, 3011, 1, RW).unwrap();
                unmap(&m, 3011, 1).unwrap();
            }
            assert_eq!(bytes[1], 7);
            Ok(())
        });
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        for at in 0..2000 {
            assert_eq!(m.load(page(at)).unwrap(), 100);
            m.store(page(at).offset(1), 7).unwrap();
        }
        m.space.msync(page(0), 2000 * PAGE_SIZE, 4).unwrap();
        let mut last = [0; 8];
        m.space.read(page(3002), &mut last).unwrap();
        assert_eq!(u64::from_le_bytes(last), 1999 * PAGE_SIZE);
        end(Arc::into_inner(m).unwrap(), memory);
    });
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

#[test]
fn what_has_to_be_filled_needs_frames() {
    let (m, store, memory) = paged(4);
    m.load(page(3)).unwrap();
    for nth in 1..3 {
        m.frames.failures().refuse_from(NonZeroU64::new(nth).unwrap());
        let failed = m.load(page(0));
        m.frames.failures().stop();
        if nth == 1 {
            assert_eq!(fault_of(failed), Fault::OutOfMemory(page(0)));
            assert_eq!(memory.in_memory(), 0, "the other one was given up for it, in vain");
        } else {
            assert_eq!(failed.unwrap(), 1);
        }
        audit_all(&[&m.space.look()]).unwrap();
    }
    assert_eq!(store.counts().1, 0);
    end(m, memory);
}

#[test]
fn a_flush_that_fails_leaves_nobody_waiting() {
    use crate::error::Broken;
    use crate::paging::{FlushRequest, FlushSink, KernelHalf};

    #[derive(Debug, Default)]
    struct Fails(AtomicBool, CountingSink);
    impl FlushSink for Fails {
        fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
            match self.0.load(Ordering::Relaxed) {
                true => Err(Broken::Invariant("on purpose".to_owned())),
                false => self.1.flush(request),
            }
        }
    }
    let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(4096))));
    let sink = Arc::new(Fails::default());
    let system =
        System::new(Arc::clone(&frames), Box::new(Arc::clone(&sink)), KernelHalf::default());
    let system = Arc::new(system);
    let space =
        SharedSpace::new(AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap());
    let store = Arc::default();
    let memory = pager(2, &store).open(&system);
    memory.map(&space, page(0), RW, SHARED).unwrap();
    space.write(page(0), &[5]).unwrap();
    sink.0.store(true, Ordering::Relaxed);
    assert!(memory.evict(1).is_err());
    assert_eq!(store.counts().1, 0, "its bytes are not final");
    assert_eq!(memory.in_memory(), 1);
    sink.0.store(false, Ordering::Relaxed);
    let mut byte = [0];
    space.read(page(0), &mut byte).unwrap();
    assert_eq!(byte, [5]);
}

/// Random acts on shared memory of a pager that now and then fails, against an array.
#[test]
fn nothing_is_lost_whatever_comes() {
    const PAGES: u64 = 40;
    for seed in 1..=20_u64 {
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let (m, store) = (machine(), Arc::<Store>::default());
        let mut memory = watched(PAGES, &store);
        if seed % 2 == 0 {
            memory = memory.keeping(7);
        }
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        let mut model: Vec<u8> = (0..PAGES).map(|at| at as u8 + 1).collect();
        let mut children: Vec<SharedSpace> = Vec::new();
        for _ in 0..600 {
            let (at, byte) = (random(PAGES), random(256) as u8);
            store.refuses_takes.store(random(4) == 0, Ordering::Relaxed);
            match random(12) {
                0..4 => {
                    m.store(page(at), byte).unwrap();
                    model[at as usize] = byte;
                }
                4..7 => assert_eq!(m.load(page(at)).unwrap(), model[at as usize], "{seed}"),
                7 => drop(memory.evict(random(8)).unwrap()),
                8 => drop(memory.sync()),
                9 => {
                    let advice = [Advice::PageOut, Advice::DontNeed, Advice::Cold];
                    let advice = advice[random(3) as usize] as i32;
                    m.space.change().madvise(page(at), PAGE_SIZE, advice).unwrap();
                    system(&m).serve_pagers().unwrap();
                }
                10 => {
                    unmap(&m, 0, PAGES).unwrap();
                    system(&m).serve_pagers().unwrap();
                    map(&m, 0, &memory);
                }
                _ => match children.pop() {
                    Some(child) => child.exit().unwrap(),
                    None => {
                        let child = m.space.change().fork(Vcpus::Stopped).unwrap();
                        let child = SharedSpace::new(child);
                        child.write(page(at), &[byte]).unwrap();
                        model[at as usize] = byte;
                        children.push(child);
                    }
                },
            }
            let looked: Vec<_> = children.iter().map(SharedSpace::look).collect();
            let own = m.space.look();
            let all: Vec<&AddressSpace> =
                [&*own].into_iter().chain(looked.iter().map(|space| &**space)).collect();
            audit_all(&all).unwrap();
        }
        store.refuses_takes.store(false, Ordering::Relaxed);
        children.into_iter().for_each(|child| child.exit().unwrap());
        end(m, memory);
        for (at, &byte) in (0..).zip(&model) {
            assert_eq!(store.byte(at).unwrap_or((at + 1) as u8), byte, "seed {seed}, page {at}");
        }
    }
}

#[test]
fn threads_count_while_pages_come_and_go() {
    const PAGES: u64 = 8;
    let (m, store) = (small(), Arc::<Store>::default());
    // All zeros, and slow.
    let (filling, taking) = (Arc::clone(&store), Arc::clone(&store));
    let memory = Pager::new("counters", PAGES * PAGE_SIZE, move |offset, page| {
        std::thread::yield_now();
        if let Some(taken) = filling.taken.lock().unwrap().get(&offset) {
            *page = *taken;
        }
        Ok(())
    });
    let memory = memory.taking(move |offset, page| taking.take(offset, page)).keeping(3);
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    // Each thread has a byte of its own in each page.
    std::thread::scope(|scope| {
        for mine in 0..3_u64 {
            let (m, memory) = (&m, &memory);
            scope.spawn(move || {
                for round in 0..300_u64 {
                    let at = page((round * 5 + mine) % PAGES).offset(mine * 8);
                    let mut count = [0];
                    m.space.read(at, &mut count).unwrap();
                    m.space.write(at, &[count[0] + 1]).unwrap();
                    if round % 17 == mine {
                        memory.sync().unwrap();
                    }
                    if round % 13 == mine {
                        memory.evict(2).unwrap();
                    }
                }
            });
        }
    });
    let mut sum = 0;
    for at in 0..PAGES {
        for mine in 0..3 {
            sum += u64::from(m.load(page(at).offset(mine * 8)).unwrap());
        }
    }
    assert_eq!(sum, 900);
    end(m, memory);
}

#[test]
fn a_frame_that_others_hold_stays() {
    let (m, _, memory) = paged(2);
    m.store(page(0), 1).unwrap();
    // As one who has unmapped it and not flushed yet: his vCPUs may still write.
    let frame = m.space.look().table().walk(page(0), AccessKind::Read).unwrap().frame();
    m.frames.get(frame);
    assert_eq!((memory.evict(1).unwrap(), memory.in_memory()), (0, 1));
    m.frames.put(frame).unwrap();
    assert_eq!(memory.evict(1).unwrap(), 1);
    let _ = m.frames.alloc(FrameKind::Anonymous, Contents::Any).map(|frame| m.frames.put(frame));
    end(m, memory);
}
