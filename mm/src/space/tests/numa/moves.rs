//! Pages that go to another node.

use super::*;
use crate::addr::Frame;
use crate::space::migrate::{Migrated, NotQueued, Queue, Shared, Target};

const STRICT: u64 = 1;
const MOVE: u64 = 2;
const MOVE_ALL: u64 = 4;

fn frame(m: &SoftwareMachine, i: u64) -> Frame {
    m.space.look().entry_at(page(i)).frame().unwrap()
}

/// Moves pages as move_pages(2) does; says what became of each that was not queued, and of the rest.
fn move_to(
    m: &SoftwareMachine,
    pages: std::ops::Range<u64>,
    node: u8,
    shared: Shared,
) -> (Vec<NotQueued>, Migrated) {
    let mut queue = Queue::default();
    let space = m.space.change();
    let queued = pages.map(|i| space.queue_page(&mut queue, page(i), node, shared));
    let refused = queued.filter_map(Result::err).collect();
    (refused, space.migrate(&mut queue, Target::Node(node)).unwrap())
}

fn moved(m: &SoftwareMachine, pages: std::ops::Range<u64>, node: u8) {
    let (refused, migrated) = move_to(m, pages, node, Shared::Move);
    assert_eq!((refused, migrated), (vec![], Migrated::All { but: 0 }));
}

/// Four pages with bytes of their own, on node 1 of 2.
fn filled() -> SoftwareMachine {
    let m = machine_of(2);
    map_at(&m, 0, 4, RW).unwrap();
    fill(&m, 0..4);
    m
}

#[test]
fn pages_of_a_pager_stay_and_are_told_as_linux_tells_what_it_cannot_isolate() {
    let m = machine_of(2);
    let system = Arc::clone(m.space.look().system());
    let pager = crate::backing::Pager::new("pager", 2 * PAGE_SIZE, |_, _| Ok(()));
    let memory = pager.open(&system);
    let flags = MapFlags::FIXED | MapType::Shared.into();
    memory.map(&m.space, page(0), Prot::READ, flags).unwrap();
    m.load(page(0)).unwrap();
    m.load(page(1)).unwrap();
    let here = nodes_of(&m, 0..2);
    let there = 1 - here[0];
    let busy = NotQueued::Status(Errno::EBUSY);
    assert_eq!(move_to(&m, 0..2, there, Shared::Move), (vec![busy; 2], Migrated::All { but: 0 }));
    let bind = |flags| m.space.change().mbind(page(0), 2 * PAGE_SIZE, 2, 1 << there, flags);
    assert_eq!(errno_of(bind(MOVE | STRICT)), Errno::EIO);
    bind(MOVE).unwrap();
    let from = 1 - there;
    let migrated = m.space.change().migrate_node(from, there, Shared::Move).unwrap();
    assert_eq!((migrated, nodes_of(&m, 0..2)), (Migrated::All { but: 0 }, here));
    audited(&[&m]);
}

#[test]
fn a_page_is_the_same_on_its_new_node_and_the_old_frame_is_free() {
    let m = filled();
    let (before, flushes) = (m.frames.stats().pages, m.sink.flushes());
    moved(&m, 0..4, 0);
    assert_eq!((nodes_of(&m, 0..4), m.frames.stats().pages), (vec![0; 4], before));
    assert_eq!(m.sink.flushes(), flushes + 1, "one flush for all");
    assert_eq!(m.space.look().resident().own(), 4);
    check(&m, 0..4);
    fill(&m, 0..4);
    audited(&[&m]);
    let (refused, _) = move_to(&m, 0..1, 0, Shared::Stay);
    assert_eq!(refused, [NotQueued::IsThere]);
}

#[test]
fn hidden_read_only_and_locked_pages_move_as_they_are() {
    let m = filled();
    protect(&m, 0, 1, Prot::empty()).unwrap();
    protect(&m, 1, 1, Prot::READ).unwrap();
    m.space.change().mlock2(page(2), PAGE_SIZE, 0).unwrap();
    let before: Vec<Entry> = (0..4).map(|i| m.space.look().entry_at(page(i))).collect();
    moved(&m, 0..4, 0);
    for (i, before) in (0..).zip(before) {
        let now = m.space.look().entry_at(page(i));
        assert_eq!((now.access(), now.is_dirty()), (before.access(), before.is_dirty()), "{i}");
        assert_eq!(
            (now.is_referenced(), now.is_accessed()),
            (before.is_referenced(), false),
            "{i}"
        );
    }
    assert!(matches!(fault_of(m.load(page(0))), Fault::Denied(_)));
    protect(&m, 0, 2, RW).unwrap();
    check(&m, 0..4);
    audited(&[&m]);
}

#[test]
fn what_is_not_there_or_not_movable_says_why() {
    let m = filled();
    map_at(&m, 4, 4, RW).unwrap();
    m.load(page(4)).unwrap();
    let (refused, _) = move_to(&m, 4..9, 0, Shared::Stay);
    let status = NotQueued::Status;
    let none = status(Errno::ENOENT);
    assert_eq!(refused, [status(Errno::EFAULT), none, none, none, status(Errno::EFAULT)]);
    // Twice in one queue; and one that somebody holds.
    let mut queue = Queue::default();
    let held = frame(&m, 1);
    m.frames.get(held);
    {
        let space = m.space.change();
        let queued = [0, 0, 1].map(|i| space.queue_page(&mut queue, page(i), 0, Shared::Stay));
        assert_eq!(queued, [Ok(()), Err(status(Errno::EBUSY)), Ok(())]);
        let migrated = space.migrate(&mut queue, Target::Node(0)).unwrap();
        assert_eq!(migrated, Migrated::All { but: 1 });
    }
    m.frames.put(held).unwrap();
    assert_eq!(nodes_of(&m, 0..2), [0, 1]);
    check(&m, 0..4);
    audited(&[&m]);
}

#[test]
fn a_node_without_memory_takes_none_and_what_is_left_is_given_up() {
    let m = filled();
    fill_node(&m, 0, 2);
    let (_, migrated) = move_to(&m, 0..4, 0, Shared::Stay);
    assert_eq!(migrated, Migrated::NoMemory { left: 2 });
    assert_eq!(nodes_of(&m, 0..4), [0, 0, 1, 1]);
    assert_eq!((0..4).map(|i| m.frames.references(frame(&m, i))).collect::<Vec<_>>(), [1; 4]);
    check(&m, 0..4);
    audited(&[&m]);
}

#[test]
fn a_page_of_several_processes_moves_for_all_of_them_or_stays() {
    let m = filled();
    let (child, sibling) = (child_of(&m), child_of(&m));
    let grandchild = child_of(&child);
    let family = [&m, &child, &sibling, &grandchild];
    let (refused, _) = move_to(&child, 0..1, 0, Shared::Stay);
    assert_eq!(refused, [NotQueued::Status(Errno::EACCES)]);
    moved(&grandchild, 0..3, 0);
    for one in family {
        assert_eq!(nodes_of(one, 0..4), [0, 0, 0, 1]);
        check(one, 0..4);
    }
    let frames: Vec<Frame> = family.iter().map(|one| frame(one, 0)).collect();
    assert_eq!((frames[0], m.frames.maps(frames[0])), (frames[3], 4), "{frames:?}");
    audited(&family);
    // Each goes its own way, and the last owner keeps the page.
    child.store(page(0), 100).unwrap();
    m.store(page(0), 101).unwrap();
    assert_eq!([0, 1, 2, 3].map(|i| family[i].load(page(0)).unwrap()), [101, 100, 1, 1]);
    audited(&family);
    let [m, child, sibling, grandchild] = [m, child, sibling, grandchild];
    for one in [m, child, grandchild] {
        one.space.exit().unwrap();
    }
    let before = frame(&sibling, 1);
    sibling.store(page(1), 7).unwrap();
    assert_eq!(frame(&sibling, 1), before, "nobody else has it any more");
    audited(&[&sibling]);
}

#[test]
fn a_page_that_a_parents_large_entry_maps_stays() {
    let m = SoftwareMachine::with_nodes(8192, 2, Limits::default()).unwrap();
    numa::enter(None, 1);
    m.space.look().system().sysctl.set_thp(crate::sysctl::Thp::Always);
    map_at(&m, 0, 512, RW).unwrap();
    fill(&m, 0..2);
    let child = child_of(&m);
    let (refused, migrated) = move_to(&child, 1..2, 0, Shared::Move);
    assert_eq!((refused, migrated), (vec![], Migrated::All { but: 512 }));
    check(&child, 0..2);
    check(&m, 0..2);
    audited(&[&m, &child]);
    child.space.exit().unwrap();
    moved(&m, 1..2, 0);
    assert_eq!([0, 1, 511].map(|i| nodes_of(&m, i..i + 1)[0]), [0; 3], "it moves whole");
    check(&m, 0..2);
    audited(&[&m]);
}

#[test]
fn an_objects_page_moves_wherever_it_is_mapped() {
    let m = machine_of(2);
    let object = Arc::new(SharedMemory::new(Arc::clone(&m.frames), 8, 3));
    map_file(&m, 0, 4, MapType::Shared, &object);
    map_file(&m, 8, 4, MapType::Shared, &object);
    map_file(&m, 16, 4, MapType::Private, &object);
    fill(&m, 0..4);
    let child = child_of(&m);
    child.load(page(0)).unwrap();
    for i in [8, 9, 16, 17] {
        m.load(page(i)).unwrap();
    }
    m.store(page(16), 50).unwrap();
    let resident = |m: &SoftwareMachine| m.space.look().resident().total();
    let before = (resident(&m), resident(&child));
    let (refused, _) = move_to(&m, 0..1, 0, Shared::Stay);
    assert_eq!(refused, [NotQueued::Status(Errno::EACCES)]);
    moved(&m, 0..2, 0);
    assert_eq!((nodes_of(&m, 0..4), nodes_of(&m, 8..10)), (vec![0, 0, 1, 1], vec![0, 0]));
    assert_eq!(nodes_of(&m, 16..18), [1, 0], "the copy is no page of the object");
    assert_eq!(resident(&m), before.0);
    audited(&[&m, &child]);
    // The others find it when they touch it.
    child.store(page(0), 77).unwrap();
    child.load(page(1)).unwrap();
    assert_eq!(nodes_of(&child, 0..1), [0]);
    assert_eq!([0, 8, 16].map(|i| m.load(page(i)).unwrap()), [77, 77, 50]);
    m.store(page(9), 78).unwrap();
    assert_eq!((m.load(page(1)).unwrap(), m.load(page(17)).unwrap()), (78, 78));
    assert_eq!(resident(&child), before.1);
    let mut bytes = [0; 2];
    object.read_at(PAGE_SIZE, &mut bytes).unwrap();
    assert_eq!(bytes, [78, 0]);
    audited(&[&m, &child]);
}

#[test]
fn mbind_moves_what_is_misplaced_and_says_what_it_could_not() {
    let m = filled();
    assert_eq!(errno_of(bind_with(&m, 0, 4, (BIND, 1), STRICT)), Errno::EIO);
    assert_eq!(m.space.look().policy_at(page(0)).unwrap(), None, "nothing has changed");
    bind_with(&m, 0, 4, (BIND, 1), STRICT | MOVE).unwrap();
    assert_eq!(nodes_of(&m, 0..4), [0; 4]);
    bind_with(&m, 0, 4, (INTERLEAVE, 0b10), MOVE).unwrap();
    assert_eq!(nodes_of(&m, 0..4), [1; 4]);
    // What others have stays, and is no failure.
    let child = child_of(&m);
    bind_with(&m, 0, 2, (BIND, 1), STRICT | MOVE).unwrap();
    assert_eq!(nodes_of(&m, 0..4), [1; 4]);
    bind_with(&m, 0, 2, (BIND, 1), STRICT | MOVE_ALL).unwrap();
    assert_eq!((nodes_of(&m, 0..4), nodes_of(&child, 0..4)), (vec![0, 0, 1, 1], vec![0, 0, 1, 1]));
    let held = frame(&m, 0);
    m.frames.get(held);
    let failed = bind_with(&m, 0, 2, (BIND, 2), STRICT | MOVE_ALL);
    assert_eq!(errno_of(failed), Errno::EIO);
    assert_eq!(nodes_of(&m, 0..2), [0, 1], "all else is done");
    bind_with(&m, 0, 1, (BIND, 2), MOVE_ALL).unwrap();
    m.frames.put(held).unwrap();
    check(&m, 0..4);
    check(&child, 0..4);
    audited(&[&m, &child]);
}

#[test]
fn all_pages_of_a_node_go_to_another() {
    let m = filled();
    let object = Arc::new(SharedMemory::new(Arc::clone(&m.frames), 8, 3));
    map_file(&m, 8, 4, MapType::Shared, &object);
    fill(&m, 8..10);
    let migrated = m.space.change().migrate_node(1, 0, Shared::Move).unwrap();
    assert_eq!(migrated, Migrated::All { but: 0 });
    assert_eq!((nodes_of(&m, 0..4), nodes_of(&m, 8..10)), (vec![0; 4], vec![0; 2]));
    let migrated = m.space.change().migrate_node(1, 0, Shared::Move).unwrap();
    assert_eq!(migrated, Migrated::All { but: 0 });
    check(&m, 0..4);
    check(&m, 8..10);
    audited(&[&m]);
}
