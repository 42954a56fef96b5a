//! Shared memory in the swap area: in no frame and no entry, and back for whoever comes.

use super::failure::{FIRST, Faulty};
use super::*;
use crate::backing::Sought;
use crate::phys::Contents;

/// Shared memory of so many pages that hold 100 and their number, all of them swapped out.
fn all_shared_out(pages: u64) -> SoftwareMachine {
    let m = shared(pages);
    swap_out_all(&m);
    audited(&[&m]);
    m
}

fn shared(pages: u64) -> SoftwareMachine {
    let m = swapping(1024, 100);
    map_shared(&m, 0, pages);
    fill(&m, 0..pages);
    m
}

pub(super) fn map_shared(m: &SoftwareMachine, at: u64, pages: u64) {
    let flags = MapFlags::FIXED | MapFlags::ANONYMOUS | MapType::Shared.into();
    let len = pages * PAGE_SIZE;
    let request = MapRequest { addr: page(at), len, prot: RW, flags, file: None, offset: 0 };
    m.space.change().mmap(&request).unwrap();
}

/// A memfd of so many pages that hold 100 and their number, mapped at page 0.
fn memfd(m: &SoftwareMachine, pages: u64, kind: MapType) -> Arc<SharedMemory> {
    let system = Arc::clone(m.space.look().system());
    let memory = SharedMemory::memfd(&system, "test").swappable(&system);
    memory.truncate(pages * PAGE_SIZE, &system).unwrap();
    for i in 0..pages {
        let space = m.space.look();
        memory.write_at(i * PAGE_SIZE, &[100 + i as u8], &system, &*space).unwrap();
    }
    map_file(m, 0, pages, kind, &memory);
    memory
}

fn resident_shared(m: &SoftwareMachine) -> u64 {
    m.space.look().resident().of(PageClass::Shared)
}

#[test]
fn it_takes_no_memory_and_comes_back_as_it_was() {
    let m = all_shared_out(4);
    assert_eq!((resident_shared(&m), taken(&m), moved(&m)), (0, (4, 0), (4, 0)));
    assert_eq!((m.frames.stats().pages, mincore(&m, 4)), (0, vec![0; 4]));
    assert_eq!(bytes(&m, 0..4), [100, 101, 102, 103]);
    assert_eq!((resident_shared(&m), taken(&m), moved(&m)), (4, (0, 0), (4, 4)));
    assert_eq!(m.space.look().system().committed(), 4);
    end(vec![m], vec![]);
}

#[test]
fn pages_that_are_used_stay_longest() {
    let m = shared(8);
    let system = Arc::clone(m.space.look().system());
    // All are active; then none is; one is used since.
    for _ in 0..2 {
        fill(&m, 0..8);
        system.swap_out_old().unwrap();
    }
    assert_eq!(taken(&m).0, 8, "when there is nothing else");
    assert_eq!(bytes(&m, 0..8), (100..108).collect::<Vec<u8>>());
    end(vec![m], vec![]);
}

#[test]
fn it_leaves_all_who_show_it() {
    let m = shared(4);
    let child = child_of(&m);
    assert_eq!(bytes(&child, 0..4), [100, 101, 102, 103]);
    swap_out_all(&m);
    audited(&[&m, &child]);
    assert_eq!((resident_shared(&m), resident_shared(&child), taken(&m)), (0, 0, (4, 0)));
    child.store(page(1), 9).unwrap();
    assert_eq!((m.load(page(1)).unwrap(), moved(&m)), (9, (4, 1)));
    swap_out_all(&m);
    assert_eq!(bytes(&m, 0..4), [100, 9, 102, 103]);
    end(vec![m, child], vec![]);
}

#[test]
fn a_private_copy_is_not_the_objects() {
    let m = swapping(1024, 100);
    let memory = memfd(&m, 4, MapType::Private);
    m.store(page(1), 9).unwrap();
    m.load(page(0)).unwrap();
    let taken_before = taken(&m).0;
    swap_out_all(&m);
    audited(&[&m]);
    assert_eq!((taken(&m).0 - taken_before, counts(&m)), (5, (0, 1)));
    assert_eq!(usage(&m).swap, 4 * PAGE_SIZE, "three pages have no copy, and the copy");
    assert_eq!(bytes(&m, 0..4), [100, 9, 102, 103]);
    let mut byte = [0];
    assert_eq!((memory.read_at(PAGE_SIZE, &mut byte), byte), (Ok(1), [101]));
    drop(memory);
    end(vec![m], vec![]);
}

#[test]
fn as_a_file_it_is_the_same() {
    let m = swapping(1024, 100);
    let system = Arc::clone(m.space.look().system());
    let memory = memfd(&m, 8, MapType::Shared);
    unmap(&m, 0, 8).unwrap();
    memory.truncate(10 * PAGE_SIZE, &system).unwrap();
    swap_out_all(&m);
    assert_eq!((taken(&m), memory.present_pages(), memory.swapped_pages()), ((8, 0), 8, 8));
    let mut across = [0; 4];
    assert_eq!(memory.read_at(2 * PAGE_SIZE - 2, &mut across), Ok(4));
    assert_eq!((across, taken(&m)), ([0, 0, 102, 0], (8, 0)));
    assert_eq!(memory.seek(5, Sought::Hole), Some(8 * PAGE_SIZE));
    assert_eq!(memory.seek(5, Sought::Data), Some(5));
    // A page in a frame between two that are not.
    let space = m.space.look();
    assert_eq!(memory.write_at(3 * PAGE_SIZE + 1, &[7], &system, &*space).unwrap(), 1);
    drop(space);
    assert_eq!((taken(&m), memory.present_pages()), ((7, 0), 8));
    assert_eq!(memory.seek(0, Sought::Hole), Some(8 * PAGE_SIZE));
    // Of the first page a part, of the last one a part, those between whole.
    memory.punch_bytes(1..6 * PAGE_SIZE + 1, &system).unwrap();
    assert_eq!((taken(&m), memory.present_pages()), ((3, 0), 3));
    let at = |page: u64| {
        let mut two = [1; 2];
        memory.read_at(page * PAGE_SIZE, &mut two).map(|_| two)
    };
    assert_eq!([0, 3, 6, 7].map(at), [Ok([100, 0]), Ok([0, 0]), Ok([0, 0]), Ok([107, 0])]);
    assert_eq!(memory.seek(PAGE_SIZE, Sought::Data), Some(6 * PAGE_SIZE));
    // The end in the middle of a page: what is after it is gone when it grows again.
    memory.truncate(7 * PAGE_SIZE, &system).unwrap();
    assert_eq!(taken(&m), (2, 0));
    memory.truncate(0, &system).unwrap();
    assert_eq!((taken(&m), system.committed()), ((0, 0), 0));
    drop(memory);
    end(vec![m], vec![]);
}

#[test]
fn the_rest_of_the_last_page_is_cleared_where_it_is() {
    let m = swapping(1024, 100);
    let system = Arc::clone(m.space.look().system());
    let memory = memfd(&m, 1, MapType::Shared);
    memory.write_at(9, &[5], &system, &*m.space.look()).unwrap();
    swap_out_all(&m);
    memory.truncate(9, &system).unwrap();
    memory.truncate(PAGE_SIZE, &system).unwrap();
    assert_eq!(taken(&m), (1, 0));
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(0).offset(9)).unwrap()), (100, 0));
    drop(memory);
    end(vec![m], vec![]);
}

#[test]
fn with_the_object_its_places_go() {
    let m = all_shared_out(4);
    let child = child_of(&m);
    unmap(&m, 0, 4).unwrap();
    assert_eq!(taken(&m), (4, 0), "the child has them");
    child.space.exit().unwrap();
    assert_eq!(taken(&m), (0, 0));
    assert_eq!(m.space.look().system().swap().unwrap().objects.count(), 0);
    end(vec![m], vec![]);
}

#[test]
fn locked_pages_stay() {
    let m = shared(4);
    let lock = |at: u64, pages: u64| {
        m.space.change().mlock2(page(at), pages * PAGE_SIZE, 0).unwrap();
    };
    lock(1, 2);
    // One that comes when it is locked already.
    map_shared(&m, 10, 1);
    lock(10, 1);
    m.store(page(10), 5).unwrap();
    swap_out_all(&m);
    audited(&[&m]);
    assert_eq!((taken(&m), resident_shared(&m)), ((2, 0), 3));
    // The child's are not locked, but the page is one.
    let child = child_of(&m);
    bytes(&child, 0..4);
    swap_out_all(&m);
    audited(&[&m, &child]);
    assert_eq!((taken(&m), resident_shared(&m)), ((2, 0), 3));
    m.space.change().munlockall();
    audited(&[&m, &child]);
    swap_out_all(&m);
    assert_eq!((taken(&m), resident_shared(&m)), ((5, 0), 0));
    assert_eq!((bytes(&m, 0..4), m.load(page(10)).unwrap()), (vec![100, 101, 102, 103], 5));
    end(vec![m, child], vec![]);
}

#[test]
fn programs_can_have_it_out_and_in() {
    let m = shared(4);
    page_out(&m, 1, 2);
    assert_eq!((taken(&m), mincore(&m, 4)), ((2, 0), vec![1, 0, 0, 1]));
    assert_eq!((usage(&m).swap, usage(&m).swap_pss.bytes()), (2 * PAGE_SIZE, 0));
    assert_eq!(status(&m.space.look()).vm_swap, 0);
    advise(&m, 0, 4, Advice::WillNeed);
    assert_eq!((taken(&m), mincore(&m, 4), resident_shared(&m)), ((0, 0), vec![1; 4], 2));
    // Not what another one shows, too.
    let child = child_of(&m);
    bytes(&m, 0..4);
    bytes(&child, 0..4);
    page_out(&m, 0, 4);
    assert_eq!(taken(&m), (0, 0));
    unmap(&child, 0, 4).unwrap();
    page_out(&m, 0, 4);
    assert_eq!(taken(&m), (4, 0));
    audited(&[&m, &child]);
    end(vec![m, child], vec![]);
}

#[test]
fn memory_is_made_of_it_when_there_is_none() {
    let m = shared(40);
    let taken_frames = use_up(&m, 0);
    map_at(&m, 100, 20, RW).unwrap();
    for i in 100..120 {
        m.store(page(i), 9).unwrap();
    }
    assert!(taken(&m).0 >= 19);
    assert_eq!(bytes(&m, 0..40), (100..140).collect::<Vec<u8>>());
    assert_eq!(bytes(&m, 100..120), [9; 20]);
    end(vec![m], taken_frames);
}

#[test]
fn a_page_that_somebody_else_has_stays() {
    let m = shared(3);
    let frame = m.space.look().entry_at(page(1)).frame().unwrap();
    m.frames.get(frame);
    swap_out_all(&m);
    assert_eq!(taken(&m), (2, 0));
    m.frames.put(frame).unwrap();
    swap_out_all(&m);
    assert_eq!((taken(&m), bytes(&m, 0..3)), ((3, 0), vec![100, 101, 102]));
    end(vec![m], vec![]);
}

#[test]
fn what_fails_leaves_it_where_it_is() {
    let store = Faulty::new();
    let m = stored(1024, Box::new(Arc::clone(&store)));
    let system = Arc::clone(m.space.look().system());
    let memory = memfd(&m, 4, MapType::Shared);
    store.writes.refuse_from(FIRST);
    swap_out_all(&m);
    assert_eq!((taken(&m), bytes(&m, 0..4)), ((0, 0), vec![100, 101, 102, 103]));
    store.writes.stop();
    swap_out_all(&m);
    store.reads.refuse_from(FIRST);
    assert_eq!(fault_of(m.load(page(2))), Fault::NoBacking(page(2)));
    assert_eq!(memory.read_at(0, &mut [0]), Err(Errno::EIO));
    assert_eq!(errno_of(memory.truncate(5, &system)), Errno::EIO);
    memory.truncate(4 * PAGE_SIZE, &system).unwrap();
    advise(&m, 0, 4, Advice::WillNeed);
    assert_eq!((taken(&m), m.frames.stats().pages), ((4, 0), 0));
    store.reads.stop();
    // No frame for it, and then one.
    let all = use_up(&m, 0);
    assert_eq!(fault_of(m.load(page(2))), Fault::OutOfMemory(page(2)));
    all.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    assert_eq!(bytes(&m, 0..4), [100, 101, 102, 103]);
    drop(memory);
    end(vec![m], vec![]);
}

#[test]
fn a_full_area_keeps_the_rest_in_memory() {
    let m = swapping(1024, 3);
    map_shared(&m, 0, 5);
    fill(&m, 0..5);
    swap_out_all(&m);
    assert_eq!((taken(&m), m.frames.stats().pages), ((3, 0), 2));
    let frame = m.frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    m.frames.put(frame).unwrap();
    assert_eq!(bytes(&m, 0..5), [100, 101, 102, 103, 104]);
    end(vec![m], vec![]);
}

#[test]
fn what_is_swapped_out_is_flushed_though_nothing_says_that_it_was_accessed() {
    let m = shared(3);
    advise(&m, 0, 3, Advice::Cold);
    let system = Arc::clone(m.space.look().system());
    while system.swap_out_old().unwrap() == 0 {}
    // Whoever has cleared the accessed bit may not have flushed yet.
    let flushed: u64 = m.sink.last().leaves.iter().map(|run| run.count).sum();
    assert_eq!((taken(&m), flushed), ((3, 0), 3));
    end(vec![m], vec![]);
}

#[test]
fn a_locked_copy_does_not_keep_the_objects_page() {
    let m = swapping(1024, 100);
    let memory = memfd(&m, 1, MapType::Private);
    m.store(page(0), 9).unwrap();
    m.space.change().mlock2(page(0), PAGE_SIZE, 0).unwrap();
    swap_out_all(&m);
    assert_eq!((taken(&m), memory.swapped_pages(), counts(&m)), ((1, 0), 1, (1, 0)));
    drop(memory);
    end(vec![m], vec![]);
}
