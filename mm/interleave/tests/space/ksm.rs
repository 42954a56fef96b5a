//! Equal pages are merged while vCPUs write them: each process has its own bytes always.

use mm::swap::MemoryStore;

use super::swap::LAST;
use super::*;

/// A machine with two pages that hold the same, and may be merged; and a child that has them, too.
fn equal(prepare: impl FnOnce(&mut System)) -> (Machine, SpaceUser) {
    let m = Machine::prepared(512, |system| {
        system.enable_ksm();
        prepare(system);
    });
    m.map(2);
    for n in 0..2 {
        m.user.write(page(n), &100_u64.to_le_bytes()).unwrap();
    }
    m.user.change().madvise(page(0), 2 * PAGE_SIZE, Advice::Mergeable as i32).unwrap();
    let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
    // So that they are known.
    m.system.ksm(u64::MAX).unwrap();
    (m, child)
}

fn ksmd(m: &Machine) -> thread::JoinHandle<()> {
    let system = Arc::clone(&m.system);
    thread::spawn(move || (0..3).for_each(|_| system.ksm(u64::MAX).unwrap()))
}

/// Writes a word of both pages up and down to where they are equal again.
fn writes(at: u64) -> impl Fn(&Vcpu) {
    move |vcpu| {
        for n in [7, 100, 8, 100] {
            for i in 0..2 {
                vcpu.store(page(i).offset(at), n).unwrap();
                assert_eq!(vcpu.load(page(i).offset(at)).unwrap(), n);
            }
        }
    }
}

fn end(m: Machine, child: SpaceUser) {
    audit_all(&[&m.user.look(), &child.look()]).unwrap();
    child.put().unwrap();
    m.end(vec![]);
}

#[test]
fn each_has_what_it_has_written() {
    in_some_orders(|| {
        let (m, child) = equal(|_| {});
        let vcpus = [
            run(m.vcpu(), writes(0)),
            run(m.vcpu(), writes(8)),
            run(Vcpu::new(&m.tlbs, child.share()), |vcpu| {
                for n in [9, 100, 10] {
                    vcpu.store(page(1), n).unwrap();
                    assert_eq!([0, 1].map(|i| vcpu.load(page(i)).unwrap()), [100, n]);
                }
            }),
        ];
        let ksmd = ksmd(&m);
        vcpus.into_iter().for_each(Running::end);
        ksmd.join().unwrap();
        for n in 0..2 {
            assert_eq!([0, 8].map(|at| word(&m.user, page(n).offset(at))), [100, 100]);
        }
        assert_eq!([0, 1].map(|n| word(&child, page(n))), [100, 10]);
        end(m, child);
    });
}

#[test]
fn what_is_written_as_it_is_merged_is_not_lost() {
    in_some_orders(|| {
        let (m, child) = equal(|_| {});
        let vcpu = m.vcpu();
        (0..2).for_each(|n| vcpu.store(page(n), 100).unwrap());
        m.tlbs.linger();
        let vcpu = run(vcpu, |vcpu| {
            (101..LAST).for_each(|n| vcpu.store(page(n % 2).offset(8), n).unwrap());
        });
        ksmd(&m).join().unwrap();
        vcpu.end();
        let found = [0, 1].map(|n| word(&m.user, page(n).offset(8)));
        assert_eq!(found, [LAST - 2, LAST - 1]);
        end(m, child);
    });
}

#[test]
fn calls_go_on_beside_it() {
    in_some_orders(|| {
        let (m, child) = equal(|_| {});
        let vcpu =
            run(m.vcpu(), |vcpu| (1..5).for_each(|n| vcpu.store(page(0).offset(8), n).unwrap()));
        let ksmd = ksmd(&m);
        {
            let mut space = m.user.change();
            let (flags, new_addr) = (3, page(8));
            let (old_len, new_len) = (PAGE_SIZE, PAGE_SIZE);
            let request = RemapRequest { addr: page(1), old_len, new_len, flags, new_addr };
            space.mremap(&request).unwrap();
        }
        child.change().madvise(page(0), 2 * PAGE_SIZE, Advice::Unmergeable as i32).unwrap();
        let grandchild = SpaceUser::new(child.change().fork(Vcpus::Running).unwrap());
        child.change().munmap(page(0), PAGE_SIZE).unwrap();
        grandchild.write(page(0), &55_u64.to_le_bytes()).unwrap();
        vcpu.end();
        ksmd.join().unwrap();
        assert_eq!([0, 8].map(|n| word(&m.user, page(n))), [100, 100]);
        assert_eq!(word(&m.user, page(0).offset(8)), 4);
        assert_eq!((word(&child, page(1)), word(&grandchild, page(0))), (100, 55));
        audit_all(&[&m.user.look(), &child.look(), &grandchild.look()]).unwrap();
        grandchild.put().unwrap();
        end(m, child);
    });
}

#[test]
fn pages_are_swapped_out_beside_it() {
    in_some_orders(|| {
        let (m, child) = equal(|system| system.set_swap(Box::new(MemoryStore::new(8))));
        let vcpu = run(m.vcpu(), writes(8));
        let ksmd = ksmd(&m);
        m.system.reclaim().unwrap();
        vcpu.end();
        ksmd.join().unwrap();
        let words = |user: &SpaceUser, at| [0, 1].map(|n| word(user, page(n).offset(at)));
        assert_eq!((words(&m.user, 0), words(&m.user, 8)), ([100; 2], [100; 2]));
        assert_eq!((words(&child, 0), words(&child, 8)), ([100; 2], [0; 2]));
        end(m, child);
    });
}
