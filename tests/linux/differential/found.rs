//! The shortest acts of differences that random ones have found, each under the sentence that it taught.

mod collapse;
mod folios;
mod huge;
mod mthp;
mod numa;
mod split;
mod thp;

use libtest_mimic::{Failed, Trial};
use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::calls::{
    UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_MOVE, UFFDIO_POISON, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
};
use mm::paging::AccessKind::{Execute, Read, Write};
use mm::replay::calls::{Limit, MemoryCall as M, Pointee};

use super::act::{Act, Deed, Open};
use super::model::Start;
use super::run;
use crate::oracle::Oracle;

const A: u64 = 0x100_0000_0000;
const PRIVATE: u64 = 2;
const SHARED: u64 = 1;
const FIXED: u64 = 0x10;
const ANONYMOUS: u64 = 0x20;
const POPULATE: u64 = 0x8000;

/// Deeds, each by a process.
type Deeds = Vec<(u8, Deed)>;
/// What was learnt, and from which deeds.
type Found = (&'static str, fn() -> Deeds);

/// The trials: each with faults that bring in several pages, and with those that bring in one.
pub fn trials() -> Vec<Trial> {
    let found: &[Found] = &[
        ("a_file_cut_within_a_page_has_a_written_page", cut_within_a_page),
        ("a_shared_page_is_noted_as_written_by_the_fault", written_by_a_fault),
        ("a_childs_entry_of_a_shared_page_is_clean", clean_in_the_child),
        ("what_is_paged_out_without_swap_stays_accessed", paged_out),
        ("shared_zeros_that_are_paged_out_are_gone", zeros_paged_out),
        ("what_is_freed_lazily_stays_until_it_is_paged_out", freed_lazily),
        ("what_is_freed_lazily_and_written_stays", freed_and_written),
        ("what_is_freed_lazily_is_a_page_on_a_node", freed_on_a_node),
        ("no_userfaultfd_is_asked_for_a_page_whose_node_is", watched_on_a_node),
        ("a_page_that_may_not_be_read_but_is_there_is_on_a_node", unreadable_on_a_node),
        ("droppable_memory_is_paged_out_though_it_was_written", droppable),
        ("cold_pages_of_one_process_are_not_accessed", cold),
        ("all_memory_of_a_process_is_mergeable", merge_any),
        ("a_denied_fetch_accesses_no_page_that_is_there", fetch_denied),
        ("populating_leaves_entries_as_they_are_that_are_there", populated),
        ("mprotect_brings_in_no_page_that_a_userfaultfd_is_asked_for", asked_of_userfaultfd),
        ("a_locked_map_that_grows_asks_no_userfaultfd", grown_for_userfaultfd),
        ("copies_of_pages_past_a_files_end_go_with_it", past_the_end),
        ("what_is_around_a_page_is_mapped_before_a_userfaultfd_is_asked", around_for_userfaultfd),
        ("a_page_that_is_there_does_not_come_again", there_for_userfaultfd),
        ("a_userfaultfd_is_asked_when_there_is_a_table", table_for_userfaultfd),
        ("what_came_for_one_process_is_written_for_no_other", clean_for_the_child),
        ("poison_goes_with_what_is_given_up", poison_given_up),
        ("poison_past_the_end_of_a_file_goes_with_it", poison_past_the_end),
        ("what_cannot_be_filled_has_a_table", table_to_fill),
        ("what_comes_to_a_private_map_is_written", written_in_private),
        ("what_is_written_where_writes_are_told_is_noted", noted_for_userfaultfd),
        ("what_came_is_written_for_others_once_it_has_moved", moved_for_userfaultfd),
        ("a_page_that_is_not_protected_any_more_is_noted", unprotected_for_userfaultfd),
        ("a_protected_page_of_an_object_is_paged_out", protected_paged_out),
        ("zeros_that_came_to_a_file_are_on_no_node", zeros_on_no_node),
        ("poison_cannot_be_populated", poison_populated),
        ("populating_for_a_userfaultfd_makes_an_identity", identity_for_userfaultfd),
        ("nothing_is_removed_past_the_largest_file", past_the_largest_file),
        ("a_private_copy_of_what_was_read_elsewhere_leaves_that_clean", copied_clean),
        ("what_is_protected_before_the_first_gap_does_not_collapse", protected_before_a_gap),
        ("where_writes_are_told_no_more_the_first_is_noted", unregistered),
        ("a_page_that_a_child_had_is_moved_once_it_is_written", moved_after_a_child),
    ];
    let trial = |&(name, deeds): &Found| {
        Trial::test(format!("differential::found::{name}"), move || compare(|_| deeds()))
    };
    let data = Trial::test("differential::found::a_heap_counts_with_the_initialised_data", || {
        compare(heap_and_data)
    });
    found
        .iter()
        .chain(huge::FOUND)
        .chain(thp::FOUND)
        .chain(collapse::FOUND)
        .chain(folios::FOUND)
        .chain(mthp::FOUND)
        .chain(numa::FOUND)
        .chain(split::FOUND)
        .map(trial)
        .chain([data])
        .collect()
}

fn compare(deeds: impl FnOnce(&Start) -> Deeds) -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let start = Start::of(&mut oracle)?;
    let acts: Vec<Act> =
        deeds(&start).into_iter().map(|(process, deed)| Act { process, deed }).collect();
    for pages in super::FAULT_AHEAD {
        let start = start.clone().set(&[("mmvisor.fault_ahead", pages)]);
        let ours = run::perform(&start, &acts)?;
        if let Some(difference) = run::compare(&mut oracle, &acts, &ours)? {
            return Err(difference.to_string().into());
        }
    }
    Ok(())
}

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(A + page * PAGE)
}

fn mmap(pages: u64, prot: u64, flags: u64, fd: i32) -> Deed {
    let (addr, len, flags) = (at(0), pages * PAGE, flags | FIXED);
    Deed::Call(M::Mmap { addr, len, prot, flags, fd, offset: 0 })
}

fn own(pages: u64) -> Deed {
    mmap(pages, 3, PRIVATE | ANONYMOUS, -1)
}

fn shared(pages: u64) -> Deed {
    mmap(pages, 3, SHARED | ANONYMOUS, -1)
}

fn advise(advice: u64) -> Deed {
    Deed::Call(M::Madvise { addr: at(0), len: 2 * PAGE, advice })
}

fn touch(page: u64, kind: mm::paging::AccessKind) -> Deed {
    Deed::Touch(at(page).get(), kind)
}

fn protect(page: u64, prot: u64) -> Deed {
    Deed::Call(M::Mprotect { addr: at(page), len: PAGE, prot })
}

const FREE: u64 = 8;
const REMOVE: u64 = 9;
const COLD: u64 = 20;
const UNMERGEABLE: u64 = 13;
const PAGEOUT: u64 = 21;
const POPULATE_READ: u64 = 22;
const COLLAPSE: u64 = 25;
const GUARD_INSTALL: u64 = 102;

fn of_one(deeds: impl IntoIterator<Item = Deed>) -> Deeds {
    deeds.into_iter().map(|deed| (0, deed)).collect()
}

fn cut_within_a_page() -> Deeds {
    let memfd = Deed::Open(3, Open::Memfd(2));
    of_one([memfd, mmap(2, 3, PRIVATE, 3), touch(1, Read), Deed::Truncate(3, PAGE + 9)])
}

fn written_by_a_fault() -> Deeds {
    let child = [Deed::Fork(1)].map(|deed| (0, deed));
    let parents = of_one([mmap(2, 3, SHARED | ANONYMOUS | POPULATE, -1)]);
    parents.into_iter().chain(child).chain([(1, touch(0, Write))]).collect()
}

fn clean_in_the_child() -> Deeds {
    let guard = Deed::Call(M::Madvise { addr: at(1), len: PAGE, advice: GUARD_INSTALL });
    of_one([shared(2), touch(0, Read), guard, touch(0, Write), Deed::Fork(1)])
}

fn paged_out() -> Deeds {
    of_one([own(2), touch(0, Write), touch(1, Read), advise(PAGEOUT)])
}

fn zeros_paged_out() -> Deeds {
    let vec = mm::replay::calls::Pointee::Unread(VirtAddr::ZERO);
    let mincore = Deed::Call(M::Mincore { addr: at(0), len: 2 * PAGE, vec });
    of_one([shared(2), touch(0, Read), touch(1, Write), advise(PAGEOUT), mincore, touch(1, Read)])
}

fn freed_lazily() -> Deeds {
    let store = Deed::Store(at(0).get(), 7);
    let load = || Deed::Load(at(0).get());
    of_one([own(2), store, advise(FREE), load(), advise(PAGEOUT), load()])
}

fn freed_and_written() -> Deeds {
    let store = |byte| Deed::Store(at(0).get(), byte);
    let deeds = [own(2), store(7), advise(FREE), store(8), advise(PAGEOUT), advise(FREE)];
    of_one(deeds.into_iter().chain([Deed::Load(at(0).get()), touch(1, Write), Deed::Fork(1)]))
}

fn freed_on_a_node() -> Deeds {
    const LOCAL: u32 = 4;
    const STRICT: u64 = 1;
    let nodes = Pointee::Shown(vec![0]);
    let mode = LOCAL.into();
    let bind = M::Mbind { addr: at(0), len: PAGE, mode, nodes, maxnode: 64, flags: STRICT };
    of_one([own(2), Deed::Store(at(0).get(), 7), advise(FREE), Deed::Call(bind)])
}

/// On which node the first page is.
fn ask() -> Deed {
    const NODE_OF_ADDR: u64 = 3;
    let (mode, nodes) = (Pointee::Unread(VirtAddr::ZERO), Pointee::Null);
    Deed::Call(M::GetMempolicy { mode, nodes, maxnode: 0, addr: at(0), flags: NODE_OF_ADDR })
}

fn watched_on_a_node() -> Deeds {
    of_one([Deed::Userfault(3), own(2), Deed::Uffd(3, A, PAGE, 1), ask()])
}

/// Executed only, written only, and only mapped: asked for its node before and after a touch.
fn unreadable_on_a_node() -> Deeds {
    const EXEC: u64 = 4;
    const WRITE: u64 = 2;
    let of = |prot| mmap(1, prot, PRIVATE | ANONYMOUS, -1);
    let executed = [of(EXEC), ask(), touch(0, Execute), ask()];
    let written = [of(WRITE), ask(), touch(0, Write), ask(), protect(0, EXEC), ask()];
    let forked = [protect(0, 3), touch(0, Write), Deed::Fork(1), ask()];
    of_one(executed.into_iter().chain(written).chain([protect(0, 0), ask()]).chain(forked))
}

fn droppable() -> Deeds {
    let store = Deed::Store(at(0).get(), 7);
    of_one([mmap(2, 3, 8 | ANONYMOUS, -1), store, advise(PAGEOUT), Deed::Load(at(0).get())])
}

fn merge_any() -> Deeds {
    let set = |how| Deed::Call(M::Prctl { option: 67, args: [how, 0, 0, 0], name: None });
    let get = Deed::Call(M::Prctl { option: 68, args: [0; 4], name: None });
    let later = [shared(2), own(2), protect(0, 1), advise(UNMERGEABLE), protect(0, 3)];
    let ends = [Deed::Fork(1), set(0), own(1), get.clone()];
    of_one([own(2), set(3), get].into_iter().chain(later).chain(ends))
}

fn cold() -> Deeds {
    let pages = [own(2), touch(0, Write), Deed::Fork(1), touch(1, Write), advise(COLD)];
    of_one(pages)
}

fn fetch_denied() -> Deeds {
    of_one([own(2), touch(0, Write), advise(COLD), touch(0, Execute), touch(1, Execute)])
}

fn populated() -> Deeds {
    of_one([own(2), touch(0, Write), advise(COLD), advise(POPULATE_READ), advise(PAGEOUT)])
}

fn asked_of_userfaultfd() -> Deeds {
    let lock = Deed::Call(M::Mlock { addr: at(0), len: PAGE });
    let register = Deed::Uffd(3, A, PAGE, 1);
    let none = mmap(1, 0, PRIVATE | ANONYMOUS, -1);
    of_one([Deed::Userfault(3), none, lock, register, protect(0, 3)])
}

fn grown_for_userfaultfd() -> Deeds {
    let lock = Deed::Call(M::Mlock { addr: at(0), len: PAGE });
    let (addr, new_addr) = (at(0), VirtAddr::ZERO);
    let grow = M::Mremap { addr, old_len: PAGE, new_len: 3 * PAGE, flags: 1, new_addr };
    of_one([Deed::Userfault(3), own(1), lock, Deed::Uffd(3, A, PAGE, 1), Deed::Call(grow)])
}

fn around_for_userfaultfd() -> Deeds {
    let start = [Deed::ServedUserfault(3), shared(4), touch(2, Write)];
    let moved = VirtAddr::new(A + 0x100 * PAGE);
    let (addr, old_len, new_addr) = (at(0), 4 * PAGE, moved);
    // The object's page stays, and its entry is gone.
    let remap = M::Mremap { addr, old_len, new_len: old_len, flags: 7, new_addr };
    let register = Deed::Uffd(3, A, 4 * PAGE, 1);
    of_one(start.into_iter().chain([Deed::Call(remap), register, touch(0, Write), touch(1, Read)]))
}

fn there_for_userfaultfd() -> Deeds {
    let populated = mmap(2, 3, SHARED | ANONYMOUS | POPULATE, -1);
    let present = Deed::Serve(3, UFFDIO_CONTINUE, [A, PAGE, 2, 0, 0]);
    of_one([Deed::ServedUserfault(3), populated, Deed::Uffd(3, A, 2 * PAGE, 3), present])
}

/// Once there is an identity, which the refused move makes.
fn protected_before_a_gap() -> Deeds {
    let (register, len) = (Deed::Uffd(3, A, 512 * PAGE, 3), 512 * PAGE);
    let collapse = Deed::Call(M::Madvise { addr: at(0), len, advice: COLLAPSE });
    let before = [Deed::ServedUserfault(3), own(1024), touch(700, Write), register];
    let protect = Deed::Serve(3, UFFDIO_WRITEPROTECT, [A, PAGE, 1, 0, 0]);
    of_one(before.into_iter().chain([protect, collapse]))
}

fn copied_clean() -> Deeds {
    let map = |page, prot| {
        let (addr, flags) = (at(page), PRIVATE | FIXED);
        Deed::Call(M::Mmap { addr, len: PAGE, prot, flags, fd: 4, offset: 0 })
    };
    let files = [
        Deed::ServedUserfault(3),
        Deed::Open(4, Open::Memfd(456)),
        map(0, 1),
        map(8, 5),
        touch(8, Read),
    ];
    let before = of_one(files.into_iter().chain([Deed::Fork(1), Deed::Uffd(3, A, PAGE, 3)]));
    let protect = Deed::Call(M::Mprotect { addr: at(0), len: PAGE, prot: 3 });
    let after =
        of_one([Deed::Serve(3, UFFDIO_CONTINUE, [A, PAGE, 0, 0, 0]), protect, touch(0, Write)]);
    before.into_iter().chain([(1, Deed::Fork(2))]).chain(after).collect()
}

fn table_for_userfaultfd() -> Deeds {
    let (register, len) = (Deed::Uffd(3, A, 512 * PAGE, 1), 512 * PAGE);
    let collapse = Deed::Call(M::Madvise { addr: at(0), len, advice: COLLAPSE });
    let before = [Deed::ServedUserfault(3), own(512), register, collapse.clone()];
    of_one(before.into_iter().chain([touch(5, Read), collapse]))
}

fn clean_for_the_child() -> Deeds {
    let fill = |request, page, word| Deed::Serve(3, request, [A + page * PAGE, word, PAGE, 0, 0]);
    let present = Deed::Serve(3, UFFDIO_CONTINUE, [A, PAGE, 0, 0, 0]);
    let before = [Deed::ServedUserfault(3), shared(3), touch(2, Write), Deed::Fork(1)];
    let served = [Deed::Uffd(3, A, 2 * PAGE, 7), present, fill(UFFDIO_COPY, 1, A + 2 * PAGE)];
    let child = |page| (1, touch(page, Read));
    let before = of_one(before).into_iter().chain([child(0)]);
    before.chain(of_one(served)).chain([child(1)]).collect()
}

fn moved_after_a_child() -> Deeds {
    let move_it = || Deed::Serve(3, UFFDIO_MOVE, [A + 2 * PAGE, A, PAGE, 0, 0]);
    let register = Deed::Uffd(3, A + 2 * PAGE, 2 * PAGE, 3);
    let before = [Deed::ServedUserfault(3), own(4), touch(0, Write), register, Deed::Fork(1)];
    let before = of_one(before).into_iter().chain([(0, move_it()), (1, Deed::Exit)]);
    before.chain(of_one([move_it(), touch(0, Write), move_it()])).collect()
}

fn poison(page: u64) -> Deed {
    Deed::Serve(3, UFFDIO_POISON, [A + page * PAGE, PAGE, 0, 0, 0])
}

fn poison_given_up() -> Deeds {
    let before = [Deed::ServedUserfault(3), own(2), Deed::Uffd(3, A, 2 * PAGE, 1), poison(0)];
    of_one(before.into_iter().chain([poison(1), advise(COLD), advise(FREE)]))
}

fn poison_populated() -> Deeds {
    let before = [Deed::ServedUserfault(3), own(2), Deed::Uffd(3, A, 2 * PAGE, 2), poison(1)];
    let lock = Deed::Call(M::Mlock { addr: at(1), len: PAGE });
    of_one(before.into_iter().chain([advise(POPULATE_READ), lock]))
}

fn poison_past_the_end() -> Deeds {
    let map = [Deed::ServedUserfault(3), Deed::Open(4, Open::Memfd(4)), mmap(4, 3, PRIVATE, 4)];
    let poisoned = [Deed::Uffd(3, A, 4 * PAGE, 1), poison(1), poison(3), Deed::Fork(1)];
    of_one(map.into_iter().chain(poisoned).chain([Deed::Truncate(4, 2 * PAGE)]))
}

fn table_to_fill() -> Deeds {
    let (register, len) = (Deed::Uffd(3, A, 512 * PAGE, 1), 512 * PAGE);
    let collapse = Deed::Call(M::Madvise { addr: at(0), len, advice: COLLAPSE });
    let fill = Deed::Serve(3, UFFDIO_COPY, [A, A + 1024 * PAGE, PAGE, 0, 0]);
    of_one([Deed::ServedUserfault(3), own(512), register, fill, collapse])
}

fn written_in_private() -> Deeds {
    let map = [Deed::ServedUserfault(3), Deed::Open(4, Open::Memfd(2)), mmap(2, 3, PRIVATE, 4)];
    let present = Deed::Serve(3, UFFDIO_CONTINUE, [A, PAGE, 0, 0, 0]);
    let child = [(1, touch(0, Write))];
    let before = of_one(map).into_iter().chain([(0, Deed::Fork(1))]).chain(child);
    before.chain(of_one([Deed::Uffd(3, A, 2 * PAGE, 7), present])).collect()
}

fn noted_for_userfaultfd() -> Deeds {
    let populated = mmap(2, 3, SHARED | ANONYMOUS | POPULATE, -1);
    let before = [Deed::ServedUserfault(3), populated, Deed::Uffd(3, A, 2 * PAGE, 3)];
    let fork = [protect(0, 1), protect(0, 3), Deed::Fork(1), touch(0, Write)];
    of_one(before.into_iter().chain(fork)).into_iter().chain([(1, touch(0, Read))]).collect()
}

fn unprotected_for_userfaultfd() -> Deeds {
    let populated = mmap(2, 3, SHARED | ANONYMOUS | POPULATE, -1);
    let protect = |how| Deed::Serve(3, UFFDIO_WRITEPROTECT, [A, 2 * PAGE, how, 0, 0]);
    let before = [Deed::ServedUserfault(3), populated, Deed::Uffd(3, A, 2 * PAGE, 3)];
    let written = [touch(1, Write), protect(2), touch(0, Write), Deed::Fork(1)];
    let child = [(1, touch(0, Read)), (1, touch(1, Read))];
    of_one(before.into_iter().chain(written)).into_iter().chain(child).collect()
}

fn unregistered() -> Deeds {
    let before = [Deed::ServedUserfault(3), shared(3), touch(0, Read)];
    let told = [Deed::Uffd(3, A, 3 * PAGE, 7), Deed::Fork(1), Deed::Uffd(3, A, 3 * PAGE, 0)];
    let written = of_one(before.into_iter().chain(told).chain([touch(0, Write)]));
    written.into_iter().chain([(1, touch(0, Read))]).collect()
}

fn protected_paged_out() -> Deeds {
    let protect = Deed::Serve(3, UFFDIO_WRITEPROTECT, [A, 2 * PAGE, 1, 0, 0]);
    let before = [Deed::ServedUserfault(3), shared(2), touch(0, Write), touch(1, Read)];
    let protected = [Deed::Uffd(3, A, 2 * PAGE, 2), protect, advise(PAGEOUT), touch(0, Read)];
    of_one(before.into_iter().chain(protected))
}

fn zeros_on_no_node() -> Deeds {
    let map = [Deed::ServedUserfault(3), Deed::Open(4, Open::Memfd(2)), mmap(2, 3, PRIVATE, 4)];
    let fill = Deed::Serve(3, UFFDIO_ZEROPAGE, [A, PAGE, 0, 0, 0]);
    let nodes = Pointee::Null;
    let bind = M::Mbind { addr: at(0), len: PAGE, mode: 1, nodes, maxnode: 0, flags: 1 };
    of_one(map.into_iter().chain([Deed::Uffd(3, A, 2 * PAGE, 1), fill, Deed::Call(bind)]))
}

fn moved_for_userfaultfd() -> Deeds {
    let fill = Deed::Serve(3, UFFDIO_COPY, [A, A + PAGE, PAGE, 0, 0]);
    let (nodes, flags) = (Pointee::Null, 5);
    let bind = M::Mbind { addr: at(0), len: PAGE, mode: 1, nodes, maxnode: 0, flags };
    let before = [Deed::ServedUserfault(3), shared(2), touch(1, Read)];
    let moved = [Deed::Uffd(3, A, PAGE, 1), fill, Deed::Call(bind), Deed::Fork(1)];
    of_one(before.into_iter().chain(moved)).into_iter().chain([(1, touch(0, Read))]).collect()
}

fn identity_for_userfaultfd() -> Deeds {
    let lock = Deed::Call(M::Mlock { addr: at(1), len: 2 * PAGE });
    let none = mmap(3, 0, PRIVATE | ANONYMOUS, -1);
    let protect = Deed::Call(M::Mprotect { addr: at(1), len: 2 * PAGE, prot: 3 });
    let unmap = Deed::Call(M::Munmap { addr: at(0), len: PAGE });
    let (addr, new_addr, len) = (at(2), at(0), PAGE);
    // Never written, it would forget where it came from, and be one with its neighbour.
    let remap = Deed::Call(M::Mremap { addr, old_len: len, new_len: len, flags: 3, new_addr });
    of_one([
        Deed::Userfault(3),
        none,
        unmap,
        lock,
        Deed::Uffd(3, A + PAGE, 2 * PAGE, 1),
        protect,
        remap,
    ])
}

fn past_the_largest_file() -> Deeds {
    let file = Deed::Open(3, Open::File(1));
    let (len, offset) = (PAGE, ((1 << 32) - 1) * PAGE);
    let map = M::Mmap { addr: at(0), len, prot: 3, flags: SHARED | FIXED, fd: 3, offset };
    of_one([file, Deed::Call(map), advise(REMOVE)])
}

fn heap_and_data(start: &Start) -> Deeds {
    const RLIMIT_DATA: u64 = 2;
    let brk = |pages| Deed::Call(M::Brk { addr: VirtAddr::new(start.brk() + pages * PAGE) });
    let new = Pointee::Shown(Limit { current: 3 * PAGE, maximum: u64::MAX });
    let old = Pointee::Unread(VirtAddr::ZERO);
    let limit = Deed::Call(M::Prlimit { pid: 0, resource: RLIMIT_DATA, new, old });
    of_one([limit, brk(2), brk(3)])
}

fn past_the_end() -> Deeds {
    let map = mmap(4, 3, PRIVATE, 3);
    let cut = [Deed::Truncate(3, PAGE + 1), touch(1, Read), touch(2, Read)];
    let grown = [Deed::Truncate(3, 4 * PAGE), Deed::Load(at(1).get()), Deed::Load(at(3).get())];
    let stores = (0..4).map(|page| Deed::Store(at(page).get(), 5));
    let begin = [Deed::Open(3, Open::Memfd(4)), map];
    of_one(begin.into_iter().chain(stores).chain(cut).chain(grown))
}
