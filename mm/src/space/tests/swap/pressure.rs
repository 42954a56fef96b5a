//! Random acts of some processes, in a small memory with swap and in a large one without: nobody can tell which.

use proptest::prelude::*;

use super::shared::map_shared;
use super::*;

/// Pages of each process's memory.
const PAGES: u64 = 120;
/// Frames that the small one leaves to all processes.
const FRAMES: usize = 90;
/// The most processes.
const MOST: usize = 4;

/// Pages, the first and how many.
type Part = (u64, u64);

#[derive(Clone, Debug)]
enum Act {
    Store(u64, u8),
    /// A run, as a program that goes on page by page.
    StoreAll(Part, u8),
    Load(u64),
    LoadAll(Part),
    Advise(Part, Advice),
    Protect(Part, Prot),
    Map(Part),
    Unmap(Part),
    Move(Part, u64),
    Fork,
    Exit,
}

fn part() -> impl Strategy<Value = Part> {
    (0..PAGES, 1..50_u64).prop_map(|(at, len)| (at, len.min(PAGES - at)))
}

fn act() -> impl Strategy<Value = Act> {
    let advice = prop::sample::select(vec![
        Advice::DontNeed,
        Advice::PageOut,
        Advice::PageOut,
        Advice::WillNeed,
        Advice::Cold,
        Advice::PopulateRead,
        Advice::PopulateWrite,
        Advice::WipeOnFork,
        Advice::KeepOnFork,
    ]);
    let prot = prop_oneof![2 => Just(RW), 1 => Just(Prot::READ), 1 => Just(Prot::empty())];
    prop_oneof![
        10 => (0..PAGES, any::<u8>()).prop_map(|(at, byte)| Act::Store(at, byte)),
        10 => (part(), any::<u8>()).prop_map(|(part, byte)| Act::StoreAll(part, byte)),
        5 => (0..PAGES).prop_map(Act::Load),
        10 => part().prop_map(Act::LoadAll),
        6 => (part(), advice).prop_map(|(part, advice)| Act::Advise(part, advice)),
        3 => (part(), prot).prop_map(|(part, prot)| Act::Protect(part, prot)),
        1 => part().prop_map(Act::Map),
        1 => part().prop_map(Act::Unmap),
        2 => (part(), 0..PAGES).prop_map(|(part, to)| Act::Move(part, to)),
        3 => Just(Act::Fork),
        1 => Just(Act::Exit),
    ]
}

/// A machine with its processes.
struct World {
    processes: Vec<SoftwareMachine>,
    taken: Vec<Frame>,
}

impl World {
    fn new(m: SoftwareMachine, taken: Vec<Frame>) -> Self {
        map_at(&m, 0, PAGES / 2, RW).unwrap();
        map_shared(&m, PAGES / 2, PAGES / 2);
        fill(&m, 0..PAGES);
        World { processes: vec![m], taken }
    }

    /// Does an act by one of the processes; says what came of it.
    fn act(&mut self, by: usize, act: &Act) -> String {
        let by = by % self.processes.len();
        let m = &self.processes[by];
        let each = |(at, len): Part, what: &dyn Fn(u64) -> String| {
            (at..at + len).map(what).collect::<Vec<_>>().join(" ")
        };
        match *act {
            Act::Store(at, byte) => told(&m.store(page(at), byte)),
            Act::StoreAll(part, byte) => each(part, &|at| told(&m.store(page(at), byte))),
            Act::Load(at) => told(&m.load(page(at))),
            Act::LoadAll(part) => each(part, &|at| told(&m.load(page(at)))),
            Act::Advise((at, len), advice) => {
                told(&m.space.change().madvise(page(at), len * PAGE_SIZE, advice as i32))
            }
            Act::Protect((at, len), prot) => told(&protect(m, at, len, prot)),
            Act::Map((at, len)) => told(&map_at(m, at, len, RW)),
            Act::Unmap((at, len)) => told(&unmap(m, at, len)),
            Act::Move((at, len), to) => told(&remap(m, at, len, len, Some(to))),
            Act::Fork if self.processes.len() < MOST => {
                let child = child_of(m);
                self.processes.push(child);
                String::new()
            }
            Act::Exit if self.processes.len() > 1 => {
                self.processes.remove(by).space.exit().unwrap();
                String::new()
            }
            Act::Fork | Act::Exit => String::new(),
        }
    }

    fn audited(&self) {
        audited(&self.processes.iter().collect::<Vec<_>>());
    }

    fn end(self) {
        let frames = Arc::clone(&self.processes[0].frames);
        let system = Arc::clone(self.processes[0].space.look().system());
        self.processes.into_iter().for_each(|m| m.space.exit().unwrap());
        self.taken.into_iter().for_each(|frame| frames.put(frame).unwrap());
        assert_eq!(system.swap().map_or(0, |swap| swap.stats().used), 0);
        drop(system);
        assert_eq!((frames.stats().pages, frames.stats().tables), (0, 0));
    }
}

fn told<T: std::fmt::Debug, E: std::fmt::Debug>(result: &Result<T, E>) -> String {
    format!("{result:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 100 }))]
    #[test]
    fn nobody_can_tell_a_small_memory_with_swap_from_a_large_one(
        acts in proptest::collection::vec((0..MOST, act()), 1..80),
        ahead in prop_oneof![Just(1), Just(16_u64)],
    ) {
        let m = swapping(512, 4 * PAGES);
        let taken = use_up(&m, FRAMES);
        let mut small = World::new(m, taken);
        let large = SoftwareMachine::new(8192, Limits::default()).unwrap();
        large.frames.zero_frame().unwrap();
        let mut large = World::new(large, Vec::new());
        for world in [&small, &large] {
            world.processes[0].space.look().system().sysctl.set_fault_ahead(ahead);
        }
        for (by, act) in &acts {
            prop_assert_eq!(small.act(*by, act), large.act(*by, act), "{:?}", act);
            small.audited();
        }
        for by in 0..small.processes.len() {
            let all = Act::LoadAll((0, PAGES));
            prop_assert_eq!(small.act(by, &all), large.act(by, &all));
        }
        small.end();
        large.end();
    }
}
