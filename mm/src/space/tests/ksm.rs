//! Equal pages become one, and are two again when one is written.

use super::watched::{Watched, load, store};
use super::*;
use crate::addr::Frame;
use crate::inspect::smaps_rollup;
use crate::ksm::KsmStats;
use crate::phys::{Contents, FrameKind};
use crate::space::MergeAny;
use crate::swap::MemoryStore;

/// Memory of so many pages that may be merged; each holds what is said of it.
fn mergeable(m: &Watched, bytes: &[u8]) {
    m.map(0, bytes.len() as u64);
    for (i, &byte) in (0..).zip(bytes) {
        m.store(i, byte);
    }
    m.advise(0, bytes.len() as u64, Advice::Mergeable);
}

/// Two scans of everything: in the first all pages are volatile.
fn scan(m: &Watched) -> KsmStats {
    for _ in 0..2 {
        m.system.ksm(u64::MAX).unwrap();
    }
    m.system.ksm_stats()
}

/// Merged pages, and what is saved by them.
fn saved(m: &Watched) -> (u64, u64) {
    let stats = m.system.ksm_stats();
    (stats.shared, stats.sharing)
}

fn frame(user: &SpaceUser, at: u64) -> Frame {
    user.look().entry_at(page(at)).frame().unwrap()
}

#[test]
fn equal_pages_of_two_scans_become_one() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 2, 1, 3, 1]);
    m.system.ksm(u64::MAX).unwrap();
    assert_eq!((saved(&m), m.frames.stats().pages), ((0, 0), 5));
    let stats = scan(&m);
    assert_eq!((saved(&m), m.frames.stats().pages), ((1, 2), 3));
    assert_eq!((stats.full_scans, stats.scanned, stats.merged), (3, 3 * 5, 3));
    m.audited(&[]);
    assert_eq!([0, 1, 2, 3, 4].map(|at| m.load(at)), [1, 2, 1, 3, 1]);
    assert_eq!(smaps_rollup(&m.user.look()).usage.ksm, 3 * PAGE_SIZE);
    assert_eq!(m.user.look().resident().own(), 5);
    m.end(vec![]);
}

#[test]
fn who_writes_one_has_it_for_himself() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 1, 1]);
    scan(&m);
    assert_eq!(saved(&m), (1, 2));
    m.store(1, 9);
    assert_eq!(([0, 1, 2].map(|at| m.load(at)), saved(&m)), ([1, 9, 1], (1, 1)));
    m.audited(&[]);
    m.store(0, 8);
    m.store(2, 7);
    assert_eq!(([0, 1, 2].map(|at| m.load(at)), saved(&m)), ([8, 9, 7], (0, 0)));
    m.end(vec![]);
}

/// As Linux 6.18 counts them.
#[test]
fn so_many_become_one_and_no_more() {
    for (pages, shared, sharing, chains, dups) in
        [(256, 1, 255, 0, 0), (257, 1, 255, 0, 0), (258, 2, 256, 1, 2), (600, 3, 597, 1, 3)]
    {
        let m = Watched::new(2048);
        mergeable(&m, &vec![1; pages]);
        m.system.ksm(u64::MAX).unwrap();
        let stats = scan(&m);
        let found = (stats.shared, stats.sharing, stats.chains, stats.dups);
        assert_eq!(found, (shared, sharing, chains, dups), "of {pages} pages");
        m.audited(&[]);
        m.end(vec![]);
    }
}

#[test]
fn room_in_one_that_many_shared_is_used_again() {
    let m = Watched::new(2048);
    mergeable(&m, &[1; 258]);
    scan(&m);
    m.system.ksm(u64::MAX).unwrap();
    assert_eq!(saved(&m), (2, 256));
    // Who has left the first comes back to it, or to the second.
    let first = frame(&m.user, 0);
    (0..100).for_each(|i| m.store(i, 2));
    (0..100).for_each(|i| m.store(i, 1));
    scan(&m);
    assert_eq!(saved(&m), (2, 256));
    assert!(m.frames.maps(first) <= 256);
    m.audited(&[]);
    m.end(vec![]);
}

#[test]
fn what_changes_is_volatile_and_what_is_alone_unshared() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 1, 2]);
    for round in 10..14 {
        m.store(0, round);
        m.store(1, round);
        m.system.ksm(2).unwrap();
        m.system.ksm(1).unwrap();
        let KsmStats { shared, unshared, volatile, .. } = m.system.ksm_stats();
        assert_eq!(
            (shared, unshared, volatile),
            (0, u64::from(round > 10), 3 - u64::from(round > 10))
        );
        m.system.ksm(1).unwrap();
    }
    scan(&m);
    assert_eq!(saved(&m), (1, 1));
    m.end(vec![]);
}

#[test]
fn nothing_is_merged_that_nobody_wants_merged() {
    let m = Watched::new(512);
    m.map(0, 2);
    m.store(0, 1);
    m.store(1, 1);
    // Zeros that were only read, of another part.
    m.map(10, 2);
    m.load(10);
    m.advise(10, 2, Advice::Mergeable);
    let stats = scan(&m);
    assert_eq!((stats.shared, stats.unshared, stats.volatile), (0, 0, 0));
    m.end(vec![]);
}

#[test]
fn processes_that_know_nothing_of_each_other_share() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 2]);
    let other =
        SpaceUser::new(AddressSpace::new(Arc::clone(&m.system), Limits::default()).unwrap());
    let request = MapRequest::anonymous(page(7), 2 * PAGE_SIZE, RW, MapFlags::FIXED);
    other.change().mmap(&request).unwrap();
    store(&other, 7, 2);
    store(&other, 8, 2);
    other.change().madvise(page(7), 2 * PAGE_SIZE, Advice::Mergeable as i32).unwrap();
    scan(&m);
    assert_eq!(saved(&m), (1, 2));
    assert_eq!(frame(&m.user, 1), frame(&other, 7));
    assert_eq!(frame(&m.user, 1), frame(&other, 8));
    m.audited(std::slice::from_ref(&other));
    store(&other, 7, 5);
    assert_eq!((m.load(1), load(&other, 7), load(&other, 8)), (2, 5, 2));
    // The first ends; the page stays the other's.
    let child = m.fork();
    assert_eq!(saved(&m), (1, 2));
    store(&child, 1, 6);
    assert_eq!((m.load(1), load(&child, 1), load(&other, 8)), (2, 6, 2));
    m.end(vec![other, child]);
}

#[test]
fn what_goes_is_forgotten() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 1, 2, 2]);
    scan(&m);
    assert_eq!(saved(&m), (2, 2));
    m.user.change().munmap(page(0), 2 * PAGE_SIZE).unwrap();
    assert_eq!((saved(&m), m.frames.stats().pages), ((1, 1), 1));
    // Its frame is somebody else's now.
    m.map(20, 8);
    (20..28).for_each(|at| m.store(at, 1));
    m.advise(20, 8, Advice::Mergeable);
    scan(&m);
    assert_eq!(saved(&m), (2, 8));
    m.end(vec![]);
}

#[test]
fn unmergeable_memory_has_its_own_pages_again() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 1, 1, 1]);
    scan(&m);
    m.advise(1, 2, Advice::Unmergeable);
    assert_eq!((saved(&m), m.frames.stats().pages), ((1, 1), 3));
    m.audited(&[]);
    m.store(1, 5);
    assert_eq!([0, 1, 2, 3].map(|at| m.load(at)), [1, 5, 1, 1]);
    scan(&m);
    assert_eq!(saved(&m), (1, 1));
    let alloc = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(alloc).collect();
    let unmerged = m.user.change().madvise(page(0), 4 * PAGE_SIZE, Advice::Unmergeable as i32);
    assert_eq!(errno_of(unmerged), Errno::EAGAIN);
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    m.end(vec![]);
}

#[test]
fn all_memory_of_a_process_is_mergeable_while_that_is_asked() {
    let m = Watched::new(512);
    m.map(0, 4);
    (0..4).for_each(|at| m.store(at, 1));
    m.user.change().set_merge_any(MergeAny::Yes, [0; 3]).unwrap();
    m.map(4, 1);
    m.store(4, 1);
    scan(&m);
    assert_eq!(saved(&m), (1, 4));
    let alloc = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(alloc).collect();
    let parted = m.user.change().set_merge_any(MergeAny::No, [0; 3]);
    assert_eq!(errno_of(parted), Errno::ENOMEM);
    assert_eq!(m.user.look().modes().merge_any, MergeAny::Yes);
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    m.user.change().set_merge_any(MergeAny::No, [0; 3]).unwrap();
    assert_eq!(saved(&m), (0, 0));
    let all = m.user.look().vmas().iter().fold(VmFlags::empty(), |all, vma| all | vma.flags);
    assert!(!all.contains(VmFlags::MERGEABLE));
    m.end(vec![]);
}

#[test]
fn what_calls_do_with_one() {
    let m = Watched::prepared(512, |system| system.set_swap(Box::new(MemoryStore::new(64))));
    mergeable(&m, &[1; 8]);
    scan(&m);
    assert_eq!(saved(&m), (1, 7));
    m.user.change().mprotect(page(0), PAGE_SIZE, Prot::empty()).unwrap();
    m.user.change().mprotect(page(0), PAGE_SIZE, RW).unwrap();
    m.advise(1, 1, Advice::DontNeed);
    for advice in [Advice::Free, Advice::Cold, Advice::PageOut] {
        m.advise(2, 1, advice);
    }
    // A lock brings in pages as if they were written.
    m.user.change().mlock2(page(3), PAGE_SIZE, 0).unwrap();
    let (old_len, new_len, flags, new_addr) = (PAGE_SIZE, PAGE_SIZE, 3, page(50));
    let request = RemapRequest { addr: page(4), old_len, new_len, flags, new_addr };
    m.user.change().mremap(&request).unwrap();
    m.audited(&[]);
    while m.system.reclaim().unwrap() > 0 {}
    m.audited(&[]);
    assert_eq!(m.system.swap().unwrap().stats().used, 0);
    // Made writable by mprotect it is a copy still.
    m.store(0, 9);
    assert_eq!([0, 1, 2, 3, 5, 50].map(|at| m.load(at)), [9, 0, 1, 1, 1, 1]);
    assert_eq!(saved(&m), (1, 4));
    m.end(vec![]);
}

#[test]
fn a_huge_page_is_made_of_copies() {
    let m = Watched::new(4096);
    m.map(0, 512);
    (0..512).for_each(|at| m.store(at, 1));
    m.advise(0, 512, Advice::Mergeable);
    scan(&m);
    assert_eq!((saved(&m), m.frames.stats().pages), ((2, 510), 2));
    m.advise(0, 512, Advice::Collapse);
    assert_eq!((saved(&m), m.frames.stats().pages), ((0, 0), 512));
    // It stays so: only small pages are merged.
    scan(&m);
    assert_eq!((saved(&m), m.load(511)), ((0, 0), 1));
    m.end(vec![]);
}

#[test]
fn without_a_frame_nothing_is_merged() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 1]);
    let alloc = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(alloc).collect();
    assert_eq!(scan(&m).shared, 0);
    m.store(0, 1);
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    scan(&m);
    assert_eq!(saved(&m), (1, 1));
    m.end(vec![]);
}

#[test]
fn a_frame_that_is_merged_anew_is_not_taken_for_what_it_was() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 1]);
    scan(&m);
    let was = frame(&m.user, 0);
    m.user.change().munmap(page(0), 2 * PAGE_SIZE).unwrap();
    // All of memory but one frame: the merged page is made in it.
    let alloc = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let mut taken: Vec<_> = std::iter::from_fn(alloc).collect();
    taken.retain(|&frame| frame != was);
    taken.drain(..4).for_each(|frame| m.frames.put(frame).unwrap());
    m.map(0, 6);
    (0..2).for_each(|at| m.store(at, 2));
    (2..4).for_each(|at| m.store(at, 3));
    m.advise(0, 6, Advice::Mergeable);
    m.frames.put(was).unwrap();
    m.system.ksm(u64::MAX).unwrap();
    m.system.ksm(2).unwrap();
    assert_eq!((frame(&m.user, 0), saved(&m)), (was, (1, 1)));
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    // What is as the first ones were is not that.
    (4..6).for_each(|at| m.store(at, 1));
    scan(&m);
    assert_eq!((saved(&m), m.frames.stats().pages), ((3, 3), 3));
    m.end(vec![]);
}

#[test]
fn a_scan_ends_though_ever_more_processes_come() {
    let m = Watched::new(512);
    mergeable(&m, &[1, 2, 3]);
    let mut children = Vec::new();
    for _ in 0..6 {
        children.push(m.fork());
        m.system.ksm(3).unwrap();
        m.system.ksm(1).unwrap();
    }
    assert!(m.system.ksm_stats().full_scans > 0);
    m.end(children);
}
