//! Insertion, removal and change of one span, or of two at once: the leaf is edited, then its new end and
//! widest gap are carried up for as long as they change anything.

use super::node::{Leaf, Row};
use super::path::{MAX_SPANS, Step};
use super::pool::{NIL, Slot};
use super::{Span, Tree};
use crate::addr::{PageRange, VirtAddr};

impl<V: Span> Tree<V> {
    /// Adds a span: Linux's `vma_iter_store_new`. Allocates only what [`reserve`](Tree::reserve) has
    /// not provided for.
    ///
    /// # Errors
    /// Gives the span back if it overlaps one that is there (or would be the 2^29th).
    pub fn insert(&mut self, value: V) -> Result<(), V> {
        let range = value.range();
        if self.len == 0 {
            self.plant(value);
            return Ok(());
        }
        if self.len >= MAX_SPANS {
            return Err(value);
        }
        let mut step = self.path_to(range.start());
        // Everything before the place found ends at or below our start; only what follows can overlap.
        if self.leaf_start(step).is_some_and(|start| start < range.end()) {
            return Err(value);
        }
        while self.leaves[step.node].is_full() {
            self.relieve();
            step = self.path_to(range.start());
        }
        let to = self.values.put(Slot::Taken(value));
        self.insert_row(step, Row { end: range.end(), detail: range.start(), to });
        self.len += 1;
        Ok(())
    }

    /// Takes out the span that starts at `start`; `None` if none does.
    pub fn remove(&mut self, start: VirtAddr) -> Option<V> {
        let (step, _) = self.path_to_start(start)?;
        let leaf = &mut self.leaves[step.node];
        let row = leaf.remove(step.at());
        let value = self.values.take(row.to).into_value();
        self.len -= 1;
        if self.len == 0 {
            self.leaves.take(step.node);
            (self.root, self.top) = (NIL, VirtAddr::ZERO);
            self.forget_path();
            return value;
        }
        let leaf = &self.leaves[step.node];
        let floor = leaf.floor(step.at(), step.floor);
        if step.at() < leaf.len() {
            // The gaps on both sides and the span between have become one gap.
            let gap = leaf.start(step.at()).bytes_from(floor);
            self.carry_up(|_, stored| stored.max(gap));
        } else {
            let gap = row.detail.bytes_from(floor);
            self.carry_up(
                |leaf, stored| if gap < stored { stored } else { leaf.widest(step.floor, stored) },
            );
            self.settle_after(row.end);
        }
        if self.leaves[step.node].len() < Leaf::MIN {
            self.mend();
        }
        value
    }

    /// Changes the span that starts at `start`, its range too, if it keeps between its neighbours.
    /// False if there is none, or (a bug of the caller, which debug builds assert) the new range does
    /// not fit; then the tree still knows the span by its old range.
    pub fn update(&mut self, start: VirtAddr, change: impl FnOnce(&mut V)) -> bool {
        let Some((step, to)) = self.path_to_start(start) else { return false };
        let Some(value) = self.values.get_mut(to).and_then(Slot::value_mut) else { return false };
        change(value);
        let range = value.range();
        let fits = self.fits(step, range);
        debug_assert!(fits, "{range} does not fit between the neighbours of the span at {start}");
        if fits {
            self.rekey(step, range);
        }
        fits
    }

    /// Cuts the span that starts at `start` in two: `change` makes it end where `upper`, its other
    /// part, starts. Cheaper than [`update`](Self::update) and [`insert`](Self::insert): no gap
    /// changes, so nothing but one leaf does. Room is made, and reserved, as for an insertion.
    ///
    /// ```text
    ///     before   ├── gap ──┤ span            ├── gap ──┤
    ///     after    ├── gap ──┤ span  │ upper   ├── gap ──┤
    /// ```
    ///
    /// # Errors
    /// Gives `upper` back if it is no upper part of a span that starts at `start`, or `change` does
    /// not end that one where it begins (or it would be the 2^29th).
    pub fn cut(&mut self, start: VirtAddr, upper: V, change: impl FnOnce(&mut V)) -> Result<(), V> {
        let Some((mut step, to)) = self.path_to_start(start) else { return Err(upper) };
        let cut = upper.range();
        let ends_alike = self.leaves[step.node].end(step.at()) == cut.end();
        let lower = PageRange::new(start, cut.start());
        if !ends_alike || lower.is_none() || self.len >= MAX_SPANS {
            return Err(upper);
        }
        let Some(value) = self.values.get_mut(to).and_then(Slot::value_mut) else {
            return Err(upper);
        };
        change(value);
        if Some(value.range()) != lower {
            debug_assert!(false, "{} is not cut at {}", value.range(), cut.start());
            return Err(upper);
        }
        while self.leaves[step.node].is_full() {
            self.relieve();
            step = self.path_to(start);
        }
        let to = self.values.put(Slot::Taken(upper));
        let leaf = &mut self.leaves[step.node];
        leaf.set(step.at(), cut.start(), start);
        leaf.insert(step.at() + 1, Row { end: cut.end(), detail: cut.start(), to });
        self.len += 1;
        Ok(())
    }

    /// Cuts a part out of the middle of the span that starts at `start`: `change` makes it end where
    /// `middle` starts, which ends where `upper`, its last part, starts. As two [cuts](Self::cut), but
    /// the rows behind move once.
    ///
    /// ```text
    ///     before   ├── gap ──┤ span                     ├── gap ──┤
    ///     after    ├── gap ──┤ span  │ middle │ upper   ├── gap ──┤
    /// ```
    ///
    /// # Errors
    /// Gives both back if they are no such parts of a span that starts at `start`, or `change` does not
    /// end that one where `middle` begins (or there would be 2^29).
    pub fn carve(
        &mut self,
        start: VirtAddr,
        middle: V,
        upper: V,
        change: impl FnOnce(&mut V),
    ) -> Result<(), (V, V)> {
        let Some((mut step, to)) = self.path_to_start(start) else { return Err((middle, upper)) };
        let (part, rest) = (middle.range(), upper.range());
        let end = self.leaves[step.node].end(step.at());
        let lower = PageRange::new(start, part.start());
        let are_parts = lower.is_some() && part.end() == rest.start() && rest.end() == end;
        if !are_parts || self.len + 2 > MAX_SPANS {
            return Err((middle, upper));
        }
        let Some(value) = self.values.get_mut(to).and_then(Slot::value_mut) else {
            return Err((middle, upper));
        };
        change(value);
        if Some(value.range()) != lower {
            debug_assert!(false, "{} is not cut at {}", value.range(), part.start());
            return Err((middle, upper));
        }
        while !self.leaves[step.node].has_room_for(2) {
            self.relieve();
            step = self.path_to(start);
        }
        let to = self.values.put(Slot::Taken(middle));
        let middle = Row { end: part.end(), detail: part.start(), to };
        let to = self.values.put(Slot::Taken(upper));
        let upper = Row { end, detail: rest.start(), to };
        let leaf = &mut self.leaves[step.node];
        leaf.set(step.at(), part.start(), start);
        leaf.insert_all(step.at() + 1, [middle, upper]);
        self.len += 2;
        self.step_to(step.at() + 1);
        Ok(())
    }

    /// Takes out the span that starts where the one at `start` ends, whose place that takes: `change`
    /// makes it reach as far. What [`cut`](Self::cut) did, undone. `None`, and nothing has happened, if
    /// there are no two such spans.
    pub fn absorb(&mut self, start: VirtAddr, change: impl FnOnce(&mut V)) -> Option<V> {
        let (step, to) = self.path_to_start(start)?;
        let (leaf, next) = (&self.leaves[step.node], step.at() + 1);
        let border = leaf.end(step.at());
        if next == leaf.len() {
            // It is in the next leaf, and so is the gap before it, of no bytes.
            let upper = self.remove(border)?;
            self.update(start, change);
            return Some(upper);
        }
        let joined =
            PageRange::new(start, leaf.end(next)).filter(|_| leaf.start(next) == border)?;
        let value = self.values.get_mut(to).and_then(Slot::value_mut)?;
        change(value);
        if value.range() != joined {
            debug_assert!(false, "{} does not reach to {}", value.range(), joined.end());
            return None;
        }
        let leaf = &mut self.leaves[step.node];
        let upper = leaf.remove(next);
        leaf.set(step.at(), joined.end(), start);
        self.len -= 1;
        if self.leaves[step.node].len() < Leaf::MIN {
            self.mend();
        }
        self.values.take(upper.to).into_value()
    }

    /// Takes out the span that starts at `start` and the one after it, which touch each other and the one
    /// before: `change` makes that one reach as far as they did. What [`carve`](Self::carve) did, undone.
    /// False, and nothing has happened, if there are no three such spans.
    pub fn uncarve(&mut self, start: VirtAddr, change: impl FnOnce(&mut V)) -> bool {
        let Some((step, middle)) = self.path_to_start(start) else { return false };
        let (leaf, at) = (&self.leaves[step.node], step.at());
        if at == 0 || at + 1 == leaf.len() {
            return self.uncarve_at_border(start, change);
        }
        let (lower, upper) = (leaf.to(at - 1), leaf.to(at + 1));
        let touch = leaf.end(at - 1) == start && leaf.end(at) == leaf.start(at + 1);
        let joined = PageRange::new(leaf.start(at - 1), leaf.end(at + 1)).filter(|_| touch);
        let value = self.values.get_mut(lower).and_then(Slot::value_mut);
        let (Some(joined), Some(value)) = (joined, value) else { return false };
        change(value);
        if value.range() != joined {
            debug_assert!(false, "{} does not reach to {}", value.range(), joined.end());
            return false;
        }
        let leaf = &mut self.leaves[step.node];
        leaf.set(at - 1, joined.end(), joined.start());
        leaf.remove_all::<2>(at);
        let is_small = leaf.len() < Leaf::MIN;
        self.len -= 2;
        self.step_to(at - 1);
        if is_small {
            self.mend();
        }
        self.values.take(middle);
        self.values.take(upper);
        true
    }

    /// The same where the three are not in one leaf.
    #[cold]
    fn uncarve_at_border(&mut self, start: VirtAddr, change: impl FnOnce(&mut V)) -> bool {
        let Some(found) = self.near(start) else { return false };
        let lower = found.touching_before().map(|lower| lower.range().start());
        let upper = found.touching_after().map(|upper| upper.range().start());
        let (Some(lower), Some(upper)) = (lower, upper) else { return false };
        self.remove(start);
        self.remove(upper);
        self.update(lower, change)
    }

    /// Makes the path lead to the span that starts at `start`. Its step in the leaf, and the value's index.
    #[inline(always)]
    fn path_to_start(&mut self, start: VirtAddr) -> Option<(Step, u32)> {
        let mut step = self.path.leaf();
        if self.leaf_start(step) != Some(start) {
            if start >= self.top {
                return None;
            }
            step = self.path_to(start);
            if self.leaf_start(step) != Some(start) {
                return None;
            }
        }
        Some((step, self.leaves[step.node].to(step.at())))
    }

    /// The start of the span that the path, with that step in its leaf, leads to, if it leads to one.
    fn leaf_start(&self, step: Step) -> Option<VirtAddr> {
        let leaf = self.leaves.get(step.node)?;
        (step.at() < leaf.len()).then(|| leaf.start(step.at()))
    }

    /// The first span of an empty tree.
    fn plant(&mut self, value: V) {
        let range = value.range();
        let mut leaf = Leaf::new();
        leaf.insert(
            0,
            Row {
                end: range.end(),
                detail: range.start(),
                to: self.values.put(Slot::Taken(value)),
            },
        );
        self.root = self.leaves.put(leaf);
        self.top = range.end();
        self.len = 1;
    }

    /// Puts a row into a leaf that has room, and carries up what that changes. Only this leaf's gaps
    /// are touched:
    ///
    /// ```text
    ///     before   floor ├────────────── gap ─────────────┤ next span
    ///     after    floor ├── gap ──┤ new ├───── gap ──────┤ next span
    /// ```
    fn insert_row(&mut self, step: Step, row: Row<VirtAddr>) {
        let leaf = &mut self.leaves[step.node];
        let floor = leaf.floor(step.at(), step.floor);
        let next = (step.at() < leaf.len()).then(|| leaf.start(step.at()));
        leaf.insert(step.at(), row);
        match next {
            Some(next) => {
                let split = next.bytes_from(floor);
                self.carry_up(|leaf, stored| {
                    if split < stored { stored } else { leaf.widest(step.floor, stored) }
                });
            }
            None => {
                let gap = row.detail.bytes_from(floor);
                self.carry_up(|_, stored| stored.max(gap));
                self.top = row.end;
            }
        }
    }

    /// Whether `range` leaves the neighbours of the span that the path leads to alone.
    fn fits(&self, step: Step, range: PageRange) -> bool {
        let leaf = &self.leaves[step.node];
        let above = match step.at() + 1 {
            next if next < leaf.len() => Some(leaf.start(next)),
            _ => self.leaves.get(leaf.next).map(|leaf| leaf.start(0)),
        };
        leaf.floor(step.at(), step.floor) <= range.start()
            && above.is_none_or(|above| range.end() <= above)
    }

    /// Gives the span that the path leads to a new range, which fits.
    fn rekey(&mut self, step: Step, range: PageRange) {
        let leaf = &mut self.leaves[step.node];
        let old_end = leaf.end(step.at());
        if (leaf.start(step.at()), old_end) == (range.start(), range.end()) {
            return;
        }
        let old = leaf.wider_beside(step.at(), step.floor);
        leaf.set(step.at(), range.end(), range.start());
        let new = leaf.wider_beside(step.at(), step.floor);
        let is_last = step.at() + 1 == leaf.len();
        self.carry_up(|leaf, stored| match () {
            () if new >= stored => new,
            // Neither of the two gaps was the widest, nor is.
            () if old < stored => stored,
            () => leaf.widest(step.floor, stored),
        });
        if is_last && old_end != range.end() {
            self.settle_after(range.end());
        }
    }

    /// The leaf's last span, which ends or ended at `end`, has changed: so has the gap after it,
    /// which belongs to the next leaf, or is the open space past the last span.
    fn settle_after(&mut self, end: VirtAddr) {
        let path = self.path;
        let leaf = &self.leaves[path.leaf().node];
        if leaf.next == NIL {
            self.top = leaf.last_end();
            return;
        }
        let next = self.path_to(end);
        self.carry_up(|leaf, _| leaf.widest(next.floor, u64::MAX));
        self.path = path;
    }

    /// Brings the rows above the path's leaf, which has changed, up to date. `widest` says the leaf's widest gap, given
    /// the leaf and what its parent has stored.
    fn carry_up(&mut self, widest: impl FnOnce(&Leaf, u64) -> u64) {
        if self.height == 0 {
            return;
        }
        let leaf = &self.leaves[self.path.leaf().node];
        let mut end = leaf.last_end();
        let mut gap = widest(leaf, self.stored_gap(1));
        for level in 1..=self.height {
            let step = self.path.step(level);
            let inner = &mut self.inners[step.node];
            let old = inner.gap(step.at());
            if (inner.end(step.at()), old) == (end, gap) {
                return;
            }
            inner.set(step.at(), end, gap);
            if level == self.height {
                return;
            }
            end = inner.last_end();
            let stored = self.stored_gap(level + 1);
            gap = match () {
                () if gap >= stored => gap,
                () if old < stored => stored,
                () => self.inners[step.node].widest(),
            };
        }
    }

    /// What the path's inner node at `level` has stored as the widest gap of the child taken.
    fn stored_gap(&self, level: usize) -> u64 {
        let step = self.path.step(level);
        self.inners[step.node].gap(step.at())
    }
}
