//! What each query answers, on drawn trees.

use super::{comb, page, pages, tree};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::vma::tree::Tree;

//     0   1   2   3   4   5   6   7   8   9
//         ├─a─────┤       ├─b─┼─c─────┤
const ABC: [(u64, u64); 3] = [(1, 3), (5, 6), (6, 8)];

#[test]
fn an_empty_tree_finds_nothing_and_is_all_gap() {
    let tree: Tree<PageRange> = Tree::default();
    assert!(tree.is_empty());
    assert_eq!(tree.find(VirtAddr::ZERO), None);
    assert_eq!(tree.find_prev(page(3)), (None, None));
    assert_eq!((tree.first(), tree.last()), (None, None));
    assert_eq!(tree.iter().next(), None);
    assert_eq!(tree.iter().next_back(), None);
    assert_eq!(tree.highest_end(), VirtAddr::ZERO);
    assert_eq!(tree.highest_gap(PAGE_SIZE, page(1), page(9)), Some(page(8)));
    assert_eq!(tree.lowest_gap(PAGE_SIZE, page(1), page(9)), Some(page(1)));
    tree.audit().unwrap();
}

#[test]
fn find_vma_takes_the_first_end_above_even_from_below_the_start() {
    let tree = tree(&ABC);
    assert_eq!(tree.find(page(0)), Some(&pages(1, 3)));
    assert_eq!(tree.find(VirtAddr::new(3 * PAGE_SIZE - 1)), Some(&pages(1, 3)));
    assert_eq!(tree.find(page(3)), Some(&pages(5, 6)));
    assert_eq!(tree.find(page(6)), Some(&pages(6, 8)));
    assert_eq!(tree.find(page(8)), None);
    assert_eq!(tree.find(VirtAddr::new(u64::MAX)), None);
}

#[test]
fn vma_lookup_takes_only_a_span_that_contains_the_address() {
    let tree = tree(&ABC);
    assert_eq!(tree.find_exact(page(0)), None);
    assert_eq!(tree.find_exact(page(1)), Some(&pages(1, 3)));
    assert_eq!(tree.find_exact(page(4)), None);
    assert_eq!(tree.find_exact(page(5)), Some(&pages(5, 6)));
    assert_eq!(tree.find_exact(page(8)), None);
}

#[test]
fn find_vma_prev_adds_the_span_before() {
    let tree = tree(&ABC);
    assert_eq!(tree.find_prev(page(0)), (Some(&pages(1, 3)), None));
    assert_eq!(tree.find_prev(page(4)), (Some(&pages(5, 6)), Some(&pages(1, 3))));
    assert_eq!(tree.find_prev(page(7)), (Some(&pages(6, 8)), Some(&pages(5, 6))));
    assert_eq!(tree.find_prev(page(9)), (None, Some(&pages(6, 8))));
}

#[test]
fn what_was_aimed_at_changes_no_answer() {
    let mut tree = comb(200);
    for aimed in (0..402).step_by(if cfg!(miri) { 67 } else { 7 }) {
        let there = tree.find_exact(page(aimed)).copied();
        assert_eq!(tree.aim(page(aimed)).copied(), there);
        tree.audit().unwrap();
        for gap in (0..400).step_by(2) {
            let span = pages(gap + 1, gap + 2);
            assert_eq!(tree.find(page(gap)), Some(&span), "aimed at page {aimed}");
            assert_eq!(tree.find_range(span.start()), Some(span), "aimed at page {aimed}");
            let near = [tree.near(page(gap)), tree.near(span.start())];
            let near = near.map(|found| found.map(|found| *found.span()));
            assert_eq!(near, [None, Some(span)], "aimed at page {aimed}");
        }
    }
}

#[test]
fn an_intersection_shares_a_page_and_touching_is_not_sharing() {
    let tree = tree(&ABC);
    assert_eq!(tree.find_intersection(pages(3, 5)), None);
    assert_eq!(tree.find_intersection(pages(2, 6)), Some(&pages(1, 3)));
    assert_eq!(tree.find_intersection(pages(4, 9)), Some(&pages(5, 6)));
    assert_eq!(tree.find_intersection(pages(8, 9)), None);
}

#[test]
fn prev_is_wholly_below() {
    let tree = tree(&ABC);
    assert_eq!(tree.prev(page(1)), None);
    assert_eq!(tree.prev(page(2)), None);
    assert_eq!(tree.prev(page(3)), Some(&pages(1, 3)));
    assert_eq!(tree.prev(page(6)), Some(&pages(5, 6)));
    assert_eq!(tree.prev(page(7)), Some(&pages(5, 6)));
    assert_eq!(tree.prev(page(100)), Some(&pages(6, 8)));
}

#[test]
fn get_takes_a_start_and_nothing_else() {
    let tree = tree(&ABC);
    assert_eq!(tree.get(page(1)), Some(&pages(1, 3)));
    assert_eq!(tree.get(page(2)), None);
    assert_eq!(tree.get(page(3)), None);
}

#[test]
fn a_walk_over_a_range_takes_what_overlaps_from_both_ends() {
    let tree = tree(&ABC);
    let (a, b, c) = (pages(1, 3), pages(5, 6), pages(6, 8));
    assert!(tree.range(pages(2, 6)).eq([&a, &b]));
    assert!(tree.range(pages(2, 6)).rev().eq([&b, &a]));
    assert!(tree.range(pages(2, 7)).rev().eq([&c, &b, &a]));
    assert!(tree.range(pages(3, 5)).eq([] as [&PageRange; 0]));
    assert!(tree.range(pages(3, 5)).rev().eq([] as [&PageRange; 0]));
    assert!(tree.iter_from(page(5)).eq([&b, &c]));
    assert!(tree.iter().rev().eq([&c, &b, &a]));
    let mut both = tree.iter();
    assert_eq!((both.next_back(), both.next(), both.next()), (Some(&c), Some(&a), Some(&b)));
    assert_eq!((both.next(), both.next_back()), (None, None));
    let mut both = tree.iter();
    assert_eq!((both.next(), both.next_back(), both.next_back()), (Some(&a), Some(&c), Some(&b)));
    assert_eq!((both.next_back(), both.next()), (None, None));
}

//     0   1   2   3   4   5   6   7   8   9  10  11
//         ├─a─────┤       ├─b─┼─c─────┤
//     └─1─┘       └──2────┘           └─ open space
#[test]
fn the_highest_gap_is_placed_at_its_upper_end() {
    let tree = tree(&ABC);
    let highest =
        |count: u64, low, high| tree.highest_gap(count * PAGE_SIZE, page(low), page(high));
    assert_eq!(highest(1, 0, 11), Some(page(10)), "in the open space");
    assert_eq!(highest(3, 0, 11), Some(page(8)), "all of it");
    assert_eq!(highest(4, 0, 11), None);
    assert_eq!(highest(2, 0, 9), Some(page(3)), "the open space is one page here");
    assert_eq!(highest(1, 0, 8), Some(page(4)));
    assert_eq!(highest(1, 0, 4), Some(page(3)), "a gap cut from above");
    assert_eq!(highest(2, 0, 4), None);
    assert_eq!(highest(1, 4, 8), Some(page(4)), "a gap cut from below");
    assert_eq!(highest(2, 4, 8), None);
    assert_eq!(highest(1, 0, 3), Some(page(0)), "the gap before the first span");
    assert_eq!(highest(1, 1, 3), None);
}

#[test]
fn the_lowest_gap_is_placed_at_its_lower_end() {
    let tree = tree(&ABC);
    let lowest = |count: u64, low, high| tree.lowest_gap(count * PAGE_SIZE, page(low), page(high));
    assert_eq!(lowest(1, 0, 11), Some(page(0)));
    assert_eq!(lowest(1, 1, 11), Some(page(3)));
    assert_eq!(lowest(1, 4, 11), Some(page(4)), "a gap cut from below");
    assert_eq!(lowest(2, 4, 11), Some(page(8)), "in the open space");
    assert_eq!(lowest(2, 4, 9), None);
    assert_eq!(lowest(2, 0, 4), None, "a gap cut from above");
    assert_eq!(lowest(3, 0, 11), Some(page(8)));
    assert_eq!(lowest(1, 9, 11), Some(page(9)));
}

#[test]
fn a_gap_search_with_odd_arguments_answers_aligned_or_not_at_all() {
    let tree = tree(&ABC);
    let everything = VirtAddr::new(u64::MAX);
    assert_eq!(tree.highest_gap(0, page(0), page(11)), None);
    assert_eq!(tree.lowest_gap(0, page(0), page(11)), None);
    assert_eq!(tree.highest_gap(u64::MAX, page(0), everything), None);
    assert_eq!(tree.highest_gap(1, page(11), page(0)), None);
    assert_eq!(tree.lowest_gap(1, everything, everything), None);
    assert_eq!(tree.highest_gap(1, page(0), everything), VirtAddr::TASK_END.checked_sub(PAGE_SIZE));
    assert_eq!(
        tree.highest_gap(PAGE_SIZE + 1, page(0), VirtAddr::new(5 * PAGE_SIZE + 7)),
        Some(page(3))
    );
    assert_eq!(tree.lowest_gap(1, VirtAddr::new(3 * PAGE_SIZE + 1), page(11)), Some(page(4)));
}
