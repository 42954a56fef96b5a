//! Of NUMA nodes.

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::replay::calls::{MemoryCall as M, Pointee};

use super::thp::{advise, at, map, remap, write};
use super::{Deed, Deeds, Found, of_one};

pub(super) const FOUND: &[Found] = &[
    ("of_nodes_that_no_kernel_has_whole_words_are_looked_at", past_the_last_node),
    ("what_was_written_is_known_of_the_page_once_it_has_moved", written_before_it_moved),
    ("with_any_flag_the_programs_own_nodes_are_told", own_nodes),
    ("a_huge_page_of_which_a_part_is_nowhere_is_taken_apart_before_it_moves", remnant_moved),
    ("what_a_child_may_have_written_is_known_of_the_page_once_it_has_moved", written_by_the_child),
    ("a_page_that_a_range_has_twice_cannot_move_the_second_time", met_twice),
];

/// The child's entry says that it was written, the parent's not any more.
fn written_by_the_child() -> Deeds {
    let nodes = Pointee::Null;
    let here = M::Mbind { addr: at(0), len: PAGE_SIZE, mode: 4, nodes, maxnode: 0, flags: 7 };
    of_one([map(0, 1), write(0), Deed::Fork(1), advise(0, 1, 8), Deed::Call(here)])
}

/// A page of an object, mapped twice in a range.
fn met_twice() -> Deeds {
    let (addr, len, flags) = (at(0), 2 * PAGE_SIZE, 0x31);
    let shared = M::Mmap { addr, len, prot: 3, flags, fd: -1, offset: 0 };
    let again = M::Mremap { addr, old_len: 0, new_len: len, flags: 3, new_addr: at(2) };
    let nodes = Pointee::Null;
    let anywhere = M::Mbind { addr, len: 2 * len, mode: 1, nodes, maxnode: 0, flags: 5 };
    of_one([Deed::Call(shared), write(0), Deed::Call(again), write(2), Deed::Call(anywhere)])
}

/// Bound, with `MPOL_F_NUMA_BALANCING`, to a node that there is and one that there is not.
fn own_nodes() -> Deeds {
    let (nodes, addr) = (Pointee::Shown(vec![3]), at(0));
    let bind = M::Mbind { addr, len: PAGE_SIZE, mode: 0x2002, nodes, maxnode: 64, flags: 0 };
    let ask = |flags| {
        let (mode, nodes) = (Pointee::Unread(VirtAddr::ZERO), Pointee::Unread(VirtAddr::ZERO));
        Deed::Call(M::GetMempolicy { mode, nodes, maxnode: 64, addr, flags })
    };
    of_one([map(0, 1), Deed::Call(bind), ask(2)])
}

/// Moved to where it is: with two users it cannot be given up then, whoever of them asks.
fn written_before_it_moved() -> Deeds {
    let (addr, len) = (VirtAddr::new(0x100_0000_c000), PAGE_SIZE);
    let (nodes, maxnode) = (Pointee::Null, 0);
    let map = M::Mmap { addr, len, prot: 3, flags: 0x4032, fd: -1, offset: 0 };
    let here = M::Mbind { addr, len, mode: 1, nodes, maxnode, flags: 3 };
    let acts = [
        (0, Deed::Call(map)),
        (0, Deed::Store(addr.get(), 1)),
        (0, Deed::Call(here)),
        (0, Deed::Fork(1)),
        (1, Deed::Call(M::Madvise { addr, len, advice: 8 })),
    ];
    acts.into()
}

/// Small pages of it lie over others of its own; what of it was never written is zeros again.
fn remnant_moved() -> Deeds {
    let (nodes, maxnode) = (Pointee::Null, 0);
    let anywhere = M::Mbind { addr: at(2), len: 31 * PAGE_SIZE, mode: 0, nodes, maxnode, flags: 2 };
    of_one([map(0, 1024), write(0), advise(0, 512, 25), remap(511, 1, 33), Deed::Call(anywhere)])
}

/// The last word's highest bit is one more than the mask is said to have.
fn past_the_last_node() -> Deeds {
    let mask = |last| {
        let mut mask = vec![0; 512];
        (mask[0], mask[511]) = (1, last);
        Pointee::Shown(mask)
    };
    let set = |last, maxnode| Deed::Call(M::SetMempolicy { mode: 2, nodes: mask(last), maxnode });
    of_one([set(0, 32_768), set(1 << 63, 32_768), set(1 << 63, 32_769)])
}
