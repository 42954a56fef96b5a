//! What the host's own page table is like (`PAGEMAP_SCAN` of `/proc/self/pagemap`, Linux 6.7; the host's
//! `Documentation/admin-guide/mm/pagemap.rst`).

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// A page that an entry of the second-lowest level maps (`PAGE_IS_HUGE`).
const HUGE: u64 = 1 << 6;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);

/// This process's pagemap, if the host has one.
#[derive(Debug)]
pub(super) struct Pagemap(Option<File>);

impl Pagemap {
    /// Opens it.
    pub(super) fn new() -> Self {
        Pagemap(File::open("/proc/self/pagemap").ok())
    }

    /// Whether all of these addresses, in bytes, are in huge pages, each mapped by one entry. A host that does not say so
    /// has none.
    pub(super) fn is_huge(&self, addresses: Range<u64>) -> bool {
        let Some(pagemap) = &self.0 else { return false };
        let mut region = Region::default();
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start: addresses.start,
            end: addresses.end,
            vec: (&raw mut region) as u64,
            vec_len: 1,
            category_mask: HUGE,
            return_mask: HUGE,
            ..Scan::default()
        };
        // SAFETY: the call reads and writes `scan`, and writes one region at most where `vec` says.
        let found = unsafe { pagemap_scan(pagemap.as_raw_fd(), &raw mut scan) };
        found == Ok(1) && region.start <= addresses.start && addresses.end <= region.end
    }
}
