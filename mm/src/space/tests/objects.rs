//! Objects that lose pages while they are mapped: ftruncate(2) and `MADV_REMOVE`.

use std::sync::Arc;

use super::*;
use crate::backing::{Backing, BackingName, SharedMemory};
use crate::vma::MapType;

/// A memfd of so many pages.
fn memfd(m: &SoftwareMachine, pages: u64) -> Arc<SharedMemory> {
    let object = SharedMemory::file(Arc::clone(&m.frames), pages, BackingName::default());
    Arc::new(object.promised_by_page(m.space.look().system().no_promise()))
}

/// Another space on the same frames.
fn beside(m: &SoftwareMachine, space: AddressSpace) -> SoftwareMachine {
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    SoftwareMachine { space: SharedSpace::new(space), sink, frames }
}

fn fork(m: &SoftwareMachine) -> SoftwareMachine {
    beside(m, m.space.change().fork(Vcpus::Stopped).unwrap())
}

fn audit_both(a: &SoftwareMachine, b: &SoftwareMachine) {
    audit_all(&[&a.space.look(), &b.space.look()]).unwrap();
}

fn truncate(m: &SoftwareMachine, file: &SharedMemory, bytes: u64) {
    let system = Arc::clone(m.space.look().system());
    file.truncate(bytes, &system).unwrap();
}

#[test]
fn what_a_truncated_memfd_loses_is_a_sigbus_in_all_spaces_and_costs_one_flush() {
    let m = machine();
    let file = memfd(&m, 8);
    map_file(&m, 0, 8, MapType::Shared, &file);
    map_file(&m, 20, 8, MapType::Private, &file);
    let child = fork(&m);
    for space in [&m, &child] {
        for at in (0..8).chain(20..28) {
            space.store(page(at), 1 + at as u8).unwrap();
        }
    }
    let flushes = m.sink.flushes();
    truncate(&m, &file, 3 * PAGE_SIZE);
    assert_eq!(m.sink.flushes(), flushes + 1);
    audit_both(&m, &child);
    for space in [&m, &child] {
        for at in [0, 20] {
            assert_eq!(space.load(page(at + 2)).unwrap(), 3 + at as u8);
            // Private copies are gone as well.
            assert_eq!(fault_of(space.load(page(at + 3))), Fault::NoBacking(page(at + 3)));
            assert_eq!(fault_of(space.store(page(at + 7), 1)), Fault::NoBacking(page(at + 7)));
        }
    }
    truncate(&m, &file, 8 * PAGE_SIZE);
    assert_eq!((m.load(page(7)).unwrap(), child.load(page(27)).unwrap()), (0, 0));
    audit_both(&m, &child);
    child.space.exit().unwrap();
    m.space.exit().unwrap();
    drop(file);
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn the_rest_of_the_page_in_which_a_memfd_ends_reads_as_zeros() {
    let m = machine();
    let file = memfd(&m, 2);
    map_file(&m, 0, 2, MapType::Shared, &file);
    for byte in [99, 100] {
        m.store(page(0).offset(byte), 1).unwrap();
    }
    truncate(&m, &file, 100);
    let bytes = [99, 100].map(|byte| m.load(page(0).offset(byte)).unwrap());
    assert_eq!((bytes, file.pages()), ([1, 0], 1));
    assert_eq!(fault_of(m.load(page(1))), Fault::NoBacking(page(1)));
}

#[test]
fn removed_pages_read_as_zeros_in_all_spaces_but_private_copies_stay() {
    let m = machine();
    let file = memfd(&m, 4);
    map_file(&m, 0, 4, MapType::Shared, &file);
    map_file(&m, 20, 4, MapType::Private, &file);
    for at in 0..4 {
        m.store(page(at), 7).unwrap();
        m.load(page(20 + at)).unwrap();
    }
    m.store(page(21), 9).unwrap();
    let child = fork(&m);
    child.load(page(1)).unwrap();
    let flushes = m.sink.flushes();
    m.space.change().madvise(page(1), 2 * PAGE_SIZE, Advice::Remove as i32).unwrap();
    assert_eq!(m.sink.flushes(), flushes + 1);
    // Though nobody else uses the space itself.
    assert_eq!(m.sink.last().others, Others::MayRun);
    audit_both(&m, &child);
    for space in [&m, &child] {
        assert_eq!([0, 1, 2, 3].map(|at| space.load(page(at)).unwrap()), [7, 0, 0, 7]);
        assert_eq!([0, 1, 2, 3].map(|at| space.load(page(20 + at)).unwrap()), [7, 9, 0, 7]);
    }
    child.store(page(2), 5).unwrap();
    assert_eq!(m.load(page(22)).unwrap(), 5);
    child.space.exit().unwrap();
}

#[test]
fn an_object_finds_its_pages_wherever_they_were_moved_and_however_they_were_cut() {
    let m = machine();
    let file = memfd(&m, 8);
    map_file(&m, 0, 8, MapType::Shared, &file);
    (0..8).for_each(|at| m.store(page(at), 1).unwrap());
    protect(&m, 2, 2, Prot::READ).unwrap();
    unmap(&m, 5, 1).unwrap();
    remap(&m, 6, 1, 1, Some(40)).unwrap();
    // A second map of the same pages (old length 0), which then grows.
    remap(&m, 0, 0, 2, Some(50)).unwrap();
    assert_eq!(m.load(page(51)).unwrap(), 1);
    remap(&m, 50, 2, 4, None).unwrap();
    assert_eq!(m.load(page(53)).unwrap(), 1);
    audit(&m.space.look()).unwrap();
    truncate(&m, &file, PAGE_SIZE);
    for at in [1, 2, 3, 4, 7, 40, 51, 53] {
        assert_eq!(fault_of(m.load(page(at))), Fault::NoBacking(page(at)));
    }
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(50)).unwrap()), (1, 1));
    audit_all(&[&m.space.look()]).unwrap();
}

/// The pages from `first` on that a space still has.
fn left_over(m: &SoftwareMachine, first: u64) -> Vec<VirtAddr> {
    let space = m.space.look();
    let backed = space.vmas().iter().filter(|vma| vma.backing.is_some());
    let entries =
        backed.flat_map(|vma| space.table.cursor(vma.range()).map(move |leaf| (vma, leaf)));
    let gone = entries.filter(|(vma, leaf)| vma.page_index(leaf.addr) >= first);
    gone.map(|(_, leaf)| leaf.addr).collect()
}

/// Touches pages, whatever comes of it.
fn touch(m: &SoftwareMachine, turn: u64) {
    for at in 0..48 {
        let result = match (at + turn) % 3 {
            0 => m.space.write(page(at), &[1]),
            _ => m.space.read(page(at), &mut [0]),
        };
        match result {
            Ok(())
            | Err(AccessError::Fault(
                Fault::NoBacking(_) | Fault::NotMapped(_) | Fault::Denied(_),
            )) => {}
            other => panic!("page {at}: {other:?}"),
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many thousand calls")]
fn no_page_comes_back_that_is_taken_away_while_others_fault_move_fork_and_exit() {
    let m = machine();
    let file = memfd(&m, 12);
    map_file(&m, 0, 12, MapType::Shared, &file);
    map_file(&m, 20, 12, MapType::Private, &file);
    let other = fork(&m);
    std::thread::scope(|scope| {
        let workers = [
            scope.spawn(|| (0..60_000).for_each(|turn| touch(&m, turn))),
            scope.spawn(|| (0..60_000).for_each(|turn| touch(&other, turn))),
            scope.spawn(|| {
                for _ in 0..30_000 {
                    remap(&m, 0, 12, 12, Some(34)).unwrap();
                    remap(&m, 34, 12, 12, Some(0)).unwrap();
                    protect(&m, 20, 6, Prot::READ).unwrap();
                    protect(&m, 20, 6, RW).unwrap();
                }
            }),
            scope.spawn(|| {
                for turn in 0..5_000 {
                    let child = fork(&other);
                    touch(&child, turn);
                    child.space.exit().unwrap();
                }
            }),
        ];
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            truncate(&m, &file, 5 * PAGE_SIZE);
            let left = [&m, &other].map(|space| left_over(space, 5));
            assert!(left.iter().all(Vec::is_empty), "{left:?}");
            truncate(&m, &file, 12 * PAGE_SIZE);
            std::thread::yield_now();
            let system = Arc::clone(m.space.look().system());
            file.punch(3..9, &system).unwrap();
            std::thread::yield_now();
        }
    });
    audit_both(&m, &other);
    other.space.exit().unwrap();
    m.space.exit().unwrap();
    drop(file);
    assert_eq!(m.frames.stats().pages, 0);
}
