//! The property: whatever is done, the tree answers as a plain ordered map of ranges does, and its
//! audit is clean.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Tagged, page, pages};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::vma::tree::Tree;

/// Pages of the address space that the operations meet in: small, so that they do meet.
const SPACE: u64 = if cfg!(miri) { 300 } else { 6_000 };

/// The most spans that one operation adds.
const FILL: u64 = SPACE / 4;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// One span of `len` pages.
    Insert {
        start: u64,
        len: u64,
    },
    /// The span at or after a page.
    Remove {
        near: u64,
    },
    /// New bounds for the span at or after a page, moved by up to so many pages as far as there is room.
    Update {
        near: u64,
        down: u64,
        up: u64,
        shrink: Shrink,
    },
    /// The span at or after a page, cut so many pages after its start.
    Cut {
        near: u64,
        after: u64,
    },
    /// The span at or after a page and the next, one if they touch.
    Absorb {
        near: u64,
    },
    /// A part of so many pages carved out of the span at or after a page, so many after its start.
    Carve {
        near: u64,
        after: u64,
        len: u64,
    },
    /// The span at or after a page and those around it, one if they touch.
    Uncarve {
        near: u64,
    },
    /// Spans of three pages that touch, upwards: each can be carved, and each taken in.
    Tile {
        start: u64,
        count: u64,
    },
    /// All of that in a range: fills nodes, row by row, or empties them.
    CarveAll {
        start: u64,
        len: u64,
    },
    UncarveAll {
        start: u64,
        len: u64,
    },
    /// Spans of one page with one page between them, upwards: splits nodes.
    Fill {
        start: u64,
        count: u64,
    },
    /// The same, downwards, as mmap places them.
    FillDown {
        end: u64,
        count: u64,
    },
    /// Everything in a range: joins nodes.
    Drain {
        start: u64,
        len: u64,
    },
    /// Every other span in a range: empties nodes evenly.
    Thin {
        start: u64,
        len: u64,
    },
    /// Everything, into another tree at once, with which it goes on.
    Copy,
}

#[derive(Clone, Copy, Debug)]
enum Shrink {
    Start,
    End,
    Neither,
}

fn operation() -> impl Strategy<Value = Operation> {
    let near = 0..SPACE;
    let shrink = prop_oneof![Just(Shrink::Start), Just(Shrink::End), Just(Shrink::Neither)];
    prop_oneof![
        8 => (near.clone(), 1..9_u64).prop_map(|(start, len)| Operation::Insert { start, len }),
        6 => near.clone().prop_map(|near| Operation::Remove { near }),
        6 => (near.clone(), 0..4_u64, 0..4_u64, shrink)
            .prop_map(|(near, down, up, shrink)| Operation::Update { near, down, up, shrink }),
        6 => (near.clone(), 1..5_u64).prop_map(|(near, after)| Operation::Cut { near, after }),
        4 => near.clone().prop_map(|near| Operation::Absorb { near }),
        6 => (near.clone(), 1..5_u64, 1..4_u64)
            .prop_map(|(near, after, len)| Operation::Carve { near, after, len }),
        6 => near.clone().prop_map(|near| Operation::Uncarve { near }),
        4 => (near.clone(), 1..FILL / 3).prop_map(|(start, count)| Operation::Tile { start, count }),
        2 => (near.clone(), 1..SPACE / 9).prop_map(|(start, len)| Operation::CarveAll { start, len }),
        2 => (near.clone(), 1..SPACE / 9).prop_map(|(start, len)| Operation::UncarveAll { start, len }),
        2 => (near.clone(), 1..FILL).prop_map(|(start, count)| Operation::Fill { start, count }),
        2 => (near.clone(), 1..FILL).prop_map(|(end, count)| Operation::FillDown { end, count }),
        2 => (near.clone(), 1..SPACE / 3).prop_map(|(start, len)| Operation::Drain { start, len }),
        2 => (near, 1..SPACE / 3).prop_map(|(start, len)| Operation::Thin { start, len }),
        2 => Just(Operation::Copy),
    ]
}

/// A tree and its model: each span's end and tag by its start, in pages.
#[derive(Default)]
struct Pair {
    tree: Tree<Tagged>,
    model: BTreeMap<u64, (u64, u32)>,
    tags: u32,
}

fn tagged((&start, &(end, tag)): (&u64, &(u64, u32))) -> Tagged {
    Tagged { range: pages(start, end), tag }
}

impl Pair {
    fn spans(&self) -> impl DoubleEndedIterator<Item = Tagged> {
        self.model.iter().map(tagged)
    }

    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = Tagged> {
        self.spans().filter(move |span| span.range.overlaps(pages(start, end)))
    }

    fn insert(&mut self, start: u64, end: u64) {
        self.tags += 1;
        let span = Tagged { range: pages(start, end), tag: self.tags };
        let before = self.model.range(..end).next_back();
        let free = before.is_none_or(|(_, &(before_end, _))| before_end <= start);
        if free {
            self.model.insert(start, (end, self.tags));
        }
        assert_eq!(self.tree.insert(span), if free { Ok(()) } else { Err(span) });
    }

    fn remove(&mut self, start: u64) {
        let removed = self.model.remove(&start).map(|span| tagged((&start, &span)));
        assert_eq!(self.tree.remove(page(start)), removed);
    }

    fn update(&mut self, start: u64, down: u64, up: u64, shrink: Shrink) {
        let Some((end, _)) = self.model.remove(&start) else { return };
        let floor = self.model.range(..start).next_back().map_or(0, |(_, &(end, _))| end);
        let ceiling = self.model.range(start..).next().map_or(SPACE + 2000, |(&start, _)| start);
        let (new_start, new_end) = match shrink {
            Shrink::Start => ((start + down).min(end - 1), (end + up).min(ceiling)),
            Shrink::End => (start.saturating_sub(down).max(floor), (end - up.min(end - start - 1))),
            Shrink::Neither => (start.saturating_sub(down).max(floor), (end + up).min(ceiling)),
        };
        self.tags += 1;
        let tag = self.tags;
        self.model.insert(new_start, (new_end, tag));
        assert!(
            self.tree.update(page(start), |span| *span =
                Tagged { range: pages(new_start, new_end), tag })
        );
    }

    fn cut(&mut self, start: u64, at: u64) {
        let Some(&(end, lower)) = self.model.get(&start) else { return };
        self.tags += 1;
        let upper = Tagged { range: pages(at, end.max(at + 1)), tag: self.tags };
        let result = self.tree.cut(page(start), upper, |span| span.range = pages(start, at));
        if at < end {
            self.model.insert(start, (at, lower));
            self.model.insert(at, (end, self.tags));
        }
        assert_eq!(result, if at < end { Ok(()) } else { Err(upper) });
    }

    fn absorb(&mut self, start: u64) {
        let Some(&(border, tag)) = self.model.get(&start) else { return };
        let upper = self.model.remove(&border).map(|upper| tagged((&border, &upper)));
        let end = upper.map_or(page(border), |upper| upper.range.end());
        self.model.insert(start, (end.get() / PAGE_SIZE, tag));
        let joined = PageRange::new(page(start), end).unwrap();
        assert_eq!(self.tree.absorb(page(start), |span| span.range = joined), upper);
    }

    fn carve(&mut self, start: u64, from: u64, to: u64) {
        let Some(&(end, lower)) = self.model.get(&start) else { return };
        self.tags += 2;
        let middle = Tagged { range: pages(from, to), tag: self.tags - 1 };
        let upper = Tagged { range: pages(to, end.max(to + 1)), tag: self.tags };
        let shorter = |span: &mut Tagged| span.range = pages(start, from);
        let result = self.tree.carve(page(start), middle, upper, shorter);
        if to < end {
            self.model.insert(start, (from, lower));
            self.model.insert(from, (to, middle.tag));
            self.model.insert(to, (end, upper.tag));
        }
        assert_eq!(result, if to < end { Ok(()) } else { Err((middle, upper)) });
    }

    fn uncarve(&mut self, middle: u64) {
        let before = self.model.range(..middle).next_back().map(|(&start, &span)| (start, span));
        let Some(&(upper, _)) = self.model.get(&middle) else { return };
        let lower = before.filter(|&(_, (end, _))| end == middle);
        let taken = match (lower, self.model.get(&upper).copied()) {
            (Some((start, (_, tag))), Some((end, _))) => {
                self.model.remove(&middle);
                self.model.remove(&upper);
                self.model.insert(start, (end, tag));
                Some(pages(start, end))
            }
            _ => None,
        };
        let grow = |span: &mut Tagged| span.range = taken.unwrap();
        assert_eq!(self.tree.uncarve(page(middle), grow), taken.is_some());
    }

    fn starts_in(&self, start: u64, len: u64) -> Vec<u64> {
        self.model.range(start..start + len).map(|(&start, _)| start).collect()
    }

    fn at_or_after(&self, near: u64) -> Option<u64> {
        self.model.range(near..).next().map(|(&start, _)| start)
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Insert { start, len } => self.insert(start, start + len),
            Operation::Remove { near } => {
                let start = self.at_or_after(near).unwrap_or(near);
                self.remove(start);
            }
            Operation::Update { near, down, up, shrink } => {
                if let Some(start) = self.at_or_after(near) {
                    self.update(start, down, up, shrink);
                }
            }
            Operation::Cut { near, after } => {
                if let Some(start) = self.at_or_after(near) {
                    self.cut(start, start + after);
                }
            }
            Operation::Absorb { near } => {
                if let Some(start) = self.at_or_after(near) {
                    self.absorb(start);
                }
            }
            Operation::Carve { near, after, len } => {
                if let Some(start) = self.at_or_after(near) {
                    self.carve(start, start + after, start + after + len);
                }
            }
            Operation::Uncarve { near } => {
                if let Some(start) = self.at_or_after(near) {
                    self.uncarve(start);
                }
            }
            Operation::Tile { start, count } => {
                (0..count).for_each(|at| self.insert(start + 3 * at, start + 3 * at + 3));
            }
            Operation::CarveAll { start, len } => {
                self.starts_in(start, len)
                    .into_iter()
                    .for_each(|at| self.carve(at, at + 1, at + 2));
            }
            Operation::UncarveAll { start, len } => {
                self.starts_in(start, len).into_iter().for_each(|at| self.uncarve(at));
            }
            Operation::Fill { start, count } => {
                (0..count).for_each(|at| self.insert(start + 2 * at, start + 2 * at + 1));
            }
            Operation::FillDown { end, count } => {
                (0..count.min(end / 2)).for_each(|at| self.insert(end - 2 * at - 1, end - 2 * at));
            }
            Operation::Drain { start, len } => {
                self.starts_in(start, len).into_iter().for_each(|at| self.remove(at));
            }
            Operation::Thin { start, len } => {
                self.starts_in(start, len).into_iter().step_by(2).for_each(|at| self.remove(at));
            }
            Operation::Copy => {
                let mut copy = Tree::new();
                assert_eq!(copy.fill(self.tree.iter().copied()), Ok(()));
                self.tree = copy;
            }
        }
    }

    /// Asks everything about the pages `[start, end)`.
    fn compare(&self, start: u64, end: u64) {
        let Pair { tree, .. } = self;
        assert_eq!(tree.len(), self.model.len());
        let (low, range) = (page(start), pages(start, end));
        let find = self.spans().find(|span| span.range.end() > low);
        let prev = self.spans().rev().find(|span| span.range.end() <= low);
        let inside = VirtAddr::new(low.get() + 0x123);
        assert_eq!(tree.find(low).copied(), find);
        assert_eq!(tree.find(inside).copied(), find);
        assert_eq!(tree.find_exact(inside).copied(), find.filter(|span| span.range.contains(low)));
        let near = tree.near(inside).map(|found| {
            (*found.span(), found.touching_before().copied(), found.touching_after().copied())
        });
        let exact = find.filter(|span| span.range.contains(low)).map(|span| {
            let before = prev.filter(|prev| prev.range.end() == span.range.start());
            let after = self.spans().find(|next| next.range.start() == span.range.end());
            (span, before, after)
        });
        assert_eq!(near, exact);
        assert_eq!(tree.find_prev(low), (find.as_ref(), prev.as_ref()));
        assert_eq!(tree.find_range(low), find.map(|span| span.range));
        assert_eq!(tree.prev(low).copied(), prev);
        assert_eq!(tree.get(low).copied(), self.model.get_key_value(&start).map(tagged));
        let touching = (
            self.spans().find(|span| span.range.end() == range.start()),
            self.spans().find(|span| span.range.start() == range.end()),
        );
        let mut meets = self.overlapping(start, end);
        let only = meets.next().is_none_or(|span| span.range.covers(range));
        if only && meets.next().is_none() {
            let found = tree.touching(range);
            assert_eq!((found.0.copied(), found.1.copied()), touching);
        }
        assert_eq!(tree.find_intersection(range).copied(), self.overlapping(start, end).next());
        assert_eq!(
            (tree.first().copied(), tree.last().copied()),
            (self.spans().next(), self.spans().next_back())
        );
        assert_eq!(
            tree.highest_end(),
            self.spans().next_back().map_or(VirtAddr::ZERO, |span| span.range.end())
        );

        assert!(tree.iter().copied().eq(self.spans()));
        assert!(tree.iter().rev().copied().eq(self.spans().rev()));
        assert!(
            tree.iter_from(low).copied().eq(self.spans().filter(|span| span.range.end() > low))
        );
        assert!(tree.range(range).copied().eq(self.overlapping(start, end)));
        let mut backwards: Vec<_> = tree.range(range).rev().copied().collect();
        backwards.reverse();
        assert!(backwards.into_iter().eq(self.overlapping(start, end)));
        let mut both = tree.range(range);
        let mut taken = 0;
        while both.next().is_some() {
            taken += 1 + both.next_back().iter().count();
        }
        assert_eq!(taken, self.overlapping(start, end).count());

        for count in [1, 2, 3, 5, 40, 500] {
            let (len, high) = (count * PAGE_SIZE, page(end));
            let fits = |gap: (VirtAddr, VirtAddr)| {
                let (low, high) = (gap.0.max(low), gap.1.min(high));
                (low < high && high.bytes_from(low) >= len).then_some((low, high))
            };
            let highest = self
                .gaps()
                .into_iter()
                .rev()
                .find_map(fits)
                .map(|(_, high)| VirtAddr::new(high.get() - len));
            let lowest = self.gaps().into_iter().find_map(fits).map(|(low, _)| low);
            assert_eq!(tree.highest_gap(len, low, high), highest, "{count} pages in {range}");
            assert_eq!(tree.lowest_gap(len, low, high), lowest, "{count} pages in {range}");
        }
    }

    /// Every gap, the open space last.
    fn gaps(&self) -> Vec<(VirtAddr, VirtAddr)> {
        let floors =
            std::iter::once(VirtAddr::ZERO).chain(self.spans().map(|span| span.range.end()));
        let ceilings = self.spans().map(|span| span.range.start()).chain([VirtAddr::TASK_END]);
        floors.zip(ceilings).collect()
    }
}

fn cases() -> ProptestConfig {
    // Miri is some thousand times slower, and has no files to keep failures in.
    match cfg!(miri) {
        true => ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() },
        false => ProptestConfig { cases: 96, ..ProptestConfig::default() },
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_tree_answers_as_a_plain_map_does(
        steps in prop::collection::vec((operation(), 0..SPACE, 1..SPACE), 1..if cfg!(miri) { 6 } else { 48 })
    ) {
        let mut pair = Pair::default();
        for (operation, start, len) in steps {
            pair.apply(operation);
            prop_assert_eq!(pair.tree.audit(), Ok(()));
            pair.compare(start, start + len);
        }
    }

    #[test]
    fn spans_of_any_size_anywhere_in_the_user_half_are_kept_apart(
        ranges in prop::collection::vec((0..VirtAddr::TASK_END.get() >> 12, 0..36_u32), 1..if cfg!(miri) { 20 } else { 200 })
    ) {
        let mut tree: Tree<PageRange> = Tree::new();
        let mut model: Vec<PageRange> = Vec::new();
        for (start, size) in ranges {
            let Some(range) = PageRange::from_len(page(start), PAGE_SIZE << size) else { continue };
            let free = !model.iter().any(|other| other.overlaps(range));
            prop_assert_eq!(tree.insert(range).is_ok(), free);
            if free {
                model.push(range);
            }
            prop_assert_eq!(tree.audit(), Ok(()));
        }
        model.sort();
        prop_assert!(tree.iter().eq(&model));
    }
}
