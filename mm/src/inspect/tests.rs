//! What smaps, pagemap and the dump say of a space whose pages are known.

use super::{PagemapWord, TableDump, audit, pagemap, smaps, smaps_rollup};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::paging::AccessKind;
use crate::replay::SoftwareMachine;
use crate::space::{MapRequest, Vcpus};
use crate::vma::limits::Limits;
use crate::vma::{MapFlags, MapType, Prot};

const BASE: u64 = 0x1_0000_0000;
const GUARD_INSTALL: i32 = 102;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(BASE + page * PAGE_SIZE)
}

fn machine() -> SoftwareMachine {
    SoftwareMachine::new(4096, Limits::default()).unwrap()
}

fn map(m: &SoftwareMachine, page: u64, pages: u64, flags: MapFlags) {
    let mut request = MapRequest::anonymous(at(page), pages * PAGE_SIZE, RW, MapFlags::empty());
    request.flags = flags | MapFlags::FIXED | MapFlags::ANONYMOUS;
    m.space.change().mmap(&request).unwrap();
}

fn private() -> MapFlags {
    MapType::Private.into()
}

fn words(m: &SoftwareMachine, pages: u64) -> Vec<PagemapWord> {
    let range = PageRange::new(at(0), at(pages)).unwrap();
    pagemap(&m.space.look(), range).map(|word| word - PagemapWord::FRAME).collect()
}

#[test]
fn the_text_of_a_vma_is_byte_for_byte_linuxs() {
    let m = machine();
    map(&m, 0, 3, private());
    m.store(at(0), 1).unwrap();
    let space = m.space.look();
    let text: String = smaps(&space).map(|entry| entry.to_string()).collect();
    let wanted = "100000000-100003000 rw-p 00000000 00:00 0 \n\
                  Size:                 12 kB\n\
                  KernelPageSize:        4 kB\n\
                  MMUPageSize:           4 kB\n\
                  Rss:                   4 kB\n\
                  Pss:                   4 kB\n\
                  Pss_Dirty:             4 kB\n\
                  Shared_Clean:          0 kB\n\
                  Shared_Dirty:          0 kB\n\
                  Private_Clean:         0 kB\n\
                  Private_Dirty:         4 kB\n\
                  Referenced:            4 kB\n\
                  Anonymous:             4 kB\n\
                  KSM:                   0 kB\n\
                  LazyFree:              0 kB\n\
                  AnonHugePages:         0 kB\n\
                  ShmemPmdMapped:        0 kB\n\
                  FilePmdMapped:         0 kB\n\
                  Shared_Hugetlb:        0 kB\n\
                  Private_Hugetlb:       0 kB\n\
                  Swap:                  0 kB\n\
                  SwapPss:               0 kB\n\
                  Locked:                0 kB\n\
                  THPeligible:           0\n\
                  VmFlags: rd wr mr mw me ac \n";
    assert_eq!(text, wanted);
    let rollup = smaps_rollup(&space).to_string();
    let name =
        "100000000-100003000 ---p 00000000 00:00 0                                [rollup]\n";
    assert!(rollup.starts_with(name), "{rollup}");
    assert!(rollup.contains("Pss_Dirty:             4 kB\nPss_Anon:              4 kB\n"));
    assert!(rollup.ends_with("Locked:                0 kB\n"));
    assert_eq!(rollup.lines().count(), 23);
}

#[test]
fn zeros_that_were_read_and_pages_ahead_are_not_resident() {
    let m = machine();
    map(&m, 0, 64, private());
    // Page by page, so that the next ones come ahead.
    for page in 0..8 {
        m.store(at(page), 1).unwrap();
    }
    m.load(at(20)).unwrap();
    m.load(at(8)).unwrap();
    let space = m.space.look();
    let ahead = space.table().slot(at(9)).unwrap().load(std::sync::atomic::Ordering::Relaxed);
    assert!(crate::paging::Entry::new(ahead).is_unseen(), "the test needs a page ahead");
    let usage = smaps_rollup(&space).usage;
    assert_eq!((usage.rss, usage.anonymous), (8 * PAGE_SIZE, 8 * PAGE_SIZE));
    assert_eq!((usage.private_dirty, usage.referenced), (8 * PAGE_SIZE, 8 * PAGE_SIZE));
    drop(space);
    let words = words(&m, 24);
    assert_eq!(words[7], PagemapWord::PRESENT | PagemapWord::EXCLUSIVE);
    assert_eq!((words[8], words[20]), (PagemapWord::PRESENT, PagemapWord::PRESENT));
    assert_eq!((words[9], words[23]), (PagemapWord::empty(), PagemapWord::empty()));
    audit(&m.space.look()).unwrap();
}

#[test]
fn shared_memory_is_backed_and_its_share_is_a_part_of_the_page() {
    let m = machine();
    map(&m, 0, 4, MapType::Shared.into());
    m.store(at(1), 1).unwrap();
    let one = smaps_rollup(&m.space.look()).usage;
    assert_eq!((one.rss, one.anonymous, one.private_dirty), (PAGE_SIZE, 0, PAGE_SIZE));
    assert_eq!(one.pss_shmem.bytes(), PAGE_SIZE);
    let backed = PagemapWord::PRESENT | PagemapWord::BACKED;
    assert_eq!(words(&m, 2), [PagemapWord::empty(), backed | PagemapWord::EXCLUSIVE]);
}

#[test]
fn what_two_processes_have_is_shared_and_half_of_it_is_each_ones() {
    let m = machine();
    map(&m, 0, 4, private());
    m.store(at(1), 1).unwrap();
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    let (parents, childs) = (smaps_rollup(&m.space.look()).usage, smaps_rollup(&child).usage);
    for usage in [&parents, &childs] {
        assert_eq!((usage.rss, usage.shared_dirty, usage.private_dirty), (4096, 4096, 0));
        assert_eq!(
            (usage.pss.bytes(), usage.pss_anon.bytes(), usage.pss_dirty.bytes()),
            (2048, 2048, 2048)
        );
    }
    assert_eq!(words(&m, 2), [PagemapWord::empty(), PagemapWord::PRESENT]);
    child.exit().unwrap();
    assert_eq!(words(&m, 2)[1], PagemapWord::PRESENT | PagemapWord::EXCLUSIVE);
}

#[test]
fn a_locked_page_that_protection_hides_still_counts() {
    let m = machine();
    map(&m, 0, 4, private() | MapFlags::LOCKED);
    m.store(at(0), 1).unwrap();
    m.space.change().mprotect(at(0), 4 * PAGE_SIZE, Prot::empty()).unwrap();
    let usage = smaps_rollup(&m.space.look()).usage;
    assert!(usage.rss >= PAGE_SIZE && usage.locked.bytes() == usage.rss, "{usage:?}");
    assert_eq!(words(&m, 1), [PagemapWord::PRESENT | PagemapWord::EXCLUSIVE]);
}

#[test]
fn the_dump_folds_runs() {
    let m = machine();
    map(&m, 0, 16, private());
    for page in [0, 4, 5, 6] {
        m.access(at(page), AccessKind::Read).unwrap();
    }
    m.store(at(2), 1).unwrap();
    m.space.change().madvise(at(10), 3 * PAGE_SIZE, GUARD_INSTALL).unwrap();
    let space = m.space.look();
    let text = TableDump(&space).to_string();
    assert!(text.starts_with("root 0x"), "{text}");
    assert!(text.contains("\n000000000000-008000000000 table 0x"), "{text}");
    assert!(text.contains("\n    000100000000-000100200000 table 0x"), "{text}");
    assert!(text.contains("\n      00010000a000-00010000d000 guard, 3 pages\n"), "{text}");
    assert!(
        text.contains("\n      000100002000-000100003000 rw- AD own, 1 page, frame 0x"),
        "{text}"
    );
    assert!(text.contains(" r-- A- backing, 2 pages, frame 0x"), "{text}");
}
