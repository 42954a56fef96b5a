//! Maps of huge pages of a pool that has some. What is expected was asked of Linux 6.18 with a pool of eight, but
//! where a test says otherwise.

use super::*;
use crate::addr::PAGE_SHIFT;
use crate::backing::{HugeMemory, HugePoolStats};
use crate::inspect::{PagemapWord, pagemap, smaps, status};
use crate::paging::{ForkedRoot, TableChange};
use crate::phys::{BLOCK_FRAMES, Contents, FrameKind};

/// Pages of a huge page; `page(0)` is where one begins.
const HUGE: u64 = BLOCK_FRAMES;
const SIZE: u64 = HUGE << PAGE_SHIFT;
const SHARED: MapFlags = MapFlags::from_bits_retain(1);
const NORESERVE: MapFlags = MapFlags::NORESERVE;
const NONE: MapFlags = MapFlags::empty();

/// A machine with a pool of so many pages of 2 MiB.
fn machine_with(pages: u64) -> SoftwareMachine {
    let m = machine();
    let had = m.space.look().system().huge_pool(SIZE).unwrap().resize(pages);
    assert_eq!(had.unwrap(), pages);
    m
}

/// So many huge pages from the huge page `at` on.
fn map(m: &SoftwareMachine, at: u64, pages: u64, flags: MapFlags) -> CallResult<VirtAddr> {
    let kind = if flags.contains(SHARED) { MapType::Shared } else { MapType::Private };
    let flags = flags.difference(SHARED)
        | MapFlags::HUGETLB
        | MapFlags::FIXED
        | MapFlags::ANONYMOUS
        | kind.into();
    let request =
        MapRequest { flags, ..MapRequest::anonymous(page(at * HUGE), pages * SIZE, RW, NONE) };
    m.space.change().mmap(&MapRequest { flags, ..request })
}

fn memfd(m: &SoftwareMachine) -> Arc<HugeMemory> {
    let space = m.space.look();
    let system = space.system();
    Arc::new(HugeMemory::memfd(system, "h", system.huge_pool(SIZE).unwrap()))
}

/// Total, free and reserved, audited.
fn pool(m: &SoftwareMachine) -> [u64; 3] {
    let HugePoolStats { total, free, reserved } =
        m.space.look().system().huge_pool(SIZE).unwrap().stats();
    [total, free, reserved]
}

fn store(m: &SoftwareMachine, at: u64, byte: u8) -> Result<(), AccessError> {
    m.store(page(at * HUGE + 3), byte)
}

fn load(m: &SoftwareMachine, at: u64) -> Result<u8, AccessError> {
    m.load(page(at * HUGE + 3))
}

fn is_bus_error<T: std::fmt::Debug>(result: Result<T, AccessError>) -> bool {
    matches!(fault_of(result), Fault::NoBacking(_))
}

fn drop_pages(m: &SoftwareMachine, at: u64, pages: u64) {
    m.space.change().madvise(page(at * HUGE), pages * SIZE, 4).unwrap();
}

fn unmap_huge(m: &SoftwareMachine, at: u64, pages: u64) {
    unmap(m, at * HUGE, pages * HUGE).unwrap();
}

#[test]
fn a_private_map_is_promised_its_pages_until_each_goes_with_its_part() {
    let m = machine_with(8);
    map(&m, 0, 3, NONE).unwrap();
    assert_eq!(pool(&m), [8, 8, 3]);
    store(&m, 0, 1).unwrap();
    store(&m, 1, 1).unwrap();
    assert_eq!(pool(&m), [8, 6, 1]);
    drop_pages(&m, 0, 1);
    assert_eq!(pool(&m), [8, 7, 2], "dropped, and promised anew");
    unmap_huge(&m, 1, 1);
    assert_eq!(pool(&m), [8, 8, 2]);
    unmap_huge(&m, 2, 1);
    assert_eq!(pool(&m), [8, 8, 1]);
    assert_eq!(load(&m, 0).unwrap(), 0);
    assert_eq!(pool(&m), [8, 7, 0]);
    audited(&[&m]);
    unmap_huge(&m, 0, 1);
    assert_eq!(pool(&m), [8, 8, 0]);
}

#[test]
fn more_cannot_be_promised_than_nobody_else_was() {
    let m = machine_with(4);
    assert_eq!(errno_of(map(&m, 0, 5, NONE)), Errno::ENOMEM);
    assert_eq!(errno_of(map(&m, 0, 5, SHARED)), Errno::ENOMEM);
    map(&m, 0, 3, SHARED).unwrap();
    assert_eq!(errno_of(map(&m, 4, 2, NONE)), Errno::ENOMEM);
    map(&m, 4, 1, NONE).unwrap();
    map(&m, 6, 4, NORESERVE).unwrap();
    assert!(is_bus_error(load(&m, 6)), "four are free, all are promised");
    unmap_huge(&m, 4, 1);
    store(&m, 6, 1).unwrap();
    assert_eq!(pool(&m), [4, 3, 3]);
    audited(&[&m]);
    unmap_huge(&m, 0, 10);
    assert_eq!(pool(&m), [4, 4, 0]);
}

#[test]
fn what_is_mapped_anew_pays_with_what_was_there() {
    let m = machine_with(2);
    map(&m, 0, 2, NONE).unwrap();
    store(&m, 0, 1).unwrap();
    map(&m, 0, 2, NONE).unwrap();
    assert_eq!((pool(&m), load(&m, 0).unwrap()), ([2, 2, 2], 0));
}

#[test]
fn a_shared_objects_promise_is_not_free_before_the_map_that_replaces_it() {
    let m = machine_with(3);
    map(&m, 0, 2, SHARED).unwrap();
    assert_eq!(errno_of(map(&m, 0, 3, SHARED)), Errno::ENOMEM);
    assert_eq!(pool(&m), [3, 3, 0]);
    map(&m, 0, 1, SHARED).unwrap();
    map(&m, 0, 2, NONE).unwrap();
    assert_eq!(pool(&m), [3, 3, 2]);
}

#[test]
fn one_entry_maps_a_huge_page_of_zeros_that_was_somebody_elses() {
    let m = machine_with(1);
    map(&m, 0, 1, NONE).unwrap();
    store(&m, 0, 7).unwrap();
    let run = m.space.look().table().large(page(0)).unwrap().run().unwrap();
    assert_eq!((run.count, run.start.number() % HUGE), (HUGE, 0));
    unmap_huge(&m, 0, 1);
    assert_eq!(m.sink.last().tables, TableChange::Unlinked);
    map(&m, 2, 1, SHARED).unwrap();
    assert_eq!(load(&m, 2).unwrap(), 0);
    audited(&[&m]);
}

#[test]
fn a_huge_page_comes_where_small_ones_were() {
    let m = machine_with(1);
    map_at(&m, 0, 2 * HUGE, RW).unwrap();
    m.store(page(5), 1).unwrap();
    map(&m, 0, 1, NONE).unwrap();
    store(&m, 0, 7).unwrap();
    assert_eq!(load(&m, 0).unwrap(), 7);
    audited(&[&m]);
    map_at(&m, 0, HUGE, RW).unwrap();
    m.store(page(5), 2).unwrap();
    audited(&[&m]);
}

#[test]
fn a_read_takes_a_page_and_counts_as_huge_but_not_as_resident() {
    let m = machine_with(2);
    map(&m, 0, 2, NONE).unwrap();
    assert_eq!(load(&m, 0).unwrap(), 0);
    assert_eq!(pool(&m), [2, 1, 1]);
    let space = m.space.look();
    let status = status(&space);
    assert_eq!((status.vm_rss, status.hugetlb_pages), (0, SIZE));
    let entry = smaps(&space).next().unwrap();
    assert_eq!((entry.usage.rss, entry.usage.private_hugetlb), (0, SIZE));
    assert_eq!(
        (entry.usage.shared_hugetlb, entry.usage.anonymous, entry.usage.anon_huge),
        (0, 0, 0)
    );
    assert_eq!(space.mincore(page(HUGE - 1), 2 * PAGE_SIZE).unwrap(), [1, 0]);
    let word = pagemap(&space, PageRange::from_len(page(7), PAGE_SIZE).unwrap()).next().unwrap();
    let wanted = PagemapWord::PRESENT | PagemapWord::EXCLUSIVE;
    assert_eq!(word.difference(PagemapWord::FRAME | PagemapWord::SOFT_DIRTY), wanted);
}

#[test]
fn shared_pages_are_the_objects_and_stay_promised_when_a_part_of_the_map_goes() {
    let m = machine_with(4);
    map(&m, 0, 3, SHARED).unwrap();
    let child = child_of(&m);
    store(&child, 0, 9).unwrap();
    assert_eq!((load(&m, 0).unwrap(), pool(&m)), (9, [4, 3, 2]));
    let usage = smaps(&m.space.look()).next().unwrap().usage;
    assert_eq!((usage.shared_hugetlb, usage.private_hugetlb), (SIZE, 0));
    unmap_huge(&m, 0, 2);
    assert_eq!(pool(&m), [4, 3, 2]);
    child.space.change().munmap(page(0), 3 * SIZE).unwrap();
    assert_eq!(pool(&m), [4, 3, 2], "the last of the map is there still");
    audited(&[&m, &child]);
    unmap_huge(&m, 2, 1);
    assert_eq!(pool(&m), [4, 4, 0]);
}

#[test]
fn mincore_asks_the_object_where_no_table_could_have_an_entry() {
    let m = machine_with(2);
    map(&m, 0, 2, SHARED).unwrap();
    let child = child_of(&m);
    store(&m, 0, 1).unwrap();
    let resident = |m: &SoftwareMachine| m.space.look().mincore(page(0), PAGE_SIZE).unwrap();
    assert_eq!((resident(&m), resident(&child)), (vec![1], vec![1]));
    store(&child, 1, 1).unwrap();
    assert_eq!(resident(&child), [0]);
}

#[test]
fn a_childs_write_copies_unpromised_and_is_a_bus_error_when_there_is_none() {
    for root in [ForkedRoot::Fresh, ForkedRoot::Kept] {
        let m = machine_with(3);
        m.sink.set_forked_root(root);
        map(&m, 0, 2, NONE).unwrap();
        store(&m, 0, 1).unwrap();
        store(&m, 1, 2).unwrap();
        let child = child_of(&m);
        assert_eq!((load(&child, 0).unwrap(), pool(&m)), (1, [3, 1, 0]));
        store(&child, 0, 5).unwrap();
        assert_eq!((load(&m, 0).unwrap(), load(&child, 0).unwrap()), (1, 5));
        assert!(is_bus_error(store(&child, 1, 6)));
        assert_eq!((load(&child, 1).unwrap(), load(&m, 1).unwrap()), (2, 2));
        audited(&[&m, &child]);
        // Its last owner writes in place.
        store(&m, 0, 3).unwrap();
        assert_eq!((pool(&m), load(&child, 0).unwrap()), ([3, 0, 0], 5));
        child.space.change().exit_mmap().unwrap();
        assert_eq!(pool(&m), [3, 1, 0]);
        store(&m, 1, 4).unwrap();
        assert_eq!((load(&m, 1).unwrap(), pool(&m)), (4, [3, 1, 0]));
        audited(&[&m, &child]);
    }
}

#[test]
fn who_was_promised_a_page_gets_it_from_his_children_who_then_find_none() {
    let m = machine_with(4);
    map(&m, 0, 4, NONE).unwrap();
    (0..4).for_each(|at| store(&m, at, 1).unwrap());
    let child = child_of(&m);
    let grandchild = child_of(&child);
    store(&m, 1, 5).unwrap();
    assert_eq!((load(&m, 1).unwrap(), pool(&m)), (5, [4, 0, 0]));
    audited(&[&m, &child, &grandchild]);
    for other in [&child, &grandchild] {
        assert!(is_bus_error(load(other, 1)));
        assert_eq!(load(other, 2).unwrap(), 1);
    }
    // Nor does anything come to it in that VMA that was not there, while pages are to be had.
    drop_pages(&child, 3, 1);
    drop_pages(&m, 3, 1);
    drop_pages(&grandchild, 3, 1);
    assert_eq!(pool(&m)[1], 1);
    assert!(is_bus_error(load(&child, 3)));
    // Its own child may have it.
    let late = child_of(&child);
    assert_eq!(load(&late, 1).unwrap(), 0);
    audited(&[&m, &child, &grandchild, &late]);
}

#[test]
fn what_was_taken_stays_so_where_the_memory_goes_and_ends_with_the_map() {
    let m = machine_with(2);
    map(&m, 0, 1, NONE).unwrap();
    store(&m, 0, 1).unwrap();
    map(&m, 4, 1, SHARED).unwrap();
    let child = child_of(&m);
    store(&m, 0, 2).unwrap();
    assert_eq!(pool(&m), [2, 1, 1]);
    assert!(is_bus_error(load(&child, 0)));
    remap(&child, 0, HUGE, HUGE, Some(8 * HUGE)).unwrap();
    unmap_huge(&m, 4, 1);
    child.space.change().munmap(page(4 * HUGE), SIZE).unwrap();
    assert_eq!(pool(&m), [2, 1, 0]);
    assert!(is_bus_error(load(&child, 8)));
    map(&child, 8, 1, NONE).unwrap();
    assert_eq!(load(&child, 8).unwrap(), 0);
    audited(&[&m, &child]);
}

#[test]
fn a_page_that_a_child_has_is_not_promised_anew_when_it_is_dropped() {
    // Linux promises it, and counts one less than none until the child ends.
    let m = machine_with(2);
    map(&m, 0, 1, NONE).unwrap();
    store(&m, 0, 1).unwrap();
    let child = child_of(&m);
    drop_pages(&m, 0, 1);
    assert_eq!(pool(&m), [2, 1, 0]);
    assert_eq!((load(&m, 0).unwrap(), load(&child, 0).unwrap()), (0, 1));
    audited(&[&m, &child]);
    unmap_huge(&m, 0, 1);
    assert_eq!(pool(&m), [2, 1, 0]);
    child.space.change().exit_mmap().unwrap();
    assert_eq!(pool(&m), [2, 2, 0]);
}

#[test]
fn a_part_that_moves_takes_its_promise_along_and_leaves_the_rests() {
    // In Linux the rest's is lost for ever.
    let m = machine_with(4);
    map(&m, 0, 3, NONE).unwrap();
    store(&m, 1, 6).unwrap();
    remap(&m, HUGE, HUGE, HUGE, Some(8 * HUGE)).unwrap();
    assert_eq!((load(&m, 8).unwrap(), pool(&m)), (6, [4, 3, 2]));
    remap(&m, 0, HUGE, HUGE, Some(9 * HUGE)).unwrap();
    store(&m, 9, 7).unwrap();
    assert_eq!(pool(&m), [4, 2, 1]);
    audited(&[&m]);
    unmap_huge(&m, 8, 2);
    assert_eq!(pool(&m), [4, 4, 1]);
    unmap_huge(&m, 2, 1);
    assert_eq!(pool(&m), [4, 4, 0]);
}

#[test]
fn protection_changes_a_huge_page_whole_and_a_cut_in_one_leaves_it() {
    let m = machine_with(2);
    map(&m, 0, 2, NONE).unwrap();
    store(&m, 0, 1).unwrap();
    assert_eq!(errno_of(protect(&m, 0, 1, Prot::READ)), Errno::EINVAL);
    assert_eq!(errno_of(unmap(&m, 1, 1)), Errno::EINVAL);
    assert!(m.space.look().table().large(page(0)).is_some());
    protect(&m, 0, HUGE, Prot::READ).unwrap();
    assert_eq!(fault_of(store(&m, 0, 2)), Fault::Denied(page(3)));
    protect(&m, 0, HUGE, Prot::empty()).unwrap();
    assert_eq!(fault_of(load(&m, 0)), Fault::Denied(page(3)));
    audited(&[&m]);
    protect(&m, 0, HUGE, RW).unwrap();
    assert_eq!(load(&m, 0).unwrap(), 1);
    store(&m, 0, 3).unwrap();
    assert_eq!(pool(&m), [2, 1, 1]);
    audited(&[&m]);
}

#[test]
fn populating_and_locking_bring_pages_in_as_far_as_there_are_some() {
    let m = machine_with(3);
    map(&m, 0, 1, MapFlags::POPULATE).unwrap();
    assert_eq!(pool(&m), [3, 2, 0]);
    map(&m, 2, 3, NORESERVE | MapFlags::POPULATE).unwrap();
    assert_eq!(pool(&m), [3, 0, 0]);
    assert_eq!(errno_of(m.space.change().mlock2(page(2 * HUGE), 3 * SIZE, 0)), Errno::ENOMEM);
    m.space.change().mlock2(page(2 * HUGE), 2 * SIZE, 0).unwrap();
    assert_eq!(m.space.look().account().locked, 0);
    let populate = m.space.change().madvise(page(4 * HUGE), SIZE, 23);
    assert_eq!(errno_of(populate), Errno::EFAULT);
    audited(&[&m]);
}

#[test]
fn a_private_map_of_a_memfd_copies_and_a_hole_or_a_cut_takes_its_copies_too() {
    let m = machine_with(8);
    let file = memfd(&m);
    file.truncate(3 * SIZE, m.space.look().system()).unwrap();
    map_file(&m, 0, 3 * HUGE, MapType::Shared, &file);
    map_file(&m, 4 * HUGE, 3 * HUGE, MapType::Private, &file);
    assert_eq!(pool(&m), [8, 8, 6]);
    store(&m, 0, 5).unwrap();
    assert_eq!((load(&m, 4).unwrap(), pool(&m)), (5, [8, 7, 5]));
    let word = pagemap(&m.space.look(), PageRange::from_len(page(4 * HUGE), PAGE_SIZE).unwrap())
        .next()
        .unwrap();
    assert!(word.contains(PagemapWord::BACKED) && !word.contains(PagemapWord::EXCLUSIVE));
    store(&m, 4, 6).unwrap();
    assert_eq!((load(&m, 0).unwrap(), load(&m, 4).unwrap(), pool(&m)), (5, 6, [8, 6, 4]));
    store(&m, 5, 7).unwrap();
    audited(&[&m]);
    let system = Arc::clone(m.space.look().system());
    file.punch_bytes(0..2 * SIZE, &system).unwrap();
    assert_eq!((load(&m, 0).unwrap(), load(&m, 4).unwrap(), load(&m, 5).unwrap()), (0, 0, 0));
    audited(&[&m]);
    file.truncate(SIZE, &system).unwrap();
    assert!(is_bus_error(load(&m, 6)) && is_bus_error(load(&m, 1)));
    audited(&[&m]);
    unmap_huge(&m, 0, 8);
    drop(file);
    assert_eq!(pool(&m), [8, 8, 0]);
}

#[test]
fn a_private_map_that_finds_no_page_for_its_copy_keeps_showing_the_objects() {
    let m = machine_with(1);
    let file = memfd(&m);
    file.truncate(SIZE, m.space.look().system()).unwrap();
    map_file(&m, 0, HUGE, MapType::Shared, &file);
    store(&m, 0, 5).unwrap();
    let flags = MapFlags::FIXED | MapFlags::NORESERVE | MapType::Private.into();
    let file: Option<Arc<dyn Backing>> = Some(file);
    let request = MapRequest { file, flags, ..MapRequest::anonymous(page(HUGE), SIZE, RW, NONE) };
    m.space.change().mmap(&MapRequest { flags, ..request }).unwrap();
    assert!(is_bus_error(store(&m, 1, 6)));
    assert_eq!((load(&m, 1).unwrap(), load(&m, 0).unwrap()), (5, 5));
    audited(&[&m]);
}

#[test]
fn advice_to_remove_takes_pages_out_of_the_object_in_all_processes() {
    let m = machine_with(3);
    map(&m, 0, 3, SHARED).unwrap();
    store(&m, 1, 5).unwrap();
    let child = child_of(&m);
    assert_eq!(load(&child, 1).unwrap(), 5);
    m.space.change().madvise(page(HUGE), SIZE, 9).unwrap();
    assert_eq!(pool(&m), [3, 3, 2]);
    assert_eq!((load(&child, 1).unwrap(), load(&m, 1).unwrap()), (0, 0));
    audited(&[&m, &child]);
}

#[test]
fn whatever_fails_for_want_of_memory_leaves_pool_and_promises_as_they_were() {
    let m = machine_with(2);
    map(&m, 0, 2, NONE).unwrap();
    for nth in (1..).filter_map(NonZeroU64::new) {
        m.frames.failures().refuse(nth);
        let stored = store(&m, 0, 1);
        m.frames.failures().stop();
        if stored.is_ok() {
            assert!(nth > NonZeroU64::MIN, "its tables are asked for");
            break;
        }
        assert!(matches!(fault_of(stored), Fault::OutOfMemory(_)));
        assert_eq!(pool(&m), [2, 2, 2]);
        audited(&[&m]);
    }
    assert_eq!(pool(&m), [2, 1, 1]);
    refuse_forks(&m, || assert_eq!(pool(&m), [2, 1, 1]));
    store(&m, 0, 2).unwrap();
    assert_eq!(pool(&m), [2, 1, 1]);
    audited(&[&m]);
}

#[test]
fn pages_of_the_pool_stay_when_memory_runs_out_and_are_nobody_elses() {
    let m = machine_with(3);
    map(&m, 0, 2, NONE).unwrap();
    store(&m, 0, 1).unwrap();
    let taken = || m.frames.alloc(FrameKind::Anonymous, Contents::Any);
    let all: Vec<_> = std::iter::from_fn(|| taken().ok()).collect();
    assert_eq!(load(&m, 0).unwrap(), 1);
    assert_eq!(pool(&m), [3, 2, 1]);
    all.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    store(&m, 1, 1).unwrap();
    audited(&[&m]);
}

#[test]
fn a_gigantic_page_is_one_page_of_512_entries() {
    // Memory in software costs what is touched of it; 1 GiB in one piece needs two.
    let m = SoftwareMachine::new(3 << 18, Limits::default()).unwrap();
    let system = Arc::clone(m.space.look().system());
    let pool = Arc::clone(system.huge_pool(1 << 30).unwrap());
    assert_eq!(pool.resize(3).unwrap(), 2);
    let stats = || (pool.stats().free, pool.stats().reserved);
    let gigantic = MapFlags::HUGETLB | MapFlags::from_bits_retain(30 << 26);
    let map = || {
        let request = MapRequest::anonymous(VirtAddr::ZERO, 1, RW, gigantic);
        m.space.change().mmap(&request)
    };
    let at = map().unwrap();
    assert_eq!(stats(), (2, 1));
    m.store(at.offset(5 << 21), 7).unwrap();
    assert_eq!((stats(), m.load(at.offset((1 << 30) - 1)).unwrap()), ((1, 0), 0));
    audit(&m.space.look()).unwrap();
    let child = child_of(&m);
    child.store(at.offset(6 << 21), 8).unwrap();
    assert_eq!((stats(), m.load(at.offset(6 << 21)).unwrap()), ((0, 0), 0));
    assert_eq!(child.load(at.offset(5 << 21)).unwrap(), 7);
    assert_eq!(errno_of(map()), Errno::ENOMEM);
    let cut = m.space.change().munmap(at, SIZE);
    assert_eq!(errno_of(cut), Errno::EINVAL);
    m.space.change().munmap(at, 1 << 30).unwrap();
    child.space.change().exit_mmap().unwrap();
    assert_eq!(stats(), (2, 0));
}

/// What has them is to be killed when memory runs out: they cannot be swapped out, also if there is swap.
#[test]
fn memory_that_is_full_beside_them_ends_in_a_fault() {
    let places = Box::new(crate::swap::MemoryStore::new(4));
    let m = SoftwareMachine::prepared(1024, Limits::default(), |system| system.set_swap(places));
    let m = m.unwrap();
    assert_eq!(m.space.look().system().huge_pool(SIZE).unwrap().resize(1).unwrap(), 1);
    map(&m, 0, 1, NONE).unwrap();
    store(&m, 0, 7).unwrap();
    map_at(&m, HUGE, 1024, RW).unwrap();
    let full = (0..1024).find_map(|i| m.store(page(HUGE + i), 1).err());
    assert!(matches!(full, Some(AccessError::Fault(Fault::OutOfMemory(_)))), "{full:?}");
    assert_eq!(load(&m, 0).unwrap(), 7);
    audited(&[&m]);
}
