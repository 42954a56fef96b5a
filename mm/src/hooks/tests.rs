//! Each hook: that it is called, in which order and with what; and that a veto changes nothing.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::*;
use crate::addr::PAGE_SIZE;
use crate::backing::{Backing, BackingName, FileMode, OpenFile, SharedMemory};
use crate::calls::{Caller, serve};
use crate::error::{CallError, CallResult};
use crate::inspect::{audit, maps_text};
use crate::phys::Frames;
use crate::replay::SoftwareMachine;
use crate::space::{MapRequest, RemapRequest, SharedSpace, Vcpus};
use crate::vma::limits::Limits;
use crate::vma::policy::Policy;
use crate::vma::{MapType, Userfault};

const BASE: u64 = 0x1_0000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Notes what it is told as text, pages counted from [`BASE`].
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, line: fmt::Arguments<'_>) {
        self.0.lock().unwrap().push(line.to_string());
    }

    /// What it was told since the last time.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn pages(range: PageRange) -> String {
    let page = |addr: VirtAddr| addr.get().wrapping_sub(BASE) / PAGE_SIZE;
    format!("{}..{}", page(range.start()), page(range.end()))
}

impl Observer for Log {
    fn descriptor_mapped(&self, fd: i32, flags: MapFlags) {
        self.note(format_args!("descriptor {fd} {:#x}", flags.bits()));
    }
    fn unmap_called(&self, addr: VirtAddr) {
        self.note(format_args!("unmap called {addr}"));
    }
    fn mapped(&self, vma: &Vma) {
        let (range, prot) = (pages(vma.range()), vma.flags.prot().bits());
        self.note(format_args!("mapped {range} prot {prot}"));
    }
    fn file_mapped(&self, vma: &Vma) {
        self.note(format_args!("file mapped {}", pages(vma.range())));
    }
    fn file_unmapped(&self, vma: &Vma, part: PageRange) {
        self.note(format_args!("file unmapped {} of {}", pages(part), pages(vma.range())));
    }
    fn invalidating(&self, range: PageRange, why: Invalidation) {
        self.note(format_args!("invalidating {} {why:?}", pages(range)));
    }
    fn invalidated(&self, range: PageRange, why: Invalidation) {
        self.note(format_args!("invalidated {} {why:?}", pages(range)));
    }
    fn unmapped(&self, range: PageRange) {
        self.note(format_args!("unmapped {}", pages(range)));
    }
    fn faulted(&self, addr: VirtAddr, kind: AccessKind) {
        let page = (addr.get() - BASE) / PAGE_SIZE;
        self.note(format_args!("faulted {page} {kind:?}"));
    }
    fn released(&self) {
        self.note(format_args!("released"));
    }
}

/// What a veto is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vetoed {
    Nothing,
    Map,
    Address,
    Protect,
    Commit,
}

/// Notes what it is asked, and vetoes one thing.
#[derive(Clone, Debug)]
struct Censor {
    vetoed: Arc<Mutex<Vetoed>>,
    log: Log,
}

impl Censor {
    fn answer(&self, about: Vetoed, line: fmt::Arguments<'_>) -> Result<(), Errno> {
        self.log.note(line);
        if *self.vetoed.lock().unwrap() == about { Err(Errno::EKEYREJECTED) } else { Ok(()) }
    }
}

impl Guardian for Censor {
    fn may_map(&self, request: &MapRequest) -> Result<(), Errno> {
        let (len, prot) = (request.len / PAGE_SIZE, request.prot.bits());
        self.answer(Vetoed::Map, format_args!("may map {len} prot {prot}"))
    }
    fn may_use_address(&self, addr: VirtAddr) -> Result<(), Errno> {
        let page = addr.get().wrapping_sub(BASE) / PAGE_SIZE;
        self.answer(Vetoed::Address, format_args!("may use {page}"))
    }
    fn may_protect(&self, vma: &Vma, asked: Prot, prot: Prot) -> Result<(), Errno> {
        let (range, asked, prot) = (pages(vma.range()), asked.bits(), prot.bits());
        self.answer(Vetoed::Protect, format_args!("may protect {range} {asked} {prot}"))
    }
    fn may_commit(&self, pages: u64) -> Result<(), Errno> {
        self.answer(Vetoed::Commit, format_args!("may commit {pages}"))
    }
}

struct Watched {
    machine: SoftwareMachine,
    log: Log,
    asked: Log,
    vetoed: Arc<Mutex<Vetoed>>,
}

impl Watched {
    fn new() -> Self {
        let (log, asked) = (Log::default(), Log::default());
        let vetoed = Arc::new(Mutex::new(Vetoed::Nothing));
        let censor = Censor { vetoed: Arc::clone(&vetoed), log: asked.clone() };
        let machine = SoftwareMachine::prepared(4096, Limits::default(), |system| {
            system.set_observer(Box::new(log.clone()));
            system.set_guardian(Box::new(censor));
        });
        Watched { machine: machine.unwrap(), log, asked, vetoed }
    }

    fn map(&self, page: u64, count: u64, prot: Prot) -> CallResult<VirtAddr> {
        let len = count * PAGE_SIZE;
        let request = MapRequest::anonymous(at(page), len, prot, MapFlags::FIXED);
        self.machine.space.change().mmap(&request)
    }

    fn map_file(&self, page: u64, count: u64, file: &Arc<dyn Backing>) {
        let request = MapRequest {
            addr: at(page),
            len: count * PAGE_SIZE,
            prot: Prot::READ | Prot::WRITE,
            flags: MapFlags::FIXED | MapType::Private.into(),
            file: Some(Arc::clone(file)),
            offset: 0,
        };
        self.machine.space.change().mmap(&request).unwrap();
    }

    /// Vetoes one thing, makes a call that must fail with that veto and change nothing, and allows
    /// everything again.
    fn refused<T: fmt::Debug>(&self, about: Vetoed, call: impl FnOnce() -> CallResult<T>) {
        let before = self.state();
        *self.vetoed.lock().unwrap() = about;
        match call() {
            Err(CallError::Errno(Errno::EKEYREJECTED)) => {}
            other => panic!("{about:?}: {other:?}"),
        }
        *self.vetoed.lock().unwrap() = Vetoed::Nothing;
        assert_eq!(self.state(), before, "{about:?}");
    }

    /// All that a veto could have changed; the audit must pass.
    fn state(&self) -> (String, u64, String) {
        let space = self.machine.space.look();
        audit(&space).unwrap();
        let account = format!("{:?} {:?}", space.account(), space.layout());
        (maps_text(&space), space.system().committed(), account)
    }
}

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(BASE + page * PAGE_SIZE)
}

fn file(frames: &Arc<Frames>) -> Arc<dyn Backing> {
    let name = BackingName { path: "/file".to_owned(), ..BackingName::default() };
    let object = SharedMemory::file(Arc::clone(frames), 16, name);
    Arc::new(OpenFile::new(Arc::new(object), FileMode::READ | FileMode::WRITE))
}

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
        "file unmapped 0..2 of 0..2",
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
    fn install(&self, _: Arc<Userfault>, _: i32) -> Result<i32, Errno> {
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

#[test]
fn a_map_is_asked_for_then_its_place_then_its_pages() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    assert_eq!(w.asked.taken(), ["may map 2 prot 3", "may use 0", "may commit 2"]);
    // Before anything is looked at: the length is wrong.
    assert!(w.map(0, 0, RW).is_err());
    assert_eq!(w.asked.taken(), ["may map 0 prot 3"]);
    for about in [Vetoed::Map, Vetoed::Address, Vetoed::Commit] {
        w.refused(about, || w.map(8, 2, RW));
        // In place of all of a mapping: it stays.
        w.refused(about, || w.map(0, 3, RW));
    }
    w.map(8, 2, Prot::READ).unwrap();
}

#[test]
fn a_change_of_permissions_is_asked_for_vma_by_vma() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(2, 2, Prot::READ).unwrap();
    w.asked.taken();
    let protect = |page, prot| w.machine.space.change().mprotect(at(page), 2 * PAGE_SIZE, prot);
    w.refused(Vetoed::Protect, || protect(0, Prot::empty()));
    w.refused(Vetoed::Commit, || protect(2, RW));
    w.asked.taken();
    w.machine.space.change().modes_mut().personality = 0x40_0000;
    protect(1, Prot::READ).unwrap();
    assert_eq!(w.asked.taken(), ["may protect 0..2 1 5", "may protect 2..4 1 5"]);
}

#[test]
fn growth_and_moves_ask_for_their_place_and_for_what_is_more() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(2, 1, Prot::READ).unwrap();
    w.asked.taken();
    let grow = |pages: u64| {
        w.machine.space.change().mremap(&RemapRequest {
            addr: at(0),
            old_len: 2 * PAGE_SIZE,
            new_len: pages * PAGE_SIZE,
            flags: 1,
            new_addr: VirtAddr::ZERO,
        })
    };
    w.refused(Vetoed::Address, || grow(4));
    w.refused(Vetoed::Commit, || grow(4));
    w.asked.taken();
    grow(4).unwrap();
    let asked = w.asked.taken();
    assert!(asked[0].starts_with("may use ") && asked[1..] == ["may commit 2"], "{asked:?}");
}

#[test]
fn the_heap_stays_where_it_is_when_it_may_not_grow() {
    let w = Watched::new();
    w.machine.space.change().set_brk(at(0), at(0));
    for about in [Vetoed::Address, Vetoed::Commit] {
        let before = w.state();
        *w.vetoed.lock().unwrap() = about;
        assert_eq!(w.machine.space.change().brk(at(2)).unwrap(), at(0), "brk has no errno");
        *w.vetoed.lock().unwrap() = Vetoed::Nothing;
        assert_eq!(w.state(), before);
    }
    w.asked.taken();
    assert_eq!(w.machine.space.change().brk(at(2)).unwrap(), at(2));
    assert_eq!(w.asked.taken(), ["may use 0", "may commit 2"]);
}

#[test]
fn a_fork_that_may_not_be_promised_its_memory_leaves_nothing() {
    let w = Watched::new();
    w.map(0, 2, RW).unwrap();
    w.map(4, 2, RW).unwrap();
    let frames = w.machine.frames.stats();
    w.refused(Vetoed::Commit, || w.machine.space.change().fork(Vcpus::Running));
    assert_eq!(w.machine.frames.stats().tables, frames.tables);
    w.machine.space.change().fork(Vcpus::Running).unwrap().exit().unwrap();
}

#[test]
fn a_stack_that_may_not_grow_is_a_signal_and_nothing_has_changed() {
    let w = Watched::new();
    let stack = MapFlags::FIXED | MapFlags::GROWSDOWN;
    let request = MapRequest::anonymous(at(600), PAGE_SIZE, RW, stack);
    w.machine.space.change().mmap(&request).unwrap();
    let before = w.state();
    *w.vetoed.lock().unwrap() = Vetoed::Commit;
    assert!(w.machine.store(at(598), 1).is_err());
    assert_eq!(w.state(), before);
}
