//! Random choices of what memory calls are asked for: mostly what succeeds, now and then what should be refused. Of the
//! generator's, which runs in a guest, and of the one that compares with the host's kernel.

use crate::memory::PAGE;
use crate::random::Random;

impl Random {
    /// One of these, of which there is one at least.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.below(from.len() as u64);
        from[usize::try_from(at).unwrap_or(0)]
    }

    /// A word, now and then another one that should be refused.
    pub fn odd(&mut self, word: u64) -> u64 {
        if !self.chance(2) {
            return word;
        }
        match self.below(8) {
            0 => word ^ 1,
            1 => 0,
            2 => u64::MAX,
            3 => 1 << 63,
            4 => 0x7fff_ffff_f000,
            5 => u64::MAX - 4095,
            6 => word | 1 << 40,
            _ => self.bits(),
        }
    }

    /// The same of a range: address and bytes.
    pub fn odd_range(&mut self, (addr, len): (u64, u64)) -> (u64, u64) {
        let (addr, mut len) = (self.odd(addr), self.odd(len));
        if self.chance(3) {
            len = len.saturating_sub(1 + self.below(4000));
        }
        (addr, len)
    }

    /// The page where a VMA begins or ends, mostly, or one beside it: none before `lowest`.
    pub fn near(&mut self, border: u64, lowest: u64) -> u64 {
        match self.below(6) {
            0 => border.saturating_sub(PAGE).max(lowest),
            1 => border + PAGE,
            _ => border,
        }
    }

    /// The address of a page of a VMA, which is not empty: often of the first or the last.
    pub fn page_of(&mut self, start: u64, end: u64) -> u64 {
        let pages = (end - start) / PAGE;
        let at = match self.below(4) {
            0 => 0,
            1 => pages - 1,
            _ => self.below(pages),
        };
        start + at * PAGE
    }

    /// How many pages a range has: mostly one or a few.
    pub fn pages(&mut self, most: u64) -> u64 {
        match self.below(10) {
            0..=4 => 1,
            5..=7 => 1 + self.below(4),
            8 => 1 + self.below(12),
            _ => 1 + self.below(most),
        }
    }

    /// The protection of new memory.
    pub fn prot(&mut self) -> u64 {
        self.pick(&[0, 1, 1, 3, 3, 3, 3, 5, 7, 2, 4])
    }

    /// What mprotect(2) is asked for: now and then `PROT_GROWSDOWN` or `PROT_GROWSUP`, or both.
    pub fn new_prot(&mut self) -> u64 {
        let grows = if self.chance(4) { self.pick(&[1 << 24, 1 << 25, 3 << 24]) } else { 0 };
        let prot = self.prot() | grows;
        self.odd(prot)
    }

    /// How many bytes mremap(2) is to make of so many.
    pub fn new_len(&mut self, old_len: u64) -> u64 {
        match self.below(8) {
            0..=3 => old_len,
            4 | 5 => old_len.saturating_add(self.below(5) * PAGE),
            6 => old_len.saturating_sub(self.below(4) * PAGE),
            _ => (1 + self.below(8)) * PAGE,
        }
    }

    /// mremap(2)'s flags.
    pub fn mremap_flags(&mut self) -> u64 {
        self.pick(&[0, 1, 1, 1, 3, 3, 3, 3, 5, 7, 2, 4, 8])
    }

    /// Where brk(2) is to move the end of the heap, which is at `now`.
    pub fn heap_end(&mut self, now: u64) -> u64 {
        let target = match self.below(6) {
            0 => now.saturating_sub(self.below(4) * PAGE),
            1 => now + self.below(3 * PAGE),
            2 => now & !(PAGE - 1),
            3 => now.saturating_sub(self.below(2 * PAGE)),
            _ => now + self.below(4) * PAGE,
        };
        self.odd(target)
    }
}
