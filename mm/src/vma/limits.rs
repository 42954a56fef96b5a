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
        /// Poisoning pages.
        const SYS_ADMIN = 16;
    }
}

/// The limits that memory calls check.
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
}

impl Default for Limits {
    /// A fresh process of root without `CAP_SYS_RESOURCE` on Linux 6.18.
    fn default() -> Self {
        Limits {
            address_space: Limit::NONE,
            data: Limit::NONE,
            stack: Limit { soft: 8 << 20, hard: UNLIMITED },
            memlock: Limit::both(8 << 20),
            capabilities: Capabilities::all().difference(Capabilities::SYS_RESOURCE),
        }
    }
}

impl Limits {
    /// Whether it has the capability.
    #[must_use]
    pub fn may(&self, capability: Capabilities) -> bool {
        self.capabilities.contains(capability)
    }
}
