//! Random acts, biased towards success: our side is asked what is there, so that most calls hit it.

mod addresses;
mod calls;
mod numa;
mod rare;
mod served;

use std::ops::Range;

use guest::random::Random;
use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE as PAGE, TASK_SIZE, VirtAddr, index};
use mm::calls::UFFDIO_MOVE;
use mm::paging::AccessKind;
use mm::replay::calls::MemoryCall as M;

use super::act::{Act, Deed, Open};
use super::model::{Area, Line, Model, Result, Serving, Start};
use super::run::{Ours, ends};
use super::tally::Tally;

/// Where most maps are.
const WINDOW: u64 = 0x100_0000_0000;
/// How many pages of it are used.
const PAGES: u64 = 40;
/// The player's own memory begins here; below the stack there is nothing else.
const PLAYER: Range<u64> = 0x2000_0000_0000..0x2000_1000_0000;

/// The player's program.
const IMAGE: Range<u64> = 0x40_0000..0x50_0000;

/// The longest maps.
const LARGE: u64 = 16 << 20;
/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;
/// Bytes of the largest pages.
const LARGEST_PAGE: u64 = 1 << 30;
const FIXED: u64 = libc::MAP_FIXED as u64;
const MREMAP_FIXED: u64 = libc::MREMAP_FIXED as u64;
const HUGETLB: u64 = libc::MAP_HUGETLB as u64;
const NORESERVE: u64 = libc::MAP_NORESERVE as u64;

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
        huge_files: vec![Vec::new()],
        next_fd: vec![3],
        dropped: vec![0],
        uffd: None,
        lines: Vec::new(),
        process: 0,
        top: start.top(),
        pool: start.pool(),
        area: start.area(),
        serving: start.serving(),
    };
    let mut acts = Vec::with_capacity(index(length));
    let mut steps = Vec::with_capacity(index(length));
    let mut tally = Tally::default();
    while acts.len() < index(length) {
        let at = index(generator.random.below(generator.alive.len() as u64));
        generator.process = generator.alive[at];
        generator.lines = generator.model.lines(generator.process);
        let Some(deed) = generator.deed().filter(|deed| !generator.endangers(deed)) else {
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
    start.are_sound(&generator.model)?;
    let ends = ends(&generator.model);
    Ok(Sequence { acts, ours: Ours { steps, ends }, tally })
}

/// Whether acts may change a VMA: it lies in the window, or the kernel has placed it.
pub fn is_changeable(range: &Range<u64>, top: u64) -> bool {
    range.start >= WINDOW && range.end <= top && !PLAYER.contains(&range.start)
}

struct Generator {
    random: Random,
    model: Model,
    alive: Vec<u8>,
    processes: u8,
    /// For each process the descriptors that can be mapped.
    files: Vec<Vec<i32>>,
    /// Those of huge pages among them.
    huge_files: Vec<Vec<i32>>,
    next_fd: Vec<i32>,
    /// For each process the capabilities that it has given up.
    dropped: Vec<u64>,
    /// The process that has a userfaultfd, and its descriptor.
    uffd: Option<(u8, i32)>,
    lines: Vec<Line>,
    process: u8,
    top: u64,
    /// How many huge pages the pool has.
    pool: u64,
    area: Area,
    /// Whether acts serve a userfaultfd.
    serving: Serving,
}

impl Generator {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        self.random.chance(of_hundred)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        self.random.pick(from)
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
                let huge = &mut self.huge_files[process];
                let is_huge = match open {
                    Open::HugeMemfd(_) => true,
                    Open::Again(of, _) => huge.contains(of),
                    _ => false,
                };
                huge.extend(is_huge.then_some(*fd));
            }
            (Deed::Userfault(fd) | Deed::ServedUserfault(fd), _) => {
                self.uffd = Some((act.process, *fd));
                self.next_fd[process] += 1;
            }
            (Deed::Fork(child), Result::Value(_)) => {
                self.alive.push(*child);
                self.files.push(self.files[process].clone());
                self.huge_files.push(self.huge_files[process].clone());
                self.next_fd.push(self.next_fd[process]);
                self.dropped.push(self.dropped[process]);
                self.processes += 1;
            }
            (Deed::Fork(_), _) => {
                self.files.push(Vec::new());
                self.huge_files.push(Vec::new());
                self.next_fd.push(3);
                self.dropped.push(0);
                self.processes += 1;
            }
            (Deed::DropCapabilities(dropped), _) => self.dropped[process] = *dropped,
            (Deed::Exit, _) => self.alive.retain(|&process| process != act.process),
            _ => {}
        }
    }

    fn deed(&mut self) -> Option<Deed> {
        if self.area != Area::None && self.chance(25) {
            return Some(self.pressure());
        }
        if self.serving == Serving::Yes && self.chance(35) {
            return self.served();
        }
        let deed = match self.below(100) {
            0..=18 => Deed::Call(self.mmap()),
            19..=26 => {
                let (addr, len) = self.odd_range();
                Deed::Call(M::Munmap { addr, len })
            }
            27..=38 => {
                let (addr, len) = self.odd_range();
                let prot = self.random.new_prot();
                if self.chance(4) {
                    // Where there are keys, those from 0 to 15 are there.
                    let pkey = self.pick(&[-1, -1, -2, 16]);
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
                Deed::Call(M::Brk { addr: VirtAddr::new(self.random.heap_end(base)) })
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
                if self.serving == Serving::No && self.is_watched(addr) {
                    return None;
                }
                // An instruction must not reach into the next page.
                let addr = if kind == AccessKind::Execute { addr & !63 } else { addr };
                // What was swapped out is looked for at the beginning of its page.
                let (of, addr) = match self.area {
                    Area::None => (8, addr),
                    Area::Roomy | Area::Tight if kind == AccessKind::Execute => (8, addr),
                    Area::Roomy | Area::Tight => (3, addr & !(PAGE - 1)),
                };
                match self.below(of) {
                    0 => Deed::Store(addr, self.random.bits().to_le_bytes()[0]),
                    1 => Deed::Load(addr),
                    _ => Deed::Touch(addr, kind),
                }
            }
            89..=91 if self.chance(60) => self.truncate()?,
            89..=90 if self.processes < 6 && self.alive.len() < 4 => Deed::Fork(self.processes),
            91 if self.alive.len() > 1 => Deed::Exit,
            _ => self.rare()?,
        };
        Some(deed)
    }

    /// What has pages leave for the swap area, or come back, or fills memory so that there are some.
    fn pressure(&mut self) -> Deed {
        const WILLNEED: u64 = 3;
        const COLD: u64 = 20;
        const PAGEOUT: u64 = 21;
        const POPULATE_READ: u64 = 22;
        const POPULATE_WRITE: u64 = 23;
        if self.area == Area::Roomy && self.chance(25) {
            return Deed::Reclaim;
        }
        let (addr, len) = self.range();
        let watched = self.model.is_range_watched(self.process, addr.get(), len);
        let advice = match self.below(10) {
            0..=1 if !watched => POPULATE_WRITE,
            2 if !watched => POPULATE_READ,
            3 => WILLNEED,
            4 => COLD,
            _ => PAGEOUT,
        };
        Deed::Call(M::Madvise { addr, len, advice })
    }

    /// Whether a deed might take the player's own memory away from under it.
    fn endangers(&self, deed: &Deed) -> bool {
        let hits = |addr: u64, len: u64| {
            // A range that wraps is refused by all calls.
            let Some(end) = addr.checked_add(len) else { return false };
            let end = end.saturating_add(PAGE);
            let own = [IMAGE, PLAYER, self.top..TASK_SIZE];
            own.iter().any(|own| addr < own.end && own.start < end)
        };
        // Nothing larger is mapped, so that nothing larger can be brought in.
        let large = |len: u64| (LARGE..1 << 47).contains(&len);
        match deed {
            Deed::Call(M::Mmap { len, .. }) if large(*len) => true,
            // Huge pages, of which only whole ones are mapped, cannot be brought in: there are none.
            Deed::Call(M::Mmap { addr, len, flags, fd, .. })
                if flags & FIXED != 0 && (flags & HUGETLB != 0 || self.is_huge_file(*fd)) =>
            {
                hits(addr.get(), len.saturating_add(LARGEST_PAGE))
            }
            Deed::Call(M::Mremap { new_len, .. }) if large(*new_len) => true,
            Deed::Call(M::Mremap { addr, old_len, .. })
                if self.loses_promise(addr.get(), *old_len) =>
            {
                true
            }
            // What a child has and its parent drops is promised twice in Linux until the child ends.
            Deed::Fork(_) if !self.model.promised(self.process, 0, u64::MAX).is_empty() => true,
            Deed::Call(M::Mremap { addr, old_len, flags, .. })
                if flags & MREMAP_FIXED != 0 && self.overflows(addr.get(), *old_len) =>
            {
                true
            }
            Deed::Call(M::Mremap { new_len, new_addr, old_len, addr, .. }) => {
                let rounds = |len: u64| {
                    let size = self.model.page_size(self.process, addr.get(), *old_len);
                    len.saturating_add(size - PAGE)
                };
                hits(addr.get(), rounds(*old_len)) || hits(new_addr.get(), rounds(*new_len))
            }
            Deed::Call(call) => call.range().is_some_and(|(addr, len)| hits(addr.get(), len)),
            Deed::Uffd(_, addr, len, mode) => {
                hits(*addr, *len) || self.serving == Serving::Yes && self.unlike(*addr, *len, *mode)
            }
            Deed::Serve(_, UFFDIO_MOVE, [to, from, len, ..]) => {
                let len = (*len).min(LARGE);
                let shared =
                    self.processes > 1 && self.model.may_have_been_shared(self.process, *from, len);
                shared || hits(*to, len) || hits(*from, len)
            }
            Deed::Serve(_, _, [addr, first, second, ..]) => {
                hits(*addr, (*first).max(*second).min(LARGE)) || self.is_pooled(*addr, *second)
            }
            _ => false,
        }
    }

    /// Whether Linux 6.18, where it has no page tables yet, might take a move for one of 0 bytes: it counts
    /// from a 1 GiB page on up to where they begin, in 32 bits (`move_hugetlb_page_tables`).
    fn overflows(&self, addr: u64, len: u64) -> bool {
        let first = addr.checked_next_multiple_of(4 << 30);
        first.is_some_and(|first| first - addr < len.max(1))
            && self.model.page_size(self.process, addr, len) == LARGEST_PAGE
    }

    /// Whether Linux might forget what it has promised of the host's pool, for ever: what the rest of a private map was
    /// promised of which a part moves.
    fn loses_promise(&self, addr: u64, len: u64) -> bool {
        let promised = self.model.promised(self.process, addr, len.max(1));
        promised.iter().any(|range| addr > range.start || addr.saturating_add(len) < range.end)
    }

    /// Whether a descriptor is of huge pages.
    fn is_huge_file(&self, fd: i32) -> bool {
        self.huge_files[usize::from(self.process)].contains(&fd)
    }

    /// Whether a touch there would wait for a userfaultfd that nobody serves.
    fn is_watched(&self, addr: u64) -> bool {
        self.model.is_watched(self.process, addr)
    }
}
