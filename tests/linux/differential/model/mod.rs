//! Our side: the executor, in software or in a guest, begun from the state that a process of the player begins with.

mod asking;
mod seen;
mod start;
mod written;

pub use start::{Area, Serving, Start};
pub use written::buffers;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE, VirtAddr, low_half};
use mm::backing::{FileMode, Seals};
use mm::calls::{OpenUserfault, userfault_ioctl};
use mm::error::{AccessError, CallError, Fault};
use mm::paging::AccessKind;
use mm::replay::calls::MemoryCall as M;
use mm::replay::engine::{Executor, Reply, Task};
use mm::replay::linux::{ByteAccess, Linux, ObjectKind, Written};
use mm::replay::trace::Setting;
use mm::swap::{MemoryStore, SwapStore};
use mm::userfault::{Features, Served, Userfault};
use mm::vma::limits::Capabilities;
use mm::vma::{VmFlags, Vma};

use super::act::{Act, Deed, Open, RECLAIM, SERVED};
use asking::{ARGUMENT, Asking};
use start::{Residency, Swap};

/// Bytes of a huge page.
const HUGE: u64 = 512 * PAGE_SIZE;
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
    /// A call's value or error, and the buffers that it writes.
    Wrote(std::result::Result<u64, i32>, Vec<Vec<u8>>),
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

/// The executor and what the acts need beside it.
#[derive(Debug)]
pub struct Model {
    linux: Linux,
    userfault: Arc<Userfault>,
    /// Whether the host has swap.
    swap: Swap,
    residency: Residency,
    /// Pages may have gone that stay on our side, or the other way round.
    paged_out: bool,
    /// Memory may have come several pages at a time, of which Linux remembers some things as of one; and how many forks
    /// there were: of a third process that has such pages it does not know whether it is alone.
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
        let store = |pages| Box::new(MemoryStore::new(pages)) as Box<dyn SwapStore>;
        Model::on(start, Linux::with_swap(FRAMES, 1, start.area.pages().map(store)))
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
            residency: start.residency,
            paged_out: false,
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
        self.folios |= collapsed || self.may_be_huge(act.process);
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
        match self.residency {
            Residency::AsLinux => self.paged_out,
            Residency::Told => false,
            Residency::Untold => true,
        }
    }

    fn perform_one(&mut self, act: &Act) -> std::result::Result<Result, Failed> {
        let task = Task(u32::from(act.process));
        let call = |result: mm::error::CallResult<()>| match result {
            Ok(()) => Ok(Result::Value(0)),
            Err(CallError::Errno(errno)) => Ok(Result::Errno(errno as i32)),
            Err(CallError::Broken(broken)) => Err(Failed::from(broken.to_string())),
        };
        if matches!(act.deed, Deed::Call(M::Madvise { advice: 8 | 20 | 21, .. })) {
            self.paged_out |= self.folios && self.forks > 1;
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
                Some((Ok(value), written)) if self.is_compared(act.process, memory) => {
                    Ok(Result::Wrote(Ok(value), written::filled(memory, written)))
                }
                Some((Err(errno), written @ Written::Statuses(_)))
                    if self.is_compared(act.process, memory) =>
                {
                    Ok(Result::Wrote(Err(errno as i32), written::filled(memory, written)))
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
            &Deed::Serve(_, request, words) => {
                let space = self.linux.space(task)?;
                let caller = Asking { space, argument: RefCell::new(words) };
                let open = OpenUserfault { uffd: &self.userfault, space: Some(space) };
                let answer = match userfault_ioctl(&caller, open, request, ARGUMENT) {
                    Ok(value) => Ok(value),
                    Err(CallError::Errno(errno)) => Err(errno as i32),
                    Err(CallError::Broken(broken)) => return Err(broken.to_string().into()),
                };
                // How much was done is written into the argument.
                let argument = caller.argument.borrow().map(u64::to_le_bytes);
                Ok(Result::Wrote(answer, vec![argument.as_flattened().to_vec()]))
            }
            &(Deed::Userfault(fd) | Deed::ServedUserfault(fd)) => {
                let served = matches!(act.deed, Deed::ServedUserfault(_));
                let features = if served { SERVED } else { Features::empty() };
                let userfault = Userfault::unattended(Served::Program);
                userfault.initialize(features).map_err(|errno| errno.to_string())?;
                self.userfault = Arc::new(userfault);
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
                let uffd = Arc::clone(&self.userfault);
                call(self.linux.unregister(task, &uffd, VirtAddr::new(addr), len))
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
            Deed::Reclaim => {
                let setting = Setting::Sysctl { name: RECLAIM.to_owned(), value: 1 };
                match self.linux.configure(task, &setting).map_err(|error| error.to_string())? {
                    Reply::Is(()) => Ok(Result::Value(0)),
                    Reply::Unsupported => Err(format!("{RECLAIM} is not modelled").into()),
                }
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
            // More, not all kernels tell.
            Err(AccessError::Fault(Fault::Poisoned(_))) => Ok(Result::Signal(7, 2)),
            Err(AccessError::Fault(Fault::OutOfMemory(_))) => Err("out of frames".into()),
            Err(AccessError::Broken(broken)) => Err(broken.to_string().into()),
        }
    }
}
