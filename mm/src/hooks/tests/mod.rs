//! Each hook: that it is called, in which order and with what; and that a veto changes nothing.

mod bounds;
mod guardian;
mod observer;

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
use crate::vma::MapType;
use crate::vma::limits::Limits;
use crate::vma::policy::Policy;

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
