//! Memory that grows or moves: mremap, the heap, the stack.

use super::*;

#[test]
fn mremap_moves_bytes_and_leaves_nothing_behind() {
    let m = machine();
    map_at(&m, 0, 4, RW).unwrap();
    for i in 0..4 {
        m.store(page(i), 10 + i as u8).unwrap();
    }
    map_at(&m, 4, 1, Prot::READ).unwrap();
    let at = remap(&m, 0, 4, 8, None).unwrap();
    assert_ne!(at, page(0));
    for i in 0..4 {
        assert_eq!(m.load(at.offset(i * PAGE_SIZE)).unwrap(), 10 + i as u8);
        assert_eq!(fault_of(m.load(page(i))), Fault::NotMapped(page(i)));
    }
    assert_eq!(m.load(at.offset(7 * PAGE_SIZE)).unwrap(), 0);
    audit(&m.space.look()).unwrap();
}

#[test]
fn mremap_grows_in_place_where_there_is_room() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    m.store(page(0), 1).unwrap();
    assert_eq!(remap(&m, 0, 2, 6, None).unwrap(), page(0));
    assert_eq!(m.space.look().vmas().len(), 1);
    assert_eq!(remap(&m, 0, 6, 1, None).unwrap(), page(0));
    assert_eq!(m.space.look().account().total, 1);
    audit(&m.space.look()).unwrap();
}

#[test]
fn an_unwritten_map_moved_beside_another_merges_and_a_written_one_does_not() {
    for (written, vmas) in [(false, 1), (true, 2)] {
        let m = machine();
        map_at(&m, 0, 1, RW).unwrap();
        map_at(&m, 8, 1, RW).unwrap();
        if written {
            m.store(page(8), 1).unwrap();
        }
        remap(&m, 8, 1, 1, Some(1)).unwrap();
        assert_eq!(m.space.look().vmas().len(), vmas, "written: {written}");
        audit(&m.space.look()).unwrap();
    }
}

#[test]
fn the_heap_grows_and_shrinks_and_stops_at_a_mapping() {
    let m = machine();
    m.space.change().set_start_brk(page(0));
    let mut space = m.space.change();
    assert_eq!(space.brk(VirtAddr::ZERO).unwrap(), page(0));
    assert_eq!(space.brk(page(3).offset(5)).unwrap(), page(3).offset(5));
    drop(space);
    m.store(page(3), 1).unwrap();
    assert!(maps_text(&m.space.look()).contains("[heap]"));
    assert_eq!(m.space.change().brk(page(1)).unwrap(), page(1));
    assert_eq!(fault_of(m.load(page(3))), Fault::NotMapped(page(3)));
    map_at(&m, 5, 1, Prot::READ).unwrap();
    // One page stays free below the mapping.
    assert_eq!(m.space.change().brk(page(5)).unwrap(), page(1));
    assert_eq!(m.space.change().brk(page(4)).unwrap(), page(4));
    audit(&m.space.look()).unwrap();
}

#[test]
fn the_stack_grows_while_256_pages_stay_free_below_it() {
    let m = machine();
    let top = VirtAddr::new(0x7fff_ffff_f000);
    let stack = m.space.change().map_stack(top, 4096, Exec::Forbidden).unwrap();
    assert_eq!(stack.pages(), 33);
    let deep = VirtAddr::new(top.get() - (2 << 20));
    m.store(deep, 1).unwrap();
    assert_eq!(m.load(deep).unwrap(), 1);
    let too_deep = VirtAddr::new(top.get() - (9 << 20));
    assert_eq!(fault_of(m.load(too_deep)), Fault::NotMapped(too_deep));
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_growing_map_that_is_not_charged_grows_without_a_promise() {
    let m = machine();
    let grows = MapFlags::FIXED | MapFlags::GROWSDOWN;
    let request = MapRequest::anonymous(page(300), PAGE_SIZE, Prot::READ, grows);
    m.space.change().mmap(&request).unwrap();
    m.load(page(299)).unwrap();
    let space = m.space.look();
    assert_eq!((space.account().total, space.system().committed()), (2, 0));
}
