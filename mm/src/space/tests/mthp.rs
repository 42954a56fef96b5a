//! Folios of several pages. What is seen of them is compared with Linux in the differential test, where the host gives
//! some; what Linux 6.18 answered with 64 KiB for all memory is recorded here, since mostly hosts give none.

use std::thread;

use super::*;
use crate::inspect::{Shown, smaps, smaps_rollup};
use crate::phys::{Contents, FrameKind};
use crate::swap::MemoryStore;

/// Pages of 64 KiB; `page(0)` is where such a folio begins.
const FOLIO: u64 = 16;
/// `MADV_HUGEPAGE`, in which tests `madvise` is set.
const HUGE: Advice = Advice::HugePage;

/// A machine that gives memory as it is set, with so many pages mapped from a page on.
fn machine_with(sizes: &[&str], at: u64, pages: u64) -> SoftwareMachine {
    let m = machine();
    set(&m, sizes);
    map_at(&m, at, pages, RW).unwrap();
    m
}

fn set(m: &SoftwareMachine, sizes: &[&str]) {
    let space = m.space.look();
    for size in sizes {
        space.system().sysctl.set_thp_size(size.parse().unwrap());
    }
}

/// A folio, of which page 3 is not zeros.
fn one_folio() -> SoftwareMachine {
    let m = machine_with(&["64k:always"], 0, FOLIO);
    m.store(page(3), 1).unwrap();
    m
}

fn advise(m: &SoftwareMachine, at: u64, pages: u64, advice: Advice) {
    m.space.change().madvise(page(at), pages * PAGE_SIZE, advice as i32).unwrap();
}

/// What is at pages from the first on: `.` nothing, `z` zeros that count as no page, `o` the process's own.
fn pages(m: &SoftwareMachine, count: u64) -> String {
    let space = m.space.look();
    let letter = |i| match Shown::of(&space, space.entry_at(page(i))) {
        Shown::Zeros(_) => 'z',
        Shown::Page(_) => 'o',
        _ => '.',
    };
    (0..count).map(letter).collect()
}

/// In pages: Rss, LazyFree, Referenced, Private_Dirty, Private_Clean, Shared_Dirty.
fn sizes(m: &SoftwareMachine) -> [u64; 6] {
    let all = smaps_rollup(&m.space.look()).usage;
    let sizes = [all.rss, all.lazy_free, all.referenced, all.private_dirty, all.private_clean];
    [sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], all.shared_dirty]
        .map(|size| size / PAGE_SIZE)
}

const SPLIT: &str = "zzzozzzzzzzzzzzz";
const WHOLE: &str = "oooooooooooooooo";

#[test]
fn a_write_brings_in_what_fits_and_a_read_zeros_alone() {
    let m = machine_with(&["64k:always"], 3, 32);
    m.store(page(20), 1).unwrap();
    m.store(page(5), 1).unwrap();
    m.store(page(33), 1).unwrap();
    assert_eq!(pages(&m, 40), ".....o..........oooooooooooooooo.o......");
    assert_eq!(m.space.look().resident().own(), 18);
    audited(&[&m]);
    let m = machine_with(&["64k:always"], 0, FOLIO);
    m.load(page(3)).unwrap();
    m.store(page(9), 1).unwrap();
    assert_eq!(pages(&m, FOLIO), "...z.....o......");
    audited(&[&m]);
}

#[test]
fn the_frames_of_one_are_an_aligned_block_of_zeros() {
    let m = machine_with(&["64k:always"], 0, FOLIO);
    m.store(page(9), 7).unwrap();
    let frame = |i| m.space.look().entry_at(page(i)).frame().unwrap();
    assert_eq!(frame(0).number() % FOLIO, 0);
    assert!((0..FOLIO).all(|i| frame(i) == frame(0).offset(i)));
    let bytes: Vec<u8> = (0..FOLIO).map(|i| m.load(page(i)).unwrap()).collect();
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
    assert_eq!((sizes(&m), m.frames.stats().pages), ([FOLIO, 0, FOLIO, FOLIO, 0, 0], FOLIO));
}

#[test]
fn of_several_sizes_the_largest_comes_that_has_room() {
    let m = machine_with(&["64k:always", "16k:always"], 0, 48);
    m.load(page(20)).unwrap();
    m.store(page(17), 1).unwrap();
    assert_eq!(pages(&m, 32), "................ooooz...........");
    // Above 16 pages a place for 16 is left; beside the zeros one page is.
    m.store(page(40), 1).unwrap();
    m.store(page(22), 1).unwrap();
    assert_eq!(pages(&m, 48), "................ooooz.o.........oooooooooooooooo");
    audited(&[&m]);
}

#[test]
fn where_memory_is_not_in_one_piece_less_comes() {
    let m = machine_with(&["1m:always", "64k:always", "16k:always"], 0, 512);
    let mut taken = Vec::new();
    while let Ok(frame) = m.frames.alloc(FrameKind::Anonymous, Contents::Any) {
        taken.push(frame);
    }
    // Of each 32 KiB one frame stays.
    let (kept, free): (Vec<_>, Vec<_>) =
        taken.into_iter().partition(|frame| frame.number() % 8 == 5);
    free.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    m.store(page(9), 1).unwrap();
    assert_eq!(pages(&m, FOLIO), "........oooo....");
    kept.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    m.store(page(300), 1).unwrap();
    assert_eq!(m.space.look().resident().own(), 4 + 256);
    audited(&[&m]);
}

#[test]
fn only_memory_that_wants_it_comes_so() {
    let come = |m: &SoftwareMachine, i| {
        m.store(page(i), 1).unwrap();
        m.space.look().resident().own()
    };
    let m = machine_with(&["64k:madvise"], 0, 64);
    assert_eq!(come(&m, 0), 1);
    advise(&m, 16, 48, HUGE);
    assert_eq!(come(&m, 16), 17);
    advise(&m, 32, 16, Advice::NoHugePage);
    assert_eq!(come(&m, 32), 18);
    let m = machine_with(&["64k:always"], 0, 64);
    m.space.change().set_thp_disable(1, 2, [0; 2]).unwrap();
    assert_eq!(come(&m, 0), 1);
    advise(&m, 16, 48, HUGE);
    assert_eq!(come(&m, 16), 17);
    m.space.change().set_thp_disable(1, 0, [0; 2]).unwrap();
    assert_eq!(come(&m, 32), 18);
    m.space.change().set_thp_disable(0, 0, [0; 2]).unwrap();
    assert_eq!(come(&m, 48), 34);
    audited(&[&m]);
}

#[test]
fn pages_ahead_that_nobody_has_touched_are_nothing_there() {
    let with_pages_ahead = |sizes: &[&str]| {
        let m = machine_with(sizes, 0, 64);
        for i in 0..12 {
            m.store(page(i), 1).unwrap();
        }
        let ahead = m.space.look().entry_at(page(13)).is_unseen();
        assert!(ahead, "the test needs a page ahead");
        m
    };
    let m = with_pages_ahead(&["16k:madvise"]);
    advise(&m, 0, 64, HUGE);
    m.store(page(13), 1).unwrap();
    assert_eq!(pages(&m, 24), "oooooooooooooooo........");
    audited(&[&m]);
    // The sizes change.
    let m = with_pages_ahead(&[]);
    set(&m, &["16k:always"]);
    m.space.change().thp_changes().unwrap();
    m.store(page(13), 1).unwrap();
    assert_eq!(pages(&m, 24), "oooooooooooooooo........");
    // Nobody was told.
    let m = with_pages_ahead(&[]);
    set(&m, &["64k:always", "16k:always"]);
    m.store(page(15), 1).unwrap();
    assert_eq!(pages(&m, 24), "oooooooooooooooo........");
    audited(&[&m]);
}

#[test]
fn advice_for_a_part_splits_it_and_gives_up_zeros() {
    for (advice, at, referenced) in
        [(Advice::Free, 5, 1), (Advice::Cold, 5, 1), (Advice::Cold, 3, 0), (Advice::PageOut, 5, 1)]
    {
        let m = one_folio();
        advise(&m, at, 1, advice);
        assert_eq!(pages(&m, FOLIO), SPLIT, "{advice:?}");
        assert_eq!(sizes(&m), [1, 0, referenced, 1, 0, 0], "{advice:?}");
        audited(&[&m]);
        assert_eq!((m.load(page(3)).unwrap(), m.load(page(5)).unwrap()), (1, 0));
    }
}

#[test]
fn advice_for_all_of_it_leaves_it_whole() {
    let m = one_folio();
    advise(&m, 0, FOLIO, Advice::Cold);
    assert_eq!(sizes(&m), [FOLIO, 0, 0, FOLIO, 0, 0]);
    advise(&m, 0, FOLIO, Advice::Free);
    assert_eq!(sizes(&m), [FOLIO, FOLIO, 0, 0, FOLIO, 0]);
    m.store(page(3), 2).unwrap();
    assert_eq!(sizes(&m), [FOLIO, FOLIO - 1, 1, 1, FOLIO - 1, 0]);
    // One page was written: none goes.
    advise(&m, 0, FOLIO, Advice::PageOut);
    assert_eq!(sizes(&m), [FOLIO, 0, FOLIO, FOLIO, 0, 0]);
    // No swap for all of it: it is split.
    advise(&m, 0, FOLIO, Advice::PageOut);
    assert_eq!(pages(&m, FOLIO), SPLIT);
    audited(&[&m]);
}

#[test]
fn what_was_given_up_whole_goes_whole() {
    let m = one_folio();
    advise(&m, 0, FOLIO, Advice::Free);
    advise(&m, 0, FOLIO, Advice::PageOut);
    assert_eq!((sizes(&m)[0], m.frames.stats().pages), (0, 0));
    audited(&[&m]);
}

#[test]
fn a_split_one_remembers_of_all_pages_that_one_was_written() {
    let m = one_folio();
    (0..FOLIO).for_each(|i| m.store(page(i), 1).unwrap());
    advise(&m, 0, FOLIO, Advice::Free);
    m.store(page(3), 2).unwrap();
    advise(&m, 5, 1, Advice::Cold);
    assert_eq!(sizes(&m), [FOLIO, 0, 1, FOLIO, 0, 0]);
    audited(&[&m]);
}

#[test]
fn what_is_left_of_it_is_a_part() {
    let m = one_folio();
    advise(&m, 0, 2, Advice::DontNeed);
    assert_eq!(pages(&m, FOLIO), "..oooooooooooooo");
    advise(&m, 2, 14, Advice::Cold);
    assert_eq!(pages(&m, FOLIO), "..zozzzzzzzzzzzz");
    let m = one_folio();
    unmap(&m, 0, 2).unwrap();
    advise(&m, 2, 14, Advice::Free);
    assert_eq!(pages(&m, FOLIO), "..zozzzzzzzzzzzz");
    audited(&[&m]);
}

#[test]
fn its_parts_are_found_wherever_they_have_gone() {
    let m = one_folio();
    protect(&m, 8, 2, Prot::empty()).unwrap();
    remap(&m, 10, 2, 2, Some(40)).unwrap();
    m.space.change().mlock2(page(12), 2 * PAGE_SIZE, 0).unwrap();
    advise(&m, 0, 2, Advice::Cold);
    assert_eq!(pages(&m, FOLIO), "zzzozzzzzz..oozz");
    assert_eq!(pages(&m, 42)[40..], *"zz");
    audited(&[&m]);
}

#[test]
fn while_others_have_it_a_part_is_left_alone() {
    let m = one_folio();
    let child = child_of(&m);
    for advice in [Advice::Cold, Advice::Free, Advice::PageOut] {
        advise(&child, 0, 2, advice);
        assert_eq!(sizes(&child), [FOLIO, 0, 0, 0, 0, FOLIO], "{advice:?}");
    }
    advise(&child, 0, FOLIO, Advice::Free);
    advise(&child, 0, FOLIO, Advice::PageOut);
    assert_eq!((sizes(&child)[..2].to_vec(), sizes(&m)[1]), (vec![FOLIO, FOLIO], 0));
    child.store(page(0), 1).unwrap();
    assert_eq!(sizes(&child), [FOLIO, FOLIO - 1, 1, 1, 0, 0]);
    audited(&[&m, &child]);
    child.space.exit().unwrap();
    assert_eq!(sizes(&m), [FOLIO, 0, FOLIO, FOLIO, 0, 0]);
}

#[test]
fn one_shared_page_makes_all_of_it_shared() {
    let m = one_folio();
    let child = child_of(&m);
    (0..15).for_each(|i| child.store(page(i), 1).unwrap());
    assert_eq!(sizes(&child), [FOLIO, 0, 15, 15, 0, 1]);
    advise(&m, 0, 2, Advice::Cold);
    assert_eq!(sizes(&m), [FOLIO, 0, FOLIO, 15, 0, 1]);
    child.space.exit().unwrap();
    advise(&m, 0, 2, Advice::Cold);
    assert_eq!((pages(&m, FOLIO).as_str(), sizes(&m)[2]), (SPLIT, 1));
    audited(&[&m]);
}

#[test]
fn a_page_that_was_copied_is_of_it_no_more() {
    // Each writes a page that the other has copied already, while it has others of the folio still: a copy again.
    let m = one_folio();
    let child = child_of(&m);
    child.store(page(5), 1).unwrap();
    m.store(page(5), 2).unwrap();
    assert_eq!((m.load(page(5)).unwrap(), child.load(page(5)).unwrap()), (2, 1));
    child.space.exit().unwrap();
    // The last owner writes in place, and it stays what it is: all but that page.
    m.store(page(6), 3).unwrap();
    advise(&m, 0, FOLIO, Advice::Cold);
    assert_eq!(pages(&m, FOLIO), "zzzozoozzzzzzzzz");
    audited(&[&m]);
}

#[test]
fn the_last_owner_of_all_of_it_keeps_it_whole() {
    let m = one_folio();
    let child = child_of(&m);
    child.space.exit().unwrap();
    protect(&m, 0, FOLIO, Prot::READ).unwrap();
    protect(&m, 0, FOLIO, RW).unwrap();
    m.store(page(6), 3).unwrap();
    advise(&m, 0, FOLIO, Advice::Cold);
    assert_eq!(pages(&m, FOLIO), WHOLE);
    audited(&[&m]);
}

#[test]
fn with_swap_all_of_it_goes_out_and_comes_back_page_by_page() {
    let store = Box::new(MemoryStore::new(100));
    let set_up = |system: &mut System| system.set_swap(store);
    let m = SoftwareMachine::prepared(1024, Limits::default(), set_up).unwrap();
    set(&m, &["64k:always"]);
    map_at(&m, 0, FOLIO, RW).unwrap();
    (0..FOLIO).for_each(|i| m.store(page(i), 100 + i as u8).unwrap());
    advise(&m, 0, FOLIO, Advice::PageOut);
    assert_eq!(sizes(&m)[0], 0);
    let bytes: Vec<u8> = (0..FOLIO).map(|i| m.load(page(i)).unwrap()).collect();
    assert_eq!(bytes, (100..116).collect::<Vec<_>>());
    // They are pages of their own now.
    advise(&m, 0, 1, Advice::Cold);
    assert_eq!(pages(&m, FOLIO), WHOLE);
    audited(&[&m]);
}

#[test]
fn smaps_says_whether_a_vma_could_have_any() {
    let eligible = |m: &SoftwareMachine| smaps(&m.space.look()).next().unwrap().thp_eligible;
    assert!(!eligible(&machine_with(&[], 0, 1024)));
    assert!(eligible(&machine_with(&["64k:always"], 0, FOLIO)));
    assert!(eligible(&machine_with(&["64k:always", "16k:always"], 3, 8)));
    assert!(!eligible(&machine_with(&["64k:always"], 1, 2 * FOLIO - 2)));
    assert!(!eligible(&machine_with(&["64k:madvise"], 0, FOLIO)));
    let m = machine_with(&[], 0, 1024);
    advise(&m, 0, 1024, HUGE);
    assert!(eligible(&m));
}

#[test]
fn of_faults_at_once_one_brings_in_all_of_it_or_none_does() {
    for round in 0..200 {
        let m = machine_with(&["64k:always"], 0, FOLIO);
        thread::scope(|scope| {
            for i in [3, 7, 12] {
                let m = &m;
                scope.spawn(move || match (round + i) % 3 {
                    0 => assert_eq!(m.load(page(i)).unwrap(), 0),
                    _ => m.store(page(i), i as u8).unwrap(),
                });
            }
        });
        let all = pages(&m, FOLIO);
        // Zeros that were read first leave room for single pages only.
        let singly = all.chars().filter(|&c| c == 'o').count() <= 2 && all.contains('z');
        assert!(all == WHOLE || singly, "{all}");
        audited(&[&m]);
    }
}

#[test]
fn without_memory_for_any_the_fault_fails_and_leaves_nothing() {
    let m = machine_with(&["64k:always", "16k:always"], 0, FOLIO);
    m.load(page(0)).unwrap();
    unmap(&m, 0, FOLIO).unwrap();
    map_at(&m, 0, FOLIO, RW).unwrap();
    for nth in (1..).filter_map(NonZeroU64::new) {
        let before = m.frames.stats().pages;
        m.frames.failures().refuse_from(nth);
        let stored = m.store(page(3), 1);
        m.frames.failures().stop();
        audited(&[&m]);
        if stored.is_ok() {
            break;
        }
        assert_eq!(m.frames.stats().pages, before);
    }
    assert_eq!(pages(&m, FOLIO), WHOLE);
}
