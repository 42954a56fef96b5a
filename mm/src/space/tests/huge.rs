//! Maps of huge pages that nobody promised: nothing can be touched, but the VMA is there, and is one of whole
//! huge pages to every call.

use super::*;
use crate::addr::PAGE_SHIFT;
use crate::inspect::smaps;
use crate::sysctl::Overcommit;
use crate::vma::MapType;

const HUGE: u64 = 2 << 20;
/// Pages of a huge page.
const PAGES: u64 = HUGE >> PAGE_SHIFT;
const GIGANTIC: MapFlags = MapFlags::from_bits_retain(30 << 26);

fn map(m: &SoftwareMachine, index: u64, pages: u64, flags: MapFlags) -> CallResult<VirtAddr> {
    let flags = flags | MapFlags::HUGETLB | MapFlags::FIXED;
    let request = MapRequest::anonymous(page(index), pages * PAGE_SIZE, RW, flags);
    m.space.change().mmap(&request)
}

fn unpromised(m: &SoftwareMachine, index: u64, pages: u64) -> CallResult<VirtAddr> {
    map(m, index, pages, MapFlags::NORESERVE)
}

fn committed(m: &SoftwareMachine) -> u64 {
    m.space.look().system().committed()
}

#[test]
fn huge_pages_that_nobody_promised_are_a_vma_and_a_bus_error() {
    let m = machine();
    unpromised(&m, 0, 1).unwrap();
    let at = page(PAGES - 1);
    assert_eq!(fault_of(m.load(at)), Fault::NoBacking(at));
    assert_eq!(fault_of(m.store(at, 1)), Fault::NoBacking(at));
    assert_eq!(errno_of(m.space.change().mlock2(page(0), PAGE_SIZE, 0)), Errno::ENOMEM);
    let space = m.space.look();
    let flags = space.vmas().iter().next().unwrap().flags;
    assert!(flags.contains(VmFlags::HUGETLB | VmFlags::DONTEXPAND | VmFlags::NORESERVE));
    assert!(!flags.contains(VmFlags::LOCKED));
    assert_eq!((space.account().total, space.account().data), (PAGES, PAGES));
    let entry = smaps(&space).next().unwrap().to_string();
    assert!(entry.contains("KernelPageSize:     2048 kB"), "{entry}");
    assert!(maps_text(&space).contains("/anon_hugepage (deleted)"));
    audit(&space).unwrap();
}

#[test]
fn huge_pages_that_cannot_be_promised_are_refused_when_the_old_map_has_gone() {
    let m = machine();
    map_at(&m, 0, 4, RW).unwrap();
    assert_eq!(errno_of(map(&m, 0, PAGES, MapFlags::empty())), Errno::ENOMEM);
    assert!(lines(&m).is_empty());
    assert_eq!(committed(&m), 0);
}

#[test]
fn the_commit_limit_does_not_count_huge_pages_and_lets_them_be_unpromised_in_every_mode() {
    let m = machine();
    m.space.look().system().sysctl.set_overcommit(Overcommit::Never);
    unpromised(&m, 0, PAGES).unwrap();
    assert_eq!(committed(&m), 0);
    protect(&m, 0, PAGES, Prot::READ).unwrap();
    protect(&m, 0, PAGES, RW).unwrap();
    assert_eq!(committed(&m), 0);
}

#[test]
fn a_refused_cut_of_huge_pages_leaves_the_cut_before_it() {
    let m = machine();
    unpromised(&m, 0, 2 * PAGES).unwrap();
    unpromised(&m, 2 * PAGES, 2 * PAGES).unwrap();
    assert_eq!(errno_of(unmap(&m, PAGES, PAGES + 1)), Errno::EINVAL);
    assert_eq!(m.space.look().vmas().len(), 3);
    assert_eq!(errno_of(map_at(&m, 1, 1, RW)), Errno::EINVAL);
    audit(&m.space.look()).unwrap();
}

#[test]
fn mremap_moves_and_cuts_off_whole_huge_pages_and_makes_none() {
    let m = machine();
    unpromised(&m, 0, 2 * PAGES).unwrap();
    assert_eq!(errno_of(remap(&m, 0, PAGES, 2 * PAGES, None)), Errno::EINVAL);
    assert_eq!(errno_of(remap(&m, 0, PAGES, PAGES, Some(8 * PAGES + 1))), Errno::EINVAL);
    assert_eq!(remap(&m, 0, PAGES + 1, 1, None).unwrap(), page(0));
    assert_eq!(m.space.look().account().total, PAGES);
    assert_eq!(remap(&m, 0, 1, 1, Some(4 * PAGES)).unwrap(), page(4 * PAGES));
    assert_eq!(m.space.look().vmas().iter().next().unwrap().range().pages(), PAGES);
}

#[test]
fn mremap_refuses_a_target_between_huge_pages_also_where_it_has_no_use_for_one() {
    let m = machine();
    unpromised(&m, 0, 2 * PAGES).unwrap();
    let mut request = RemapRequest {
        addr: page(0),
        old_len: 2 * HUGE,
        new_len: HUGE,
        flags: 0,
        new_addr: page(1),
    };
    assert_eq!(errno_of(m.space.change().mremap(&request)), Errno::EINVAL);
    request.new_addr = VirtAddr::ZERO;
    assert_eq!(m.space.change().mremap(&request).unwrap(), page(0));
}

#[test]
fn remap_file_pages_promises_huge_pages_and_so_leaves_a_hole() {
    let m = machine();
    let flags = MapFlags::NORESERVE | MapFlags::HUGETLB | MapFlags::FIXED | MapFlags::ANONYMOUS;
    let request = MapRequest {
        flags: flags | MapType::Shared.into(),
        ..MapRequest::anonymous(page(0), 2 * HUGE, RW, flags)
    };
    m.space.change().mmap(&request).unwrap();
    let call = |size, pgoff| m.space.change().remap_file_pages(page(0), size, 0, pgoff, 0);
    assert_eq!(errno_of(call(PAGE_SIZE, 0)), Errno::EINVAL);
    assert_eq!(m.space.look().account().total, 2 * PAGES);
    assert_eq!(errno_of(call(HUGE, 0)), Errno::ENOMEM);
    assert_eq!(m.space.look().account().total, PAGES);
}

#[test]
fn gigantic_pages_take_a_gibibyte_each() {
    let m = machine();
    unpromised(&m, 0, 1).unwrap();
    assert_eq!(errno_of(map(&m, 1, 1, MapFlags::NORESERVE | GIGANTIC)), Errno::EINVAL);
    let wanted = MapFlags::HUGETLB | MapFlags::NORESERVE | GIGANTIC;
    let request = MapRequest::anonymous(VirtAddr::ZERO, 1, RW, wanted);
    let at = m.space.change().mmap(&request).unwrap();
    assert!(at.get().is_multiple_of(1 << 30));
    assert_eq!(m.space.look().account().total, PAGES + (1 << 18));
}
