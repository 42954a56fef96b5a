//! Khugepaged: where it makes huge pages, and where not.

use super::*;
use crate::khugepaged::{KhugepagedStats, MaxPtes, PAGES_TO_SCAN, Scanned};
use crate::paging::KernelHalf;
use crate::phys::{BLOCK_FRAMES, Contents, FrameKind, Frames, SoftwareMemory};
use crate::replay::CountingSink;
use crate::swap::MemoryStore;
use crate::sysctl::Thp;

const HUGE: u64 = BLOCK_FRAMES;
const HUGEPAGE: i32 = Advice::HugePage as i32;

/// A machine with khugepaged, and a process.
struct Watched {
    user: SpaceUser,
    frames: Arc<Frames>,
    system: Arc<System>,
    sink: Arc<CountingSink>,
}

impl Watched {
    fn new(frames: u64) -> Self {
        Self::prepared(frames, |_| {})
    }

    fn prepared(frames: u64, prepare: impl FnOnce(&mut System)) -> Self {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(frames))));
        let sink = Arc::new(CountingSink::default());
        let out = Box::new(Arc::clone(&sink));
        let mut system = System::new(Arc::clone(&frames), out, KernelHalf::default());
        prepare(&mut system);
        system.sysctl.set_fault_ahead(1);
        system.enable_khugepaged();
        let system = Arc::new(system);
        let space = AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap();
        Watched { user: SpaceUser::new(space), frames, system, sink }
    }

    fn map(&self, at: u64, pages: u64) {
        let request = MapRequest::anonymous(page(at), pages * PAGE_SIZE, RW, MapFlags::FIXED);
        self.user.change().mmap(&request).unwrap();
    }

    /// Two huge pages' room with small pages in it, which huge ones are wanted for from now on.
    fn two(&self, written: impl IntoIterator<Item = u64>) {
        self.map(0, 2 * HUGE);
        for i in written {
            self.store(i, 7);
        }
        self.advise(0, 2 * HUGE, HUGEPAGE);
    }

    fn store(&self, at: u64, byte: u8) {
        crate::replay::access(&self.user, page(at), AccessKind::Write).unwrap();
        self.user.write(page(at), &[byte]).unwrap();
    }

    fn load(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.user.read(page(at), &mut byte).unwrap();
        byte[0]
    }

    fn advise(&self, at: u64, pages: u64, advice: i32) {
        self.user.change().madvise(page(at), pages * PAGE_SIZE, advice).unwrap();
    }

    /// Looks at all there is, and says where huge pages are then.
    fn scan(&self) -> Vec<u64> {
        self.scan_part(u64::MAX)
    }

    fn scan_part(&self, pages: u64) -> Vec<u64> {
        assert_eq!(self.system.khugepaged(pages).unwrap(), Scanned::Enough);
        self.huges()
    }

    fn huges(&self) -> Vec<u64> {
        let space = self.user.look();
        let is = |i: &u64| space.table().large(page(i * HUGE)).is_some_and(|l| l.entry.is_huge());
        (0..8).filter(is).collect()
    }

    fn stats(&self) -> (u64, u64) {
        let KhugepagedStats { collapsed, full_scans } = self.system.khugepaged_stats();
        (collapsed, full_scans)
    }

    fn end(self, others: Vec<SpaceUser>) {
        {
            let spaces: Vec<_> =
                [&self.user].into_iter().chain(&others).map(|s| s.look()).collect();
            audit_all(&spaces.iter().map(|space| &**space).collect::<Vec<_>>()).unwrap();
        }
        self.user.put().unwrap();
        for user in others {
            user.put().unwrap();
        }
        self.system.free_retired().unwrap();
        assert_eq!((self.frames.stats().pages, self.frames.stats().tables), (0, 0));
        assert_eq!(self.system.khugepaged(1).unwrap(), Scanned::Enough);
    }
}

#[test]
fn one_small_page_is_enough() {
    let m = Watched::new(4096);
    m.two([5, HUGE + 3]);
    assert_eq!((m.scan(), m.stats()), (vec![0, 1], (2, 1)));
    assert_eq!((m.load(5), m.load(6), m.load(HUGE + 3)), (7, 0, 7));
    assert_eq!(m.user.look().resident().own(), 2 * HUGE);
    // Nothing is left to be done.
    assert_eq!((m.scan(), m.stats()), (vec![0, 1], (2, 2)));
    m.end(vec![]);
}

#[test]
fn vcpus_are_flushed_though_the_space_has_one_user() {
    let m = Watched::new(4096);
    m.two([5]);
    let flushes = m.sink.table_flushes();
    assert_eq!(m.scan(), [0]);
    assert_eq!(m.sink.table_flushes(), flushes + 1);
    let last = m.sink.last();
    assert_eq!(last.others, Others::In(m.user.look().table().root()));
    m.end(vec![]);
}

#[test]
fn only_where_faults_would_bring_them_in() {
    let m = Watched::new(8192);
    m.two([5]);
    let set = |thp| m.system.sysctl.set_thp(thp);
    set(Thp::Never);
    assert!(m.scan().is_empty());
    set(Thp::Always);
    m.advise(0, 2 * HUGE, Advice::NoHugePage as i32);
    assert!(m.scan().is_empty());
    // Not all of 2 MiB.
    m.map(2 * HUGE + 1, HUGE);
    m.store(2 * HUGE + 5, 1);
    assert!(m.scan().is_empty());
    set(Thp::Madvise);
    m.map(4 * HUGE, HUGE);
    m.store(4 * HUGE, 1);
    assert!(m.scan().is_empty());
    set(Thp::Always);
    assert_eq!(m.scan(), [4]);
    m.end(vec![]);
}

#[test]
fn nothing_is_made_of_nothing_or_zeros() {
    let m = Watched::new(4096);
    m.two([]);
    assert!(m.scan().is_empty());
    m.advise(0, HUGE, Advice::NoHugePage as i32);
    m.load(3);
    m.store(HUGE / 2, 1);
    m.advise(HUGE / 2, 1, Advice::DontNeed as i32);
    m.advise(0, HUGE, HUGEPAGE);
    assert!(m.scan().is_empty(), "zeros, and a table that has had a page");
    m.end(vec![]);
}

#[test]
fn a_guard_keeps_it_small() {
    let m = Watched::new(4096);
    m.two([5]);
    m.advise(9, 1, Advice::GuardInstall as i32);
    assert!(m.scan().is_empty());
    m.advise(9, 1, Advice::GuardRemove as i32);
    assert_eq!(m.scan(), [0]);
    m.end(vec![]);
}

#[test]
fn how_many_may_be_missing_or_shared_can_be_set() {
    let m = Watched::new(8192);
    m.two(0..10);
    let defaults = MaxPtes { none: 511, swap: 64, shared: 256 };
    assert_eq!(m.system.max_ptes(), defaults);
    m.system.set_max_ptes(MaxPtes { none: 501, ..defaults });
    assert!(m.scan().is_empty());
    m.system.set_max_ptes(MaxPtes { none: 502, ..defaults });
    let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
    m.system.set_max_ptes(MaxPtes { shared: 9, ..defaults });
    assert!(m.scan().is_empty());
    m.system.set_max_ptes(MaxPtes { shared: 10, ..defaults });
    // The child has accessed none of them.
    assert_eq!((m.scan(), m.stats().0), (vec![0], 1));
    m.store(3, 9);
    let mut byte = [0];
    child.read(page(3), &mut byte).unwrap();
    assert_eq!(byte, [7]);
    m.end(vec![child]);
}

#[test]
fn what_is_not_in_use_stays_small() {
    let m = Watched::new(4096);
    m.two(0..10);
    m.advise(0, HUGE, Advice::Cold as i32);
    assert!(m.scan().is_empty());
    assert_eq!(crate::replay::access(&m.user, page(4), AccessKind::Read).map(drop).ok(), Some(()));
    assert_eq!(m.scan(), [0]);
    m.end(vec![]);
}

#[test]
fn swapped_pages_come_back_for_it_if_half_of_all_are_in_use() {
    let m = Watched::prepared(4096, |system| system.set_swap(Box::new(MemoryStore::new(1024))));
    m.two(0..HUGE);
    m.advise(0, 65, Advice::PageOut as i32);
    assert!(m.scan().is_empty());
    m.store(1, 7);
    m.advise(100, 192, Advice::Cold as i32);
    assert!(!m.scan().is_empty(), "256 are in use");
    assert_eq!((0..HUGE).filter(|&i| m.load(i) != 7).count(), 0);
    m.end(vec![]);
}

#[test]
fn swapped_pages_stay_out_if_few_are_in_use() {
    let m = Watched::prepared(4096, |system| system.set_swap(Box::new(MemoryStore::new(1024))));
    m.two(0..HUGE);
    m.advise(0, 10, Advice::PageOut as i32);
    m.advise(100, 247, Advice::Cold as i32);
    assert!(m.scan().is_empty());
    m.end(vec![]);
}

#[test]
fn it_goes_on_where_it_has_stopped() {
    let m = Watched::new(16384);
    m.map(0, 8 * HUGE);
    (0..8).for_each(|i| m.store(i * HUGE, 7));
    m.advise(0, 8 * HUGE, HUGEPAGE);
    let child = SpaceUser::new(m.user.change().fork(Vcpus::Running).unwrap());
    assert_eq!(m.scan_part(3 * HUGE), [0, 1, 2]);
    assert_eq!(m.scan_part(1), [0, 1, 2, 3]);
    assert_eq!(m.scan_part(4 * HUGE), (0..8).collect::<Vec<_>>());
    // The child: what it has not touched is not in use.
    assert_eq!((m.stats(), m.scan_part(PAGES_TO_SCAN), m.stats()), ((8, 0), m.huges(), (8, 0)));
    m.scan();
    assert_eq!(m.stats(), (8, 1));
    child.put().unwrap();
    m.end(vec![]);
}

#[test]
fn without_memory_it_waits() {
    let m = Watched::new(2048);
    m.two([5, HUGE + 5]);
    let alloc = || m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
    let taken: Vec<_> = std::iter::from_fn(alloc).collect();
    assert_eq!(m.system.khugepaged(u64::MAX).unwrap(), Scanned::NoMemory);
    taken.into_iter().for_each(|frame| m.frames.put(frame).unwrap());
    // On with the next; then the first again.
    assert_eq!(m.scan(), [1]);
    assert_eq!(m.scan(), [0, 1]);
    m.end(vec![]);
}

#[test]
fn a_process_ends_while_it_is_looked_at() {
    let m = Watched::new(4096);
    let holder = m.user.hold();
    m.two([5]);
    let system = Arc::clone(&m.system);
    m.user.put().unwrap();
    assert_eq!(system.khugepaged(u64::MAX).unwrap(), Scanned::Enough);
    assert_eq!(system.khugepaged_stats().collapsed, 0);
    holder.put().unwrap();
    system.free_retired().unwrap();
    assert_eq!((m.frames.stats().pages, m.frames.stats().tables), (0, 0));
}
