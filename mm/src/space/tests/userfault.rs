//! What entries remember of pages whose first write a userfaultfd is told of.

use super::*;
use crate::backing::SharedMemory;
use crate::paging::Entry;
use crate::userfault::{Features, Userfault};

/// A userfaultfd that tells nobody: what it would be told is a `SIGBUS`.
fn uffd(features: Features) -> Arc<Userfault> {
    let uffd = Userfault::default();
    uffd.initialize(features | Features::SIGBUS).unwrap();
    Arc::new(uffd)
}

fn range(first: u64, pages: u64) -> PageRange {
    PageRange::from_len(page(first), pages * PAGE_SIZE).unwrap()
}

fn register(m: &SoftwareMachine, uffd: &Arc<Userfault>, pages: u64, mode: u64) {
    m.space.change().userfault_register(uffd, page(0), pages * PAGE_SIZE, mode).unwrap();
}

fn protect(m: &SoftwareMachine, first: u64, pages: u64, protection: Protection) {
    m.space.change().userfault_protect(range(first, pages), protection).unwrap();
    audit(&m.space.look()).unwrap();
}

fn entry(space: &AddressSpace, index: u64) -> Entry {
    let slot = space.table.slot(page(index));
    slot.map_or(Entry::EMPTY, |slot| Entry::new(slot.load(Ordering::Relaxed)))
}

fn is_refused(m: &SoftwareMachine, index: u64) -> bool {
    matches!(m.store(page(index), 9), Err(AccessError::Fault(Fault::NoBacking(_))))
}

#[test]
fn a_protected_page_is_flushed_and_its_write_told_until_it_is_not_protected() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    (0..4).for_each(|i| m.store(page(i), 1).unwrap());
    register(&m, &uffd(Features::empty()), 8, 2);
    let before = m.sink.flushes();
    protect(&m, 0, 2, Protection::On);
    assert_eq!(m.sink.flushes(), before + 1, "a vCPU may have cached that it may write");
    assert!(is_refused(&m, 0) && is_refused(&m, 1));
    m.store(page(2), 2).unwrap();
    assert_eq!(m.load(page(0)).unwrap(), 1);
    // Protection outlives the VMA's.
    m.space.change().mprotect(page(0), 2 * PAGE_SIZE, Prot::READ).unwrap();
    m.space.change().mprotect(page(0), 2 * PAGE_SIZE, RW).unwrap();
    assert!(is_refused(&m, 0));
    // What is not there is not protected, so that what comes is not.
    protect(&m, 6, 1, Protection::On);
    m.store(page(6), 3).unwrap();
    protect(&m, 0, 1, Protection::Off);
    m.store(page(0), 4).unwrap();
    assert!(is_refused(&m, 1));
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_child_is_told_nothing_and_its_parent_is_as_before() {
    let m = machine();
    map_at(&m, 0, 4, RW).unwrap();
    (0..4).for_each(|i| m.store(page(i), 1).unwrap());
    register(&m, &uffd(Features::WP_UNPOPULATED), 4, 2);
    protect(&m, 0, 4, Protection::On);
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    assert!(!entry(&child, 0).is_protected() && entry(&m.space.look(), 0).is_protected());
    audit(&child).unwrap();
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    let child = SoftwareMachine { space: SharedSpace::new(child), sink, frames };
    child.store(page(0), 5).unwrap();
    assert!(is_refused(&m, 0));
    protect(&m, 0, 4, Protection::Off);
    m.store(page(0), 6).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), child.load(page(0)).unwrap()), (6, 5));
    audit_all(&[&m.space.look(), &child.space.look()]).unwrap();
    child.space.exit().unwrap();
}

#[test]
fn what_an_object_takes_away_comes_back_protected() {
    let m = machine();
    let file = SharedMemory::file(Arc::clone(&m.frames), 4, Default::default());
    let file = Arc::new(file);
    map_file(&m, 0, 4, MapType::Shared, &file);
    (0..2).for_each(|i| m.store(page(i), 1).unwrap());
    register(&m, &uffd(Features::empty()), 4, 2);
    protect(&m, 0, 4, Protection::On);
    assert_eq!(entry(&m.space.look(), 3), Entry::PROTECTION);
    let system = Arc::clone(m.space.look().system());
    file.punch(0..1, &system).unwrap();
    m.space.change().madvise(page(1), PAGE_SIZE, Advice::DontNeed as i32).unwrap();
    for i in 0..4 {
        assert_eq!(entry(&m.space.look(), i), Entry::PROTECTION, "{i}");
        assert_eq!(m.load(page(i)).unwrap(), u8::from(i == 1));
        assert!(is_refused(&m, i), "{i}");
    }
    audit(&m.space.look()).unwrap();
    m.space.change().munmap(page(0), 4 * PAGE_SIZE).unwrap();
    assert_eq!(entry(&m.space.look(), 3), Entry::EMPTY);
}

#[test]
fn nobody_is_told_any_more_when_it_ends_or_moves() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    (0..8).for_each(|i| m.store(page(i), 1).unwrap());
    let watch = uffd(Features::WP_UNPOPULATED);
    register(&m, &watch, 8, 2);
    protect(&m, 0, 8, Protection::On);
    let other = uffd(Features::empty());
    let refused = m.space.change().userfault_unregister(&other, page(0), PAGE_SIZE);
    assert!(matches!(refused, Err(CallError::Errno(Errno::EINVAL))), "another's");
    m.space.change().userfault_unregister(&watch, page(0), 2 * PAGE_SIZE).unwrap();
    m.store(page(0), 2).unwrap();
    let request = RemapRequest {
        addr: page(2),
        old_len: PAGE_SIZE,
        new_len: PAGE_SIZE,
        flags: 3,
        new_addr: page(20),
    };
    m.space.change().mremap(&request).unwrap();
    m.store(page(20), 2).unwrap();
    assert!(is_refused(&m, 3));
    m.space.change().userfault_release(&watch).unwrap();
    m.store(page(3), 2).unwrap();
    assert!(m.space.look().vmas().iter().all(|vma| vma.userfault().is_none()));
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_page_comes_once_and_only_where_there_is_room_for_it() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    register(&m, &uffd(Features::WP_UNPOPULATED), 8, 3);
    let fill = |index, filling: Filling<'_>, protection| {
        let filled = m.space.change().fill(page(index), &filling, protection);
        audit(&m.space.look()).unwrap();
        match filled {
            Ok(()) => 0,
            Err(CallError::Errno(errno)) => errno as i32,
            Err(CallError::Broken(broken)) => panic!("{broken}"),
        }
    };
    let (exists, bytes) = (Errno::EEXIST as i32, [3; 4096]);
    let (on, off) = (Protection::On, Protection::Off);
    assert!(is_refused(&m, 0));
    assert_eq!(fill(0, Filling::Bytes(&bytes), off), 0);
    assert_eq!(
        (fill(0, Filling::Bytes(&bytes), off), fill(0, Filling::Zeros, off)),
        (exists, exists)
    );
    assert_eq!(m.load(page(0).offset(4095)).unwrap(), 3);
    assert_eq!((fill(1, Filling::Poison, off), fill(1, Filling::Poison, off)), (0, exists));
    assert!(matches!(m.load(page(1)), Err(AccessError::Fault(Fault::Poisoned(_)))));
    assert_eq!((fill(1, Filling::Zeros, off), fill(1, Filling::Bytes(&bytes), on)), (exists, 0));
    assert!(is_refused(&m, 1) && m.load(page(1)).unwrap() == 3);
    assert_eq!(fill(2, Filling::Zeros, off), 0);
    m.store(page(2), 1).unwrap();
    assert_eq!(fill(2, Filling::Present, off), Errno::EINVAL as i32);
    assert_eq!(fill(8, Filling::Zeros, off), Errno::ENOENT as i32);
    assert_eq!(m.space.look().resident().own(), 3);
}
