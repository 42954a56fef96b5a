//! Random calls of a family of processes against a plain model: what each page holds in each of them, and
//! after each call the audit of all.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::space::Advice;

/// Addresses that are used, in pages.
const PAGES: u64 = 40;
/// Processes at one time.
const MOST: usize = 6;

type Pages = (u64, u64);

/// Each is done by one process, counted round those that there are.
#[derive(Clone, Debug)]
enum Step {
    Map(Pages, Prot),
    Unmap(Pages),
    Protect(Pages, Prot),
    Move(Pages, u64),
    MoveAndKeep(Pages, u64),
    Store(u64, u8),
    /// Page after page, so that some come ahead.
    StoreAll(Pages, u8),
    Load(u64),
    Discard(Pages),
    Fork(Vcpus),
    Exit,
}

/// A process, and the byte of each page that is mapped.
struct Process {
    m: SoftwareMachine,
    bytes: BTreeMap<u64, u8>,
}

fn step() -> impl Strategy<Value = Step> {
    let pages = || (0..PAGES, 1..10_u64);
    let prot = || prop_oneof![3 => Just(RW), 1 => Just(RW | Prot::EXEC)];
    prop_oneof![
        6 => (pages(), prot()).prop_map(|(at, prot)| Step::Map(at, prot)),
        4 => pages().prop_map(Step::Unmap),
        5 => (pages(), prot()).prop_map(|(at, prot)| Step::Protect(at, prot)),
        5 => (pages(), 0..PAGES).prop_map(|(from, to)| Step::Move(from, to)),
        3 => (pages(), 0..PAGES).prop_map(|(from, to)| Step::MoveAndKeep(from, to)),
        16 => (0..PAGES, 1..255_u8).prop_map(|(at, byte)| Step::Store(at, byte)),
        4 => (pages(), 1..255_u8).prop_map(|(at, byte)| Step::StoreAll(at, byte)),
        3 => (0..PAGES).prop_map(Step::Load),
        2 => pages().prop_map(Step::Discard),
        8 => prop_oneof![Just(Vcpus::Running), Just(Vcpus::Stopped)].prop_map(Step::Fork),
        4 => Just(Step::Exit),
    ]
}

fn apply(all: &mut Vec<Process>, who: usize, step: &Step) {
    let who = who % all.len();
    let Process { m, bytes } = &mut all[who];
    match *step {
        Step::Map((at, pages), prot) => {
            map(m, at, pages, prot);
            bytes.extend((at..at + pages).map(|at| (at, 0)));
        }
        Step::Unmap((at, pages)) => {
            m.space.change().munmap(page(at), pages * PAGE_SIZE).unwrap();
            bytes.retain(|page, _| !(at..at + pages).contains(page));
        }
        Step::Protect((at, pages), prot) => {
            // Over a hole, a part of it is done.
            let _ = m.space.change().mprotect(page(at), pages * PAGE_SIZE, prot);
        }
        Step::Move((from, pages), to) => {
            let (addr, len, new_addr) = (page(from), pages * PAGE_SIZE, page(to));
            let flags = MAYMOVE_FIXED;
            let request = RemapRequest { addr, old_len: len, new_len: len, flags, new_addr };
            if m.space.change().mremap(&request).is_ok() {
                shift(bytes, from, pages, to);
            }
        }
        Step::MoveAndKeep((from, pages), to) => {
            let (addr, len, new_addr) = (page(from), pages * PAGE_SIZE, page(to));
            let flags = MAYMOVE_FIXED | DONTUNMAP;
            let request = RemapRequest { addr, old_len: len, new_len: len, flags, new_addr };
            if m.space.change().mremap(&request).is_ok() {
                let kept: Vec<u64> = bytes.range(from..from + pages).map(|(&at, _)| at).collect();
                shift(bytes, from, pages, to);
                bytes.extend(kept.into_iter().map(|at| (at, 0)));
            }
        }
        Step::Store(at, byte) => store(m, bytes, at, byte),
        Step::StoreAll((at, pages), byte) => {
            (at..at + pages).for_each(|at| store(m, bytes, at, byte));
        }
        Step::Load(at) => assert_eq!(m.load(page(at)).ok(), bytes.get(&at).copied()),
        Step::Discard((at, pages)) => {
            let advice = Advice::DontNeed as i32;
            // Over a hole too, all that is mapped is discarded.
            let _ = m.space.change().madvise(page(at), pages * PAGE_SIZE, advice);
            bytes.range_mut(at..at + pages).for_each(|(_, byte)| *byte = 0);
        }
        Step::Fork(vcpus) => {
            let child = m.space.change().fork(vcpus).unwrap();
            let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
            let child = SoftwareMachine { space: SharedSpace::new(child), sink, frames };
            let child = Process { m: child, bytes: bytes.clone() };
            if all.len() == MOST {
                let oldest = all.remove(0);
                oldest.m.space.exit().unwrap();
            }
            all.push(child);
        }
        Step::Exit if all.len() > 1 => all.remove(who).m.space.exit().unwrap(),
        Step::Exit => {}
    }
}

/// Where nothing moves away, what is at the target stays.
fn shift(bytes: &mut BTreeMap<u64, u8>, from: u64, pages: u64, to: u64) {
    for at in 0..pages {
        if let Some(byte) = bytes.remove(&(from + at)) {
            bytes.insert(to + at, byte);
        }
    }
}

fn store(m: &SoftwareMachine, bytes: &mut BTreeMap<u64, u8>, at: u64, byte: u8) {
    let stored = m.store(page(at), byte);
    let there = bytes.get_mut(&at).map(|old| *old = byte);
    assert_eq!(stored.is_ok(), there.is_some(), "page {at}: {stored:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 400 }))]
    #[test]
    fn every_page_of_a_family_of_processes_is_found_by_its_frame_after_every_call(
        steps in proptest::collection::vec((any::<usize>(), step()), 1..if cfg!(miri) { 20 } else { 150 }),
    ) {
        let m = SoftwareMachine::new(4096, Limits::default()).unwrap();
        let frames = Arc::clone(&m.frames);
        let system = Arc::clone(m.space.look().system());
        let mut all = vec![Process { m, bytes: BTreeMap::new() }];
        for (who, step) in &steps {
            apply(&mut all, *who, step);
            audit(&all.iter().map(|process| &process.m).collect::<Vec<_>>()).unwrap();
        }
        for Process { m, bytes } in all {
            for at in 0..PAGES + 20 {
                prop_assert_eq!(m.load(page(at)).ok(), bytes.get(&at).copied(), "page {}", at);
            }
            m.space.exit().unwrap();
        }
        prop_assert_eq!((system.anon().nodes(), frames.stats().pages), (0, 0));
    }
}
