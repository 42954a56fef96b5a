//! Pages of files that are there before they are touched: nobody can tell.

use super::files::bytes_of;
use super::*;
use crate::inspect::{PagemapWord, pagemap, smaps};
use crate::vma::MapType;

/// Pages of the file: all of one page table, and parts of two others.
const PAGES: u64 = 600;
/// Where it is mapped: 40 pages before a page table's end.
const FIRST: u64 = 512 - 40;

/// A machine whose faults bring in `ahead` pages at most, with a file mapped that is in memory.
fn reader(ahead: u64) -> SoftwareMachine {
    let m = machine();
    m.space.look().system().sysctl.set_fault_ahead(ahead);
    let file = bytes_of(&m, PAGES as usize * 4096);
    map_file(&m, FIRST, PAGES, MapType::Private, &file);
    for i in 0..PAGES {
        m.load(page(FIRST + i)).unwrap();
    }
    unmap(&m, FIRST, PAGES).unwrap();
    map_file(&m, FIRST, PAGES, MapType::Private, &file);
    m
}

/// All that a program can find out about the pages of the map.
fn seen(m: &SoftwareMachine) -> (Vec<u64>, Vec<PagemapWord>, String) {
    let space = m.space.look();
    let resident = space.resident();
    let counts = vec![resident.own(), resident.backed()];
    let range = PageRange::from_len(page(FIRST), PAGES * PAGE_SIZE).unwrap();
    let words = pagemap(&space, range).map(|word| word - PagemapWord::FRAME).collect();
    let mapped = smaps(&space).map(|entry| entry.to_string()).collect();
    (counts, words, mapped)
}

#[test]
fn a_second_fault_in_a_page_table_brings_in_the_rest_of_it_unseen() {
    let m = reader(64);
    let faults = || m.space.look().counters().faults.total();
    m.load(page(512)).unwrap();
    m.load(page(512 + 16)).unwrap();
    let before = faults();
    assert_eq!(seen(&m).0[1], 32);
    for at in 512..FIRST + PAGES {
        m.load(page(at)).unwrap();
    }
    assert_eq!(faults() - before, 2, "those of the next table");
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_touch_of_a_page_that_was_ahead_counts_all_64_kib_around_it() {
    let m = reader(64);
    let backed = || m.space.look().resident().backed();
    m.load(page(512)).unwrap();
    m.load(page(512 + 16)).unwrap();
    let before = backed();
    m.load(page(512 + 100)).unwrap();
    assert_eq!(backed() - before, 16);
    m.store(page(512 + 101), 1).unwrap();
    assert_eq!(backed() - before, 15, "a copy is another's page no more");
}

#[test]
fn a_page_that_was_read_ahead_and_then_written_leaves_the_pages_around_it() {
    let m = reader(64);
    let backed = || m.space.look().resident().backed();
    m.load(page(512)).unwrap();
    m.load(page(512 + 16)).unwrap();
    let before = backed();
    m.load(page(512 + 100)).unwrap();
    m.store(page(512 + 100), 1).unwrap();
    assert_eq!(backed() - before, 15);
    m.store(page(512 + 200), 1).unwrap();
    assert_eq!(backed() - before, 15, "nothing is mapped around a write");
}

#[test]
fn random_calls_find_with_pages_ahead_what_they_find_without() {
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for _ in 0..40 {
        let both = [reader(64), reader(1)];
        let mut script = Vec::new();
        for _ in 0..40 {
            let (at, pages, what) = (FIRST + below(PAGES), 1 + below(40), below(16));
            script.push((what, at, pages));
            let answers = both.each_ref().map(|m| {
                let len = pages * PAGE_SIZE;
                let advise = |advice: Advice| {
                    format!("{:?}", m.space.change().madvise(page(at), len, advice as i32))
                };
                match what {
                    0 => format!("{:?}", protect(m, at, pages, Prot::READ)),
                    1 => format!("{:?}", protect(m, at, pages, RW)),
                    2 => format!("{:?}", protect(m, at, pages, Prot::empty())),
                    3 => format!("{:?}", unmap(m, at, pages)),
                    4 => advise(Advice::DontNeed),
                    5 => advise(Advice::Cold),
                    6 => advise(Advice::PageOut),
                    7 => advise(Advice::Random),
                    8 => format!("{:?}", m.space.change().mlock2(page(at), len, 0)),
                    9 | 10 => format!("{:?}", m.store(page(at), 7)),
                    _ => format!("{:?}", m.load(page(at))),
                }
            });
            assert_eq!(answers[0], answers[1], "{script:?}");
            if below(3) == 0 {
                let [ahead, plain] = both.each_ref().map(seen);
                assert_eq!((&ahead.0, &ahead.2), (&plain.0, &plain.2), "{script:?}");
                assert!(ahead.1 == plain.1, "{script:?}");
            }
            audit(&both[0].space.look()).unwrap();
        }
        let ends = both.each_ref().map(|m| {
            unmap(m, 0, 8192).unwrap();
            m.frames.stats().pages
        });
        assert_eq!(ends[0], ends[1]);
    }
}
