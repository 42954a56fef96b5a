//! What a pager brings in before it is touched.

use super::*;

#[test]
fn who_goes_on_page_by_page_gets_several_at_once() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(100, &store).ahead(16).open(&system(&m));
    map(&m, 0, &memory);
    for at in [50, 3, 70] {
        m.load(page(at)).unwrap();
    }
    assert_eq!(memory.in_memory(), 3, "one each for who jumps about");
    m.load(page(71)).unwrap();
    assert_eq!(memory.in_memory(), 3 + 16);
    let backed = |m: &SoftwareMachine| {
        let space = m.space.look();
        space.counters().faults.backed.load(Ordering::Relaxed)
    };
    let before = backed(&m);
    for at in 71..100 {
        assert_eq!(m.load(page(at)).unwrap(), at as u8 + 1);
    }
    assert_eq!((memory.in_memory(), store.counts().0), (2 + 30, 32), "and none past the end");
    assert!(backed(&m) - before < 5, "{}", backed(&m) - before);
    end(m, memory);
}

#[test]
fn what_comes_ahead_is_a_part_of_what_may_stay() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(200, &store).keeping(64).ahead(100).open(&system(&m));
    map(&m, 0, &memory);
    m.load(page(0)).unwrap();
    m.load(page(1)).unwrap();
    assert_eq!(memory.in_memory(), 1 + 16);
    for at in 2..200 {
        m.load(page(at)).unwrap();
        assert!(memory.in_memory() <= 64, "{}", memory.in_memory());
    }
    end(m, memory);
}

#[test]
fn where_there_are_too_many_some_leave_with_one_flush() {
    let (m, store) = (machine(), Arc::default());
    let memory = pager(100, &store).keeping(64).open(&system(&m));
    map(&m, 0, &memory);
    (0..65).for_each(|at| _ = m.load(page(at)).unwrap());
    assert_eq!(memory.in_memory(), 65 - 9);
    end(m, memory);
}

#[test]
fn nothing_comes_ahead_from_the_first_page_on_that_cannot_be_had() {
    let m = machine();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let memory = Pager::new("hole", 32 * PAGE_SIZE, move |offset, _| {
        count.fetch_add(1, Ordering::Relaxed);
        if offset / PAGE_SIZE == 4 { Err(io::Error::other("on purpose")) } else { Ok(()) }
    });
    let memory = memory.taking(|_, _| Ok(())).ahead(16).open(&system(&m));
    map(&m, 0, &memory);
    m.load(page(0)).unwrap();
    m.load(page(1)).unwrap();
    assert_eq!((memory.in_memory(), asked.load(Ordering::Relaxed)), (4, 5));
    end(m, memory);
}
