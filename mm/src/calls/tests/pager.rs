//! What calls do with memory of a pager, once they have no lock.

use std::io;
use std::sync::Mutex;

use super::*;
use crate::addr::PageRange;
use crate::backing::{PagedMemory, Pager};
use crate::space::Vcpus;
use crate::vma::{MapFlags, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const SHARED: MapFlags = MapFlags::FIXED.union(MapFlags::from_bits_retain(1));
/// Words of mmap(2) for descriptor 1: readable and writable.
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_POPULATE: u64 = 0x8000;
const MAP_NONBLOCK: u64 = 0x1_0000;

/// A process with three pages of a pager at [`BASE`], of which the last cannot be filled; and what was taken.
fn paged() -> (Process, PagedMemory, Arc<Mutex<Vec<u64>>>) {
    let process = Process::new();
    let taken: Arc<Mutex<Vec<u64>>> = Arc::default();
    let taking = Arc::clone(&taken);
    let pager = Pager::new("pager", 3 * PAGE_SIZE, |offset, _| match offset {
        0x2000 => Err(io::Error::other("on purpose")),
        _ => Ok(()),
    });
    let pager = pager.taking(move |offset, page| {
        taking.lock().unwrap().push(offset);
        if page[0] == 99 { Err(io::Error::other("on purpose")) } else { Ok(()) }
    });
    let space = &process.machine.space;
    let system = Arc::clone(space.look().system());
    let memory = pager.open(&system);
    memory.map(space, VirtAddr::new(BASE), RW, SHARED).unwrap();
    (process, memory, taken)
}

#[test]
fn a_pager_is_asked_for_what_a_call_shall_bring_in() {
    const READ: u64 = 22;
    const WRITE: u64 = 23;
    let (p, memory, _) = paged();
    let populate = |pages: u64, how| p.call(libc::SYS_madvise, [BASE, pages * PAGE_SIZE, how]);
    assert_eq!((populate(2, READ), memory.in_memory()), (Ok(0), 2));
    memory.evict(2).unwrap();
    assert_eq!((populate(1, WRITE), memory.in_memory()), (Ok(0), 1));
    assert_eq!((populate(3, READ), memory.in_memory()), (Err(Errno::EFAULT), 2));
    memory.evict(2).unwrap();
    let lock = |pages: u64| p.call(libc::SYS_mlock, [BASE + 1, pages * PAGE_SIZE - 1]);
    assert_eq!((lock(2), memory.in_memory()), (Ok(0), 2));
    assert_eq!(lock(3), Err(Errno::ENOMEM));
    assert_eq!(p.call(libc::SYS_mincore, [BASE, 3 * PAGE_SIZE, SCRATCH]), Ok(0));
    let mut seen = [9; 3];
    p.machine.space.read(VirtAddr::new(SCRATCH), &mut seen).unwrap();
    assert_eq!(seen, [1, 1, 0]);
}

#[test]
fn what_a_call_leaves_for_a_pager_is_done_when_it_has_no_lock() {
    let (p, memory, taken) = paged();
    let write = |page: u64, byte| {
        p.machine.space.write(VirtAddr::new(BASE + page * PAGE_SIZE), &[byte]).unwrap();
    };
    let taken = || std::mem::take(&mut *taken.lock().unwrap());
    write(0, 1);
    write(1, 1);
    let page_out = [BASE, PAGE_SIZE, 21];
    assert_eq!(p.call(libc::SYS_madvise, page_out), Ok(0));
    assert_eq!((taken(), memory.in_memory()), (vec![0], 1));
    let sync = [BASE, 3 * PAGE_SIZE, 4];
    assert_eq!((p.call(libc::SYS_msync, sync), taken()), (Ok(0), vec![0x1000]));
    write(1, 99);
    assert_eq!((p.call(libc::SYS_msync, sync), taken()), (Err(Errno::EIO), vec![0x1000]));
    // Memory that is gone after it says which error came first.
    let further = [BASE, 5 * PAGE_SIZE, 4];
    assert_eq!((p.call(libc::SYS_msync, further), taken()), (Err(Errno::EIO), vec![0x1000]));
    write(1, 2);
    assert_eq!((p.call(libc::SYS_munmap, [BASE, 3 * PAGE_SIZE]), taken()), (Ok(0), vec![0x1000]));
}

/// A process that has a pager of eight pages for its descriptor 1, of which about two stay in memory. Each has its number
/// and one.
fn open() -> (Process, PagedMemory) {
    let process = Process::new();
    let pager = Pager::new("pager", 8 * PAGE_SIZE, |offset, page| {
        page[0] = (offset / PAGE_SIZE + 1).to_le_bytes()[0];
        Ok(())
    });
    let system = Arc::clone(process.machine.space.look().system());
    let memory = pager.taking(|_, _| Ok(())).keeping(2).open(&system);
    *process.file.borrow_mut() = Some(memory.backing());
    (process, memory)
}

impl Process {
    /// mmap(2) of so many pages of descriptor 1.
    fn map_pager(&self, pages: u64, flags: u64) -> u64 {
        const FIXED: u64 = 0x10;
        self.call(libc::SYS_mmap, [BASE, pages * PAGE_SIZE, 3, flags | FIXED, 1, 0]).unwrap()
    }

    fn of_pages(&self, call: libc::c_long, first: u64, count: u64) -> Result<u64, Errno> {
        self.call(call, [BASE + first * PAGE_SIZE, count * PAGE_SIZE])
    }

    fn byte(&self, page: u64) -> u8 {
        let mut byte = [0];
        self.machine.space.read(VirtAddr::new(BASE + page * PAGE_SIZE), &mut byte).unwrap();
        byte[0]
    }

    /// Which of the first pages have an entry.
    fn mapped(&self, pages: u64) -> Vec<bool> {
        (0..pages).map(|page| self.maps(page)).collect()
    }

    fn maps(&self, page: u64) -> bool {
        let space = self.machine.space.look();
        let page = PageRange::from_len(VirtAddr::new(BASE + page * PAGE_SIZE), PAGE_SIZE).unwrap();
        space.table().look(page).any(|leaf| leaf.entry.frame().is_some())
    }

    fn check(&self) {
        crate::inspect::audit_all(&[&self.machine.space.look()]).unwrap();
    }
}

#[test]
fn locked_pages_of_a_pager_stay_until_they_are_unlocked() {
    let (p, memory) = open();
    p.map_pager(8, MAP_SHARED);
    p.byte(5);
    assert_eq!(p.of_pages(libc::SYS_mlock, 0, 4), Ok(0));
    assert_eq!(p.mapped(4), [true; 4], "more than it would keep");
    p.check();
    // They are the oldest; also where closures must not run.
    for page in [4, 5, 6, 7, 4, 5, 6, 7] {
        assert_eq!(u64::from(p.byte(page)), page + 1);
    }
    assert_eq!(p.mapped(4), [true; 4]);
    p.byte(6);
    p.byte(7);
    assert_eq!(memory.evict(1).unwrap(), 1, "the oldest that is not locked");
    memory.evict(8).unwrap();
    assert_eq!((p.mapped(4), memory.in_memory()), (vec![true; 4], 4));
    let system = Arc::clone(p.machine.space.look().system());
    assert_eq!((system.drop_clean_pages().unwrap(), system.page_out().unwrap()), (0, 0));
    assert_eq!(p.of_pages(libc::SYS_munlock, 1, 2), Ok(0));
    p.check();
    assert_eq!(memory.evict(8).unwrap(), 2);
    assert_eq!(p.mapped(4), [true, false, false, true]);
    assert_eq!(p.call(libc::SYS_munlockall, []), Ok(0));
    assert_eq!((memory.evict(1).unwrap(), memory.evict(1).unwrap()), (1, 1));
}

#[test]
fn what_is_locked_once_it_is_touched_is_not_brought_in_and_stays_then() {
    let (p, memory) = open();
    p.map_pager(8, MAP_SHARED);
    assert_eq!(p.call(libc::SYS_mlock2, [BASE, 4 * PAGE_SIZE, 1]), Ok(0));
    assert_eq!(memory.in_memory(), 0);
    p.byte(2);
    memory.evict(8).unwrap();
    assert_eq!(p.mapped(4), [false, false, true, false]);
    p.check();
}

#[test]
fn what_is_locked_may_be_written_and_is_taken_only_when_that_is_asked_for() {
    let (p, memory, taken) = paged();
    assert_eq!(p.of_pages(libc::SYS_mlock, 0, 1), Ok(0));
    p.machine.space.write(VirtAddr::new(BASE), &[77]).unwrap();
    memory.evict(8).unwrap();
    assert_eq!((taken.lock().unwrap().len(), p.mapped(1)), (0, vec![true]));
    assert_eq!((memory.sync(), p.byte(0), p.mapped(1)), (Ok(()), 77, vec![true]));
    assert_eq!(*taken.lock().unwrap(), [0]);
    p.check();
}

#[test]
fn a_childs_page_is_not_locked_though_its_parents_is() {
    let (p, memory) = open();
    p.map_pager(8, MAP_SHARED);
    assert_eq!(p.of_pages(libc::SYS_mlock, 0, 1), Ok(0));
    let child = p.machine.space.change().fork(Vcpus::Stopped).unwrap();
    let child = SharedSpace::new(child);
    child.fault(VirtAddr::new(BASE), crate::paging::AccessKind::Read).unwrap();
    assert_eq!(memory.evict(8).unwrap(), 0);
    assert_eq!(p.of_pages(libc::SYS_munlock, 0, 1), Ok(0));
    assert_eq!(memory.evict(8).unwrap(), 1);
    child.exit().unwrap();
}

#[test]
fn private_memory_of_a_pager_that_is_locked_is_copied() {
    let (p, memory) = open();
    p.map_pager(4, MAP_PRIVATE);
    assert_eq!(p.of_pages(libc::SYS_mlock, 0, 4), Ok(0));
    memory.evict(8).unwrap();
    assert_eq!((p.mapped(4), memory.in_memory()), (vec![true; 4], 0));
    assert_eq!([0, 1, 2, 3].map(|page| p.byte(page)), [1, 2, 3, 4]);
    p.check();
}

#[test]
fn what_is_locked_and_becomes_writable_is_brought_in_and_copied() {
    const DONTNEED_LOCKED: u64 = 24;
    let (p, memory) = open();
    let protect = |pages: u64, prot| p.call(libc::SYS_mprotect, [BASE, pages * PAGE_SIZE, prot]);
    p.map_pager(8, MAP_PRIVATE);
    assert_eq!((protect(8, 1), p.of_pages(libc::SYS_mlock, 0, 6)), (Ok(0), Ok(0)));
    let forgotten = p.call(libc::SYS_madvise, [BASE, 8 * PAGE_SIZE, DONTNEED_LOCKED]);
    assert_eq!((forgotten, p.mapped(8)), (Ok(0), vec![false; 8]));
    // Up to a hole, and not what could be written before, or is not locked.
    assert_eq!(p.of_pages(libc::SYS_munmap, 4, 1), Ok(0));
    assert_eq!(protect(8, 3), Err(Errno::ENOMEM));
    assert_eq!(p.mapped(8)[..4], [true; 4]);
    assert_eq!((p.mapped(8)[5..].to_vec(), memory.evict(8).is_ok()), (vec![false; 3], true));
    assert_eq!((p.mapped(4), memory.in_memory()), (vec![true; 4], 0), "they are its own");
    assert_eq!([0, 1, 2, 3].map(|page| p.byte(page)), [1, 2, 3, 4]);
    p.call(libc::SYS_madvise, [BASE, 4 * PAGE_SIZE, DONTNEED_LOCKED]).unwrap();
    assert_eq!((protect(4, 7), p.mapped(4)), (Ok(0), vec![false; 4]));
    // Nor what is locked once it is touched.
    assert_eq!(p.call(libc::SYS_mlock2, [BASE, PAGE_SIZE, 1]), Ok(0));
    assert_eq!((protect(1, 1), protect(1, 3)), (Ok(0), Ok(0)));
    assert_eq!(p.mapped(4), [false; 4]);
    p.check();
}

#[test]
fn a_map_that_is_to_be_populated_is() {
    let (p, memory) = open();
    for flags in [MAP_SHARED, MAP_PRIVATE] {
        p.map_pager(4, flags);
        assert_eq!(p.mapped(4), [false; 4]);
        p.map_pager(4, flags | MAP_POPULATE | MAP_NONBLOCK);
        assert_eq!(p.mapped(4), [false; 4]);
        p.map_pager(4, flags | MAP_POPULATE);
        let own = flags == MAP_PRIVATE;
        assert!(p.maps(3));
        assert_eq!(p.maps(0), own, "shared pages are no more than it keeps");
        p.check();
    }
    assert!(memory.in_memory() <= 3, "{}", memory.in_memory());
}

#[test]
fn what_is_mapped_when_all_is_locked_is_brought_in() {
    const CURRENT: u64 = 1;
    const FUTURE: u64 = 2;
    const ON_FAULT: u64 = 4;
    let (p, memory) = open();
    assert_eq!(p.call(libc::SYS_mlockall, [FUTURE]), Ok(0));
    p.map_pager(4, MAP_SHARED);
    assert_eq!(p.mapped(4), [true; 4]);
    assert_eq!(p.call(libc::SYS_munlockall, []), Ok(0));
    p.map_pager(4, MAP_SHARED);
    memory.evict(8).unwrap();
    assert_eq!(p.call(libc::SYS_mlockall, [CURRENT | ON_FAULT]), Ok(0));
    assert_eq!(p.mapped(4), [false; 4]);
    assert_eq!(p.call(libc::SYS_mlockall, [CURRENT]), Ok(0));
    assert_eq!(p.mapped(4), [true; 4]);
    p.check();
}

#[test]
fn a_locked_map_that_grows_is_brought_in() {
    const MAYMOVE: u64 = 1;
    let (p, _memory) = open();
    p.map_pager(2, MAP_SHARED);
    let grow = |pages: u64| [BASE, 2 * PAGE_SIZE, pages * PAGE_SIZE, MAYMOVE];
    assert_eq!(p.of_pages(libc::SYS_mlock, 0, 2), Ok(0));
    assert_eq!(p.call(libc::SYS_mremap, grow(5)), Ok(BASE));
    assert_eq!(p.mapped(5), [true; 5]);
    assert_eq!(p.of_pages(libc::SYS_munmap, 0, 5), Ok(0));
    p.map_pager(2, MAP_SHARED);
    assert_eq!(p.call(libc::SYS_mremap, grow(5)), Ok(BASE));
    assert_eq!(p.mapped(5)[2..], [false; 3]);
    p.check();
}

#[test]
fn what_cannot_be_filled_is_no_error_of_a_map_and_keeps_others_from_nothing() {
    const CURRENT: u64 = 1;
    let (p, memory, _) = paged();
    let space = &p.machine.space;
    let at = VirtAddr::new(BASE + 8 * PAGE_SIZE);
    let populate = SHARED | MapFlags::POPULATE;
    memory.map(space, at, RW, populate).unwrap();
    assert_eq!(memory.in_memory(), 2);
    memory.evict(8).unwrap();
    assert_eq!(p.call(libc::SYS_mlockall, [CURRENT]), Ok(0));
    assert_eq!(
        [0, 1, 2, 8, 9, 10].map(|page| p.maps(page)),
        [true, true, false, true, true, false]
    );
}

#[test]
fn advice_on_oneself_from_outside_brings_in_likewise() {
    const POPULATE_READ: u64 = 22;
    const SELF: u64 = (-10000_i64).cast_unsigned();
    let (p, memory) = open();
    p.map_pager(2, MAP_SHARED);
    p.put(SCRATCH, &[BASE, 2 * PAGE_SIZE]);
    let advised = p.call(libc::SYS_process_madvise, [SELF, SCRATCH, 1, POPULATE_READ, 0]);
    assert_eq!((advised, memory.in_memory()), (Ok(2 * PAGE_SIZE), 2));
}
