//! A copy for the other one: who writes a page of two keeps it.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::*;
use crate::addr::{Frame, index};
use crate::inspect::{smaps_rollup, status};
use crate::paging::ForkedRoot;

const PAGES: u64 = 4;

/// A machine whose process has written some pages, page by page and so more are brought in ahead of it.
fn written(pages: u64) -> SoftwareMachine {
    let m = machine();
    m.sink.set_forked_root(ForkedRoot::Kept);
    map_at(&m, 0, pages, RW).unwrap();
    for i in 0..pages {
        m.store(page(i), byte_of(i)).unwrap();
    }
    m
}

fn byte_of(index: u64) -> u8 {
    (index % 200) as u8 + 1
}

fn child_of(m: &SoftwareMachine) -> SoftwareMachine {
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    SoftwareMachine { space: SharedSpace::new(child), sink, frames }
}

fn entry_at(m: &SoftwareMachine, index: u64) -> Entry {
    let space = m.space.look();
    let slot = space.table.slot(page(index)).unwrap();
    Entry::new(slot.load(Ordering::Relaxed))
}

fn frame_at(m: &SoftwareMachine, index: u64) -> Frame {
    entry_at(m, index).frame().unwrap()
}

fn handed_off(m: &SoftwareMachine) -> u64 {
    m.space.look().counters().faults.handed_off.load(Ordering::Relaxed)
}

fn copied(m: &SoftwareMachine) -> u64 {
    m.space.look().counters().faults.copied.load(Ordering::Relaxed)
}

fn audit_of(all: &[&SoftwareMachine]) {
    let looked: Vec<_> = all.iter().map(|m| m.space.look()).collect();
    let spaces: Vec<_> = looked.iter().map(|space| &**space).collect();
    spaces.iter().for_each(|space| audit(space).unwrap());
    audit_all(&spaces).unwrap();
}

/// Writes page 0 of the parent. Says whether that flushed something.
fn write_flushes(m: &SoftwareMachine) -> bool {
    let before = m.sink.flushes();
    m.store(page(0), 99).unwrap();
    m.sink.flushes() != before
}

#[test]
fn who_writes_keeps_the_page_and_nothing_is_flushed() {
    let m = written(PAGES);
    let child = child_of(&m);
    let (frame, resident) = (frame_at(&m, 0), m.space.look().resident().own());
    assert!(!write_flushes(&m));
    assert_eq!((handed_off(&m), copied(&m), frame_at(&m, 0)), (1, 0, frame));
    assert_ne!(frame_at(&child, 0), frame);
    audit_of(&[&m, &child]);
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (99, byte_of(0)));
    for space in [&m, &child] {
        let look = space.space.look();
        assert_eq!((look.resident().own(), look.resident().peak()), (resident, resident));
        assert_eq!(space.frames.maps(frame_at(space, 0)), 1);
    }
    // The child writes its page without a copy. It, too, is nobody else's.
    let given = frame_at(&child, 0);
    child.store(page(0), 50).unwrap();
    assert_eq!((frame_at(&child, 0), copied(&child), m.load(page(0)).unwrap()), (given, 0, 99));
    audit_of(&[&m, &child]);
}

#[test]
fn to_all_who_look_it_is_as_with_a_copy_the_other_way_round() {
    let shown = |m: &SoftwareMachine| {
        let space = m.space.look();
        (smaps_rollup(&space).to_string(), status(&space).to_string())
    };
    let [handed, copied] = [0, 1].map(|reads| {
        let m = written(1);
        let child = child_of(&m);
        let _: Vec<u8> = (0..reads).map(|_| child.load(page(0)).unwrap()).collect();
        m.store(page(0), 99).unwrap();
        assert_eq!(handed_off(&m), 1 - reads);
        // Only now, so that it shows as read in both.
        child.load(page(0)).unwrap();
        (shown(&m), shown(&child))
    });
    assert_eq!(handed, copied);
}

#[test]
fn a_page_that_the_other_has_used_is_copied_for_the_writer() {
    let m = written(PAGES);
    let child = child_of(&m);
    let frame = frame_at(&m, 0);
    child.load(page(0)).unwrap();
    assert!(write_flushes(&m));
    assert_eq!((handed_off(&m), copied(&m), frame_at(&child, 0)), (0, 1, frame));
    audit_of(&[&m, &child]);
}

#[test]
fn a_page_of_three_is_copied_for_the_writer_and_the_last_two_are_two() {
    let m = written(1);
    let [first, second] = [child_of(&m), child_of(&m)];
    let frame = frame_at(&m, 0);
    // Never cached here either: no reason to give anything away.
    first.store(page(0), 50).unwrap();
    assert_eq!((handed_off(&first), copied(&first), frame_at(&m, 0)), (0, 1, frame));
    let third = child_of(&m);
    assert!(write_flushes(&m), "a page of three");
    assert_eq!((handed_off(&m), frame_at(&second, 0), frame_at(&third, 0)), (0, frame, frame));
    // The two that are left; one of them has it cached.
    second.load(page(0)).unwrap();
    second.store(page(0), 51).unwrap();
    assert_eq!((handed_off(&second), frame_at(&second, 0)), (1, frame));
    assert_eq!([&m, &first, &second, &third].map(|m| m.load(page(0)).unwrap()), [99, 50, 51, 1]);
    audit_of(&[&m, &first, &second, &third]);
}

#[test]
fn the_other_is_found_where_it_has_moved_and_not_where_it_was_unmapped() {
    let m = written(4);
    let child = child_of(&m);
    remap(&child, 0, 1, 1, Some(700)).unwrap();
    unmap(&child, 1, 1).unwrap();
    assert!(!write_flushes(&m));
    m.store(page(1), 98).unwrap();
    assert_eq!((handed_off(&m), copied(&m)), (1, 0));
    assert_eq!((child.load(page(700)).unwrap(), m.load(page(1)).unwrap()), (byte_of(0), 98));
    audit_of(&[&m, &child]);
    child.space.exit().unwrap();
    audit_of(&[&m]);
}

#[test]
fn a_child_that_has_the_page_cached_keeps_it_too() {
    let m = SoftwareMachine::new(8192, Limits::default()).unwrap();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 7).unwrap();
    // The parent has a fresh root, in which nothing was ever cached.
    let child = child_of(&m);
    let frame = frame_at(&m, 0);
    assert_eq!(child.load(page(0)).unwrap(), 7);
    assert!(entry_at(&m, 0).is_referenced() && !entry_at(&m, 0).is_accessed());
    child.store(page(0), 8).unwrap();
    assert_eq!((handed_off(&child), frame_at(&child, 0)), (1, frame));
    assert!(entry_at(&m, 0).is_referenced() && entry_at(&m, 0).is_dirty(), "the parent's own bits");
    audit_of(&[&m, &child]);
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (7, 8));
    assert_eq!(m.sink.flushes(), 0);
}

#[test]
fn a_program_that_goes_on_page_by_page_gets_the_copies() {
    let m = written(512);
    let child = child_of(&m);
    let frames: Vec<_> = (0..512).map(|i| frame_at(&m, i)).collect();
    for i in 0..512 {
        m.store(page(i), 99).unwrap();
    }
    // One flush for many translations, that the hardware learns anew together, instead of a permission for each.
    assert!(handed_off(&m) <= 1 && copied(&m) < 20, "{} {}", handed_off(&m), copied(&m));
    assert_eq!(frame_at(&child, 500), frames[500]);
    assert!((0..512).all(|i| child.load(page(i)).unwrap() == byte_of(i)));
    audit_of(&[&m, &child]);
}

#[test]
fn a_program_that_jumps_about_keeps_its_pages() {
    let m = written(512);
    let child = child_of(&m);
    let frames: Vec<_> = (0..512).map(|i| frame_at(&m, i)).collect();
    m.sink.set_forked_root(ForkedRoot::Kept);
    // Until the window has closed.
    (0..5).for_each(|i| m.store(page(500 - 2 * i), 99).unwrap());
    let (before, done) = (m.sink.flushes(), handed_off(&m));
    let places = || (0..100).map(|i| i * 3);
    places().for_each(|i| m.store(page(i), 99).unwrap());
    assert_eq!((m.sink.flushes(), handed_off(&m)), (before, done + 100));
    assert!(places().all(|i| frame_at(&m, i) == frames[index(i)]));
    assert!((0..512).all(|i| child.load(page(i)).unwrap() == byte_of(i)));
    audit_of(&[&m, &child]);
}

#[test]
fn with_no_frame_for_the_other_the_writer_gets_the_copy() {
    let m = written(PAGES);
    let child = child_of(&m);
    let frame = frame_at(&m, 0);
    m.frames.failures().refuse(NonZeroU64::new(1).unwrap());
    assert!(write_flushes(&m));
    m.frames.failures().stop();
    assert_eq!((handed_off(&m), copied(&m), frame_at(&child, 0)), (0, 1, frame));
    audit_of(&[&m, &child]);
}

#[test]
fn a_page_that_may_be_dropped_is_copied_for_the_writer() {
    let m = written(1);
    let child = child_of(&m);
    // It clears A, and flushes; that several name the page decides what becomes of it.
    child.load(page(0)).unwrap();
    child.space.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
    assert!(!entry_at(&child, 0).is_accessed());
    assert!(write_flushes(&m));
    assert_eq!((handed_off(&m), child.load(page(0)).unwrap()), (0, byte_of(0)));
    audit_of(&[&m, &child]);
}

#[test]
fn of_many_processes_nobody_looks_for_the_one_that_has_the_page_too() {
    let m = written(1);
    let children: Vec<_> = (0..20).map(|_| child_of(&m)).collect();
    for child in &children[1..] {
        child.store(page(0), 50).unwrap();
    }
    assert_eq!(m.frames.maps(frame_at(&m, 0)), 2);
    assert!(write_flushes(&m));
    let all: Vec<_> = children.iter().chain([&m]).collect();
    audit_of(&all);
}
