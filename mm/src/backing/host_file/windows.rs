//! The windows of a file, and how many of them a machine may have.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::Frame;

/// The most windows of all files together, 32 GiB: a quarter of the VMAs that the host lets it have
/// (`vm.max_map_count`).
const MOST_WINDOWS: u64 = 16_384;

/// How many windows all files of a machine may have together, and how many they have.
#[derive(Debug)]
pub(crate) struct WindowBudget {
    most: u64,
    open: AtomicU64,
}

impl Default for WindowBudget {
    fn default() -> Self {
        WindowBudget::new(MOST_WINDOWS)
    }
}

impl WindowBudget {
    pub(crate) const fn new(most: u64) -> Self {
        WindowBudget { most, open: AtomicU64::new(0) }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self) -> bool {
        let more = |open: u64| (open < self.most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn give_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many windows of a file stay when memory is short: more than one access can need at once, so that each comes
/// to its end.
const KEPT_WINDOWS: usize = 4;

/// The windows of a file.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// By the number of the part of the file.
    pub(super) open: BTreeMap<u64, Window>,
    /// The same numbers, the one that was opened first in front.
    order: VecDeque<u64>,
    /// Blocks of windows that were closed while somebody's flush still had frames of theirs.
    pub(super) closing: Vec<Frame>,
}

/// A part of the file that is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The first frame of its block.
    pub(super) start: Frame,
    /// How the host has it.
    pub(super) pieces: Pieces,
}

/// In what the host has a window's pages in its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pieces {
    /// It has not been asked.
    Unknown,
    /// In one, which one of its entries maps.
    One,
    /// In several.
    Several,
}

impl Windows {
    pub(super) fn get(&self, number: u64) -> Option<Frame> {
        self.open.get(&number).map(|window| window.start)
    }

    pub(super) fn insert(&mut self, number: u64, start: Frame) {
        self.open.insert(number, Window { start, pieces: Pieces::Unknown });
        self.order.push_back(number);
    }

    /// Takes out some of the oldest.
    pub(super) fn take_oldest(&mut self) -> Vec<(u64, Frame)> {
        let most = self.order.len().saturating_sub(KEPT_WINDOWS);
        let some = (self.order.len() / 8 + 1).min(most);
        let oldest = self.order.drain(..some);
        oldest.filter_map(|number| Some((number, self.open.remove(&number)?.start))).collect()
    }
}
