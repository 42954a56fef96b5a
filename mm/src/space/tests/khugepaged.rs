//! Khugepaged: where it makes huge pages, and where not.

use super::watched::Watched;
use super::*;
use crate::khugepaged::{KhugepagedStats, MaxPtes, PAGES_TO_SCAN, Scanned};
use crate::phys::{BLOCK_FRAMES, Contents, FrameKind};
use crate::swap::MemoryStore;
use crate::sysctl::Thp;

const HUGE: u64 = BLOCK_FRAMES;

/// Two huge pages' room with small pages in it, which huge ones are wanted for from now on.
fn two(m: &Watched, written: impl IntoIterator<Item = u64>) {
    m.map(0, 2 * HUGE);
    for i in written {
        m.store(i, 7);
    }
    m.advise(0, 2 * HUGE, Advice::HugePage);
}

/// Looks at all there is, and says where huge pages are then.
fn scan(m: &Watched) -> Vec<u64> {
    scan_part(m, u64::MAX)
}

fn scan_part(m: &Watched, pages: u64) -> Vec<u64> {
    assert_eq!(m.system.khugepaged(pages).unwrap(), Scanned::Enough);
    huges(m)
}

fn huges(m: &Watched) -> Vec<u64> {
    let space = m.user.look();
    let is = |i: &u64| space.table().large(page(i * HUGE)).is_some_and(|l| l.entry.is_huge());
    (0..8).filter(is).collect()
}

fn stats(m: &Watched) -> (u64, u64) {
    let KhugepagedStats { collapsed, full_scans } = m.system.khugepaged_stats();
    (collapsed, full_scans)
}

#[test]
fn one_small_page_is_enough() {
    let m = Watched::new(4096);
    two(&m, [5, HUGE + 3]);
    assert_eq!((scan(&m), stats(&m)), (vec![0, 1], (2, 1)));
    assert_eq!((m.load(5), m.load(6), m.load(HUGE + 3)), (7, 0, 7));
    assert_eq!(m.user.look().resident().own(), 2 * HUGE);
    // Nothing is left to be done.
    assert_eq!((scan(&m), stats(&m)), (vec![0, 1], (2, 2)));
    m.end(vec![]);
}

#[test]
fn vcpus_are_flushed_though_the_space_has_one_user() {
    let m = Watched::new(4096);
    two(&m, [5]);
    let flushes = m.sink.table_flushes();
    assert_eq!(scan(&m), [0]);
    assert_eq!(m.sink.table_flushes(), flushes + 1);
    let last = m.sink.last();
    assert_eq!(last.others, Others::In(m.user.look().table().root()));
    m.end(vec![]);
}

#[test]
fn only_where_faults_would_bring_them_in() {
    let m = Watched::new(8192);
    two(&m, [5]);
    let set = |thp| m.system.sysctl.set_thp(thp);
    set(Thp::Never);
    assert!(scan(&m).is_empty());
    set(Thp::Always);
    m.advise(0, 2 * HUGE, Advice::NoHugePage);
    assert!(scan(&m).is_empty());
    // Not all of 2 MiB.
    m.map(2 * HUGE + 1, HUGE);
    m.store(2 * HUGE + 5, 1);
    assert!(scan(&m).is_empty());
    set(Thp::Madvise);
    m.map(4 * HUGE, HUGE);
    m.store(4 * HUGE, 1);
    assert!(scan(&m).is_empty());
    set(Thp::Always);
    assert_eq!(scan(&m), [4]);
    m.end(vec![]);
}

#[test]
fn nothing_is_made_of_nothing_or_zeros() {
    let m = Watched::new(4096);
    two(&m, []);
    assert!(scan(&m).is_empty());
    m.advise(0, HUGE, Advice::NoHugePage);
    m.load(3);
    m.store(HUGE / 2, 1);
    m.advise(HUGE / 2, 1, Advice::DontNeed);
    m.advise(0, HUGE, Advice::HugePage);
    assert!(scan(&m).is_empty(), "zeros, and a table that has had a page");
    m.end(vec![]);
}

#[test]
fn a_guard_keeps_it_small() {
    let m = Watched::new(4096);
    two(&m, [5]);
    m.advise(9, 1, Advice::GuardInstall);
    assert!(scan(&m).is_empty());
    m.advise(9, 1, Advice::GuardRemove);
    assert_eq!(scan(&m), [0]);
    m.end(vec![]);
}

#[test]
fn how_many_may_be_missing_or_shared_can_be_set() {
    let m = Watched::new(8192);
    two(&m, 0..10);
    let defaults = MaxPtes { none: 511, swap: 64, shared: 256 };
    assert_eq!(m.system.max_ptes(), defaults);
    m.system.set_max_ptes(MaxPtes { none: 501, ..defaults });
    assert!(scan(&m).is_empty());
    m.system.set_max_ptes(MaxPtes { none: 502, ..defaults });
    let child = m.fork();
    m.system.set_max_ptes(MaxPtes { shared: 9, ..defaults });
    assert!(scan(&m).is_empty());
    m.system.set_max_ptes(MaxPtes { shared: 10, ..defaults });
    // The child has accessed none of them.
    assert_eq!((scan(&m), stats(&m).0), (vec![0], 1));
    m.store(3, 9);
    let mut byte = [0];
    child.read(page(3), &mut byte).unwrap();
    assert_eq!(byte, [7]);
    m.end(vec![child]);
}

#[test]
fn what_is_not_in_use_stays_small() {
    let m = Watched::new(4096);
    two(&m, 0..10);
    m.advise(0, HUGE, Advice::Cold);
    assert!(scan(&m).is_empty());
    assert_eq!(crate::replay::access(&m.user, page(4), AccessKind::Read).map(drop).ok(), Some(()));
    assert_eq!(scan(&m), [0]);
    m.end(vec![]);
}

#[test]
fn swapped_pages_come_back_for_it_if_half_of_all_are_in_use() {
    let m = Watched::prepared(4096, |system| system.set_swap(Box::new(MemoryStore::new(1024))));
    two(&m, 0..HUGE);
    m.advise(0, 65, Advice::PageOut);
    assert!(scan(&m).is_empty());
    m.store(1, 7);
    m.advise(100, 192, Advice::Cold);
    assert!(!scan(&m).is_empty(), "256 are in use");
    assert_eq!((0..HUGE).filter(|&i| m.load(i) != 7).count(), 0);
    m.end(vec![]);
}

#[test]
fn swapped_pages_stay_out_if_few_are_in_use() {
    let m = Watched::prepared(4096, |system| system.set_swap(Box::new(MemoryStore::new(1024))));
    two(&m, 0..HUGE);
    m.advise(0, 10, Advice::PageOut);
    m.advise(100, 247, Advice::Cold);
    assert!(scan(&m).is_empty());
    m.end(vec![]);
}

#[test]
fn it_goes_on_where_it_has_stopped() {
    let m = Watched::new(16384);
    m.map(0, 8 * HUGE);
    (0..8).for_each(|i| m.store(i * HUGE, 7));
    m.advise(0, 8 * HUGE, Advice::HugePage);
    let child = m.fork();
    assert_eq!(scan_part(&m, 3 * HUGE), [0, 1, 2]);
    assert_eq!(scan_part(&m, 1), [0, 1, 2, 3]);
    assert_eq!(scan_part(&m, 4 * HUGE), (0..8).collect::<Vec<_>>());
    // The child: what it has not touched is not in use.
    assert_eq!((stats(&m), scan_part(&m, PAGES_TO_SCAN), stats(&m)), ((8, 0), huges(&m), (8, 0)));
    scan(&m);
    assert_eq!(stats(&m), (8, 1));
    child.put().unwrap();
    m.end(vec![]);
}

#[test]
fn without_memory_it_waits() {
    let m = Watched::new(2048);
    two(&m, [5, HUGE + 5]);
    let alloc = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(alloc).collect();
    assert_eq!(m.system.khugepaged(u64::MAX).unwrap(), Scanned::NoMemory);
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    // On with the next; then the first again.
    assert_eq!(scan(&m), [1]);
    assert_eq!(scan(&m), [0, 1]);
    m.end(vec![]);
}

#[test]
fn a_process_ends_while_it_is_looked_at() {
    let m = Watched::new(4096);
    let holder = m.user.hold();
    two(&m, [5]);
    let system = Arc::clone(&m.system);
    m.user.put().unwrap();
    assert_eq!(system.khugepaged(u64::MAX).unwrap(), Scanned::Enough);
    assert_eq!(system.khugepaged_stats().collapsed, 0);
    holder.put().unwrap();
    system.free_retired().unwrap();
    assert_eq!((m.frames.stats().pages, m.frames.stats().tables), (0, 0));
}
