//! Copy-on-write and the page of zeros.

use std::sync::Arc;

use super::*;
use crate::paging::{ForkedRoot, Others};

/// A child of the machine's space, on the same frames.
fn child_of(m: &SoftwareMachine) -> SoftwareMachine {
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    for space in [&*m.space.look(), &child] {
        audit(space).unwrap();
    }
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    SoftwareMachine { space: SharedSpace::new(child), sink, frames }
}

fn frame_at(m: &SoftwareMachine, index: u64) -> Option<crate::addr::Frame> {
    let space = m.space.look();
    let slot = space.table.slot(page(index))?;
    Entry::new(slot.load(Ordering::Relaxed)).frame()
}

#[test]
fn a_fork_copies_no_page_and_each_side_keeps_its_bytes() {
    let m = machine();
    map_at(&m, 0, 4, RW).unwrap();
    for i in 0..4 {
        m.store(page(i), 10 + i as u8).unwrap();
    }
    let pages = m.frames.stats().pages;
    let child = child_of(&m);
    assert_eq!(m.frames.stats().pages, pages);
    m.store(page(0), 1).unwrap();
    child.store(page(3), 2).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (1, 10));
    assert_eq!((m.load(page(3)).unwrap(), child.load(page(3)).unwrap()), (13, 2));
    assert_eq!(frame_at(&m, 1), frame_at(&child, 1));
    assert_eq!((m.space.look().resident().own(), child.space.look().resident().own()), (4, 4));
    audit_all(&[&m.space.look(), &child.space.look()]).unwrap();
    child.space.exit().unwrap();
    audit_all(&[&m.space.look()]).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(3)).unwrap()), (1, 13));
}

#[test]
fn the_last_owner_writes_in_place() {
    let m = machine();
    map_at(&m, 0, 64, RW).unwrap();
    for i in 0..64 {
        m.store(page(i), 1).unwrap();
    }
    let child = child_of(&m);
    let frame = frame_at(&m, 5);
    child.space.exit().unwrap();
    m.store(page(5), 2).unwrap();
    assert_eq!(frame_at(&m, 5), frame);
    // And its neighbours need no fault of their own.
    let writable = |i| {
        let space = m.space.look();
        let slot = space.table.slot(page(i)).unwrap();
        Entry::new(slot.load(Ordering::Relaxed)).is_writable()
    };
    assert!(writable(0) && writable(4) && writable(6) && writable(63));
}

#[test]
fn a_shared_page_stays_read_only_when_mprotect_allows_writing_again() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 7).unwrap();
    let child = child_of(&m);
    protect(&child, 0, 1, Prot::READ).unwrap();
    protect(&child, 0, 1, RW).unwrap();
    protect(&m, 0, 1, RW | Prot::EXEC).unwrap();
    audit(&m.space.look()).unwrap();
    child.store(page(0), 8).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (7, 8));
}

#[test]
fn the_old_translation_is_flushed_before_a_copy_takes_its_place() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 7).unwrap();
    let old = frame_at(&m, 0).unwrap();
    let child = child_of(&m);
    // Made read-only, and so told to whoever may have it cached.
    assert_eq!((m.sink.last().leaves.len(), m.sink.last().writes[0].start), (0, old));
    let before = m.sink.flushes();
    // The child never had it cached: nothing more to flush.
    child.store(page(0), 9).unwrap();
    assert_eq!(m.sink.flushes(), before);
    let grandchild = child_of(&m);
    let before = m.sink.flushes();
    assert_eq!((m.load(page(0)).unwrap(), grandchild.load(page(0)).unwrap()), (7, 7));
    m.store(page(0), 8).unwrap();
    assert_eq!((m.sink.flushes(), m.sink.last().leaves[0].start), (before + 1, old));
    assert_eq!(grandchild.load(page(0)).unwrap(), 7);
}

#[test]
fn memory_that_is_only_read_is_one_page_of_zeros_that_does_not_count() {
    let m = machine();
    map_at(&m, 0, 64, RW).unwrap();
    for i in (0..64).step_by(3) {
        assert_eq!(m.load(page(i)).unwrap(), 0);
    }
    assert_eq!(frame_at(&m, 0), frame_at(&m, 63));
    assert_eq!((m.frames.stats().pages, m.space.look().resident().total()), (0, 0));
    let resident = m.space.look().mincore(page(0), 6 * PAGE_SIZE).unwrap();
    assert_eq!(resident, [1, 0, 0, 1, 0, 0]);
    m.store(page(3), 5).unwrap();
    assert_eq!((m.load(page(3)).unwrap(), m.load(page(6)).unwrap()), (5, 0));
    assert_eq!(m.space.look().resident().own(), 1);
    audit(&m.space.look()).unwrap();
}

#[test]
fn pages_brought_in_ahead_show_only_once_they_are_touched() {
    let m = machine();
    map_at(&m, 0, 64, RW).unwrap();
    for i in 0..5 {
        m.store(page(i), 1).unwrap();
    }
    assert!(frame_at(&m, 5).is_some() && frame_at(&m, 6).is_some(), "nothing ahead");
    let resident = |i| m.space.look().mincore(page(i), PAGE_SIZE).unwrap()[0];
    assert_eq!((resident(4), resident(5), resident(6)), (1, 0, 0));
    assert_eq!(m.space.look().resident().own(), 5);
    // Read, it is as the page of zeros would be; written, it counts.
    assert_eq!(m.load(page(5)).unwrap(), 0);
    assert_eq!((resident(5), m.space.look().resident().own()), (1, 5));
    m.store(page(6), 1).unwrap();
    assert_eq!((resident(6), m.space.look().resident().own()), (1, 6));
    audit(&m.space.look()).unwrap();
    // A child gets what its parent had, no more.
    let child = child_of(&m);
    assert_eq!((child.load(page(6)).unwrap(), child.space.look().resident().own()), (1, 6));
    assert!(frame_at(&m, 6).is_some() && frame_at(&m, 7).is_none());
    assert_eq!(frame_at(&m, 5), frame_at(&child, 5));
}

#[test]
fn what_was_brought_in_ahead_and_not_used_is_given_back_in_time() {
    let m = SoftwareMachine::new(16384, Limits::default()).unwrap();
    // Many places where a program goes on for a few pages only.
    for place in 0..200 {
        map_at(&m, place * 512, 64, RW).unwrap();
        for i in 0..5 {
            m.store(page(place * 512 + i), 1).unwrap();
        }
    }
    assert_eq!(m.space.look().resident().own(), 1000);
    assert!(m.frames.stats().pages < 1000 + 8 * 64, "{:?}", m.frames.stats());
}

#[test]
fn a_page_ahead_moves_nowhere_and_tells_a_userfaultfd_nothing() {
    let m = machine();
    map_at(&m, 0, 64, RW).unwrap();
    for i in 0..5 {
        m.store(page(i), 1).unwrap();
    }
    assert!(frame_at(&m, 6).is_some());
    remap(&m, 0, 64, 64, Some(100)).unwrap();
    assert!(frame_at(&m, 104).is_some() && frame_at(&m, 106).is_none());
    assert_eq!((m.load(page(104)).unwrap(), m.load(page(106)).unwrap()), (1, 0));
    assert_eq!(m.space.look().resident().own(), 5);
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_fork_with_all_vcpus_stopped_flushes_nothing_and_neither_does_the_write_after_it() {
    let m = machine();
    map_at(&m, 0, 600, RW).unwrap();
    for i in [0, 1, 599] {
        m.store(page(i), 7).unwrap();
    }
    let root = m.space.look().table().root();
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    assert_ne!(m.space.look().table().root(), root);
    audit(&m.space.look()).unwrap();
    audit(&child).unwrap();
    m.store(page(599), 8).unwrap();
    child.exit().unwrap();
    m.store(page(0), 8).unwrap();
    assert_eq!(m.sink.flushes(), 0);
    assert_eq!([0, 1, 599].map(|i| m.load(page(i)).unwrap()), [8, 7, 8]);
    // The tables that were replaced wait for a flush of everything.
    let tables = m.frames.stats().tables;
    m.space.look().system().free_retired().unwrap();
    assert_eq!((m.sink.table_flushes(), m.frames.stats().tables < tables), (1, true));
}

#[test]
fn a_fork_that_keeps_its_root_flushes_once_and_so_does_the_write_after_it() {
    let m = machine();
    m.sink.set_forked_root(ForkedRoot::Kept);
    map_at(&m, 0, 600, RW).unwrap();
    for i in [0, 1, 599] {
        m.store(page(i), 7).unwrap();
    }
    let root = m.space.look().table().root();
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    assert_eq!((m.space.look().table().root(), m.sink.flushes()), (root, 1));
    let written: u64 = m.sink.last().writes.iter().map(|run| run.count).sum();
    assert_eq!((written, m.sink.last().others), (3, Others::Stopped));
    audit(&m.space.look()).unwrap();
    audit(&child).unwrap();
    // It is read on, and nothing is flushed for that; the page that is written was in use by both.
    assert_eq!([0, 1, 599].map(|i| m.load(page(i)).unwrap()), [7; 3]);
    child.table.walk(page(599), AccessKind::Read).unwrap();
    m.store(page(599), 8).unwrap();
    assert_eq!(m.sink.flushes(), 2);
    child.exit().unwrap();
    m.store(page(0), 8).unwrap();
    assert_eq!(m.sink.flushes(), 2, "the last owner takes it");
    assert_eq!([0, 1, 599].map(|i| m.load(page(i)).unwrap()), [8, 7, 8]);
}

#[test]
fn a_frame_that_counts_a_map_too_many_or_too_few_fails_the_audit_of_all_spaces() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    m.store(page(0), 1).unwrap();
    m.load(page(1)).unwrap();
    let child = child_of(&m);
    let (frame, zero) = (frame_at(&m, 0).unwrap(), frame_at(&m, 1).unwrap());
    assert_eq!((m.frames.maps(frame), m.frames.maps(zero)), (2, 0));
    audit_all(&[&m.space.look(), &child.space.look()]).unwrap();
    audit_all(&[&m.space.look()]).unwrap_err();
    m.frames.map(frame);
    audit_all(&[&m.space.look(), &child.space.look()]).unwrap_err();
    m.frames.unmap(frame).unwrap();
    m.frames.unmap(frame).unwrap();
    audit_all(&[&m.space.look(), &child.space.look()]).unwrap_err();
}

#[test]
fn an_entry_that_is_emptied_and_was_not_counted_breaks_the_operation() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    m.frames.unmap(frame_at(&m, 0).unwrap()).unwrap();
    assert!(matches!(unmap(&m, 0, 1), Err(CallError::Broken(_))));
}
