//! Huge pages of shared memory: what is seen of them is compared with Linux in the differential test; here is what is
//! not seen, and what becomes of them where the host has nothing to compare: in the swap area, between nodes.

use super::*;
use crate::addr::{PageRange, TABLE_SPAN};
use crate::backing::SharedMemory;
use crate::paging::{Below, Entry};
use crate::phys::BLOCK_FRAMES;
use crate::swap::MemoryStore;

const HUGE: u64 = BLOCK_FRAMES;

fn map_shared(m: &SoftwareMachine, pages: u64) {
    let flags = MapFlags::FIXED | MapFlags::ANONYMOUS | MapType::Shared.into();
    let len = pages * PAGE_SIZE;
    let request = MapRequest { addr: page(0), len, prot: RW, flags, file: None, offset: 0 };
    m.space.change().mmap(&request).unwrap();
}

/// Every third page of the first of two tables.
fn written(m: &SoftwareMachine) {
    map_shared(m, 2 * HUGE);
    for i in (0..HUGE).step_by(3) {
        m.store(page(i), 7).unwrap();
    }
}

fn check(m: &SoftwareMachine) {
    for i in 0..HUGE {
        assert_eq!(m.load(page(i)).unwrap(), if i % 3 == 0 { 7 } else { 0 }, "page {i}");
    }
}

fn collapse(m: &SoftwareMachine) -> CallResult<()> {
    m.space.change().madvise(page(0), HUGE * PAGE_SIZE, Advice::Collapse as i32)
}

fn is_huge(m: &SoftwareMachine) -> bool {
    m.space.look().table().large(page(0)).is_some()
}

fn shared(m: &SoftwareMachine) -> u64 {
    m.space.look().resident().of(PageClass::Shared)
}

#[test]
fn the_small_pages_are_given_back_and_everybody_has_the_huge_one() {
    let m = machine();
    written(&m);
    let child = child_of(&m);
    check(&child);
    let before = m.sink.flushes();
    collapse(&m).unwrap();
    // Of what is shown, and of the table.
    assert_eq!(m.sink.flushes(), before + 2);
    assert_eq!((is_huge(&m), is_huge(&child), shared(&child)), (true, false, 0));
    assert_eq!(m.frames.stats().pages, HUGE);
    // Its table held nothing: it goes.
    child.store(page(3), 7).unwrap();
    assert!(is_huge(&child));
    audited(&[&m, &child]);
    m.space.exit().unwrap();
    check(&child);
    child.space.exit().unwrap();
}

#[test]
fn a_part_of_it_is_given_up_and_the_rest_stays_in_place() {
    let m = machine();
    written(&m);
    collapse(&m).unwrap();
    let frame = |at| m.space.look().entry_at(page(at)).frame().unwrap();
    let old = frame(9);
    let advice = Advice::Remove as i32;
    m.space.change().madvise(page(100), 20 * PAGE_SIZE, advice).unwrap();
    assert_eq!((is_huge(&m), m.frames.stats().pages, shared(&m)), (false, HUGE - 20, 0));
    // A quarter of it is one still.
    m.store(page(9), 7).unwrap();
    assert_eq!((frame(9), shared(&m)), (old, 64));
    audited(&[&m]);
    assert_eq!(m.load(page(105)).unwrap(), 0);
    m.space.exit().unwrap();
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn a_huge_page_is_promised_as_its_pages_are() {
    let m = machine();
    let system = Arc::clone(m.space.look().system());
    let memory = Arc::new(SharedMemory::memfd(&system, "test"));
    memory.truncate(2 * HUGE * PAGE_SIZE, &system).unwrap();
    map_file(&m, 0, 2 * HUGE, MapType::Shared, &memory);
    m.store(page(5), 7).unwrap();
    assert_eq!(memory.promised_pages(), 1);
    collapse(&m).unwrap();
    assert_eq!((memory.promised_pages(), memory.present_pages()), (HUGE, HUGE));
    memory.truncate(100 * PAGE_SIZE, &system).unwrap();
    assert_eq!((memory.promised_pages(), memory.present_pages()), (100, 100));
    audited(&[&m]);
    m.space.exit().unwrap();
}

#[test]
fn it_is_swapped_out_page_by_page() {
    let store = Box::new(MemoryStore::new(2048));
    let m = SoftwareMachine::prepared(4096, Limits::default(), |system| system.set_swap(store));
    let m = m.unwrap();
    written(&m);
    let child = child_of(&m);
    collapse(&m).unwrap();
    m.load(page(0)).unwrap();
    child.load(page(0)).unwrap();
    assert!(is_huge(&m) && is_huge(&child));
    let system = Arc::clone(m.space.look().system());
    while system.swap_out_old().unwrap() > 0 {}
    audited(&[&m, &child]);
    assert_eq!((shared(&m), shared(&child), m.frames.stats().pages), (0, 0, 0));
    check(&m);
    check(&child);
    // And from there back into one.
    while system.swap_out_old().unwrap() > 0 {}
    collapse(&child).unwrap();
    assert!(is_huge(&child));
    check(&m);
    audited(&[&m, &child]);
    m.space.exit().unwrap();
    child.space.exit().unwrap();
}

#[test]
fn it_goes_to_another_node_page_by_page() {
    const BIND: u64 = 2;
    const MOVE: u64 = 2;
    let m = SoftwareMachine::with_nodes(8192, 2, Limits::default()).unwrap();
    written(&m);
    let child = child_of(&m);
    collapse(&m).unwrap();
    child.load(page(0)).unwrap();
    for nodes in [1, 2, 1] {
        // What others have moves only if all of it may.
        let len = HUGE * PAGE_SIZE;
        m.space.change().mbind(page(0), len, BIND, nodes, 2 * MOVE).unwrap();
        check(&m);
        audited(&[&m, &child]);
        let space = m.space.look();
        let all = (0..HUGE).map(|i| 1 << space.node_of(page(i)).unwrap());
        assert!(all.clone().all(|node: u64| node == nodes), "{:?}", all.collect::<Vec<_>>());
    }
    check(&child);
    m.space.exit().unwrap();
    child.space.exit().unwrap();
}

#[test]
fn without_memory_for_it_nothing_has_changed() {
    let m = SoftwareMachine::new(1024, Limits::default()).unwrap();
    written(&m);
    assert!(matches!(collapse(&m), Err(CallError::Errno(Errno::ENOMEM))));
    assert_eq!((is_huge(&m), shared(&m)), (false, HUGE.div_ceil(3)));
    check(&m);
    audited(&[&m]);
}

/// mremap has made a table for what it moves when another process's collapse finds it empty.
#[test]
fn a_table_that_is_filled_as_it_is_marked_counts() {
    let m = machine();
    written(&m);
    collapse(&m).unwrap();
    let range = PageRange::from_len(page(0), TABLE_SPAN).unwrap();
    m.space.change().madvise(page(0), TABLE_SPAN, Advice::DontNeed as i32).unwrap();
    {
        let space = m.space.look();
        space.table().ensure(page(0)).unwrap();
        space.table().vacate(range);
        assert!(matches!(space.table().below(page(0)), Below::Vacated));
        let guard = Entry::GUARD.raw();
        space.table().slot(page(7)).unwrap().store(guard, std::sync::atomic::Ordering::Relaxed);
    }
    m.load(page(1)).unwrap();
    assert!(m.load(page(7)).is_err());
    assert!(matches!(m.space.look().table().below(page(0)), Below::Table(_)));
}
