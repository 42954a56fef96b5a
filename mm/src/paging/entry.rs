//! A page-table entry as a value (Intel SDM volume 3, table 5-20; AMD APM volume 2, section 5.3).
//!
//! ```text
//!    63  62..52   51..........12  11..9   8  7  6  5  4  3  2  1  0
//!    NX  software  frame number   software G  PS D  A  -  -  U  W  P
//! ```
//!
//! The hardware ignores everything but P in an entry whose P is clear, so the rest holds the software
//! states: `HELD`, a page that is there but that `PROT_NONE` forbids to touch; `GUARDED`, no page, and a
//! touch is a fault (`MADV_GUARD_INSTALL`); `SWAPPED`, the page is in a place of the swap area, whose number is where
//! a frame's would be. `OWN` marks an anonymous page, which may be written in place
//! by its only owner, against a backing's. `AHEAD` marks a page that was brought in before it was asked
//! for: until A is set, it is not there for anyone to see. `REFERENCED` remembers that A was set, where it was
//! cleared so that the entry is known to be in no translation cache. `LEAVING` marks a page that is held only
//! until its old translations are gone: another takes its place then (`paging/replace`). `LOCKED` marks a page that
//! may not be given up: it could go, but its memory is locked. `AGED` remembers that A was cleared to find out whether
//! the page is used, and nothing more: a vCPU may have it cached as before. `PROMOTED` marks a large
//! entry that stands for a table of 512 small ones: nobody can tell but by the time it takes (`paging/promote`). `POOL` marks a large
//! entry whose page is one of the pool of huge pages, or a part of one: it stays whole. `PROTECTED` marks a page whose first
//! write a userfaultfd is told of, so that it may not be written whatever its VMA allows; alone, where there is no page, it
//! is kept for the page that will come. `POISONED`, alone, has each touch be an error (`UFFDIO_POISON`).

use bitflags::bitflags;

use crate::addr::{Frame, PAGE_SHIFT, SwapSlot, TABLE_SPAN, VirtAddr};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const HELD: u64 = 1 << 9;
const OWN: u64 = 1 << 10;
const GUARDED: u64 = 1 << 11;
const AHEAD: u64 = 1 << 52;
const REFERENCED: u64 = 1 << 53;
const LEAVING: u64 = 1 << 54;
const LOCKED: u64 = 1 << 55;
const VACATED: u64 = 1 << 56;
const PROMOTED: u64 = 1 << 57;
const AGED: u64 = 1 << 58;
const POOL: u64 = 1 << 59;
const PROTECTED: u64 = 1 << 60;
const POISONED: u64 = 1 << 61;
/// Of an entry whose P is clear: a bit that means another thing where it is set.
const SWAPPED: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

bitflags! {
    /// What a leaf entry lets ring 3 do beside reading.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u8 {
        /// Nothing at all, not even reading, without this.
        const READ = 1;
        /// Storing.
        const WRITE = 2;
        /// Fetching instructions.
        const EXECUTE = 4;
    }
}

/// Which of the accessed and dirty bits of a new entry are preset. An entry whose accessed bit is clear
/// is in no translation cache (SDM volume 3, 5.10.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// It was brought in ahead of any touch.
    Ahead,
    /// It is about to be read.
    Read,
    /// It is about to be written.
    Written,
}

/// To whom the page behind an entry belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Anonymous memory, or a private copy of a backing's page: the process's, or its family's until
    /// one of them writes.
    Process,
    /// The backing, or for a page of zeros the machine: a private mapping may not write it.
    Backing,
}

/// A page-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(u64);

impl Entry {
    /// Nothing there.
    pub const EMPTY: Entry = Entry(0);
    /// No page, and none may come: a guard region's.
    pub const GUARD: Entry = Entry(GUARDED);
    /// No page, but the one that comes is write-protected for a userfaultfd.
    pub const PROTECTION: Entry = Entry(PROTECTED);
    /// No page, and each touch is an error.
    pub const POISON: Entry = Entry(POISONED);

    /// From the raw word.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Entry(raw)
    }

    /// The raw word.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// An entry that points to a table. It allows everything: the leaf decides.
    #[must_use]
    pub const fn table(frame: Frame) -> Self {
        Entry(frame.number() << PAGE_SHIFT | PRESENT | WRITE | USER)
    }

    /// A leaf entry of ring 3. Without [`Access::READ`] the page is held but cannot be touched.
    #[must_use]
    pub fn leaf(frame: Frame, owner: Owner, access: Access, touch: Touch) -> Self {
        let own = match owner {
            Owner::Process => OWN,
            Owner::Backing => 0,
        };
        Entry(frame.number() << PAGE_SHIFT | own).with_access(access).touched(touch)
    }

    /// The same entry one level higher: it maps 512 frames, of which it names the first.
    #[must_use]
    pub const fn large(self) -> Self {
        Entry(self.0 | LARGE)
    }

    /// The entry for the `i`th of the pages that a large one maps.
    #[must_use]
    pub const fn small(self, i: u64) -> Self {
        Entry((self.0 & !(LARGE | PROMOTED)) + (i << PAGE_SHIFT))
    }

    /// The large entry that stands for a table which begins with this one.
    #[must_use]
    pub const fn promoted(self) -> Self {
        Entry(self.0 | LARGE | PROMOTED)
    }

    /// The large entry of a page of the pool.
    #[must_use]
    pub const fn pooled(self) -> Self {
        Entry(self.0 | LARGE | POOL)
    }

    /// What a large entry says of the page at an address, with the marks of a large one.
    #[must_use]
    pub const fn page_at(self, addr: VirtAddr) -> Self {
        Entry(self.0 + addr.page_floor().get() % TABLE_SPAN)
    }

    /// An entry whose page is in the swap area.
    #[must_use]
    pub const fn swapped(slot: SwapSlot) -> Self {
        Entry(slot.number() << PAGE_SHIFT & FRAME | SWAPPED | OWN)
    }

    /// Where in the swap area its page is, if it is there.
    #[must_use]
    pub const fn swap_slot(self) -> Option<SwapSlot> {
        if self.0 & (PRESENT | HELD | SWAPPED) != SWAPPED {
            return None;
        }
        Some(SwapSlot::new((self.0 & FRAME) >> PAGE_SHIFT))
    }

    /// The same page with another permission; accessed and dirty bits stay.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        let marks = LARGE | PROMOTED | POOL | OWN | AHEAD | REFERENCED | AGED | LOCKED | PROTECTED;
        let kept = self.0 & (FRAME | ACCESSED | DIRTY | marks);
        if !access.contains(Access::READ) {
            return Entry(kept | HELD);
        }
        let written = access.contains(Access::WRITE) && kept & PROTECTED == 0;
        let write = if written { WRITE } else { 0 };
        let no_execute = if access.contains(Access::EXECUTE) { 0 } else { NO_EXECUTE };
        Entry(kept | PRESENT | USER | write | no_execute)
    }

    /// The same entry as the hardware leaves it after a touch.
    #[must_use]
    pub const fn touched(self, touch: Touch) -> Self {
        match touch {
            Touch::Ahead => Entry(self.0 | AHEAD),
            Touch::Read => Entry(self.0 | ACCESSED),
            Touch::Written => Entry(self.0 | ACCESSED | DIRTY),
        }
    }

    /// The same entry for another frame.
    #[must_use]
    pub fn renamed(self, frame: Frame, owner: Owner) -> Self {
        let own = match owner {
            Owner::Process => OWN,
            Owner::Backing => 0,
        };
        Entry(self.0 & !(FRAME | OWN) | frame.number() << PAGE_SHIFT | own)
    }

    /// The same entry without the permission to write.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Entry(self.0 & !WRITE)
    }

    /// The same entry with its first write told to a userfaultfd.
    #[must_use]
    pub const fn protected(self) -> Self {
        Entry((self.0 | PROTECTED) & !WRITE)
    }

    /// The same entry with no userfaultfd told of a write. Who writes next has to ask for the permission.
    #[must_use]
    pub const fn unprotected(self) -> Self {
        Entry(self.0 & !PROTECTED)
    }

    /// The same entry, with `old`'s writes told to a userfaultfd as they were.
    #[must_use]
    pub const fn protected_as(self, old: Entry) -> Self {
        if old.is_protected() { self.protected() } else { self }
    }

    /// What stays in the place of an object's page that goes: that the next one is write-protected, too.
    #[must_use]
    pub const fn left_behind(self) -> Self {
        Entry(self.0 & PROTECTED)
    }

    /// The same page, held until another takes its place. Whoever asked for that has asked for the page.
    #[must_use]
    pub const fn leaving(self) -> Self {
        let kept = self.0 & (FRAME | ACCESSED | AGED | DIRTY | OWN | REFERENCED);
        Entry(kept | HELD | LEAVING)
    }

    /// The same entry as one that was asked for.
    #[must_use]
    pub const fn asked_for(self) -> Self {
        Entry(self.0 & !AHEAD)
    }

    /// The same entry as nobody has touched it yet.
    #[must_use]
    pub const fn old(self) -> Self {
        Entry(self.0 & !(ACCESSED | AGED | REFERENCED))
    }

    /// The same entry as nobody has written through it yet.
    #[must_use]
    pub const fn clean(self) -> Self {
        Entry(self.0 & !DIRTY)
    }

    /// The same entry as it is once no vCPU has it cached.
    #[must_use]
    pub const fn uncached(self) -> Self {
        let referenced = if self.is_young() { REFERENCED } else { 0 };
        Entry(self.0 & !(ACCESSED | AGED) | referenced)
    }

    /// The same entry as not accessed, so that the next access shows; a vCPU that had it cached may have it still.
    #[must_use]
    pub const fn aged(self) -> Self {
        let cached = if self.is_accessed() { AGED } else { 0 };
        Entry(self.0 & !(ACCESSED | REFERENCED) | cached)
    }

    /// The same entry with its accessed bit set if the page was ever accessed.
    #[must_use]
    pub const fn recalled(self) -> Self {
        if self.is_referenced() { Entry((self.0 | ACCESSED) & !REFERENCED) } else { self }
    }

    /// The same entry of locked memory.
    #[must_use]
    pub const fn locked(self) -> Self {
        Entry(self.0 | LOCKED)
    }

    /// The same entry of memory that is not locked.
    #[must_use]
    pub const fn unlocked(self) -> Self {
        Entry(self.0 & !LOCKED)
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is a guard region's.
    #[must_use]
    pub const fn is_guard(self) -> bool {
        self.0 == GUARDED
    }

    /// Whether it is no page's, but says something of the page that is to come, or that none may.
    #[must_use]
    pub const fn is_marker(self) -> bool {
        self.0 != 0 && self.0 & (PRESENT | HELD | SWAPPED) == 0
    }

    /// Whether any touch is an error.
    #[must_use]
    pub const fn is_poison(self) -> bool {
        self.0 == POISONED
    }

    /// Whether a userfaultfd is told of the next write.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        self.0 & PROTECTED != 0
    }

    /// The bit of an entry that points to a table which Linux would have freed: see
    /// [`PageTable::vacate`](super::PageTable::vacate).
    pub(super) const VACATED: u64 = VACATED;

    /// Whether it points to such a table.
    #[must_use]
    pub const fn is_vacated(self) -> bool {
        self.0 & VACATED != 0
    }

    /// Whether it maps 2 MiB itself, and points to no table.
    #[must_use]
    pub const fn is_large(self) -> bool {
        self.0 & LARGE != 0
    }

    /// Whether it is of an own page that has been accessed and written, and of which nothing is left to be settled.
    #[must_use]
    pub(super) const fn is_promotable(self) -> bool {
        let is = PRESENT | ACCESSED | DIRTY | OWN;
        self.0 & (is | LARGE | AHEAD | LEAVING | LOCKED) == is
    }

    /// Whether it stands for 512 small entries.
    #[must_use]
    pub const fn is_promoted(self) -> bool {
        self.0 & PROMOTED != 0
    }

    /// Whether it maps a page of the pool of huge pages.
    #[must_use]
    pub const fn is_pooled(self) -> bool {
        self.0 & POOL != 0
    }

    /// Whether it maps a huge page that the program can know of, and that is not the pool's.
    #[must_use]
    pub const fn is_huge(self) -> bool {
        self.0 & (LARGE | PROMOTED | POOL) == LARGE
    }

    /// Whether the hardware uses the entry.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether ring 3 may store through it.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & (PRESENT | WRITE) == PRESENT | WRITE
    }

    /// Whether ring 3 may fetch instructions through it.
    #[must_use]
    pub const fn is_executable(self) -> bool {
        self.0 & (PRESENT | NO_EXECUTE) == PRESENT
    }

    /// Whether a vCPU may have cached the translation.
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        self.0 & (ACCESSED | AGED) != 0
    }

    /// Whether A is set: the page was accessed through this entry since it was last [aged](Self::aged), or made
    /// [uncached](Self::uncached).
    #[must_use]
    pub const fn is_young(self) -> bool {
        self.0 & ACCESSED != 0
    }

    /// Whether the page was accessed through this entry since it was last [aged](Self::aged), also if no vCPU can have it
    /// cached now.
    #[must_use]
    pub const fn is_referenced(self) -> bool {
        self.0 & (ACCESSED | REFERENCED) != 0
    }

    /// Whether the page was written through this entry.
    #[must_use]
    pub const fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    /// Whether it was brought in ahead of any touch, and nobody has settled since what became of it.
    #[must_use]
    pub const fn is_ahead(self) -> bool {
        self.0 & AHEAD != 0
    }

    /// Whether the page was brought in ahead and nobody has touched it: a program cannot know of it.
    #[must_use]
    pub const fn is_unseen(self) -> bool {
        self.0 & (AHEAD | ACCESSED) == AHEAD
    }

    /// Whether there is a page that the program can know of.
    #[must_use]
    pub const fn is_resident(self) -> bool {
        self.0 & (PRESENT | HELD) != 0 && !self.is_unseen()
    }

    /// Whether the page may not be given up, although nobody needs its bytes: its memory is locked.
    #[must_use]
    pub const fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// Whether another page is about to take the place of this one.
    #[must_use]
    pub const fn is_leaving(self) -> bool {
        self.0 & (PRESENT | LEAVING) == LEAVING
    }

    /// To whom the page belongs.
    #[must_use]
    pub const fn owner(self) -> Owner {
        if self.0 & OWN != 0 { Owner::Process } else { Owner::Backing }
    }

    /// Whether ring 3 may use the entry.
    #[must_use]
    pub const fn is_user(self) -> bool {
        self.0 & USER != 0
    }

    /// The frame it names: a page's, present or held, or a table's.
    #[must_use]
    pub const fn frame(self) -> Option<Frame> {
        if self.0 & (PRESENT | HELD) == 0 {
            return None;
        }
        Some(Frame::new((self.0 & FRAME) >> PAGE_SHIFT))
    }

    /// What it lets ring 3 do.
    #[must_use]
    pub fn access(self) -> Access {
        let mut access = Access::empty();
        access.set(Access::READ, self.is_present());
        access.set(Access::WRITE, self.is_writable());
        access.set(Access::EXECUTE, self.is_executable());
        access
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_read_holds_its_frame_and_is_not_present() {
        let frame = Frame::new(0x1234);
        let entry =
            Entry::leaf(frame, Owner::Process, Access::READ | Access::WRITE, Touch::Written);
        let held = entry.with_access(Access::empty());
        assert!(!held.is_present() && held.frame() == Some(frame) && held.is_dirty());
        assert_eq!(held.with_access(Access::READ | Access::WRITE), entry);
    }
}
