//! What a process may have at most (getrlimit(2), sysctl vm.*).

use crate::addr::PAGE_SIZE;

/// No limit (`RLIM_INFINITY`).
pub const UNLIMITED: u64 = u64::MAX;

/// The limits that memory calls check. Bytes unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `RLIMIT_AS`: all mappings together.
    pub address_space: u64,
    /// `RLIMIT_DATA`: private writable mappings and the heap.
    pub data: u64,
    /// `RLIMIT_STACK`: how far a stack may grow.
    pub stack: u64,
    /// `vm.max_map_count`: VMAs.
    pub max_map_count: usize,
    /// `vm.mmap_min_addr`: where hints are raised to.
    pub mmap_min_addr: u64,
}

impl Default for Limits {
    /// A fresh process of Linux 6.18.
    fn default() -> Self {
        Limits {
            address_space: UNLIMITED,
            data: UNLIMITED,
            stack: 8 << 20,
            max_map_count: 65530,
            mmap_min_addr: 16 * PAGE_SIZE,
        }
    }
}
