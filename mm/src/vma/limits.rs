//! What a process may have at most (getrlimit(2)), and what it may do beyond that (capabilities(7)).

use bitflags::bitflags;

use crate::addr::PAGE_SHIFT;

/// No limit (`RLIM_INFINITY`).
pub const UNLIMITED: u64 = u64::MAX;

/// A soft and a hard limit of getrlimit(2), in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// What is checked.
    pub soft: u64,
    /// How far the soft limit may be raised.
    pub hard: u64,
}

impl Limit {
    /// No limit at all.
    pub const NONE: Limit = Limit { soft: UNLIMITED, hard: UNLIMITED };

    /// The same soft and hard limit.
    #[must_use]
    pub const fn both(bytes: u64) -> Self {
        Limit { soft: bytes, hard: bytes }
    }

    /// The soft limit in whole pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.soft >> PAGE_SHIFT
    }
}

bitflags! {
    /// The capabilities that memory calls ask for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Capabilities: u32 {
        /// Locking without a limit.
        const IPC_LOCK = 1;
        /// Mapping below `vm.mmap_min_addr`.
        const SYS_RAWIO = 2;
        /// Raising hard limits; setting the fields of `PR_SET_MM`.
        const SYS_RESOURCE = 4;
        /// Moving pages to any node, and advising other processes.
        const SYS_NICE = 8;
        /// Poisoning pages; removing others' segments.
        const SYS_ADMIN = 16;
        /// Attaching others' segments.
        const IPC_OWNER = 32;
        /// Serving faults of calls by a userfaultfd.
        const SYS_PTRACE = 64;
    }
}

/// What a limit is about (`RLIMIT_*` of getrlimit(2)), with Linux's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "getrlimit(2) describes each")]
pub enum Resource {
    CpuTime = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    Resident = 5,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    FileLocks = 10,
    PendingSignals = 11,
    MessageQueues = 12,
    Nice = 13,
    RealtimePriority = 14,
    RealtimeTime = 15,
}

impl Resource {
    const ALL: [Resource; 16] = [
        Resource::CpuTime,
        Resource::FileSize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Resident,
        Resource::Processes,
        Resource::OpenFiles,
        Resource::LockedMemory,
        Resource::AddressSpace,
        Resource::FileLocks,
        Resource::PendingSignals,
        Resource::MessageQueues,
        Resource::Nice,
        Resource::RealtimePriority,
        Resource::RealtimeTime,
    ];

    /// From Linux's number; `None` where a call answers `EINVAL`.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Resource::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// What a process has before anybody sets it (Linux's `INIT_RLIMITS`).
    fn initial(self) -> Limit {
        match self {
            Resource::Stack => Limit { soft: 8 << 20, hard: UNLIMITED },
            Resource::Core => Limit { soft: 0, hard: UNLIMITED },
            Resource::OpenFiles => Limit { soft: 1024, hard: 4096 },
            Resource::LockedMemory => Limit::both(8 << 20),
            Resource::MessageQueues => Limit::both(819_200),
            Resource::Nice | Resource::RealtimePriority => Limit::both(0),
            _ => Limit::NONE,
        }
    }
}

/// A process's limits: those that memory calls check by name, and the others, which it may only set and
/// ask after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `RLIMIT_AS`: all mappings together.
    pub address_space: Limit,
    /// `RLIMIT_DATA`: private writable mappings and the heap.
    pub data: Limit,
    /// `RLIMIT_STACK`: how far a stack may grow.
    pub stack: Limit,
    /// `RLIMIT_MEMLOCK`: locked mappings.
    pub memlock: Limit,
    /// What it may do beyond them.
    pub capabilities: Capabilities,
    /// By number; what has a name above is there.
    others: [Limit; Resource::ALL.len()],
}

impl Default for Limits {
    /// A fresh process of root without `CAP_SYS_RESOURCE` on Linux 6.18.
    fn default() -> Self {
        Limits {
            address_space: Resource::AddressSpace.initial(),
            data: Resource::Data.initial(),
            stack: Resource::Stack.initial(),
            memlock: Resource::LockedMemory.initial(),
            others: Resource::ALL.map(Resource::initial),
            capabilities: Capabilities::all().difference(Capabilities::SYS_RESOURCE),
        }
    }
}

impl Limits {
    /// A limit (getrlimit(2)).
    #[must_use]
    pub fn get(&self, resource: Resource) -> Limit {
        match resource {
            Resource::AddressSpace => self.address_space,
            Resource::Data => self.data,
            Resource::Stack => self.stack,
            Resource::LockedMemory => self.memlock,
            other => self.others[other as usize],
        }
    }

    /// Sets a limit, without asking whether the process may.
    pub fn set(&mut self, resource: Resource, limit: Limit) {
        match resource {
            Resource::AddressSpace => self.address_space = limit,
            Resource::Data => self.data = limit,
            Resource::Stack => self.stack = limit,
            Resource::LockedMemory => self.memlock = limit,
            other => self.others[other as usize] = limit,
        }
    }

    /// Whether it has the capability.
    #[must_use]
    pub fn may(&self, capability: Capabilities) -> bool {
        self.capabilities.contains(capability)
    }
}
