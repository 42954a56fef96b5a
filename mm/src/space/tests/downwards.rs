//! Programs that go on page by page downwards get as many pages at once as those that go upwards, and know as little of
//! them.

use super::*;
use crate::inspect::{PagemapWord, pagemap, smaps};
use crate::vma::MapFlags;

/// 1 MiB.
const PAGES: u64 = 256;

fn faults(m: &SoftwareMachine, touches: impl FnOnce()) -> u64 {
    let count = || m.space.look().counters().faults.total();
    let before = count();
    touches();
    count() - before
}

fn store_all(m: &SoftwareMachine, pages: impl Iterator<Item = u64>, byte: u8) {
    pages.for_each(|i| m.store(page(i), byte).unwrap());
}

#[test]
fn one_mib_takes_as_many_faults_downwards_as_upwards() {
    let [up, down] = [machine(), machine()];
    [&up, &down].into_iter().for_each(|m| _ = map_at(m, 0, PAGES, RW).unwrap());
    let upwards = faults(&up, || store_all(&up, 0..PAGES, 1));
    let downwards = faults(&down, || store_all(&down, (0..PAGES).rev(), 1));
    assert_eq!((upwards, downwards), (10, 10));
    assert_eq!(down.space.look().resident().own(), PAGES);
    audited(&[&down]);
}

#[test]
fn so_it_does_where_it_is_read() {
    let m = machine();
    map_at(&m, 0, PAGES, RW).unwrap();
    let read = || (0..PAGES).rev().for_each(|i| assert_eq!(m.load(page(i)).unwrap(), 0));
    assert_eq!(faults(&m, read), 10);
    assert_eq!(m.space.look().resident().total(), 0);
    audited(&[&m]);
}

#[test]
fn it_goes_on_in_the_next_page_table_and_ends_where_the_vma_does() {
    let m = machine();
    // 40 pages of one table, 40 of the one below.
    let (first, last) = (512 - 40, 512 + 40);
    map_at(&m, first, 80, RW).unwrap();
    assert_eq!(faults(&m, || store_all(&m, (first..last).rev(), 1)), 7);
    assert_eq!(m.frames.stats().pages, 80);
    audited(&[&m]);
}

#[test]
fn what_lies_below_the_last_page_is_unseen_until_it_is_touched() {
    let m = machine();
    map_at(&m, 0, 64, RW).unwrap();
    store_all(&m, (60..64).rev(), 1);
    let pages = m.frames.stats().pages;
    assert_eq!((pages, m.space.look().resident().own()), (7, 4));
    assert_eq!(m.space.look().mincore(page(56), 8 * PAGE_SIZE).unwrap(), [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(m.load(page(59)).unwrap(), 0);
    assert_eq!(m.space.look().resident().own(), 4);
    m.store(page(58), 1).unwrap();
    assert_eq!(m.space.look().resident().own(), 5);
    audited(&[&m]);
}

#[test]
fn who_turns_has_one_fault_more() {
    let m = machine();
    map_at(&m, 0, PAGES, RW).unwrap();
    store_all(&m, 100..163, 1);
    // One page, then 16, 32 and 15.
    assert_eq!(faults(&m, || store_all(&m, (36..100).rev(), 1)), 4);
    assert_eq!(faults(&m, || store_all(&m, 163..200, 1)), 2);
    audited(&[&m]);
}

#[test]
fn a_stack_that_was_there_before_goes_down_and_back_up() {
    let m = machine();
    let flags = MapFlags::FIXED | MapFlags::GROWSDOWN;
    let request = MapRequest::anonymous(page(0), 128 * PAGE_SIZE, RW, flags);
    m.space.change().mmap(&request).unwrap();
    assert_eq!(faults(&m, || store_all(&m, (65..128).rev(), 1)), 6);
    assert_eq!(m.frames.stats().pages, 63);
    audited(&[&m]);
}

#[test]
fn copies_after_a_fork_are_made_downwards_too() {
    let m = machine();
    map_at(&m, 0, PAGES, RW).unwrap();
    store_all(&m, 0..PAGES, 1);
    let child = child_of(&m);
    assert_eq!(faults(&child, || store_all(&child, (0..PAGES).rev(), 2)), 10);
    for i in 0..PAGES {
        assert_eq!((m.load(page(i)).unwrap(), child.load(page(i)).unwrap()), (1, 2), "page {i}");
    }
    audited(&[&m, &child]);
}

/// The next random number below a bound.
fn below(random: &mut u64, bound: u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random % bound
}

/// All that a program can find out about its pages.
fn seen(m: &SoftwareMachine) -> (u64, Vec<PagemapWord>, String) {
    let space = m.space.look();
    let range = PageRange::from_len(page(0), 2 * PAGES * PAGE_SIZE).unwrap();
    let words = pagemap(&space, range).map(|word| word - PagemapWord::FRAME).collect();
    (space.resident().own(), words, smaps(&space).map(|entry| entry.to_string()).collect())
}

#[test]
fn who_goes_down_and_up_beside_random_calls_finds_what_he_finds_page_by_page() {
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..40 {
        let both = [64, 1].map(|ahead| {
            let m = machine();
            m.space.look().system().sysctl.set_fault_ahead(ahead);
            map_at(&m, 0, 2 * PAGES, RW).unwrap();
            m
        });
        let mut script = Vec::new();
        for _ in 0..40 {
            let what = below(&mut random, 12);
            let at = below(&mut random, 2 * PAGES - 1);
            let pages = 1 + below(&mut random, 40.min(2 * PAGES - at));
            script.push((what, at, pages));
            let answers = both.each_ref().map(|m| {
                let advise = |advice: Advice| {
                    let len = pages * PAGE_SIZE;
                    format!("{:?}", m.space.change().madvise(page(at), len, advice as i32))
                };
                let touch = |i: u64| match what {
                    0..=3 => format!("{:?}", m.store(page(i), 7)),
                    _ => format!("{:?}", m.load(page(i))),
                };
                match what {
                    0 | 1 | 4 => (at..at + pages).rev().map(touch).collect(),
                    2 | 3 | 5 => (at..at + pages).map(touch).collect(),
                    6 => format!("{:?}", protect(m, at, pages, Prot::READ)),
                    7 => format!("{:?}", protect(m, at, pages, RW)),
                    8 => advise(Advice::Free),
                    9 => advise(Advice::DontNeed),
                    10 => format!("{:?}", remap(m, at, pages, pages, Some(4 * PAGES))),
                    _ => format!("{:?}", map_at(m, at, pages, RW)),
                }
            });
            assert_eq!(answers[0], answers[1], "{script:?}");
            let [ahead, plain] = both.each_ref().map(seen);
            assert!(ahead == plain, "{script:?}");
            audit(&both[0].space.look()).unwrap();
        }
        let ends = both.each_ref().map(|m| {
            unmap(m, 0, 8192).unwrap();
            m.frames.stats().pages
        });
        assert_eq!(ends, [0, 0]);
    }
}
