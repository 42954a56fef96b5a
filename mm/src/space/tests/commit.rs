//! What counts against the commit limit, and who is refused by it.

use super::*;
use crate::backing::{Backing, BackingName, SharedMemory};
use crate::sysctl::Overcommit;
use crate::vma::MapType;
use crate::vma::limits::Capabilities;

const SHARED: MapFlags = MapFlags::FIXED.union(MapFlags::ANONYMOUS);

/// Counts all promises; `limit` pages may be given, and nothing is held back.
fn counting(limit: u64) -> SoftwareMachine {
    let m = machine();
    let space = m.space.look();
    let sysctl = &space.system().sysctl;
    sysctl.set_overcommit(Overcommit::Never);
    sysctl.set_overcommit_kbytes(limit * 4);
    sysctl.set_admin_reserve_kbytes(0);
    sysctl.set_user_reserve_kbytes(0);
    drop(space);
    m
}

fn map(
    m: &SoftwareMachine,
    at: u64,
    pages: u64,
    flags: MapFlags,
    file: Option<Arc<dyn Backing>>,
) -> CallResult<VirtAddr> {
    let (addr, len) = (page(at), pages * PAGE_SIZE);
    m.space.change().mmap(&MapRequest { addr, len, prot: RW, flags, file, offset: 0 })
}

fn shared(m: &SoftwareMachine, at: u64, pages: u64) -> CallResult<VirtAddr> {
    map(m, at, pages, SHARED | MapType::Shared.into(), None)
}

fn committed(m: &SoftwareMachine) -> u64 {
    m.space.look().system().committed()
}

fn memfd(m: &SoftwareMachine, pages: u64) -> Arc<SharedMemory> {
    let nothing = m.space.look().system().no_promise();
    let object = SharedMemory::file(Arc::clone(&m.frames), pages, BackingName::default());
    Arc::new(object.promised_by_page(nothing))
}

#[test]
fn shared_memory_is_promised_whole_when_it_is_mapped_and_until_its_last_map_goes() {
    let m = machine();
    shared(&m, 0, 8).unwrap();
    assert_eq!(committed(&m), 8);
    protect(&m, 0, 8, Prot::READ).unwrap();
    unmap(&m, 2, 4).unwrap();
    assert_eq!(committed(&m), 8, "the object is as long as it was");
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    assert_eq!(committed(&m), 8, "the child has the same object");
    unmap(&m, 0, 8).unwrap();
    assert_eq!(committed(&m), 8);
    child.exit().unwrap();
    assert_eq!(committed(&m), 0);
}

#[test]
fn shared_memory_that_cannot_be_written_is_promised_all_the_same() {
    let m = machine();
    let request = MapRequest {
        addr: page(0),
        len: 4 * PAGE_SIZE,
        prot: Prot::empty(),
        flags: SHARED | MapType::Shared.into(),
        file: None,
        offset: 0,
    };
    m.space.change().mmap(&request).unwrap();
    assert_eq!(committed(&m), 4);
    m.space.exit().unwrap();
}

#[test]
fn moving_and_growing_a_map_of_shared_memory_promises_nothing_more() {
    let m = machine();
    shared(&m, 0, 4).unwrap();
    remap(&m, 0, 4, 8, Some(20)).unwrap();
    assert_eq!(committed(&m), 4, "what lies past the object's end is nothing");
    unmap(&m, 20, 8).unwrap();
    assert_eq!(committed(&m), 0);
}

#[test]
fn shared_memory_without_reserve_and_memfds_are_promised_page_by_page() {
    let m = machine();
    map(&m, 0, 8, SHARED | MapFlags::NORESERVE | MapType::Shared.into(), None).unwrap();
    let memfd = memfd(&m, 8);
    map(&m, 20, 8, MapFlags::FIXED | MapType::Shared.into(), Some(memfd.clone())).unwrap();
    assert_eq!(committed(&m), 0);
    m.store(page(3), 1).unwrap();
    m.load(page(21)).unwrap();
    m.store(page(21), 1).unwrap();
    assert_eq!((committed(&m), memfd.promised_pages()), (2, 1));
    memfd.punch(0..8, m.space.look().system()).unwrap();
    assert_eq!((committed(&m), memfd.promised_pages()), (1, 0));
    unmap(&m, 0, 8).unwrap();
    assert_eq!(committed(&m), 0);
}

#[test]
fn where_all_promises_are_counted_shared_memory_without_reserve_is_promised_whole() {
    let m = counting(100);
    map(&m, 0, 8, SHARED | MapFlags::NORESERVE | MapType::Shared.into(), None).unwrap();
    assert_eq!(committed(&m), 8);
}

#[test]
fn a_page_of_a_memfd_that_is_not_promised_is_a_bus_error() {
    let m = counting(4);
    let memfd = memfd(&m, 8);
    map(&m, 0, 8, MapFlags::FIXED | MapType::Shared.into(), Some(memfd.clone())).unwrap();
    for index in 0..3 {
        m.store(page(index), 1).unwrap();
    }
    assert_eq!(fault_of(m.store(page(3), 1)), Fault::NoBacking(page(3)));
    m.store(page(2), 2).unwrap();
    assert_eq!((committed(&m), memfd.promised_pages()), (3, 3));
    audit(&m.space.look()).unwrap();
}

#[test]
fn shared_memory_past_the_limit_is_refused_and_leaves_nothing() {
    let m = counting(10);
    map_at(&m, 0, 4, RW).unwrap();
    assert_eq!(errno_of(shared(&m, 10, 6)), Errno::ENOMEM, "the limit itself is not reached");
    assert_eq!((committed(&m), lines(&m).len()), (4, 1));
    shared(&m, 10, 5).unwrap();
    assert_eq!(committed(&m), 9);
}

#[test]
fn shared_memory_that_is_refused_its_place_leaves_a_hole() {
    let m = counting(10);
    map_at(&m, 0, 6, RW).unwrap();
    // What it replaces counts until it is there.
    assert_eq!(errno_of(shared(&m, 2, 4)), Errno::ENOMEM);
    assert_eq!((committed(&m), lines(&m).len()), (2, 1));
    audit(&m.space.look()).unwrap();
    shared(&m, 2, 4).unwrap();
}

#[test]
fn what_private_memory_replaces_pays_for_it_but_shared_memory_does_not() {
    let m = counting(10);
    map_at(&m, 0, 8, RW).unwrap();
    map_at(&m, 0, 9, RW).unwrap();
    assert_eq!(errno_of(map_at(&m, 0, 10, RW)), Errno::ENOMEM);
    unmap(&m, 0, 9).unwrap();
    shared(&m, 0, 8).unwrap();
    assert_eq!(errno_of(map_at(&m, 0, 8, RW)), Errno::ENOMEM);
    assert_eq!((committed(&m), lines(&m).len()), (8, 1));
}

#[test]
fn the_limit_leaves_room_for_the_administrator_and_for_other_users() {
    let m = counting(1000);
    let most = || {
        let found = (1..1000).rev().find(|&pages| map_at(&m, 0, pages, RW).is_ok()).unwrap();
        unmap(&m, 0, found).unwrap();
        found
    };
    assert_eq!(most(), 999);
    m.space.look().system().sysctl.set_admin_reserve_kbytes(400);
    m.space.change().limits_mut().capabilities = Capabilities::SYS_ADMIN;
    assert_eq!(most(), 999, "the administrator may use it");
    m.space.change().limits_mut().capabilities = Capabilities::empty();
    assert_eq!(most(), 899);
    m.space.look().system().sysctl.set_admin_reserve_kbytes(0);
    // A part of what the process has mapped already: of 640 pages that promise nothing, 20.
    m.space.look().system().sysctl.set_user_reserve_kbytes(4 << 10);
    map_at(&m, 2000, 640, Prot::READ).unwrap();
    assert_eq!(most(), 979);
    m.space.look().system().sysctl.set_user_reserve_kbytes(10 * 4);
    assert_eq!(most(), 989);
}

#[test]
fn the_limit_is_a_share_of_all_memory_or_a_size() {
    let m = machine();
    let space = m.space.look();
    let sysctl = &space.system().sysctl;
    sysctl.set_total_pages(1001);
    assert_eq!(sysctl.commit_limit(), 500);
    sysctl.set_overcommit_ratio(80);
    assert_eq!(sysctl.commit_limit(), 800);
    sysctl.set_overcommit_kbytes(7);
    assert_eq!(sysctl.commit_limit(), 1);
    sysctl.set_overcommit_kbytes(0);
    assert_eq!(sysctl.commit_limit(), 0, "the ratio is gone");
    sysctl.set_overcommit_ratio(10);
    assert_eq!(sysctl.commit_limit(), 100);
}

#[test]
fn without_counting_only_a_single_promise_past_all_memory_is_refused() {
    let m = machine();
    m.space.look().system().sysctl.set_total_pages(100);
    for at in [0, 200, 400] {
        map_at(&m, at, 100, RW).unwrap();
    }
    assert_eq!(errno_of(map_at(&m, 600, 101, RW)), Errno::ENOMEM);
    assert_eq!(errno_of(shared(&m, 600, 101)), Errno::ENOMEM);
    m.space.look().system().sysctl.set_overcommit(Overcommit::Always);
    shared(&m, 600, 101).unwrap();
}
