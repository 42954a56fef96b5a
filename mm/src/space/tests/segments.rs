//! Segments of System V shared memory: when they go, what they are promised, and what stays in memory. The rest is
//! `tests/programs/segments.c`.

use super::*;
use crate::backing::{BackingName, HugeMemory, SharedMemory, Stays};
use crate::segments::{Absent, Asker, Present, Segment, Wanted};
use crate::swap::MemoryStore;
use crate::vma::limits::Capabilities;

const NONE: AttachFlags = AttachFlags::empty();

fn made(m: &SoftwareMachine, pages: u64) -> Arc<Segment> {
    made_of(m, pages, |system, name| {
        SharedMemory::file(Arc::clone(system.frames()), pages, name).swappable(system)
    })
}

fn made_of(
    m: &SoftwareMachine,
    pages: u64,
    make: impl FnOnce(&System, BackingName) -> Arc<dyn Backing>,
) -> Arc<Segment> {
    let space = m.space.look();
    let system = space.system();
    let wanted = Wanted {
        key: 5,
        len: pages * PAGE_SIZE,
        mode: 0o600,
        asker: Asker::root(Capabilities::all()),
    };
    let make = |_: i32| Ok(make(system, BackingName::default()));
    let id = system.segments().get(&wanted, Absent::Make, Present::Refuse, make).unwrap();
    system.segments().find(id).unwrap().0
}

fn attach(m: &SoftwareMachine, segment: &Arc<Segment>, at: u64) -> CallResult<VirtAddr> {
    m.space.change().attach(segment, AttachAt::Free(page(at)), NONE)
}

/// How many VMAs it has, if its number is known still.
fn attached(m: &SoftwareMachine, id: i32) -> Option<u64> {
    let found = m.space.look().system().segments().find(id);
    found.ok().map(|(_, status)| status.attached)
}

fn remove(m: &SoftwareMachine, id: i32) {
    m.space.look().system().segments().remove(id, &Asker::root(Capabilities::all())).unwrap();
}

#[test]
fn what_was_removed_goes_with_its_last_vma_and_its_memory_with_it() {
    let m = machine();
    let before = m.frames.stats().pages;
    let segment = made(&m, 4);
    let id = segment.id();
    attach(&m, &segment, 0).unwrap();
    m.store(page(1), 7).unwrap();
    let child = child_of(&m);
    remove(&m, id);
    // Cut in two, of which one is moved and the other grows where it is.
    protect(&m, 0, 1, Prot::READ).unwrap();
    remap(&m, 1, 3, 3, Some(20)).unwrap();
    assert_eq!((attached(&m, id), m.load(page(20)).unwrap()), (Some(3), 7));
    remap(&m, 0, 1, 2, None).unwrap();
    assert_eq!(attached(&m, id), Some(3));
    drop(segment);
    m.space.change().detach(page(0)).unwrap();
    m.space.change().detach(page(19)).unwrap();
    assert_eq!((attached(&m, id), child.load(page(1)).unwrap()), (Some(1), 7));
    audited(&[&m, &child]);
    unmap(&child, 0, 4).unwrap();
    assert_eq!((attached(&m, id), m.frames.stats().pages), (None, before));
    assert_eq!(m.space.look().system().segments().totals().pages, 0);
}

#[test]
fn one_that_has_gone_is_not_attached_though_another_has_its_place() {
    let m = machine();
    let gone = made(&m, 1);
    remove(&m, gone.id());
    let others: Vec<_> = (0..64)
        .map(|_| {
            let segment = made(&m, 1);
            remove(&m, segment.id());
            segment
        })
        .collect();
    assert_eq!(others[63].id(), gone.id() | 1 << 15);
    let last = made(&m, 1);
    assert_eq!(gone.attach().map(drop).unwrap_err(), Errno::EIDRM);
    assert_eq!(attached(&m, last.id()), Some(0));
}

#[test]
fn it_stays_while_it_is_being_attached() {
    let m = machine();
    let segment = made(&m, 2);
    let pin = segment.attach().unwrap();
    remove(&m, segment.id());
    assert_eq!(errno_of(attach(&m, &segment, (1 << 35) - 1)), Errno::ENOMEM);
    assert_eq!(attached(&m, segment.id()), Some(1));
    drop(pin);
    assert_eq!(attached(&m, segment.id()), None);
}

#[test]
fn what_is_to_stay_in_memory_is_not_swapped_out_until_it_may() {
    let m = SoftwareMachine::prepared(1024, Limits::default(), |system| {
        system.set_swap(Box::new(MemoryStore::new(100)));
    });
    let m = m.unwrap();
    let segment = made(&m, 4);
    attach(&m, &segment, 0).unwrap();
    (0..4).for_each(|i| m.store(page(i), 100 + i as u8).unwrap());
    let memory = segment.object().shared_memory().unwrap();
    let out = || {
        let advice = Advice::PageOut as i32;
        m.space.change().madvise(page(0), 4 * PAGE_SIZE, advice).unwrap();
        segment.present()
    };
    memory.stay(Stays::InMemory);
    assert_eq!(out(), (4, 0));
    memory.stay(Stays::Nowhere);
    // What is not mapped is not advised about.
    (0..4).for_each(|i| assert_eq!(m.load(page(i)).unwrap(), 100 + i as u8));
    assert_eq!(out(), (0, 4));
    assert_eq!((0..4).map(|i| m.load(page(i)).unwrap()).collect::<Vec<_>>(), [100, 101, 102, 103]);
    audited(&[&m]);
}

#[test]
fn huge_pages_are_promised_when_it_is_made_unless_nothing_is_reserved() {
    let m = machine();
    let pages = 2 << 9;
    let stats = |m: &SoftwareMachine| {
        let stats = m.space.look().system().huge_pool(2 << 20).unwrap().stats();
        [stats.total, stats.free, stats.reserved]
    };
    m.space.look().system().huge_pool(2 << 20).unwrap().resize(3).unwrap();
    let huge = |flags| {
        made_of(&m, pages, move |system, name| {
            let pool = system.huge_pool(2 << 20).unwrap();
            let memory = HugeMemory::segment(pool, pages * PAGE_SIZE, name, flags);
            Arc::new(memory.unwrap())
        })
    };
    let segment = huge(VmFlags::empty());
    assert_eq!(stats(&m), [3, 3, 2]);
    attach(&m, &segment, 0).unwrap();
    m.store(page(512), 9).unwrap();
    assert_eq!((stats(&m), segment.present()), ([3, 2, 1], (512, 0)));
    audited(&[&m]);
    remove(&m, segment.id());
    m.space.change().detach(page(0)).unwrap();
    drop(segment);
    assert_eq!(stats(&m), [3, 3, 0]);
    let segment = huge(VmFlags::NORESERVE);
    assert_eq!(stats(&m), [3, 3, 0]);
    // Whoever attaches it does reserve.
    attach(&m, &segment, 0).unwrap();
    assert_eq!(stats(&m), [3, 3, 2]);
}
