//! What an observer is told.

use super::*;

#[test]
fn mmap_tells_of_the_vma_that_came_of_it_after_what_it_replaced() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    assert_eq!(w.log.taken(), ["mapped 0..2 prot 3"]);
    w.map(2, 2, RW).unwrap();
    assert_eq!(w.log.taken(), ["mapped 0..4 prot 3"], "merged");
    let file = file(&w.machine.frames);
    w.map_file(1, 2, &file);
    let replaced = ["invalidating 1..3 Unmap", "invalidated 1..3 Unmap", "unmapped 1..3"];
    assert_eq!(
        w.log.taken(),
        [&replaced[..], &["mapped 1..3 prot 3", "file mapped 1..3"]].concat()
    );
}

#[test]
fn munmap_tells_of_files_before_their_pages_go() {
    let w = Watched::new();
    let file = file(&w.machine.frames);
    w.map_file(0, 4, &file);
    w.map(4, 1, RW).unwrap();
    w.log.taken();
    w.machine.space.change().munmap(at(1), 4 * PAGE_SIZE).unwrap();
    let told = [
        "file unmapped 0..4 of 0..4",
        "file mapped 1..4",
        "file mapped 0..1",
        "invalidating 1..5 Unmap",
        "file unmapped 1..4 of 1..4",
        "invalidated 1..5 Unmap",
        "unmapped 1..5",
    ];
    assert_eq!(w.log.taken(), told);
    w.machine.space.change().munmap(at(8), PAGE_SIZE).unwrap();
    assert_eq!(w.log.taken(), [""; 0], "nothing was there");
}

#[test]
fn mprotect_tells_of_each_vma_and_what_it_is_then() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(2, 2, Prot::READ).unwrap();
    w.log.taken();
    w.machine.space.change().mprotect(at(1), 2 * PAGE_SIZE, Prot::empty()).unwrap();
    let told = [
        "invalidating 1..2 Protection",
        "invalidated 1..2 Protection",
        "mapped 1..2 prot 0",
        "invalidating 2..3 Protection",
        "invalidated 2..3 Protection",
        "mapped 1..3 prot 0",
    ];
    assert_eq!(w.log.taken(), told);
    w.machine.space.change().mprotect(at(1), 2 * PAGE_SIZE, Prot::empty()).unwrap();
    assert_eq!(w.log.taken(), [""; 0], "nothing changed");
}

#[test]
fn a_move_and_the_advice_that_discards_tell_what_becomes_invalid() {
    let w = Watched::new();
    let file = file(&w.machine.frames);
    w.map_file(0, 2, &file);
    w.log.taken();
    let request = RemapRequest {
        addr: at(0),
        old_len: 2 * PAGE_SIZE,
        new_len: 2 * PAGE_SIZE,
        flags: 3,
        new_addr: at(8),
    };
    w.machine.space.change().mremap(&request).unwrap();
    let told = [
        "invalidating 0..2 Unmap",
        "invalidated 0..2 Unmap",
        "invalidating 0..2 Unmap",
        "file unmapped 0..2 of 0..2",
        "invalidated 0..2 Unmap",
        "unmapped 0..2",
    ];
    assert_eq!(w.log.taken(), told);
    for advice in [4, 102] {
        w.machine.space.change().madvise(at(9), PAGE_SIZE, advice).unwrap();
        let told = ["invalidating 9..10 Clear", "invalidated 9..10 Clear"];
        assert_eq!(w.log.taken(), told, "advice {advice}");
    }
}

#[test]
fn a_fault_tells_of_itself_and_of_a_page_that_it_replaces() {
    let w = Watched::new();
    let file = file(&w.machine.frames);
    w.map_file(0, 1, &file);
    w.log.taken();
    w.machine.load(at(0)).unwrap();
    assert_eq!(w.log.taken(), ["faulted 0 Read"]);
    w.machine.store(at(0), 1).unwrap();
    let told = ["invalidating 0..1 Clear", "invalidated 0..1 Clear", "faulted 0 Write"];
    assert_eq!(w.log.taken(), told);
}

#[test]
fn the_heap_and_a_stack_that_grow_tell_of_their_vmas() {
    let w = Watched::new();
    w.machine.space.change().set_brk(at(0), at(0));
    w.machine.space.change().brk(at(1)).unwrap();
    w.machine.space.change().brk(at(3)).unwrap();
    assert_eq!(w.log.taken(), ["mapped 0..1 prot 3", "mapped 0..3 prot 3"]);
    let stack = MapFlags::FIXED | MapFlags::GROWSDOWN;
    let request = MapRequest::anonymous(at(600), PAGE_SIZE, RW, stack);
    w.machine.space.change().mmap(&request).unwrap();
    w.log.taken();
    w.machine.store(at(598), 1).unwrap();
    assert_eq!(w.log.taken()[0], "mapped 598..601 prot 3");
}

#[test]
fn the_end_is_told_before_anything_goes() {
    let w = Watched::new();
    w.map(0, 1, RW).unwrap();
    w.log.taken();
    w.machine.space.exit().unwrap();
    assert_eq!(w.log.taken(), ["released"]);
}

/// Descriptor 5 is a file, every other one closed.
struct Program<'a>(&'a Watched, Arc<dyn Backing>);

impl Caller for Program<'_> {
    fn space(&self) -> &SharedSpace {
        &self.0.machine.space
    }
    fn pid(&self) -> i32 {
        1
    }
    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        if fd == 5 { Ok(Arc::clone(&self.1)) } else { Err(Errno::EBADF) }
    }
    fn install(&self, _: crate::userfault::Served, _: i32) -> Result<i32, Errno> {
        Err(Errno::EMFILE)
    }
    fn policy(&self) -> Option<Policy> {
        None
    }
    fn set_policy(&self, _: Option<Policy>) {}
}

#[test]
fn calls_that_fail_are_told_of_as_well() {
    let w = Watched::new();
    let program = Program(&w, file(&w.machine.frames));
    let call = |number, args| serve(&program, number, args).unwrap();
    let (mmap, munmap) = (9, 11);
    assert!(call(mmap, [BASE, PAGE_SIZE, 1, 0x12, 9, 0]).is_err());
    assert_eq!(w.log.taken(), ["descriptor 9 0x12"]);
    assert!(call(mmap, [BASE, PAGE_SIZE, 1, 0x12, 5, 0]).is_ok());
    assert_eq!(w.log.taken(), ["descriptor 5 0x12", "mapped 0..1 prot 1", "file mapped 0..1"]);
    assert!(call(munmap, [1, 0, 0, 0, 0, 0]).is_err());
    assert_eq!(w.log.taken(), ["unmap called 0x1"]);
}
