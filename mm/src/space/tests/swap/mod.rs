//! Pages that are swapped out, and come back: what calls do with them, and when memory is short who goes.

mod age;
mod busy;
mod clusters;
mod each;
mod failure;
mod huge;
mod pressure;
mod shared;

use super::*;
use crate::addr::Frame;
use crate::backing::SharedMemory;
use crate::inspect::{PagemapWord, Usage, pagemap, smaps_rollup, status};
use crate::phys::{Contents, FrameKind};
use crate::swap::{MemoryStore, SwapStats, SwapStore};
use crate::sysctl::Thp;

/// A machine whose swap area has so many places, and one page a fault.
fn swapping(frames: u64, places: u64) -> SoftwareMachine {
    stored(frames, Box::new(MemoryStore::new(places)))
}

fn stored(frames: u64, store: Box<dyn SwapStore>) -> SoftwareMachine {
    let m = SoftwareMachine::prepared(frames, Limits::default(), |system| system.set_swap(store));
    let m = m.unwrap();
    m.space.look().system().sysctl.set_fault_ahead(1);
    m.frames.zero_frame().unwrap();
    m
}

/// The same with pages that hold 100 and their number, all of them swapped out.
fn all_out(pages: u64) -> SoftwareMachine {
    let m = swapping(1024, 100);
    map_at(&m, 0, pages, RW).unwrap();
    fill(&m, 0..pages);
    page_out(&m, 0, pages);
    audited(&[&m]);
    m
}

fn fill(m: &SoftwareMachine, pages: std::ops::Range<u64>) {
    for i in pages {
        m.store(page(i), 100 + i as u8).unwrap();
    }
}

fn advise(m: &SoftwareMachine, at: u64, pages: u64, advice: Advice) {
    m.space.change().madvise(page(at), pages * PAGE_SIZE, advice as i32).unwrap();
}

fn page_out(m: &SoftwareMachine, at: u64, pages: u64) {
    advise(m, at, pages, Advice::PageOut);
}

fn child_of(m: &SoftwareMachine) -> SoftwareMachine {
    forked(m, Vcpus::Running)
}

/// A child of a process that does not run meanwhile.
fn stopped_child_of(m: &SoftwareMachine) -> SoftwareMachine {
    forked(m, Vcpus::Stopped)
}

fn forked(m: &SoftwareMachine, vcpus: Vcpus) -> SoftwareMachine {
    let child = m.space.change().fork(vcpus).unwrap();
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    SoftwareMachine { space: SharedSpace::new(child), sink, frames }
}

fn stats(m: &SoftwareMachine) -> SwapStats {
    m.space.look().system().swap().unwrap().stats()
}

/// Places that are taken, and how many of them have their page in a frame.
fn taken(m: &SoftwareMachine) -> (u64, u64) {
    let stats = stats(m);
    (stats.used, stats.cached)
}

/// Pages written and read so far.
fn moved(m: &SoftwareMachine) -> (u64, u64) {
    let stats = stats(m);
    (stats.written, stats.read)
}

/// Pages resident and swapped, as the space counts them.
fn counts(m: &SoftwareMachine) -> (u64, u64) {
    let space = m.space.look();
    (space.resident().own(), status(&space).vm_swap / PAGE_SIZE)
}

fn bytes(m: &SoftwareMachine, pages: std::ops::Range<u64>) -> Vec<u8> {
    pages.map(|i| m.load(page(i)).unwrap()).collect()
}

fn mincore(m: &SoftwareMachine, pages: u64) -> Vec<u8> {
    m.space.look().mincore(page(0), pages * PAGE_SIZE).unwrap()
}

fn usage(m: &SoftwareMachine) -> Usage {
    smaps_rollup(&m.space.look()).usage
}

/// Takes all the memory that is left, but for `but` frames.
fn use_up(m: &SoftwareMachine, but: usize) -> Vec<Frame> {
    let all = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let mut taken: Vec<Frame> = std::iter::from_fn(all).collect();
    taken.drain(..but).for_each(|frame| m.frames.put(frame).unwrap());
    taken
}

fn end(ms: Vec<SoftwareMachine>, taken: Vec<Frame>) {
    audited(&ms.iter().collect::<Vec<_>>());
    let system = Arc::clone(ms[0].space.look().system());
    let frames = Arc::clone(&ms[0].frames);
    ms.into_iter().for_each(|m| m.space.exit().unwrap());
    taken.into_iter().for_each(|frame| frames.put(frame).unwrap());
    system.free_retired().unwrap();
    assert_eq!((frames.stats().pages, frames.stats().tables), (0, 0));
    let SwapStats { used, cached, .. } = system.swap().unwrap().stats();
    assert_eq!((used, cached), (0, 0));
}

#[test]
fn what_is_paged_out_takes_no_memory_and_comes_back_as_it_was() {
    let m = all_out(4);
    assert_eq!((counts(&m), taken(&m), moved(&m)), ((0, 4), (4, 0), (4, 0)));
    assert_eq!((m.frames.stats().pages, mincore(&m, 4)), (0, vec![0; 4]));
    assert_eq!(bytes(&m, 0..4), [100, 101, 102, 103]);
    assert_eq!((counts(&m), moved(&m)), ((4, 0), (4, 4)));
    assert_eq!(m.space.look().counters().faults.swapped.load(Ordering::Relaxed), 4);
    end(vec![m], vec![]);
}

#[test]
fn smaps_and_pagemap_tell_it() {
    let m = all_out(3);
    let child = child_of(&m);
    assert_eq!((usage(&m).swap, usage(&m).swap_pss.bytes()), (3 * PAGE_SIZE, 3 * PAGE_SIZE / 2));
    m.load(page(0)).unwrap();
    assert_eq!((usage(&m).swap, usage(&m).rss), (2 * PAGE_SIZE, PAGE_SIZE));
    assert_eq!(usage(&child).swap_pss.bytes(), 2 * PAGE_SIZE);
    let text = smaps_rollup(&child.space.look()).to_string();
    assert!(text.contains("Swap:                 12 kB\nSwapPss:               8 kB"), "{text}");
    let space = m.space.look();
    let range = PageRange::from_len(page(0), 3 * PAGE_SIZE).unwrap();
    let words: Vec<PagemapWord> = pagemap(&space, range).collect();
    assert!(words[0].contains(PagemapWord::PRESENT));
    let (state, place) = (PagemapWord::PRESENT | PagemapWord::SWAPPED, PagemapWord::FRAME);
    assert_eq!(words[2] & state, PagemapWord::SWAPPED);
    assert_eq!((words[2] & place).bits(), 2 << 5, "type 0, offset 2");
    let dump = crate::inspect::TableDump(&space).to_string();
    assert!(dump.contains("swapped, 2 pages, places 0x1 to 0x2"), "{dump}");
    drop(space);
    end(vec![m, child], vec![]);
}

#[test]
fn a_page_that_was_only_read_since_keeps_its_place_and_is_not_written_again() {
    let m = all_out(2);
    assert_eq!(bytes(&m, 0..2), [100, 101]);
    assert_eq!(taken(&m), (2, 2));
    page_out(&m, 0, 2);
    assert_eq!((taken(&m), moved(&m)), ((2, 0), (2, 2)));
    assert_eq!(m.load(page(0)).unwrap(), 100);
    m.store(page(0), 7).unwrap();
    assert_eq!(taken(&m), (1, 0), "what is written gives its place up");
    page_out(&m, 0, 2);
    assert_eq!((moved(&m), bytes(&m, 0..2)), ((3, 3), vec![7, 101]));
    end(vec![m], vec![]);
}

#[test]
fn a_write_brings_it_in_at_once() {
    let m = all_out(1);
    let faults = m.space.look().counters().faults.total();
    m.store(page(0), 7).unwrap();
    assert_eq!((m.space.look().counters().faults.total() - faults, taken(&m)), (1, (0, 0)));
    assert_eq!(counts(&m), (1, 0));
    end(vec![m], vec![]);
}

#[test]
fn two_that_share_a_page_get_the_same_frame_and_what_one_writes_is_his() {
    let m = all_out(3);
    let child = child_of(&m);
    assert_eq!((counts(&child), stats(&m).used), ((0, 3), 3));
    let frame = |m: &SoftwareMachine, at| m.space.look().entry_at(page(at)).frame().unwrap();
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (100, 100));
    assert_eq!((frame(&m, 0), moved(&m)), (frame(&child, 0), (3, 1)));
    // One is there, the other not.
    child.store(page(1), 9).unwrap();
    assert_eq!((m.load(page(1)).unwrap(), child.load(page(1)).unwrap()), (101, 9));
    m.store(page(0), 8).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (8, 100));
    audited(&[&m, &child]);
    child.space.exit().unwrap();
    m.store(page(2), 5).unwrap();
    assert_eq!(bytes(&m, 0..3), [8, 101, 5]);
    end(vec![m], vec![]);
}

#[test]
fn what_several_processes_name_is_taken_from_all_of_them_when_memory_is_short() {
    let m = swapping(1024, 100);
    map_at(&m, 0, 4, RW).unwrap();
    fill(&m, 0..4);
    let child = child_of(&m);
    let grandchild = child_of(&child);
    grandchild.store(page(3), 7).unwrap();
    // Not by the advice: it leaves alone what is not one's own.
    page_out(&child, 0, 4);
    assert_eq!(taken(&m), (0, 0));
    swap_out_all(&m);
    audited(&[&m, &child, &grandchild]);
    assert_eq!(taken(&m), (5, 0));
    assert_eq!([&m, &child, &grandchild].map(counts), [(0, 4); 3]);
    assert_eq!(bytes(&grandchild, 0..4), [100, 101, 102, 7]);
    assert_eq!(bytes(&m, 0..4), [100, 101, 102, 103]);
    end(vec![m, child, grandchild], vec![]);
}

/// Until there is nothing left to be swapped out.
fn swap_out_all(m: &SoftwareMachine) {
    let system = Arc::clone(m.space.look().system());
    while system.swap_out_old().unwrap() > 0 {}
}

#[test]
fn places_are_given_up_with_what_names_them() {
    let m = all_out(8);
    advise(&m, 0, 2, Advice::DontNeed);
    assert_eq!((stats(&m).used, bytes(&m, 0..2)), (6, vec![0; 2]));
    unmap(&m, 2, 1).unwrap();
    assert_eq!(stats(&m).used, 5);
    advise(&m, 3, 1, Advice::Free);
    assert_eq!((stats(&m).used, m.load(page(3)).unwrap()), (4, 0));
    map_at(&m, 4, 1, RW).unwrap();
    advise(&m, 5, 1, Advice::GuardInstall);
    assert_eq!((stats(&m).used, counts(&m)), (2, (0, 2)));
    let child = child_of(&m);
    end(vec![m, child], vec![]);
}

#[test]
fn a_frame_that_keeps_its_place_gives_it_up_when_it_goes() {
    let m = all_out(4);
    assert_eq!(bytes(&m, 0..4), [100, 101, 102, 103]);
    unmap(&m, 0, 1).unwrap();
    advise(&m, 1, 1, Advice::DontNeed);
    assert_eq!((taken(&m), m.frames.stats().pages), ((2, 2), 2));
    advise(&m, 2, 1, Advice::Free);
    let system = Arc::clone(m.space.look().system());
    assert_eq!((system.reclaim().unwrap(), m.load(page(2)).unwrap()), (1, 0));
    end(vec![m], vec![]);
}

#[test]
fn protection_waits_for_it() {
    let m = all_out(3);
    protect(&m, 0, 1, Prot::empty()).unwrap();
    protect(&m, 1, 1, Prot::READ).unwrap();
    assert_eq!(fault_of(m.load(page(0))), Fault::Denied(page(0)));
    assert_eq!(m.load(page(1)).unwrap(), 101);
    assert_eq!(fault_of(m.store(page(1), 1)), Fault::Denied(page(1)));
    protect(&m, 0, 2, RW).unwrap();
    m.store(page(1), 1).unwrap();
    assert_eq!(bytes(&m, 0..3), [100, 1, 102]);
    end(vec![m], vec![]);
}

#[test]
fn it_is_read_and_written_by_force() {
    let m = all_out(4);
    m.space.change().mprotect(page(0), 4 * PAGE_SIZE, Prot::empty()).unwrap();
    let (mut byte, mut other) = ([0], [0]);
    assert_eq!(m.space.read_forced(page(1), &mut byte).unwrap(), 1);
    assert_eq!(m.space.write_forced(page(2), &[200]).unwrap(), 1);
    assert_eq!(m.space.read_forced(page(2), &mut other).unwrap(), 1);
    assert_ne!(byte, [0]);
    assert_eq!(other, [200]);
    audited(&[&m]);
}

#[test]
fn it_moves_with_its_memory() {
    let m = all_out(3);
    remap(&m, 0, 3, 5, Some(1000)).unwrap();
    assert_eq!((counts(&m), bytes(&m, 1000..1005)), ((0, 3), vec![100, 101, 102, 0, 0]));
    swap_out_all(&m);
    assert_eq!(bytes(&m, 1000..1003), [100, 101, 102]);
    end(vec![m], vec![]);
}

#[test]
fn locked_memory_comes_in_and_stays() {
    let m = all_out(4);
    m.space.change().mlock2(page(0), 2 * PAGE_SIZE, 0).unwrap();
    assert_eq!((counts(&m), taken(&m)), ((2, 2), (2, 0)));
    swap_out_all(&m);
    assert_eq!(counts(&m), (2, 2));
    // What comes into locked memory is locked, too, and what the child has of it is not.
    m.space.change().mlock2(page(2), 2 * PAGE_SIZE, 1).unwrap();
    assert_eq!(m.load(page(2)).unwrap(), 102);
    let child = child_of(&m);
    m.store(page(0), 9).unwrap();
    swap_out_all(&m);
    assert_eq!((counts(&m), counts(&child)), ((3, 1), (2, 2)), "page 0 alone is the child's own");
    m.space.change().munlockall();
    swap_out_all(&m);
    assert_eq!((counts(&m), counts(&child)), ((0, 4), (0, 4)));
    assert_eq!((bytes(&m, 0..3), child.load(page(0)).unwrap()), (vec![9, 101, 102], 100));
    end(vec![m, child], vec![]);
}

#[test]
fn what_will_be_needed_is_read_before_it_is_touched() {
    let m = all_out(3);
    advise(&m, 0, 2, Advice::WillNeed);
    assert_eq!((mincore(&m, 3), counts(&m), moved(&m)), (vec![1, 1, 0], (0, 3), (3, 2)));
    audited(&[&m]);
    assert_eq!((m.load(page(0)).unwrap(), moved(&m)), (100, (3, 2)));
    // Nobody has come for the other one: it goes first, and is written already.
    swap_out_all(&m);
    assert_eq!((taken(&m), moved(&m)), ((3, 0), (3, 2)));
    advise(&m, 1, 1, Advice::WillNeed);
    unmap(&m, 1, 1).unwrap();
    assert_eq!(taken(&m), (2, 0));
    end(vec![m], vec![]);
}

#[test]
fn more_memory_is_used_than_there_is_until_the_swap_area_is_full() {
    let m = swapping(512, 600);
    map_at(&m, 0, 2000, RW).unwrap();
    let stored = (0..2000).take_while(|&i| m.store(page(i), i as u8).is_ok()).count() as u64;
    assert!(stored > 600 + 450, "{stored}");
    assert_eq!(fault_of(m.store(page(stored), 1)), Fault::OutOfMemory(page(stored)));
    assert_eq!(stats(&m).used, 600);
    audited(&[&m]);
    unmap(&m, stored - 100, 100).unwrap();
    for i in 0..stored - 100 {
        assert_eq!(m.load(page(i)).unwrap(), i as u8, "{i}");
    }
    end(vec![m], vec![]);
}

#[test]
fn what_is_in_use_stays_and_what_was_touched_once_goes() {
    let m = swapping(512, 2000);
    map_at(&m, 0, 1500, RW).unwrap();
    fill(&m, 0..10);
    for i in 10..1500 {
        m.store(page(i), 1).unwrap();
        assert_eq!(m.load(page(i % 10)).unwrap(), 100 + (i % 10) as u8);
    }
    let before = moved(&m).1;
    assert_eq!(bytes(&m, 0..10), (100..110).collect::<Vec<u8>>());
    let (written, read) = moved(&m);
    assert!(written > 900, "{written}");
    assert!(read < 30 && read == before, "{read}");
    end(vec![m], vec![]);
}

#[test]
fn nobody_is_refused_a_place_that_a_page_in_memory_keeps() {
    let m = swapping(1024, 8);
    map_at(&m, 0, 8, RW).unwrap();
    fill(&m, 0..4);
    page_out(&m, 0, 4);
    assert_eq!((bytes(&m, 0..4).len(), taken(&m)), (4, (4, 4)));
    fill(&m, 4..8);
    page_out(&m, 4, 4);
    assert_eq!(taken(&m), (8, 4));
    map_at(&m, 20, 2, RW).unwrap();
    fill(&m, 20..22);
    page_out(&m, 20, 2);
    assert_eq!(taken(&m), (8, 2));
    // More than half is taken: what comes in gives its place up.
    assert_eq!((bytes(&m, 4..8), taken(&m)), (vec![104, 105, 106, 107], (4, 2)));
    assert_eq!(bytes(&m, 20..22), [120, 121]);
    end(vec![m], vec![]);
}

#[test]
fn zeros_that_were_only_read_and_pages_of_objects_are_not_swapped() {
    let m = swapping(1024, 100);
    map_at(&m, 0, 2, RW).unwrap();
    m.load(page(0)).unwrap();
    let file = Arc::new(SharedMemory::memfd(m.space.look().system(), "test"));
    map_file(&m, 10, 2, MapType::Shared, &file);
    file.truncate(2 * PAGE_SIZE, m.space.look().system()).unwrap();
    m.store(page(10), 5).unwrap();
    page_out(&m, 0, 2);
    swap_out_all(&m);
    assert_eq!((taken(&m), m.load(page(10)).unwrap()), ((0, 0), 5));
    drop(file);
    end(vec![m], vec![]);
}

#[test]
fn truncating_a_file_takes_its_private_copies_also_from_the_swap_area() {
    let m = swapping(1024, 100);
    let system = Arc::clone(m.space.look().system());
    let file = Arc::new(SharedMemory::memfd(&system, "test"));
    file.truncate(2 * PAGE_SIZE, &system).unwrap();
    map_file(&m, 0, 2, MapType::Private, &file);
    fill(&m, 0..2);
    page_out(&m, 0, 2);
    assert_eq!(counts(&m), (0, 2));
    file.truncate(PAGE_SIZE, &system).unwrap();
    assert_eq!((counts(&m), taken(&m)), ((0, 1), (1, 0)));
    assert_eq!(m.load(page(0)).unwrap(), 100);
    assert_eq!(fault_of(m.load(page(1))), Fault::NoBacking(page(1)));
    drop((file, system));
    end(vec![m], vec![]);
}

#[test]
fn the_host_reads_and_writes_it_as_the_program_does() {
    let m = all_out(3);
    let mut found = [0; 1];
    m.space.read(page(0), &mut found).unwrap();
    m.space.write(page(1), &[9]).unwrap();
    assert_eq!((found, counts(&m)), ([100], (2, 1)));
    assert_eq!(bytes(&m, 0..3), [100, 9, 102]);
    end(vec![m], vec![]);
}

#[test]
fn pages_that_came_ahead_and_were_written_count_and_are_swapped() {
    let m = swapping(1024, 100);
    m.space.look().system().sysctl.set_fault_ahead(64);
    map_at(&m, 0, 64, RW).unwrap();
    fill(&m, 0..20);
    swap_out_all(&m);
    assert_eq!(counts(&m), (0, 20));
    assert_eq!(bytes(&m, 0..20), (100..120).collect::<Vec<u8>>());
    end(vec![m], vec![]);
}

#[test]
fn memory_and_swap_together_may_be_promised() {
    let m = swapping(1024, 100);
    let system = Arc::clone(m.space.look().system());
    let sysctl = &system.sysctl;
    sysctl.set_total_pages(1024);
    sysctl.set_overcommit_ratio(50);
    assert_eq!(sysctl.commit_limit(), 612);
    sysctl.set_overcommit_kbytes(4 * 10);
    assert_eq!(sysctl.commit_limit(), 110);
}
