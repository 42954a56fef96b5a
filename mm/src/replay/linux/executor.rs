//! The machine as an executor of traces.

use std::sync::{Arc, Mutex};

use nix::libc;

use super::dispatch::{Written, limits_memory};
use super::exec::Loaded;
use super::object::{LONG_ENOUGH, ObjectKind};
use super::{ByteAccess, Linux, Process};
use crate::addr::{PAGE_SIZE, VirtAddr, low_half};
use crate::backing::{FileMode, Seals, huge_page_size};
use crate::error::{AccessError, Broken, CallError, Errno};
use crate::inspect;
use crate::paging::AccessKind;
use crate::phys::AllocError;
use crate::replay::calls::{FileCall, MemoryCall, Outcome};
use crate::replay::engine::{Answer, Cloned, Executor, Output, Program, Reply, Sharing, Task};
use crate::replay::trace::{
    self, FileKind, Held, MapLine, OpenMode, Rss, Setting, Touched, UffdChange, VmFlagNames,
};
use crate::sysctl::Overcommit;
use crate::vma::limits::{Capabilities, Limit, Resource};

/// Commands of fcntl(2), as a register holds them.
const F_DUPFD: u64 = libc::F_DUPFD as u64;
const F_DUPFD_CLOEXEC: u64 = libc::F_DUPFD_CLOEXEC as u64;
const F_ADD_SEALS: u64 = libc::F_ADD_SEALS as u64;
/// Flags of memfd_create(2).
const MFD_HUGETLB: u64 = libc::MFD_HUGETLB as u64;
const MFD_HUGE_SHIFT: u32 = 26;
/// How open(2) opens.
const O_ACCMODE: u64 = libc::O_ACCMODE as u64;
const O_RDONLY: u64 = libc::O_RDONLY as u64;
const O_WRONLY: u64 = libc::O_WRONLY as u64;

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
    /// Memory has no room for a pool of that many huge pages.
    #[error("vm.nr_hugepages={0}: there is room for {1} huge pages")]
    HugePages(u64, u64),
    /// A fork that the trace shows to have succeeded failed.
    #[error("a fork that succeeded fails here: {0}")]
    Fork(Errno),
}

/// What memfd_create(2), which has succeeded, makes by these flags.
fn memfd(flags: u64) -> ObjectKind {
    let huge = huge_page_size(flags >> MFD_HUGE_SHIFT).filter(|_| flags & MFD_HUGETLB != 0);
    huge.map_or(ObjectKind::Memfd, ObjectKind::HugeMemfd)
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
            Written::Statuses(statuses) => Output::Statuses(statuses),
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
            FileCall::MemfdCreate { flags, .. } => {
                let mode = FileMode::READ | FileMode::WRITE;
                self.open(task, fd, memfd(flags), 0, mode, Seals::empty())?;
            }
            FileCall::Openat { flags, .. } => {
                let mode = match flags & O_ACCMODE {
                    O_RDONLY => FileMode::READ,
                    O_WRONLY => FileMode::WRITE,
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
            FileCall::Ftruncate { fd, len } => {
                // It has succeeded: what it cannot have succeeded on is of a kind not known here.
                return match self.truncate(task, fd, len) {
                    Ok(()) => Ok(Reply::Is(())),
                    Err(CallError::Errno(_)) => Ok(Reply::Unsupported),
                    Err(CallError::Broken(broken)) => Err(broken.into()),
                };
            }
        }
        Ok(Reply::Is(()))
    }

    fn configure(&mut self, task: Task, setting: &Setting) -> Result<Reply<()>, LinuxError> {
        let space = self.space(task)?;
        let mut space = space.change();
        match setting {
            Setting::Limit { resource, value } => {
                let resource = Resource::from_number(*resource).filter(limits_memory);
                let Some(resource) = resource else { return Ok(Reply::Unsupported) };
                let limits = space.limits_mut();
                limits.set(resource, Limit { soft: *value, ..limits.get(resource) });
            }
            Setting::Sysctl { name, value } => return self.set_sysctl(name, *value),
            Setting::Capability { name, held } => {
                let capability = match name.as_str() {
                    "CAP_IPC_LOCK" => Capabilities::IPC_LOCK,
                    "CAP_SYS_RAWIO" => Capabilities::SYS_RAWIO,
                    "CAP_SYS_RESOURCE" => Capabilities::SYS_RESOURCE,
                    "CAP_SYS_NICE" => Capabilities::SYS_NICE,
                    "CAP_SYS_ADMIN" => Capabilities::SYS_ADMIN,
                    "CAP_SYS_PTRACE" => Capabilities::SYS_PTRACE,
                    "CAP_IPC_OWNER" => Capabilities::IPC_OWNER,
                    _ => return Ok(Reply::Unsupported),
                };
                space.limits_mut().capabilities.set(capability, *held == Held::Yes);
            }
            Setting::Personality(value) => space.modes_mut().personality = low_half(*value),
            Setting::MmapBase(base) => space.set_mmap_base(*base),
            Setting::Brk { start, current, data } => {
                space.set_brk(*start, *current);
                if let Some(data) = data {
                    space.set_data(data.start..data.end);
                }
            }
            Setting::Thp(thp) => space.system().sysctl.set_thp(*thp),
            Setting::ThpOf(of_size) => {
                space.system().sysctl.set_thp_size(*of_size);
                drop(space);
                for process in self.processes.values() {
                    process.space.change().thp_changes()?;
                }
            }
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
        // The counts would differ from Linux's where nothing is wrong: a read of anonymous memory has a
        // page of its own here, not the zero page, which counts as none; a fault brings in pages that
        // nobody touched; and files are shared memory underneath. It waits for pages to be Linux's.
        Ok(Reply::Unsupported)
    }
}

impl Linux {
    /// A task in the address space of another (`CLONE_VM`).
    fn share(&mut self, parent: Task, child: Task, files: Sharing) -> Result<(), Broken> {
        let process = self.process(parent)?;
        let files = match files {
            Sharing::Shared => Arc::clone(&process.files),
            Sharing::Copied => Arc::new(Mutex::new(process.files().clone())),
        };
        let process = Process {
            space: process.space.share(),
            files,
            policy: process.policy,
            uffd: Arc::clone(&process.uffd),
            executable: process.executable.clone(),
        };
        self.processes.insert(child, process);
        Ok(())
    }

    /// `vm.nr_hugepages`: pages of the default size.
    fn fill_pool(&self, count: u64) -> Result<Reply<()>, LinuxError> {
        let Some(pool) = huge_page_size(0).and_then(|size| self.system.huge_pool(size)) else {
            return Ok(Reply::Unsupported);
        };
        let had = pool.resize(count)?;
        if had < count { Err(LinuxError::HugePages(count, had)) } else { Ok(Reply::Is(())) }
    }

    fn set_sysctl(&self, name: &str, value: u64) -> Result<Reply<()>, LinuxError> {
        let sysctl = &self.system.sysctl;
        match (name, value) {
            ("mmvisor.fault_ahead", _) => sysctl.set_fault_ahead(value),
            ("mmvisor.total_pages", _) => sysctl.set_total_pages(value),
            ("mmvisor.reclaim", 1) => while self.system.reclaim()? > 0 {},
            ("vm.nr_hugepages", _) => return self.fill_pool(value),
            ("vm.max_map_count", _) => sysctl.set_max_map_count(value),
            ("vm.mmap_min_addr", _) => sysctl.set_mmap_min_addr(value),
            ("vm.overcommit_ratio", _) => {
                sysctl.set_overcommit_ratio(i32::try_from(value).unwrap_or(i32::MAX));
            }
            ("vm.overcommit_kbytes", _) => sysctl.set_overcommit_kbytes(value),
            ("vm.admin_reserve_kbytes", _) => sysctl.set_admin_reserve_kbytes(value),
            ("vm.user_reserve_kbytes", _) => sysctl.set_user_reserve_kbytes(value),
            ("vm.overcommit_memory", 0) => sysctl.set_overcommit(Overcommit::Guess),
            ("vm.overcommit_memory", 1) => sysctl.set_overcommit(Overcommit::Always),
            ("vm.overcommit_memory", 2) => sysctl.set_overcommit(Overcommit::Never),
            _ => return Ok(Reply::Unsupported),
        }
        Ok(Reply::Is(()))
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
                let mut mode = mode_of(mode);
                // Of pipes nothing is executed either.
                mode.set(FileMode::NOEXEC, kind == FileKind::Pipe);
                let kind = match kind {
                    FileKind::Memfd => ObjectKind::Memfd,
                    FileKind::File => ObjectKind::File,
                    FileKind::Dir | FileKind::Device | FileKind::Pipe => ObjectKind::Unmappable,
                };
                let seals = Seals::from_bits_truncate(low_half(seals));
                self.open(task, fd, kind, pages, mode, seals)
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
        let uffd = Arc::clone(&self.process(task)?.uffd);
        let result = match change {
            UffdChange::Register(modes) => {
                self.register(task, &uffd, addr, len, u64::from(modes.bits()))
            }
            UffdChange::Unregister => self.unregister(task, &uffd, addr, len),
        };
        match result {
            Ok(()) | Err(CallError::Errno(_)) => Ok(()),
            Err(CallError::Broken(broken)) => Err(broken),
        }
    }
}

/// What a trace calls the outcome of an access.
fn touched(result: Result<u8, AccessError>) -> Result<Reply<Touched>, LinuxError> {
    match result {
        Ok(_) => Ok(Reply::Is(Touched::Done)),
        Err(AccessError::Fault(fault)) => Touched::by(fault).map(Reply::Is).ok_or_else(|| {
            Broken::Invariant(format!("no frame for a touch at {}", fault.address())).into()
        }),
        Err(AccessError::Broken(broken)) => Err(broken.into()),
    }
}
