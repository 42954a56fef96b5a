//! Pages of shared memory are swapped out, from outside, while those who show them go on.

use super::swap::{LAST, Tells, as_it_goes, swap_out, taker, telling_by};
use super::*;

/// A small machine with swap, and a page of an object at page 0, which holds 100; and who tells when it is about to go.
fn telling() -> (Machine, Tells, Arc<SharedMemory>) {
    let (m, tells) = telling_by(|_| {});
    let memory = SharedMemory::memfd(&m.system, "shared").swappable(&m.system);
    memory.truncate(PAGE_SIZE, &m.system).unwrap();
    m.show(0, MapType::Shared, &memory);
    m.user.write(page(0), &100_u64.to_le_bytes()).unwrap();
    (m, tells, memory)
}

fn child_of(m: &Machine) -> SpaceUser {
    SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap())
}

fn end(m: Machine, all: Vec<SpaceUser>) {
    {
        let mut looked = vec![m.user.look()];
        looked.extend(all.iter().map(|user| user.look()));
        audit_all(&looked.iter().map(|space| &**space).collect::<Vec<_>>()).unwrap();
    }
    for user in all {
        user.put().unwrap();
    }
    m.end(vec![]);
}

#[test]
fn what_one_process_writes_the_other_reads_though_it_is_swapped_out() {
    in_some_orders(|| {
        let (m, _, memory) = telling();
        let (other, child) = (taker(&m), child_of(&m));
        let writers = [0, 8].map(|at| {
            run(m.vcpu(), move |vcpu| {
                for n in 101..105 {
                    vcpu.store(page(0).offset(at), n).unwrap();
                    assert_eq!(vcpu.load(page(0).offset(at)).unwrap(), n);
                }
            })
        });
        let reader = run(Vcpu::new(&m.tlbs, child.share()), |vcpu| {
            let mut was = 100;
            for _ in 0..4 {
                let now = vcpu.load(page(0)).unwrap();
                assert!((was..105).contains(&now), "{now} after {was}");
                was = now;
            }
        });
        let swapper = swap_out(&m, &other);
        memory.write_at(16, &7_u64.to_le_bytes(), &m.system, &*other.look()).unwrap();
        writers.into_iter().for_each(Running::end);
        reader.end();
        swapper.join().unwrap();
        assert_eq!([0, 8, 16].map(|at| word(&child, page(0).offset(at))), [104, 104, 7]);
        drop(memory);
        end(m, vec![child, other]);
    });
}

/// A vCPU writes as long as it may; what the call does that makes it stop must hold when it has returned, also if the
/// page is just going then.
fn nothing_is_written_after(call: fn(&SpaceUser), refused: fn(&Fault) -> bool) {
    let (m, tells, memory) = telling();
    let other = taker(&m);
    let returned = Arc::new(AtomicU64::new(0));
    let has_returned = Arc::clone(&returned);
    let writes = move |vcpu: &Vcpu| {
        for n in 101..LAST {
            let after = has_returned.load(Ordering::SeqCst) == 1;
            if made(vcpu.store(page(0), n), refused).is_none() {
                return;
            }
            assert!(!after, "{n} was written");
        }
    };
    let user = m.user.share();
    as_it_goes(&m, &tells, &other, writes, || {
        call(&user);
        returned.store(1, Ordering::SeqCst);
    });
    user.put().unwrap();
    drop(memory);
    end(m, vec![other]);
}

#[test]
fn nothing_is_written_after_mprotect_has_returned() {
    in_some_orders(|| {
        nothing_is_written_after(
            |user| user.change().mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap(),
            |fault| matches!(fault, Fault::Denied(_)),
        );
    });
}

#[test]
fn nothing_is_written_after_munmap_has_returned() {
    in_some_orders(|| {
        nothing_is_written_after(
            |user| user.change().munmap(page(0), PAGE_SIZE).unwrap(),
            |fault| matches!(fault, Fault::NotMapped(_)),
        );
    });
}

#[test]
fn nothing_is_written_where_it_was_after_it_has_moved() {
    in_some_orders(|| {
        nothing_is_written_after(
            |user| {
                let (old_len, new_len) = (PAGE_SIZE, PAGE_SIZE);
                let (flags, new_addr) = (3, page(8));
                let request = RemapRequest { addr: page(0), old_len, new_len, flags, new_addr };
                user.change().mremap(&request).unwrap();
            },
            |fault| matches!(fault, Fault::NotMapped(_)),
        );
    });
}

#[test]
fn it_is_cut_short_meanwhile_and_what_comes_after_is_new() {
    in_some_orders(|| {
        let (m, _, memory) = telling();
        let other = taker(&m);
        let writer = run(m.vcpu(), |vcpu| {
            let gone = |fault: &Fault| matches!(fault, Fault::NoBacking(_));
            for n in 1..5 {
                made(vcpu.store(page(0), n), gone);
            }
        });
        let swapper = swap_out(&m, &other);
        memory.truncate(0, &m.system).unwrap();
        memory.truncate(PAGE_SIZE, &m.system).unwrap();
        let found = word(&m.user, page(0));
        assert!(found < 5, "{found}");
        writer.end();
        swapper.join().unwrap();
        drop(memory);
        end(m, vec![other]);
    });
}

#[test]
fn what_is_written_as_it_is_unmapped_is_not_lost() {
    in_some_orders(|| {
        let (m, _, memory) = telling();
        let (other, child) = (taker(&m), child_of(&m));
        m.tlbs.linger();
        let writer = run(m.vcpu(), |vcpu| {
            let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
            let refused = (101..LAST).find(|&n| made(vcpu.store(page(0), n), gone).is_none());
            refused.unwrap_or(LAST) - 1
        });
        let swapper = swap_out(&m, &other);
        m.user.change().munmap(page(0), PAGE_SIZE).unwrap();
        let written = writer.end();
        swapper.join().unwrap();
        assert_eq!(word(&child, page(0)), written);
        drop(memory);
        end(m, vec![child, other]);
    });
}

#[test]
fn its_last_user_goes_meanwhile() {
    in_some_orders(|| {
        let (m, _, memory) = telling();
        let (other, child) = (taker(&m), child_of(&m));
        drop(memory);
        let swapper = swap_out(&m, &other);
        m.user.change().munmap(page(0), PAGE_SIZE).unwrap();
        child.put().unwrap();
        swapper.join().unwrap();
        end(m, vec![other]);
    });
}
