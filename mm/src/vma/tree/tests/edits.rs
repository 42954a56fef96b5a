//! What insertion, removal and change do to nodes and gaps, and what they refuse.

use super::{comb, page, pages, tree};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::vma::tree::node::{Inner, Leaf};
use crate::vma::tree::{ReserveError, Tree};

/// The number of rows of each leaf.
fn leaves(tree: &Tree<PageRange>) -> Vec<usize> {
    let mut rows = Vec::new();
    let mut leaf = tree.locate(VirtAddr::ZERO).map(|spot| spot.leaf);
    while let Some(node) = leaf {
        rows.push(node.len());
        leaf = tree.leaves.get(node.next);
    }
    rows
}

fn at(index: usize) -> u64 {
    2 * index as u64 + 1
}

#[test]
fn an_overlapping_span_is_given_back_and_nothing_changes() {
    let mut tree = tree(&[(1, 3), (5, 6), (6, 8)]);
    for (start, end) in [(0, 2), (0, 9), (1, 3), (2, 3), (2, 4), (4, 6), (5, 8), (7, 9), (7, 8)] {
        assert_eq!(tree.insert(pages(start, end)), Err(pages(start, end)));
        tree.audit().unwrap();
    }
    assert_eq!(tree.len(), 3);
    assert_eq!(tree.insert(pages(3, 5)), Ok(()), "it touches on both sides");
}

//     [ 31 ]          one full leaf is the root
//     [ 16 ][ 16 ]    it splits, and a root grows over the halves
#[test]
fn a_full_root_leaf_splits_in_halves() {
    let mut tree = comb(Leaf::MAX as u64);
    assert_eq!((tree.height, leaves(&tree)), (0, vec![31]));
    tree.insert(pages(0, 1)).unwrap();
    tree.audit().unwrap();
    assert_eq!((tree.height, leaves(&tree)), (1, vec![16, 16]));
}

//     [ 15 ][ 31 ]    the right one is full, the left one has room
//     [ 23 ][ 24 ]    they share
#[test]
fn a_full_leaf_shares_with_a_neighbour_before_it_splits() {
    let mut tree = comb(46);
    assert_eq!(leaves(&tree), [15, 31]);
    tree.insert(pages(at(46), at(46) + 1)).unwrap();
    tree.audit().unwrap();
    assert_eq!(leaves(&tree), [23, 24]);
}

#[test]
fn spans_added_in_order_fill_the_leaves() {
    let upwards = comb(2000);
    let mut downwards = Tree::new();
    for index in (0..2000).rev() {
        downwards.insert(pages(2 * index, 2 * index + 1)).unwrap();
    }
    downwards.audit().unwrap();
    for tree in [upwards, downwards] {
        assert!(leaves(&tree).len() <= 2000 / 26, "{:?}", leaves(&tree));
    }
}

//     [ 15 ][ 17 ]         one too few on the left after
//     [ 11 ][ 17 ]         four are gone:
//     [ 14 ][ 14 ]         28 do not fit into one with room to spare: they share
#[test]
fn a_leaf_with_too_few_spans_takes_some_from_its_neighbour() {
    let mut tree = comb(32);
    assert_eq!(leaves(&tree), [15, 17]);
    for index in 0..4 {
        assert!(tree.remove(page(at(index))).is_some());
        tree.audit().unwrap();
    }
    assert_eq!(leaves(&tree), [14, 14]);
}

//     [ 15 ][ 12 ]  ->  [ 15 ][ 11 ]  ->  26 > 24: share  [ 13 ][ 13 ]
//     [ 13 ][ 12 ]  ->  [ 13 ][ 11 ]  ->  24: join        [ 24 ], which is the root again
#[test]
fn leaves_that_fit_into_one_join_and_the_root_above_goes() {
    let mut tree = comb(32);
    for index in (25..32).rev() {
        assert!(tree.remove(page(at(index))).is_some());
        tree.audit().unwrap();
    }
    assert_eq!((tree.height, leaves(&tree)), (1, vec![13, 12]));
    assert!(tree.remove(page(at(24))).is_some());
    tree.audit().unwrap();
    assert_eq!((tree.height, leaves(&tree)), (0, vec![24]));
    assert_eq!((tree.leaves.in_use(), tree.inners.in_use()), (1, 0));
}

#[test]
fn inner_nodes_split_and_join_as_leaves_do() {
    let count = (Inner::MAX * Leaf::MAX) as u64;
    let mut tree = comb(count);
    assert_eq!(tree.height, 2);
    for index in 0..count {
        // From the middle outwards, so that both ends of nodes are met.
        let index = if index % 2 == 0 { count / 2 + index / 2 } else { count / 2 - index / 2 - 1 };
        assert_eq!(
            tree.remove(page(2 * index + 1)),
            Some(pages(2 * index + 1, 2 * index + 2)),
            "{index}"
        );
        if index % if cfg!(miri) { 500 } else { 16 } == 0 {
            tree.audit().unwrap();
        }
    }
    assert_eq!((tree.len(), tree.height, tree.leaves.in_use(), tree.inners.in_use()), (0, 0, 0, 0));
    tree.audit().unwrap();
}

//     ... ┤15├ gap ┤16├ ...     the leaf boundary is between the two
//     ... ┤15├ gap ──────├ ...  after 16 is gone, the gap is the next one's
//     ... ┤ gap ─────────├ ...  after 15 is gone as well, it reaches back into the other leaf
#[test]
fn a_gap_grows_across_a_leaf_boundary_from_both_sides() {
    let mut tree = comb(60);
    let boundary = leaves(&tree)[0];
    assert!(leaves(&tree).len() > 1);
    let wide = |tree: &Tree<_>| tree.highest_gap(3 * PAGE_SIZE, page(0), tree.highest_end());
    assert_eq!(wide(&tree), None);
    tree.remove(page(at(boundary))).unwrap();
    tree.audit().unwrap();
    assert_eq!(wide(&tree), Some(page(at(boundary) - 1)));
    tree.insert(pages(at(boundary), at(boundary) + 1)).unwrap();
    tree.audit().unwrap();
    assert_eq!(wide(&tree), None);
    tree.remove(page(at(boundary - 1))).unwrap();
    tree.audit().unwrap();
    assert_eq!(wide(&tree), Some(page(at(boundary - 1) - 1)));
}

#[test]
fn an_update_moves_a_bound_and_the_gaps_on_both_sides() {
    let mut tree = comb(60);
    for index in 0..60 {
        // Into the gap below, then over the gap above, then back.
        let (start, end) = (at(index), at(index) + 1);
        for (from, range) in [
            (start, (start - 1, end)),
            (start - 1, (start - 1, end + 1)),
            (start - 1, (start, end)),
        ] {
            assert!(tree.update(page(from), |span| *span = pages(range.0, range.1)));
            tree.audit().unwrap();
            assert_eq!(tree.get(page(range.0)), Some(&pages(range.0, range.1)));
        }
    }
    assert_eq!(tree.highest_end(), page(at(59) + 1));
}

/// A tree of `count` spans of three pages each: 0-3, 3-6, 6-9 ...
fn tiles(count: u64) -> Tree<PageRange> {
    let mut tree = Tree::new();
    for at in 0..count {
        tree.insert(pages(3 * at, 3 * at + 3)).unwrap();
    }
    tree
}

// In a leaf that is full, that lacks one row, that lacks two; at its first row, its last, any.
#[test]
fn what_is_carved_out_anywhere_and_taken_in_again_leaves_the_spans_as_they_were() {
    for count in if cfg!(miri) { 29..32 } else { 1..100 } {
        let mut tree = tiles(count);
        let whole: Vec<_> = tree.iter().copied().collect();
        for start in (0..count).map(|index| 3 * index) {
            let (middle, upper) = (pages(start + 1, start + 2), pages(start + 2, start + 3));
            let carved = tree.carve(page(start), middle, upper, |span| {
                *span = pages(start, start + 1);
            });
            assert_eq!(carved, Ok(()));
            tree.audit().unwrap();
            let parts: Vec<_> = tree.range(pages(start, start + 3)).copied().collect();
            assert_eq!(parts, [pages(start, start + 1), middle, upper]);
            assert!(tree.uncarve(page(start + 1), |span| *span = pages(start, start + 3)));
            tree.audit().unwrap();
            assert!(tree.iter().eq(&whole), "{start} of {count}");
        }
    }
}

//     [ 15 ][ 12 ]  ->  [ 15 ][ 10 ]  ->  25 > 24: share
//     [ 12 ][ 12 ]  ->  [ 12 ][ 10 ]  ->  22: join
#[test]
fn a_leaf_that_two_rows_leave_is_mended() {
    for (left, right, mended) in [(15_u32, 12, vec![12, 13]), (12, 12, vec![22])] {
        let mut tree = tiles(32);
        assert_eq!(leaves(&tree), [15, 17]);
        for index in (15 + right..32).rev().chain(0..15 - left) {
            assert!(tree.remove(page(3 * u64::from(index))).is_some());
        }
        assert_eq!(leaves(&tree), [left as usize, right as usize]);
        assert!(tree.uncarve(page(3 * 20), |span| *span = pages(3 * 19, 3 * 22)));
        tree.audit().unwrap();
        assert_eq!(leaves(&tree), mended);
    }
}

#[test]
fn three_spans_in_two_leaves_become_one() {
    for middle in [14, 15] {
        let mut tree = tiles(32);
        assert_eq!(leaves(&tree), [15, 17], "the border is between 14 and 15");
        let joined = pages(3 * (middle - 1), 3 * (middle + 2));
        assert!(tree.uncarve(page(3 * middle), |span| *span = joined));
        tree.audit().unwrap();
        assert_eq!((tree.len(), tree.find(joined.start())), (30, Some(&joined)));
    }
}

#[test]
fn nothing_is_carved_or_taken_in_that_does_not_fit() {
    let mut tree = tree(&[(1, 5), (5, 6), (6, 7), (8, 9)]);
    let whole: Vec<_> = tree.iter().copied().collect();
    for (start, from, at, end) in
        [(2, 3, 4, 5), (1, 1, 4, 5), (1, 2, 3, 4), (1, 2, 3, 6), (8, 9, 10, 11), (9, 10, 11, 12)]
    {
        let parts = (pages(from, at), pages(at, end));
        let refused = tree.carve(page(start), parts.0, parts.1, |_| unreachable!());
        assert_eq!(refused, Err(parts));
    }
    let parts = (pages(2, 3), pages(4, 5));
    assert_eq!(tree.carve(page(1), parts.0, parts.1, |_| unreachable!()), Err(parts));
    for start in [0, 1, 2, 6, 8, 9] {
        assert!(!tree.uncarve(page(start), |_| unreachable!()), "{start}");
    }
    tree.audit().unwrap();
    assert!(tree.iter().eq(&whole));
}

#[test]
fn what_is_reserved_is_enough_for_what_is_carved_out() {
    for held in if cfg!(miri) { vec![30, 31] } else { vec![1, 29, 30, 31, 32, 63 * 31, 3000] } {
        let mut tree = tiles(held);
        for start in (0..held).map(|index| 3 * index) {
            tree.reserve(2).unwrap();
            let bytes = tree.memory_bytes();
            let (middle, upper) = (pages(start + 1, start + 2), pages(start + 2, start + 3));
            let lower = pages(start, start + 1);
            assert_eq!(tree.carve(page(start), middle, upper, |span| *span = lower), Ok(()));
            assert_eq!(tree.memory_bytes(), bytes, "{start} of {held}");
        }
        tree.audit().unwrap();
        assert_eq!(tree.len() as u64, 3 * held);
    }
}

#[test]
fn an_update_of_no_span_is_refused() {
    let mut tree = tree(&[(1, 3)]);
    assert!(!tree.update(page(2), |_| unreachable!()));
    assert!(!tree.update(page(3), |_| unreachable!()));
    assert!(!Tree::<PageRange>::new().update(page(0), |_| unreachable!()));
}

#[test]
fn an_update_of_the_last_span_moves_the_highest_end() {
    let mut tree = tree(&[(1, 3), (5, 6)]);
    assert!(tree.update(page(5), |span| *span = pages(4, 9)));
    tree.audit().unwrap();
    assert_eq!(tree.highest_end(), page(9));
    tree.remove(page(4)).unwrap();
    assert_eq!(tree.highest_end(), page(3));
    tree.remove(page(1)).unwrap();
    assert_eq!(tree.highest_end(), page(0));
}

#[test]
fn a_removal_of_no_span_finds_nothing() {
    let mut tree = tree(&[(1, 3)]);
    assert_eq!(tree.remove(page(0)), None);
    assert_eq!(tree.remove(page(2)), None);
    assert_eq!(tree.remove(page(3)), None);
    assert_eq!(Tree::<PageRange>::new().remove(page(0)), None);
    assert_eq!(tree.len(), 1);
}

#[test]
fn what_is_reserved_is_enough_wherever_the_spans_go() {
    // Full leaves and full inner nodes, so that each insertion splits as much as it can.
    let (held, added): (&[u64], &[usize]) = match cfg!(miri) {
        true => (&[0, 31, 32], &[1, 40]),
        false => (&[0, 1, 30, 31, 32, 31 * 31, 63 * 31, 3000], &[1, 2, 3, 40, 2000]),
    };
    for &held in held {
        for &added in added {
            let mut tree = comb(held);
            tree.reserve(added).unwrap();
            let bytes = tree.memory_bytes();
            let stride = (2 * held / added as u64).max(2) & !1;
            for index in 0..added as u64 {
                tree.insert(pages(index * stride, index * stride + 1)).unwrap();
            }
            assert_eq!(tree.memory_bytes(), bytes, "{added} added to {held}");
            tree.audit().unwrap();
        }
    }
}

#[test]
fn what_is_reserved_lasts_through_removals() {
    let mut tree = comb(500);
    tree.reserve(2).unwrap();
    let bytes = tree.memory_bytes();
    for index in 0..500 {
        tree.remove(page(at(index))).unwrap();
    }
    for index in 0..502 {
        tree.insert(pages(2 * index, 2 * index + 1)).unwrap();
    }
    assert_eq!(tree.memory_bytes(), bytes);
}

// Half of the spans, in as many leaves; then as many again in one place.
#[test]
fn a_reservation_counts_the_leaves_that_removals_left_half_empty() {
    let mut tree: Tree<PageRange> = Tree::new();
    for index in 0..800 {
        tree.reserve(1).unwrap();
        tree.insert(pages(1000 * index, 1000 * index + 1)).unwrap();
    }
    for index in (1..800).step_by(2) {
        tree.remove(page(1000 * index)).unwrap();
    }
    for index in 1..400 {
        tree.reserve(1).unwrap();
        let bytes = tree.memory_bytes();
        tree.insert(pages(2 * index, 2 * index + 1)).unwrap();
        assert_eq!(tree.memory_bytes(), bytes, "the {index}th");
    }
    tree.audit().unwrap();
}

#[test]
fn a_reservation_past_the_limit_fails_and_changes_nothing() {
    let mut tree = comb(100);
    let bytes = tree.memory_bytes();
    tree.set_memory_limit(bytes);
    let refused = tree.reserve(1000).unwrap_err();
    assert!(
        matches!(refused, ReserveError::Limit { spans: 1000, limit } if limit == bytes),
        "{refused}"
    );
    assert_eq!(tree.memory_bytes(), bytes);
    assert!(matches!(tree.reserve(usize::MAX), Err(ReserveError::TooMany { .. })));
    tree.set_memory_limit(usize::MAX);
    tree.reserve(1000).unwrap();
    tree.audit().unwrap();
}

#[test]
fn clear_gives_everything_back() {
    let mut tree = comb(1000);
    tree.clear();
    tree.audit().unwrap();
    assert_eq!((tree.len(), tree.memory_bytes()), (0, 0));
    tree.insert(pages(1, 2)).unwrap();
    tree.audit().unwrap();
}

#[test]
fn a_tree_of_any_size_is_filled_at_once_within_what_was_reserved() {
    for count in
        (0..200).chain([27, 28, 29].map(|leaves| 28 * leaves)).chain([1_600, 4_000, 100_000])
    {
        let mut tree = Tree::new();
        tree.reserve(count).unwrap();
        let bytes = tree.memory_bytes();
        let spans = (0..count as u64).map(|at| pages(3 * at + at % 2, 3 * at + 2));
        assert_eq!(tree.fill(spans.clone()), Ok(()));
        tree.audit().unwrap();
        assert!(tree.iter().copied().eq(spans), "{count} spans");
        assert_eq!(tree.memory_bytes(), bytes, "{count} spans");
    }
}

#[test]
fn what_is_filled_in_stops_at_the_first_span_out_of_order() {
    let mut tree = Tree::new();
    let spans = [pages(1, 2), pages(2, 4), pages(3, 5), pages(6, 7)];
    assert_eq!(tree.fill(spans), Err(pages(3, 5)));
    tree.audit().unwrap();
    assert!(tree.iter().eq(&spans[..2]));
    assert_eq!(tree.fill([pages(6, 7)]), Err(pages(6, 7)), "only an empty one is filled");
    assert_eq!(tree.len(), 2);
}
