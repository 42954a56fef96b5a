//! Where memory is short: what a pager gives up, to whom, and who calls closures for it.

use super::*;

#[test]
fn pages_come_ahead_also_where_memory_is_short() {
    let (m, store) = (small(), Arc::default());
    let memory = pager(2000, &store).ahead(64).open(&system(&m));
    map(&m, 0, &memory);
    for at in 0..2000 {
        m.store(page(at), (at % 250) as u8).unwrap();
    }
    assert!((0..2000).all(|at| m.load(page(at)).unwrap() == (at % 250) as u8));
    end(m, memory);
}

#[test]
fn more_than_there_is_memory_is_written_and_read() {
    for keep_watch in [false, true] {
        let (m, store) = (small(), Arc::default());
        let memory = if keep_watch { watched(2000, &store) } else { pager(2000, &store) };
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        for at in 0..2000 {
            m.store(page(at), (at % 251) as u8).unwrap();
        }
        for at in (0..2000).rev() {
            assert_eq!(m.load(page(at)).unwrap(), (at % 251) as u8, "{at}");
        }
        assert!(system(&m).reclaimed().paged > 3000, "{:?}", system(&m).reclaimed());
        end(m, memory);
    }
}

#[test]
fn other_memory_gets_its_frames() {
    for written in [false, true] {
        let (m, store) = (small(), Arc::default());
        let memory = pager(450, &store).open(&system(&m));
        map(&m, 0, &memory);
        map_at(&m, 1024, 400, RW).unwrap();
        for at in 0..450 {
            if written { m.store(page(at), 1).unwrap() } else { _ = m.load(page(at)).unwrap() }
        }
        for at in 1024..1424 {
            m.store(page(at), 7).unwrap();
        }
        assert!((1024..1424).all(|at| m.load(page(at)).unwrap() == 7));
        assert!(memory.in_memory() < 112, "{}", memory.in_memory());
        end(m, memory);
        assert_eq!(store.counts().1, if written { 450 } else { 0 });
    }
}

/// Memory of a pager that has all frames there are; of each second page it is known by its entry alone that it was
/// written.
fn used_up(memory: Pager) -> (SoftwareMachine, PagedMemory) {
    let m = small();
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    for at in 0..2000 {
        m.load(page(at)).unwrap();
        if at % 2 == 0 {
            m.store(page(at), 1).unwrap();
        }
    }
    while m.frames.stats().pages + m.frames.stats().tables < 500 {
        m.load(page(memory.in_memory() % 2000)).unwrap();
    }
    (m, memory)
}

#[test]
fn who_has_locks_gets_the_pages_that_nobody_has_written() {
    let store = Arc::default();
    let (m, memory) = used_up(pager(2000, &store));
    let (takes, pages) = (store.counts().1, memory.in_memory());
    // Under the lock of its space.
    map_at(&m, 4096, 4096, RW).unwrap();
    for at in (4096..8192).step_by(512) {
        m.space.change().madvise(page(at), PAGE_SIZE, Advice::PopulateWrite as i32).unwrap();
    }
    assert_eq!(store.counts().1, takes, "no closure was called");
    assert!(memory.in_memory() < pages);
    assert!(
        (0..2000)
            .all(|at| m.load(page(at)).unwrap() == if at % 2 == 0 { 1 } else { (at + 1) as u8 })
    );
    end(m, memory);
}

#[test]
fn who_has_locks_gets_no_page_that_is_watched() {
    let store = Arc::default();
    let (m, memory) = used_up(watched(2000, &store));
    let seen = store.watched.lock().unwrap().len();
    map_at(&m, 4096, 512, RW).unwrap();
    let all = 512 * PAGE_SIZE;
    let populated = m.space.change().madvise(page(4096), all, Advice::PopulateWrite as i32);
    assert_eq!(errno_of(populated), Errno::ENOMEM);
    assert_eq!(store.watched.lock().unwrap().len(), seen);
    // Who has none gets them.
    (4096..4196).for_each(|at| m.store(page(at), 1).unwrap());
    assert!(store.watched.lock().unwrap().len() > seen);
    end(m, memory);
}

#[test]
fn who_finds_no_page_waits_for_those_that_another_has_taken() {
    let m = small();
    let (slow, beginning, may_go_on) = slow_pager();
    let memory = slow.open(&system(&m));
    map(&m, 0, &memory);
    m.store(page(0), 1).unwrap();
    map_at(&m, 1024, 1, RW).unwrap();
    map_at(&m, 1025, 1, RW).unwrap();
    // The page table, too.
    m.store(page(1024), 1).unwrap();
    let all = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(all).collect();
    std::thread::scope(|scope| {
        // Where this fails, the closure must not wait for ever.
        let may_go_on = may_go_on;
        scope.spawn(|| memory.evict(1).unwrap());
        beginning.recv().unwrap();
        let stored = scope.spawn(|| m.store(page(1025), 1));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stored.is_finished());
        may_go_on.send(()).unwrap();
        stored.join().unwrap().unwrap();
    });
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    end(m, memory);
}

#[test]
fn no_closure_is_called_within_another() {
    in_time(|| {
        let m = Arc::new(small());
        map_at(&m, 3000, 2000, RW).unwrap();
        let taking = Arc::downgrade(&m);
        let inside = AtomicU64::new(0);
        let refused = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&refused);
        let memory = Pager::new("nested", 2000 * PAGE_SIZE, |_, _| Ok(()));
        let memory = memory.taking(move |offset, _| {
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
            // Needs a frame, and there is none but those that are being taken.
            let written =
                taking.upgrade().map(|m| m.space.write(page(3000 + offset / PAGE_SIZE), &[1]));
            inside.fetch_sub(1, Ordering::Relaxed);
            if let Some(Err(error)) = written {
                assert!(matches!(fault_of::<()>(Err(error)), Fault::OutOfMemory(_)));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        // In the end all of memory is the program's own.
        let stored = (0..2000).take_while(|&at| m.store(page(at), 1).is_ok()).count();
        assert!(stored > 400 && refused.load(Ordering::Relaxed) > 0);
        end(Arc::into_inner(m).unwrap(), memory);
    });
}

#[test]
fn what_a_closure_has_leave_of_another_pager_is_what_nobody_has_written() {
    in_time(|| {
        let (m, store) = (machine(), Arc::<Store>::default());
        let other = Arc::new(pager(4, &store).open(&system(&m)));
        map(&m, 10, &other);
        m.store(page(10), 1).unwrap();
        (11..14).for_each(|at| _ = m.load(page(at)).unwrap());
        let gone = Arc::new(AtomicU64::new(0));
        let (evicted, of_other) = (Arc::clone(&gone), Arc::clone(&other));
        let of_system = Arc::clone(m.space.look().system());
        let memory = Pager::new("evicts", PAGE_SIZE, move |_, _| {
            of_system.serve_pagers().unwrap();
            evicted.store(of_other.evict(u64::MAX).unwrap(), Ordering::Relaxed);
            Ok(())
        });
        let memory = memory.taking(|_, _| Ok(())).open(&system(&m));
        map(&m, 0, &memory);
        // Left to be done when no closure runs.
        m.space.change().madvise(page(10), PAGE_SIZE, Advice::PageOut as i32).unwrap();
        m.load(page(0)).unwrap();
        assert_eq!((gone.load(Ordering::Relaxed), store.counts().1), (3, 0));
        assert_eq!((other.evict(u64::MAX).unwrap(), store.counts().1), (1, 1));
        drop(memory);
        unmap(&m, 0, 20).unwrap();
        // With the closure the other reference to it ends.
        system(&m).serve_pagers().unwrap();
        end(m, Arc::into_inner(other).unwrap());
    });
}

#[test]
fn pages_that_cannot_be_taken_are_not_in_the_way_of_others() {
    let m = small();
    let memory = Pager::new("some", 2000 * PAGE_SIZE, |_, _| Ok(()));
    let memory = memory.taking(|offset, _| match offset / PAGE_SIZE {
        0..200 => Err(io::Error::other("refused")),
        _ => Ok(()),
    });
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    (0..2000).for_each(|at| m.store(page(at), 1).unwrap());
    // Those stay.
    assert!((0..200).all(|at| memory.backing().is_ready(at)));
    end(m, memory);
}

#[test]
fn where_nothing_can_be_taken_memory_is_at_its_end() {
    let (m, store) = (small(), Arc::default());
    let memory = pager(2000, &store).open(&system(&m));
    map(&m, 0, &memory);
    store.refuses_takes.store(true, Ordering::Relaxed);
    let failed = (0..2000).find_map(|at| Some((at, m.store(page(at), 1).err()?)));
    let (at, error) = failed.unwrap();
    assert!(at > 400, "{at}");
    assert_eq!(fault_of::<()>(Err(error)), Fault::OutOfMemory(page(at)));
    store.refuses_takes.store(false, Ordering::Relaxed);
    m.store(page(at), 1).unwrap();
    end(m, memory);
}

#[test]
fn closures_may_use_the_memory_of_the_program_that_waits() {
    in_time(|| {
        let m = Arc::new(small());
        map_at(&m, 3000, 4, RW).unwrap();
        // Memory that they need is not made by closures.
        (3000..3003).for_each(|at| m.store(page(at), 100).unwrap());
        let (filling, taking) = (Arc::downgrade(&m), Arc::downgrade(&m));
        let memory = Pager::new("reads", 2000 * PAGE_SIZE, move |offset, bytes| {
            let m = filling.upgrade().unwrap();
            let mut byte = [0];
            m.space.read(page(3000), &mut byte).unwrap();
            m.space.write(page(3001), &offset.to_le_bytes()).unwrap();
            // Also changes: no lock is held.
            map_at(&m, 3010, 1, RW).unwrap();
            unmap(&m, 3010, 1).unwrap();
            bytes[0] = byte[0];
            Ok(())
        });
        let memory = memory.taking(move |offset, bytes| {
            if let Some(m) = taking.upgrade() {
                m.space.write(page(3002), &offset.to_le_bytes()).unwrap();
                map_at(&m, 3011, 1, RW).unwrap();
                unmap(&m, 3011, 1).unwrap();
            }
            assert_eq!(bytes[1], 7);
            Ok(())
        });
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        for at in 0..2000 {
            assert_eq!(m.load(page(at)).unwrap(), 100);
            m.store(page(at).offset(1), 7).unwrap();
        }
        m.space.msync(page(0), 2000 * PAGE_SIZE, 4).unwrap();
        let mut last = [0; 8];
        m.space.read(page(3002), &mut last).unwrap();
        assert_eq!(u64::from_le_bytes(last), 1999 * PAGE_SIZE);
        end(Arc::into_inner(m).unwrap(), memory);
    });
}

#[test]
fn what_has_to_be_filled_needs_frames() {
    let (m, store, memory) = paged(4);
    m.load(page(3)).unwrap();
    for nth in 1..3 {
        m.frames.failures().refuse_from(NonZeroU64::new(nth).unwrap());
        let failed = m.load(page(0));
        m.frames.failures().stop();
        if nth == 1 {
            assert_eq!(fault_of(failed), Fault::OutOfMemory(page(0)));
            assert_eq!(memory.in_memory(), 0, "the other one was given up for it, in vain");
        } else {
            assert_eq!(failed.unwrap(), 1);
        }
        audit_all(&[&m.space.look()]).unwrap();
    }
    assert_eq!(store.counts().1, 0);
    end(m, memory);
}
