//! A copy for the other one (no counterpart in Linux): of the two that name an anonymous page, the one who writes
//! it keeps it, and the other gets the copy, if no vCPU has ever used his entry.
//!
//! ```text
//!                        writer's entry      the other's entry
//!   before               F, read-only, A     F, read-only        A clear: in no translation cache
//!   copied, exchanged    F, read-only, A     G, read-only        nothing to flush
//!   taken over           F, writable, A      G, read-only        a permission more: nothing to flush
//!
//!   a copy for the writer instead: his old translation is flushed, and the new one learnt
//! ```
//!
//! For one page only. Of pages that are written one after the other the flush is no loss, as it is one for all:
//! software KVM takes a fault for each translation that it has to permit a write, but learns up to eight at a
//! time where it has none (measured: 4 us a page more, against 12 us for the flush of 64).
//!
//! It is the case after a fork that kept the parent's root ([`ForkedRoot::Kept`](crate::paging::ForkedRoot)): what
//! the parent writes, the child has mostly not looked at. To both, and to all who look, it is as with the copy the
//! other way round: the same bytes, the same bits, each with a page of his own.
//!
//! Why it is right, although nobody here has the other space's lock:
//!
//! - **The copy is the page.** F has one reference more from before the copy until after the exchange, and only
//!   who finds a single one lets F be written (`is_only_owner`). Who had found it before would have to be F's only
//!   owner; but after the reference was taken, both the writer's entry and the other's are seen to name F. Whatever
//!   was writable before a fork was flushed before the fork let go of the space's lock, which the writer holds.
//! - **Nobody has the other's entry cached.** A is clear when it is exchanged: hardware that uses it meanwhile sets A
//!   by an exchange of its own, and one of the two fails. Where A is cleared of an entry that may be cached,
//!   the flush comes later (`space/age`), but the page is marked `LAZY` by then, or has no other owner.
//! - **The other's own calls and faults** take entries as they find them at that moment, by an exchange. Those which
//!   look at the page first and change its entry or its marks afterwards hold the table still, as a fork and
//!   a move do: so does the search that leads here. `MADV_FREE` would otherwise clear A of the copy, which may be
//!   cached by then, and flush the page. And who finds himself to be the only owner takes the page over after the
//!   exchange of his entry: it may be a copy by then, and the page the writer's.
//! - **Two that try at once**, of one space or each for the other: of their exchanges one succeeds.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use super::At;
use super::cow::{exchange_entry, is_shared_own};
use crate::addr::{Frame, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::Broken;
use crate::hooks::Invalidation;
use crate::paging::{Entry, Owner};
use crate::phys::{AllocError, Contents, FrameKind, Marks};
use crate::rmap::Found;
use crate::space::AddressSpace;
use crate::space::ahead::Stretch;

impl AddressSpace {
    /// Gives the one other who names the page a copy of it. Says whether that was done; if not, nothing has
    /// changed.
    pub(super) fn hand_off(&self, at: &At<'_>, entry: Entry) -> Result<bool, Broken> {
        let frames = self.system.frames();
        let of_two = |&frame: &Frame| frames.is_of_two(frame);
        // A page that was never cached here can be copied without a flush as well.
        let frame = entry.frame().filter(of_two).filter(|_| entry.is_accessed());
        let Some(frame) = frame.filter(|&frame| frames.try_get(frame)) else { return Ok(false) };
        // From here on nobody finds himself to be the only owner; and nobody had before, if this still names it.
        let now = Entry::new(at.slot().load(Ordering::Acquire));
        let done = if is_shared_own(now) && now.frame() == Some(frame) {
            self.copy_for_other(at.slot(), frame)
        } else {
            Ok(false)
        };
        if matches!(done, Ok(true)) {
            // The copy has all that is remembered of the page: this one is as good as new, unless the other has
            // forked meanwhile.
            if frames.maps(frame) == 1 {
                frames.unmark(frame, Marks::all() - Marks::SWAP_CACHED);
            }
            self.counters.faults.handed_off.fetch_add(1, Ordering::Relaxed);
            self.ahead.came(at.page, Stretch { way: at.usual_way(), pages: 1 });
        }
        frames.put(frame)?;
        done
    }

    /// Looks for the other entry, and has it name a copy. The caller has a reference to the frame.
    fn copy_for_other(&self, own: &AtomicU64, frame: Frame) -> Result<bool, Broken> {
        let (anon, frames) = (self.system.anon(), self.system.frames());
        let found = anon.few_entries_of(frames, frame, |found| {
            if std::ptr::eq(found.slot, own) {
                return ControlFlow::Continue(());
            }
            ControlFlow::Break(self.exchange_other(frame, &found))
        });
        found.break_value().unwrap_or(Ok(false))
    }

    /// Puts a copy in the place of the page, in an entry of any space.
    fn exchange_other(&self, frame: Frame, other: &Found<'_>) -> Result<bool, Broken> {
        let (frames, old) = (self.system.frames(), other.entry);
        let marks = frames.marks(frame);
        // What becomes of a lazy page depends on how many name it.
        if !is_shared_own(old) || old.is_large() || old.is_accessed() || marks.contains(Marks::LAZY)
        {
            return Ok(false);
        }
        let copy = match frames.alloc(FrameKind::Anonymous, Contents::Any) {
            Ok(copy) => copy,
            Err(AllocError::OutOfMemory) => return Ok(false),
            Err(AllocError::Broken(broken)) => return Err(broken),
        };
        frames.memory().copy(frame, copy);
        frames.set_owner(copy, other.owner);
        frames.mark(copy, marks - Marks::SWAP_CACHED);
        // A map of the copy before it is there: from then on its space may take it away again.
        frames.map(copy);
        let new = old.renamed(copy, Owner::Process);
        let exchanged = self.tell_replaced(other.addr, || exchange_entry(other.slot, old, new));
        // The entry that lost it was never cached, and one that never was is not either.
        let unnamed = if exchanged { frame } else { copy };
        frames.unmap(unnamed)?;
        frames.put(unnamed)?;
        Ok(exchanged)
    }

    /// Tells that a page is replaced by another, whosever it is.
    pub(in crate::space) fn tell_replaced<T>(
        &self,
        page: VirtAddr,
        change: impl FnOnce() -> T,
    ) -> T {
        match PageRange::from_len(page, PAGE_SIZE) {
            Some(page) => self.system.invalidate(page, Invalidation::Clear, change),
            None => change(),
        }
    }
}
