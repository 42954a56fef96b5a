//! Acts on maps of huge pages (`MAP_HUGETLB`), most of them such that nobody promised (`MAP_NORESERVE`). Mostly there are
//! none in the host's pool, so that no page can be brought in, but the VMA is there. Where it has some, ours has as many,
//! and they are promised, touched and copied; what its pool then gives is recorded in mm's own tests too.

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::paging::AccessKind::{Execute, Read, Write};
use mm::replay::calls::MemoryCall as M;

use super::{ANONYMOUS, Deed, Deeds, FIXED, Found, Open, PRIVATE, SHARED, of_one};

const HUGE: u64 = 2 << 20;
/// `MAP_HUGETLB | MAP_NORESERVE`.
const UNPROMISED: u64 = 0x4_4000;
/// Of 1 GiB each.
const GIGANTIC: u64 = 30 << 26;
const B: u64 = 0x100_0000_0000;

pub(super) const FOUND: &[Found] = &[
    ("huge_pages_are_placed_on_their_multiples", placed),
    ("a_hint_for_huge_pages_is_rounded_up", hinted),
    ("a_search_upwards_for_huge_pages_leaves_room_for_their_alignment", placed_upwards),
    ("a_fixed_place_between_huge_pages_is_refused", fixed_between),
    ("an_offset_between_huge_pages_is_refused_when_the_old_map_has_gone", offset_between),
    ("huge_pages_that_cannot_be_promised_leave_a_hole", unpromised),
    ("huge_pages_that_are_touched_are_a_bus_error", touched),
    ("huge_pages_are_cut_between_them_only", cut),
    ("a_refused_cut_leaves_the_one_before", cut_before),
    ("mremap_rounds_lengths_up_to_huge_pages", rounded),
    ("mremap_looks_at_a_target_of_huge_pages_that_it_has_no_use_for", useless_target),
    ("mremap_moves_whole_huge_pages_among_others", moved),
    ("userfaultfd_takes_whole_huge_pages", watched),
    ("advice_to_drop_huge_pages_begins_at_one", dropped),
    ("huge_pages_can_be_removed_from_their_object", removed),
    ("remap_file_pages_of_huge_pages_promises_them", remapped),
    ("locking_brings_in_huge_pages_and_fails", locked),
    ("maps_of_a_memfd_of_huge_pages_are_whole_ones", of_memfd),
    ("huge_pages_that_shared_ones_replace_are_promised_until_then", replaced),
    ("both_sides_of_a_fork_write_a_huge_page", forked),
];

fn huge(page: u64) -> VirtAddr {
    VirtAddr::new(B + page * HUGE)
}

fn map(addr: VirtAddr, len: u64, flags: u64, offset: u64) -> Deed {
    Deed::Call(M::Mmap { addr, len, prot: 3, flags: flags | ANONYMOUS, fd: -1, offset })
}

/// So many huge pages at one's own place.
fn own(page: u64, pages: u64) -> Deed {
    map(huge(page), pages * HUGE, PRIVATE | FIXED | UNPROMISED, 0)
}

fn shared(page: u64, pages: u64) -> Deed {
    map(huge(page), pages * HUGE, SHARED | FIXED | UNPROMISED, 0)
}

fn small(addr: VirtAddr, pages: u64) -> Deed {
    map(addr, pages * PAGE, PRIVATE | FIXED, 0)
}

fn unmap(addr: VirtAddr, len: u64) -> Deed {
    Deed::Call(M::Munmap { addr, len })
}

fn protect(addr: VirtAddr, len: u64) -> Deed {
    Deed::Call(M::Mprotect { addr, len, prot: 1 })
}

fn advise(addr: VirtAddr, len: u64, advice: u64) -> Deed {
    Deed::Call(M::Madvise { addr, len, advice })
}

fn remap(addr: VirtAddr, old_len: u64, new_len: u64, flags: u64, new_addr: VirtAddr) -> Deed {
    Deed::Call(M::Mremap { addr, old_len, new_len, flags, new_addr })
}

fn placed() -> Deeds {
    let any = |len, flags| map(VirtAddr::ZERO, len, PRIVATE | UNPROMISED | flags, 0);
    of_one([any(HUGE, 0), any(3 * HUGE, 0), any(PAGE, 0), any(PAGE, GIGANTIC), any(PAGE, 20 << 26)])
}

fn hinted() -> Deeds {
    let hint = |addr: VirtAddr| map(addr, HUGE, PRIVATE | UNPROMISED, 0);
    of_one([hint(huge(1).offset(PAGE)), hint(huge(2)), hint(huge(5)), hint(huge(4).offset(PAGE))])
}

fn placed_upwards() -> Deeds {
    const BIT32: u64 = 0x40;
    const GROWSDOWN: u64 = 0x100;
    let stack = VirtAddr::new(0x4000_0000 + 2 * HUGE);
    let low = || map(VirtAddr::ZERO, HUGE, PRIVATE | UNPROMISED | BIT32, 0);
    let stack = map(stack, PAGE, PRIVATE | FIXED | GROWSDOWN, 0);
    of_one([low(), low(), unmap(VirtAddr::new(0x4000_0000), 8 * HUGE), stack, low()])
}

fn fixed_between() -> Deeds {
    let between = map(huge(0).offset(PAGE), HUGE, PRIVATE | FIXED | UNPROMISED, 0);
    of_one([between, own(0, 1), small(huge(0).offset(PAGE), 1), small(huge(0), 512)])
}

fn offset_between() -> Deeds {
    let at = |offset| map(huge(0), HUGE, PRIVATE | FIXED | UNPROMISED, offset);
    of_one([small(huge(0), 2), at(3 * HUGE), at(PAGE)])
}

fn unpromised() -> Deeds {
    let promised = map(huge(0), HUGE, PRIVATE | FIXED | UNPROMISED & !0x4000, 0);
    of_one([small(huge(0), 2), promised])
}

fn touched() -> Deeds {
    let at = huge(0).get() + 3 * PAGE;
    let touches = [Read, Write, Execute].map(|kind| Deed::Touch(at, kind));
    let populated = [22, 23].map(|advice| advise(huge(0), PAGE, advice));
    of_one([own(0, 1)].into_iter().chain(touches).chain(populated))
}

fn cut() -> Deeds {
    of_one([
        own(0, 3),
        protect(huge(1), PAGE),
        advise(huge(1).offset(PAGE), HUGE, 10),
        unmap(huge(2), PAGE),
        protect(huge(1), HUGE),
        unmap(huge(0), HUGE),
    ])
}

fn cut_before() -> Deeds {
    of_one([own(0, 2), own(2, 2), unmap(huge(1), HUGE + PAGE), protect(huge(3), PAGE)])
}

fn rounded() -> Deeds {
    let none = VirtAddr::ZERO;
    of_one([
        own(0, 4),
        remap(huge(0), HUGE, HUGE + PAGE, 1, none),
        remap(huge(0).offset(PAGE), HUGE, HUGE, 3, huge(8)),
        remap(huge(0), 2 * PAGE, PAGE, 0, none),
        remap(huge(2), HUGE + PAGE, PAGE, 0, none),
        remap(huge(0), PAGE, PAGE, 3, huge(5)),
        remap(huge(1), HUGE, HUGE, 5, huge(9)),
    ])
}

fn useless_target() -> Deeds {
    let to = |addr| remap(huge(0), 2 * HUGE, HUGE, 0, addr);
    of_one([own(0, 2), to(VirtAddr::new(PAGE)), to(huge(7))])
}

fn moved() -> Deeds {
    let low = small(huge(0), 512);
    let over = small(huge(6).offset(PAGE), 1);
    let all = remap(huge(0), 2 * HUGE + PAGE, 2 * HUGE + PAGE, 3, huge(4));
    let aside = remap(huge(4), 2 * HUGE, 2 * HUGE, 3, huge(8).offset(PAGE));
    of_one([low, own(1, 2), over, all, aside])
}

fn watched() -> Deeds {
    let uffd = |addr: VirtAddr, len, modes| Deed::Uffd(3, addr.get(), len, modes);
    of_one([
        Deed::Userfault(3),
        own(1, 3),
        uffd(huge(1).offset(PAGE), HUGE, 1),
        uffd(huge(1), PAGE, 1),
        uffd(huge(0).offset(PAGE), 2 * HUGE - PAGE, 1),
        uffd(huge(1), HUGE, 1),
        uffd(huge(1), HUGE, 6),
        uffd(huge(3), HUGE, 2),
        uffd(huge(1).offset(PAGE), HUGE, 0),
        uffd(huge(3), PAGE, 0),
        uffd(huge(1), PAGE, 0),
        uffd(huge(0), 4 * HUGE, 0),
    ])
}

fn dropped() -> Deeds {
    let advice = |advice| {
        [(huge(0), PAGE), (huge(0).offset(PAGE), HUGE)].map(|(addr, len)| advise(addr, len, advice))
    };
    let all = [4, 24, 8, 20, 21, 102, 103, 25, 17].into_iter().flat_map(advice);
    of_one([own(0, 2)].into_iter().chain(all))
}

fn removed() -> Deeds {
    of_one([
        shared(0, 2),
        advise(huge(0).offset(PAGE), PAGE, 9),
        own(0, 2),
        advise(huge(0), HUGE, 9),
    ])
}

fn remapped() -> Deeds {
    let call = |addr, size, pgoff| {
        Deed::Call(M::RemapFilePages { addr, len: size, prot: 0, pgoff, flags: 0 })
    };
    of_one([
        shared(0, 2),
        call(huge(0), PAGE, 0),
        call(huge(0).offset(PAGE), HUGE, 0),
        call(huge(0), HUGE, 512),
    ])
}

fn locked() -> Deeds {
    let lock = |addr, len| Deed::Call(M::Mlock { addr, len });
    let unlock = |addr, len| Deed::Call(M::Munlock { addr, len });
    let at_once = map(huge(1), HUGE, PRIVATE | FIXED | UNPROMISED | 0x2000, 0);
    of_one([own(0, 1), lock(huge(0), PAGE), lock(huge(0), HUGE), unlock(huge(0), PAGE), at_once])
}

fn of_memfd() -> Deeds {
    let map = |page, len, flags, offset| {
        let flags = flags | FIXED | UNPROMISED & 0x4000;
        Deed::Call(M::Mmap { addr: huge(page), len, prot: 3, flags, fd: 3, offset })
    };
    let advice = [9, 4, 3].map(|advice| advise(huge(0), HUGE, advice));
    of_one(
        [
            Deed::Open(3, Open::HugeMemfd(21)),
            Deed::Truncate(3, PAGE),
            Deed::Truncate(3, 2 * HUGE),
            map(0, PAGE, SHARED, 0),
            map(1, HUGE, SHARED, HUGE),
            map(2, HUGE, PRIVATE, PAGE),
            map(2, HUGE, SHARED, HUGE),
            Deed::Touch(huge(0).get(), Read),
        ]
        .into_iter()
        .chain(advice),
    )
}

/// So many huge pages with a promise.
fn promised(page: u64, pages: u64, kind: u64) -> Deed {
    map(huge(page), pages * HUGE, kind | FIXED | UNPROMISED & !0x4000, 0)
}

fn replaced() -> Deeds {
    let all = [1, 2, 3, 4].into_iter().flat_map(|pages| {
        [promised(0, pages, SHARED), promised(0, pages + 1, SHARED), unmap(huge(0), 8 * HUGE)]
    });
    of_one(all)
}

fn forked() -> Deeds {
    let at = huge(0).get() + 3 * PAGE;
    let parents = [promised(0, 2, PRIVATE), Deed::Store(at, 7), Deed::Fork(1)];
    let copied = [(1, Deed::Load(at)), (0, Deed::Store(at, 8)), (1, Deed::Load(at))];
    let again = [(1, Deed::Store(at, 9)), (0, Deed::Load(at)), (1, Deed::Load(at + HUGE))];
    of_one(parents).into_iter().chain(copied).chain(again).collect()
}
