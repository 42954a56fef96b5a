//! `MADV_COLLAPSE`: what is seen of it is compared with Linux in the differential test; here is what is not seen.

use std::num::NonZeroU64;

use super::*;
use crate::paging::TableChange;
use crate::phys::BLOCK_FRAMES;

const HUGE: u64 = BLOCK_FRAMES;

/// Every third page of the first of two tables, and one of the second.
fn written() -> SoftwareMachine {
    let m = machine();
    map_at(&m, 0, 2 * HUGE, RW).unwrap();
    for i in (0..HUGE).step_by(3) {
        m.store(page(i), 7).unwrap();
    }
    m.load(page(1)).unwrap();
    m.store(page(HUGE + 9), 9).unwrap();
    m
}

fn assert_written(m: &SoftwareMachine) {
    for i in 0..HUGE {
        assert_eq!(m.load(page(i)).unwrap(), if i % 3 == 0 { 7 } else { 0 }, "page {i}");
    }
    assert_eq!(m.load(page(HUGE + 9)).unwrap(), 9);
}

fn collapse(m: &SoftwareMachine, huges: u64) -> CallResult<()> {
    m.space.change().madvise(page(0), huges * HUGE * PAGE_SIZE, Advice::Collapse as i32)
}

fn huges(m: &SoftwareMachine) -> Vec<u64> {
    let space = m.space.look();
    let is = |i: &u64| space.table().large(page(i * HUGE)).is_some_and(|l| l.entry.is_huge());
    (0..2).filter(is).collect()
}

#[test]
fn the_bytes_stay_and_the_small_pages_are_given_back() {
    let m = written();
    let tables = m.space.look().table().table_frames();
    collapse(&m, 2).unwrap();
    assert_eq!(huges(&m), [0, 1]);
    assert_eq!((m.frames.stats().pages, m.space.look().resident().own()), (2 * HUGE, 2 * HUGE));
    assert_eq!(m.space.look().table().table_frames(), tables);
    assert_written(&m);
    audited(&[&m]);
    // Its spare frame is there.
    unmap(&m, 5, 1).unwrap();
    assert_eq!(huges(&m), [1]);
    audited(&[&m]);
}

#[test]
fn everything_is_flushed_before_the_bytes_are_copied() {
    let m = written();
    let before = (m.sink.flushes(), m.sink.table_flushes());
    collapse(&m, 1).unwrap();
    assert_eq!((m.sink.flushes(), m.sink.table_flushes()), (before.0 + 1, before.1 + 1));
    assert_eq!(m.sink.last().tables, TableChange::Unlinked);
}

#[test]
fn what_a_child_has_stays_as_it_is() {
    let m = written();
    let child = child_of(&m);
    collapse(&child, 1).unwrap();
    child.store(page(0), 8).unwrap();
    assert_eq!((huges(&m), huges(&child)), (vec![], vec![0]));
    assert_written(&m);
    audited(&[&m, &child]);
    child.space.exit().unwrap();
    assert_written(&m);
    audited(&[&m]);
}

#[test]
fn without_memory_for_it_nothing_has_changed() {
    let m = written();
    let before = m.frames.stats().pages;
    m.frames.failures().refuse(NonZeroU64::MIN);
    assert_eq!(errno_of(collapse(&m, 1)), Errno::ENOMEM);
    m.frames.failures().stop();
    assert_eq!((huges(&m), m.frames.stats().pages), (vec![], before));
    assert_written(&m);
    audited(&[&m]);
    collapse(&m, 1).unwrap();
    assert_eq!(huges(&m), [0]);
    assert_written(&m);
}
