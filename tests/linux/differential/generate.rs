//! Random acts, biased towards success: our side is asked what is there, so that most calls hit it.

use std::ops::Range;

use guest::random::Random;
use libtest_mimic::Failed;
use mm::addr::{VirtAddr, index};
use mm::paging::AccessKind;
use mm::replay::calls::{IoVec, Limit, MemoryCall as M, Pointee};

use super::act::{Act, Deed, Open};
use super::model::{Line, Model, Result, Start};
use super::run::{Ours, ends};
use super::tally::Tally;

/// Where most maps are.
const WINDOW: u64 = 0x100_0000_0000;
/// How many pages of it are used.
const PAGES: u64 = 40;
const PAGE: u64 = 4096;
const TASK_END: u64 = 0x7fff_ffff_f000;
/// The player's own memory begins here; below the stack there is nothing else.
const PLAYER: Range<u64> = 0x2000_0000_0000..0x2000_1000_0000;

/// The player's program.
const IMAGE: Range<u64> = 0x40_0000..0x50_0000;

/// The longest maps.
const LARGE: u64 = 16 << 20;
const HUGETLB: u64 = 0x4_0000;
const NORESERVE: u64 = 0x4000;

/// Acts and what our side makes of them.
#[derive(Debug)]
pub struct Sequence {
    /// The acts.
    pub acts: Vec<Act>,
    /// What our side answered.
    pub ours: Ours,
    /// The same, counted.
    pub tally: Tally,
}

/// Makes a sequence of at most `length` acts.
pub fn sequence(start: &Start, seed: u64, length: u64) -> std::result::Result<Sequence, Failed> {
    let mut generator = Generator {
        random: Random::new(seed),
        model: Model::new(start)?,
        alive: vec![0],
        processes: 1,
        files: vec![Vec::new()],
        next_fd: vec![3],
        dropped: vec![0],
        uffd: None,
        lines: Vec::new(),
        process: 0,
        top: start.top(),
    };
    let mut acts = Vec::with_capacity(index(length));
    let mut steps = Vec::with_capacity(index(length));
    let mut tally = Tally::default();
    while acts.len() < index(length) {
        let at = index(generator.random.below(generator.alive.len() as u64));
        generator.process = generator.alive[at];
        generator.lines = generator.model.lines(generator.process);
        let Some(deed) = generator.deed().filter(|deed| !endangers(deed, generator.top)) else {
            continue;
        };
        let act = Act { process: generator.process, deed };
        let before = generator.model.merges(act.process);
        let result = generator.model.perform(&act)?;
        let after = generator.model.merges(act.process);
        tally.merges(std::array::from_fn(|kind| after[kind].saturating_sub(before[kind])));
        tally.answer(&act, &result);
        start
            .is_sound(&generator.model, act.process)
            .map_err(|failed| format!("{act}: {}", failed.message().unwrap_or_default()))?;
        generator.note(&act, &result);
        steps.push((result, generator.model.lines(act.process)));
        acts.push(act);
    }
    let ends = ends(&generator.model);
    Ok(Sequence { acts, ours: Ours { steps, ends }, tally })
}

/// Whether a deed might take the player's own memory away from under it.
fn endangers(deed: &Deed, top: u64) -> bool {
    let hits = |addr: u64, len: u64| {
        // A range that wraps is refused by all calls.
        let Some(end) = addr.checked_add(len) else { return false };
        let end = end.saturating_add(PAGE);
        [IMAGE, PLAYER, top..TASK_END].iter().any(|own| addr < own.end && own.start < end)
    };
    // Nothing larger is mapped, so that nothing larger can be brought in.
    let large = |len: u64| (LARGE..1 << 47).contains(&len);
    match deed {
        // There are no huge pages yet.
        Deed::Call(M::Madvise { len, advice: 25, .. }) if *len >= 512 * PAGE => true,
        Deed::Call(M::Mmap { len, flags, .. })
            if large(*len) || flags & (HUGETLB | NORESERVE) == HUGETLB | NORESERVE =>
        {
            true
        }
        Deed::Call(M::Mremap { new_len, .. }) if large(*new_len) => true,
        Deed::Call(M::Mremap { new_len, new_addr, old_len, addr, .. }) => {
            hits(addr.get(), *old_len) || hits(new_addr.get(), *new_len)
        }
        Deed::Call(call) => call.range().is_some_and(|(addr, len)| hits(addr.get(), len)),
        Deed::Uffd(_, addr, len, _) => hits(*addr, *len),
        _ => false,
    }
}

struct Generator {
    random: Random,
    model: Model,
    alive: Vec<u8>,
    processes: u8,
    /// For each process the descriptors that can be mapped.
    files: Vec<Vec<i32>>,
    next_fd: Vec<i32>,
    /// For each process the capabilities that it has given up.
    dropped: Vec<u64>,
    /// The process that has a userfaultfd, and its descriptor.
    uffd: Option<(u8, i32)>,
    lines: Vec<Line>,
    process: u8,
    top: u64,
}

impl Generator {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        self.random.chance(of_hundred)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[index(self.below(from.len() as u64))]
    }

    /// Remembers what later acts build on.
    fn note(&mut self, act: &Act, result: &Result) {
        let process = usize::from(act.process);
        match (&act.deed, result) {
            (Deed::Open(fd, open), _) => {
                self.next_fd[process] = fd + 1;
                if *open != Open::Directory {
                    self.files[process].push(*fd);
                }
            }
            (Deed::Userfault(fd), _) => {
                self.uffd = Some((act.process, *fd));
                self.next_fd[process] += 1;
            }
            (Deed::Fork(child), Result::Value(_)) => {
                self.alive.push(*child);
                self.files.push(self.files[process].clone());
                self.next_fd.push(self.next_fd[process]);
                self.dropped.push(self.dropped[process]);
                self.processes += 1;
            }
            (Deed::Fork(_), _) => {
                self.files.push(Vec::new());
                self.next_fd.push(3);
                self.dropped.push(0);
                self.processes += 1;
            }
            (Deed::DropCapabilities(dropped), _) => self.dropped[process] = *dropped,
            (Deed::Exit, _) => self.alive.retain(|&process| process != act.process),
            _ => {}
        }
    }

    /// A page of the window, most often where a VMA begins or ends.
    fn page(&mut self) -> u64 {
        let borders: Vec<u64> = self
            .lines
            .iter()
            .flat_map(|line| [line.range.start, line.range.end])
            .filter(|addr| (WINDOW..WINDOW + PAGES * PAGE).contains(addr))
            .collect();
        if !borders.is_empty() && self.chance(60) {
            let border = self.pick(&borders);
            return match self.below(6) {
                0 => border.saturating_sub(PAGE).max(WINDOW),
                1 => border + PAGE,
                _ => border,
            };
        }
        WINDOW + self.below(PAGES) * PAGE
    }

    /// A page inside a VMA that is not the player's.
    fn mapped_page(&mut self) -> u64 {
        let lines: Vec<Range<u64>> = self.ranges().collect();
        if lines.is_empty() || self.chance(8) {
            return self.page();
        }
        let range = self.pick_range(&lines);
        let pages = (range.end - range.start) / PAGE;
        let at = match self.below(4) {
            0 => 0,
            1 => pages - 1,
            _ => self.below(pages),
        };
        range.start + at * PAGE
    }

    fn pick_range(&mut self, ranges: &[Range<u64>]) -> Range<u64> {
        ranges[index(self.below(ranges.len() as u64))].clone()
    }

    /// The VMAs that acts may change: those of the window, and those placed by the kernel.
    fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.lines
            .iter()
            .map(|line| line.range.clone())
            .filter(|range| range.start >= WINDOW && range.end <= self.top)
            .filter(|range| !PLAYER.contains(&range.start))
    }

    /// A range that is likely to be mapped, whole VMAs or parts of one or more.
    fn range(&mut self) -> (VirtAddr, u64) {
        let ranges: Vec<Range<u64>> = self.ranges().collect();
        if !ranges.is_empty() && self.chance(45) {
            let at = index(self.below(ranges.len() as u64));
            let mut range = ranges[at].clone();
            if self.chance(20) && at + 1 < ranges.len() && ranges[at + 1].start == range.end {
                range.end = ranges[at + 1].end;
            }
            return (VirtAddr::new(range.start), range.end - range.start);
        }
        let start = self.mapped_page();
        let len = match self.below(10) {
            0..=4 => 1,
            5..=7 => 1 + self.below(4),
            8 => 1 + self.below(12),
            _ => 1 + self.below(PAGES),
        };
        (VirtAddr::new(start), len * PAGE)
    }

    fn prot(&mut self) -> u64 {
        self.pick(&[0, 1, 1, 3, 3, 3, 3, 5, 7, 2, 4])
    }

    /// Now and then something that should be refused.
    fn odd(&mut self, word: u64) -> u64 {
        if !self.chance(2) {
            return word;
        }
        match self.below(8) {
            0 => word ^ 1,
            1 => 0,
            2 => u64::MAX,
            3 => 1 << 63,
            4 => 0x7fff_ffff_f000,
            5 => u64::MAX - 4095,
            6 => word | 1 << 40,
            _ => self.random.bits(),
        }
    }

    fn odd_range(&mut self) -> (VirtAddr, u64) {
        let (addr, len) = self.range();
        let (addr, mut len) = (self.odd(addr.get()), self.odd(len));
        if self.chance(3) {
            len = len.saturating_sub(1 + self.below(4000));
        }
        (VirtAddr::new(addr), len)
    }

    fn deed(&mut self) -> Option<Deed> {
        let deed = match self.below(100) {
            0..=18 => Deed::Call(self.mmap()),
            19..=26 => {
                let (addr, len) = self.odd_range();
                Deed::Call(M::Munmap { addr, len })
            }
            27..=38 => {
                let (addr, len) = self.odd_range();
                let grows =
                    if self.chance(4) { self.pick(&[1 << 24, 1 << 25, 3 << 24]) } else { 0 };
                let prot = self.prot() | grows;
                let prot = self.odd(prot);
                if self.chance(4) {
                    let pkey = self.pick(&[-1, -1, 0, 1]);
                    Deed::Call(M::PkeyMprotect { addr, len, prot, pkey })
                } else {
                    Deed::Call(M::Mprotect { addr, len, prot })
                }
            }
            39..=48 => Deed::Call(self.mremap()),
            49..=58 => self.madvise(),
            59..=63 => Deed::Call(self.lock()),
            64..=66 => {
                let base = self.model.brk(self.process)?;
                let target = match self.below(6) {
                    0 => base.saturating_sub(self.below(4) * PAGE),
                    1 => base + self.below(3 * PAGE),
                    2 => base & !(PAGE - 1),
                    3 => base.saturating_sub(self.below(2 * PAGE)),
                    _ => base + self.below(4) * PAGE,
                };
                Deed::Call(M::Brk { addr: VirtAddr::new(self.odd(target)) })
            }
            67..=88 => {
                let addr = self.mapped_page() + self.below(PAGE);
                let kind = self.pick(&[
                    AccessKind::Write,
                    AccessKind::Write,
                    AccessKind::Write,
                    AccessKind::Read,
                    AccessKind::Execute,
                ]);
                if self.is_watched(addr) {
                    return None;
                }
                // An instruction must not reach into the next page.
                let addr = if kind == AccessKind::Execute { addr & !63 } else { addr };
                match self.below(8) {
                    0 => Deed::Store(addr, self.random.bits().to_le_bytes()[0]),
                    1 => Deed::Load(addr),
                    _ => Deed::Touch(addr, kind),
                }
            }
            89..=90 if self.processes < 6 && self.alive.len() < 4 => Deed::Fork(self.processes),
            91 if self.alive.len() > 1 => Deed::Exit,
            _ => self.rare()?,
        };
        Some(deed)
    }

    /// Whether a touch there would wait for a userfaultfd that nobody serves.
    fn is_watched(&self, addr: u64) -> bool {
        self.model.is_watched(self.process, addr)
    }

    fn mmap(&mut self) -> M {
        let pages = match self.below(12) {
            0..=6 => 1 + self.below(3),
            7..=9 => 1 + self.below(8),
            10 => 1 + self.below(PAGES),
            _ => self.pick(&[512, 512, 513, 1024, 300]),
        };
        let mut len = pages * PAGE;
        if self.chance(6) {
            len -= self.below(PAGE);
        }
        let (mut addr, mut flags) = match self.below(10) {
            0..=5 => (self.page(), 0x10),
            6 => (self.page(), 0x10_0000),
            7 | 8 => (self.page() + if self.chance(20) { self.below(PAGE) } else { 0 }, 0),
            _ => (0, 0),
        };
        flags |= match self.below(20) {
            0..=15 => 2,
            16..=18 => 1,
            _ => self.pick(&[3, 8, 0, 4]),
        };
        for (flag, chance) in [
            (0x100, 3),
            (0x2000, 3),
            (0x4000, 5),
            (0x8000, 4),
            (0x1_0000, 2),
            (0x2_0000, 3),
            (0x40, 1),
            (0x80, 1),
            (0x8_0000, 1),
            (0x4_0000, 1),
            (0x800, 1),
        ] {
            if self.chance(chance) {
                flags |= flag;
            }
        }
        let files = self.files[usize::from(self.process)].clone();
        let (mut fd, mut offset) = (-1, 0);
        if !files.is_empty() && self.chance(25) {
            fd = self.pick(&files);
            offset = self.below(6) * PAGE;
            if self.chance(2) {
                offset = self.odd(offset);
            }
        } else {
            flags |= 0x20;
        }
        if self.chance(1) {
            fd = self.pick(&[77, 0, 2]);
            flags &= !0x20;
        }
        addr = self.odd(addr);
        len = self.odd(len);
        let prot = self.prot();
        M::Mmap { addr: VirtAddr::new(addr), len, prot, flags, fd, offset }
    }

    fn mremap(&mut self) -> M {
        let (addr, old_len) = self.odd_range();
        let new_len = match self.below(8) {
            0..=3 => old_len,
            4 | 5 => old_len.saturating_add(self.below(5) * PAGE),
            6 => old_len.saturating_sub(self.below(4) * PAGE),
            _ => (1 + self.below(8)) * PAGE,
        };
        let flags = self.pick(&[0, 1, 1, 1, 3, 3, 3, 3, 5, 7, 2, 4, 8]);
        let target = self.page();
        let new_addr = VirtAddr::new(self.odd(target));
        let old_len = if self.chance(2) { 0 } else { old_len };
        M::Mremap { addr, old_len, new_len: self.odd(new_len), flags, new_addr }
    }

    fn madvise(&mut self) -> Deed {
        let (addr, len) = self.odd_range();
        let advice = self.pick(&[
            0, 1, 2, 2, 3, 4, 4, 8, 9, 10, 10, 11, 11, 12, 13, 14, 15, 16, 17, 18, 18, 19, 20, 21,
            22, 23, 23, 24, 102, 102, 103, 103, 25, 5, 99,
        ]);
        if matches!(advice, 22 | 23) && self.model.is_range_watched(self.process, addr.get(), len) {
            return Deed::Call(M::Madvise { addr, len, advice: 0 });
        }
        Deed::Call(M::Madvise { addr, len, advice })
    }

    fn lock(&mut self) -> M {
        let (addr, len) = self.odd_range();
        if self.model.is_range_watched(self.process, addr.get(), len) {
            return M::Munlock { addr, len };
        }
        match self.below(10) {
            0..=3 => M::Mlock { addr, len },
            4 => M::Mlock2 { addr, len, flags: self.pick(&[0, 1, 1, 2]) },
            5..=8 => M::Munlock { addr, len },
            _ if self.model.is_watching(self.process) => M::Munlockall,
            _ if self.chance(50) => M::Munlockall,
            // Locking everything would lock the player's own memory, all of it: MCL_FUTURE only.
            _ => M::Mlockall { flags: self.pick(&[2, 2, 6, 4, 0, 8]) },
        }
    }

    fn rare(&mut self) -> Option<Deed> {
        let (addr, len) = self.odd_range();
        let process = usize::from(self.process);
        Some(match self.below(24) {
            0..=3 => {
                let fd = self.next_fd[process];
                if fd > 12 {
                    return None;
                }
                let files = self.files[process].clone();
                let open = match self.below(8) {
                    0..=2 => Open::Memfd(self.below(8)),
                    3 | 4 => Open::File(self.below(8)),
                    5 => Open::Directory,
                    _ if !files.is_empty() => {
                        let of = self.pick(&files);
                        Open::Again(of, self.pick(&[0, 0, 2, 1]))
                    }
                    _ => Open::Memfd(1 + self.below(600)),
                };
                Deed::Open(fd, open)
            }
            4 if self.chance(25) => Deed::Call(M::Mseal { addr, len, flags: 0 }),
            4..=6 => {
                Deed::Call(M::Msync { addr, len, flags: self.pick(&[1, 2, 4, 6, 0, 3, 5, 8]) })
            }
            7 | 8 => {
                let vec = Pointee::Unread(VirtAddr::ZERO);
                Deed::Call(M::Mincore { addr, len: len.min(64 * PAGE), vec })
            }
            9..=11 => {
                let mode = self.pick(&[0, 1, 2, 3, 4, 5, 6, 2 | 1 << 15, 1 | 1 << 14, 7, 1 << 13]);
                let mask = self.pick(&[0, 1, 1, 1, 2, 3]);
                let nodes = Pointee::Shown(vec![mask]);
                let flags = self.pick(&[0, 0, 0, 1, 2, 8]);
                Deed::Call(M::Mbind { addr, len, mode, nodes, maxnode: 64, flags })
            }
            12 => {
                let mode = self.pick(&[0, 1, 2, 3, 4, 5, 6]);
                let nodes = Pointee::Shown(vec![self.pick(&[0, 1, 2])]);
                Deed::Call(M::SetMempolicy { mode, nodes, maxnode: 64 })
            }
            13 => {
                let flags = self.pick(&[0, 2, 2, 4, 8]);
                let mode = Pointee::Unread(VirtAddr::ZERO);
                let addr = if flags == 2 { addr } else { VirtAddr::ZERO };
                let nodes = Pointee::Null;
                Deed::Call(M::GetMempolicy { mode, nodes, maxnode: 0, addr, flags })
            }
            14 => {
                let (option, args) = match self.below(8) {
                    0 => (65, [self.pick(&[1, 3, 0, 2, 4]), 0, 0, 0]),
                    1 => (66, [0; 4]),
                    2 | 3 => (41, [self.below(2), self.pick(&[0, 0, 1, 2]), 0, 0]),
                    4 => (42, [0; 4]),
                    5 => (35, [self.below(12), addr.get(), 0, 0]),
                    _ => (66, [1, 0, 0, 0]),
                };
                if option == 65 && self.chance(70) {
                    return None;
                }
                Deed::Call(M::Prctl { option, args, name: None })
            }
            15 if self.chance(30) => {
                let resource = self.pick(&[2, 3, 8, 9]);
                let current = match resource {
                    3 => 1 + self.below(64),
                    8 => self.below(64),
                    _ => 1 + self.below(200),
                } * PAGE;
                let current = if resource == 9 { current + (9 << 20) } else { current };
                let maximum = if resource == 8 { 8 << 20 } else { u64::MAX };
                let new = Pointee::Shown(Limit { current, maximum });
                Deed::Call(M::Prlimit { pid: 0, resource, new, old: Pointee::Unread(addr) })
            }
            16 if self.chance(20) => {
                let persona = self.pick(&[0x004_0000, 0x044_0000, 0xffff_ffff]);
                Deed::Call(M::Personality { persona })
            }
            17 | 18 => {
                let pgoff = self.below(6);
                let prot = if self.chance(4) { 1 } else { 0 };
                Deed::Call(M::RemapFilePages { addr, len, prot, pgoff, flags: 0 })
            }
            19..=21 => match self.uffd {
                None => Deed::Userfault(self.next_fd[process]),
                Some((owner, fd)) if owner == self.process => {
                    let mode = self.pick(&[0, 0, 1, 1, 2, 4, 3, 8]);
                    Deed::Uffd(fd, addr.get(), len, mode)
                }
                Some(_) => return None,
            },
            22 if self.chance(20) => {
                Deed::DropCapabilities(self.dropped[process] | 1 << self.pick(&[14, 17, 23]))
            }
            23 => {
                let ranges = Pointee::Shown(vec![IoVec { base: addr, len }]);
                let advice = self.pick(&[4, 10, 2, 99]);
                Deed::Call(M::ProcessMadvise {
                    pidfd: self.pick(&[-10000, -10000, 55]),
                    ranges,
                    count: 1,
                    advice,
                    flags: 0,
                })
            }
            _ => return None,
        })
    }
}
