//! The history of pages that somebody wants to follow (`--trace-page`): a comment in the trace, each time
//! that one is not what it was.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mm::addr::VirtAddr;
use mm::inspect::{PageState, page};
use mm::space::SharedSpace;

/// The pages, and what they were when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct History {
    pages: Vec<VirtAddr>,
    /// By process and address.
    last: Mutex<BTreeMap<(i32, VirtAddr), PageState>>,
}

impl History {
    /// Follows the pages of these addresses.
    pub(super) fn of(pages: &[VirtAddr]) -> Self {
        let mut pages: Vec<VirtAddr> = pages.iter().map(|addr| addr.page_floor()).collect();
        pages.sort_unstable();
        pages.dedup();
        History { pages, last: Mutex::default() }
    }

    /// What is to be told of the pages of process `pid` after a call or a fault of it.
    pub(super) fn changes(&self, pid: i32, space: &SharedSpace) -> Vec<String> {
        if self.pages.is_empty() {
            return Vec::new();
        }
        let space = space.look();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.pages.iter().filter_map(|&addr| {
            let now = page(&space, addr);
            (last.insert((pid, addr), now) != Some(now))
                .then(|| format!("# page {addr} of {pid}: {now}"))
        });
        changed.collect()
    }

    /// Process `pid` has ended: another may get its number.
    pub(super) fn forget(&self, pid: i32) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|&(whose, _), _| whose != pid);
    }
}
