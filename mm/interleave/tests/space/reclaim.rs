//! Pages are given up, from outside, while their spaces go on: nobody uses a frame that is free, what was written
//! after the advice stays, and the counts are right.

use mm::addr::PageRange;
use mm::backing::Length;
use mm::hooks::Invalidation;
use mm::phys::{Contents, FrameKind, ReverseOwner};
use shuttle::sync::Mutex;
use shuttle::sync::mpsc::{Sender, channel};

use super::*;

/// Page 0 has been given up, and a vCPU that has it cached goes on as `vcpu` says beside a reclaim and a `call`.
/// Then there is a process that takes what has become free, and writes all over it.
fn beside(vcpu: fn(&Vcpu), call: fn(&SpaceUser)) {
    let m = Machine::new(1);
    let runs = m.vcpu();
    assert_eq!(runs.load(page(0)).unwrap(), 100);
    m.user.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
    let other = AddressSpace::new(Arc::clone(&m.system), Limits::default()).unwrap();
    let other = SpaceUser::new(other);
    let request = MapRequest::anonymous(page(0), PAGE_SIZE, RW, MapFlags::FIXED);
    other.change().mmap(&request).unwrap();
    m.tlbs.hurry();
    let runs = run(runs, vcpu);
    let (system, taker) = (Arc::clone(&m.system), other.share());
    let reclaim = thread::spawn(move || {
        system.reclaim().unwrap();
        taker.write(page(0), &[55; 8]).unwrap();
        taker.put().unwrap();
    });
    call(&m.user);
    reclaim.join().unwrap();
    runs.end();
    audit_all(&[&m.user.look(), &other.look()]).unwrap();
    other.put().unwrap();
    m.end(vec![]);
}

/// What was there, or zeros; never another's.
fn reads(vcpu: &Vcpu) {
    let mut was = 100;
    for _ in 0..3 {
        let found = vcpu.load(page(0)).unwrap();
        assert!(found == was || found == 0, "{found} after {was}");
        was = found;
    }
}

/// What was written stays.
fn writes(vcpu: &Vcpu) {
    vcpu.store(page(0), 7).unwrap();
    for _ in 0..3 {
        assert_eq!(vcpu.load(page(0)).unwrap(), 7);
    }
}

#[test]
fn a_vcpu_reads_what_is_given_up() {
    in_any_order(|| beside(reads, |_| ()));
}

#[test]
fn a_vcpu_writes_what_is_given_up() {
    in_any_order(|| {
        beside(writes, |user| {
            let found = word(user, page(0));
            assert!([0, 7, 100].contains(&found), "{found}");
        });
    });
}

#[test]
fn the_host_reads_what_is_given_up() {
    in_any_order(|| {
        beside(reads, |user| {
            for _ in 0..2 {
                let found = word(user, page(0));
                assert!([0, 100].contains(&found), "{found}");
            }
        });
    });
}

#[test]
fn the_host_writes_what_is_given_up() {
    in_any_order(|| {
        beside(
            |_| (),
            |user| {
                user.write(page(0), &9_u64.to_le_bytes()).unwrap();
                assert_eq!(word(user, page(0)), 9);
            },
        );
    });
}

#[test]
fn it_is_given_up_beside_the_advice_itself() {
    in_any_order(|| {
        let m = Machine::new(1);
        let runs = m.vcpu();
        // Cached, and written: until the advice has flushed, it can be written without a trace.
        runs.store(page(0), 100).unwrap();
        let system = Arc::clone(&m.system);
        let reclaim = thread::spawn(move || system.reclaim().unwrap());
        let runs = run(runs, reads);
        m.user.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
        reclaim.join().unwrap();
        runs.end();
        m.end(vec![]);
    });
}

#[test]
fn it_is_unmapped_meanwhile() {
    in_any_order(|| {
        let while_there = |vcpu: &Vcpu| {
            let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
            if let Some(found) = made(vcpu.load(page(0)), gone) {
                assert!([0, 100].contains(&found), "{found}");
            }
        };
        beside(while_there, |user| user.change().munmap(page(0), PAGE_SIZE).unwrap());
    });
}

#[test]
fn it_is_protected_and_locked_meanwhile() {
    in_any_order(|| {
        beside(reads, |user| {
            let mut space = user.change();
            space.mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap();
            space.mlock2(page(0), PAGE_SIZE, 1).unwrap();
            space.munlock(page(0), PAGE_SIZE).unwrap();
            space.mprotect(page(0), PAGE_SIZE, RW).unwrap();
        });
    });
}

#[test]
fn its_space_forks_meanwhile_and_the_child_has_it_or_zeros() {
    in_any_order(|| {
        beside(reads, |user| {
            let child = SharedSpace::new(user.change().fork(Vcpus::Running).unwrap());
            let found = word(&child, page(0));
            assert!([0, 100].contains(&found), "{found}");
            child.write(page(0), &9_u64.to_le_bytes()).unwrap();
            assert_eq!(word(&child, page(0)), 9);
            child.exit().unwrap();
        });
    });
}

#[test]
fn the_last_owner_takes_it_over_meanwhile() {
    in_any_order(|| {
        let m = Machine::new(1);
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        child.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
        m.user.change().madvise(page(0), PAGE_SIZE, Advice::Free as i32).unwrap();
        let other = AddressSpace::new(Arc::clone(&m.system), Limits::default()).unwrap();
        let other = SpaceUser::new(other);
        let request = MapRequest::anonymous(page(0), PAGE_SIZE, RW, MapFlags::FIXED);
        other.change().mmap(&request).unwrap();
        m.tlbs.hurry();
        let system = Arc::clone(&m.system);
        let taker = other.share();
        let reclaim = thread::spawn(move || {
            system.reclaim().unwrap();
            taker.write(page(0), &[55; 8]).unwrap();
            taker.put().unwrap();
        });
        let writer = run(Vcpu::new(&m.tlbs, child.share()), writes);
        m.user.change().munmap(page(0), PAGE_SIZE).unwrap();
        writer.end();
        reclaim.join().unwrap();
        assert_eq!(word(&child, page(0)), 7);
        audit_all(&[&m.user.look(), &child.look(), &other.look()]).unwrap();
        other.put().unwrap();
        child.put().unwrap();
        m.end(vec![]);
    });
}

/// Sends word, once it is armed, when the first entry is about to go.
#[derive(Clone, Debug, Default)]
struct Tells(Arc<Mutex<Option<Sender<()>>>>);

impl Observer for Tells {
    fn invalidating(&self, _: PageRange, _: Invalidation) {
        if let Some(waiting) = self.0.lock().unwrap().take() {
            waiting.send(()).unwrap();
        }
    }
}

/// A write to page 0 lets page 1 be written, too, which was given up: it may go at any moment, and its frame be
/// another's, who is found by what it says.
#[test]
fn a_neighbour_that_the_last_owner_takes_over_is_given_up_meanwhile() {
    in_any_order(|| {
        let tells = Tells::default();
        let m = Machine::observed(Some(Box::new(tells.clone())));
        // The pages are the last ones of memory: to look for more of them would take far longer than all else.
        let before = m.frames.alloc_run(FrameKind::Anonymous, Contents::Any, 506).unwrap();
        let other = AddressSpace::new(Arc::clone(&m.system), Limits::default()).unwrap();
        let other = SpaceUser::new(other);
        for user in [&other, &m.user] {
            let request = MapRequest::anonymous(page(0), 2 * PAGE_SIZE, RW, MapFlags::FIXED);
            user.change().mmap(&request).unwrap();
            user.write(page(0), &[1; 2 * PAGE_SIZE as usize]).unwrap();
        }
        m.system.sysctl.set_fault_ahead(2);
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        m.user.change().munmap(page(0), 2 * PAGE_SIZE).unwrap();
        for user in [&other, &child] {
            user.change().madvise(page(1), PAGE_SIZE, Advice::Free as i32).unwrap();
        }
        let writer = Vcpu::new(&m.tlbs, child.share());
        m.tlbs.hurry();
        let (tell, told) = channel();
        *tells.0.lock().unwrap() = Some(tell);
        let (system, frames) = (Arc::clone(&m.system), Arc::clone(&m.frames));
        let owner = ReverseOwner { id: 77, index: 5 };
        let taker = thread::spawn(move || {
            assert_eq!(system.reclaim().unwrap(), 2);
            [(); 2].map(|()| {
                let taken = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
                frames.set_owner(taken, owner);
                taken
            })
        });
        // The other's page is found first.
        told.recv().unwrap();
        writer.store(page(0), 7).unwrap();
        for taken in taker.join().unwrap() {
            assert_eq!(m.frames.owner(taken), Some(owner));
            m.frames.put(taken).unwrap();
        }
        (0..before.count).for_each(|n| m.frames.put(before.start.offset(n)).unwrap());
        writer.end();
        audit_all(&[&m.user.look(), &child.look(), &other.look()]).unwrap();
        other.put().unwrap();
        child.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn a_page_that_came_ahead_is_touched_meanwhile() {
    in_any_order(|| {
        let m = Machine::empty();
        m.system.sysctl.set_fault_ahead(4);
        m.map(4);
        let vcpu = m.vcpu();
        vcpu.store(page(0), 1).unwrap();
        vcpu.store(page(1), 1).unwrap();
        let toucher = run(vcpu, |vcpu| {
            assert_eq!(vcpu.load(page(2)).unwrap(), 0);
            vcpu.store(page(2), 7).unwrap();
            assert_eq!(vcpu.load(page(2)).unwrap(), 7);
        });
        let system = Arc::clone(&m.system);
        let reclaim = thread::spawn(move || system.reclaim().unwrap());
        // It settles what came ahead.
        m.user.change().madvise(page(2), PAGE_SIZE, Advice::Cold as i32).unwrap();
        reclaim.join().unwrap();
        toucher.end();
        assert_eq!([0, 1, 2].map(|n| word(&m.user, page(n))), [1, 1, 7]);
        m.end(vec![]);
    });
}

#[test]
fn two_that_need_the_last_frame_both_have_one() {
    in_any_order(|| {
        let m = Machine::new(2);
        m.user.change().madvise(page(0), 2 * PAGE_SIZE, Advice::Free as i32).unwrap();
        let away = MapRequest::anonymous(page(2), 2 * PAGE_SIZE, RW, MapFlags::FIXED);
        m.user.change().mmap(&away).unwrap();
        // Each first try fails; what the first one gives up is enough for both.
        let taken = use_up(&m);
        let both = [2, 3].map(|n| run(m.vcpu(), move |vcpu| vcpu.store(page(n), n).unwrap()));
        both.into_iter().for_each(Running::end);
        assert_eq!([2, 3].map(|n| word(&m.user, page(n))), [2, 3]);
        taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
        m.end(vec![]);
    });
}

/// An allocation that cannot be has given up what there was before it fails; what somebody has written into one of
/// its pages by then stays.
#[test]
fn a_page_is_written_while_it_is_allocated_in_vain() {
    in_any_order(|| {
        let m = Machine::new(3);
        let file = Arc::new(SharedMemory::memfd(&m.system, "test"));
        file.truncate(2 * PAGE_SIZE, &m.system).unwrap();
        m.show(3, MapType::Shared, &file);
        m.user.change().madvise(page(0), 3 * PAGE_SIZE, Advice::Free as i32).unwrap();
        let taken = use_up(&m);
        m.tlbs.hurry();
        let writer = run(m.vcpu(), |vcpu| {
            let no_frame = |fault: &Fault| matches!(fault, Fault::OutOfMemory(_));
            made(vcpu.store(page(3), 7), no_frame).is_some()
        });
        let room = {
            let space = m.user.look();
            file.allocate(0..4 * PAGE_SIZE, Length::Grows, &m.system, &*space)
        };
        room.unwrap_err();
        let (written, mut bytes) = (writer.end(), [0; 8]);
        assert_eq!(file.read_at(0, &mut bytes).ok(), Some(bytes.len()));
        assert_eq!(u64::from_le_bytes(bytes), if written { 7 } else { 0 });
        assert_eq!(file.present_pages(), u64::from(written));
        taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
        m.user.change().munmap(page(3), PAGE_SIZE).unwrap();
        drop(file);
        m.end(vec![]);
    });
}

fn use_up(m: &Machine) -> Vec<mm::addr::Frame> {
    use mm::phys::Order;
    let mut taken = Vec::new();
    for order in [Order::HUGE, Order::PAGE] {
        while let Ok(run) = m.frames.alloc_order(FrameKind::Anonymous, Contents::Any, order) {
            taken.extend((0..run.count).map(|i| run.start.offset(i)));
        }
    }
    taken
}
