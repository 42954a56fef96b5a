//! Who has it mapped: several, nobody any more, nobody but the host.

use super::*;

#[test]
fn what_another_pager_replaces_or_outlives_is_taken() {
    let (m, first, memory) = paged(2);
    let second: Arc<Store> = Arc::default();
    let other = pager(2, &second).open(&system(&m));
    m.store(page(0), 50).unwrap();
    map(&m, 0, &other);
    assert_eq!(first.byte(0), Some(50), "mapped over");
    m.store(page(1), 51).unwrap();
    unmap(&m, 0, 2).unwrap();
    assert_eq!(second.byte(1), None, "under a lock");
    drop(memory);
    assert_eq!(second.byte(1), Some(51));
    // Mapped again, it is not what nobody maps.
    map(&m, 0, &other);
    m.store(page(0), 60).unwrap();
    let third = pager(1, &first).open(&system(&m));
    map(&m, 9, &third);
    unmap(&m, 9, 1).unwrap();
    drop(third);
    assert_eq!(second.byte(0), None);
    end(m, other);
}

#[test]
fn what_nobody_maps_any_more_is_taken() {
    let (m, store, memory) = paged(4);
    m.store(page(0), 50).unwrap();
    m.store(page(1), 51).unwrap();
    unmap(&m, 0, 1).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!(store.counts().1, 0, "some is mapped");
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    unmap(&m, 1, 3).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!(store.counts().1, 0, "by the child");
    SharedSpace::new(child).exit().unwrap();
    assert_eq!((store.byte(0), store.byte(1)), (Some(50), Some(51)));
    assert_eq!(memory.in_memory(), 2);
    end(m, memory);
    assert_eq!(store.counts(), (2, 2));
}

#[test]
fn a_process_that_ends_has_its_pages_taken() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(2, &store).open(&system(&m));
    let user = SpaceUser::new(AddressSpace::new(system(&m), Limits::default()).unwrap());
    memory.map(&user, page(0), RW, SHARED).unwrap();
    user.write(page(1), &[8]).unwrap();
    user.put().unwrap();
    assert_eq!(store.byte(1), Some(8));
    end(m, memory);
}

#[test]
fn the_host_may_let_go_of_it_first() {
    let (m, store, memory) = paged(2);
    drop(memory);
    m.store(page(0), 50).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 2);
    assert_eq!(Arc::strong_count(&store), 3);
    unmap(&m, 0, 2).unwrap();
    system(&m).serve_pagers().unwrap();
    assert_eq!((store.byte(0), Arc::strong_count(&store)), (Some(50), 1));
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn several_spaces_show_one_page() {
    let (m, store, memory) = paged(2);
    m.store(page(0), 40).unwrap();
    let child = SharedSpace::new(m.space.change().fork(Vcpus::Stopped).unwrap());
    memory.map(&m.space, page(10), RW, PRIVATE).unwrap();
    child.write(page(0), &[41]).unwrap();
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(10)).unwrap()), (41, 41));
    m.store(page(10), 1).unwrap();
    audit_all(&[&m.space.look(), &child.look()]).unwrap();
    assert_eq!(memory.evict(1).unwrap(), 1);
    audit_all(&[&m.space.look(), &child.look()]).unwrap();
    assert_eq!(store.byte(0), Some(41));
    assert_eq!([0, 10].map(|at| m.load(page(at)).unwrap()), [41, 1]);
    child.exit().unwrap();
    end(m, memory);
}
