//! Acts on huge pages of anonymous memory: which pages are there, and what large entries map of them.

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::paging::AccessKind::{Read, Write};
use mm::replay::calls::MemoryCall as M;

use super::{ANONYMOUS, Deed, Deeds, FIXED, FREE, Found, PRIVATE, of_one};

pub(super) const A: u64 = 0x100_0000_0000;

pub(super) const FOUND: &[Found] = &[
    ("one_touch_brings_in_a_huge_page", touched),
    ("reading_brings_in_a_huge_page_of_zeros", read),
    ("a_huge_page_of_zeros_that_is_written_becomes_a_huge_page", zeros_written),
    ("huge_zeros_become_a_huge_page_where_none_is_wanted_any_more", unwanted_written),
    ("a_huge_page_that_does_not_fit_is_small", unfit),
    ("where_a_table_is_pages_are_small", small_first),
    ("where_a_table_was_pages_are_huge", small_before),
    ("unmapping_a_part_splits_a_huge_page", unmapped),
    ("unmapping_a_part_of_huge_zeros_leaves_the_others", zeros_unmapped),
    ("protecting_a_part_splits_a_huge_page", protected),
    ("protecting_all_of_it_does_not", protected_whole),
    ("dropping_a_part_splits_a_huge_page", dropped),
    ("dropping_all_of_it_makes_room_for_the_next", dropped_whole),
    ("advice_for_a_part_splits_a_huge_page", advised),
    ("droppable_memory_has_huge_pages", droppable),
    ("huge_pages_may_be_disabled_but_where_they_are_advised", but_advised),
    ("huge_pages_may_be_disabled", disabled),
    ("a_vma_that_is_cut_between_huge_pages_leaves_them", cut_between),
    ("a_lock_on_a_part_splits_a_huge_page", locked),
    ("a_fork_shares_a_huge_page_until_one_writes", forked),
    ("the_last_owner_writes_a_huge_page_in_place", last_owner),
    ("a_huge_page_moves_whole_between_its_multiples", moved),
    ("a_huge_page_that_moves_elsewhere_is_split", moved_between),
    ("a_part_of_a_huge_page_moves", part_moved),
    ("a_move_makes_tables_wherever_entries_could_go", tables_made),
    ("a_table_that_moves_whole_leaves_room_for_a_huge_page", table_moved),
    ("a_table_that_moves_elsewhere_leaves_none", table_stays),
    ("a_guard_in_a_huge_page_splits_it", guarded),
    ("a_guard_over_a_huge_page_leaves_a_table", guarded_whole),
    ("a_huge_page_is_freed_lazily_as_one", freed),
    ("a_part_of_a_huge_page_is_freed_lazily", part_freed),
    ("populating_brings_in_huge_pages", populated),
];

pub(super) fn at(page: u64) -> VirtAddr {
    VirtAddr::new(A + page * PAGE)
}

pub(super) fn map(page: u64, pages: u64) -> Deed {
    let (addr, len, flags) = (at(page), pages * PAGE, PRIVATE | ANONYMOUS | FIXED);
    Deed::Call(M::Mmap { addr, len, prot: 3, flags, fd: -1, offset: 0 })
}

pub(super) fn advise(page: u64, pages: u64, advice: u64) -> Deed {
    Deed::Call(M::Madvise { addr: at(page), len: pages * PAGE, advice })
}

pub(super) fn unmap(page: u64, pages: u64) -> Deed {
    Deed::Call(M::Munmap { addr: at(page), len: pages * PAGE })
}

pub(super) fn protect(page: u64, pages: u64, prot: u64) -> Deed {
    Deed::Call(M::Mprotect { addr: at(page), len: pages * PAGE, prot })
}

pub(super) fn write(page: u64) -> Deed {
    Deed::Touch(at(page).get(), Write)
}

pub(super) fn load(page: u64) -> Deed {
    Deed::Touch(at(page).get(), Read)
}

pub(super) fn remap(page: u64, pages: u64, to: u64) -> Deed {
    let (addr, len) = (at(page), pages * PAGE);
    Deed::Call(M::Mremap { addr, old_len: len, new_len: len, flags: 3, new_addr: at(to) })
}

/// Room for two huge pages, where they are wanted; then what is done with it.
fn with(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    of_one([map(0, 1024), advise(0, 1024, 14)].into_iter().chain(deeds))
}

fn touched() -> Deeds {
    with([write(7), load(7), write(511)])
}

fn read() -> Deeds {
    with([load(7), load(600), load(8)])
}

fn zeros_written() -> Deeds {
    with([load(7), write(8), load(512), load(600)])
}

fn unwanted_written() -> Deeds {
    with([load(7), load(600), advise(0, 512, 15), write(8), disable(0), write(601)])
}

fn unfit() -> Deeds {
    of_one([map(1, 1022), advise(1, 1022, 14), write(5), write(600), load(1022)])
}

fn small_first() -> Deeds {
    of_one([map(0, 1024), write(5), advise(0, 1024, 14), write(6), load(7), write(600)])
}

fn small_before() -> Deeds {
    of_one([map(0, 1024), write(5), unmap(0, 1024), map(0, 1024), advise(0, 1024, 14), write(6)])
}

fn unmapped() -> Deeds {
    with([write(0), write(512), unmap(3, 2), write(4), write(5), unmap(511, 2)])
}

fn zeros_unmapped() -> Deeds {
    with([load(0), unmap(3, 2), load(5), write(5)])
}

fn protected() -> Deeds {
    with([write(0), protect(3, 2, 1), write(3), write(5), load(3)])
}

fn protected_whole() -> Deeds {
    with([
        write(0),
        protect(0, 512, 1),
        write(3),
        protect(0, 1024, 0),
        protect(0, 1024, 3),
        write(3),
    ])
}

fn dropped() -> Deeds {
    with([write(0), advise(3, 2, 4), load(3), write(4)])
}

fn dropped_whole() -> Deeds {
    with([write(0), write(512), advise(0, 512, 4), load(3), advise(0, 1024, 4), write(5)])
}

fn advised() -> Deeds {
    with([write(0), advise(0, 100, 10), write(200), advise(600, 10, 2), write(512)])
}

fn droppable() -> Deeds {
    let (addr, len, flags) = (at(0), 1024 * PAGE, 8 | ANONYMOUS | FIXED);
    let map = Deed::Call(M::Mmap { addr, len, prot: 3, flags, fd: -1, offset: 0 });
    of_one([map, advise(0, 1024, 14), load(5), write(600)])
}

pub(super) fn disable(how: u64) -> Deed {
    Deed::Call(M::Prctl { option: 41, args: [1, how, 0, 0], name: None })
}

fn but_advised() -> Deeds {
    with([disable(2), write(5)])
}

fn disabled() -> Deeds {
    with([disable(0), write(5), load(600)])
}

fn cut_between() -> Deeds {
    with([load(5), write(600), map(0, 512), advise(512, 100, 10)])
}

fn locked() -> Deeds {
    let lock = Deed::Call(M::Mlock { addr: at(3), len: 2 * PAGE });
    with([write(0), lock, write(512)])
}

fn forked() -> Deeds {
    let both = [(0, Deed::Fork(1)), (1, write(3)), (0, write(4)), (1, load(600)), (0, load(5))];
    with([write(0), write(600)]).into_iter().chain(both).collect()
}

fn last_owner() -> Deeds {
    let both = [(0, Deed::Fork(1)), (1, Deed::Exit), (0, write(4))];
    with([write(0)]).into_iter().chain(both).collect()
}

fn moved() -> Deeds {
    with([write(0), remap(0, 512, 2048), write(2050), write(5)])
}

fn moved_between() -> Deeds {
    with([write(0), remap(0, 512, 2049), write(2050)])
}

fn part_moved() -> Deeds {
    with([write(0), remap(3, 4, 2048), write(2049), write(9)])
}

/// Leaves the old addresses mapped.
fn remap_and_keep(page: u64, pages: u64, to: u64) -> Deed {
    let (addr, len) = (at(page), pages * PAGE);
    Deed::Call(M::Mremap { addr, old_len: len, new_len: len, flags: 7, new_addr: at(to) })
}

/// Small pages, then memory that wants huge ones moves.
fn small_moved(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    of_one([map(0, 1024), write(5), advise(0, 1024, 14)].into_iter().chain(deeds))
}

fn tables_made() -> Deeds {
    // The page goes to before the border, nothing past it: reading there brings in one page.
    small_moved([remap_and_keep(0, 1024, 2048 + 28), load(2048 + 700), load(2048 + 28 + 1000)])
}

fn table_moved() -> Deeds {
    small_moved([remap_and_keep(0, 1024, 2048), write(7), write(2048 + 9), write(600)])
}

fn table_stays() -> Deeds {
    small_moved([remap_and_keep(0, 1024, 2048 + 28), write(7), write(600)])
}

fn guarded() -> Deeds {
    with([write(0), advise(3, 2, 102), load(3), write(5), advise(3, 2, 103), load(3)])
}

fn guarded_whole() -> Deeds {
    with([write(0), advise(0, 512, 102), load(3), advise(0, 512, 103), write(3)])
}

fn freed() -> Deeds {
    with([write(0), write(512), advise(0, 1024, FREE), load(3), advise(0, 512, 21), load(7)])
}

fn part_freed() -> Deeds {
    with([write(0), advise(3, 2, FREE), write(3), advise(0, 512, 21)])
}

fn populated() -> Deeds {
    with([advise(3, 1, 22), advise(600, 1, 23), write(4)])
}
