//! Huge pages of an object are made and taken apart by one process while vCPUs of two write them: no byte is lost,
//! nothing is written that is gone, nothing is used that is free.

use mm::addr::TABLE_SPAN;
use shuttle::sync::mpsc::channel;

use super::collapse::Pauses;
use super::*;

/// Pages of a huge one.
const HUGE: u64 = TABLE_SPAN / PAGE_SIZE;

/// A machine with an object of one huge page's length, two pages of which hold their numbers and 100; and a child.
fn shown_by_two() -> (Machine, Arc<SharedMemory>, SpaceUser) {
    shown_on(|_| {})
}

fn shown_on(prepare: impl FnOnce(&mut System)) -> (Machine, Arc<SharedMemory>, SpaceUser) {
    let m = Machine::prepared(1536, prepare);
    let memory = Arc::new(SharedMemory::memfd(&m.system, "shared"));
    memory.truncate(TABLE_SPAN, &m.system).unwrap();
    let (addr, file) = (page(0), Some(Arc::clone(&memory) as _));
    let flags = MapFlags::FIXED | MapType::Shared.into();
    let request = MapRequest { addr, len: TABLE_SPAN, prot: RW, flags, file, offset: 0 };
    m.user.change().mmap(&request).unwrap();
    for n in 0..2 {
        m.user.write(page(n), &(100 + n).to_le_bytes()).unwrap();
    }
    let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
    (m, memory, child)
}

fn collapse(user: &SpaceUser) {
    user.change().madvise(page(0), TABLE_SPAN, Advice::Collapse as i32).unwrap();
}

fn is_huge(user: &SpaceUser) -> bool {
    user.look().table().large(page(0)).is_some()
}

fn end(m: Machine, memory: Arc<SharedMemory>, child: SpaceUser) {
    audit_all(&[&m.user.look(), &child.look()]).unwrap();
    drop(memory);
    child.put().unwrap();
    m.end(vec![]);
}

/// A vCPU that has page 0 cached, and writes a word of it and a page that may not be there.
fn writer(m: &Machine, user: &SpaceUser, at: u64) -> Running<()> {
    let vcpu = Vcpu::new(&m.tlbs, user.share());
    vcpu.load(page(0)).unwrap();
    run(vcpu, move |vcpu| {
        for n in 1..4 {
            vcpu.store(page(0).offset(at), n).unwrap();
            assert_eq!(vcpu.load(page(0).offset(at)).unwrap(), n);
            vcpu.store(page(7).offset(at), n).unwrap();
        }
    })
}

#[test]
fn what_two_processes_write_is_in_the_huge_page() {
    in_some_orders(|| {
        let (m, memory, child) = shown_by_two();
        let writers = [writer(&m, &m.user, 8), writer(&m, &child, 16)];
        collapse(&m.user);
        writers.into_iter().for_each(Running::end);
        assert!(is_huge(&m.user));
        for user in [&m.user, &child] {
            assert_eq!([0, 8, 16].map(|at| word(user, page(0).offset(at))), [100, 3, 3]);
            assert_eq!([0, 8, 16].map(|at| word(user, page(7).offset(at))), [0, 3, 3]);
        }
        end(m, memory, child);
    });
}

#[test]
fn what_is_written_beside_a_hole_stays_and_what_was_in_it_is_gone() {
    in_some_orders(|| {
        let (m, memory, child) = shown_by_two();
        collapse(&m.user);
        child.write(page(20), &1_u64.to_le_bytes()).unwrap();
        assert!(is_huge(&child));
        let writers = [writer(&m, &m.user, 8), writer(&m, &child, 16)];
        m.user.change().madvise(page(20), 3 * PAGE_SIZE, Advice::Remove as i32).unwrap();
        assert_eq!(word(&child, page(20)), 0);
        writers.into_iter().for_each(Running::end);
        assert!(!is_huge(&m.user) && !is_huge(&child));
        assert_eq!([0, 8, 16].map(|at| word(&child, page(0).offset(at))), [100, 3, 3]);
        end(m, memory, child);
    });
}

/// The object is cut short in the huge page while the child changes its map of it: what comes after is new.
#[test]
fn it_is_cut_while_another_unmaps_a_part_and_what_comes_after_is_new() {
    in_some_orders(|| {
        let (m, memory, child) = shown_by_two();
        collapse(&m.user);
        child.write(page(30), &1_u64.to_le_bytes()).unwrap();
        let vcpu = Vcpu::new(&m.tlbs, child.share());
        let gone = |fault: &Fault| matches!(fault, Fault::NoBacking(_) | Fault::NotMapped(_));
        let writes = run(vcpu, move |vcpu| {
            for n in 2..5 {
                made(vcpu.store(page(30), n), gone);
                made(vcpu.store(page(3), n), |_| false);
            }
        });
        let other = child.share();
        let unmaps = thread::spawn(move || {
            other.change().munmap(page(28), PAGE_SIZE).unwrap();
            other.put().unwrap();
        });
        memory.truncate(25 * PAGE_SIZE, &m.system).unwrap();
        memory.truncate(TABLE_SPAN, &m.system).unwrap();
        // A page of its own, written after the cut or not.
        let now = word(&m.user, page(30));
        assert!(now != 1, "{now}");
        writes.end();
        unmaps.join().unwrap();
        assert_eq!((word(&m.user, page(3)), word(&m.user, page(1))), (4, 101));
        end(m, memory, child);
    });
}

#[test]
fn nothing_is_written_after_mprotect_has_returned_also_if_it_was_just_collapsed() {
    in_some_orders(|| {
        let (m, memory, child) = shown_by_two();
        let returned = Arc::new(AtomicU64::new(0));
        let has_returned = Arc::clone(&returned);
        let writes = run(Vcpu::new(&m.tlbs, child.share()), move |vcpu| {
            for n in 1..8 {
                let after = has_returned.load(Ordering::SeqCst) == 1;
                let denied = |fault: &Fault| matches!(fault, Fault::Denied(_));
                if made(vcpu.store(page(0), n), denied).is_none() {
                    return;
                }
                assert!(!after, "{n} was written");
            }
        });
        let user = m.user.share();
        let collapses = thread::spawn(move || {
            collapse(&user);
            user.put().unwrap();
        });
        child.change().mprotect(page(0), HUGE * PAGE_SIZE, Prot::READ).unwrap();
        returned.store(1, Ordering::SeqCst);
        writes.end();
        collapses.join().unwrap();
        end(m, memory, child);
    });
}

/// The collapse finds the table empty that was made for them.
#[test]
fn guards_that_come_beside_a_collapse_can_be_removed() {
    in_some_orders(|| {
        let pauses = Pauses::default();
        let observer = pauses.clone();
        let (m, memory, child) = shown_on(|system| system.set_observer(Box::new(observer)));
        let advise = |user: &SpaceUser, advice: Advice| {
            user.change().madvise(page(5), 2 * PAGE_SIZE, advice as i32).unwrap();
        };
        let (about_to, word_of_it) = channel();
        *pauses.0.lock().unwrap() = Some(about_to);
        let other = child.share();
        let guards = thread::spawn(move || {
            advise(&other, Advice::GuardInstall);
            other.put().unwrap();
        });
        word_of_it.recv().unwrap();
        collapse(&m.user);
        guards.join().unwrap();
        // Before any fault has looked at the table.
        advise(&child, Advice::GuardRemove);
        assert_eq!((word(&child, page(6)), word(&child, page(1))), (0, 101));
        end(m, memory, child);
    });
}
