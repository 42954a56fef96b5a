//! Which addresses and lengths: mostly what is mapped, now and then something that should be refused.

use guest::memory::{self, PAGE, TASK_SIZE};

use crate::acts::Generator;
use crate::area::OWN;
use crate::seen::Vma;

/// Where most maps are.
pub(crate) const WINDOW: u64 = 0x100_0000_0000;
/// How many pages of it are used.
const PAGES: u64 = 64;
/// The longest maps; and fewer pages than a huge one has, so that none comes.
const LARGE: u64 = 40 * PAGE;
/// How far the stack may grow, and some.
const STACK: u64 = 16 << 20;

impl Generator {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    pub(crate) fn chance(&mut self, of_hundred: u64) -> bool {
        self.random.chance(of_hundred)
    }

    pub(crate) fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        self.random.pick(&from)
    }

    /// One of the VMAs that may be changed.
    fn vma(&mut self) -> Option<Vma> {
        let count = self.vmas.changeable().count() as u64;
        let at = usize::try_from(self.below(count)).unwrap_or(0);
        self.vmas.changeable().nth(at).copied()
    }

    /// A page of the window, most often where a VMA begins or ends.
    pub(crate) fn page(&mut self) -> u64 {
        let window = WINDOW..WINDOW + PAGES * PAGE;
        if self.chance(60)
            && let Some(vma) = self.vma()
        {
            let border = if self.chance(50) { vma.start } else { vma.end };
            if window.contains(&border) {
                return self.random.near(border, WINDOW);
            }
        }
        WINDOW + self.below(PAGES) * PAGE
    }

    /// A page that is likely to be mapped.
    pub(crate) fn mapped_page(&mut self) -> u64 {
        if self.chance(8) {
            return self.page();
        }
        let Some(vma) = self.vma() else { return self.page() };
        self.random.page_of(vma.start, vma.end)
    }

    /// A range that is likely to be mapped: whole VMAs, or parts of one or more.
    pub(crate) fn range(&mut self) -> (u64, u64) {
        if self.chance(45)
            && let Some(vma) = self.vma()
        {
            return (vma.start, vma.end - vma.start);
        }
        let start = self.mapped_page();
        (start, self.random.pages(PAGES) * PAGE)
    }

    /// The same, now and then something that should be refused.
    pub(crate) fn odd_range(&mut self) -> (u64, u64) {
        let range = self.range();
        self.random.odd_range(range)
    }

    /// How many bytes a new map has.
    pub(crate) fn new_len(&mut self) -> u64 {
        let pages = match self.below(10) {
            0..=6 => 1 + self.below(3),
            7 | 8 => 1 + self.below(8),
            _ => 1 + self.below(20),
        };
        let part = if self.chance(6) { self.below(PAGE) } else { 0 };
        pages * PAGE - part
    }

    /// Now and then something else.
    pub(crate) fn odd(&mut self, word: u64) -> u64 {
        self.random.odd(word)
    }

    /// Whether a call on this range might take the generator's own memory away from under it.
    pub(crate) fn endangers(&self, addr: u64, len: u64) -> bool {
        // A range that wraps is refused by all calls.
        let Some(end) = addr.checked_add(len) else { return false };
        let end = end.saturating_add(PAGE);
        let image = memory::last_image_page() + PAGE;
        let stack = self.vmas.stack().saturating_sub(STACK);
        let own = [0..image, OWN, stack..TASK_SIZE];
        own.iter().any(|own| addr < own.end && own.start < end)
    }

    /// Whether so many bytes are more than should be mapped, and could be.
    pub(crate) fn too_large(len: u64) -> bool {
        (LARGE + 1..1 << 47).contains(&len)
    }
}
