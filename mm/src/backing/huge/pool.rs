//! The machine's huge pages of one size (Linux's `struct hstate`): taken out of its memory when it starts, and
//! nobody else's until they are given up.
//!
//! ```text
//!   a page is free ──take──> an entry names it, or an object has it ──last one gone, flushed──> free
//!
//!   reserved pages are free ones that somebody has been promised: who has not must leave so many
//! ```
//!
//! The pool holds one reference to each page for good, so a page that nobody else holds is free, and no other
//! record has to be kept of it. Which page is free is looked up: a load for each page, against 2 MiB of zeros to
//! be written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addr::{FrameRun, PAGE_SHIFT};
use crate::error::{Broken, Errno};
use crate::phys::{AllocError, Contents, FrameKind, Frames, Order};

/// Whether whoever takes a page has been promised it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// He has: one promise less is left.
    Promised,
    /// He has not: what others have been promised stays.
    None,
}

/// How many pages of a pool there are, as /proc/meminfo counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HugePoolStats {
    /// All (`HugePages_Total`).
    pub total: u64,
    /// Those that nobody uses (`HugePages_Free`).
    pub free: u64,
    /// Those of them that are promised (`HugePages_Rsvd`).
    pub reserved: u64,
}

/// The huge pages of one size.
#[derive(Debug)]
pub struct HugePool {
    frames: Arc<Frames>,
    order: Order,
    /// A leaf lock but for [`Frames`].
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pages: Vec<FrameRun>,
    /// How many free ones somebody has been promised.
    reserved: u64,
    /// Where the next free page is looked for first.
    next: usize,
}

impl HugePool {
    /// A pool without pages. It is of 2 MiB or 1 GiB.
    pub(crate) fn new(frames: &Arc<Frames>, order: Order) -> Self {
        HugePool { frames: Arc::clone(frames), order, state: Mutex::default() }
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.order.frames() << PAGE_SHIFT
    }

    /// Takes pages out of the machine's memory until there are `count`, or gives free ones back that nobody was
    /// promised (`vm.nr_hugepages`). Says how many there are then: as many as memory allows, or are needed.
    ///
    /// # Errors
    /// [`Broken`] when the host failed.
    pub fn resize(&self, count: u64) -> Result<u64, Broken> {
        let mut state = self.state();
        while (state.pages.len() as u64) < count {
            match self.frames.alloc_order(FrameKind::Huge, Contents::Any, self.order) {
                Ok(run) => state.pages.push(run),
                Err(AllocError::OutOfMemory) => break,
                Err(AllocError::Broken(broken)) => return Err(broken),
            }
        }
        while state.pages.len() as u64 > count && self.free_of(&state) > state.reserved {
            let Some(at) = state.pages.iter().rposition(|&run| self.is_free(run)) else { break };
            let run = state.pages.swap_remove(at);
            self.frames.put_run(run)?;
        }
        Ok(state.pages.len() as u64)
    }

    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> HugePoolStats {
        let state = self.state();
        let total = state.pages.len() as u64;
        HugePoolStats { total, free: self.free_of(&state), reserved: state.reserved }
    }

    /// The pages, each as its frames: for the audit.
    pub(crate) fn pages(&self) -> Vec<FrameRun> {
        self.state().pages.clone()
    }

    /// Promises so many pages (`hugetlb_acct_memory`).
    ///
    /// # Errors
    /// `ENOMEM` where so many are not free, or promised already.
    pub(super) fn reserve(&self, pages: u64) -> Result<(), Errno> {
        if pages == 0 {
            return Ok(());
        }
        let mut state = self.state();
        let reserved = state.reserved.checked_add(pages).ok_or(Errno::ENOMEM)?;
        if reserved > self.free_of(&state) {
            return Err(Errno::ENOMEM);
        }
        state.reserved = reserved;
        Ok(())
    }

    /// Takes a promise of so many pages back.
    pub(super) fn unreserve(&self, pages: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(pages);
    }

    /// A promise is made again to who has just given a page up: it is free when that is flushed.
    pub(super) fn restore(&self) {
        self.state().reserved += 1;
    }

    /// Takes a free page, whatever is in it; the caller has one reference. `None` if there is none for him.
    pub(super) fn take(&self, claim: Claim) -> Option<FrameRun> {
        let mut state = self.state();
        if claim == Claim::None && self.free_of(&state) <= state.reserved {
            return None;
        }
        let count = state.pages.len();
        let mut from_next = (0..count).map(|i| (state.next + i) % count);
        let at = from_next.find(|&at| self.is_free(state.pages[at]))?;
        let run = state.pages[at];
        self.frames.get_run(run);
        state.next = at + 1;
        if claim == Claim::Promised {
            state.reserved = state.reserved.saturating_sub(1);
        }
        Some(run)
    }

    /// The frames that the pages are in.
    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The last frame's references are given up last.
    fn is_free(&self, run: FrameRun) -> bool {
        self.frames.references(run.start.offset(run.count - 1)) == 1
    }

    fn free_of(&self, state: &State) -> u64 {
        state.pages.iter().filter(|&&run| self.is_free(run)).count() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
