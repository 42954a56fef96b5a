//! What a guardian is asked, and what its veto leaves.

use super::*;

#[test]
fn a_map_is_asked_for_then_its_place_then_its_pages() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    assert_eq!(w.asked.taken(), ["may map 2 prot 3", "may use 0", "may commit 2"]);
    // Before anything is looked at: the length is wrong.
    assert!(w.map(0, 0, RW).is_err());
    assert_eq!(w.asked.taken(), ["may map 0 prot 3"]);
    for about in [Vetoed::Map, Vetoed::Address, Vetoed::Commit] {
        w.refused(about, || w.map(8, 2, RW));
        // In place of all of a mapping: it stays.
        w.refused(about, || w.map(0, 3, RW));
    }
    w.map(8, 2, Prot::READ).unwrap();
}

#[test]
fn a_change_of_permissions_is_asked_for_vma_by_vma() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(2, 2, Prot::READ).unwrap();
    w.asked.taken();
    let protect = |page, prot| w.machine.space.change().mprotect(at(page), 2 * PAGE_SIZE, prot);
    w.refused(Vetoed::Protect, || protect(0, Prot::empty()));
    w.refused(Vetoed::Commit, || protect(2, RW));
    w.asked.taken();
    w.machine.space.change().modes_mut().personality = 0x40_0000;
    protect(1, Prot::READ).unwrap();
    assert_eq!(w.asked.taken(), ["may protect 0..2 1 5", "may protect 2..4 1 5"]);
}

#[test]
fn growth_and_moves_ask_for_their_place_and_for_what_is_more() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(2, 1, Prot::READ).unwrap();
    w.asked.taken();
    let grow = |pages: u64| {
        w.machine.space.change().mremap(&RemapRequest {
            addr: at(0),
            old_len: 2 * PAGE_SIZE,
            new_len: pages * PAGE_SIZE,
            flags: 1,
            new_addr: VirtAddr::ZERO,
        })
    };
    w.refused(Vetoed::Address, || grow(4));
    w.refused(Vetoed::Commit, || grow(4));
    w.asked.taken();
    grow(4).unwrap();
    let asked = w.asked.taken();
    assert!(asked[0].starts_with("may use ") && asked[1..] == ["may commit 2"], "{asked:?}");
}

#[test]
fn the_heap_stays_where_it_is_when_it_may_not_grow() {
    let w = Watched::new();
    w.machine.space.change().set_brk(at(0), at(0));
    for about in [Vetoed::Address, Vetoed::Commit] {
        let before = w.state();
        *w.vetoed.lock().unwrap() = about;
        assert_eq!(w.machine.space.change().brk(at(2)).unwrap(), at(0), "brk has no errno");
        *w.vetoed.lock().unwrap() = Vetoed::Nothing;
        assert_eq!(w.state(), before);
    }
    w.asked.taken();
    assert_eq!(w.machine.space.change().brk(at(2)).unwrap(), at(2));
    assert_eq!(w.asked.taken(), ["may use 0", "may commit 2"]);
}

#[test]
fn a_fork_that_may_not_be_promised_its_memory_leaves_nothing() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(4, 2, RW).unwrap();
    let frames = w.machine.frames.stats();
    w.refused(Vetoed::Commit, || w.machine.space.change().fork());
    assert_eq!(w.machine.frames.stats().tables, frames.tables);
    w.machine.space.change().fork().unwrap().exit().unwrap();
}

#[test]
fn a_stack_that_may_not_grow_is_a_signal_and_nothing_has_changed() {
    let w = Watched::new();
    let stack = MapFlags::FIXED | MapFlags::GROWSDOWN;
    let request = MapRequest::anonymous(at(600), PAGE_SIZE, RW, stack);
    w.machine.space.change().mmap(&request).unwrap();
    let before = w.state();
    *w.vetoed.lock().unwrap() = Vetoed::Commit;
    assert!(w.machine.store(at(598), 1).is_err());
    assert_eq!(w.state(), before);
}
