//! The machine as an executor of traces.

use std::sync::{Arc, Mutex};

use super::dispatch::Written;
use super::exec::Loaded;
use super::object::{LONG_ENOUGH, ObjectKind};
use super::{ByteAccess, Linux};
use crate::addr::{PAGE_SIZE, VirtAddr, low_half};
use crate::backing::{FileMode, Seals};
use crate::error::{AccessError, Broken, CallError, Errno, Fault};
use crate::inspect;
use crate::paging::AccessKind;
use crate::phys::AllocError;
use crate::replay::calls::{FileCall, MemoryCall, Outcome};
use crate::replay::engine::{Answer, Cloned, Executor, Output, Program, Reply, Sharing, Task};
use crate::replay::trace::{
    self, FileKind, Held, MapLine, OpenMode, Rss, Setting, Touched, UffdChange, VmFlagNames,
};
use crate::sysctl::Overcommit;
use crate::vma::Userfault;
use crate::vma::limits::Capabilities;

/// Commands of fcntl(2).
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;
const F_ADD_SEALS: u64 = 1033;

/// Why the machine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LinuxError {
    /// It is broken, or the host is.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A process could not be made.
    #[error("there is no memory for a process: {0}")]
    NoMemory(#[from] AllocError),
    /// The starting state cannot be.
    #[error("the starting state cannot be taken over: {0}")]
    Import(Errno),
    /// A fork that the trace shows to have succeeded failed.
    #[error("a fork that succeeded fails here: {0}")]
    Fork(Errno),
}

impl Executor for Linux {
    type Error = LinuxError;

    fn create(&mut self, task: Task) -> Result<(), LinuxError> {
        Ok(self.start(task)?)
    }

    fn import(&mut self, task: Task, maps: &[MapLine]) -> Result<(), LinuxError> {
        match Linux::import(self, task, maps) {
            Ok(()) => Ok(()),
            Err(CallError::Errno(errno)) => Err(LinuxError::Import(errno)),
            Err(CallError::Broken(broken)) => Err(broken.into()),
        }
    }

    fn spawn(&mut self, parent: Task, child: Task, cloned: Cloned) -> Result<(), LinuxError> {
        if cloned.space == Sharing::Shared {
            return Ok(self.share(parent, child, cloned.files)?);
        }
        match self.fork(parent, child) {
            Ok(()) => Ok(()),
            Err(CallError::Errno(errno)) => Err(LinuxError::Fork(errno)),
            Err(CallError::Broken(broken)) => Err(broken.into()),
        }
    }

    fn exec(&mut self, task: Task, program: Program<'_>) -> Result<Reply<()>, LinuxError> {
        self.begin_program(task)??;
        match program {
            Program::Mapped(lines) => {
                Executor::import(self, task, lines)?;
                self.set_executable(task, lines);
                Ok(Reply::Is(()))
            }
            Program::File { path, .. } => Ok(match self.load_program(task, path)? {
                Loaded::Whole => Reply::Is(()),
                Loaded::Nothing => Reply::Unsupported,
            }),
        }
    }

    fn exit(&mut self, task: Task) -> Result<(), LinuxError> {
        Ok(self.end(task)?)
    }

    fn call(
        &mut self,
        task: Task,
        call: &MemoryCall,
        _recorded: Outcome,
    ) -> Result<Reply<Answer>, LinuxError> {
        let Some((result, written)) = Linux::call(self, task, call)? else {
            return Ok(Reply::Unsupported);
        };
        let output = match written {
            Written::Nothing => Output::None,
            Written::Resident(pages) => Output::Resident(pages),
            Written::Limit(limit) => Output::Limit(limit),
            Written::Policy(mode, nodes) => Output::Policy { mode, nodes },
        };
        Ok(Reply::Is(Answer { result, output }))
    }

    fn file(&mut self, task: Task, call: &FileCall, result: u64) -> Result<Reply<()>, LinuxError> {
        let fd = i32::try_from(result).unwrap_or(-1);
        match *call {
            FileCall::Close { fd } => self.close(task, fd)?,
            FileCall::Dup { fd: old } => self.dup(task, old, fd)?,
            FileCall::Dup2 { fd: old, new } | FileCall::Dup3 { fd: old, new, .. } => {
                self.dup(task, old, new)?;
            }
            FileCall::MemfdCreate { .. } => {
                let mode = FileMode::READ | FileMode::WRITE;
                self.open(task, fd, ObjectKind::Memfd, 0, mode, Seals::empty())?;
            }
            FileCall::Openat { flags, .. } => {
                let mode = match flags & 3 {
                    0 => FileMode::READ,
                    1 => FileMode::WRITE,
                    _ => FileMode::READ | FileMode::WRITE,
                };
                self.open(task, fd, ObjectKind::File, LONG_ENOUGH, mode, Seals::empty())?;
            }
            FileCall::Fcntl { fd: old, command: F_DUPFD | F_DUPFD_CLOEXEC, .. } => {
                self.dup(task, old, fd)?;
            }
            FileCall::Fcntl { fd, command: F_ADD_SEALS, value } => {
                self.files(task)?.seal(fd, Seals::from_bits_truncate(low_half(value)));
            }
            // It only asks.
            FileCall::Fcntl { .. } => {}
            FileCall::Ftruncate { fd, len } => return Ok(self.files(task)?.truncate(fd, len)),
        }
        Ok(Reply::Is(()))
    }

    fn configure(&mut self, task: Task, setting: &Setting) -> Result<Reply<()>, LinuxError> {
        let space = self.space(task)?;
        let mut space = space.change();
        match setting {
            Setting::Limit { resource, value } => {
                let limits = space.limits_mut();
                match resource {
                    2 => limits.data.soft = *value,
                    3 => limits.stack.soft = *value,
                    8 => limits.memlock.soft = *value,
                    9 => limits.address_space.soft = *value,
                    _ => return Ok(Reply::Unsupported),
                }
            }
            Setting::Sysctl { name, value } => return Ok(self.set_sysctl(name, *value)),
            Setting::Capability { name, held } => {
                let capability = match name.as_str() {
                    "CAP_IPC_LOCK" => Capabilities::IPC_LOCK,
                    "CAP_SYS_RAWIO" => Capabilities::SYS_RAWIO,
                    "CAP_SYS_RESOURCE" => Capabilities::SYS_RESOURCE,
                    "CAP_SYS_NICE" => Capabilities::SYS_NICE,
                    "CAP_SYS_ADMIN" => Capabilities::SYS_ADMIN,
                    _ => return Ok(Reply::Unsupported),
                };
                space.limits_mut().capabilities.set(capability, *held == Held::Yes);
            }
            Setting::Personality(value) => space.modes_mut().personality = low_half(*value),
            Setting::MmapBase(base) => space.set_mmap_base(*base),
            Setting::Brk { start, current } => space.set_brk(*start, *current),
            Setting::Thp(_) => return Ok(Reply::Unsupported),
            Setting::Uffd { addr, pages, change } => {
                drop(space);
                self.change_uffd(task, *addr, pages.saturating_mul(PAGE_SIZE), *change)?;
            }
            Setting::File { fd, file } => {
                drop(space);
                self.set_file(task, *fd, file)?;
            }
        }
        Ok(Reply::Is(()))
    }

    fn touch(
        &mut self,
        task: Task,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Reply<Touched>, LinuxError> {
        touched(self.access(task, addr, ByteAccess::Touch(kind)))
    }

    fn store(
        &mut self,
        task: Task,
        addr: VirtAddr,
        byte: u8,
    ) -> Result<Reply<Touched>, LinuxError> {
        touched(self.access(task, addr, ByteAccess::Store(byte)))
    }

    fn load(
        &mut self,
        task: Task,
        addr: VirtAddr,
    ) -> Result<Reply<Result<u8, Touched>>, LinuxError> {
        match self.access(task, addr, ByteAccess::Touch(AccessKind::Read)) {
            Ok(byte) => Ok(Reply::Is(Ok(byte))),
            Err(error) => match touched(Err(error))? {
                Reply::Is(signal) => Ok(Reply::Is(Err(signal))),
                Reply::Unsupported => Ok(Reply::Unsupported),
            },
        }
    }

    fn maps(&mut self, task: Task) -> Result<Reply<Vec<MapLine>>, LinuxError> {
        let space = self.space(task)?;
        let space = space.look();
        Ok(Reply::Is(inspect::maps(&space).map(MapLine::of).collect()))
    }

    fn vm_flags(
        &mut self,
        task: Task,
        addr: VirtAddr,
    ) -> Result<Reply<Option<VmFlagNames>>, LinuxError> {
        let space = self.space(task)?;
        let space = space.look();
        let names = space.vmas().find_exact(addr).map(|vma| {
            let pair = |name: &str| name.as_bytes().try_into().ok();
            VmFlagNames(vma.flags.mnemonics().filter_map(pair).collect())
        });
        Ok(Reply::Is(names))
    }

    fn resident(
        &mut self,
        task: Task,
        addr: VirtAddr,
        pages: u64,
    ) -> Result<Reply<Result<Vec<u8>, Errno>>, LinuxError> {
        let space = self.space(task)?;
        let space = space.look();
        match space.mincore(addr, pages.saturating_mul(PAGE_SIZE)) {
            Ok(pages) => Ok(Reply::Is(Ok(pages))),
            Err(CallError::Errno(errno)) => Ok(Reply::Is(Err(errno))),
            Err(CallError::Broken(broken)) => Err(broken.into()),
        }
    }

    fn rss(&mut self, _task: Task) -> Result<Reply<Rss>, LinuxError> {
        // Which pages of files and of shared memory are resident is not told apart yet.
        Ok(Reply::Unsupported)
    }
}

impl Linux {
    /// A task in the address space of another (`CLONE_VM`).
    fn share(&mut self, parent: Task, child: Task, files: Sharing) -> Result<(), Broken> {
        let mut process = self.process(parent)?.clone();
        if files == Sharing::Copied {
            process.files = Arc::new(Mutex::new(self.files(parent)?.clone()));
        }
        self.processes.insert(child, process);
        Ok(())
    }

    fn set_sysctl(&self, name: &str, value: u64) -> Reply<()> {
        let sysctl = &self.system.sysctl;
        match (name, value) {
            ("mmvisor.fault_ahead", _) => sysctl.set_fault_ahead(value),
            ("mmvisor.total_pages", _) => sysctl.set_total_pages(value),
            ("vm.max_map_count", _) => sysctl.set_max_map_count(value),
            ("vm.mmap_min_addr", _) => sysctl.set_mmap_min_addr(value),
            ("vm.overcommit_ratio", _) => sysctl.set_overcommit_ratio(value),
            ("vm.overcommit_memory", 0) => sysctl.set_overcommit(Overcommit::Guess),
            ("vm.overcommit_memory", 1) => sysctl.set_overcommit(Overcommit::Always),
            ("vm.overcommit_memory", 2) => sysctl.set_overcommit(Overcommit::Never),
            _ => return Reply::Unsupported,
        }
        Reply::Is(())
    }

    fn set_file(&mut self, task: Task, fd: i32, file: &trace::File) -> Result<(), Broken> {
        let mode_of = |mode: OpenMode| match mode {
            OpenMode::Read => FileMode::READ,
            OpenMode::Write => FileMode::WRITE,
            OpenMode::ReadWrite => FileMode::READ | FileMode::WRITE,
        };
        match *file {
            trace::File::Closed => self.close(task, fd),
            trace::File::Same { fd: of, mode } => self.reopen(task, of, fd, mode_of(mode)),
            trace::File::New { kind, pages, mode, seals } => {
                let kind = match kind {
                    FileKind::Memfd => ObjectKind::Memfd,
                    FileKind::File => ObjectKind::File,
                    FileKind::Dir | FileKind::Device | FileKind::Pipe => ObjectKind::Unmappable,
                };
                let seals = Seals::from_bits_truncate(low_half(seals));
                self.open(task, fd, kind, pages, mode_of(mode), seals)
            }
        }
    }

    /// What `@uffd` says has happened has happened: an errno of ours would show in the VMAs.
    fn change_uffd(
        &mut self,
        task: Task,
        addr: VirtAddr,
        len: u64,
        change: UffdChange,
    ) -> Result<(), Broken> {
        let result = match change {
            UffdChange::Register(modes) => {
                let uffd: Arc<Userfault> = self.process(task)?.uffd();
                self.register(task, &uffd, addr, len, u64::from(modes.bits()))
            }
            UffdChange::Unregister => self.unregister(task, addr, len),
        };
        match result {
            Ok(()) | Err(CallError::Errno(_)) => Ok(()),
            Err(CallError::Broken(broken)) => Err(broken),
        }
    }
}

/// What a trace calls the outcome of an access.
fn touched(result: Result<u8, AccessError>) -> Result<Reply<Touched>, LinuxError> {
    Ok(Reply::Is(match result {
        Ok(_) => Touched::Done,
        Err(AccessError::Fault(Fault::NotMapped(_))) => Touched::MapErr,
        Err(AccessError::Fault(Fault::Denied(_))) => Touched::AccErr,
        Err(AccessError::Fault(Fault::NoBacking(_))) => Touched::BusErr,
        Err(AccessError::Fault(Fault::OutOfMemory(addr))) => {
            return Err(Broken::Invariant(format!("no frame for a touch at {addr}")).into());
        }
        Err(AccessError::Broken(broken)) => return Err(broken.into()),
    }))
}
