//! Acts on small pages that `MADV_COLLAPSE` makes huge ones of.

use mm::addr::PAGE_SIZE as PAGE;
use mm::replay::calls::MemoryCall as M;

use super::thp::{A, advise, at, disable, load, map, protect, remap, unmap, write};
use super::{ANONYMOUS, Deed, Deeds, FIXED, FREE, Found, of_one};

pub(super) const FOUND: &[Found] = &[
    ("small_pages_become_a_huge_one", collapsed),
    ("no_page_can_become_a_huge_one", untouched),
    ("what_comes_after_an_empty_range_is_left_alone", second_only),
    ("a_huge_page_is_one_already", huge_already),
    ("zeros_that_were_read_become_a_huge_page", zeros),
    ("memory_that_was_never_written_does_not", only_read),
    ("a_guard_keeps_pages_small", guard),
    ("pages_that_a_userfaultfd_is_to_fill_keep_others_small", watched),
    ("pages_of_two_become_a_huge_page_of_one", shared),
    ("memory_advised_to_have_no_huge_pages_keeps_small_ones", not_wanted),
    ("a_process_without_huge_pages_keeps_small_ones", disabled),
    ("a_process_with_advised_huge_pages_only_has_those_it_asks_for", but_advised),
    ("memory_that_may_not_be_touched_becomes_huge", untouchable),
    ("pages_given_up_become_a_huge_one", given_up),
    ("locked_pages_become_a_huge_one", locked),
    ("a_table_that_was_freed_makes_none", dropped),
    ("a_part_of_a_collapsed_page_is_as_any_huge_pages", taken_apart),
    ("droppable_pages_become_a_huge_one", droppable),
    ("a_part_is_not_collapsed", part),
    ("pages_that_were_moved_become_a_huge_one", moved),
    ("pages_taken_out_of_a_huge_one_become_one_again", again),
];

fn collapse(page: u64, pages: u64) -> Deed {
    advise(page, pages, 25)
}

/// Room for two huge pages; then what is done with it.
fn with(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    of_one([map(0, 1024)].into_iter().chain(deeds))
}

fn collapsed() -> Deeds {
    with([write(0), write(5), load(9), write(700), collapse(0, 1024), load(300), write(301)])
}

fn untouched() -> Deeds {
    with([collapse(0, 1024), collapse(0, 512)])
}

fn second_only() -> Deeds {
    with([write(600), collapse(0, 1024), load(3)])
}

fn huge_already() -> Deeds {
    with([advise(0, 512, 14), write(5), write(600), collapse(0, 1024), load(3)])
}

fn zeros() -> Deeds {
    with([write(600), load(3), collapse(0, 512), write(4)])
}

fn only_read() -> Deeds {
    with([load(3), load(600), collapse(0, 1024), collapse(0, 512)])
}

fn guard() -> Deeds {
    with([write(3), write(600), advise(7, 1, 102), collapse(0, 1024), write(8)])
}

fn watch(page: u64, pages: u64) -> [Deed; 2] {
    [Deed::Userfault(3), Deed::Uffd(3, A + page * PAGE, pages * PAGE, 1)]
}

fn watched() -> Deeds {
    let filled = (0..512).map(write);
    let deeds = filled.chain([write(600)]).chain(watch(0, 1024));
    with(deeds.chain([collapse(0, 512), collapse(512, 512), collapse(0, 1024)]))
}

fn shared() -> Deeds {
    let both = [
        (0, Deed::Fork(1)),
        (1, collapse(0, 512)),
        (1, write(7)),
        (0, load(9)),
        (0, collapse(0, 1024)),
        (0, write(4)),
    ];
    with([write(0), write(9), write(600)]).into_iter().chain(both).collect()
}

fn not_wanted() -> Deeds {
    with([write(0), advise(0, 512, 15), collapse(0, 512), write(600), collapse(512, 512)])
}

fn disabled() -> Deeds {
    with([write(0), disable(0), collapse(0, 512), advise(0, 512, 14), collapse(0, 512)])
}

fn but_advised() -> Deeds {
    with([write(0), write(600), disable(2), collapse(0, 512), advise(0, 512, 14), collapse(0, 512)])
}

fn untouchable() -> Deeds {
    with([write(0), protect(0, 512, 0), collapse(0, 512), load(4), protect(0, 512, 3), write(4)])
}

fn given_up() -> Deeds {
    with([write(0), write(5), write(600), advise(0, 512, FREE), collapse(0, 512), load(5)])
}

fn locked() -> Deeds {
    let lock = Deed::Call(M::Mlock { addr: at(0), len: 512 * PAGE });
    with([write(0), lock, collapse(0, 512), write(7)])
}

fn dropped() -> Deeds {
    with([write(0), write(600), advise(0, 512, 4), collapse(0, 512), collapse(0, 1024)])
}

fn taken_apart() -> Deeds {
    with([
        write(0),
        write(600),
        collapse(0, 1024),
        protect(3, 2, 1),
        advise(600, 10, 4),
        unmap(1000, 24),
    ])
}

fn droppable() -> Deeds {
    let (addr, len, flags) = (at(0), 1024 * PAGE, 8 | ANONYMOUS | FIXED);
    let map = Deed::Call(M::Mmap { addr, len, prot: 3, flags, fd: -1, offset: 0 });
    of_one([map, write(5), write(600), collapse(0, 1024), load(7)])
}

fn part() -> Deeds {
    with([write(5), write(600), collapse(5, 100), collapse(500, 12), collapse(5, 1000)])
}

fn moved() -> Deeds {
    with([write(5), write(600), remap(0, 512, 2048), collapse(2048, 512), write(2049), load(5)])
}

fn again() -> Deeds {
    with([
        advise(0, 512, 14),
        write(5),
        write(600),
        protect(3, 2, 1),
        protect(3, 2, 3),
        advise(7, 9, 4),
        collapse(0, 512),
        load(8),
    ])
}
