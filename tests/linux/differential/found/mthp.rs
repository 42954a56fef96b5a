//! Acts on memory that comes several pages at once where the host gives it so (hugepages-64kB/enabled, or smaller ones).
//! Where it gives none, as by default, it is page by page on both sides.

use super::thp::{advise, at, load, map, protect, remap, unmap, write};
use super::{Deed, Deeds, FREE, Found, of_one};

const COLD: u64 = 20;
const PAGEOUT: u64 = 21;
const DONTNEED: u64 = 4;

pub(super) const FOUND: &[Found] = &[
    ("a_write_brings_in_what_fits", fits),
    ("a_part_that_is_given_up_splits_a_folio", part_freed),
    ("a_part_that_is_cold_splits_a_folio", part_cold),
    ("a_folio_that_is_given_up_goes_whole", freed),
    ("a_folio_of_which_a_page_was_written_stays_whole", freed_and_written),
    ("a_folio_that_is_paged_out_without_swap_is_split", paged_out),
    ("what_is_left_of_a_folio_is_a_part", left),
    ("parts_of_a_folio_are_found_where_they_went", moved),
    ("a_part_of_a_folio_that_others_have_stays", shared),
    ("a_page_of_a_folio_that_others_have_is_copied_though_it_is_nobody_elses", copied),
    ("the_last_owner_of_a_folio_keeps_it_whole", kept),
    ("what_is_left_of_a_folio_is_split_before_it_moves", remnant),
];

/// 64 KiB of which page 3 is not zeros, advised to come in large pages.
fn with(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    let store = Deed::Store(at(3).get(), 7);
    of_one([map(0, 16), advise(0, 16, 14), store].into_iter().chain(deeds))
}

fn with_child(deeds: impl IntoIterator<Item = (u8, Deed)>) -> Deeds {
    with([Deed::Fork(1)]).into_iter().chain(deeds).collect()
}

fn fits() -> Deeds {
    of_one([map(3, 32), advise(3, 32, 14), write(20), load(8), write(5), write(10), write(33)])
}

fn part_freed() -> Deeds {
    with([advise(5, 1, FREE)])
}

fn part_cold() -> Deeds {
    with([advise(3, 1, COLD)])
}

fn freed() -> Deeds {
    with([advise(0, 16, FREE), advise(0, 16, PAGEOUT), load(3)])
}

fn freed_and_written() -> Deeds {
    with([advise(0, 16, FREE), write(5), advise(0, 16, PAGEOUT)])
}

fn paged_out() -> Deeds {
    with([advise(0, 16, PAGEOUT)])
}

fn left() -> Deeds {
    with([advise(0, 2, DONTNEED), unmap(14, 2), advise(2, 12, COLD)])
}

fn moved() -> Deeds {
    with([protect(8, 2, 0), remap(10, 2, 40), advise(0, 2, COLD)])
}

fn shared() -> Deeds {
    with_child([(1, advise(0, 2, COLD)), (1, advise(0, 16, FREE)), (1, write(0))])
}

fn copied() -> Deeds {
    let both = [(1, write(5)), (0, write(5)), (1, Deed::Exit)];
    with_child(both.into_iter().chain([(0, write(6)), (0, advise(0, 16, COLD))]))
}

fn kept() -> Deeds {
    let deeds = [protect(0, 16, 1), protect(0, 16, 3), write(6), advise(0, 16, COLD)];
    with_child([(1, Deed::Exit)].into_iter().chain(deeds.map(|deed| (0, deed))))
}

fn remnant() -> Deeds {
    use mm::replay::calls::{MemoryCall as M, Pointee};
    const PREFERRED_RELATIVE: u64 = 1 | 1 << 14;
    const MOVE: u64 = 2;
    // The second node of one is the first again; but the first is not the one that was named.
    let nodes = Pointee::Shown(vec![0b10]);
    let (addr, len, mode) = (at(4), mm::addr::PAGE_SIZE, PREFERRED_RELATIVE);
    let bind = M::Mbind { addr, len, mode, nodes, maxnode: 64, flags: MOVE };
    with([unmap(0, 2), Deed::Call(bind)])
}
