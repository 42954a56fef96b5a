//! Small pages become huge ones in the background (Linux's `mm/khugepaged.c`): one thread of whoever has the machine
//! calls [`System::khugepaged`] now and then.
//!
//! ```text
//!   each space in turn ── lock shared ──> the next 2 MiB worth it (space/khugepaged)
//!                      └─ lock, alone ──> the same looked at again, then as MADV_COLLAPSE (space/collapse)
//! ```
//!
//! Spaces are held, not used, while they are looked at: a process ends without it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::addr::VirtAddr;
use crate::error::Broken;
use crate::phys::BLOCK_FRAMES;
use crate::space::{SpaceHolder, Tour};
use crate::system::System;

/// How often khugepaged looks, in milliseconds (`scan_sleep_millisecs`).
pub const SCAN_SLEEP_MILLISECS: u64 = 10_000;
/// How many pages it looks at then (`pages_to_scan`).
pub const PAGES_TO_SCAN: u64 = 8 * BLOCK_FRAMES;
/// How long it waits when there was no memory for a huge page, in milliseconds (`alloc_sleep_millisecs`).
pub const ALLOC_SLEEP_MILLISECS: u64 = 60_000;

/// Which small pages may be missing where a huge one is made, of 512
/// (/sys/kernel/mm/transparent_hugepage/khugepaged).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaxPtes {
    /// Not there, or zeros that were only read.
    pub none: u64,
    /// In the swap area.
    pub swap: u64,
    /// Also in other processes.
    pub shared: u64,
}

impl Default for MaxPtes {
    fn default() -> Self {
        MaxPtes { none: BLOCK_FRAMES - 1, swap: BLOCK_FRAMES / 8, shared: BLOCK_FRAMES / 2 }
    }
}

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scanned {
    /// It has looked at as many pages as it was to, or at all there are.
    Enough,
    /// There is no memory for a huge page.
    NoMemory,
}

/// What came of 2 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Collapsed {
    Made,
    /// It is not what it was a moment ago.
    Not,
    NoMemory,
}

/// What it has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KhugepagedStats {
    /// Huge pages that it made (`pages_collapsed`).
    pub collapsed: u64,
    /// How often it was through with all spaces (`full_scans`).
    pub full_scans: u64,
}

/// What a machine knows of it.
#[derive(Debug, Default)]
pub(crate) struct Khugepaged {
    max_ptes: Mutex<MaxPtes>,
    /// Where it goes on. Over the locks of spaces.
    next: Mutex<Tour>,
    collapsed: AtomicU64,
    full_scans: AtomicU64,
}

impl System {
    /// Has spaces from now on known to [`khugepaged`](Self::khugepaged), which somebody will call.
    pub fn enable_khugepaged(&self) {
        self.spaces.watch();
    }

    /// Looks at some pages, 2 MiB at a time, where the last call has stopped, and makes huge pages where that is worth
    /// it: in memory that faults would get huge pages for, if enough small ones are there
    /// ([`set_max_ptes`](Self::set_max_ptes)), one of them at least used of late.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn khugepaged(&self, pages: u64) -> Result<Scanned, Broken> {
        let mut next = self.khugepaged.next();
        let mut left = pages;
        while let Some(space) = self.spaces.go_on(&mut next) {
            let scanned = self.scan(&space, &mut next.addr, &mut left);
            space.put()?;
            match scanned? {
                Some(scanned) => return Ok(scanned),
                None => next.leave(),
            }
        }
        self.khugepaged.full_scans.fetch_add(1, Ordering::Relaxed);
        Ok(Scanned::Enough)
    }

    /// Looks at a space from an address on, which is moved on; says what came of it if it did not reach the end.
    fn scan(
        &self,
        space: &SpaceHolder,
        addr: &mut VirtAddr,
        left: &mut u64,
    ) -> Result<Option<Scanned>, Broken> {
        loop {
            if *left == 0 {
                return Ok(Some(Scanned::Enough));
            }
            let Some(span) = space.space().look().next_to_look_at(*addr) else { return Ok(None) };
            *addr = span.end();
            *left = left.saturating_sub(BLOCK_FRAMES);
            if !space.space().look().is_worth_a_huge_page(span) {
                continue;
            }
            match space.space().change().collapse_as_visitor(span)? {
                Collapsed::Made => {
                    self.khugepaged.collapsed.fetch_add(1, Ordering::Relaxed);
                }
                Collapsed::Not => {}
                Collapsed::NoMemory => return Ok(Some(Scanned::NoMemory)),
            }
        }
    }

    /// What khugepaged has done so far.
    #[must_use]
    pub fn khugepaged_stats(&self) -> KhugepagedStats {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Khugepaged { collapsed, full_scans, .. } = &self.khugepaged;
        KhugepagedStats { collapsed: get(collapsed), full_scans: get(full_scans) }
    }

    /// How many small pages may be missing where a huge one is made.
    #[must_use]
    pub fn max_ptes(&self) -> MaxPtes {
        *self.khugepaged.max_ptes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many.
    pub fn set_max_ptes(&self, max: MaxPtes) {
        *self.khugepaged.max_ptes.lock().unwrap_or_else(PoisonError::into_inner) = max;
    }
}

impl Khugepaged {
    fn next(&self) -> MutexGuard<'_, Tour> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
