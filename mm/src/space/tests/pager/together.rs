//! Several at once, random acts, and failures: nothing is lost, and nobody waits for ever.

use super::*;

#[test]
fn what_was_brought_stays_until_it_is_used() {
    let (m, _, memory) = paged(2);
    let brought = memory.backing().bring(1, &system(&m)).unwrap();
    assert!(brought.is_some());
    assert_eq!((memory.evict(2).unwrap(), memory.in_memory()), (0, 1));
    drop(brought);
    assert_eq!(memory.evict(2).unwrap(), 1);
    end(m, memory);
}

/// Somebody who has just emptied an entry and not flushed it, say.
#[test]
fn a_page_that_somebody_has_meanwhile_stays_and_is_taken_again() {
    let m = machine();
    let (frames, held) = (Arc::clone(&m.frames), Arc::new(Mutex::new(None)));
    let (holding, takes) = (Arc::clone(&held), Arc::new(Mutex::new(Vec::new())));
    let taken = Arc::clone(&takes);
    let memory = Pager::new("held", 2 * PAGE_SIZE, |_, _| Ok(())).taking(move |offset, _| {
        // While the first is taken, the second has been chosen.
        if let Some(frame) = *holding.lock().unwrap()
            && offset == 0
        {
            frames.get(frame);
        }
        taken.lock().unwrap().push(offset / PAGE_SIZE);
        Ok(())
    });
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    m.store(page(0), 1).unwrap();
    m.store(page(1), 1).unwrap();
    let second = memory.backing().at_hand(1..2)[0].unwrap();
    *held.lock().unwrap() = Some(second);
    assert_eq!((memory.evict(2).unwrap(), memory.in_memory()), (1, 1));
    assert_eq!(*takes.lock().unwrap(), [0, 1]);
    m.frames.put(second).unwrap();
    assert_eq!((memory.evict(2).unwrap(), memory.in_memory()), (1, 0));
    assert_eq!(*takes.lock().unwrap(), [0, 1, 1], "he may have written it");
    end(m, memory);
}

#[test]
fn what_comes_ahead_ends_at_a_page_that_is_being_taken() {
    let m = machine();
    let (slow, beginning, may_go_on) = slow_pager_of(4);
    let memory = slow.ahead(16).open(&system(&m));
    map(&m, 0, &memory);
    m.store(page(2), 1).unwrap();
    std::thread::scope(|scope| {
        // Where this fails, the closure must not wait for ever.
        let may_go_on = may_go_on;
        let evicted = scope.spawn(|| memory.evict(1).unwrap());
        beginning.recv().unwrap();
        assert_eq!(m.space.look().mincore(page(0), 4 * PAGE_SIZE).unwrap(), [0, 0, 1, 0]);
        m.load(page(0)).unwrap();
        m.load(page(1)).unwrap();
        assert_eq!(memory.in_memory(), 3);
        may_go_on.send(()).unwrap();
        assert_eq!(evicted.join().unwrap(), 1);
    });
    assert_eq!(memory.in_memory(), 2);
    end(m, memory);
}

#[test]
fn who_asks_for_pages_to_be_taken_waits_for_those_that_another_takes() {
    let m = machine();
    let (slow, beginning, may_go_on) = slow_pager();
    let memory = slow.open(&system(&m));
    map(&m, 0, &memory);
    m.store(page(0), 1).unwrap();
    std::thread::scope(|scope| {
        // Where this fails, the closure must not wait for ever.
        let may_go_on = may_go_on;
        scope.spawn(|| memory.evict(1).unwrap());
        beginning.recv().unwrap();
        let synced = scope.spawn(|| memory.sync().unwrap());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!synced.is_finished());
        may_go_on.send(()).unwrap();
    });
    assert_eq!(memory.in_memory(), 0);
    end(m, memory);
}

#[test]
fn a_flush_that_fails_leaves_nobody_waiting() {
    use crate::error::Broken;
    use crate::paging::{FlushRequest, FlushSink, KernelHalf};

    #[derive(Debug, Default)]
    struct Fails(AtomicBool, CountingSink);
    impl FlushSink for Fails {
        fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
            match self.0.load(Ordering::Relaxed) {
                true => Err(Broken::Invariant("on purpose".to_owned())),
                false => self.1.flush(request),
            }
        }
    }
    let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(4096))));
    let sink = Arc::new(Fails::default());
    let system =
        System::new(Arc::clone(&frames), Box::new(Arc::clone(&sink)), KernelHalf::default());
    let system = Arc::new(system);
    let space =
        SharedSpace::new(AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap());
    let store = Arc::default();
    let memory = pager(2, &store).open(&system);
    memory.map(&space, page(0), RW, SHARED).unwrap();
    space.write(page(0), &[5]).unwrap();
    sink.0.store(true, Ordering::Relaxed);
    assert!(memory.evict(1).is_err());
    assert_eq!(store.counts().1, 0, "its bytes are not final");
    assert_eq!(memory.in_memory(), 1);
    sink.0.store(false, Ordering::Relaxed);
    // The entry went with the flush that failed.
    space.write(page(0), &[5]).unwrap();
    sink.0.store(true, Ordering::Relaxed);
    assert_eq!((memory.sync(), store.counts().1), (Err(Errno::EIO), 0));
    sink.0.store(false, Ordering::Relaxed);
    let mut byte = [0];
    space.read(page(0), &mut byte).unwrap();
    assert_eq!(byte, [5]);
}

/// Random acts on shared memory of a pager that now and then fails, against an array.
#[test]
fn nothing_is_lost_whatever_comes() {
    const PAGES: u64 = 40;
    for seed in 1..=20_u64 {
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let (m, store) = (machine(), Arc::<Store>::default());
        let mut memory = watched(PAGES, &store);
        if seed % 2 == 0 {
            memory = memory.keeping(7);
        }
        let memory = memory.open(&system(&m));
        map(&m, 0, &memory);
        let mut model: Vec<u8> = (0..PAGES).map(|at| at as u8 + 1).collect();
        let mut children: Vec<SharedSpace> = Vec::new();
        for _ in 0..600 {
            let (at, byte) = (random(PAGES), random(256) as u8);
            store.refuses_takes.store(random(4) == 0, Ordering::Relaxed);
            match random(12) {
                0..4 => {
                    m.store(page(at), byte).unwrap();
                    model[at as usize] = byte;
                }
                4..7 => assert_eq!(m.load(page(at)).unwrap(), model[at as usize], "{seed}"),
                7 => drop(memory.evict(random(8)).unwrap()),
                8 => drop(memory.sync()),
                9 => {
                    let advice = [Advice::PageOut, Advice::DontNeed, Advice::Cold];
                    let advice = advice[random(3) as usize] as i32;
                    m.space.change().madvise(page(at), PAGE_SIZE, advice).unwrap();
                    system(&m).serve_pagers().unwrap();
                }
                10 => {
                    unmap(&m, 0, PAGES).unwrap();
                    system(&m).serve_pagers().unwrap();
                    map(&m, 0, &memory);
                }
                _ => match children.pop() {
                    Some(child) => child.exit().unwrap(),
                    None => {
                        let child = m.space.change().fork(Vcpus::Stopped).unwrap();
                        let child = SharedSpace::new(child);
                        child.write(page(at), &[byte]).unwrap();
                        model[at as usize] = byte;
                        children.push(child);
                    }
                },
            }
            let looked: Vec<_> = children.iter().map(SharedSpace::look).collect();
            let own = m.space.look();
            let all: Vec<&AddressSpace> =
                [&*own].into_iter().chain(looked.iter().map(|space| &**space)).collect();
            audit_all(&all).unwrap();
        }
        store.refuses_takes.store(false, Ordering::Relaxed);
        children.into_iter().for_each(|child| child.exit().unwrap());
        end(m, memory);
        for (at, &byte) in (0..).zip(&model) {
            assert_eq!(store.byte(at).unwrap_or((at + 1) as u8), byte, "seed {seed}, page {at}");
        }
    }
}

#[test]
fn threads_count_while_pages_come_and_go() {
    const PAGES: u64 = 8;
    let (m, store) = (small(), Arc::<Store>::default());
    // All zeros, and slow.
    let (filling, taking) = (Arc::clone(&store), Arc::clone(&store));
    let memory = Pager::new("counters", PAGES * PAGE_SIZE, move |offset, page| {
        std::thread::yield_now();
        if let Some(taken) = filling.taken.lock().unwrap().get(&offset) {
            *page = *taken;
        }
        Ok(())
    });
    let memory = memory.taking(move |offset, page| taking.take(offset, page)).keeping(3);
    let memory = memory.open(&system(&m));
    map(&m, 0, &memory);
    // Each thread has a byte of its own in each page.
    std::thread::scope(|scope| {
        for mine in 0..3_u64 {
            let (m, memory) = (&m, &memory);
            scope.spawn(move || {
                for round in 0..300_u64 {
                    let at = page((round * 5 + mine) % PAGES).offset(mine * 8);
                    let mut count = [0];
                    m.space.read(at, &mut count).unwrap();
                    m.space.write(at, &[count[0] + 1]).unwrap();
                    if round % 17 == mine {
                        memory.sync().unwrap();
                    }
                    if round % 13 == mine {
                        memory.evict(2).unwrap();
                    }
                }
            });
        }
    });
    let mut sum = 0;
    for at in 0..PAGES {
        for mine in 0..3 {
            sum += u64::from(m.load(page(at).offset(mine * 8)).unwrap());
        }
    }
    assert_eq!(sum, 900);
    end(m, memory);
}

#[test]
fn a_frame_that_others_hold_stays() {
    let (m, _, memory) = paged(2);
    m.store(page(0), 1).unwrap();
    // As one who has unmapped it and not flushed yet: his vCPUs may still write.
    let frame = m.space.look().table().walk(page(0), AccessKind::Read).unwrap().frame();
    m.frames.get(frame);
    assert_eq!((memory.evict(1).unwrap(), memory.in_memory()), (0, 1));
    m.frames.put(frame).unwrap();
    assert_eq!(memory.evict(1).unwrap(), 1);
    let _ = m.frames.alloc(FrameKind::Anonymous, Contents::Any).map(|frame| m.frames.put(frame));
    end(m, memory);
}
