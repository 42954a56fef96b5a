//! Promoted entries: they are seen in the table, and in nothing that a program can see.

use super::*;
use crate::inspect::{Usage, smaps};
use crate::paging::{ForkedRoot, TableChange};
use crate::phys::BLOCK_FRAMES;

/// Pages of a table; `page(0)` is where one begins.
const TABLE: u64 = BLOCK_FRAMES;
const TABLES: u64 = 5;
const DONTNEED: i32 = 4;
const FREE: i32 = 8;

/// A machine with some tables' worth of pages that were written one after the other; those of the first do not begin
/// a block, since another page was there before.
fn written() -> SoftwareMachine {
    let m = machine();
    map_at(&m, 50 * TABLE, 1, RW).unwrap();
    m.store(page(50 * TABLE), 1).unwrap();
    map_at(&m, 0, TABLES * TABLE, RW).unwrap();
    write_all(&m);
    m
}

fn write_all(m: &SoftwareMachine) {
    for i in 0..TABLES * TABLE {
        m.store(page(i), byte(i)).unwrap();
    }
}

/// What the first VMA uses.
fn usage(m: &SoftwareMachine) -> Usage {
    smaps(&m.space.look()).next().unwrap().usage
}

fn byte(i: u64) -> u8 {
    u8::try_from(i % 251 + 1).unwrap()
}

fn assert_written(m: &SoftwareMachine) {
    for i in 0..TABLES * TABLE {
        assert_eq!(m.load(page(i)).unwrap(), byte(i), "page {i}");
    }
}

/// Which of the tables are large entries.
fn promoted(m: &SoftwareMachine) -> Vec<u64> {
    let space = m.space.look();
    let is = |table: &u64| {
        let large = space.table().large(page(table * TABLE));
        large.is_some_and(|large| large.entry.is_promoted())
    };
    (0..TABLES).filter(is).collect()
}

#[test]
fn pages_side_by_side_that_were_all_written_become_one_entry_in_a_fork() {
    let m = written();
    let before = usage(&m);
    let child = child_of(&m);
    assert_eq!(promoted(&m), [1, 2, 3, 4]);
    assert_eq!(promoted(&child), []);
    let after = usage(&m);
    let same = |usage: &Usage| {
        (usage.rss, usage.referenced, usage.anonymous, usage.anon_huge, usage.lazy_free)
    };
    assert_eq!((same(&before), after.anon_huge), (same(&after), 0));
    assert_written(&m);
    // Its own accesses are told apart.
    child.load(page(TABLE + 9)).unwrap();
    assert_eq!(usage(&child).referenced, PAGE_SIZE);
    assert_written(&child);
    audited(&[&m, &child]);
    child.space.exit().unwrap();
    audited(&[&m]);
}

#[test]
fn those_that_were_written_downwards_do_so_too() {
    let m = machine();
    map_at(&m, 0, TABLES * TABLE, RW).unwrap();
    for i in (0..TABLES * TABLE).rev() {
        m.store(page(i), byte(i)).unwrap();
    }
    let child = child_of(&m);
    assert_eq!(promoted(&m), [0, 1, 2, 3]);
    assert_written(&m);
    audited(&[&m, &child]);
}

#[test]
fn its_last_owner_writes_it_in_place() {
    let m = written();
    child_of(&m).space.exit().unwrap();
    write_all(&m);
    assert_eq!(promoted(&m), [1, 2, 3, 4]);
    let child = child_of(&m);
    m.store(page(TABLE), 99).unwrap();
    assert_eq!((m.load(page(TABLE)).unwrap(), child.load(page(TABLE)).unwrap()), (99, byte(TABLE)));
    audited(&[&m, &child]);
}

#[test]
fn who_writes_on_while_a_child_has_the_pages_gets_ever_more_tables_at_once() {
    let m = written();
    let child = child_of(&m);
    let mut seen = Vec::new();
    for table in [2, 1, 4, 3] {
        m.store(page(table * TABLE + 5), 77).unwrap();
        seen.push(promoted(&m));
    }
    let none: Vec<u64> = Vec::new();
    assert_eq!(seen, [vec![1, 3, 4], vec![3, 4], none.clone(), none]);
    for table in 1..TABLES {
        let at = page(table * TABLE + 5);
        assert_eq!((m.load(at).unwrap(), child.load(at).unwrap()), (77, byte(table * TABLE + 5)));
    }
    audited(&[&m, &child]);
    // What was copied lies elsewhere, and comes together again.
    write_all(&m);
    child.space.exit().unwrap();
    let child = child_of(&m);
    assert_written(&m);
    assert_written(&child);
    audited(&[&m, &child]);
}

#[test]
fn everything_is_flushed_before_a_page_of_it_changes() {
    let m = written();
    let _child = child_of(&m);
    m.load(page(TABLE)).unwrap();
    let before = m.sink.table_flushes();
    m.store(page(TABLE), 7).unwrap();
    assert_eq!(m.sink.table_flushes(), before + 1);
    // Nothing of it is cached from then on: the copy needs no flush.
    assert_eq!(m.sink.last().tables, TableChange::Unlinked);
}

#[test]
fn what_a_vcpu_may_still_use_is_not_promoted() {
    let m = written();
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    assert_eq!(promoted(&m), []);
    child.exit().unwrap();
    m.sink.set_forked_root(ForkedRoot::Kept);
    child_of(&m);
    assert_eq!(promoted(&m), []);
}

#[test]
fn a_table_with_one_page_unlike_the_others_stays() {
    let m = machine();
    map_at(&m, 0, TABLES * TABLE, RW).unwrap();
    for i in (0..TABLES * TABLE).filter(|&i| i != 2 * TABLE - 1) {
        m.store(page(i), byte(i)).unwrap();
    }
    m.load(page(2 * TABLE - 1)).unwrap();
    protect(&m, 2 * TABLE + 7, 1, Prot::READ).unwrap();
    // Alike, but the pages may be given up.
    m.space.change().madvise(page(3 * TABLE), TABLE * PAGE_SIZE, FREE).unwrap();
    for i in 3 * TABLE..4 * TABLE {
        m.load(page(i)).unwrap();
    }
    m.space.change().madvise(page(511), PAGE_SIZE, DONTNEED).unwrap();
    let child = child_of(&m);
    assert_eq!(promoted(&m), [4]);
    audited(&[&m, &child]);
}

#[test]
fn each_page_has_its_own_fate() {
    let m = written();
    child_of(&m).space.exit().unwrap();
    let advise = |first: u64, pages: u64, advice| {
        m.space.change().madvise(page(first), pages * PAGE_SIZE, advice).unwrap();
    };
    advise(TABLE + 3, 1, FREE);
    assert_eq!(promoted(&m), [2, 3, 4]);
    assert_eq!(usage(&m).lazy_free, PAGE_SIZE);
    advise(2 * TABLE, TABLE, FREE);
    assert_eq!(promoted(&m), [3, 4]);
    advise(3 * TABLE, TABLE, DONTNEED);
    assert_eq!(promoted(&m), [4]);
    assert_eq!(m.load(page(3 * TABLE + 1)).unwrap(), 0);
    let old = m.space.look().resident().own();
    remap(&m, 4 * TABLE, TABLE, TABLE, Some(20 * TABLE)).unwrap();
    assert!(m.space.look().table().large(page(20 * TABLE)).is_none());
    assert_eq!(m.space.look().resident().own(), old);
    assert_eq!(m.load(page(20 * TABLE + 3)).unwrap(), byte(4 * TABLE + 3));
    audited(&[&m]);
}

#[test]
fn it_is_protected_and_unmapped_as_one_and_cut_where_a_range_ends() {
    let m = written();
    child_of(&m).space.exit().unwrap();
    protect(&m, TABLE, 2 * TABLE, Prot::READ).unwrap();
    assert_eq!(promoted(&m), [1, 2, 3, 4]);
    assert!(m.store(page(TABLE), 1).is_err());
    protect(&m, TABLE, 2 * TABLE, RW).unwrap();
    m.store(page(TABLE), 1).unwrap();
    unmap(&m, 2 * TABLE, TABLE + 1).unwrap();
    assert_eq!(promoted(&m), [1, 4]);
    assert_eq!(m.load(page(3 * TABLE + 1)).unwrap(), byte(3 * TABLE + 1));
    assert!(m.load(page(3 * TABLE)).is_err());
    audited(&[&m]);
}

#[test]
fn a_fork_that_fails_for_want_of_a_frame_leaves_the_tables_as_they_were() {
    let m = written();
    let before = m.frames.stats();
    refuse_forks(&m, || {
        assert_eq!((promoted(&m), m.frames.stats().pages), (vec![], before.pages));
    });
    assert_eq!(promoted(&m), [1, 2, 3, 4]);
    assert_written(&m);
    audited(&[&m]);
}
