//! The machine's settings that memory calls feel (Linux's `vm.*` of sysctl(8)). All spaces share them;
//! any may change at any time.

mod thp;

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

pub(crate) use thp::Orders;
pub use thp::{OfSize, SizeThp, Thp};

use crate::addr::PAGE_SIZE;
use crate::vma::VmFlags;
use crate::vma::limits::Capabilities;

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

/// Kibibytes of a page, the unit of some settings.
const PAGE_KBYTES: u64 = PAGE_SIZE >> 10;

/// Who asks for a promise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimant {
    /// Pages that it has mapped (`total_vm`).
    pub(crate) mapped: u64,
    /// What it may do: `CAP_SYS_ADMIN` may use the administrator's reserve.
    pub(crate) capabilities: Capabilities,
}

/// The settings. The defaults are those of Linux 6.18 on x86-64.
#[derive(Debug)]
pub struct Sysctl {
    overcommit: AtomicU8,
    overcommit_ratio: AtomicI32,
    overcommit_kbytes: AtomicU64,
    admin_reserve_kbytes: AtomicU64,
    user_reserve_kbytes: AtomicU64,
    max_map_count: AtomicU64,
    mmap_min_addr: AtomicU64,
    total_pages: AtomicU64,
    swap_pages: AtomicU64,
    fault_ahead: AtomicU64,
    thp: AtomicU8,
    thp_sizes: thp::Sizes,
}

impl Default for Sysctl {
    fn default() -> Self {
        Sysctl {
            overcommit: AtomicU8::new(0),
            overcommit_ratio: AtomicI32::new(50),
            overcommit_kbytes: AtomicU64::new(0),
            admin_reserve_kbytes: AtomicU64::new(8 << 10),
            user_reserve_kbytes: AtomicU64::new(128 << 10),
            max_map_count: AtomicU64::new(65530),
            mmap_min_addr: AtomicU64::new(PAGE_SIZE),
            total_pages: AtomicU64::new(Sysctl::ENDLESS),
            swap_pages: AtomicU64::new(0),
            fault_ahead: AtomicU64::new(64),
            thp: AtomicU8::new(Thp::Madvise as u8),
            thp_sizes: thp::Sizes::default(),
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

    /// When huge pages are given.
    #[must_use]
    pub fn thp(&self) -> Thp {
        let now = self.thp.load(Ordering::Relaxed);
        [Thp::Always, Thp::Never].into_iter().find(|&thp| thp as u8 == now).unwrap_or(Thp::Madvise)
    }

    /// Sets when.
    pub fn set_thp(&self, thp: Thp) {
        self.thp.store(thp as u8, Ordering::Relaxed);
    }

    /// Sets when memory is given in one size. By default 2 MiB are given as [`thp`](Self::thp) says, and no smaller
    /// sizes. What processes that run have ahead of a touch by then still comes page by page.
    pub fn set_thp_size(&self, of_size: OfSize) {
        self.thp_sizes.set(of_size);
    }

    /// The sizes in which memory with these flags is given (`thp_vma_allowable_orders`).
    #[inline]
    pub(crate) fn thp_orders(&self, flags: VmFlags) -> Orders {
        self.thp_sizes.of(self.thp(), flags)
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

    /// Sets `vm.overcommit_ratio`: how many hundredths of all memory may be promised in mode 2. It takes
    /// the place of a size. A negative one makes the limit none that could be reached.
    pub fn set_overcommit_ratio(&self, percent: i32) {
        self.overcommit_ratio.store(percent, Ordering::Relaxed);
        self.overcommit_kbytes.store(0, Ordering::Relaxed);
    }

    /// `vm.overcommit_ratio`, in hundredths.
    #[must_use]
    pub fn overcommit_ratio(&self) -> i32 {
        self.overcommit_ratio.load(Ordering::Relaxed)
    }

    /// `vm.overcommit_kbytes`.
    #[must_use]
    pub fn overcommit_kbytes(&self) -> u64 {
        self.overcommit_kbytes.load(Ordering::Relaxed)
    }

    /// `vm.admin_reserve_kbytes`.
    #[must_use]
    pub fn admin_reserve_kbytes(&self) -> u64 {
        self.admin_reserve_kbytes.load(Ordering::Relaxed)
    }

    /// `vm.user_reserve_kbytes`.
    #[must_use]
    pub fn user_reserve_kbytes(&self) -> u64 {
        self.user_reserve_kbytes.load(Ordering::Relaxed)
    }

    /// Sets `vm.overcommit_kbytes`: how much may be promised in mode 2, in KiB. It takes the place of a
    /// ratio, which is 0 from then on.
    pub fn set_overcommit_kbytes(&self, kbytes: u64) {
        self.overcommit_kbytes.store(kbytes, Ordering::Relaxed);
        self.overcommit_ratio.store(0, Ordering::Relaxed);
    }

    /// Sets `vm.admin_reserve_kbytes`: what is kept in mode 2 for those with `CAP_SYS_ADMIN`, in KiB.
    pub fn set_admin_reserve_kbytes(&self, kbytes: u64) {
        self.admin_reserve_kbytes.store(kbytes, Ordering::Relaxed);
    }

    /// Sets `vm.user_reserve_kbytes`: how much one process leaves to others in mode 2 at most, in KiB.
    pub fn set_user_reserve_kbytes(&self, kbytes: u64) {
        self.user_reserve_kbytes.store(kbytes, Ordering::Relaxed);
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

    /// How much memory the machine has, in pages.
    #[must_use]
    pub fn total_pages(&self) -> u64 {
        self.total_pages.load(Ordering::Relaxed)
    }

    /// Says how large the swap area is, in pages.
    pub(crate) fn set_swap_pages(&self, pages: u64) {
        self.swap_pages.store(pages, Ordering::Relaxed);
    }

    /// All promises that may be given in mode 2, in pages (`CommitLimit` of /proc/meminfo).
    #[must_use]
    pub fn commit_limit(&self) -> u64 {
        let swap = self.swap_pages.load(Ordering::Relaxed);
        let kbytes = self.overcommit_kbytes.load(Ordering::Relaxed);
        if kbytes != 0 {
            return (kbytes / PAGE_KBYTES).saturating_add(swap);
        }
        let ratio = self.overcommit_ratio.load(Ordering::Relaxed);
        let Ok(ratio) = u128::try_from(ratio) else { return u64::MAX };
        let limit = u128::from(self.total_pages.load(Ordering::Relaxed)) * ratio / 100;
        u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(swap)
    }

    /// What one process may bring all promises to in mode 2, in pages.
    pub(crate) fn commit_limit_for(&self, claimant: Claimant) -> u64 {
        let pages = |kbytes: &AtomicU64| kbytes.load(Ordering::Relaxed) / PAGE_KBYTES;
        let mut limit = self.commit_limit();
        if !claimant.capabilities.contains(Capabilities::SYS_ADMIN) {
            limit = limit.saturating_sub(pages(&self.admin_reserve_kbytes));
        }
        limit.saturating_sub((claimant.mapped / 32).min(pages(&self.user_reserve_kbytes)))
    }

    /// Whether `pages` more may be promised to a process, with which there are `committed` in all
    /// (Linux's `__vm_enough_memory`).
    pub(crate) fn allows(&self, committed: u64, pages: u64, claimant: Claimant) -> bool {
        match self.overcommit() {
            Overcommit::Always => true,
            Overcommit::Guess => {
                let memory = self.total_pages.load(Ordering::Relaxed);
                pages <= memory.saturating_add(self.swap_pages.load(Ordering::Relaxed))
            }
            Overcommit::Never => committed < self.commit_limit_for(claimant),
        }
    }
}
