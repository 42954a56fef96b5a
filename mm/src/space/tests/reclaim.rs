//! Memory is used up: what nobody would miss is given up, in this order, and nothing else.

use super::*;
use crate::addr::{Frame, PAGE_BYTES};
use crate::backing::{Length, SharedMemory};
use crate::phys::{Contents, FrameKind};
use crate::reclaim::Reclaimed;

/// A machine with 16 pages that hold 100 and their number, and no page ahead. Those from 8 on are given up.
fn half_given_up() -> SoftwareMachine {
    let m = SoftwareMachine::new(1024, Limits::default()).unwrap();
    m.space.look().system().sysctl.set_fault_ahead(1);
    // It takes a frame, too.
    m.frames.zero_frame().unwrap();
    map_at(&m, 0, 16, RW).unwrap();
    for i in 0..16 {
        m.store(page(i), 100 + i as u8).unwrap();
    }
    give_up(&m.space, 8, 8);
    m
}

fn give_up(space: &SharedSpace, at: u64, pages: u64) {
    space.change().madvise(page(at), pages * PAGE_SIZE, Advice::Free as i32).unwrap();
}

/// Takes all the memory that is left, but for `but` frames.
fn use_up(m: &SoftwareMachine, but: usize) -> Vec<Frame> {
    let all = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let mut taken: Vec<Frame> = std::iter::from_fn(all).collect();
    taken.drain(..but).for_each(|frame| m.frames.put(frame).unwrap());
    taken
}

fn end(m: SoftwareMachine, taken: Vec<Frame>, others: Vec<AddressSpace>) {
    let system = Arc::clone(m.space.look().system());
    {
        let space = m.space.look();
        let all: Vec<&AddressSpace> = [&*space].into_iter().chain(&others).collect();
        audit_all(&all).unwrap();
    }
    others.into_iter().for_each(|other| other.exit().unwrap());
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    m.space.exit().unwrap();
    system.free_retired().unwrap();
    assert_eq!((m.frames.stats().pages, m.frames.stats().tables), (0, 0));
}

fn reclaimed(m: &SoftwareMachine) -> Reclaimed {
    m.space.look().system().reclaimed()
}

fn lazily(lazy: u64) -> Reclaimed {
    Reclaimed { lazy, ..Reclaimed::default() }
}

fn bytes(m: &SoftwareMachine, pages: std::ops::Range<u64>) -> Vec<u8> {
    pages.map(|i| m.load(page(i)).unwrap()).collect()
}

#[test]
fn what_was_given_up_is_dropped_before_anybody_is_killed_and_reads_as_zeros() {
    let m = half_given_up();
    let taken = use_up(&m, 0);
    map_at(&m, 100, 9, RW).unwrap();
    let flushes = m.sink.flushes();
    for i in 100..108 {
        m.store(page(i), 7).unwrap();
    }
    assert_eq!((reclaimed(&m), m.sink.flushes() - flushes), (lazily(8), 1), "in one batch");
    assert_eq!(fault_of(m.store(page(108), 7)), Fault::OutOfMemory(page(108)));
    assert_eq!(bytes(&m, 0..8), [100, 101, 102, 103, 104, 105, 106, 107]);
    assert_eq!(bytes(&m, 8..16), [0; 8]);
    assert_eq!(m.space.look().resident().own(), 16);
    end(m, taken, vec![]);
}

#[test]
fn nothing_is_dropped_while_there_is_memory() {
    let m = half_given_up();
    map_at(&m, 100, 8, RW).unwrap();
    let taken = use_up(&m, 8);
    for i in 100..108 {
        m.store(page(i), 7).unwrap();
    }
    assert_eq!(reclaimed(&m), Reclaimed::default());
    assert_eq!(bytes(&m, 8..10), [108, 109]);
    end(m, taken, vec![]);
}

#[test]
fn what_has_been_written_since_is_kept_for_good() {
    let m = half_given_up();
    for i in 8..15 {
        m.store(page(i), 50).unwrap();
    }
    assert_eq!(m.load(page(15)).unwrap(), 115, "only read");
    let taken = use_up(&m, 0);
    map_at(&m, 100, 2, RW).unwrap();
    m.store(page(100), 7).unwrap();
    assert_eq!(fault_of(m.store(page(101), 7)), Fault::OutOfMemory(page(101)));
    assert_eq!(reclaimed(&m), lazily(1));
    assert_eq!(bytes(&m, 8..16), [50, 50, 50, 50, 50, 50, 50, 0]);
    // They are pages like others now: giving them up again is asked for.
    m.space.look().system().reclaim().unwrap();
    assert_eq!(bytes(&m, 8..15), [50; 7]);
    end(m, taken, vec![]);
}

#[test]
fn locked_memory_stays_until_it_is_unlocked() {
    let m = half_given_up();
    // On fault: what is brought in for the lock would be written.
    m.space.change().mlock2(page(8), 6 * PAGE_SIZE, 1).unwrap();
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    let taken = use_up(&m, 0);
    let system = Arc::clone(m.space.look().system());
    let drop_all =
        || std::iter::from_fn(|| Some(system.reclaim().unwrap()).filter(|&n| n > 0)).sum();
    let dropped: u64 = drop_all();
    assert_eq!((dropped, reclaimed(&m)), (4, lazily(4)), "pages 14 and 15, of both");
    assert_eq!(bytes(&m, 8..14), [108, 109, 110, 111, 112, 113]);
    m.space.change().munlock(page(8), 2 * PAGE_SIZE).unwrap();
    let _: u64 = drop_all();
    m.space.change().munlockall();
    let dropped: u64 = drop_all();
    assert_eq!((dropped, reclaimed(&m)), (8, lazily(16)));
    end(m, taken, vec![child]);
}

#[test]
fn a_huge_page_given_up_and_locked_since_stays_when_it_is_split() {
    let m = machine();
    m.space.look().system().sysctl.set_thp(crate::sysctl::Thp::Always);
    map_at(&m, 0, 1024, RW).unwrap();
    m.store(page(7), 7).unwrap();
    m.space.change().madvise(page(0), 512 * PAGE_SIZE, Advice::Free as i32).unwrap();
    m.space.change().mlock2(page(0), 512 * PAGE_SIZE, 1).unwrap();
    protect(&m, 100, 1, Prot::READ).unwrap();
    let system = Arc::clone(m.space.look().system());
    assert_eq!((system.reclaim().unwrap(), m.load(page(7)).unwrap()), (0, 7));
    m.space.change().munlock(page(0), 512 * PAGE_SIZE).unwrap();
    while system.reclaim().unwrap() > 0 {}
    assert_eq!((m.load(page(7)).unwrap(), reclaimed(&m)), (0, lazily(512)));
}

#[test]
fn a_move_that_keeps_its_source_unlocks_what_stays_there() {
    let m = half_given_up();
    m.space.change().mlock2(page(8), 4 * PAGE_SIZE, 1).unwrap();
    m.space
        .change()
        .mremap(&RemapRequest {
            addr: page(8),
            old_len: PAGE_SIZE,
            new_len: PAGE_SIZE,
            flags: 5,
            new_addr: VirtAddr::ZERO,
        })
        .unwrap();
    let system = Arc::clone(m.space.look().system());
    // All but the one that has moved.
    assert_eq!((system.reclaim().unwrap(), bytes(&m, 9..12)), (7, vec![0; 3]));
    end(m, vec![], vec![]);
}

#[test]
fn what_several_processes_name_is_dropped_in_all_unless_one_has_written_it() {
    let m = half_given_up();
    // Both have given it up; of the rest each has what it had.
    let child = SharedSpace::new(m.space.change().fork(Vcpus::Running).unwrap());
    child.write(page(8), &[9]).unwrap();
    let taken = use_up(&m, 0);
    let system = Arc::clone(m.space.look().system());
    // Page 8 is two pages by now, of which one has been written; the others are one page each.
    assert_eq!(system.reclaim().unwrap(), 1 + 2 * 7);
    assert_eq!(system.reclaim().unwrap(), 0);
    let mut seen = [1; 8];
    for (i, byte) in seen.iter_mut().enumerate() {
        child.read(page(8 + i as u64), std::slice::from_mut(byte)).unwrap();
    }
    assert_eq!((seen, bytes(&m, 8..16)), ([9, 0, 0, 0, 0, 0, 0, 0], vec![0; 8]));
    assert_eq!((m.space.look().resident().own(), child.look().resident().own()), (8, 9));
    end(m, taken, vec![child.into_inner()]);
}

#[test]
fn another_process_gives_up_what_this_one_needs() {
    let m = half_given_up();
    let system = Arc::clone(m.space.look().system());
    let other = SharedSpace::new(AddressSpace::new(system, Limits::default()).unwrap());
    let request = MapRequest::anonymous(page(0), 8 * PAGE_SIZE, RW, MapFlags::FIXED);
    other.change().mmap(&request).unwrap();
    // Its tables.
    other.write(page(0), &[1]).unwrap();
    let taken = use_up(&m, 0);
    for i in 1..8 {
        other.write(page(i), &[1]).unwrap();
    }
    assert_eq!(reclaimed(&m), lazily(8));
    end(m, taken, vec![other.into_inner()]);
}

#[test]
fn pages_that_came_ahead_go_first_and_cost_no_flush() {
    let m = SoftwareMachine::new(1024, Limits::default()).unwrap();
    map_at(&m, 0, 64, RW).unwrap();
    for i in 0..5 {
        m.store(page(i), 100).unwrap();
    }
    // The fault on page 3 brought 3 to 6, and nobody knows of the last two.
    give_up(&m.space, 0, 1);
    let taken = use_up(&m, 0);
    map_at(&m, 200, 4, RW).unwrap();
    let flushes = m.sink.flushes();
    m.store(page(200), 7).unwrap();
    m.store(page(202), 7).unwrap();
    let ahead = Reclaimed { ahead: 2, ..Reclaimed::default() };
    assert_eq!((reclaimed(&m), m.sink.flushes()), (ahead, flushes));
    assert_eq!(m.load(page(0)).unwrap(), 100);
    m.store(page(201), 7).unwrap();
    assert_eq!(reclaimed(&m), Reclaimed { lazy: 1, ..ahead });
    end(m, taken, vec![]);
}

#[test]
fn tables_that_wait_for_a_flush_go_before_what_a_program_could_miss() {
    let m = half_given_up();
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    child.exit().unwrap();
    let taken = use_up(&m, 0);
    map_at(&m, 100, 1, RW).unwrap();
    m.store(page(100), 7).unwrap();
    let Reclaimed { tables, lazy, .. } = reclaimed(&m);
    assert!(tables >= 4 && lazy == 0, "{:?}", reclaimed(&m));
    end(m, taken, vec![]);
}

#[test]
fn droppable_memory_is_dropped_even_if_it_was_written() {
    let m = half_given_up();
    let droppable = MapFlags::FIXED | MapFlags::ANONYMOUS | crate::vma::MapType::Droppable.into();
    let mut request = MapRequest::anonymous(page(50), 2 * PAGE_SIZE, RW, MapFlags::FIXED);
    request.flags = droppable;
    m.space.change().mmap(&request).unwrap();
    m.store(page(50), 1).unwrap();
    give_up(&m.space, 0, 16);
    let system = Arc::clone(m.space.look().system());
    assert_eq!(system.reclaim().unwrap(), 17);
    assert_eq!(m.load(page(50)).unwrap(), 0);
    end(m, vec![], vec![]);
}

#[test]
fn calls_that_need_frames_have_what_can_be_given_up() {
    let m = half_given_up();
    let taken = use_up(&m, 0);
    // Three tables more.
    remap(&m, 0, 4, 4, Some(1 << 20)).unwrap();
    assert_eq!(m.load(page(1 << 20)).unwrap(), 100);
    m.space.change().madvise(page(4), 4 * PAGE_SIZE, Advice::Free as i32).unwrap();
    m.space.change().mlock2(page(8), 4 * PAGE_SIZE, 0).unwrap();
    assert!(m.space.look().resident().own() >= 8);
    end(m, taken, vec![]);
}

#[test]
fn a_call_that_is_refused_for_another_reason_drops_nothing() {
    let m = half_given_up();
    m.space.look().system().vma_failures.refuse(std::num::NonZeroU64::MIN);
    let refused = m.space.change().fork(Vcpus::Stopped);
    assert_eq!(errno_of(refused.map(drop)), Errno::ENOMEM);
    m.space.look().system().vma_failures.stop();
    assert_eq!(reclaimed(&m), Reclaimed::default());
    end(m, vec![], vec![]);
}

#[test]
fn a_write_to_a_memfd_has_what_can_be_given_up_and_is_short_when_there_is_no_more() {
    let m = half_given_up();
    let taken = use_up(&m, 0);
    let space = m.space.look();
    let file = SharedMemory::memfd(space.system(), "test");
    let write = |at: u64, len| file.write_at(at, &vec![7; len], space.system(), &*space);
    assert_eq!(write(0, 9 * PAGE_BYTES).unwrap(), 8 * PAGE_BYTES);
    assert_eq!((file.len(), file.present_pages()), (8 * PAGE_SIZE, 8));
    assert_eq!(reclaimed(&m), lazily(8));
    assert_eq!(errno_of(write(8 * PAGE_SIZE, 1)), Errno::ENOMEM);
    assert_eq!(write(8 * PAGE_SIZE - 1, 2).unwrap(), 1);
    assert_eq!(bytes(&m, 7..9), [107, 0]);
    drop((file, space));
    end(m, taken, vec![]);
}

#[test]
fn an_allocation_has_what_can_be_given_up_and_leaves_it_to_others_when_it_fails() {
    let m = half_given_up();
    let taken = use_up(&m, 0);
    let space = m.space.look();
    let file = SharedMemory::memfd(space.system(), "test");
    let allocate =
        |pages| file.allocate(0..pages * PAGE_SIZE, Length::Grows, space.system(), &*space);
    assert_eq!(errno_of(allocate(9)), Errno::ENOMEM);
    assert_eq!((file.len(), file.present_pages(), file.promised_pages()), (0, 0, 0));
    assert_eq!(reclaimed(&m), lazily(8));
    allocate(8).unwrap();
    assert_eq!((file.len(), file.present_pages()), (8 * PAGE_SIZE, 8));
    drop((file, space));
    end(m, taken, vec![]);
}
