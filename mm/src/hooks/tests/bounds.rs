//! Cuts, merges and forks: what is told where the bounds of VMAs change, or their pages become another's
//! as well.

use super::*;
use crate::vma::VmFlags;

/// Lets pages `[page, page + count)` show a file's pages from `index` on.
fn show(w: &Watched, file: &Arc<dyn Backing>, page: u64, count: u64, index: u64) {
    let request = MapRequest {
        addr: at(page),
        len: count * PAGE_SIZE,
        prot: RW,
        flags: MapFlags::FIXED | MapType::Private.into(),
        file: Some(Arc::clone(file)),
        offset: index * PAGE_SIZE,
    };
    w.machine.space.change().mmap(&request).unwrap();
}

fn protect(w: &Watched, page: u64, count: u64, prot: Prot) {
    w.machine.space.change().mprotect(at(page), count * PAGE_SIZE, prot).unwrap();
}

/// What was told of files since the last time: `-` unmapped, `+` mapped.
fn files(w: &Watched) -> Vec<String> {
    let told = w.log.taken();
    let line = |line: &String| {
        let gone = line.strip_prefix("file unmapped ").map(|rest| {
            let (part, whole) = rest.split_once(" of ").unwrap();
            assert_eq!(part, whole);
            format!("-{part}")
        });
        gone.or_else(|| Some(format!("+{}", line.strip_prefix("file mapped ")?)))
    };
    told.iter().filter_map(line).collect()
}

/// Eight pages of a file at page 0.
fn mapped() -> (Watched, Arc<dyn Backing>) {
    let w = Watched::new();
    let file = file(&w.machine.frames);
    show(&w, &file, 0, 8, 0);
    w.log.taken();
    (w, file)
}

/// ```text
///   [AAAAAAAA]  ->  [AA][bbb][AAA]
/// ```
#[test]
fn a_middle_that_changes_is_cut_at_its_start_and_then_at_its_end() {
    let (w, _) = mapped();
    protect(&w, 2, 3, Prot::READ);
    assert_eq!(files(&w), ["-0..8", "+2..8", "+0..2", "-2..8", "+2..5", "+5..8"]);
    protect(&w, 2, 3, RW);
    assert_eq!(files(&w), ["-0..2", "+0..8", "-2..5", "-5..8"], "whole, both");
}

#[test]
fn an_end_that_changes_is_cut_once_and_a_whole_vma_not_at_all() {
    let (w, _) = mapped();
    protect(&w, 0, 3, Prot::READ);
    assert_eq!(files(&w), ["-0..8", "+0..3", "+3..8"]);
    protect(&w, 0, 3, Prot::empty());
    assert_eq!(files(&w), [""; 0]);
    protect(&w, 6, 2, Prot::READ);
    assert_eq!(files(&w), ["-3..8", "+6..8", "+3..6"]);
}

/// ```text
///   [AAAA][BBBB]  ->  [AAAAAA][BB]  ->  [AAAAA][BBB]  ->  [AAAAAAAA]
/// ```
#[test]
fn a_border_that_moves_is_told_of_both_sides() {
    let (w, _) = mapped();
    protect(&w, 4, 4, Prot::READ);
    w.log.taken();
    protect(&w, 4, 2, RW);
    assert_eq!(files(&w), ["-0..4", "-4..8", "+0..6", "+6..8"], "part, left");
    protect(&w, 5, 1, Prot::READ);
    assert_eq!(files(&w), ["-0..6", "-6..8", "+0..5", "+5..8"], "part, right");
    protect(&w, 5, 3, RW);
    assert_eq!(files(&w), ["-0..5", "+0..8", "-5..8"], "whole, left");
    protect(&w, 0, 4, Prot::READ);
    w.log.taken();
    protect(&w, 0, 4, RW);
    assert_eq!(files(&w), ["-4..8", "+0..8", "-0..4"], "whole, right");
}

#[test]
fn a_new_map_that_merges_is_told_as_a_change_of_its_neighbour_and_as_a_map() {
    let w = Watched::new();
    let file = file(&w.machine.frames);
    show(&w, &file, 4, 2, 4);
    assert_eq!(files(&w), ["+4..6"]);
    show(&w, &file, 6, 1, 6);
    assert_eq!(files(&w), ["-4..6", "+4..7", "+4..7"], "new, left");
    show(&w, &file, 2, 2, 2);
    assert_eq!(files(&w), ["-4..7", "+2..7", "+2..7"], "new, right");
    show(&w, &file, 8, 2, 8);
    w.log.taken();
    show(&w, &file, 7, 1, 7);
    assert_eq!(files(&w), ["-2..7", "+2..10", "-8..10", "+2..10"], "new, both");
}

#[test]
fn a_map_that_grows_where_it_is_is_told_and_one_that_moves_only_where_it_goes() {
    let (w, _) = mapped();
    let remap = |page, old_len: u64, new_len: u64, to: Option<u64>| {
        let (flags, new_addr) = to.map_or((1, VirtAddr::ZERO), |to| (3, at(to)));
        w.machine
            .space
            .change()
            .mremap(&RemapRequest {
                addr: at(page),
                old_len: old_len * PAGE_SIZE,
                new_len: new_len * PAGE_SIZE,
                flags,
                new_addr,
            })
            .unwrap();
    };
    remap(0, 8, 10, None);
    assert_eq!(files(&w), ["-0..8", "+0..10"]);
    // Its end goes, and comes back: merged, but not told as mapped.
    remap(8, 2, 2, Some(20));
    assert_eq!(files(&w), ["-0..10", "+8..10", "+0..8", "-8..10"]);
    remap(20, 2, 2, Some(8));
    assert_eq!(files(&w), ["-0..8", "-20..22"]);
}

#[test]
fn munmap_of_a_middle_cuts_first() {
    let (w, _) = mapped();
    w.machine.space.change().munmap(at(2), 3 * PAGE_SIZE).unwrap();
    assert_eq!(files(&w), ["-0..8", "+2..8", "+0..2", "-2..8", "+2..5", "+5..8", "-2..5"]);
}

#[test]
fn a_cut_at_the_start_is_told_also_if_the_one_at_the_end_is_refused() {
    let (w, _) = mapped();
    w.machine.space.look().system().sysctl.set_max_map_count(2);
    let refused = w.machine.space.change().mprotect(at(2), 3 * PAGE_SIZE, Prot::READ);
    assert!(matches!(refused, Err(CallError::Errno(Errno::ENOMEM))), "{refused:?}");
    assert_eq!(files(&w), ["-0..8", "+2..8", "+0..2"]);
    assert_eq!(w.machine.space.look().vmas().len(), 2);
}

#[test]
fn cuts_and_merges_of_memory_without_a_file_are_not_told() {
    let w = Watched::new();
    w.map(0, 8, RW).unwrap();
    protect(&w, 2, 3, Prot::READ);
    protect(&w, 2, 3, RW);
    w.machine.space.change().munmap(at(3), PAGE_SIZE).unwrap();
    w.map(3, 1, RW).unwrap();
    assert_eq!(files(&w), [""; 0]);
}

#[test]
fn a_fork_tells_what_the_child_gets_as_well() {
    let (w, file) = mapped();
    w.map(20, 2, RW).unwrap();
    w.map(30, 2, RW).unwrap();
    w.map(40, 2, RW).unwrap();
    for page in [1, 20, 40] {
        w.machine.store(at(page), 1).unwrap();
    }
    let mut shared = MapRequest::anonymous(at(50), PAGE_SIZE, RW, MapFlags::FIXED);
    shared.flags = MapFlags::FIXED | MapFlags::ANONYMOUS | MapType::Shared.into();
    w.machine.space.change().mmap(&shared).unwrap();
    w.machine.store(at(50), 1).unwrap();
    w.machine.space.change().madvise(at(40), 2 * PAGE_SIZE, 10).unwrap();
    let kept_back = |vma: &Vma| vma.flags.contains(VmFlags::DONTCOPY);
    assert_eq!(w.machine.space.look().vmas().iter().filter(|vma| kept_back(vma)).count(), 1);
    w.log.taken();
    let child = w.machine.space.change().fork(Vcpus::Running).unwrap();
    // Neither what was never written to, nor what is shared, nor what the child does not get.
    let told = [
        "invalidating 0..8 Fork",
        "invalidated 0..8 Fork",
        "invalidating 20..22 Fork",
        "invalidated 20..22 Fork",
    ];
    assert_eq!(w.log.taken(), told);
    child.exit().unwrap();
    drop(file);
}

#[test]
fn a_write_to_a_shared_page_tells_of_it_and_of_the_other_space_that_gets_the_copy() {
    let w = Watched::new();
    w.map(20, 1, RW).unwrap();
    w.machine.store(at(20), 1).unwrap();
    let child = SharedSpace::new(w.machine.space.change().fork(Vcpus::Running).unwrap());
    let request = RemapRequest {
        addr: at(20),
        old_len: PAGE_SIZE,
        new_len: PAGE_SIZE,
        flags: 3,
        new_addr: at(70),
    };
    child.change().mremap(&request).unwrap();
    w.log.taken();
    w.machine.store(at(20), 2).unwrap();
    let told = [
        "invalidating 70..71 Clear",
        "invalidated 70..71 Clear",
        "invalidating 20..21 Clear",
        "invalidated 20..21 Clear",
        "faulted 20 Write",
    ];
    assert_eq!(w.log.taken(), told);
    child.exit().unwrap();
}
