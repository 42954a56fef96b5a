//! Two and three vCPUs in one space, one of which changes it or whose object another process changes: random
//! orders, by shuttle, of the memory manager itself. After each run the audit of all counts, and no frame left.
//!
//! What must hold: a frame is used only while it is somebody's, nothing is written by a permission that was
//! taken away, no byte is lost, and every fault is answered as by Linux.

mod collapse;
mod folio;
mod handoff;
mod ksm;
mod migrate;
mod pager;
mod reclaim;
mod swap;
mod swap_shared;
mod vcpu;

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::backing::{Backing, BackingName, SharedMemory};
use mm::error::{AccessError, Fault};
use mm::hooks::Observer;
use mm::inspect::audit_all;
use mm::paging::KernelHalf;
use mm::phys::{Frames, SoftwareMemory};
use mm::space::{AddressSpace, Advice, MapRequest, RemapRequest, SharedSpace, SpaceUser, Vcpus};
use mm::system::System;
use mm::vma::limits::Limits;
use mm::vma::{MapFlags, MapType, Prot};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{Config, Runner, thread};
use vcpu::{Tlbs, Vcpu};

const BASE: u64 = 1 << 32;
const AWAY: u64 = 1 << 40;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Orders tried of each scenario; `INTERLEAVE_ORDERS` for more.
fn orders() -> usize {
    std::env::var("INTERLEAVE_ORDERS").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

/// Runs a scenario in random orders: half of them with few switches, at the worst places.
fn in_any_order(scenario: fn()) {
    in_orders(orders(), scenario);
}

/// The same of a scenario with so many steps that each order takes far longer.
fn in_some_orders(scenario: fn()) {
    in_orders(orders() / 5, scenario);
}

fn in_orders(orders: usize, scenario: fn()) {
    let mut config = Config::new();
    // Weaker orders than sequential consistency are for loom, in the models of single steps.
    config.silence_warnings = true;
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(orders / 2), config.clone()).run(scenario);
    Runner::new(PctScheduler::new(4, orders / 2), config).run(scenario);
}

fn page(n: u64) -> VirtAddr {
    VirtAddr::new(BASE + n * PAGE_SIZE)
}

/// A machine with one process.
struct Machine {
    frames: Arc<Frames>,
    system: Arc<System>,
    tlbs: Arc<Tlbs>,
    user: SpaceUser,
}

impl Machine {
    /// With `pages` of anonymous memory, each of which holds its number and 100.
    fn new(pages: u64) -> Machine {
        let machine = Machine::empty();
        machine.map(pages);
        for n in 0..pages {
            machine.user.write(page(n), &(100 + n).to_le_bytes()).unwrap();
        }
        machine
    }

    fn empty() -> Machine {
        Machine::observed(None)
    }

    fn observed(observer: Option<Box<dyn Observer>>) -> Machine {
        Machine::prepared(1024, |system| {
            observer.into_iter().for_each(|observer| system.set_observer(observer));
        })
    }

    fn prepared(frames: u64, prepare: impl FnOnce(&mut System)) -> Machine {
        Machine::on(Frames::new(Arc::new(SoftwareMemory::new(frames))), prepare)
    }

    fn on(frames: Frames, prepare: impl FnOnce(&mut System)) -> Machine {
        let frames = Arc::new(frames);
        let tlbs = Arc::new(Tlbs::default());
        let sink = Box::new(Arc::clone(&tlbs));
        let mut system = System::new(Arc::clone(&frames), sink, KernelHalf::default());
        prepare(&mut system);
        let system = Arc::new(system);
        // One page a fault: what is brought in beside it has tests of its own.
        system.sysctl.set_fault_ahead(1);
        let space = AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap();
        Machine { frames, system, tlbs, user: SpaceUser::new(space) }
    }

    fn map(&self, pages: u64) {
        let request = MapRequest::anonymous(page(0), pages * PAGE_SIZE, RW, MapFlags::FIXED);
        self.user.change().mmap(&request).unwrap();
    }

    fn show(&self, at: u64, kind: MapType, file: &Arc<SharedMemory>) {
        show(&self.user, at, kind, file);
    }

    /// One more vCPU in the space.
    fn vcpu(&self) -> Vcpu {
        Vcpu::new(&self.tlbs, self.user.share())
    }

    /// The audit, with whoever else is there; then all of it ends, and nothing is left.
    fn end(self, others: Vec<SharedSpace>) {
        {
            let mut looked = vec![self.user.look()];
            looked.extend(others.iter().map(SharedSpace::look));
            let spaces: Vec<&AddressSpace> = looked.iter().map(|space| &**space).collect();
            audit_all(&spaces).unwrap();
        }
        for other in others {
            other.exit().unwrap();
        }
        self.user.put().unwrap();
        self.system.free_retired().unwrap();
        drop(self.tlbs);
        let left = self.frames.stats();
        assert_eq!(left.pages + left.tables, 0, "frames are left");
        let places = self.system.swap().map_or(0, |swap| swap.stats().used);
        assert_eq!(places, 0, "places of the swap area are left");
    }
}

fn show(space: &SharedSpace, at: u64, kind: MapType, file: &Arc<SharedMemory>) {
    let request = MapRequest {
        addr: page(at),
        len: PAGE_SIZE,
        prot: RW,
        flags: MapFlags::FIXED | kind.into(),
        file: Some(Arc::clone(file) as Arc<dyn Backing>),
        offset: 0,
    };
    space.change().mmap(&request).unwrap();
}

/// What a vCPU's thread comes back with.
fn run<T: 'static>(vcpu: Vcpu, what: impl FnOnce(&Vcpu) -> T + 'static + Send) -> Running<T>
where
    T: Send,
{
    Running(thread::spawn(move || {
        let result = what(&vcpu);
        (vcpu, result)
    }))
}

struct Running<T>(thread::JoinHandle<(Vcpu, T)>);

impl<T> Running<T> {
    fn end(self) -> T {
        let (vcpu, result) = self.0.join().unwrap();
        vcpu.end();
        result
    }
}

/// Whether it was made; a fault is only allowed to be this one.
fn made<T>(access: Result<T, AccessError>, allowed: fn(&Fault) -> bool) -> Option<T> {
    match access {
        Ok(value) => Some(value),
        Err(AccessError::Fault(fault)) => {
            assert!(allowed(&fault), "{fault:?}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn word(space: &SharedSpace, addr: VirtAddr) -> u64 {
    let mut bytes = [0; 8];
    space.read(addr, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn munmap_beside_a_writer_leaves_nothing_and_what_is_mapped_after_is_new() {
    in_any_order(|| {
        let m = Machine::new(2);
        let writer = run(m.vcpu(), |vcpu| {
            for n in [1, 0, 1] {
                let gone = |fault: &Fault| matches!(fault, Fault::NotMapped(_));
                if made(vcpu.store(page(n), 7), gone).is_none() {
                    break;
                }
            }
        });
        m.user.change().munmap(page(0), 2 * PAGE_SIZE).unwrap();
        m.map(1);
        let found = word(&m.user, page(0));
        assert!([0, 7].contains(&found), "{found}");
        writer.end();
        m.end(vec![]);
    });
}

/// Writes 1, 2 and 3 to page 0; says which one `refused` was first, else 4.
fn count(vcpu: &Vcpu, refused: fn(&Fault) -> bool) -> u64 {
    (1..=3).find(|&n| made(vcpu.store(page(0), n), refused).is_none()).unwrap_or(4)
}

#[test]
fn nothing_is_written_after_mprotect_has_returned() {
    in_any_order(|| {
        let m = Machine::new(1);
        let writer = run(m.vcpu(), |vcpu| count(vcpu, |fault| matches!(fault, Fault::Denied(_))));
        m.user.change().mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap();
        let found = word(&m.user, page(0));
        thread::yield_now();
        assert_eq!(word(&m.user, page(0)), found, "written after mprotect");
        let refused = writer.end();
        assert_eq!(found, if refused == 1 { 100 } else { refused - 1 }, "a number was lost");
        m.end(vec![]);
    });
}

#[test]
fn mremap_takes_each_byte_along_and_no_later_one() {
    in_any_order(|| {
        let m = Machine::new(1);
        let writer =
            run(m.vcpu(), |vcpu| count(vcpu, |fault| matches!(fault, Fault::NotMapped(_))));
        let (addr, new_addr) = (page(0), VirtAddr::new(AWAY));
        let (old_len, new_len) = (PAGE_SIZE, PAGE_SIZE);
        let request = RemapRequest { addr, old_len, new_len, flags: 3, new_addr };
        m.user.change().mremap(&request).unwrap();
        let found = word(&m.user, new_addr);
        let refused = writer.end();
        assert_eq!(found, if refused == 1 { 100 } else { refused - 1 }, "the last number");
        assert_eq!(word(&m.user, new_addr), found, "written after mremap");
        m.end(vec![]);
    });
}

#[test]
fn a_fork_beside_a_writer_gives_the_child_what_was_there_and_nothing_later() {
    in_any_order(|| {
        let m = Machine::new(2);
        let writer = run(m.vcpu(), |vcpu| {
            for n in 1..=3 {
                vcpu.store(page(0), n).unwrap();
                vcpu.store(page(1), n).unwrap();
            }
        });
        let child = SharedSpace::new(m.user.change().fork(Vcpus::Running).unwrap());
        let snapshot = [0, 1].map(|n| word(&child, page(n)));
        let as_number = |n: usize, word: u64| if word == 100 + n as u64 { 0 } else { word };
        let [first, second] = [as_number(0, snapshot[0]), as_number(1, snapshot[1])];
        assert!(first == second || first == second + 1, "{snapshot:?} were never there at once");
        writer.end();
        assert_eq!([0, 1].map(|n| word(&child, page(n))), snapshot, "the parent's, later");
        assert_eq!([0, 1].map(|n| word(&m.user, page(n))), [3, 3]);
        child.write(page(0), &[9]).unwrap();
        assert_eq!(word(&m.user, page(0)), 3);
        m.end(vec![child]);
    });
}

#[test]
fn what_madvise_drops_is_gone_and_what_is_written_after_stays() {
    in_any_order(|| {
        let m = Machine::new(2);
        let writer = run(m.vcpu(), |vcpu| {
            vcpu.store(page(0), 7).unwrap();
            vcpu.store(page(1), 7).unwrap();
            vcpu.load(page(0)).unwrap()
        });
        m.user.change().madvise(page(0), 2 * PAGE_SIZE, Advice::DontNeed as i32).unwrap();
        let found = [0, 1].map(|n| word(&m.user, page(n)));
        assert!(found.iter().all(|found| [0, 7].contains(found)), "{found:?}");
        assert!([0, 7].contains(&writer.end()));
        m.end(vec![]);
    });
}

#[test]
fn nobody_reads_an_old_page_after_another_has_written_its_copy() {
    in_any_order(|| {
        let m = Machine::new(1);
        let child = SharedSpace::new(m.user.change().fork(Vcpus::Running).unwrap());
        let written = Arc::new(AtomicU64::new(0));
        let vcpus = [m.vcpu(), m.vcpu(), m.vcpu()];
        // The child has used it: the copy is for the parent. All three have the old page cached.
        assert_eq!(word(&child, page(0)), 100);
        for vcpu in &vcpus {
            assert_eq!(vcpu.load(page(0)).unwrap(), 100);
        }
        let [first, second, reader] = vcpus;
        let seen = Arc::clone(&written);
        let writers = [
            run(first, move |vcpu| {
                vcpu.store(page(0), 7).unwrap();
                written.store(1, Ordering::SeqCst);
            }),
            run(second, |vcpu| vcpu.store(page(0).offset(8), 7).unwrap()),
        ];
        let reader = run(reader, move |vcpu| {
            while seen.load(Ordering::SeqCst) == 0 {
                assert!([7, 100].contains(&vcpu.load(page(0)).unwrap()));
                thread::yield_now();
            }
            assert_eq!(vcpu.load(page(0)).unwrap(), 7, "after 7 was written");
        });
        writers.into_iter().for_each(Running::end);
        reader.end();
        assert_eq!([0, 8].map(|at| word(&m.user, page(0).offset(at))), [7, 7]);
        assert_eq!(word(&child, page(0)), 100);
        m.end(vec![child]);
    });
}

#[test]
fn first_touches_of_two_at_once_are_one_page_that_counts_once() {
    in_any_order(|| {
        let m = Machine::empty();
        m.map(2);
        let touch = |at: u64| {
            run(m.vcpu(), move |vcpu| {
                assert!([0, 7].contains(&vcpu.load(page(0).offset(8 - at)).unwrap()));
                vcpu.store(page(0).offset(at), 7).unwrap();
                vcpu.store(page(1).offset(at), 7).unwrap();
            })
        };
        let both = [touch(0), touch(8)];
        both.into_iter().for_each(Running::end);
        for at in [0, 8] {
            assert_eq!([0, 1].map(|n| word(&m.user, page(n).offset(at))), [7, 7]);
        }
        assert_eq!(m.user.look().resident().own(), 2);
        m.end(vec![]);
    });
}

#[test]
fn ftruncate_by_another_process_beside_a_writer_and_a_fork_leaves_no_page() {
    in_any_order(|| {
        let m = Machine::empty();
        let file = SharedMemory::file(Arc::clone(&m.frames), 1, BackingName::default());
        let file = Arc::new(file.promised_by_page(m.system.no_promise()));
        m.show(0, MapType::Shared, &file);
        m.show(1, MapType::Private, &file);
        let vcpu = m.vcpu();
        // Not the shared one: then there is nothing else that ftruncate would flush for.
        vcpu.store(page(1), 6).unwrap();
        let writer = run(vcpu, |vcpu| {
            for n in [1, 1, 1, 0] {
                let no_page = |fault: &Fault| matches!(fault, Fault::NoBacking(_));
                if made(vcpu.store(page(n), 7), no_page).is_none() {
                    break;
                }
            }
        });
        let (shorter, system) = (Arc::clone(&file), Arc::clone(&m.system));
        let truncating = thread::spawn(move || shorter.truncate(0, &system).unwrap());
        let child = SharedSpace::new(m.user.change().fork(Vcpus::Running).unwrap());
        truncating.join().unwrap();
        let no_page = |fault: &Fault| matches!(fault, Fault::NoBacking(_));
        for space in [&*m.user, &child] {
            for n in [0, 1] {
                assert_eq!(made(space.read(page(n), &mut [0]), no_page), None);
            }
        }
        writer.end();
        m.end(vec![child]);
    });
}

#[test]
fn mremap_and_mprotect_beside_ftruncate_leave_no_page_on_its_way() {
    in_any_order(|| {
        let m = Machine::empty();
        let file = SharedMemory::file(Arc::clone(&m.frames), 1, BackingName::default());
        let file = Arc::new(file.promised_by_page(m.system.no_promise()));
        m.show(0, MapType::Shared, &file);
        m.user.write(page(0), &[5]).unwrap();
        let (shorter, system) = (Arc::clone(&file), Arc::clone(&m.system));
        let truncating = thread::spawn(move || shorter.truncate(0, &system).unwrap());
        m.user.change().mprotect(page(0), PAGE_SIZE, Prot::READ).unwrap();
        let (addr, new_addr) = (page(0), VirtAddr::new(AWAY));
        let (old_len, new_len) = (PAGE_SIZE, PAGE_SIZE);
        let request = RemapRequest { addr, old_len, new_len, flags: 3, new_addr };
        m.user.change().mremap(&request).unwrap();
        truncating.join().unwrap();
        let no_page = |fault: &Fault| matches!(fault, Fault::NoBacking(_));
        assert_eq!(made(m.user.read(new_addr, &mut [0]), no_page), None);
        m.end(vec![]);
    });
}
