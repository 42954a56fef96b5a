//! Our side: the executor, in software or in a guest, begun from the state that a process of the player begins with.

mod seen;

use std::ops::Range;
use std::sync::Arc;

use guest::call::number::BRK;
use guest::script::{self, Name, Op};
use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE, TASK_SIZE, VirtAddr, low_half};
use mm::backing::{FileMode, Seals};
use mm::error::{AccessError, CallError, Fault};
use mm::paging::AccessKind;
use mm::phys::Order;
use mm::replay::calls::MemoryCall as M;
use mm::replay::engine::{Executor, Reply, Task};
use mm::replay::linux::{ByteAccess, Linux, ObjectKind, Written};
use mm::replay::trace::{AnonOrigin, Hidden, MapLine, Setting, Span, VmFlagNames};
use mm::rules::Rule;
use mm::sysctl::{OfSize, SizeThp};
use mm::vma::limits::Capabilities;
use mm::vma::{Userfault, VmFlags, Vma};
use vmm::load::{Image, Placement};

use super::act::{Act, Deed, Open};
use super::pool;
use crate::common;
use crate::oracle::Oracle;
use crate::script::{Answer, Script};

/// Bytes of a huge page.
const HUGE: u64 = 512 * PAGE_SIZE;
/// What the player sets for itself, with personality(2).
const ADDR_NO_RANDOMIZE: u64 = libc::ADDR_NO_RANDOMIZE as u64;
/// Frames of the machine: far more than the acts can touch.
const FRAMES: u64 = 1 << 16;

/// The player's streams: /dev/null twice, and a pipe.
pub const STREAMS: [(i32, FileMode); 3] = [(0, BOTH), (1, BOTH), (2, FileMode::WRITE)];
const BOTH: FileMode = FileMode::READ.union(FileMode::WRITE);
/// Capabilities that matter to memory, by their numbers and names.
pub const CAPABILITIES: [(u32, &str, Capabilities); 4] = [
    (14, "CAP_IPC_LOCK", Capabilities::IPC_LOCK),
    (17, "CAP_SYS_RAWIO", Capabilities::SYS_RAWIO),
    (21, "CAP_SYS_ADMIN", Capabilities::SYS_ADMIN),
    (23, "CAP_SYS_NICE", Capabilities::SYS_NICE),
];

/// What a deed came to, as far as both sides can be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Result {
    /// A call's value.
    Value(u64),
    /// What mincore saw, a bit of each byte.
    Resident(Vec<u8>),
    /// A call's error.
    Errno(i32),
    /// An access that was done, with the byte that a load read.
    Done(u8),
    /// An access's signal and si_code.
    Signal(u64, u64),
}

/// A VMA as it is compared: range, `rwxp`, offset (of files).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The addresses.
    pub range: Range<u64>,
    /// As /proc/PID/maps prints them.
    pub permissions: String,
    /// Bytes, 0 for anonymous memory.
    pub offset: u64,
}

/// The state that every script begins with.
#[derive(Clone, Debug)]
pub struct Start {
    lines: Vec<MapLine>,
    brk: u64,
    data: Range<u64>,
    /// What the host has: promises beyond it are refused.
    total_pages: u64,
    swap: Swap,
    /// Huge pages in the pool.
    pool: u64,
    /// The sizes in which anonymous memory is given.
    thp: Vec<OfSize>,
    /// Rules that our side does without.
    without: Vec<Rule>,
    /// Settings of the machine by name, the later ones last.
    settings: Vec<(&'static str, u64)>,
}

impl Start {
    /// The same without one of our rules.
    pub fn without(mut self, rule: Rule) -> Self {
        self.without.push(rule);
        self
    }

    /// The same on a machine with so many pages of memory, none in its pool of huge ones, and nothing set for
    /// transparent ones.
    pub fn on_machine(self, total_pages: u64) -> Self {
        Start { total_pages, pool: 0, thp: Vec::new(), ..self }
    }

    /// The same with these settings of the machine (`vm.*`) beside those that it has.
    pub fn set(mut self, settings: &[(&'static str, u64)]) -> Self {
        self.settings.extend(settings);
        self
    }

    /// Checks every invariant of a process, but not without a rule: then it is the comparison that has
    /// to notice.
    pub fn is_sound(&self, model: &Model, process: u8) -> std::result::Result<(), Failed> {
        if !self.without.is_empty() { Ok(()) } else { model.audit(process) }
    }

    /// The same for all processes together.
    pub fn are_sound(&self, model: &Model) -> std::result::Result<(), Failed> {
        if !self.without.is_empty() { Ok(()) } else { model.audit_all() }
    }

    /// Where the kernel's own pages begin that lie above everything it places.
    pub fn top(&self) -> u64 {
        let starts = self.lines.iter().map(|line| line.span.start.get());
        starts.filter(|&start| start > 0x7fff_0000_0000).min().unwrap_or(TASK_SIZE)
    }

    /// Whether anonymous memory may come in sizes between a page and a huge page.
    fn gives_folios(&self) -> bool {
        let given = |of_size: &OfSize| of_size.when() != SizeThp::Never;
        self.thp.iter().any(|of_size| of_size.size() < Order::HUGE && given(of_size))
    }

    fn gives_huge_always(&self) -> bool {
        let always = |of_size: &OfSize| of_size.when() == SizeThp::Always;
        self.thp.iter().any(|of_size| of_size.size() == Order::HUGE && always(of_size))
    }

    /// How many huge pages the pool has.
    pub fn pool(&self) -> u64 {
        self.pool
    }

    /// The VMAs.
    pub fn lines(&self) -> &[MapLine] {
        &self.lines
    }

    /// Where the heap begins and ends.
    pub fn brk(&self) -> u64 {
        self.brk
    }

    /// Where the initialised data is.
    pub fn data(&self) -> Range<u64> {
        self.data.clone()
    }

    /// The personality.
    pub fn personality(&self) -> u64 {
        ADDR_NO_RANDOMIZE
    }

    /// The machine's settings, in the order in which they are made.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        let memory = ("mmvisor.total_pages", self.total_pages);
        let pool = (self.pool > 0).then_some(("vm.nr_hugepages", self.pool));
        let numbers = std::iter::once(memory).chain(pool).chain(self.settings.iter().copied());
        let sysctl = |(name, value): (&str, u64)| Setting::Sysctl { name: name.to_owned(), value };
        numbers.map(sysctl).chain(self.thp.iter().copied().map(Setting::ThpOf))
    }

    /// Asks a player.
    pub fn of(oracle: &mut Oracle) -> std::result::Result<Self, Failed> {
        let mut script = Script::new();
        script.maps(0..TASK_SIZE);
        script.step(0, Op::VmFlags { start: 0, end: TASK_SIZE });
        script.call(BRK, &[0]);
        let answers = oracle.run(&script)?;
        let (vmas, flags, brk) = match &answers[..] {
            [Answer::Maps(vmas), Answer::VmFlags(flags), Answer::Result { value: Ok(brk), .. }] => {
                (vmas.clone(), flags, brk)
            }
            // Kernels before 6.11 have no PROCMAP_QUERY.
            [Answer::Error(_), Answer::VmFlags(flags), Answer::Result { value: Ok(brk), .. }] => {
                (flags.iter().map(|vma| vma_of(&vma.range, &vma.flags)).collect(), flags, brk)
            }
            _ => return Err(format!("the starting state: {answers:?}").into()),
        };
        let lines = vmas.iter().zip(flags).enumerate().map(|(at, (vma, of_vma))| {
            let names =
                of_vma.flags.split_whitespace().filter_map(|n| n.as_bytes().try_into().ok());
            let flags = VmFlagNames(names.collect());
            starting_line(at, vma, flags)
        });
        Ok(Start {
            lines: lines.collect(),
            brk: *brk,
            data: initialised_data()?,
            total_pages: pages_of("MemTotal:")? + pages_of("SwapTotal:")?,
            swap: if pages_of("SwapTotal:")? > 0 { Swap::Some } else { Swap::None },
            pool: pool::pages(),
            thp: thp_sizes(),
            without: Vec::new(),
            settings: Vec::new(),
        })
    }
}

/// The player's `start_data` and `end_data`.
fn initialised_data() -> std::result::Result<Range<u64>, Failed> {
    let elf = Image::open(&common::payload("player")).map_err(|error| error.to_string())?.elf;
    let Placement::Fixed(start) = elf.placement() else { return Err("the player moves".into()) };
    let layout = elf.at(start).map_err(|error| error.to_string())?;
    Ok(layout.start_data.get()..layout.end_data.get())
}

/// A size of the host's memory, in pages, as /proc/meminfo names it.
fn pages_of(name: &str) -> std::result::Result<u64, Failed> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| format!("no {name}"))?.parse::<u64>()? / 4)
}

/// A VMA as far as its flags tell. Of a file nothing is known, but for the sake of shared memory.
fn vma_of(range: &Range<u64>, flags: &str) -> script::Vma {
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let bit = |name: &str, bit: u8| if has(name) { bit } else { 0 };
    let name = match () {
        () if has("gd") => Name::Stack,
        () if has("pf") => Name::Vvar,
        () if has("de") && has("ex") => Name::Vdso,
        () => Name::None,
    };
    let permissions =
        bit("rd", script::Vma::READ) | bit("wr", script::Vma::WRITE) | bit("ex", script::Vma::EXEC);
    let (start, end, inode) = (range.start, range.end, u64::from(has("sh")));
    let flags = permissions | bit("sh", script::Vma::SHARED);
    script::Vma { start, end, offset: 0, inode, flags, name, device: 0 }
}

fn starting_line(at: usize, vma: &script::Vma, flags: VmFlagNames) -> MapLine {
    let name = match vma.name {
        Name::Stack => "[stack]",
        Name::Heap => "[heap]",
        Name::Vdso => "[vdso]",
        Name::Vvar => "[vvar]",
        _ => "",
    };
    let private = !vma.permissions().contains(&b's');
    let written = private && (vma.permissions()[1] == b'w');
    MapLine {
        span: Span { start: VirtAddr::new(vma.start), end: VirtAddr::new(vma.end) },
        permissions: vma.permissions(),
        offset: vma.offset,
        device: (0, u32::from(vma.inode != 0)),
        inode: vma.inode,
        name: name.to_owned(),
        hidden: Hidden {
            flags: Some(flags),
            // The player's root has written to all of its own memory, and forked.
            anon: Some(if written { AnonOrigin::Inherited(at as u64) } else { AnonOrigin::None }),
            pgoff: None,
        },
    }
}

/// When the host gives anonymous memory in each size; none where its kernel has no such files (before 6.8).
fn thp_sizes() -> Vec<OfSize> {
    let of_size = |size: Order| {
        let kib = (size.frames() * PAGE_SIZE) >> 10;
        let file = format!("/sys/kernel/mm/transparent_hugepage/hugepages-{kib}kB/enabled");
        let text = std::fs::read_to_string(file).ok()?;
        let when = text.split_once('[')?.1.split_once(']')?.0;
        format!("{kib}k:{when}").parse().ok()
    };
    OfSize::sizes().filter_map(of_size).collect()
}

/// Whether the host can page out the processes' own pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Swap {
    /// It cannot, as ours cannot.
    None,
    /// It can.
    Some,
}

/// The executor and what the acts need beside it.
#[derive(Debug)]
pub struct Model {
    linux: Linux,
    userfault: Arc<Userfault>,
    /// Whether the host has swap.
    swap: Swap,
    /// Pages may have gone that stay on our side, or the other way round.
    paged_out: bool,
    /// There may have been huge pages, of which Linux remembers some things as of one page, also when they are split.
    huge: bool,
    /// Memory may come several pages at a time, of which Linux remembers some things as of one; and how many forks there
    /// were: of a third process that has such pages it does not know whether it is alone.
    folios: bool,
    forks: u8,
    /// Huge pages come also where nobody has advised it.
    always_huge: bool,
    /// Memory may have been locked, and some given up lazily: not what is locked, which is not modelled.
    locked: bool,
    given_up: bool,
    /// Locked memory may have been moved and left where it was: its VMA is locked no more, its pages are.
    left_locked: bool,
    /// Where the kernel's own pages begin.
    top: u64,
    /// Huge pages in the pool.
    pool: u64,
}

impl Model {
    /// A machine in software with process 0 in the starting state.
    pub fn new(start: &Start) -> std::result::Result<Self, Failed> {
        Model::on(start, Linux::new(FRAMES))
    }

    /// The same on a machine without processes.
    pub fn on(start: &Start, mut linux: Linux) -> std::result::Result<Self, Failed> {
        linux.start(Task(0)).map_err(|error| error.to_string())?;
        linux.import(Task(0), &start.lines).map_err(|error| error.to_string())?;
        for &rule in &start.without {
            linux.system().rules.switch_off(rule);
        }
        for setting in start.settings() {
            if linux.configure(Task(0), &setting).map_err(|error| error.to_string())?
                != Reply::Is(())
            {
                return Err(format!("{setting:?} is not modelled").into());
            }
        }
        for (fd, mode) in STREAMS {
            linux.open(Task(0), fd, ObjectKind::Unmappable, 0, mode, Seals::empty())?;
        }
        let brk = VirtAddr::new(start.brk);
        let space = linux.space(Task(0))?;
        let mut change = space.change();
        change.set_brk(brk, brk);
        change.set_data(VirtAddr::new(start.data.start)..VirtAddr::new(start.data.end));
        change.modes_mut().personality = low_half(start.personality());
        drop(change);
        Ok(Model {
            linux,
            userfault: Arc::default(),
            swap: start.swap,
            paged_out: false,
            huge: false,
            folios: start.gives_folios(),
            always_huge: start.gives_huge_always(),
            forks: 0,
            locked: false,
            given_up: false,
            left_locked: false,
            top: start.top(),
            pool: start.pool(),
        })
    }

    /// Does an act.
    pub fn perform(&mut self, act: &Act) -> std::result::Result<Result, Failed> {
        let result = self.perform_one(act)?;
        let collapsed =
            matches!(act.deed, Deed::Call(M::Madvise { advice: 25, len, .. }) if len >= HUGE);
        self.huge |= collapsed || self.may_be_huge(act.process);
        Ok(result)
    }

    /// Whether a VMA of a process may have huge pages: where they are wanted, it is large enough.
    fn may_be_huge(&self, process: u8) -> bool {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return false };
        let space = space.look();
        let wanted = |vma: &&Vma| self.always_huge || vma.flags.contains(VmFlags::HUGEPAGE);
        space.vmas().iter().filter(wanted).any(|vma| {
            let (start, end) = (vma.range().start().get(), vma.range().end().get());
            start.next_multiple_of(HUGE) + HUGE <= end
        })
    }

    /// Whether what is resident is not up to acts alone.
    fn residency_is_open(&self) -> bool {
        self.paged_out
    }

    fn perform_one(&mut self, act: &Act) -> std::result::Result<Result, Failed> {
        let task = Task(u32::from(act.process));
        let call = |result: mm::error::CallResult<()>| match result {
            Ok(()) => Ok(Result::Value(0)),
            Err(CallError::Errno(errno)) => Ok(Result::Errno(errno as i32)),
            Err(CallError::Broken(broken)) => Err(Failed::from(broken.to_string())),
        };
        if matches!(act.deed, Deed::Call(M::Madvise { advice: 8 | 20 | 21, .. })) {
            // Linux takes a huge page apart, also one that is mapped in small pages by then, and drops what of it
            // is zeros, which is not modelled.
            self.paged_out |= self.huge || self.folios && self.forks > 1;
        }
        if matches!(act.deed, Deed::Call(M::Madvise { advice: 21, .. })) {
            let stays_in_linux = self.locked && self.given_up || self.left_locked;
            self.paged_out |= self.swap == Swap::Some || stays_in_linux;
        }
        const MOVE: u64 = 2 | 4;
        if matches!(act.deed, Deed::Call(M::Mbind { flags, .. }) if flags & MOVE != 0) {
            self.paged_out |= self.folios && self.forks > 0;
        }
        self.forks += u8::from(matches!(act.deed, Deed::Fork(_)));
        const MAP_LOCKED: u64 = libc::MAP_LOCKED as u64;
        const DONTUNMAP: u64 = libc::MREMAP_DONTUNMAP as u64;
        match &act.deed {
            Deed::Call(M::Mlock { .. } | M::Mlock2 { .. } | M::Mlockall { .. }) => {
                self.locked = true;
            }
            Deed::Call(M::Mmap { flags, .. }) if flags & MAP_LOCKED != 0 => self.locked = true,
            Deed::Call(M::Madvise { advice: 8, .. }) => self.given_up = true,
            Deed::Call(M::Mremap { flags, .. }) if flags & DONTUNMAP != 0 => {
                self.left_locked |= self.locked;
            }
            _ => {}
        }
        match &act.deed {
            Deed::Call(memory) => match self.linux.call(task, memory)? {
                Some((Ok(value), Written::Resident(pages))) => {
                    let told = !self.residency_is_open()
                        && memory.range().is_some_and(|(addr, len)| {
                            !self.maps_files(act.process, addr.get(), len)
                                && !self.shares_huge(act.process, addr.get(), len)
                        });
                    Ok(if told { Result::Resident(pages) } else { Result::Value(value) })
                }
                Some((Ok(value), _)) => Ok(Result::Value(value)),
                Some((Err(errno), _)) => Ok(Result::Errno(errno as i32)),
                None => Err(format!("{memory:?} is not modelled").into()),
            },
            &Deed::Open(fd, open) => {
                self.open(task, fd, open)?;
                Ok(Result::Value(u64::from(fd.unsigned_abs())))
            }
            &Deed::Truncate(fd, len) => call(self.linux.truncate(task, fd, len)),
            &Deed::Touch(addr, kind) => self.access(task, addr, ByteAccess::Touch(kind), |_| 0),
            &Deed::Store(addr, byte) => self.access(task, addr, ByteAccess::Store(byte), |_| 0),
            &Deed::Load(addr) => {
                self.access(task, addr, ByteAccess::Touch(AccessKind::Read), |byte| byte)
            }
            &Deed::Userfault(fd) => {
                self.linux.open(
                    task,
                    fd,
                    ObjectKind::Unmappable,
                    0,
                    FileMode::READ,
                    Seals::empty(),
                )?;
                Ok(Result::Value(u64::from(fd.unsigned_abs())))
            }
            &Deed::Uffd(_, addr, len, 0) => {
                call(self.linux.unregister(task, VirtAddr::new(addr), len))
            }
            &Deed::Uffd(_, addr, len, mode) => {
                let uffd = Arc::clone(&self.userfault);
                call(self.linux.register(task, &uffd, VirtAddr::new(addr), len, mode))
            }
            &Deed::DropCapabilities(dropped) => {
                for (bit, _, capability) in CAPABILITIES {
                    if dropped >> bit & 1 == 1 {
                        let space = self.linux.space(task)?;
                        space.change().limits_mut().capabilities.remove(capability);
                    }
                }
                Ok(Result::Value(0))
            }
            &Deed::Fork(child) => call(self.linux.fork(task, Task(u32::from(child)))),
            Deed::Exit => {
                self.linux.end(task)?;
                Ok(Result::Value(0))
            }
        }
    }

    fn open(&mut self, task: Task, fd: i32, open: Open) -> std::result::Result<(), Failed> {
        let none = Seals::empty();
        match open {
            Open::Memfd(pages) => {
                self.linux.open(task, fd, ObjectKind::Memfd, pages, BOTH, none)?;
            }
            Open::HugeMemfd(log2) => {
                let kind = ObjectKind::HugeMemfd(1 << log2);
                self.linux.open(task, fd, kind, 0, BOTH, none)?;
            }
            Open::File(pages) => self.linux.open(task, fd, ObjectKind::File, pages, BOTH, none)?,
            Open::Again(of, mode) => {
                let mode = match mode {
                    0 => FileMode::READ,
                    1 => FileMode::WRITE,
                    _ => BOTH,
                };
                self.linux.reopen(task, of, fd, mode)?;
            }
            Open::Directory => {
                self.linux.open(task, fd, ObjectKind::Unmappable, 1, FileMode::READ, none)?;
            }
        }
        Ok(())
    }

    /// `shown` is what the player tells of the byte.
    fn access(
        &mut self,
        task: Task,
        addr: u64,
        access: ByteAccess,
        shown: impl Fn(u8) -> u8,
    ) -> std::result::Result<Result, Failed> {
        match self.linux.access(task, VirtAddr::new(addr), access) {
            Ok(byte) => Ok(Result::Done(shown(byte))),
            Err(AccessError::Fault(Fault::NotMapped(_))) => Ok(Result::Signal(11, 1)),
            Err(AccessError::Fault(Fault::Denied(_))) => Ok(Result::Signal(11, 2)),
            Err(AccessError::Fault(Fault::NoBacking(_))) => Ok(Result::Signal(7, 2)),
            Err(AccessError::Fault(Fault::OutOfMemory(_))) => Err("out of frames".into()),
            Err(AccessError::Broken(broken)) => Err(broken.to_string().into()),
        }
    }
}
