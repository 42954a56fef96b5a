//! The eight cases of Linux's `vma_merge`, as they were numbered up to 6.12, and what cannot merge.

use super::*;

#[test]
fn case_1_a_map_that_fills_a_hole_joins_both_sides() {
    mapping(
        "[AAAA]......[AAAA]", //
        "      [AAAA]      ",
        "[AAAAAAAAAAAAAAAA]",
    );
}

#[test]
fn case_2_a_map_after_a_vma_joins_it() {
    mapping(
        "[AAAA]......[BBBB]", //
        "      [AAAA]      ",
        "[AAAAAAAAAA][BBBB]",
    );
}

#[test]
fn case_3_a_map_before_a_vma_joins_it() {
    mapping(
        "[BBBB]......[AAAA]", //
        "      [AAAA]      ",
        "[BBBB][AAAAAAAAAA]",
    );
}

#[test]
fn case_4_the_end_of_a_vma_that_becomes_like_the_next_goes_over_to_it() {
    changing(
        "[BBBBBBBBBB][AAAA]", //
        "      [AAAA]      ",
        "[BBBB][AAAAAAAAAA]",
    );
}

#[test]
fn case_5_the_start_of_a_vma_that_becomes_like_the_one_before_goes_over_to_it() {
    changing(
        "[AAAA][BBBBBBBBBB]", //
        "      [AAAA]      ",
        "[AAAAAAAAAA][BBBB]",
    );
}

#[test]
fn case_6_a_vma_that_becomes_like_both_its_neighbours_makes_one_of_the_three() {
    changing(
        "[AAAA][BBBB][AAAA]", //
        "      [AAAA]      ",
        "[AAAAAAAAAAAAAAAA]",
    );
}

#[test]
fn case_7_a_vma_that_becomes_like_the_one_before_vanishes_in_it() {
    changing(
        "[AAAA][BBBB][CCCC]", //
        "      [AAAA]      ",
        "[AAAAAAAAAA][CCCC]",
    );
}

#[test]
fn case_8_a_vma_that_becomes_like_the_next_vanishes_in_it() {
    changing(
        "[CCCC][BBBB][AAAA]", //
        "      [AAAA]      ",
        "[CCCC][AAAAAAAAAA]",
    );
}

#[test]
fn the_middle_of_a_vma_touches_no_neighbour_and_is_cut_out() {
    changing(
        "[AA][BBBBBBBBBB][AA]", //
        "        [AA]        ",
        "[AA][BB][AA][BB][AA]",
    );
}

#[test]
fn a_part_that_becomes_like_neither_neighbour_is_cut_off() {
    changing(
        "[AAAA][BBBBBBBB]", //
        "      [CCC]     ",
        "[AAAA][CCC][BBB]",
    );
}

#[test]
fn a_vma_that_becomes_like_neither_neighbour_stays() {
    changing(
        "[AAAA][BBBB][AAAA]", //
        "      [CCCC]      ",
        "[AAAA][CCCC][AAAA]",
    );
}

#[test]
fn a_map_between_unlike_neighbours_stays_alone() {
    mapping(
        "[BBBB]......[CCCC]", //
        "      [AAAA]      ",
        "[BBBB][AAAA][CCCC]",
    );
}

#[test]
fn a_map_that_leaves_a_hole_joins_nothing() {
    mapping(
        "[AAAA]......[AAAA]", //
        "       [AA]       ",
        "[AAAA].[AA].[AAAA]",
    );
}

#[test]
fn the_heap_joins_what_is_before_it_only() {
    let mut tree = tree(vmas("[AA]....[AA]"));
    assert!(merge_left(&mut tree, &vma("    [AA]    "), Origin::New).is_some());
    assert_eq!(drawn(&tree, 12), "[AAAAAA][AA]");
}

#[test]
fn a_cut_that_passes_the_most_vmas_is_refused() {
    let mut tree = tree(vmas("[BBBBBBBB]"));
    assert_eq!(modify(&mut tree, vma("   [AA]   "), 1), Err(crate::error::Errno::ENOMEM));
    assert_eq!(drawn(&tree, 10), "[BBBBBBBB]");
    // The first cut makes two of them, and stays.
    assert_eq!(modify(&mut tree, vma("   [AA]   "), 2), Err(crate::error::Errno::ENOMEM));
    assert_eq!(drawn(&tree, 10), "[B][BBBBB]");
}
