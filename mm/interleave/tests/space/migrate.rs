//! Pages go from node to node while vCPUs of their process, and of others that have them too, use them: nobody reads what
//! is not there any more, and nothing that is written is lost.

use mm::phys::Nodes;
use shuttle::sync::mpsc::channel;

use super::*;

const BIND: u64 = 2;
/// `MPOL_MF_MOVE_ALL`, and `MPOL_MF_MOVE`.
const MOVE: u64 = 6;

/// A machine with two nodes, and a page on the first.
fn machine() -> Machine {
    let m = empty();
    m.map(1);
    m.user.write(page(0), &100_u64.to_le_bytes()).unwrap();
    m
}

fn empty() -> Machine {
    mm::numa::enter(None, 0);
    let memory = Arc::new(SoftwareMemory::new(1024));
    Machine::on(Frames::with_nodes(memory, Nodes::new(2, 1024)), |_| {})
}

/// The page goes to the other node, and back.
fn moves(space: &SharedSpace) {
    [0b10, 0b01].into_iter().for_each(|nodes| move_to(space, nodes));
}

fn move_to(space: &SharedSpace, nodes: u64) {
    space.change().mbind(page(0), PAGE_SIZE, BIND, nodes, MOVE).unwrap();
}

fn end(m: Machine, child: SpaceUser) {
    audit_all(&[&m.user.look(), &child.look()]).unwrap();
    child.put().unwrap();
    m.end(vec![]);
}

#[test]
fn what_is_written_meanwhile_is_there_afterwards() {
    in_any_order(|| {
        let m = machine();
        let writer = run(m.vcpu(), |vcpu| {
            for n in 1..4 {
                vcpu.store(page(0), n).unwrap();
                assert_eq!(vcpu.load(page(0)).unwrap(), n);
            }
        });
        moves(&m.user);
        writer.end();
        assert_eq!(word(&m.user, page(0)), 3);
        m.end(vec![]);
    });
}

/// What a vCPU of the child writes another one of it reads, while the parent moves the page of both.
#[test]
fn who_reads_after_a_write_never_reads_what_was_before() {
    in_any_order(|| {
        let m = machine();
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        let (written, seen) = channel();
        let reader = run(Vcpu::new(&m.tlbs, child.share()), move |vcpu| {
            assert!(matches!(vcpu.load(page(0)).unwrap(), 100 | 7));
            seen.recv().unwrap();
            assert_eq!(vcpu.load(page(0)).unwrap(), 7);
        });
        let writer = run(Vcpu::new(&m.tlbs, child.share()), move |vcpu| {
            vcpu.store(page(0), 7).unwrap();
            written.send(()).unwrap();
        });
        move_to(&m.user, 0b10);
        writer.end();
        reader.end();
        assert_eq!((word(&m.user, page(0)), word(&child, page(0))), (100, 7));
        end(m, child);
    });
}

fn beside(call: fn(&SpaceUser)) {
    let m = machine();
    let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
    let reader = run(Vcpu::new(&m.tlbs, child.share()), |vcpu| {
        for _ in 0..2 {
            let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
            let found = made(vcpu.load(page(0)), gone);
            assert!(matches!(found, None | Some(0 | 100)));
        }
    });
    let mover = m.user.share();
    let moving = thread::spawn(move || {
        moves(&mover);
        mover.put().unwrap();
    });
    call(&child);
    moving.join().unwrap();
    reader.end();
    assert_eq!(word(&m.user, page(0)), 100);
    end(m, child);
}

#[test]
fn another_process_unmaps_the_page_meanwhile() {
    in_any_order(|| beside(|child| child.change().munmap(page(0), PAGE_SIZE).unwrap()));
}

#[test]
fn another_process_drops_the_page_meanwhile() {
    in_any_order(|| {
        beside(|child| {
            let dont_need = Advice::DontNeed as i32;
            child.change().madvise(page(0), PAGE_SIZE, dont_need).unwrap();
        })
    });
}

#[test]
fn another_process_forks_meanwhile() {
    in_any_order(|| {
        beside(|child| {
            let grandchild = child.change().fork(Vcpus::Running).unwrap();
            let grandchild = SharedSpace::new(grandchild);
            assert_eq!(word(&grandchild, page(0)), 100);
            grandchild.exit().unwrap();
        })
    });
}

#[test]
fn another_process_protects_the_page_and_writes_it_meanwhile() {
    in_any_order(|| {
        beside(|child| {
            child.change().mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap();
            child.change().mprotect(page(0), PAGE_SIZE, RW).unwrap();
            child.write(page(0).offset(8), &[1]).unwrap();
            assert_eq!(word(child, page(0)), 100);
        })
    });
}

#[test]
fn an_objects_page_keeps_what_all_write_to_it() {
    in_any_order(|| {
        let m = empty();
        let file = Arc::new(SharedMemory::new(Arc::clone(&m.frames), 1, 1));
        m.show(0, MapType::Shared, &file);
        m.user.write(page(0), &100_u64.to_le_bytes()).unwrap();
        let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
        let of_child = run(Vcpu::new(&m.tlbs, child.share()), |vcpu| {
            vcpu.store(page(0).offset(8), 9).unwrap();
            assert_eq!(vcpu.load(page(0).offset(8)).unwrap(), 9);
        });
        let own = run(m.vcpu(), |vcpu| vcpu.store(page(0), 7).unwrap());
        moves(&m.user);
        of_child.end();
        own.end();
        for space in [&m.user, &child] {
            assert_eq!([0, 8].map(|at| word(space, page(0).offset(at))), [7, 9]);
        }
        drop(file);
        end(m, child);
    });
}
