//! What a debugger may that the program may not: reading and writing by force.

use super::*;
use crate::backing::SharedMemory;
use crate::space::Advice;

fn get(m: &SoftwareMachine, index: u64) -> Option<u8> {
    let mut byte = [0];
    (m.space.read_forced(page(index), &mut byte).unwrap() == 1).then_some(byte[0])
}

fn put(m: &SoftwareMachine, index: u64, byte: u8) -> usize {
    m.space.write_forced(page(index), &[byte]).unwrap()
}

fn denied(m: &SoftwareMachine, index: u64) -> bool {
    fault_of(m.store(page(index), 9)) == Fault::Denied(page(index))
}

#[test]
fn private_memory_is_written_and_stays_forbidden() {
    for prot in [Prot::READ, Prot::empty(), Prot::READ | Prot::EXEC] {
        let m = machine();
        map_at(&m, 0, 3, RW).unwrap();
        m.store(page(0), 1).unwrap();
        protect(&m, 0, 3, prot).unwrap();
        assert_eq!([get(&m, 0), get(&m, 1)], [Some(1), Some(0)]);
        // Own, zeros, nothing there.
        assert_eq!([put(&m, 0, 5), put(&m, 1, 6), put(&m, 2, 7)], [1; 3]);
        assert_eq!([get(&m, 0), get(&m, 1), get(&m, 2)], [Some(5), Some(6), Some(7)]);
        assert!((0..3).all(|index| denied(&m, index)), "{prot:?}");
        assert_eq!(m.load(page(0)).is_ok(), prot.contains(Prot::READ));
        assert_eq!(m.space.look().counters().resident.total(), 3);
        audited(&[&m]);
    }
}

#[test]
fn of_two_processes_each_writes_his_own() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    (0..2).for_each(|index| m.store(page(index), 1).unwrap());
    protect(&m, 0, 2, Prot::empty()).unwrap();
    let child = child_of(&m);
    assert_eq!([put(&child, 0, 2), put(&m, 1, 3)], [1; 2]);
    assert_eq!([get(&m, 0), get(&m, 1)], [Some(1), Some(3)]);
    assert_eq!([get(&child, 0), get(&child, 1)], [Some(2), Some(1)]);
    assert!(denied(&m, 1) && denied(&child, 0));
    audited(&[&m, &child]);
}

#[test]
fn an_object_is_written_only_where_the_program_may() {
    let m = machine();
    let system = Arc::clone(m.space.look().system());
    let memory = Arc::new(SharedMemory::memfd(&system, "object"));
    memory.truncate(2 * PAGE_SIZE, &system).unwrap();
    map_file(&m, 0, 2, MapType::Shared, &memory);
    map_file(&m, 4, 2, MapType::Private, &memory);
    m.store(page(0), 1).unwrap();
    assert_eq!(put(&m, 1, 2), 1);
    protect(&m, 0, 6, Prot::READ).unwrap_err();
    for part in [0, 4] {
        protect(&m, part, 2, Prot::empty()).unwrap();
    }
    assert_eq!([put(&m, 0, 5), put(&m, 1, 5)], [0; 2]);
    assert_eq!([put(&m, 4, 6), put(&m, 5, 7)], [1; 2]);
    assert_eq!([0, 1, 4, 5].map(|index| get(&m, index)), [Some(1), Some(2), Some(6), Some(7)]);
    audited(&[&m]);
}

#[test]
fn what_is_not_there_ends_it() {
    let m = machine();
    map_at(&m, 0, 3, Prot::READ).unwrap();
    m.space.change().madvise(page(2), PAGE_SIZE, Advice::GuardInstall as i32).unwrap();
    let mut bytes = [1; 4 * PAGE_SIZE as usize];
    let half = PAGE_SIZE as usize / 2;
    let from = VirtAddr::new(page(0).get() + half as u64);
    assert_eq!(m.space.read_forced(from, &mut bytes).unwrap(), 3 * half);
    assert_eq!(m.space.write_forced(from, &bytes).unwrap(), 3 * half);
    assert_eq!([get(&m, 2), get(&m, 3)], [None; 2]);
    assert_eq!([put(&m, 2, 1), put(&m, 3, 1)], [0; 2]);
    assert_eq!(m.space.read_forced(VirtAddr::new(u64::MAX), &mut bytes).unwrap(), 0);
    assert_eq!(m.space.write_forced(VirtAddr::TASK_END, &bytes).unwrap(), 0);
    audited(&[&m]);
}

#[test]
fn who_has_not_that_right_has_it_not() {
    let m = machine();
    map_at(&m, 0, 1, Prot::empty()).unwrap();
    let mut byte = [0];
    assert_eq!(fault_of(m.space.read(page(0), &mut byte)), Fault::Denied(page(0)));
    // Nor if somebody has just used it.
    assert_eq!(put(&m, 0, 1), 1);
    assert_eq!(fault_of(m.space.read(page(0), &mut byte)), Fault::Denied(page(0)));
    assert_eq!(fault_of(m.space.write(page(0), &byte)), Fault::Denied(page(0)));
}
