//! Bytes as a program that passes anything at all to the memory calls: raw words straight into the
//! dispatcher, touches anywhere, forks, limits. Whatever it does, there is no panic and no overflow, no
//! [`Broken`](mm::error::Broken), every audit is clean, and at the end not a frame and not a promise is
//! left.
//!
//! libFuzzer runs it (`make fuzz-mm`), and a property test with random bytes (`tests/raw_calls.rs`).

#![allow(clippy::unwrap_used, reason = "what fails here is to end the run")]
#![allow(clippy::cast_possible_truncation, reason = "any bits are a number to pass")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use mm::addr::{PAGE_SIZE, TASK_SIZE, VirtAddr};
use mm::backing::{Backing, BackingName, FileMode, OpenFile, Seals, SharedMemory};
use mm::calls::{
    Caller, OpenUserfault, UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_MOVE, UFFDIO_POISON,
    UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE, serve,
    userfault_ioctl,
};
use mm::error::{AccessError, CallError, CallResult, Errno};
use mm::inspect::{audit_all, maps_text};
use mm::paging::{AccessKind, KernelHalf};
use mm::phys::{Frames, SoftwareMemory};
use mm::replay::CountingSink;
use mm::space::{AddressSpace, SharedSpace, Vcpus};
use mm::sysctl::Overcommit;
use mm::system::System;
use mm::userfault::{Served, Userfault};
use mm::vma::VmFlags;
use mm::vma::limits::Limits;
use mm::vma::policy::Policy;

/// Where most addresses lie.
const BASE: u64 = 0x1_0000_0000;
/// Pages that are mapped from the start, for what pointers lead to: the first of the window at [`BASE`].
const SCRATCH: u64 = 4;
/// Frames of the machine: few enough to run out of.
const FRAMES: u64 = 2048;
/// The most steps of one run.
const STEPS: usize = 96;
/// The most processes at one time.
const PROCESSES: usize = 3;

/// The numbers of the memory calls on x86-64, those that do most several times.
const NUMBERS: [u64; 46] = [
    9, 9, 9, 9, 9, 9, // mmap
    10, 10, 10, 329, // mprotect, pkey_mprotect
    11, 11, 12, // munmap, brk
    25, 25, 25, 25, // mremap
    28, 28, 28, 440, // madvise, process_madvise
    26, 27, // msync, mincore
    149, 325, 150, 151, 152, // mlock, mlock2, munlock, mlockall, munlockall
    462, 216, // mseal, remap_file_pages
    237, 237, 238, 239, // mbind, set_mempolicy, get_mempolicy
    157, 157, 135, // prctl, personality
    302, 160, // prlimit64, setrlimit
    323, // userfaultfd
    29, 30, 30, 31, 31, 67, // shmget, shmat, shmctl, shmdt
];

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

    /// A descriptor: mostly one that could be open.
    fn fd(&mut self) -> Option<u64> {
        let choice = self.byte()?;
        if choice < 240 { Some(u64::from(choice % 8)) } else { self.word() }
    }

    /// A call's number and its registers.
    fn call(&mut self) -> Option<(u64, [u64; 6])> {
        let number = NUMBERS[usize::from(self.byte()?) % NUMBERS.len()];
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = self.word()?;
        }
        match number {
            9 => (args[3], args[4]) = (self.map_flags()?, self.fd()?),
            28 => args[2] = self.advice()?,
            440 => (args[0], args[3], args[4]) = (0_u64.wrapping_sub(10_000), self.advice()?, 0),
            157 => args[0] = self.prctl()?,
            302 => args[0] = 0,
            29 => (args[0], args[1], args[2]) = (args[0] % 3, args[1] >> 40, args[2] | 0o1000),
            30 | 31 => {
                (args[0], args[1]) =
                    (args[0] % 4, if number == 31 { args[1] % 16 } else { args[1] });
            }
            _ => {}
        }
        Some((number, args))
    }

    /// mmap's flags: mostly a type and some others, else anything.
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

/// What a userfaultfd is asked.
const USERFAULT: [u64; 11] = [
    UFFDIO_API,
    UFFDIO_REGISTER,
    UFFDIO_REGISTER,
    UFFDIO_UNREGISTER,
    UFFDIO_WAKE,
    UFFDIO_COPY,
    UFFDIO_MOVE,
    UFFDIO_ZEROPAGE,
    UFFDIO_CONTINUE,
    UFFDIO_POISON,
    UFFDIO_WRITEPROTECT,
];

/// A process: what its calls need.
struct Process {
    space: SharedSpace,
    files: RefCell<BTreeMap<i32, Arc<dyn Backing>>>,
    uffds: RefCell<BTreeMap<i32, Arc<Userfault>>>,
    policy: Cell<Option<Policy>>,
}

impl Caller for Process {
    fn space(&self) -> &SharedSpace {
        &self.space
    }

    fn pid(&self) -> i32 {
        1
    }

    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        self.files.borrow().get(&fd).cloned().ok_or(Errno::EBADF)
    }

    fn install(&self, _served: Served, _flags: i32) -> Result<i32, Errno> {
        let fd = 8 + self.uffds.borrow().len() as i32;
        self.uffds.borrow_mut().insert(fd, Arc::default());
        Ok(fd)
    }

    fn policy(&self) -> Option<Policy> {
        self.policy.get()
    }

    fn set_policy(&self, policy: Option<Policy>) {
        self.policy.set(policy);
    }
}

/// Whatever is not broken is an answer.
fn answered<T>(result: CallResult<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(CallError::Errno(_)) => None,
        Err(CallError::Broken(broken)) => panic!("{broken}"),
    }
}

/// Whatever is not broken is a signal.
fn touched(result: Result<(), AccessError>) {
    if let Err(AccessError::Broken(broken)) = result {
        panic!("{broken}");
    }
}

/// The machine and its processes.
struct Run {
    system: Arc<System>,
    processes: Vec<Process>,
}

/// Runs a program.
pub(crate) fn run(bytes: &[u8]) {
    let mut words = Words(bytes);
    let mut run = Run::new();
    for _ in 0..STEPS {
        if run.step(&mut words).is_none() {
            break;
        }
        run.check();
    }
    run.end();
}

impl Run {
    fn new() -> Self {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(FRAMES))));
        let sink = Box::new(Arc::new(CountingSink::default()));
        let system = Arc::new(System::new(frames, sink, KernelHalf::default()));
        let space = AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap();
        let first = Process {
            space: SharedSpace::new(space),
            files: RefCell::default(),
            uffds: RefCell::default(),
            policy: Cell::new(None),
        };
        let scratch = [BASE, SCRATCH * PAGE_SIZE, 3, 0x32, 0, 0];
        answered(serve(&first, 9, scratch).unwrap()).unwrap();
        Run { system, processes: vec![first] }
    }

    fn step(&mut self, words: &mut Words<'_>) -> Option<()> {
        let choice = words.byte()?;
        let at = usize::from(choice / 16) % self.processes.len();
        let process = &self.processes[at];
        match choice % 16 {
            0..8 => {
                let (number, args) = words.call()?;
                let _ = answered(serve(process, number, args)?);
            }
            8..11 => touch(process, words)?,
            11 => {
                let word = words.word()?;
                let at = BASE + u64::from(words.byte()?) * 8;
                touched(process.space.write(VirtAddr::new(at), &word.to_le_bytes()));
            }
            12 => open(&self.system, process, words)?,
            13 => {
                let fd = i32::from(words.byte()? % 4) + 8;
                let uffd = process.uffds.borrow().get(&fd).cloned();
                let request = USERFAULT[usize::from(words.byte()?) % USERFAULT.len()];
                let argument = words.addr()?;
                if let Some(uffd) = uffd {
                    let open = OpenUserfault { uffd: &uffd, space: Some(&process.space) };
                    let _ = answered(userfault_ioctl(process, open, request, argument));
                }
            }
            14 => self.fork_or_end(at, words)?,
            _ => self.settings(at, words)?,
        }
        Some(())
    }

    fn fork_or_end(&mut self, at: usize, words: &mut Words<'_>) -> Option<()> {
        let ends = words.byte()? % 3 == 0;
        if ends && self.processes.len() > 1 {
            self.processes.swap_remove(at).space.exit().unwrap();
        } else if !ends && self.processes.len() < PROCESSES {
            let parent = &self.processes[at];
            let child = answered(parent.space.change().fork(Vcpus::Running)).map(|space| Process {
                space: SharedSpace::new(space),
                files: parent.files.clone(),
                uffds: RefCell::default(),
                policy: parent.policy.clone(),
            });
            self.processes.extend(child);
        }
        Some(())
    }

    fn settings(&self, at: usize, words: &mut Words<'_>) -> Option<()> {
        let sysctl = &self.system.sysctl;
        match words.byte()? % 8 {
            0 => sysctl.set_overcommit(Overcommit::Guess),
            1 => sysctl.set_overcommit(Overcommit::Always),
            2 => sysctl.set_overcommit(Overcommit::Never),
            3 => {
                let [a, b, c, d, ..] = words.word()?.to_le_bytes();
                sysctl.set_overcommit_ratio(i32::from_le_bytes([a, b, c, d]));
            }
            4 => sysctl.set_max_map_count(u64::from(words.byte()?)),
            5 => sysctl.set_mmap_min_addr(words.word()?),
            6 => sysctl.set_total_pages(words.word()?),
            // Printing it is to look at all of it.
            _ => drop(std::hint::black_box(maps_text(&self.processes[at].space.look()))),
        }
        Some(())
    }

    /// Every space is sound, and what they are charged for is promised; shared memory is beside it.
    fn check(&self) {
        let mut promised = 0;
        for process in &self.processes {
            let space = process.space.look();
            let charged = space.vmas().iter().filter(|vma| vma.flags.contains(VmFlags::ACCOUNT));
            promised += charged.map(|vma| vma.range().pages()).sum::<u64>();
        }
        assert!(self.system.committed() >= promised, "{promised} pages are charged");
        let spaces: Vec<_> = self.processes.iter().map(|process| process.space.look()).collect();
        audit_all(&spaces.iter().map(|space| &**space).collect::<Vec<_>>()).unwrap();
    }

    /// Ends all processes: nothing may be left.
    fn end(self) {
        for process in self.processes {
            process.space.exit().unwrap();
        }
        // Segments stay until somebody removes them, and nobody has one attached any more.
        for (_, status) in self.system.segments().all() {
            assert_eq!(status.attached, 0, "a segment is attached");
        }
        self.system.segments().remove_all();
        self.system.free_retired().unwrap();
        let stats = self.system.frames().stats();
        assert_eq!((stats.pages, stats.tables), (0, 0), "frames are left");
        assert_eq!(self.system.committed(), 0, "promises are left");
    }
}

fn touch(process: &Process, words: &mut Words<'_>) -> Option<()> {
    let space = &process.space;
    let (kind, addr) = (words.byte()? % 4, words.addr()?);
    touched(match kind {
        0 => space.read(addr, &mut [0]),
        1 => space.fault(addr, AccessKind::Execute),
        2 => space.fault(addr, AccessKind::Write),
        _ => space.write(addr, &[kind]),
    });
    Some(())
}

/// Makes a descriptor stand for something, or for nothing.
fn open(system: &System, process: &Process, words: &mut Words<'_>) -> Option<()> {
    let (choice, fd) = (words.byte()?, i32::from(words.byte()? % 8));
    let mode = FileMode::from_bits_truncate(u32::from(choice / 8));
    let mut files = process.files.borrow_mut();
    match choice % 8 {
        0 => drop(files.remove(&fd)),
        1 => {
            let same = files.get(&i32::from(words.byte()? % 8)).cloned();
            files.extend(same.map(|same| (fd, same)));
        }
        _ => {
            let (pages, seals) = (words.word()?, u32::from(words.byte()?));
            let name = BackingName { inode: 1, path: "/memfd:x".to_owned(), ..Default::default() };
            let memory = SharedMemory::file(Arc::clone(system.frames()), pages, name);
            let memory = memory.promised_by_page(system.no_promise());
            let _ = memory.add_seals(Seals::from_bits_truncate(if seals < 64 { seals } else { 0 }));
            files.insert(fd, Arc::new(OpenFile::new(Arc::new(memory), mode)));
        }
    }
    Some(())
}
