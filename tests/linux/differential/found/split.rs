//! Acts on a huge page that is mapped in small ones: it stays one page to Linux, until advice takes it apart.

use super::thp::{advise, map, protect, remap, unmap, write};
use super::{COLD, Deed, Deeds, FREE, Found, PAGEOUT, of_one};

pub(super) const FOUND: &[Found] = &[
    ("a_part_given_up_takes_it_apart", part_given_up),
    ("a_part_that_is_cold_takes_it_apart", part_cold),
    ("a_part_that_is_paged_out_takes_it_apart", part_paged_out),
    ("all_of_it_is_given_up_as_one", all_given_up),
    ("all_of_it_is_paged_out_as_one", all_paged_out),
    ("mapped_by_a_large_entry_it_is_paged_out_as_one", paged_out_while_large),
    ("moved_apart_it_is_still_one", moved_apart),
    ("what_others_have_too_is_left_alone", others_have_it),
    ("what_nobody_else_has_any_more_is_written_in_place", nobodys_any_more),
    ("its_last_page_is_copied", last_page),
    ("two_take_their_entries_apart", both_apart),
];

/// A huge page of which two are written, and a part may not be: it is mapped in small ones.
fn with(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    let huge = [map(0, 1024), advise(0, 1024, 14), write(0), write(300), protect(3, 2, 1)];
    of_one(huge.into_iter().chain(deeds))
}

fn then(deeds: Deeds, others: impl IntoIterator<Item = (u8, Deed)>) -> Deeds {
    deeds.into_iter().chain(others).collect()
}

fn part_given_up() -> Deeds {
    with([advise(10, 5, FREE), write(11)])
}

fn part_cold() -> Deeds {
    with([advise(10, 5, COLD), write(11)])
}

fn part_paged_out() -> Deeds {
    with([advise(10, 5, PAGEOUT), write(11)])
}

fn all_given_up() -> Deeds {
    with([advise(0, 512, FREE), write(7), advise(0, 512, PAGEOUT)])
}

fn all_paged_out() -> Deeds {
    with([advise(0, 512, PAGEOUT), write(7)])
}

fn paged_out_while_large() -> Deeds {
    let huge = [map(0, 1024), advise(0, 1024, 14), write(0), write(300)];
    of_one(huge.into_iter().chain([advise(0, 512, PAGEOUT), write(7)]))
}

fn moved_apart() -> Deeds {
    with([remap(100, 50, 2048), advise(2050, 1, COLD), write(2060)])
}

fn others_have_it() -> Deeds {
    let both = [
        (0, Deed::Fork(1)),
        (1, advise(10, 5, PAGEOUT)),
        (1, advise(0, 512, FREE)),
        (1, write(6)),
        (1, Deed::Exit),
        (0, advise(10, 5, COLD)),
    ];
    then(with([]), both)
}

fn nobodys_any_more() -> Deeds {
    let both = [
        (0, Deed::Fork(1)),
        (1, unmap(0, 512)),
        (0, write(300)),
        (0, write(9)),
        (0, advise(9, 1, FREE)),
    ];
    then(with([]), both)
}

fn last_page() -> Deeds {
    let both = [
        (0, Deed::Fork(1)),
        (1, Deed::Exit),
        (0, unmap(0, 300)),
        (0, unmap(301, 300)),
        (0, write(300)),
        (0, advise(300, 1, FREE)),
    ];
    then(with([]), both)
}

fn both_apart() -> Deeds {
    let huge = of_one([map(0, 1024), advise(0, 1024, 14), write(0), write(300)]);
    let both = [
        (0, Deed::Fork(1)),
        (1, protect(3, 2, 1)),
        (1, write(8)),
        (0, write(9)),
        (0, advise(20, 5, COLD)),
        (1, unmap(0, 512)),
        (0, advise(20, 5, COLD)),
    ];
    then(huge, both)
}
