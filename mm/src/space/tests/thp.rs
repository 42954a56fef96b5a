//! Huge pages: what is seen of them is compared with Linux in the differential test; here is what is not seen.

use super::*;
use crate::addr::{FrameRun, PAGE_SHIFT};
use crate::paging::{Entry, TableChange};
use crate::phys::{BLOCK_FRAMES, Contents, FrameKind};
use crate::sysctl::Thp;

/// Pages of a huge page; `page(0)` is where one begins.
const HUGE: u64 = BLOCK_FRAMES;
const WRITE: AccessKind = AccessKind::Write;

/// A machine that gives huge pages wherever they fit, with room for `huges` of them at `page(0)`.
fn machine_with(huges: u64) -> SoftwareMachine {
    let m = machine();
    m.space.look().system().sysctl.set_thp(Thp::Always);
    map_at(&m, 0, huges * HUGE, RW).unwrap();
    m
}

fn entry(m: &SoftwareMachine, at: u64) -> Entry {
    m.space.look().entry_at(page(at))
}

fn is_huge(m: &SoftwareMachine, at: u64) -> bool {
    m.space.look().table().large(page(at)).is_some()
}

fn run_of(m: &SoftwareMachine, at: u64) -> FrameRun {
    m.space.look().table().large(page(at)).unwrap().run().unwrap()
}

#[test]
fn one_entry_maps_frames_in_one_piece_that_begin_where_their_addresses_do() {
    let m = machine_with(1);
    m.store(page(300), 7).unwrap();
    let run = run_of(&m, 0);
    assert_eq!((run.count, run.start.number() % HUGE), (HUGE, 0));
    assert_eq!(entry(&m, 300).frame(), Some(run.start.offset(300)));
    assert_eq!((m.load(page(300)).unwrap(), m.load(page(301)).unwrap()), (7, 0));
    assert_eq!(m.frames.stats().pages, HUGE);
    audited(&[&m]);
}

#[test]
fn unmapping_a_huge_page_is_one_flush_of_everything() {
    let m = machine_with(2);
    m.store(page(0), 7).unwrap();
    m.store(page(HUGE), 7).unwrap();
    let before = m.sink.flushes();
    unmap(&m, 0, 2 * HUGE).unwrap();
    assert_eq!((m.sink.flushes(), m.sink.last().tables), (before + 1, TableChange::Unlinked));
    assert_eq!(m.frames.stats().pages, 0);
    audited(&[&m]);
}

#[test]
fn a_huge_page_is_split_without_memory() {
    let m = machine_with(1);
    m.store(page(7), 7).unwrap();
    let mut taken = Vec::new();
    while let Ok(frame) = m.frames.alloc(FrameKind::Anonymous, Contents::Any) {
        taken.push(frame);
    }
    protect(&m, 100, 1, Prot::READ).unwrap();
    assert!(!is_huge(&m, 0));
    assert_eq!((m.load(page(7)).unwrap(), m.space.look().resident().own()), (7, HUGE));
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    audited(&[&m]);
}

#[test]
fn before_a_split_page_changes_everything_is_flushed() {
    let m = machine_with(1);
    m.store(page(7), 7).unwrap();
    let before = m.sink.flushes();
    protect(&m, 100, 1, Prot::READ).unwrap();
    // The split's, then the one of the page that may not be written any more.
    assert_eq!(m.sink.flushes(), before + 2);
    assert_eq!(m.sink.last().tables, TableChange::None);
}

#[test]
fn where_no_memory_is_left_in_one_piece_pages_are_small() {
    let m = machine_with(1);
    // One frame of each block stays, the others can be had again.
    let blocks = m.frames.memory().frames() / HUGE;
    let mut taken = Vec::new();
    while let Ok(frame) = m.frames.alloc(FrameKind::Anonymous, Contents::Any) {
        taken.push(frame);
    }
    let (kept, free): (Vec<_>, Vec<_>) =
        taken.into_iter().partition(|frame| frame.number() % HUGE == 5);
    assert!(kept.len() as u64 >= blocks - 1);
    free.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    m.store(page(3), 9).unwrap();
    assert!(!is_huge(&m, 0));
    assert_eq!(m.load(page(3)).unwrap(), 9);
    kept.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    audited(&[&m]);
}

#[test]
fn parent_and_child_name_one_huge_page_until_one_of_them_writes() {
    let m = machine_with(1);
    m.store(page(7), 7).unwrap();
    let run = run_of(&m, 0);
    let child = child_of(&m);
    assert_eq!((run_of(&child, 0), m.frames.maps(run.start)), (run, 2));
    child.store(page(8), 8).unwrap();
    assert!(is_huge(&m, 0) && !is_huge(&child, 0));
    assert_eq!((m.load(page(8)).unwrap(), child.load(page(8)).unwrap()), (0, 8));
    assert_eq!(child.load(page(7)).unwrap(), 7);
    audited(&[&m, &child]);
    child.space.exit().unwrap();
    // The last owner writes in place, in one piece.
    m.store(page(9), 9).unwrap();
    assert!(is_huge(&m, 0));
    audited(&[&m]);
}

#[test]
fn a_huge_page_comes_where_small_ones_were_unmapped() {
    let m = machine_with(1);
    m.space.look().system().sysctl.set_thp(Thp::Never);
    m.store(page(7), 7).unwrap();
    m.space.look().system().sysctl.set_thp(Thp::Always);
    // A table is there: Linux gives a small page.
    m.store(page(8), 7).unwrap();
    assert!(!is_huge(&m, 0));
    unmap(&m, 0, HUGE).unwrap();
    map_at(&m, 0, HUGE, RW).unwrap();
    m.store(page(8), 8).unwrap();
    assert!(is_huge(&m, 0));
    assert_eq!((m.load(page(7)).unwrap(), m.load(page(8)).unwrap()), (0, 8));
    audited(&[&m]);
}

#[test]
fn zeros_that_are_read_are_one_huge_page_for_all() {
    let m = machine_with(2);
    assert_eq!((m.load(page(7)).unwrap(), m.load(page(HUGE)).unwrap()), (0, 0));
    assert_eq!((run_of(&m, 0), m.space.look().resident().total()), (run_of(&m, HUGE), 0));
    assert_eq!(m.frames.stats().pages, 0);
    m.store(page(9), 9).unwrap();
    assert!(is_huge(&m, 0));
    assert_eq!(m.space.look().resident().own(), HUGE);
    assert_eq!((m.load(page(9)).unwrap(), m.load(page(HUGE + 9)).unwrap()), (9, 0));
    audited(&[&m]);
}

#[test]
fn a_fork_that_fails_for_want_of_a_table_leaves_the_huge_page_alone() {
    let m = machine_with(2);
    m.store(page(7), 7).unwrap();
    m.store(page(HUGE), 8).unwrap();
    let before = m.frames.stats();
    refuse_forks(&m, || assert_eq!(m.frames.stats().pages, before.pages));
    m.store(page(7), 9).unwrap();
    assert!(is_huge(&m, 0));
}

#[test]
fn bytes_that_a_call_reads_and_writes_are_those_of_the_huge_page() {
    let m = machine_with(1);
    let at = page(HUGE / 2).offset(3);
    m.space.write(at, b"huge").unwrap();
    assert!(is_huge(&m, 0));
    let mut back = [0; 4];
    m.space.read(at, &mut back).unwrap();
    assert_eq!((&back, m.space.look().resident().own() << PAGE_SHIFT), (b"huge", 2 << 20));
    m.space.fault(at, WRITE).unwrap();
    audited(&[&m]);
}
