//! Equal pages become one (Linux's `mm/ksm.c`), in memory that programs want that for (`MADV_MERGEABLE`): one thread of
//! whoever has the machine calls [`System::ksm`] now and then.
//!
//! ```text
//!   a page with a checksum
//!     as a merged page has it            ──> its entry names that one, unless as many do as may
//!     other than when it was last seen   ──> volatile: looked at again in the next scan
//!     as one seen earlier in this scan   ──> a merged page is made; both entries name it
//!     else                               ──> remembered until the scan ends
//! ```
//!
//! A merged page is a frame of its own kind ([`FrameKind::Merged`]), which everybody copies before he writes. It goes with
//! the last entry that names it; what is noted of it here is no reference. Of what more pages have than may share one there
//! are several (a chain of Linux's, with its dups).

use std::collections::HashMap;
use std::collections::hash_map::{Entry as Slot, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::addr::{Frame, PAGE_SIZE, VirtAddr};
use crate::error::Broken;
use crate::phys::{FrameKind, Frames};
use crate::space::{Looked, SpaceHolder, Target, ToMerge, Tour};
use crate::system::System;

/// How many pages ksmd looks at each time (`pages_to_scan` of /sys/kernel/mm/ksm).
pub const PAGES_TO_SCAN: u64 = 100;

/// How many pages become one at most (`max_page_sharing`), so that who looks for its entries has an end. Forks make more
/// of them.
pub const MAX_PAGE_SHARING: u64 = 256;

/// How many pages of a space are looked at with its lock held.
const AT_ONCE: u64 = 128;

/// What it has done, as /sys/kernel/mm/ksm tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KsmStats {
    /// Merged pages (`pages_shared`).
    pub shared: u64,
    /// Entries that name them, but for one each: what is saved (`pages_sharing`).
    pub sharing: u64,
    /// Pages merged so far, each that now names, or has named, a merged page; Linux does not count them.
    pub merged: u64,
    /// Contents of which there are several merged pages, since one would be shared too often (`stable_node_chains`).
    pub chains: u64,
    /// Those merged pages (`stable_node_dups`).
    pub dups: u64,
    /// Pages that are no other's equal (`pages_unshared`).
    pub unshared: u64,
    /// Pages that have changed since they were last seen (`pages_volatile`).
    pub volatile: u64,
    /// Pages looked at (`pages_scanned`).
    pub scanned: u64,
    /// How often it was through with all spaces (`full_scans`).
    pub full_scans: u64,
}

/// What a machine knows of equal pages.
#[derive(Debug, Default)]
pub(crate) struct Ksm {
    /// Over the locks of spaces, one at a time.
    state: Mutex<State>,
    scanned: AtomicU64,
    merged: AtomicU64,
    full_scans: AtomicU64,
}

/// A page of a space, by number and address.
type Page = (u64, VirtAddr);

#[derive(Debug, Default)]
struct State {
    next: Tour,
    hasher: RandomState,
    /// Merged pages by checksum (Linux's stable tree), the newest last: the others are mostly shared as often as they may
    /// be. Those that are gone go in the end of a scan.
    merged: HashMap<u64, Vec<Frame>>,
    /// The checksum of each of those.
    checksums: HashMap<Frame, u64>,
    /// The first page with each checksum of this scan (the unstable tree).
    first: HashMap<u64, Page>,
    /// Checksums of pages that are not merged, and in which scan they were seen.
    seen: HashMap<Page, (u64, u64)>,
}

/// What is to become of a page.
enum Fate {
    /// Nothing yet.
    Waits,
    /// It is made one with a merged page.
    Joins(Frame),
    /// A merged page is made of it and another.
    Begins(Page),
}

impl System {
    /// Has spaces from now on known to [`ksm`](Self::ksm), which somebody will call.
    pub fn enable_ksm(&self) {
        self.spaces.watch();
    }

    /// Looks at so many pages, where the last call has stopped, and merges equal ones; no further than through all
    /// spaces once.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn ksm(&self, pages: u64) -> Result<(), Broken> {
        let mut state = self.ksm.state();
        let mut left = pages;
        while left > 0 {
            let Some(space) = self.spaces.go_on(&mut state.next) else {
                let scan = self.ksm.full_scans.fetch_add(1, Ordering::Relaxed);
                state.end_scan(scan, self.frames());
                break;
            };
            let looked = self.look_for_equal(&space, &mut state, left.min(AT_ONCE));
            space.put()?;
            left = left.saturating_sub(looked?);
        }
        Ok(())
    }

    /// Looks at the next pages of a space; says at how many.
    fn look_for_equal(
        &self,
        space: &SpaceHolder,
        state: &mut State,
        most: u64,
    ) -> Result<u64, Broken> {
        let number = state.next.space;
        let hash = |bytes: &[u8]| state.hasher.hash_one(bytes);
        let looked = space.space().look().mergeable_pages(state.next.addr, most, hash);
        let Looked { entries, pages, last } = looked;
        self.ksm.scanned.fetch_add(entries, Ordering::Relaxed);
        let scan = self.ksm.full_scans.load(Ordering::Relaxed);
        let mut joining = Vec::new();
        let mut coming: HashMap<Frame, u64> = HashMap::new();
        for &(addr, checksum) in &pages {
            let names = |frame| {
                let coming = coming.get(&frame).copied().unwrap_or(0);
                is_merged(self.frames(), frame).then(|| self.names(frame) + coming)
            };
            match state.fate((number, addr), checksum, scan, names) {
                Fate::Waits => {}
                Fate::Joins(frame) => {
                    joining.push(ToMerge { addr, into: Target::Merged(frame) });
                    *coming.entry(frame).or_default() += 1;
                }
                Fate::Begins(other) => self.begin_merged(space, state, addr, checksum, other)?,
            }
        }
        let merged = self.merge_in(space, &joining)?;
        for (page, merged) in joining.iter().zip(merged) {
            if merged.is_some() {
                state.seen.remove(&(number, page.addr));
            }
        }
        match last {
            Some(last) if entries >= most => state.next.addr = last.offset(PAGE_SIZE),
            _ => state.next.leave(),
        }
        Ok(entries)
    }

    /// Merges pages of a space; says of each which merged page it names then.
    fn merge_in(
        &self,
        space: &SpaceHolder,
        pages: &[ToMerge],
    ) -> Result<Vec<Option<Frame>>, Broken> {
        let merged = space.space().change().merge_as_visitor(pages)?;
        let count = merged.iter().flatten().count() as u64;
        self.ksm.merged.fetch_add(count, Ordering::Relaxed);
        Ok(merged)
    }

    /// Makes a merged page of one in this space, and another.
    fn begin_merged(
        &self,
        space: &SpaceHolder,
        state: &mut State,
        addr: VirtAddr,
        checksum: u64,
        other: Page,
    ) -> Result<(), Broken> {
        state.first.remove(&checksum);
        let begun = [ToMerge { addr, into: Target::New }];
        let begun = self.merge_in(space, &begun)?;
        let Some(&Some(frame)) = begun.first() else { return Ok(()) };
        // It may have been a merged page before, with other bytes.
        if let Some(old) = state.checksums.insert(frame, checksum) {
            state.merged.entry(old).or_default().retain(|&merged| merged != frame);
        }
        state.merged.entry(checksum).or_default().push(frame);
        state.seen.remove(&(state.next.space, addr));
        let Some(holder) = self.spaces.hold(other.0) else { return Ok(()) };
        let joining = [ToMerge { addr: other.1, into: Target::Merged(frame) }];
        let joined = self.merge_in(&holder, &joining);
        holder.put()?;
        if joined?.first().is_some_and(Option::is_some) {
            state.seen.remove(&other);
        }
        Ok(())
    }

    /// How many entries name a merged page.
    fn names(&self, frame: Frame) -> u64 {
        u64::from(self.frames().maps(frame))
    }

    /// What has been done so far.
    #[must_use]
    pub fn ksm_stats(&self) -> KsmStats {
        let state = self.ksm.state();
        let there = |&&frame: &&Frame| is_merged(self.frames(), frame);
        let of_one = |same: &Vec<Frame>| same.iter().filter(there).count() as u64;
        let several = || state.merged.values().map(of_one).filter(|&several| several > 1);
        let maps = || state.merged.values().flatten().filter(there).map(|&frame| self.names(frame));
        let unshared = state.first.len() as u64;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        KsmStats {
            shared: maps().count() as u64,
            sharing: maps().map(|maps| maps.saturating_sub(1)).sum(),
            chains: several().count() as u64,
            dups: several().sum(),
            merged: get(&self.ksm.merged),
            unshared,
            volatile: (state.seen.len() as u64).saturating_sub(unshared),
            scanned: get(&self.ksm.scanned),
            full_scans: get(&self.ksm.full_scans),
        }
    }
}

impl State {
    /// What is to become of a page; `names` says of a merged one how many entries name it, if there is such a page still.
    fn fate(
        &mut self,
        page: Page,
        checksum: u64,
        scan: u64,
        names: impl Fn(Frame) -> Option<u64>,
    ) -> Fate {
        let has_room =
            |&&frame: &&Frame| names(frame).is_some_and(|names| names < MAX_PAGE_SHARING);
        let same = self.merged.get(&checksum).into_iter().flatten();
        if let Some(&frame) = same.rev().find(has_room) {
            return Fate::Joins(frame);
        }
        let before = self.seen.insert(page, (checksum, scan));
        if before.is_none_or(|(before, _)| before != checksum) {
            return Fate::Waits;
        }
        match self.first.entry(checksum) {
            Slot::Vacant(vacant) => {
                vacant.insert(page);
                Fate::Waits
            }
            Slot::Occupied(other) if *other.get() == page => Fate::Waits,
            Slot::Occupied(other) => Fate::Begins(*other.get()),
        }
    }

    /// What was not met in this scan is forgotten.
    fn end_scan(&mut self, scan: u64, frames: &Frames) {
        self.first.clear();
        self.seen.retain(|_, &mut (_, seen)| seen == scan);
        self.merged.retain(|_, same| {
            same.retain(|&frame| is_merged(frames, frame));
            !same.is_empty()
        });
        self.checksums.retain(|&frame, _| is_merged(frames, frame));
    }
}

impl Ksm {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there still is such a page: it may be gone, and its frame another's.
fn is_merged(frames: &Frames, frame: Frame) -> bool {
    frames.kind(frame) == Some(FrameKind::Merged) && frames.maps(frame) > 0
}
