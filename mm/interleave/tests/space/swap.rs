//! Pages are swapped out, from outside, while their spaces go on: no byte is lost or another's, nothing is used
//! that is free, and the counts are right.

use mm::addr::PageRange;
use mm::hooks::Invalidation;
use mm::swap::MemoryStore;
use shuttle::sync::Mutex;
use shuttle::sync::mpsc::{Sender, channel};

use super::*;

/// Sends word, once it is armed, when the first entry is about to go, and lets others go on a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Tells {
    waiting: Arc<Mutex<Option<Sender<()>>>>,
    /// And when it is gone, or has changed and is tried again.
    after: Arc<Mutex<Option<Sender<()>>>>,
    tlbs: Arc<Mutex<Option<Arc<Tlbs>>>>,
}

impl Observer for Tells {
    fn invalidating(&self, _: PageRange, _: Invalidation) {
        let Some(waiting) = self.waiting.lock().unwrap().take() else { return };
        waiting.send(()).unwrap();
        (0..100).for_each(|_| thread::yield_now());
        if let Some(tlbs) = &*self.tlbs.lock().unwrap() {
            tlbs.linger();
        }
    }

    fn invalidated(&self, _: PageRange, _: Invalidation) {
        if let Some(after) = self.after.lock().unwrap().take() {
            after.send(()).unwrap();
        }
    }
}

/// A small machine with swap, and `pages` that hold 100 and their number.
fn swapping(pages: u64) -> Machine {
    telling(pages).0
}

/// The same, and who tells when the first entry is about to go.
fn telling(pages: u64) -> (Machine, Tells) {
    telling_by(|m| {
        m.map(pages);
        for n in 0..pages {
            m.user.write(page(n), &(100 + n).to_le_bytes()).unwrap();
        }
    })
}

/// The same with what `prepare` maps.
pub(super) fn telling_by(prepare: impl FnOnce(&Machine)) -> (Machine, Tells) {
    let tells = Tells::default();
    let m = Machine::prepared(512, |system| {
        system.set_swap(Box::new(MemoryStore::new(8)));
        system.set_observer(Box::new(tells.clone()));
    });
    prepare(&m);
    (m, tells)
}

/// Up to where it counts meanwhile: so far that calls are made while it does.
pub(super) const LAST: u64 = 300;

/// A vCPU that goes on when page 0 is about to be swapped out: then it has it cached as it was, and what the call
/// does that `then` makes meanwhile must hold for it as well.
pub(super) fn as_it_goes<T: Send + 'static>(
    m: &Machine,
    tells: &Tells,
    other: &SpaceUser,
    what: impl FnOnce(&Vcpu) -> T + Send + 'static,
    then: impl FnOnce(),
) -> T {
    let ((tell, told), (send, go), (tell_gone, gone)) = (channel(), channel(), channel());
    *tells.after.lock().unwrap() = Some(tell_gone);
    *tells.waiting.lock().unwrap() = Some(tell);
    *tells.tlbs.lock().unwrap() = Some(Arc::clone(&m.tlbs));
    let running = run(m.vcpu(), move |vcpu| {
        go.recv().unwrap();
        what(vcpu)
    });
    let swapper = swap_out(m, other);
    told.recv().unwrap();
    send.send(()).unwrap();
    gone.recv().unwrap();
    then();
    swapper.join().unwrap();
    *tells.tlbs.lock().unwrap() = None;
    running.end()
}

/// Another process, which writes all over what has become free.
pub(super) fn taker(m: &Machine) -> SpaceUser {
    let other =
        SpaceUser::new(AddressSpace::new(Arc::clone(&m.system), Limits::default()).unwrap());
    let request = MapRequest::anonymous(page(0), PAGE_SIZE, RW, MapFlags::FIXED);
    other.change().mmap(&request).unwrap();
    // Its tables.
    other.read(page(0), &mut [0]).unwrap();
    other
}

/// Swaps out what there is, and has the frame used by another.
pub(super) fn swap_out(m: &Machine, other: &SpaceUser) -> thread::JoinHandle<()> {
    let (system, other) = (Arc::clone(&m.system), other.share());
    thread::spawn(move || {
        system.reclaim().unwrap();
        other.write(page(0), &[55; 8]).unwrap();
        other.put().unwrap();
    })
}

/// Page 0 is swapped out while vCPUs and a call go on.
fn beside(vcpus: &[fn(&Vcpu)], call: fn(&SpaceUser)) {
    let m = swapping(1);
    let other = taker(&m);
    let running: Vec<_> = vcpus
        .iter()
        .map(|&what| {
            let vcpu = m.vcpu();
            vcpu.load(page(0)).unwrap();
            run(vcpu, what)
        })
        .collect();
    let swapper = swap_out(&m, &other);
    call(&m.user);
    swapper.join().unwrap();
    running.into_iter().for_each(Running::end);
    audit_all(&[&m.user.look(), &other.look()]).unwrap();
    other.put().unwrap();
    m.end(vec![]);
}

fn reads(vcpu: &Vcpu) {
    for _ in 0..4 {
        assert_eq!(vcpu.load(page(0)).unwrap(), 100);
    }
}

fn writes(vcpu: &Vcpu) {
    for n in 1..5 {
        vcpu.store(page(0), n).unwrap();
        assert_eq!(vcpu.load(page(0)).unwrap(), n);
    }
}

/// The second word.
fn writes_beside(vcpu: &Vcpu) {
    for n in 1..5 {
        vcpu.store(page(0).offset(8), n).unwrap();
        assert_eq!(vcpu.load(page(0).offset(8)).unwrap(), n);
    }
}

#[test]
fn a_vcpu_reads_what_is_swapped_out() {
    in_some_orders(|| beside(&[reads], |user| assert_eq!(word(user, page(0)), 100)));
}

#[test]
fn two_vcpus_write_what_is_swapped_out() {
    in_some_orders(|| {
        beside(&[writes, writes_beside], |user| {
            user.write(page(0).offset(16), &9_u64.to_le_bytes()).unwrap();
            assert_eq!(word(user, page(0).offset(16)), 9);
        });
    });
}

#[test]
fn what_one_vcpu_has_written_the_other_does_not_find_older() {
    in_some_orders(|| {
        let m = swapping(1);
        let other = taker(&m);
        let writer = run(m.vcpu(), |vcpu| (101..104).for_each(|n| vcpu.store(page(0), n).unwrap()));
        let reader = run(m.vcpu(), |vcpu| {
            let mut was = 100;
            for _ in 0..4 {
                let now = vcpu.load(page(0)).unwrap();
                assert!((was..104).contains(&now), "{now} after {was}");
                was = now;
            }
        });
        swap_out(&m, &other).join().unwrap();
        writer.end();
        reader.end();
        assert_eq!(word(&m.user, page(0)), 103);
        audit_all(&[&m.user.look(), &other.look()]).unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn it_is_unmapped_meanwhile_and_what_is_mapped_after_is_new() {
    in_some_orders(|| {
        let while_there = |vcpu: &Vcpu| {
            for n in [101, 102] {
                let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
                if made(vcpu.store(page(0), n), gone).is_none() {
                    return;
                }
            }
        };
        beside(&[while_there], |user| {
            user.change().munmap(page(0), PAGE_SIZE).unwrap();
            let request = MapRequest::anonymous(page(0), PAGE_SIZE, RW, MapFlags::FIXED);
            user.change().mmap(&request).unwrap();
            let found = word(user, page(0));
            assert!([0, 101, 102].contains(&found), "{found}");
            user.write(page(0).offset(8), &7_u64.to_le_bytes()).unwrap();
            assert_eq!(word(user, page(0).offset(8)), 7);
        });
    });
}

#[test]
fn nothing_is_written_after_mprotect_has_returned_also_if_it_was_just_swapped_out() {
    in_some_orders(|| {
        let (m, tells) = telling(1);
        let other = taker(&m);
        let writes = |vcpu: &Vcpu| {
            let denied = |fault: &Fault| matches!(fault, Fault::Denied(_));
            (101..LAST).find(|&n| made(vcpu.store(page(0), n), denied).is_none()).unwrap_or(LAST)
        };
        let user = m.user.share();
        let found = std::cell::Cell::new(0);
        let refused = as_it_goes(&m, &tells, &other, writes, || {
            user.change().mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap();
            found.set(word(&user, page(0)));
        });
        assert_eq!((word(&user, page(0)), refused), (found.get(), found.get() + 1));
        user.put().unwrap();
        audit_all(&[&m.user.look(), &other.look()]).unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn what_a_fork_has_shared_the_parent_writes_for_himself() {
    in_some_orders(|| {
        let (m, tells) = telling(1);
        let other = taker(&m);
        let writes = |vcpu: &Vcpu| (101..=LAST).for_each(|n| vcpu.store(page(0), n).unwrap());
        let (user, tlbs) = (m.user.share(), Arc::clone(&m.tlbs));
        let mut child = None;
        as_it_goes(&m, &tells, &other, writes, || {
            let forked = SpaceUser::new(user.change().fork(Vcpus::Running).unwrap());
            let found = word(&forked, page(0));
            let of_child = run(Vcpu::new(&tlbs, forked.share()), move |vcpu| {
                assert_eq!(vcpu.load(page(0)).unwrap(), found);
                vcpu.store(page(0).offset(8), 5).unwrap();
                assert_eq!(vcpu.load(page(0)).unwrap(), found);
            });
            of_child.end();
            child = Some((forked, found));
        });
        let (child, found) = child.unwrap();
        assert_eq!((word(&user, page(0)), word(&child, page(0))), (LAST, found));
        assert_eq!([&user, &child].map(|user| word(user, page(0).offset(8))), [0, 5]);
        audit_all(&[&m.user.look(), &child.look(), &other.look()]).unwrap();
        drop(tlbs);
        user.put().unwrap();
        child.put().unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn what_is_mapped_after_munmap_is_not_written_through_what_was_there() {
    in_some_orders(|| {
        let (m, tells) = telling(1);
        let other = taker(&m);
        let user = m.user.share();
        let (written, mapped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (wrote, was_mapped) = (Arc::clone(&written), Arc::clone(&mapped));
        let writes = move |vcpu: &Vcpu| {
            let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
            for n in 101..=LAST {
                let after = was_mapped.load(Ordering::SeqCst) == 1;
                if made(vcpu.store(page(0), n), gone).is_some() && after {
                    wrote.store(n, Ordering::SeqCst);
                }
            }
        };
        as_it_goes(&m, &tells, &other, writes, || {
            user.change().munmap(page(0), PAGE_SIZE).unwrap();
            let request = MapRequest::anonymous(page(0), PAGE_SIZE, RW, MapFlags::FIXED);
            user.change().mmap(&request).unwrap();
            mapped.store(1, Ordering::SeqCst);
        });
        let written = written.load(Ordering::SeqCst);
        let found = word(&user, page(0));
        assert!(written == 0 || found == LAST, "{written} was written, {found} is there");
        user.put().unwrap();
        audit_all(&[&m.user.look(), &other.look()]).unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn what_is_copied_as_it_comes_back_nobody_reads_as_it_was() {
    in_some_orders(|| {
        let (m, tells) = telling(1);
        let other = taker(&m);
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        let written = Arc::new(AtomicU64::new(0));
        let was_written = Arc::clone(&written);
        let reads = move |vcpu: &Vcpu| {
            for _ in 0..10 * LAST {
                let after = was_written.load(Ordering::SeqCst) == 1;
                let found = vcpu.load(page(0)).unwrap();
                assert!(found == 7 || found == 100 && !after, "{found}");
                if after {
                    break;
                }
            }
        };
        let writer = m.vcpu();
        as_it_goes(&m, &tells, &other, reads, || {
            writer.store(page(0), 7).unwrap();
            written.store(1, Ordering::SeqCst);
        });
        writer.end();
        assert_eq!((word(&m.user, page(0)), word(&child, page(0))), (7, 100));
        audit_all(&[&m.user.look(), &child.look(), &other.look()]).unwrap();
        child.put().unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn two_processes_write_a_page_that_is_swapped_out_and_each_has_his_own() {
    in_some_orders(|| {
        let m = swapping(1);
        let other = taker(&m);
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        let of_child = Vcpu::new(&m.tlbs, child.share());
        let (mine, its) = (run(m.vcpu(), writes), run(of_child, writes_beside));
        let second = run(m.vcpu(), |vcpu| {
            let found = [0; 3].map(|_| vcpu.load(page(0).offset(8)).unwrap());
            assert_eq!(found, [0; 3]);
        });
        let swapper = swap_out(&m, &other);
        mine.end();
        its.end();
        second.end();
        swapper.join().unwrap();
        let words = |user: &SpaceUser| [0, 8].map(|at| word(user, page(0).offset(at)));
        assert_eq!((words(&m.user), words(&child)), ([4, 0], [100, 4]));
        audit_all(&[&m.user.look(), &child.look(), &other.look()]).unwrap();
        child.put().unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn those_who_come_for_a_page_at_once_get_the_same() {
    in_some_orders(|| {
        let m = swapping(2);
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        m.system.reclaim().unwrap();
        assert_eq!(m.system.swap().unwrap().stats().used, 2);
        let of_child = run(Vcpu::new(&m.tlbs, child.share()), |vcpu| {
            assert_eq!(vcpu.load(page(0)).unwrap(), 100);
            vcpu.store(page(1), 9).unwrap();
        });
        let mine = [run(m.vcpu(), writes), run(m.vcpu(), writes_beside)];
        mine.into_iter().for_each(Running::end);
        of_child.end();
        assert_eq!([0, 1].map(|n| word(&child, page(n))), [100, 9]);
        assert_eq!([0, 8].map(|at| word(&m.user, page(0).offset(at))), [4, 4]);
        audit_all(&[&m.user.look(), &child.look()]).unwrap();
        child.put().unwrap();
        assert_eq!(word(&m.user, page(1)), 101);
        m.end(vec![]);
    });
}

#[test]
fn it_moves_and_is_locked_and_given_up_meanwhile() {
    in_some_orders(|| {
        let m = swapping(2);
        let other = taker(&m);
        let swapper = swap_out(&m, &other);
        {
            let mut space = m.user.change();
            let (flags, new_addr) = (3, page(8));
            let (old_len, new_len) = (PAGE_SIZE, PAGE_SIZE);
            let request = RemapRequest { addr: page(0), old_len, new_len, flags, new_addr };
            space.mremap(&request).unwrap();
            space.mlock2(page(8), PAGE_SIZE, 0).unwrap();
            space.madvise(page(1), PAGE_SIZE, Advice::DontNeed as i32).unwrap();
        }
        swapper.join().unwrap();
        assert_eq!((word(&m.user, page(8)), word(&m.user, page(1))), (100, 0));
        audit_all(&[&m.user.look(), &other.look()]).unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn advice_to_page_out_beside_a_swap_out_and_a_vcpu() {
    in_some_orders(|| {
        beside(&[writes], |user| {
            let mut space = user.change();
            space.madvise(page(0), PAGE_SIZE, Advice::PageOut as i32).unwrap();
            space.madvise(page(0), PAGE_SIZE, Advice::WillNeed as i32).unwrap();
        });
    });
}

#[test]
fn a_process_ends_while_its_pages_are_swapped_out() {
    in_some_orders(|| {
        let m = swapping(1);
        let other = taker(&m);
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        child.write(page(0), &9_u64.to_le_bytes()).unwrap();
        let swapper = swap_out(&m, &other);
        child.put().unwrap();
        swapper.join().unwrap();
        assert_eq!(word(&m.user, page(0)), 100);
        audit_all(&[&m.user.look(), &other.look()]).unwrap();
        other.put().unwrap();
        m.end(vec![]);
    });
}
