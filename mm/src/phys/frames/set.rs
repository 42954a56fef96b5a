//! A set of frames within one block of 2 MiB: a bit for each of them.

use std::fmt;
use std::ops::Range;

use super::SLOTS;

/// Bits in a word.
const WORD: usize = 64;

/// Slots of a block, each from 0 to 511.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FrameSet([u64; SLOTS / WORD]);

impl FrameSet {
    /// No slot.
    pub(super) const EMPTY: FrameSet = FrameSet([0; SLOTS / WORD]);
    /// All slots.
    pub(super) const FULL: FrameSet = FrameSet([u64::MAX; SLOTS / WORD]);

    /// The slots of a range, which lies in the block.
    pub(super) fn of(range: Range<usize>) -> Self {
        let mut set = FrameSet::EMPTY;
        for (at, word) in set.0.iter_mut().enumerate() {
            let from = range.start.clamp(at * WORD, at * WORD + WORD) - at * WORD;
            let to = range.end.clamp(at * WORD, at * WORD + WORD) - at * WORD;
            *word = below(to) & !below(from);
        }
        set
    }

    pub(super) fn insert(&mut self, slot: usize) {
        self.0[slot / WORD] |= 1 << (slot % WORD);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == FrameSet::EMPTY
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The slots in either.
    pub(super) fn with(self, other: FrameSet) -> Self {
        self.merged(other, |a, b| a | b)
    }

    /// The slots in both.
    pub(super) fn and(self, other: FrameSet) -> Self {
        self.merged(other, |a, b| a & b)
    }

    /// The slots that are not in the other.
    pub(super) fn without(self, other: FrameSet) -> Self {
        self.merged(other, |a, b| a & !b)
    }

    fn merged(mut self, other: FrameSet, merge: impl Fn(u64, u64) -> u64) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word = merge(*word, other);
        }
        self
    }

    /// The first slot at or past `from`.
    fn first_from(&self, from: usize) -> Option<usize> {
        let (at, bit) = (from / WORD, from % WORD);
        let rest = *self.0.get(at)? & !below(bit);
        if rest != 0 {
            return Some(at * WORD + rest.trailing_zeros() as usize);
        }
        let next = self.0[at + 1..].iter().position(|&word| word != 0)? + at + 1;
        Some(next * WORD + self.0[next].trailing_zeros() as usize)
    }

    /// The runs of neighbouring slots, ascending.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (inside, outside) = (*self, FrameSet::FULL.without(*self));
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = inside.first_from(at)?;
            at = outside.first_from(start).unwrap_or(SLOTS);
            Some(start..at)
        })
    }

    /// The slots, ascending.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        self.runs().flatten()
    }

    /// The first run, cut to `most` slots.
    pub(super) fn first_run(&self, most: usize) -> Option<Range<usize>> {
        let run = self.runs().next()?;
        Some(run.start..run.end.min(run.start + most))
    }

    /// The run that begins at a slot, cut to `most` slots.
    pub(super) fn run_at(&self, start: usize, most: usize) -> Option<Range<usize>> {
        let run = self.runs().find(|run| run.contains(&start))?;
        Some(start..run.end.min(start + most))
    }

    /// The first `count` slots, a power of two, that lie side by side at a multiple of `count`.
    pub(super) fn aligned_run(&self, count: usize) -> Option<Range<usize>> {
        let mut starts = (0..SLOTS).step_by(count);
        let start =
            starts.find(|&start| FrameSet::of(start..start + count).without(*self).is_empty())?;
        Some(start..start + count)
    }
}

impl fmt::Debug for FrameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

/// The bits below `bit`, which may be 64.
fn below(bit: usize) -> u64 {
    if bit == WORD { u64::MAX } else { (1 << bit) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_range_over_words_has_its_slots_and_no_other() {
        let set = FrameSet::of(60..130);
        assert_eq!(set.slots().collect::<Vec<_>>(), (60..130).collect::<Vec<_>>());
        assert_eq!((FrameSet::of(0..SLOTS), FrameSet::of(7..7)), (FrameSet::FULL, FrameSet::EMPTY));
    }

    #[test]
    fn an_aligned_run_skips_free_slots_that_lie_across_a_boundary() {
        // [ 1..31 free ][ 32..40 used ][ 41..  free ]: the first 16 aligned ones are 16..32.
        let free = FrameSet::FULL.without(FrameSet::of(32..41)).without(FrameSet::of(0..1));
        assert_eq!(free.aligned_run(16), Some(16..32));
        assert_eq!(free.aligned_run(32), Some(64..96));
        assert_eq!(free.aligned_run(SLOTS), None);
    }

    proptest! {
        #[test]
        fn it_is_the_standard_librarys_set_of_the_same_slots(
            left in proptest::collection::btree_set(0..SLOTS, 0..300),
            right in proptest::collection::btree_set(0..SLOTS, 0..300),
        ) {
            let set = |slots: &BTreeSet<usize>| {
                let mut set = FrameSet::EMPTY;
                slots.iter().for_each(|&slot| set.insert(slot));
                set
            };
            let slots = |set: FrameSet| set.slots().collect::<BTreeSet<_>>();
            let (a, b) = (set(&left), set(&right));
            prop_assert_eq!(a.len(), left.len() as u64);
            prop_assert_eq!(slots(a.with(b)), &left | &right);
            prop_assert_eq!(slots(a.and(b)), &left & &right);
            prop_assert_eq!(slots(a.without(b)), &left - &right);
        }
    }
}
