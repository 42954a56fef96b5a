//! A page of two is written: the other one gets the copy, whatever he does meanwhile. He never sees what is
//! written, the writer never loses it, and the counts are right.

use mm::addr::{Frame, PageRange};
use mm::hooks::Invalidation;
use shuttle::sync::Mutex;
use shuttle::sync::mpsc::channel;

use super::*;

/// A machine, and a child of its process.
struct Family {
    m: Machine,
    child: SpaceUser,
}

impl Family {
    fn new(pages: u64, vcpus: Vcpus) -> Family {
        let m = Machine::new(pages);
        let child = SpaceUser::new(m.user.change().fork(vcpus).unwrap());
        Family { m, child }
    }

    /// A vCPU in the child.
    fn of_child(&self) -> Vcpu {
        Vcpu::new(&self.m.tlbs, self.child.share())
    }

    fn handed_off(&self) -> u64 {
        self.m.user.look().counters().faults.handed_off.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn end(self) {
        audit_all(&[&self.m.user.look(), &self.child.look()]).unwrap();
        self.child.put().unwrap();
        self.m.end(vec![]);
    }
}

/// Reads a page of the child again and again: it stays what it was.
fn rereads(vcpu: &Vcpu) {
    for _ in 0..4 {
        assert_eq!(vcpu.load(page(0)).unwrap(), 100, "the parent's, later");
    }
}

fn writes(vcpu: &Vcpu) {
    vcpu.store(page(0), 7).unwrap();
    assert_eq!(vcpu.load(page(0)).unwrap(), 7);
}

#[test]
fn the_other_reads_and_writes_and_sees_his_own_alone() {
    in_any_order(|| {
        let family = Family::new(1, Vcpus::Running);
        let others = [
            run(family.of_child(), rereads),
            run(family.of_child(), |vcpu| {
                vcpu.store(page(0).offset(8), 9).unwrap();
                assert_eq!([0, 8].map(|at| vcpu.load(page(0).offset(at)).unwrap()), [100, 9]);
            }),
        ];
        let second = run(family.m.vcpu(), |vcpu| vcpu.store(page(0).offset(16), 8).unwrap());
        run(family.m.vcpu(), writes).end();
        second.end();
        others.into_iter().for_each(Running::end);
        let words = |space: &SharedSpace| [0, 8, 16].map(|at| word(space, page(0).offset(at)));
        assert_eq!((words(&family.m.user), words(&family.child)), ([7, 0, 8], [100, 9, 0]));
        family.end();
    });
}

#[test]
fn both_write_it_and_each_has_his_own() {
    in_any_order(|| {
        let family = Family::new(1, Vcpus::Running);
        let other = run(family.of_child(), |vcpu| vcpu.store(page(0), 9).unwrap());
        run(family.m.vcpu(), writes).end();
        other.end();
        assert_eq!((word(&family.m.user, page(0)), word(&family.child, page(0))), (7, 9));
        family.end();
    });
}

#[test]
fn a_child_hands_off_what_its_parent_has_in_a_fresh_root() {
    in_any_order(|| {
        let family = Family::new(1, Vcpus::Stopped);
        let parent = run(family.m.vcpu(), |vcpu| {
            rereads(vcpu);
            vcpu.store(page(0).offset(8), 9).unwrap();
        });
        run(family.of_child(), |vcpu| {
            rereads(vcpu);
            writes(vcpu);
        })
        .end();
        parent.end();
        assert_eq!([0, 8].map(|at| word(&family.m.user, page(0).offset(at))), [100, 9]);
        assert_eq!([0, 8].map(|at| word(&family.child, page(0).offset(at))), [7, 0]);
        family.end();
    });
}

/// The parent writes page 0 while the child makes a call, another vCPU of which reads it as `reads` says.
/// Then `after` looks at the child.
fn beside(call: fn(&SpaceUser), reads: fn(&Vcpu), after: fn(&SpaceUser)) {
    let family = Family::new(1, Vcpus::Running);
    let reader = run(family.of_child(), reads);
    let writer = run(family.m.vcpu(), writes);
    call(&family.child);
    after(&family.child);
    writer.end();
    reader.end();
    after(&family.child);
    assert_eq!(word(&family.m.user, page(0)), 7);
    family.end();
}

fn keeps(child: &SpaceUser) {
    assert_eq!(word(child, page(0)), 100);
}

/// Reads until the page is gone.
fn rereads_while_there(vcpu: &Vcpu) {
    let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
    for _ in 0..3 {
        match made(vcpu.load(page(0)), gone) {
            Some(found) => assert_eq!(found, 100),
            None => break,
        }
    }
}

#[test]
fn the_other_unmaps_it() {
    in_any_order(|| {
        let call = |child: &SpaceUser| child.change().munmap(page(0), PAGE_SIZE).unwrap();
        beside(call, rereads_while_there, |_| ());
    });
}

#[test]
fn the_other_moves_it() {
    in_any_order(|| {
        let call = |child: &SpaceUser| {
            let (addr, new_addr) = (page(0), VirtAddr::new(AWAY));
            let (old_len, new_len) = (PAGE_SIZE, PAGE_SIZE);
            let request = RemapRequest { addr, old_len, new_len, flags: 3, new_addr };
            child.change().mremap(&request).unwrap();
        };
        let there = |child: &SpaceUser| assert_eq!(word(child, VirtAddr::new(AWAY)), 100);
        beside(call, rereads_while_there, there);
    });
}

#[test]
fn the_other_protects_it() {
    in_any_order(|| {
        let call = |child: &SpaceUser| {
            child.change().mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap();
            child.change().mprotect(page(0), PAGE_SIZE, RW).unwrap();
        };
        beside(call, rereads, keeps);
    });
}

#[test]
fn the_other_lets_it_be_dropped() {
    in_any_order(|| {
        let call = |child: &SpaceUser| {
            child.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
        };
        beside(call, rereads, keeps);
    });
}

#[test]
fn the_other_lets_it_be_dropped_and_unmaps_it() {
    in_any_order(|| {
        // Whichever page the advice was for, its translations are flushed.
        let call = |child: &SpaceUser| {
            child.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
            child.change().munmap(page(0), PAGE_SIZE).unwrap();
        };
        beside(call, rereads_while_there, |_| ());
    });
}

/// The other's vCPU uses his copy as soon as it is there, which may be in the middle of the advice; and again when
/// all of it is unmapped.
#[test]
fn the_other_lets_it_be_dropped_in_the_middle_of_it_and_unmaps_it() {
    in_any_order(|| {
        let family = Family::new(1, Vcpus::Running);
        let (unmapped, when_unmapped) = channel();
        let reader = family.of_child();
        let both = run(family.m.vcpu(), move |writer| {
            writer.store(page(0), 7).unwrap();
            let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
            if let Some(found) = made(reader.load(page(0)), gone) {
                assert_eq!(found, 100);
            }
            when_unmapped.recv().unwrap();
            assert_eq!(made(reader.load(page(0)), gone), None, "read after munmap");
            reader.end();
        });
        family.child.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
        family.child.change().munmap(page(0), PAGE_SIZE).unwrap();
        unmapped.send(()).unwrap();
        both.end();
        assert_eq!(word(&family.m.user, page(0)), 7);
        family.end();
    });
}

#[test]
fn the_other_says_that_it_is_cold() {
    in_any_order(|| {
        let call = |child: &SpaceUser| {
            for advice in [Advice::Cold, Advice::PageOut] {
                child.change().madvise(page(0), PAGE_SIZE, advice as i32).unwrap();
            }
        };
        beside(call, rereads, keeps);
    });
}

#[test]
fn the_other_forks() {
    in_any_order(|| {
        let call = |child: &SpaceUser| {
            let grandchild = SharedSpace::new(child.change().fork(Vcpus::Running).unwrap());
            grandchild.write(page(0).offset(8), &[5]).unwrap();
            assert_eq!([0, 8].map(|at| word(&grandchild, page(0).offset(at))), [100, 5]);
            grandchild.exit().unwrap();
        };
        beside(call, rereads, keeps);
    });
}

#[test]
fn the_other_ends() {
    in_any_order(|| {
        let Family { m, child } = Family::new(2, Vcpus::Running);
        let writer = run(m.vcpu(), |vcpu| {
            writes(vcpu);
            vcpu.store(page(1), 8).unwrap();
        });
        child.put().unwrap();
        writer.end();
        assert_eq!([0, 1].map(|n| word(&m.user, page(n))), [7, 8]);
        m.end(vec![]);
    });
}

#[test]
fn nothing_is_flushed_for_a_page_that_the_other_never_used() {
    in_any_order(|| {
        let family = Family::new(1, Vcpus::Running);
        run(family.m.vcpu(), writes).end();
        assert_eq!(family.handed_off(), 1);
        keeps(&family.child);
        family.end();
    });
}

/// Does something, once it is armed, when an entry is about to change and others have gone on a while.
#[derive(Clone, Default)]
struct Does(Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>);

impl std::fmt::Debug for Does {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Does")
    }
}

impl Observer for Does {
    fn invalidating(&self, _: PageRange, _: Invalidation) {
        let Some(what) = self.0.lock().unwrap().take() else { return };
        (0..100).for_each(|_| thread::yield_now());
        what();
    }
}

/// What the entry of page 0 names, and whether it may be written.
fn first_entry(user: &SpaceUser) -> (Frame, bool) {
    let space = user.look();
    let first = PageRange::from_len(page(0), PAGE_SIZE).unwrap();
    let entry = space.table().look(first).next().unwrap().entry;
    (entry.frame().unwrap(), entry.is_writable())
}

/// Page 1 is handed off, which holds the parent's table still; meanwhile somebody takes page 0, as the swap area takes
/// those that it has, and the parent's vCPU is about to write it.
#[test]
fn who_was_the_only_owner_when_he_looked_first_looks_again_before_he_writes() {
    in_any_order(|| {
        let does = Does::default();
        let m = Machine::observed(Some(Box::new(does.clone())));
        m.map(2);
        m.user.write(page(0), &100_u64.to_le_bytes()).unwrap();
        m.user.write(page(1), &101_u64.to_le_bytes()).unwrap();
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Stopped).unwrap());
        let family = Family { m, child };
        let (m, child) = (&family.m, &family.child);
        child.change().munmap(page(0), PAGE_SIZE).unwrap();
        let (frame, _) = first_entry(&m.user);
        let taken = Arc::new(Mutex::new(None));
        let (frames, user, note) = (Arc::clone(&m.frames), m.user.share(), Arc::clone(&taken));
        *does.0.lock().unwrap() = Some(Box::new(move || {
            frames.get(frame);
            *note.lock().unwrap() = Some(first_entry(&user));
            user.put().unwrap();
        }));
        let writer = run(m.vcpu(), |vcpu| vcpu.store(page(0), 7).unwrap());
        let other = run(family.of_child(), |vcpu| {
            assert_eq!(vcpu.load(page(1)).unwrap(), 101);
            vcpu.store(page(1), 8).unwrap();
        });
        writer.end();
        other.end();
        let (named, was_writable) = taken.lock().unwrap().expect("the page is handed off");
        let mut bytes = [0; 8];
        m.frames.memory().read(frame.addr(), &mut bytes);
        let written = u64::from_le_bytes(bytes) == 7;
        assert!(!written || named != frame || was_writable, "another's page was written");
        assert_eq!(word(&m.user, page(0)), 7);
        m.frames.put(frame).unwrap();
        family.end();
    });
}
