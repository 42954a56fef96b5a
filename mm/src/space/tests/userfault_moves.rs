//! `UFFDIO_MOVE`: what comes to the target, what stays of the source, and who is refused.

use super::*;
use crate::addr::PAGE_SHIFT;
use crate::inspect::{Shown, smaps_rollup};
use crate::paging::Entry;
use crate::swap::MemoryStore;
use crate::sysctl::Thp;
use crate::userfault::{Features, Userfault};

/// Pages of a huge page; `page(0)` is where one can begin.
const HUGE: u64 = (2 << 20) >> PAGE_SHIFT;
/// Where the target is.
const TARGET: u64 = 4 * HUGE;

/// So many pages to move, and as many to move them to.
fn source_and_target(m: &SoftwareMachine, pages: u64) -> Arc<Userfault> {
    let uffd = Userfault::default();
    uffd.initialize(Features::SIGBUS).unwrap();
    let uffd = Arc::new(uffd);
    map_at(m, 0, pages, RW).unwrap();
    map_at(m, TARGET, pages, RW).unwrap();
    let len = pages * PAGE_SIZE;
    m.space.change().userfault_register(&uffd, page(TARGET), len, 3).unwrap();
    uffd
}

fn range(first: u64, pages: u64) -> PageRange {
    PageRange::from_len(page(first), pages * PAGE_SIZE).unwrap()
}

fn moved(
    m: &SoftwareMachine,
    uffd: &Arc<Userfault>,
    (to, from): (u64, u64),
    pages: u64,
    holes: Holes,
) -> Result<u64, Errno> {
    let moved = m.space.change().userfault_move(uffd, range(to, pages), range(from, pages), holes);
    audit(&m.space.look()).unwrap();
    match moved {
        Ok(bytes) => Ok(bytes >> PAGE_SHIFT),
        Err(CallError::Errno(errno)) => Err(errno),
        Err(CallError::Broken(broken)) => panic!("{broken}"),
    }
}

fn entry(m: &SoftwareMachine, index: u64) -> Entry {
    m.space.look().entry_at(page(index))
}

fn is_missing(m: &SoftwareMachine, index: u64) -> bool {
    matches!(m.load(page(index)), Err(AccessError::Fault(Fault::NoBacking(_))))
}

#[test]
fn pages_come_with_their_frames_and_are_flushed_once() {
    let m = machine();
    let uffd = source_and_target(&m, 8);
    (0..4).for_each(|i| m.store(page(i), 10 + i as u8).unwrap());
    let frames: Vec<_> = (0..4).map(|i| entry(&m, i).frame()).collect();
    let before = m.sink.flushes();
    assert_eq!(moved(&m, &uffd, (TARGET + 2, 0), 4, Holes::Refused), Ok(4));
    assert_eq!(m.sink.flushes(), before + 1, "a vCPU may have them where they were");
    for i in 0..4 {
        assert_eq!(entry(&m, TARGET + 2 + i).frame(), frames[i as usize]);
        assert!(entry(&m, i).is_empty());
    }
    for i in 0..4 {
        assert_eq!(m.load(page(TARGET + 2 + i)).unwrap(), 10 + i as u8);
        m.store(page(TARGET + 2 + i), 1).unwrap();
        assert_eq!(m.load(page(i)).unwrap(), 0);
    }
    assert!(is_missing(&m, TARGET + 1) && is_missing(&m, TARGET + 6));
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_move_stops_at_the_first_page_that_cannot() {
    let m = machine();
    let uffd = source_and_target(&m, 8);
    [0, 1, 3].iter().for_each(|&i| m.store(page(i), 1).unwrap());
    assert_eq!(moved(&m, &uffd, (TARGET, 0), 4, Holes::Refused), Ok(2));
    assert_eq!(moved(&m, &uffd, (TARGET + 2, 2), 2, Holes::Refused), Err(Errno::ENOENT));
    assert_eq!(moved(&m, &uffd, (TARGET + 2, 2), 2, Holes::Allowed), Ok(2));
    assert!(is_missing(&m, TARGET + 2));
    assert_eq!(m.load(page(TARGET + 3)).unwrap(), 1);
    m.store(page(5), 1).unwrap();
    assert_eq!(moved(&m, &uffd, (TARGET + 3, 5), 1, Holes::Allowed), Err(Errno::EEXIST));
    m.space.change().madvise(page(6), PAGE_SIZE, Advice::GuardInstall as i32).unwrap();
    assert_eq!(moved(&m, &uffd, (TARGET + 6, 6), 1, Holes::Allowed), Err(Errno::EFAULT));
    // Within one VMA, over what is moved itself.
    let (from, to) = (TARGET, TARGET + 1);
    assert_eq!(moved(&m, &uffd, (to, from), 2, Holes::Refused), Err(Errno::EEXIST));
}

#[test]
fn who_is_refused_and_why() {
    let m = machine();
    let uffd = source_and_target(&m, 8);
    m.store(page(0), 1).unwrap();
    let refused = |to, from, pages| moved(&m, &uffd, (to, from), pages, Holes::Refused);
    assert_eq!(refused(20, 0, 1), Err(Errno::ENOENT), "nothing mapped");
    assert_eq!(refused(TARGET, 20, 1), Err(Errno::ENOENT));
    assert_eq!(refused(TARGET, 0, 9), Err(Errno::EINVAL), "past the end");
    assert_eq!(refused(4, 0, 1), Err(Errno::EINVAL), "not registered");
    protect(&m, 0, 1, Prot::READ).unwrap();
    assert_eq!(refused(TARGET, 0, 1), Err(Errno::EINVAL), "other rights");
    protect(&m, 0, 1, RW).unwrap();
    m.space.change().mlock2(page(0), PAGE_SIZE, 0).unwrap();
    assert_eq!(refused(TARGET, 0, 1), Err(Errno::EINVAL), "locked");
    m.space.change().munlock(page(0), PAGE_SIZE).unwrap();
    let other = Arc::new(Userfault::default());
    let to_others = moved(&m, &other, (TARGET, 0), 1, Holes::Refused);
    assert_eq!(to_others, Err(Errno::EINVAL), "another's");
    assert_eq!(refused(TARGET, 0, 1), Ok(1));
}

#[test]
fn what_others_have_or_had_since_it_was_written_stays() {
    let m = machine();
    let uffd = source_and_target(&m, 8);
    (0..3).for_each(|i| m.store(page(i), 1).unwrap());
    let child = child_of(&m);
    let one = |i| moved(&m, &uffd, (TARGET + i, i), 1, Holes::Refused);
    assert_eq!(one(0), Err(Errno::EBUSY));
    m.store(page(1), 2).unwrap();
    assert_eq!(one(1), Ok(1), "a copy of its own");
    child.space.exit().unwrap();
    assert_eq!(one(2), Err(Errno::EBUSY), "not written since");
    m.store(page(2), 2).unwrap();
    assert_eq!(one(2), Ok(1));
    assert_eq!(m.load(page(TARGET + 2)).unwrap(), 2);
}

#[test]
fn pages_of_zeros_and_protected_ones_come_as_such() {
    let m = machine();
    let uffd = source_and_target(&m, 8);
    m.load(page(0)).unwrap();
    assert_eq!(moved(&m, &uffd, (TARGET, 0), 1, Holes::Refused), Ok(1));
    assert_eq!(m.load(page(TARGET)).unwrap(), 0);
    let shown = |i| matches!(Shown::of(&m.space.look(), entry(&m, i)), Shown::Zeros(_));
    assert!(shown(TARGET) && !shown(0));
    m.store(page(TARGET), 3).unwrap();
    let protect = |on| m.space.change().userfault_protect(range(TARGET, 1), on).unwrap();
    protect(Protection::On);
    assert_eq!(moved(&m, &uffd, (TARGET + 1, TARGET), 1, Holes::Refused), Ok(1));
    assert!(!entry(&m, TARGET + 1).is_protected());
    m.store(page(TARGET + 1), 4).unwrap();
}

#[test]
fn what_was_brought_in_ahead_of_a_touch_is_not_there() {
    let m = machine();
    let uffd = source_and_target(&m, 64);
    (0..8).for_each(|i| m.store(page(i), 1).unwrap());
    assert_eq!(moved(&m, &uffd, (TARGET + 8, 8), 1, Holes::Refused), Err(Errno::ENOENT));
}

fn with_huge_pages() -> (SoftwareMachine, Arc<Userfault>) {
    let m = machine();
    m.space.look().system().sysctl.set_thp(Thp::Always);
    let uffd = source_and_target(&m, 2 * HUGE);
    (m, uffd)
}

fn huge_kib(m: &SoftwareMachine) -> bool {
    smaps_rollup(&m.space.look()).to_string().contains("AnonHugePages:      2048 kB")
}

#[test]
fn a_huge_page_comes_whole_where_it_fits() {
    let (m, uffd) = with_huge_pages();
    m.store(page(3), 7).unwrap();
    let all = moved(&m, &uffd, (TARGET + HUGE, 0), HUGE, Holes::Refused);
    assert_eq!(all, Ok(HUGE));
    assert!(huge_kib(&m));
    assert_eq!(m.load(page(TARGET + HUGE + 3)).unwrap(), 7);
    m.store(page(TARGET + HUGE + 4), 8).unwrap();
    let child = child_of(&m);
    let back = moved(&m, &uffd, (TARGET, TARGET + HUGE), HUGE, Holes::Refused);
    assert_eq!(back, Err(Errno::EBUSY), "a child has it");
    child.space.exit().unwrap();
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_huge_page_is_split_where_it_does_not_fit() {
    let (m, uffd) = with_huge_pages();
    m.store(page(3), 7).unwrap();
    // What of it is zeros names the page of zeros when its folio is split.
    assert_eq!(moved(&m, &uffd, (TARGET + 1, 2), 2, Holes::Refused), Ok(2));
    assert!(!huge_kib(&m));
    assert_eq!(m.load(page(TARGET + 2)).unwrap(), 7);
    assert_eq!(m.load(page(TARGET + 1)).unwrap(), 0);
    assert!(entry(&m, 2).is_empty() && entry(&m, 3).is_empty() && !entry(&m, 4).is_empty());
    // Where a table is, it comes in pieces.
    m.space.change().madvise(page(0), 2 * HUGE * PAGE_SIZE, Advice::DontNeed as i32).unwrap();
    m.store(page(0), 1).unwrap();
    assert_eq!(moved(&m, &uffd, (TARGET, 0), HUGE, Holes::Refused), Ok(1));
    // The page of zeros is not one's own, large or small.
    m.load(page(HUGE)).unwrap();
    assert_eq!(moved(&m, &uffd, (TARGET + HUGE, HUGE), HUGE, Holes::Refused), Ok(HUGE));
    assert_eq!(m.load(page(TARGET + HUGE + 9)).unwrap(), 0);
    m.store(page(TARGET + HUGE + 9), 1).unwrap();
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_page_in_the_swap_area_comes_as_its_place() {
    let store = Box::new(MemoryStore::new(100));
    let m = SoftwareMachine::prepared(1024, Limits::default(), |system| system.set_swap(store));
    let m = m.unwrap();
    let uffd = source_and_target(&m, 8);
    (0..4).for_each(|i| m.store(page(i), 10 + i as u8).unwrap());
    let out = |at| m.space.change().madvise(page(at), 4 * PAGE_SIZE, Advice::PageOut as i32);
    out(0).unwrap();
    let place = entry(&m, 0).swap_slot();
    assert!(place.is_some());
    assert_eq!(moved(&m, &uffd, (TARGET, 0), 2, Holes::Refused), Ok(2));
    assert_eq!((entry(&m, TARGET).swap_slot(), entry(&m, 0).is_empty()), (place, true));
    // It comes back there, and goes again from there: who looks for it by the reverse map finds it.
    assert_eq!(m.load(page(TARGET)).unwrap(), 10);
    m.store(page(TARGET + 1), 21).unwrap();
    audited(&[&m]);
    m.space.change().madvise(page(TARGET), 4 * PAGE_SIZE, Advice::PageOut as i32).unwrap();
    assert!(entry(&m, TARGET + 1).swap_slot().is_some());
    assert_eq!(m.load(page(TARGET + 1)).unwrap(), 21);
    // One that was only read since may be moved, too.
    assert_eq!(m.load(page(2)).unwrap(), 12);
    assert_eq!(moved(&m, &uffd, (TARGET + 2, 2), 1, Holes::Refused), Ok(1));
    let child = child_of(&m);
    assert_eq!(moved(&m, &uffd, (TARGET + 3, 3), 1, Holes::Refused), Err(Errno::EBUSY));
    audited(&[&m, &child]);
    child.space.exit().unwrap();
}
