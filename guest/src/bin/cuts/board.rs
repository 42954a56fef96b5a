//! What is where in the file, and what all say to each other there.
//!
//! ```text
//!   page 0       the board        1, 2   the length after each act      480 ... 543   the words   544   the end
//!                └──────── never cut ────────┘                          └ 2 MiB lie in their midst ┘
//! ```

#![allow(unsafe_code)]

use guest::call::{number, syscall};
use guest::family::{self, WNOHANG};
use guest::memory::{self, PAGE};
use guest::{check, check_eq, must};

/// The file.
pub(crate) const FILE: u64 = 3;
/// Bytes before the words; the file is never shorter.
pub(crate) const FIRST: u64 = 480 * PAGE;
/// Pages with words.
pub(crate) const PAGES: u64 = 64;
/// The file's length, at most.
pub(crate) const FULL: u64 = FIRST + PAGES * PAGE;
/// Words that each of the three has in a page.
pub(crate) const SLOTS: u64 = 4;
/// All of them.
pub(crate) const WORDS: usize = 256;
/// The two writers' numbers are 0 and 1.
pub(crate) const HOST: u64 = 2;
/// The round after which everybody ends.
pub(crate) const LAST: u64 = u64::MAX;
/// How many acts a round has at most, the one that it begins with included.
pub(crate) const ACTS: u64 = 1024;

/// The file as one of the three has it mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    at: u64,
}

/// A word of the board. Those of the writers are two each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Say {
    /// The round that goes on.
    Round = 0,
    /// 2 k + 1 while act k is done, 2 k + 2 after it.
    Epoch = 1,
    /// The round in which nothing changes any more.
    Quiet = 2,
    /// The round in which the file is as long as it is for a while.
    Held = 3,
    /// The round that a writer has written in.
    Done = 4,
    /// The round of which a writer has compared all.
    Checked = 6,
    /// What all bytes sum up to.
    Sum = 8,
    /// How many touches were SIGBUS, how many words were gone, and how many there.
    Buses = 10,
    Gone = 12,
    Kept = 14,
    /// The round of which a writer has touched the file while it was held.
    Seen = 16,
}

/// Which acts may be under way at a moment: from the first that has not ended to those that have not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) ended: u64,
    pub(crate) begun: u64,
}

impl Board {
    /// Maps the file.
    pub(crate) fn map() -> Self {
        /// `MAP_SHARED`; readable and writable.
        const SHARED: u64 = 1;
        const RW: u64 = 3;
        // SAFETY: the map is nowhere near Rust's memory.
        let at = must!(unsafe { syscall(number::MMAP, [0, FULL, RW, SHARED, FILE, 0]) });
        Board { at }
    }

    /// Where a byte of the file is.
    pub(crate) const fn at(self, offset: u64) -> u64 {
        self.at + offset
    }

    pub(crate) fn hear(self, what: Say, who: u64) -> u64 {
        memory::load(self.at + 8 * (what as u64 + who))
    }

    pub(crate) fn say(self, what: Say, who: u64, value: u64) {
        memory::store(self.at + 8 * (what as u64 + who), value);
    }

    /// Waits until somebody says something.
    pub(crate) fn wait(self, what: Say, who: u64, until: impl Fn(u64) -> bool) -> u64 {
        let mut turns = 0_u64;
        loop {
            let heard = self.hear(what, who);
            if until(heard) {
                return heard;
            }
            turns += 1;
            if turns > 200 {
                look_after_children(turns);
                sleep(20_000);
            }
        }
    }

    /// The length after an act.
    pub(crate) fn length(self, act: u64) -> u64 {
        memory::load(self.at + PAGE + 8 * act)
    }

    pub(crate) fn note_length(self, act: u64, length: u64) {
        check!(act < ACTS, "act {act} of a round");
        memory::store(self.at + PAGE + 8 * act, length);
    }

    /// What an access meets that is made between here and the closure's end.
    pub(crate) fn during<T>(self, access: impl FnOnce() -> T) -> (T, Span) {
        let ended = self.hear(Say::Epoch, 0) / 2;
        let result = access();
        (result, Span { ended, begun: self.hear(Say::Epoch, 0).div_ceil(2) })
    }

    /// Whether the file ends at a byte or before it, after any of these acts.
    pub(crate) fn is_cut(self, offset: u64, acts: core::ops::Range<u64>) -> bool {
        acts.into_iter().any(|act| self.length(act) <= offset)
    }

    /// All bytes summed up, in their order.
    pub(crate) fn sum(self) -> u64 {
        sum_of(self.at(FIRST))
    }
}

/// The sum of as many bytes as there are with words.
pub(crate) fn sum_of(at: u64) -> u64 {
    let mix = |sum: u64, at| (sum ^ memory::load(at)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    (at..at + PAGES * PAGE).step_by(8).fold(0, mix)
}

/// Reads all bytes with words as a file.
pub(crate) fn read_all(to: u64) {
    let args = [FILE, to, PAGES * PAGE, FIRST];
    // SAFETY: the buffer is a map of that length, and no memory of Rust's.
    check_eq!(unsafe { syscall(number::PREAD64, args) }, Ok(PAGES * PAGE), "pread");
}

/// Where a word is in the file: no two are the same, and they are all over the page.
pub(crate) const fn offset_of(who: u64, page: u64, slot: u64) -> u64 {
    FIRST + page * PAGE + slot * 1024 + 8 * (who * 40 + page % 40)
}

/// Which of one's words that is.
pub(crate) fn index_of(page: u64, slot: u64) -> usize {
    usize::try_from(page * SLOTS + slot).unwrap_or(WORDS)
}

/// All words of one, as they are counted: page and slot.
pub(crate) fn places() -> impl Iterator<Item = (u64, u64)> {
    (0..PAGES).flat_map(|page| (0..SLOTS).map(move |slot| (page, slot)))
}

/// Whether this is anybody's word.
pub(crate) fn is_anybodys(offset: u64) -> bool {
    let page = (offset - FIRST) / PAGE;
    (0..=HOST).any(|who| (0..SLOTS).any(|slot| offset_of(who, page, slot) == offset))
}

/// Ends with a line if a child has ended, which only one that has found a mistake does; and if one waits too long. Looks
/// now and then.
pub(crate) fn look_after_children(turns: u64) {
    check!(turns < 2_000_000, "the others do not answer");
    if turns.is_multiple_of(500) {
        let ended = family::wait(-1, WNOHANG);
        check!(!matches!(ended, Ok((1.., _))), "a writer has ended: {ended:?}");
    }
}

/// Sleeps for so many nanoseconds.
pub(crate) fn sleep(nanoseconds: u64) {
    let time = [0, nanoseconds];
    // SAFETY: the call reads two words.
    let _ = unsafe { syscall(number::NANOSLEEP, [time.as_ptr() as u64, 0]) };
}

const _: () = assert!(WORDS as u64 == PAGES * SLOTS && ACTS * 8 <= 2 * PAGE);
