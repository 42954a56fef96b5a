//! The machine's settings that memory calls feel (Linux's `vm.*` of sysctl(8)). All spaces share them;
//! any may change at any time.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::addr::PAGE_SIZE;

/// When promises of memory are refused (`vm.overcommit_memory`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overcommit {
    /// 0: a single promise that can never be kept.
    Guess,
    /// 1: never.
    Always,
    /// 2: when all promises together pass the commit limit.
    Never,
}

/// Pages kept for the administrator when all promises are counted (`vm.admin_reserve_kbytes`, 8 MiB).
const ADMIN_RESERVE: u64 = (8 << 20) / PAGE_SIZE;
/// The most pages kept for a user (`vm.user_reserve_kbytes`, 128 MiB).
const USER_RESERVE: u64 = (128 << 20) / PAGE_SIZE;

/// The settings. The defaults are those of Linux 6.18 on x86-64.
#[derive(Debug)]
pub struct Sysctl {
    overcommit: AtomicU8,
    overcommit_ratio: AtomicU64,
    max_map_count: AtomicU64,
    mmap_min_addr: AtomicU64,
    total_pages: AtomicU64,
    fault_ahead: AtomicU64,
}

impl Default for Sysctl {
    fn default() -> Self {
        Sysctl {
            overcommit: AtomicU8::new(0),
            overcommit_ratio: AtomicU64::new(50),
            max_map_count: AtomicU64::new(65530),
            mmap_min_addr: AtomicU64::new(PAGE_SIZE),
            total_pages: AtomicU64::new(Sysctl::ENDLESS),
            fault_ahead: AtomicU64::new(64),
        }
    }
}

impl Sysctl {
    /// Memory without end, in pages: no promise is too large for it.
    pub const ENDLESS: u64 = u64::MAX >> 12;

    /// `vm.overcommit_memory`.
    #[must_use]
    pub fn overcommit(&self) -> Overcommit {
        match self.overcommit.load(Ordering::Relaxed) {
            1 => Overcommit::Always,
            2 => Overcommit::Never,
            _ => Overcommit::Guess,
        }
    }

    /// Whether `MAP_NORESERVE` is honoured: not where all promises are counted.
    pub(crate) fn honours_noreserve(&self) -> bool {
        self.overcommit() != Overcommit::Never
    }

    /// How many pages at most one fault on anonymous memory brings in. Programs do not notice, but for
    /// mincore(2), which says so.
    #[must_use]
    pub fn fault_ahead(&self) -> u64 {
        self.fault_ahead.load(Ordering::Relaxed)
    }

    /// Sets how many; at least 1.
    pub fn set_fault_ahead(&self, pages: u64) {
        self.fault_ahead.store(pages.max(1), Ordering::Relaxed);
    }

    /// Sets `vm.overcommit_memory`.
    pub fn set_overcommit(&self, mode: Overcommit) {
        let number = match mode {
            Overcommit::Guess => 0,
            Overcommit::Always => 1,
            Overcommit::Never => 2,
        };
        self.overcommit.store(number, Ordering::Relaxed);
    }

    /// Sets `vm.overcommit_ratio`: how many hundredths of all memory may be promised in mode 2.
    pub fn set_overcommit_ratio(&self, percent: u64) {
        self.overcommit_ratio.store(percent, Ordering::Relaxed);
    }

    /// `vm.max_map_count`: the most VMAs a process may have.
    #[must_use]
    pub fn max_map_count(&self) -> usize {
        usize::try_from(self.max_map_count.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Sets `vm.max_map_count`.
    pub fn set_max_map_count(&self, count: u64) {
        self.max_map_count.store(count, Ordering::Relaxed);
    }

    /// `vm.mmap_min_addr`, in bytes: nothing is placed below.
    #[must_use]
    pub fn mmap_min_addr(&self) -> u64 {
        self.mmap_min_addr.load(Ordering::Relaxed)
    }

    /// Sets `vm.mmap_min_addr`.
    pub fn set_mmap_min_addr(&self, bytes: u64) {
        self.mmap_min_addr.store(bytes, Ordering::Relaxed);
    }

    /// Says how much memory the machine has, in pages.
    pub fn set_total_pages(&self, pages: u64) {
        self.total_pages.store(pages, Ordering::Relaxed);
    }

    /// All promises that may be given in mode 2, in pages (`CommitLimit` of /proc/meminfo).
    #[must_use]
    pub fn commit_limit(&self) -> u64 {
        let ratio = self.overcommit_ratio.load(Ordering::Relaxed);
        let limit = u128::from(self.total_pages.load(Ordering::Relaxed)) * u128::from(ratio) / 100;
        u64::try_from(limit).unwrap_or(u64::MAX)
    }

    /// Whether `pages` more may be promised, with which there are `committed` in all, to a process
    /// that has `mapped` pages (Linux's `__vm_enough_memory`).
    pub(crate) fn allows(&self, committed: u64, pages: u64, mapped: u64) -> bool {
        match self.overcommit() {
            Overcommit::Always => true,
            Overcommit::Guess => pages <= self.total_pages.load(Ordering::Relaxed),
            Overcommit::Never => {
                let reserve = ADMIN_RESERVE + (mapped / 32).min(USER_RESERVE);
                committed < self.commit_limit().saturating_sub(reserve)
            }
        }
    }
}
