//! Which addresses and lengths: mostly what is mapped, now and then something that should be refused.

use std::ops::Range;

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr, index};

use super::super::model::Area;
use super::{Generator, HUGE, PAGES, WINDOW, is_changeable};

impl Generator {
    /// A page of the window, most often where a VMA begins or ends.
    pub(super) fn page(&mut self) -> u64 {
        if self.chance(3) {
            let page = self.huge_page();
            return self.pick(&[page, page, page - PAGE, page + PAGE]);
        }
        let borders: Vec<u64> = self
            .lines
            .iter()
            .flat_map(|line| [line.range.start, line.range.end])
            .filter(|addr| (WINDOW..WINDOW + PAGES * PAGE).contains(addr))
            .collect();
        if !borders.is_empty() && self.chance(60) {
            let border = self.pick(&borders);
            return self.random.near(border, WINDOW);
        }
        WINDOW + self.below(PAGES) * PAGE
    }

    /// A huge page, mostly of those behind the window: one that lies in it leaves little room for others.
    pub(super) fn huge_page(&mut self) -> u64 {
        WINDOW + self.pick(&[0, 1, 1, 2, 2, 3, 512, 1024]) * HUGE
    }

    /// A page inside a VMA that is not the player's.
    pub(super) fn mapped_page(&mut self) -> u64 {
        let lines = self.ranges();
        if lines.is_empty() || self.chance(8) {
            return self.page();
        }
        let range = self.pick_range(&lines);
        let page = self.random.page_of(range.start, range.end);
        let size = self.model.page_size(self.process, page, PAGE);
        if self.chance(70) { page & !(size - 1) } else { page }
    }

    pub(super) fn pick_range(&mut self, ranges: &[Range<u64>]) -> Range<u64> {
        ranges[index(self.below(ranges.len() as u64))].clone()
    }

    /// The VMAs that acts may change: those of the window, and those placed by the kernel. Half of the time only such
    /// as have pages in the swap area, if there are any.
    fn ranges(&mut self) -> Vec<Range<u64>> {
        let of_area = self.area != Area::None && self.chance(50);
        let changeable = |ranges: Vec<Range<u64>>| -> Vec<Range<u64>> {
            ranges.into_iter().filter(|range| is_changeable(range, self.top)).collect()
        };
        let swapped = if of_area { self.model.swapped_ranges(self.process) } else { Vec::new() };
        let swapped = changeable(swapped);
        if !swapped.is_empty() {
            return swapped;
        }
        changeable(self.lines.iter().map(|line| line.range.clone()).collect())
    }

    /// A range that is likely to be mapped, whole VMAs or parts of one or more.
    pub(super) fn range(&mut self) -> (VirtAddr, u64) {
        let ranges = self.ranges();
        if !ranges.is_empty() && self.chance(45) {
            let at = index(self.below(ranges.len() as u64));
            let mut range = ranges[at].clone();
            if self.chance(20) && at + 1 < ranges.len() && ranges[at + 1].start == range.end {
                range.end = ranges[at + 1].end;
            }
            return (VirtAddr::new(range.start), range.end - range.start);
        }
        let start = self.mapped_page();
        let len = self.random.pages(PAGES);
        let size = self.model.page_size(self.process, start, PAGE);
        let size = if self.chance(70) { size } else { PAGE };
        (VirtAddr::new(start), (len * PAGE).next_multiple_of(size))
    }

    /// Now and then something that should be refused.
    pub(super) fn odd(&mut self, word: u64) -> u64 {
        self.random.odd(word)
    }

    pub(super) fn odd_range(&mut self) -> (VirtAddr, u64) {
        let (addr, len) = self.range();
        let (addr, len) = self.random.odd_range((addr.get(), len));
        (VirtAddr::new(addr), len)
    }
}
