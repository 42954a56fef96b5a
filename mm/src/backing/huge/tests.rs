//! Memory in huge pages as a file.

use super::*;
use crate::phys::{Order, SoftwareMemory};

const SIZE: u64 = 1 << 21;
const SMALL: u64 = SIZE >> PAGE_SHIFT;
const SHARED: VmFlags = VmFlags::SHARED.union(VmFlags::MAYSHARE);

/// A file of a pool of so many pages.
fn file(pages: u64) -> (HugeMemory, System) {
    let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(8192))));
    let sink = Box::new(crate::replay::CountingSink::default());
    let system = System::new(frames, sink, crate::paging::KernelHalf::default());
    let pool = system.huge_pool(SIZE).unwrap();
    assert_eq!(pool.resize(pages).unwrap(), pages);
    (HugeMemory::file(pool, BackingName::default()), system)
}

fn stats(system: &System) -> [u64; 3] {
    let HugePoolStats { total, free, reserved } = system.huge_pool(SIZE).unwrap().stats();
    [total, free, reserved]
}

fn errno<T>(result: CallResult<T>) -> Option<Errno> {
    match result {
        Ok(_) => None,
        Err(crate::error::CallError::Errno(errno)) => Some(errno),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn its_length_is_whole_pages_and_kept_by_seals() {
    let (file, system) = file(0);
    assert_eq!(errno(file.truncate(SIZE + 1, &system)), Some(Errno::EINVAL));
    assert_eq!((errno(file.truncate(3 * SIZE, &system)), file.len()), (None, 3 * SIZE));
    file.add_seals(Seals::GROW | Seals::SHRINK).unwrap();
    assert_eq!(errno(file.truncate(SIZE, &system)), Some(Errno::EPERM));
    assert_eq!(errno(file.truncate(SIZE + 1, &system)), Some(Errno::EINVAL), "looked at first");
    assert_eq!(errno(file.allocate(0..4 * SIZE, Length::Grows)), Some(Errno::EPERM));
    assert_eq!(errno(file.allocate(0..3 * SIZE, Length::Grows)), Some(Errno::ENOSPC));
}

#[test]
fn a_map_that_may_write_makes_it_longer_even_where_a_seal_forbids_that() {
    let (file, _system) = file(0);
    file.add_seals(Seals::GROW).unwrap();
    let read = SHARED | VmFlags::NORESERVE;
    file.map(read, 0..SMALL).unwrap();
    assert!(file.is_empty());
    assert_eq!(file.map(SHARED | VmFlags::WRITE, 0..SMALL), Err(Errno::ENOMEM));
    assert!(file.is_empty());
    file.map(read | VmFlags::WRITE, SMALL..2 * SMALL).unwrap();
    assert_eq!(file.len(), 2 * SIZE);
}

#[test]
fn it_reads_as_zeros_up_to_its_end() {
    let (file, system) = file(0);
    file.truncate(SIZE, &system).unwrap();
    let mut bytes = [7; 8];
    assert_eq!((file.read_at(SIZE - 5, &mut bytes), bytes), (5, [0, 0, 0, 0, 0, 7, 7, 7]));
    assert_eq!(file.read_at(SIZE, &mut bytes), 0);
}

#[test]
fn a_shared_map_promises_what_nobody_has_promised_yet_and_only_the_end_takes_it_back() {
    let (file, system) = file(4);
    file.map(SHARED, 0..2 * SMALL).unwrap();
    file.map(SHARED, SMALL..3 * SMALL).unwrap();
    assert_eq!(stats(&system), [4, 4, 3]);
    assert_eq!(file.map(SHARED, 3 * SMALL..5 * SMALL), Err(Errno::ENOMEM));
    file.allocate(0..SIZE, Length::Grows).unwrap();
    assert_eq!((stats(&system), file.present()), ([4, 3, 2], SIZE));
    file.truncate(4 * SIZE, &system).unwrap();
    file.truncate(2 * SIZE, &system).unwrap();
    assert_eq!(stats(&system), [4, 3, 1]);
    drop(file);
    assert_eq!(stats(&system), [4, 4, 0]);
}

#[test]
fn allocation_takes_what_nobody_was_promised_and_keeps_what_it_got() {
    let (file, system) = file(4);
    let other = HugeMemory::file(system.huge_pool(SIZE).unwrap(), BackingName::default());
    other.map(SHARED, 0..SMALL).unwrap();
    assert_eq!(errno(file.allocate(0..4 * SIZE, Length::Grows)), Some(Errno::ENOSPC));
    assert_eq!((stats(&system), file.len(), file.present()), ([4, 1, 1], 0, 3 * SIZE));
    other.allocate(0..1, Length::Stays).unwrap();
    assert_eq!((stats(&system), other.len()), ([4, 0, 0], 0));
}

#[test]
fn a_hole_takes_whole_pages_with_their_promise_and_makes_zeros_of_the_rest() {
    let (file, system) = file(4);
    file.map(SHARED | VmFlags::WRITE, 0..3 * SMALL).unwrap();
    file.allocate(0..2 * SIZE, Length::Grows).unwrap();
    let run = file.pages().get(1).unwrap();
    system.memory().write(run.start.addr(), &[1, 2, 3, 4]);
    file.punch_bytes(0..SIZE + 2, &system).unwrap();
    assert_eq!((stats(&system), file.present()), ([4, 3, 1], SIZE));
    let mut bytes = [7; 5];
    assert_eq!((file.read_at(SIZE, &mut bytes), bytes), (5, [0, 0, 3, 4, 0]));
    file.punch_bytes(SIZE + 2..SIZE + 3, &system).unwrap();
    assert_eq!((file.read_at(SIZE, &mut bytes), bytes), (5, [0, 0, 0, 4, 0]));
    // What was promised and has not come stays promised.
    file.punch_bytes(2 * SIZE..3 * SIZE, &system).unwrap();
    assert_eq!(stats(&system), [4, 3, 1]);
}

#[test]
fn a_pool_shrinks_by_free_pages_that_nobody_was_promised() {
    let (file, system) = file(4);
    let pool = system.huge_pool(SIZE).unwrap();
    file.map(SHARED, 0..2 * SMALL).unwrap();
    file.allocate(0..SIZE, Length::Grows).unwrap();
    assert_eq!(pool.resize(0).unwrap(), 2);
    assert_eq!(stats(&system), [2, 1, 1]);
    drop(file);
    assert_eq!(pool.resize(0).unwrap(), 0);
    assert_eq!(system.frames().stats().pages, 0);
}

#[test]
fn a_pool_has_as_many_pages_as_memory_has_room_for() {
    let (_file, system) = file(0);
    let pool = system.huge_pool(SIZE).unwrap();
    assert_eq!(pool.resize(1000).unwrap(), 15, "16 blocks, one of which has frame 0");
    assert_eq!(pool.page_size(), Order::HUGE.frames() << PAGE_SHIFT);
}
