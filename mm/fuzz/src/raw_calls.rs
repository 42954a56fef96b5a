//! Bytes as a program that passes anything at all to the memory calls: raw words straight into the
//! dispatcher, touches anywhere, forks, limits. Whatever it does, there is no panic and no overflow, no
//! [`Broken`](mm::error::Broken), every audit is clean, and at the end not a frame and not a promise is
//! left.
//!
//! libFuzzer runs it (`make fuzz-mm`), and a property test with random bytes (`tests/raw_calls.rs`).

#![allow(clippy::unwrap_used, reason = "what fails here is to end the run")]
#![allow(clippy::cast_possible_truncation, reason = "any bits are a number to pass")]

use mm::addr::{PAGE_SIZE, TASK_SIZE, VirtAddr};
use mm::backing::{FileMode, Seals};
use mm::error::{AccessError, CallError};
use mm::inspect::{audit, maps_text};
use mm::paging::AccessKind;
use mm::replay::calls::{Extent, IoVec, Limit, MemoryCall, Pointee, Residency, Text};
use mm::replay::engine::Task;
use mm::replay::linux::{ByteAccess, Linux, ObjectKind};
use mm::sysctl::Overcommit;
use mm::vma::VmFlags;

/// Where most addresses lie.
const BASE: u64 = 0x1_0000_0000;
/// Frames of the machine: few enough to run out of.
const FRAMES: u64 = 2048;
/// The most steps of one run.
const STEPS: usize = 96;
/// The most processes at one time.
const TASKS: u32 = 3;
/// The longest range that mincore(2) is asked about: it answers with a byte a page.
const MINCORE_MOST: u64 = 1 << 32;

/// Numbers at which arithmetic goes wrong.
const EXTREMES: [u64; 16] = [
    0,
    1,
    PAGE_SIZE - 1,
    PAGE_SIZE,
    PAGE_SIZE + 1,
    TASK_SIZE - PAGE_SIZE,
    TASK_SIZE - 1,
    TASK_SIZE,
    TASK_SIZE + PAGE_SIZE,
    1 << 47,
    1 << 63,
    i64::MAX as u64,
    u64::MAX - PAGE_SIZE + 1,
    u64::MAX - PAGE_SIZE,
    u64::MAX,
    0xffff_8000_0000_0000,
];

/// The bytes, read as numbers.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// A few bytes, little end first.
    fn raw(&mut self, bytes: usize) -> Option<u64> {
        (0..bytes).try_fold(0, |word, at| Some(word | u64::from(self.byte()?) << (8 * at)))
    }

    /// Any number; often one that means something.
    fn word(&mut self) -> Option<u64> {
        let choice = self.byte()?;
        let low = u64::from(choice % 64);
        Some(match choice {
            0..64 => BASE + low * PAGE_SIZE,
            64..128 => low * PAGE_SIZE,
            128..144 => EXTREMES[usize::from(choice % 16)],
            144..176 => u64::from(choice % 32),
            176..192 => 1 << (4 * (choice % 16)),
            192..224 => self.raw(2)?,
            224..240 => BASE + self.raw(3)?,
            _ => self.raw(8)?,
        })
    }

    fn addr(&mut self) -> Option<VirtAddr> {
        self.word().map(VirtAddr::new)
    }

    fn int(&mut self) -> Option<i32> {
        self.word().map(|word| word as i32)
    }

    fn pointee<T>(&mut self, content: impl FnOnce(&mut Self) -> Option<T>) -> Option<Pointee<T>> {
        Some(match self.byte()? % 4 {
            0 => Pointee::Null,
            1 => Pointee::Unread(self.addr()?),
            _ => Pointee::Shown(content(self)?),
        })
    }

    fn nodes(&mut self) -> Option<Pointee<Vec<u64>>> {
        self.pointee(|words| Some(vec![words.word()?]))
    }

    fn limit(&mut self) -> Option<Pointee<Limit>> {
        self.pointee(|words| Some(Limit { current: words.word()?, maximum: words.word()? }))
    }

    fn name(&mut self) -> Option<Option<Text>> {
        let len = usize::from(self.byte()? % 96);
        if len == 95 {
            return Some(None);
        }
        let bytes = (0..len).map_while(|_| self.byte()).collect();
        Some(Some(Text { bytes, extent: Extent::Whole }))
    }

    fn call(&mut self) -> Option<MemoryCall> {
        use MemoryCall as M;
        let (addr, len) = (self.addr(), self.word());
        let choice = self.byte()?;
        let (addr, len) = (addr?, len?);
        Some(match choice % 40 {
            0..8 => M::Mmap {
                addr,
                len,
                prot: self.word()?,
                flags: self.map_flags()?,
                fd: i32::from(self.byte()? % 8) - 1,
                offset: self.word()?,
            },
            8..10 => M::Munmap { addr, len },
            10..13 => M::Mprotect { addr, len, prot: self.word()? },
            13 => M::PkeyMprotect { addr, len, prot: self.word()?, pkey: self.int()? },
            14..18 => M::Mremap {
                addr,
                old_len: len,
                new_len: self.word()?,
                flags: self.word()?,
                new_addr: self.addr()?,
            },
            18 => M::Brk { addr },
            19 => M::RemapFilePages {
                addr,
                len,
                prot: self.word()?,
                pgoff: self.word()?,
                flags: self.word()?,
            },
            20..24 => M::Madvise { addr, len, advice: self.advice()? },
            24 => M::ProcessMadvise {
                pidfd: -10000 - i32::from(self.byte()? % 3),
                ranges: self.pointee(|words| {
                    let other = IoVec { base: words.addr()?, len: words.word()? };
                    Some(vec![IoVec { base: addr, len }, other])
                })?,
                count: 2,
                advice: self.advice()?,
                flags: u64::from(self.byte()? % 8 / 7),
            },
            25 => M::Mlock { addr, len },
            26 => M::Mlock2 { addr, len, flags: self.word()? },
            27 => M::Munlock { addr, len },
            28 => M::Mlockall { flags: self.word()? },
            29 => M::Munlockall,
            30 => M::Mseal { addr, len, flags: u64::from(self.byte()? % 8 / 7) },
            31 => M::Msync { addr, len, flags: self.word()? },
            32 => M::Mincore {
                addr,
                len: len.min(MINCORE_MOST),
                vec: Pointee::Shown(Residency { pages: Vec::new(), extent: Extent::Whole }),
            },
            33 => M::Mbind {
                addr,
                len,
                mode: self.word()?,
                nodes: self.nodes()?,
                maxnode: self.word()?,
                flags: self.word()?,
            },
            34 => {
                M::SetMempolicy { mode: self.word()?, nodes: self.nodes()?, maxnode: self.word()? }
            }
            35 => M::GetMempolicy {
                mode: self.pointee(Self::word)?,
                nodes: self.nodes()?,
                maxnode: self.word()?,
                addr,
                flags: self.word()?,
            },
            36 => M::Prctl {
                option: self.prctl()?,
                args: [self.word()?, addr.get(), len, self.word()?],
                name: self.name()?,
            },
            37 => M::Prlimit {
                pid: 0,
                resource: u64::from(self.byte()? % 17),
                new: self.limit()?,
                old: self.limit()?,
            },
            38 => M::Personality { persona: self.word()? },
            _ => M::Userfaultfd { flags: self.word()? },
        })
    }

    /// mmap's flags: half of the time a type and some others, else anything.
    fn map_flags(&mut self) -> Option<u64> {
        const FIXED: u64 = 0x10;
        const ANONYMOUS: u64 = 0x20;
        let choice = self.byte()?;
        let kind = [1, 2, 2, 3][usize::from(choice % 4)];
        Some(match choice / 64 {
            0 => kind | ANONYMOUS | FIXED,
            1 => kind | ANONYMOUS | u64::from(self.byte()?) << 12,
            2 => kind | FIXED,
            _ => self.word()?,
        })
    }

    fn advice(&mut self) -> Option<u64> {
        let choice = self.byte()?;
        Some(match choice {
            0..128 => u64::from(choice % 32),
            128..192 => 100 + u64::from(choice % 4),
            _ => self.word()?,
        })
    }

    fn prctl(&mut self) -> Option<u64> {
        let known = [35, 41, 42, 65, 66, 0x5356_4d41];
        let choice = self.byte()?;
        Some(if choice < 250 { known[usize::from(choice % 6)] } else { self.word()? })
    }
}

/// The machine and its processes.
struct Run {
    linux: Linux,
    tasks: Vec<Task>,
    next: u32,
}

/// Runs a program.
pub(crate) fn run(bytes: &[u8]) {
    let mut words = Words(bytes);
    let mut run = Run { linux: Linux::new(FRAMES), tasks: vec![Task(0)], next: 1 };
    run.linux.start(Task(0)).unwrap();
    for _ in 0..STEPS {
        if run.step(&mut words).is_none() {
            break;
        }
        run.check();
    }
    run.end();
}

impl Run {
    fn step(&mut self, words: &mut Words<'_>) -> Option<()> {
        let choice = words.byte()?;
        let task = self.tasks[usize::from(choice / 16) % self.tasks.len()];
        match choice % 16 {
            0..8 => {
                let call = words.call()?;
                let answer = self.linux.call(task, &call);
                answer.unwrap_or_else(|broken| panic!("{call:?}: {broken}"));
            }
            8..13 => self.touch(task, words)?,
            13 => self.open(task, words)?,
            14 => self.process(task, words)?,
            _ => self.settings(task, words)?,
        }
        Some(())
    }

    fn touch(&mut self, task: Task, words: &mut Words<'_>) -> Option<()> {
        let kind = match words.byte()? % 4 {
            0 => AccessKind::Read,
            1 => AccessKind::Execute,
            _ => AccessKind::Write,
        };
        let touched = self.linux.access(task, words.addr()?, ByteAccess::Touch(kind));
        if let Err(AccessError::Broken(broken)) = touched {
            panic!("{broken}");
        }
        Some(())
    }

    fn open(&mut self, task: Task, words: &mut Words<'_>) -> Option<()> {
        let (choice, fd) = (words.byte()?, i32::from(words.byte()? % 8));
        let mode = FileMode::from_bits_truncate(u32::from(choice / 8));
        match choice % 8 {
            0 => self.linux.close(task, fd),
            1 => self.linux.dup(task, fd, i32::from(words.byte()? % 8)),
            2 => self.linux.reopen(task, fd, i32::from(words.byte()? % 8), mode),
            kind => {
                let kind = match kind {
                    3..6 => ObjectKind::Memfd,
                    6 => ObjectKind::File,
                    _ => ObjectKind::Unmappable,
                };
                let (pages, seals) = (words.word()?, u32::from(words.byte()?));
                let seals = Seals::from_bits_truncate(if seals < 64 { seals } else { 0 });
                self.linux.open(task, fd, kind, pages, mode, seals)
            }
        }
        .unwrap();
        Some(())
    }

    fn process(&mut self, task: Task, words: &mut Words<'_>) -> Option<()> {
        let choice = words.byte()?;
        if choice % 3 > 0 && (self.tasks.len() as u32) < TASKS {
            let child = Task(self.next);
            match self.linux.fork(task, child) {
                Ok(()) => {
                    self.tasks.push(child);
                    self.next += 1;
                }
                Err(CallError::Errno(_)) => {}
                Err(CallError::Broken(broken)) => panic!("{broken}"),
            }
        } else if choice % 3 == 0 && self.tasks.len() > 1 {
            self.linux.end(task).unwrap();
            self.tasks.retain(|&other| other != task);
        }
        Some(())
    }

    fn settings(&mut self, task: Task, words: &mut Words<'_>) -> Option<()> {
        let sysctl = &self.linux.system().sysctl;
        match words.byte()? % 8 {
            0 => sysctl.set_overcommit(Overcommit::Guess),
            1 => sysctl.set_overcommit(Overcommit::Always),
            2 => sysctl.set_overcommit(Overcommit::Never),
            3 => sysctl.set_overcommit_ratio(words.word()?),
            4 => sysctl.set_max_map_count(u64::from(words.byte()?)),
            5 => sysctl.set_mmap_min_addr(words.word()?),
            6 => sysctl.set_total_pages(words.word()?),
            _ => {
                let space = self.linux.space(task).unwrap();
                // Printing it is to look at all of it.
                std::hint::black_box(maps_text(&space.look()));
            }
        }
        Some(())
    }

    /// Every space is sound, and what is promised is what they are charged for.
    fn check(&self) {
        let mut promised = 0;
        for &task in &self.tasks {
            let space = self.linux.space(task).unwrap();
            let space = space.look();
            audit(&space).unwrap();
            let charged = space.vmas().iter().filter(|vma| vma.flags.contains(VmFlags::ACCOUNT));
            promised += charged.map(|vma| vma.range().pages()).sum::<u64>();
        }
        assert_eq!(self.linux.system().committed(), promised);
    }

    /// Ends all processes: nothing may be left.
    fn end(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            self.linux.end(task).unwrap();
        }
        let system = self.linux.system();
        let stats = system.frames().stats();
        assert_eq!((stats.pages, stats.tables), (0, 0), "frames are left");
        assert_eq!(system.committed(), 0, "promises are left");
    }
}
