//! Huge pages are made and taken apart while vCPUs go on: no byte is lost, nothing is used that is free.

use mm::addr::{PageRange, TABLE_SPAN};
use mm::error::{CallError, Errno};
use mm::hooks::Invalidation;
use mm::khugepaged::Scanned;
use mm::swap::MemoryStore;
use shuttle::sync::Mutex;
use shuttle::sync::mpsc::{Sender, channel};

use super::*;

/// Pages of a huge one.
const HUGE: u64 = TABLE_SPAN / PAGE_SIZE;

/// A machine with khugepaged, in which it has one huge page to make, of so many pages that hold their numbers and 100.
fn worth_it(pages: u64, prepare: impl FnOnce(&mut System)) -> Machine {
    let m = Machine::prepared(1536, |system| {
        system.enable_khugepaged();
        prepare(system);
    });
    m.map(HUGE);
    for n in 0..pages {
        m.user.write(page(n), &(100 + n).to_le_bytes()).unwrap();
    }
    m.user.change().madvise(page(0), TABLE_SPAN, Advice::HugePage as i32).unwrap();
    m
}

fn is_huge(m: &Machine) -> bool {
    m.user.look().table().large(page(0)).is_some()
}

/// Looks until there is a huge page, or one was there.
fn khugepaged(m: &Machine) -> thread::JoinHandle<()> {
    let system = Arc::clone(&m.system);
    thread::spawn(move || {
        assert_eq!(system.khugepaged(HUGE).unwrap(), Scanned::Enough);
    })
}

/// A vCPU that has pages 0 and 1 cached.
fn vcpu(m: &Machine) -> Vcpu {
    let vcpu = m.vcpu();
    (0..2).for_each(|n| vcpu.store(page(n), 100 + n).unwrap());
    vcpu
}

/// Writes the second word of page 0 again and again.
fn writes(vcpu: &Vcpu) {
    for n in 1..5 {
        vcpu.store(page(0).offset(8), n).unwrap();
        assert_eq!(vcpu.load(page(0).offset(8)).unwrap(), n);
    }
}

/// Writes pages that are there and one that is not, and reads one that nobody writes.
fn touches(vcpu: &Vcpu) {
    for n in 1..4 {
        vcpu.store(page(n), n).unwrap();
        assert_eq!((vcpu.load(page(n)).unwrap(), vcpu.load(page(9)).unwrap()), (n, 0));
    }
}

#[test]
fn what_vcpus_write_is_in_the_huge_page() {
    in_some_orders(|| {
        let m = worth_it(2, |_| {});
        let vcpus = [run(vcpu(&m), writes), run(vcpu(&m), touches)];
        khugepaged(&m).join().unwrap();
        vcpus.into_iter().for_each(Running::end);
        assert!(is_huge(&m));
        let words = [(0, 100), (1, 1), (2, 2), (3, 3), (4, 0)];
        words.into_iter().for_each(|(n, is)| assert_eq!(word(&m.user, page(n)), is));
        assert_eq!(word(&m.user, page(0).offset(8)), 4);
        m.end(vec![]);
    });
}

#[test]
fn so_it_is_when_a_task_asks_for_it() {
    in_some_orders(|| {
        let m = worth_it(2, |_| {});
        let vcpus = [run(vcpu(&m), writes), run(vcpu(&m), touches)];
        m.user.change().madvise(page(0), TABLE_SPAN, Advice::Collapse as i32).unwrap();
        vcpus.into_iter().for_each(Running::end);
        assert!(is_huge(&m));
        assert_eq!((word(&m.user, page(0)), word(&m.user, page(0).offset(8))), (100, 4));
        m.end(vec![]);
    });
}

#[test]
fn a_huge_page_that_is_written_is_taken_apart() {
    in_some_orders(|| {
        let m = worth_it(2, |_| {});
        m.user.change().madvise(page(0), TABLE_SPAN, Advice::Collapse as i32).unwrap();
        let vcpus = [run(vcpu(&m), writes), run(vcpu(&m), touches)];
        m.user.change().munmap(page(20), 5 * PAGE_SIZE).unwrap();
        vcpus.into_iter().for_each(Running::end);
        assert!(!is_huge(&m));
        assert_eq!((word(&m.user, page(0)), word(&m.user, page(0).offset(8))), (100, 4));
        m.end(vec![]);
    });
}

#[test]
fn calls_go_on_beside_khugepaged() {
    in_some_orders(|| {
        let m = worth_it(2, |_| {});
        let vcpu = run(vcpu(&m), writes);
        let looking = khugepaged(&m);
        m.user.change().munmap(page(3), PAGE_SIZE).unwrap();
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        m.user.change().mprotect(page(5), PAGE_SIZE, Prot::READ).unwrap();
        looking.join().unwrap();
        vcpu.end();
        assert_eq!((word(&child, page(0)), word(&m.user, page(0).offset(8))), (100, 4));
        audit_all(&[&m.user.look(), &child.look()]).unwrap();
        child.put().unwrap();
        m.end(vec![]);
    });
}

#[test]
fn a_process_ends_beside_khugepaged() {
    in_some_orders(|| {
        let m = worth_it(2, |_| {});
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        let looking = khugepaged(&m);
        child.put().unwrap();
        looking.join().unwrap();
        m.end(vec![]);
    });
}

/// Sends word, once it is armed, when an entry is about to go, and lets others go on for as long as a huge page takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Pauses(pub(super) Arc<Mutex<Option<Sender<()>>>>);

impl Observer for Pauses {
    fn invalidating(&self, _: PageRange, _: Invalidation) {
        let Some(sender) = self.0.lock().unwrap().take() else { return };
        sender.send(()).unwrap();
        (0..8000).for_each(|_| thread::yield_now());
    }
}

#[test]
fn pages_are_swapped_out_beside_it() {
    in_some_orders(|| {
        let pauses = Pauses::default();
        let m = worth_it(2, |system| {
            system.set_swap(Box::new(MemoryStore::new(2)));
            system.set_observer(Box::new(pauses.clone()));
        });
        let vcpu = run(vcpu(&m), writes);
        let (send, told) = channel();
        *pauses.0.lock().unwrap() = Some(send);
        let system = Arc::clone(&m.system);
        let swapping = thread::spawn(move || system.reclaim().unwrap());
        told.recv().unwrap();
        let made = m.user.change().madvise(page(0), TABLE_SPAN, Advice::Collapse as i32);
        assert!(matches!(made, Ok(()) | Err(CallError::Errno(Errno::EAGAIN))), "{made:?}");
        swapping.join().unwrap();
        vcpu.end();
        assert_eq!((word(&m.user, page(0)), word(&m.user, page(1))), (100, 101));
        assert_eq!(word(&m.user, page(0).offset(8)), 4);
        m.end(vec![]);
    });
}
