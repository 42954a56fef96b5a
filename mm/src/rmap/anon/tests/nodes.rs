//! Nodes and chains: where a page is found, how many nodes there are, and who shares one.

use super::*;
use crate::space::Advice;

#[test]
fn a_page_is_found_in_every_process_that_names_it_parents_first() {
    let a = machine();
    map(&a, 0, 4, RW);
    a.store(page(0), 1).unwrap();
    a.store(page(1), 1).unwrap();
    let b = fork(&a);
    b.store(page(2), 2).unwrap();
    let c = fork(&b);
    let [in_a, in_b, in_c] = [&a, &b, &c].map(number);
    assert_eq!(found(&a, frame_at(&a, 0)), [(in_a, 0), (in_b, 0), (in_c, 0)]);
    // What the second wrote, the first has not.
    assert_eq!(found(&a, frame_at(&b, 2)), [(in_b, 2), (in_c, 2)]);
    c.store(page(1), 3).unwrap();
    assert_eq!(found(&a, frame_at(&c, 1)), [(in_c, 1)]);
    assert_eq!(found(&a, frame_at(&a, 1)), [(in_a, 1), (in_b, 1)]);
    audit(&[&a, &b, &c]).unwrap();
    b.space.exit().unwrap();
    assert_eq!(found(&a, frame_at(&c, 2)), [(in_c, 2)]);
    audit(&[&a, &c]).unwrap();
}

#[test]
fn looking_ends_when_it_is_enough() {
    let a = machine();
    map(&a, 0, 1, RW);
    a.store(page(0), 1).unwrap();
    let _b = fork(&a);
    let space = a.space.look();
    let frame = frame_at(&a, 0);
    let mut looked = 0;
    let first = space.system().anon().entries_of(&a.frames, frame, |found| {
        looked += 1;
        ControlFlow::Break(found.space)
    });
    assert_eq!((first, looked), (ControlFlow::Break(number(&a)), 1));
}

#[test]
fn a_moved_page_is_found_where_it_is_now_also_in_a_child() {
    let a = machine();
    map(&a, 0, 8, RW);
    for at in 0..8 {
        a.store(page(at), 1).unwrap();
    }
    let b = fork(&a);
    remap(&a, 2, 2, 100, MAYMOVE_FIXED);
    let frame = frame_at(&b, 3);
    assert_eq!(found(&a, frame), [(number(&a), 101), (number(&b), 3)]);
    // And what comes to the old place is another page, although its index is the same.
    map(&a, 2, 2, RW);
    a.store(page(3), 9).unwrap();
    assert_eq!(found(&a, frame_at(&a, 3)), [(number(&a), 3)]);
    assert_eq!(found(&a, frame), [(number(&a), 101), (number(&b), 3)]);
    let c = fork(&a);
    assert_eq!(found(&a, frame), [(number(&a), 101), (number(&b), 3), (number(&c), 101)]);
    remap(&c, 100, 2, 50, MAYMOVE_FIXED | DONTUNMAP);
    assert_eq!(found(&a, frame), [(number(&a), 101), (number(&b), 3), (number(&c), 51)]);
    audit(&[&a, &b, &c]).unwrap();
}

#[test]
fn a_cut_and_a_merge_change_neither_nodes_nor_what_is_found() {
    let a = machine();
    map(&a, 0, 8, RW);
    for at in 0..8 {
        a.store(page(at), 1).unwrap();
    }
    let before = nodes(&a);
    for (prot, vmas) in [(Prot::READ, 3), (RW, 1)] {
        a.space.change().mprotect(page(2), 2 * PAGE_SIZE, prot).unwrap();
        assert_eq!((a.space.look().vmas().len(), nodes(&a)), (vmas, before));
        assert_eq!(found(&a, frame_at(&a, 3)), [(number(&a), 3)]);
        audit(&[&a]).unwrap();
    }
}

#[test]
fn the_pages_of_a_stack_that_come_together_are_each_found_where_they_are() {
    let a = machine();
    let flags = MapFlags::FIXED | MapFlags::GROWSDOWN;
    let stack = MapRequest::anonymous(page(0), 64 * PAGE_SIZE, RW, flags);
    a.space.change().mmap(&stack).unwrap();
    for at in (20..64).rev() {
        a.store(page(at), 1).unwrap();
    }
    assert!(entry_at(&a.space.look(), 19).is_some_and(Entry::is_ahead), "nothing ahead");
    for at in [63, 62, 60, 30, 20, 19] {
        assert_eq!(found(&a, frame_at(&a, at)), [(number(&a), at)]);
    }
    audit(&[&a]).unwrap();
}

#[test]
fn a_neighbour_that_could_merge_one_day_shares_the_node_and_another_does_not() {
    let a = machine();
    map(&a, 0, 4, RW);
    map(&a, 4, 4, Prot::READ | Prot::WRITE | Prot::EXEC);
    map(&a, 9, 4, RW);
    for at in [0, 4, 9] {
        a.store(page(at), 1).unwrap();
    }
    assert_eq!(node_of(&a, 0), node_of(&a, 4));
    assert_ne!(node_of(&a, 0), node_of(&a, 9));
    assert_eq!(nodes(&a), 2);
    audit(&[&a]).unwrap();
}

#[test]
fn a_node_goes_with_the_last_vma_that_has_pages_of_it() {
    let a = machine();
    map(&a, 0, 4, RW);
    a.store(page(0), 1).unwrap();
    let b = fork(&a);
    assert_eq!(nodes(&a), 2);
    a.space.change().munmap(page(0), 4 * PAGE_SIZE).unwrap();
    assert_eq!(nodes(&a), 2, "the child may have pages of the first node");
    b.space.change().munmap(page(1), 3 * PAGE_SIZE).unwrap();
    assert_eq!(nodes(&a), 2);
    b.space.change().munmap(page(0), PAGE_SIZE).unwrap();
    assert_eq!(nodes(&a), 0);
    audit(&[&a, &b]).unwrap();
}

#[test]
fn a_thousand_generations_whose_parents_end_have_a_handful_of_nodes() {
    let mut last = machine();
    map(&last, 0, 4, RW);
    last.store(page(0), 1).unwrap();
    last.store(page(1), 1).unwrap();
    let first = node_of(&last, 0);
    let mut most = 0;
    for generation in (0..=255_u8).cycle().take(1000) {
        let child = fork(&last);
        child.store(page(1), generation).unwrap();
        last.space.exit().unwrap();
        last = child;
        most = most.max(nodes(&last));
    }
    assert!(most <= 3, "{most} nodes");
    // Nobody has written it since.
    assert_eq!((node_of(&last, 0), found(&last, frame_at(&last, 0)).len()), (first, 1));
    audit(&[&last]).unwrap();
    last.store(page(0), 2).unwrap();
    assert_ne!(node_of(&last, 0), first, "its last owner has taken it over");
    assert_eq!(found(&last, frame_at(&last, 0)), [(number(&last), 0)]);
    audit(&[&last]).unwrap();
}

#[test]
fn siblings_share_no_node() {
    let server = machine();
    map(&server, 0, 4, RW);
    server.store(page(0), 1).unwrap();
    let children: Vec<_> = (0..50).map(|_| fork(&server)).collect();
    for child in &children {
        child.store(page(1), 1).unwrap();
    }
    let mut own: Vec<u32> = children.iter().map(|child| node_of(child, 1)).collect();
    own.sort_unstable();
    own.dedup();
    assert_eq!((own.len(), nodes(&server)), (50, 51));
    let all: Vec<_> = children.iter().chain([&server]).collect();
    audit(&all).unwrap();
    for child in children {
        child.space.exit().unwrap();
    }
    assert_eq!(nodes(&server), 1);
}

#[test]
fn a_node_is_taken_by_a_child_only_if_it_is_nobodys_own_and_has_one_child_at_most() {
    // The root is A's, then B's and below it C's and D's. B ends.
    let a = machine();
    map(&a, 0, 4, RW);
    a.store(page(0), 1).unwrap();
    let b = fork(&a);
    b.store(page(1), 1).unwrap();
    let of_b = node_of(&b, 1);
    let (c, d) = (fork(&b), fork(&b));
    b.space.exit().unwrap();
    assert_eq!(nodes(&a), 4);
    // B's has two children.
    let e = fork(&d);
    e.store(page(2), 1).unwrap();
    assert_eq!(nodes(&a), 5);
    assert_ne!(node_of(&e, 2), of_b);
    // Now it has one.
    c.space.exit().unwrap();
    let f = fork(&d);
    f.store(page(2), 1).unwrap();
    assert_eq!((node_of(&f, 2), nodes(&a)), (of_b, 4));
    // And is somebody's own again.
    let g = fork(&d);
    g.store(page(2), 1).unwrap();
    assert_ne!(node_of(&g, 2), of_b);
    // Its page is found in what it is linked to, and in nothing else.
    assert_eq!(found(&a, frame_at(&f, 2)), [(number(&f), 2)]);
    audit(&[&a, &d, &e, &f, &g]).unwrap();
}

#[test]
fn the_first_process_ends_and_its_node_is_not_taken() {
    let a = machine();
    map(&a, 0, 4, RW);
    a.store(page(0), 1).unwrap();
    let root = node_of(&a, 0);
    let b = fork(&a);
    a.space.exit().unwrap();
    let c = fork(&b);
    c.store(page(1), 1).unwrap();
    assert_ne!(node_of(&c, 1), root, "what came by fork would be taken for what did not");
    assert_eq!(found(&b, frame_at(&b, 0)), [(number(&b), 0), (number(&c), 0)]);
    audit(&[&b, &c]).unwrap();
}

#[test]
fn memory_that_a_child_does_not_get_or_finds_wiped_is_not_linked() {
    let a = machine();
    map(&a, 0, 8, RW);
    for at in 0..8 {
        a.store(page(at), 1).unwrap();
    }
    for (at, advice) in [(0, Advice::DontFork), (4, Advice::WipeOnFork)] {
        a.space.change().madvise(page(at), 2 * PAGE_SIZE, advice as i32).unwrap();
    }
    let b = fork(&a);
    assert_eq!(found(&a, frame_at(&a, 0)), [(number(&a), 0)]);
    assert_eq!(found(&a, frame_at(&a, 2)), [(number(&a), 2), (number(&b), 2)]);
    assert_eq!(found(&a, frame_at(&a, 4)), [(number(&a), 4)]);
    b.store(page(4), 2).unwrap();
    assert_eq!(found(&a, frame_at(&b, 4)), [(number(&b), 4)]);
    audit(&[&a, &b]).unwrap();
}

#[test]
fn a_frame_that_says_the_wrong_node_or_index_fails_the_audit() {
    let a = machine();
    map(&a, 0, 2, RW);
    map(&a, 3, 1, RW);
    a.store(page(0), 1).unwrap();
    a.store(page(3), 1).unwrap();
    let frame = frame_at(&a, 0);
    let right = a.frames.owner(frame).unwrap();
    audit(&[&a]).unwrap();
    a.frames.set_owner(frame, crate::phys::ReverseOwner { index: right.index + 1, ..right });
    audit(&[&a]).unwrap_err();
    a.frames.set_owner(frame, right);
    audit(&[&a]).unwrap();
    a.frames.move_owner(frame, node_of(&a, 3));
    audit(&[&a]).unwrap_err();
}
