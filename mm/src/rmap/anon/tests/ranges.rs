//! Ranges against a plain set of pages.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::ranges::{Piece, Ranges};

#[test]
fn what_adjoins_with_one_shift_is_one_piece_and_with_two_is_not() {
    let mut ranges = Ranges::default();
    ranges.add(Piece::new(10, 2, 10));
    ranges.add(Piece::new(14, 2, 14));
    ranges.add(Piece::new(12, 2, 12));
    assert_eq!(ranges.pieces(), [Piece::new(10, 6, 10)]);
    ranges.add(Piece::new(16, 2, 0));
    assert_eq!(ranges.pieces().len(), 2);
    // Page 11 is in the one, page 1 in the other.
    assert_eq!(ranges.find(11).collect::<Vec<_>>(), [11]);
    assert_eq!(ranges.find(1).collect::<Vec<_>>(), [17]);
    ranges.remove(Piece::new(11, 4, 11));
    assert_eq!(ranges.find(11).count(), 0);
    ranges.remove(Piece::new(10, 1, 10));
    ranges.remove(Piece::new(15, 1, 15));
    assert!(matches!(ranges, Ranges::One(_)));
    ranges.remove(Piece::new(16, 2, 0));
    assert!(ranges.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1000 }))]
    #[test]
    fn ranges_find_what_a_plain_set_of_pages_does(
        // Whether it is put in; where, how much, and how far from there the index is.
        steps in proptest::collection::vec((any::<bool>(), 0..40_u64, 1..9_u64, 0..4_usize), 1..60),
    ) {
        let mut ranges = Ranges::default();
        // Of each page: its address and its index.
        let mut plain = BTreeSet::new();
        for (put, start, pages, distance) in steps {
            // Around 0 and around 2^63, where sums wrap.
            let first = (start + [0, 3, 1 << 62, (1 << 63) - 20][distance]) % (1 << 63);
            let piece = Piece::new(start, pages, first);
            let each = (0..pages).map(|i| (start + i, (first + i) % (1 << 63)));
            prop_assert_eq!(ranges.covers(piece), each.clone().all(|page| plain.contains(&page)));
            if put {
                plain.extend(each);
                ranges.add(piece);
            } else {
                each.for_each(|page| { plain.remove(&page); });
                ranges.remove(piece);
            }
            prop_assert_eq!(ranges.is_empty(), plain.is_empty());
            prop_assert_eq!(ranges.pieces().iter().map(|p| p.pages()).sum::<u64>(), plain.len() as u64);
            let indexes: BTreeSet<u64> = plain.iter().map(|&(_, index)| index).collect();
            for index in indexes.into_iter().chain([7, 100]) {
                let mut found: Vec<_> = ranges.find(index).collect();
                found.sort_unstable();
                let there = plain.iter().filter(|page| page.1 == index).map(|page| page.0);
                prop_assert_eq!(found, there.collect::<Vec<_>>(), "page {}", index);
            }
        }
    }
}
