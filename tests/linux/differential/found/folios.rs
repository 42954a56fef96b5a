//! Acts on shared memory that `MADV_COLLAPSE` makes huge pages of, for whoever maps it.

use mm::addr::PAGE_SIZE as PAGE;
use mm::replay::calls::MemoryCall as M;

use super::super::act::Open;
use super::thp::{A, advise, at, disable, load, protect, remap, unmap, write};
use super::{ANONYMOUS, COLD, Deed, Deeds, FIXED, Found, PAGEOUT, PRIVATE, SHARED, of_one};

pub(super) const FOUND: &[Found] = &[
    ("small_pages_of_an_object_become_a_huge_one", collapsed),
    ("what_is_not_there_is_not_collapsed", untouched),
    ("an_empty_part_of_an_object_ends_the_collapse", second_only),
    ("an_objects_huge_page_is_for_all_who_map_it", for_all),
    ("where_there_are_no_tables_it_is_collapsed_and_not_mapped", without_tables),
    ("a_private_map_shows_a_huge_page_until_it_writes", private),
    ("a_private_copy_keeps_a_huge_page_from_being_mapped", copied),
    ("a_hole_in_a_huge_page_leaves_halves_and_quarters", hole),
    ("a_hole_between_two_huge_pages", hole_between),
    ("a_file_cut_in_a_huge_page", cut),
    ("a_file_cut_at_a_page_of_a_huge_one", cut_at_a_page),
    ("a_huge_page_reaches_beyond_its_file", beyond),
    ("a_part_of_a_huge_page_is_unmapped", parts),
    ("a_huge_page_of_an_object_moves", moved),
    ("a_child_has_none_of_a_huge_page_before_it_asks", forked),
    ("who_is_to_be_told_of_missing_pages", watched),
    ("where_huge_pages_are_not_wanted_pages_are_small", not_wanted),
    ("an_objects_locked_pages_become_a_huge_one", locked),
    ("what_is_paged_out_of_an_objects_huge_page", paged_out),
    ("a_part_of_an_objects_huge_page_is_paged_out", part_paged_out),
    ("a_part_of_an_objects_huge_page_is_cold", part_cold),
    ("a_part_of_what_small_entries_show_is_cold", small_part_cold),
    ("what_others_show_of_an_objects_huge_page_stays", others_show_it),
    ("an_objects_huge_page_shown_twice_goes_from_both", shown_twice),
    ("what_is_past_the_end_goes_as_a_huge_page_is_taken_apart", past_the_end),
    ("a_map_at_another_place_shows_small_pages", askew),
    ("huge_pages_become_one_again", again),
    ("a_guard_in_a_map_of_an_object", guarded),
];

fn collapse(page: u64, pages: u64) -> Deed {
    advise(page, pages, 25)
}

fn map_of(page: u64, pages: u64, flags: u64, fd: i32, offset: u64) -> Deed {
    let (addr, len, flags) = (at(page), pages * PAGE, flags | FIXED);
    Deed::Call(M::Mmap { addr, len, prot: 3, flags, fd, offset: offset * PAGE })
}

/// Shared memory for two huge pages; then what is done with it.
fn with(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    of_one([map_of(0, 1024, SHARED | ANONYMOUS, -1, 0)].into_iter().chain(deeds))
}

/// A memfd of so many pages, mapped so; then what is done with it.
fn with_file(pages: u64, flags: u64, deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    let file = [Deed::Open(3, Open::Memfd(pages)), map_of(0, 1024, flags, 3, 0)];
    of_one(file.into_iter().chain(deeds))
}

fn then(deeds: Deeds, others: impl IntoIterator<Item = (u8, Deed)>) -> Deeds {
    deeds.into_iter().chain(others).collect()
}

fn collapsed() -> Deeds {
    with([write(0), write(5), load(9), write(700), collapse(0, 1024), load(300), write(301)])
}

fn untouched() -> Deeds {
    with([collapse(0, 1024), write(1), collapse(1, 511), collapse(512, 512)])
}

fn second_only() -> Deeds {
    with([write(600), collapse(0, 1024), load(3), collapse(512, 512), load(4)])
}

fn for_all() -> Deeds {
    let both = [
        (0, Deed::Fork(1)),
        (1, write(7)),
        (1, write(700)),
        (0, collapse(0, 512)),
        (1, load(9)),
        (1, collapse(0, 1024)),
        (0, write(601)),
        (0, load(3)),
    ];
    then(with([write(0), write(9), write(600)]), both)
}

fn without_tables() -> Deeds {
    let both = [(0, Deed::Fork(1)), (1, write(7)), (1, write(600)), (0, collapse(0, 1024))];
    let after = [(0, load(5)), (1, load(8)), (0, collapse(0, 1024)), (0, write(600))];
    then(then(with([]), both), after)
}

fn private() -> Deeds {
    let shown = map_of(2048, 1024, SHARED, 3, 0);
    let deeds = [shown, write(2048), write(2700), collapse(2048, 1024), load(5), write(6), load(7)];
    with_file(1024, PRIVATE, deeds.into_iter().chain([load(600), collapse(0, 1024), write(513)]))
}

fn copied() -> Deeds {
    let deeds = [load(0), write(6), load(600), collapse(0, 1024), load(9), collapse(512, 512)];
    with_file(1024, PRIVATE, deeds.into_iter().chain([load(513), write(10)]))
}

fn hole() -> Deeds {
    let remove = advise(37, 5, 9);
    with([write(0), write(600), collapse(0, 1024), remove, write(0), write(36), write(43)])
        .into_iter()
        .chain(of_one([write(40), write(50), write(100), load(300), write(511), collapse(0, 512)]))
        .collect()
}

fn hole_between() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), advise(500, 100, 9), write(499)];
    with(deeds.into_iter().chain([write(0), write(600), write(700), load(1023)]))
}

fn cut() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), Deed::Truncate(3, 200 * PAGE + 5)];
    let after = [write(0), write(128), write(200), load(199), load(201), collapse(0, 512)];
    with_file(1024, SHARED, deeds.into_iter().chain(after))
}

fn cut_at_a_page() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), Deed::Truncate(3, 768 * PAGE)];
    let after = [write(5), write(600), load(767), load(768), Deed::Truncate(3, 512 * PAGE)];
    with_file(1024, SHARED, deeds.into_iter().chain(after).chain([load(511), load(512)]))
}

fn beyond() -> Deeds {
    let deeds = [write(0), collapse(0, 512), load(299), write(305), load(400), unmap(5, 1)];
    let after = [load(299), load(301), load(320), write(310), Deed::Truncate(3, 400 * PAGE)];
    with_file(300, SHARED, deeds.into_iter().chain(after).chain([write(310), load(399)]))
}

fn parts() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), unmap(3, 2), write(2), load(6)];
    let after = [protect(515, 2, 1), load(515), write(514), advise(600, 10, 4), write(601)];
    with(deeds.into_iter().chain(after).chain([protect(0, 1024, 1), protect(0, 1024, 3)]))
}

fn moved() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), remap(0, 512, 2048), load(2049)];
    with(deeds.into_iter().chain([remap(2048, 512, 4097), load(4099), remap(512, 5, 8192)]))
}

fn forked() -> Deeds {
    let both = [(0, Deed::Fork(1)), (1, load(3)), (1, write(4)), (0, write(5)), (1, unmap(0, 5))];
    then(with([write(0), write(600), collapse(0, 1024)]), both)
}

fn watched() -> Deeds {
    let watch = [Deed::Userfault(3), Deed::Uffd(3, A, 1024 * PAGE, 1)];
    let filled = (0..512).map(write).chain([write(600)]);
    with(filled.chain(watch).chain([collapse(0, 512), collapse(512, 512), collapse(0, 1024)]))
}

fn not_wanted() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), advise(0, 512, 15), load(5)];
    let after = [advise(0, 1024, 4), load(5), load(600), write(200), disable(0), load(513)];
    with(deeds.into_iter().chain(after).chain([advise(0, 1024, 4), load(600), collapse(512, 512)]))
}

fn locked() -> Deeds {
    let lock = Deed::Call(M::Mlock { addr: at(0), len: 512 * PAGE });
    with([write(0), lock, collapse(0, 512), write(7), unmap(9, 1), load(10)])
}

fn paged_out() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), advise(0, 512, 20), advise(5, 5, 20)];
    let after = [write(1), advise(512, 512, 21), load(513), advise(700, 3, 21), load(514)];
    with(deeds.into_iter().chain(after))
}

fn part_paged_out() -> Deeds {
    with([write(0), write(5), collapse(0, 512), advise(5, 5, PAGEOUT), load(7), write(300)])
        .into_iter()
        .chain(of_one([collapse(0, 512), advise(0, 512, PAGEOUT), load(9)]))
        .collect()
}

fn part_cold() -> Deeds {
    let deeds = [write(0), collapse(0, 512), advise(0, 512, COLD), load(7), advise(5, 5, COLD)];
    with(deeds.into_iter().chain([load(7), write(300), collapse(0, 512), load(9)]))
}

fn small_part_cold() -> Deeds {
    let deeds = [write(0), collapse(0, 512), protect(3, 2, 1), load(7), load(100), write(50)];
    with(deeds.into_iter().chain([advise(60, 200, COLD), load(7), collapse(0, 512), load(9)]))
}

fn others_show_it() -> Deeds {
    let both = [
        (0, Deed::Fork(1)),
        (1, load(7)),
        (0, advise(5, 5, COLD)),
        (0, advise(5, 5, PAGEOUT)),
        (1, advise(0, 512, PAGEOUT)),
        (1, unmap(0, 512)),
        (0, advise(0, 512, PAGEOUT)),
        (0, load(8)),
        (0, advise(5, 5, COLD)),
        (0, load(8)),
    ];
    then(with([write(0), collapse(0, 512)]), both)
}

fn shown_twice() -> Deeds {
    let shown = map_of(2048, 1024, SHARED, 3, 0);
    let deeds = [shown, write(0), collapse(0, 512), load(2050), advise(0, 512, PAGEOUT)];
    let after = [load(3), load(2050), advise(2053, 5, PAGEOUT), load(3), load(2050)];
    with_file(1024, SHARED, deeds.into_iter().chain(after))
}

fn past_the_end() -> Deeds {
    let deeds = [write(0), collapse(0, 512), advise(5, 5, COLD), load(299)];
    with_file(300, SHARED, deeds.into_iter().chain([Deed::Truncate(3, 512 * PAGE), load(305)]))
}

fn askew() -> Deeds {
    let other = map_of(2049, 512, SHARED, 3, 0);
    let deeds = [other, write(2049), write(6), collapse(0, 512), load(2060), write(2100)];
    with_file(1024, SHARED, deeds.into_iter().chain([collapse(2049, 512), load(9)]))
}

fn again() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), advise(3, 1, 9), write(100)];
    with(deeds.into_iter().chain([collapse(0, 1024), unmap(7, 1), load(9), collapse(512, 512)]))
}

fn guarded() -> Deeds {
    let deeds = [write(0), write(600), collapse(0, 1024), advise(7, 1, 102), write(8)];
    with(deeds.into_iter().chain([collapse(0, 512), advise(7, 1, 103), load(7), collapse(0, 512)]))
}
