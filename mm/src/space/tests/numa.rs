//! From which node pages come, and how they go to another.

mod moves;

use super::*;
use crate::backing::SharedMemory;
use crate::numa;
use crate::phys::{Contents, FrameKind};
use crate::vma::policy::Policy;

const PREFERRED: u64 = 1;
const BIND: u64 = 2;
const INTERLEAVE: u64 = 3;
const LOCAL: u64 = 4;
const PREFERRED_MANY: u64 = 5;
const WEIGHTED: u64 = 6;

/// A machine with `nodes` nodes of 2 MiB each; the task runs on node 1.
fn machine_of(nodes: u8) -> SoftwareMachine {
    numa::enter(None, 1);
    SoftwareMachine::with_nodes(u64::from(nodes) * 512, nodes, Limits::default()).unwrap()
}

fn mbind(m: &SoftwareMachine, at: u64, pages: u64, mode: u64, nodes: u64) {
    bind_with(m, at, pages, (mode, nodes), 0).unwrap();
}

fn bind_with(
    m: &SoftwareMachine,
    at: u64,
    pages: u64,
    (mode, nodes): (u64, u64),
    flags: u64,
) -> CallResult<()> {
    m.space.change().mbind(page(at), pages * PAGE_SIZE, mode, nodes, flags)
}

fn nodes_of(m: &SoftwareMachine, pages: std::ops::Range<u64>) -> Vec<u8> {
    let space = m.space.look();
    pages.map(|i| space.node_of(page(i)).unwrap()).collect()
}

/// Writes pages, each with a number of its own.
fn fill(m: &SoftwareMachine, pages: std::ops::Range<u64>) {
    for i in pages {
        m.store(page(i), 1 + i as u8).unwrap();
    }
}

fn check(m: &SoftwareMachine, pages: std::ops::Range<u64>) {
    for i in pages {
        assert_eq!(m.load(page(i)).unwrap(), 1 + i as u8, "page {i}");
    }
}

/// Takes all frames of a node but a few.
fn fill_node(m: &SoftwareMachine, node: u8, but: u64) {
    let wish = crate::phys::Wish::only(node);
    while m.frames.alloc_on(FrameKind::Cached, Contents::Any, wish).is_ok() {}
    let last = u64::from(node + 1) * 512;
    for frame in last - but..last {
        m.frames.put(crate::addr::Frame::new(frame)).unwrap();
    }
}

#[test]
fn each_policy_has_pages_come_from_its_nodes() {
    let m = machine_of(4);
    map_at(&m, 0, 64, RW).unwrap();
    mbind(&m, 8, 8, PREFERRED, 0b1100);
    mbind(&m, 16, 8, BIND, 0b1001);
    mbind(&m, 24, 8, INTERLEAVE, 0b1011);
    mbind(&m, 32, 8, LOCAL, 0);
    mbind(&m, 40, 8, PREFERRED_MANY, 0b0101);
    mbind(&m, 48, 8, WEIGHTED, 0b1010);
    fill(&m, 0..56);
    check(&m, 0..56);
    assert_eq!(nodes_of(&m, 0..8), [1; 8], "none");
    assert_eq!(nodes_of(&m, 8..16), [2; 8], "preferred");
    assert_eq!(nodes_of(&m, 16..24), [3; 8], "bind: the first from the task's on");
    // By the address, and not by who comes first: a page's number is that of its VMA's first page and on.
    let by_address = |i: u64| [0, 1, 3][((BASE / PAGE_SIZE + i) % 3) as usize];
    assert_eq!(nodes_of(&m, 24..32), (24..32).map(by_address).collect::<Vec<_>>());
    assert_eq!(nodes_of(&m, 32..40), [1; 8], "local");
    assert_eq!(nodes_of(&m, 40..48), [2; 8], "preferred-many");
    assert_eq!(nodes_of(&m, 48..56), [1, 3, 1, 3, 1, 3, 1, 3], "weighted interleave");
    audited(&[&m]);
}

#[test]
fn a_home_node_is_where_looking_begins() {
    let m = machine_of(4);
    map_at(&m, 0, 12, RW).unwrap();
    let home = |at: u64, pages: u64, node, flags| {
        m.space.change().set_home_node(page(at), pages * PAGE_SIZE, node, flags)
    };
    assert_eq!(errno_of(home(0, 4, 3, 0)), Errno::ENOENT, "no policy");
    mbind(&m, 0, 4, BIND, 0b1101);
    mbind(&m, 8, 4, PREFERRED, 0b0001);
    assert_eq!(errno_of(home(0, 4, 4, 0)), Errno::EINVAL, "no such node");
    assert_eq!(errno_of(home(0, 4, 0, 1)), Errno::EINVAL, "no flags");
    home(0, 2, 0, 0).unwrap();
    assert_eq!(lines(&m).len(), 4, "another home node is another policy");
    fill(&m, 0..4);
    assert_eq!(nodes_of(&m, 0..4), [0, 0, 2, 2]);
    assert_eq!(errno_of(home(0, 12, 3, 0)), Errno::EOPNOTSUPP, "MPOL_PREFERRED has none");
    assert_eq!(
        m.space.look().policy_at(page(0)).unwrap().unwrap().home,
        Some(3),
        "what came before"
    );
}

#[test]
fn the_tasks_policy_is_for_memory_that_has_none() {
    let m = machine_of(2);
    map_at(&m, 0, 16, RW).unwrap();
    mbind(&m, 4, 4, BIND, 0b10);
    numa::enter(Policy::new(PREFERRED, 1, 3).unwrap(), 1);
    fill(&m, 0..12);
    assert_eq!(nodes_of(&m, 0..12), [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
    m.space.change().policy_changes().unwrap();
    numa::set_policy(Policy::new(INTERLEAVE, 3, 3).unwrap());
    fill(&m, 12..16);
    assert_eq!(nodes_of(&m, 12..16), [0, 1, 0, 1]);
}

#[test]
fn a_full_node_is_passed_over_but_not_by_bind() {
    let m = machine_of(2);
    map_at(&m, 0, 16, RW).unwrap();
    // The tables, and what page faults bring in ahead.
    m.space.look().system().sysctl.set_fault_ahead(1);
    fill(&m, 0..1);
    mbind(&m, 8, 8, BIND, 0b10);
    fill_node(&m, 1, 2);
    fill(&m, 1..8);
    assert_eq!(nodes_of(&m, 0..8), [1, 1, 1, 0, 0, 0, 0, 0]);
    let full = fault_of(m.store(page(8), 1));
    assert_eq!(full, Fault::OutOfMemory(page(8)));
    // As soon as something of the node can be given up it is.
    m.space.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
    fill(&m, 8..9);
    assert_eq!(nodes_of(&m, 8..9), [1]);
    audited(&[&m]);
}

#[test]
fn the_copy_of_a_page_comes_from_where_the_writer_has_it() {
    let m = machine_of(2);
    map_at(&m, 0, 2, RW).unwrap();
    fill(&m, 0..2);
    let child = child_of(&m);
    numa::enter(None, 0);
    child.store(page(0), 9).unwrap();
    assert_eq!((nodes_of(&m, 0..2), nodes_of(&child, 0..2)), (vec![1, 1], vec![0, 1]));
    mbind(&child, 1, 1, BIND, 0b10);
    child.store(page(1), 9).unwrap();
    assert_eq!(nodes_of(&child, 0..2), [0, 1]);
    check(&m, 0..2);
    audited(&[&m, &child]);
}

#[test]
fn a_shared_objects_policy_is_that_of_all_who_map_it() {
    let m = machine_of(4);
    let object = Arc::new(SharedMemory::new(Arc::clone(&m.frames), 16, 3));
    map_file(&m, 0, 16, MapType::Shared, &object);
    map_file(&m, 32, 16, MapType::Private, &object);
    mbind(&m, 4, 4, BIND, 0b0100);
    mbind(&m, 40, 4, INTERLEAVE, 0b0011);
    // The policy of the object's pages, whichever map it was given by; a copy of one, too.
    fill(&m, 0..12);
    assert_eq!(nodes_of(&m, 0..8), [1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(nodes_of(&m, 8..12), [1, 0, 1, 0], "page 8 of object 3");
    m.store(page(36), 1).unwrap();
    assert_eq!(nodes_of(&m, 36..37), [2]);
    let policy_at =
        |i| m.space.look().policy_at(page(i)).unwrap().map(|policy| policy.mode.number());
    assert_eq!(
        [0, 4, 8, 36, 40, 44].map(policy_at),
        [None, Some(2), Some(3), Some(2), Some(3), None]
    );
    unmap(&m, 0, 64).unwrap();
    map_file(&m, 0, 16, MapType::Shared, &object);
    assert_eq!(policy_at(4), Some(2), "it lives with the object");
}

#[test]
fn huge_pages_come_from_their_node_whole() {
    let m = SoftwareMachine::with_nodes(8192, 2, Limits::default()).unwrap();
    numa::enter(None, 1);
    m.space.look().system().sysctl.set_thp(crate::sysctl::Thp::Always);
    map_at(&m, 0, 2048, RW).unwrap();
    mbind(&m, 512, 1536, INTERLEAVE, 0b11);
    (0..4).for_each(|i| m.store(page(i * 512), 1).unwrap());
    let nodes = [0, 511, 512, 1023, 1024, 1535, 1536].map(|i| nodes_of(&m, i..i + 1)[0]);
    assert_eq!(nodes, [1, 1, 1, 1, 0, 0, 1]);
    audited(&[&m]);
}
