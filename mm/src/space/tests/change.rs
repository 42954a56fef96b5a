//! Calls that change memory where it is: munmap, mprotect, madvise.

use super::*;
use crate::vma::MapType;

#[test]
fn munmap_takes_the_page_away_at_once_with_one_flush() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    for i in 0..8 {
        m.store(page(i), 1).unwrap();
    }
    let before = m.sink.flushes();
    unmap(&m, 2, 4).unwrap();
    assert_eq!(m.sink.flushes(), before + 1);
    assert_eq!(m.sink.table_flushes(), 0);
    assert_eq!(fault_of(m.load(page(3))), Fault::NotMapped(page(3)));
    assert_eq!(m.load(page(6)).unwrap(), 1);
    audit(&m.space.look()).unwrap();
}

#[test]
fn untouched_pages_are_unmapped_without_a_flush() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    unmap(&m, 0, 8).unwrap();
    assert_eq!(m.sink.flushes(), 0);
}

#[test]
fn munmap_refuses_bad_ranges_with_einval() {
    let m = machine();
    let mut space = m.space.change();
    for (addr, len) in [(BASE + 1, 4096), (BASE, 0), (u64::MAX - 4095, 4096), (BASE, u64::MAX)] {
        assert_eq!(errno_of(space.munmap(VirtAddr::new(addr), len)), Errno::EINVAL);
    }
}

#[test]
fn prot_none_keeps_the_bytes() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 9).unwrap();
    protect(&m, 0, 1, Prot::empty()).unwrap();
    assert_eq!(fault_of(m.load(page(0))), Fault::Denied(page(0)));
    protect(&m, 0, 1, Prot::READ).unwrap();
    assert_eq!(m.load(page(0)).unwrap(), 9);
    assert_eq!(fault_of(m.store(page(0), 1)), Fault::Denied(page(0)));
    audit(&m.space.look()).unwrap();
}

#[test]
fn mprotect_in_the_middle_splits_and_back_again_merges() {
    let m = machine();
    map_at(&m, 0, 3, RW).unwrap();
    m.store(page(1), 1).unwrap();
    protect(&m, 1, 1, Prot::READ).unwrap();
    assert_eq!(
        lines(&m),
        [
            "100000000-100001000 rw-p 000",
            "100001000-100002000 r--p 000",
            "100002000-100003000 rw-p 000"
        ]
    );
    protect(&m, 1, 1, RW).unwrap();
    assert_eq!(lines(&m), ["100000000-100003000 rw-p 000"]);
    audit(&m.space.look()).unwrap();
}

#[test]
fn mprotect_over_a_hole_changes_the_part_before_it_and_says_enomem() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    map_at(&m, 2, 1, RW).unwrap();
    assert_eq!(errno_of(protect(&m, 0, 3, Prot::READ)), Errno::ENOMEM);
    let is = lines(&m);
    assert!(is[0].contains("r--p") && is[1].contains("rw-p"), "{is:?}");
}

#[test]
fn a_hole_filled_between_two_separately_written_maps_merges_with_one_of_them_only() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    map_at(&m, 2, 1, RW).unwrap();
    m.store(page(2), 1).unwrap();
    map_at(&m, 1, 1, RW).unwrap();
    assert_eq!(m.space.look().vmas().len(), 2);
    audit(&m.space.look()).unwrap();
}

#[test]
fn madvise_dontneed_gives_zeros_back_and_goes_on_past_a_hole() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    map_at(&m, 2, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    m.store(page(2), 1).unwrap();
    let advised = m.space.change().madvise(page(0), 3 * PAGE_SIZE, Advice::DontNeed as i32);
    assert_eq!(errno_of(advised), Errno::ENOMEM);
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(2)).unwrap()), (0, 0));
}

#[test]
fn memory_just_above_address_0_counts_as_large_enough_to_collapse() {
    let m = machine();
    let shared = MapFlags::ANONYMOUS | MapType::Shared.into();
    let collapse = |at: u64| {
        let mut request = MapRequest::anonymous(VirtAddr::new(at), 3 * PAGE_SIZE, RW, shared);
        request.flags = shared | MapFlags::FIXED;
        let mut space = m.space.change();
        space.limits_mut().capabilities |= crate::vma::limits::Capabilities::SYS_RAWIO;
        space.mmap(&request).unwrap();
        space.madvise(VirtAddr::new(at), PAGE_SIZE, Advice::Collapse as i32)
    };
    assert!(collapse(0).is_ok());
    assert_eq!(errno_of(collapse(BASE)), Errno::EINVAL);
}
