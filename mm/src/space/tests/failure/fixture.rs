//! The address space that operations fail on: a bit of everything, the same each time.
//!
//! ```text
//!   page    0    4    8   10   14   18   22     30   34     40   48    64    68    508   516   600  603
//!           │ rw │ r  │    │ rw │ rw │ rw │      │ rw │      │ rw │     │ r- │      │ rw  │     │heap│
//!           │ own│    │    │    │ sh │file│      │ own│      │ sh │     │    │      │ own │     │own │
//!           written             zero one      locked         memfd                 two tables
//!                                    object                                                   stack: top
//! ```

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::super::files::{Bytes, file_of};
use super::super::*;
use super::flush::FailingSink;
use crate::addr::Frame;
use crate::backing::{Backing, BackingName, FileBacking, SharedMemory};
use crate::failure::FailPoint;
use crate::hooks::Guardian;
use crate::paging::KernelHalf;
use crate::phys::{Contents, FrameKind, Frames, SoftwareMemory};
use crate::system::System;
use crate::userfault::Userfault;
use crate::vma::MapType;

/// What an operation may be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Room for VMAs.
    Vmas,
    /// A frame, for a page or a table, and all later ones: memory is used up, and whatever can be given up is not
    /// enough.
    Frame,
    /// One frame alone: if anything can be given up, that is enough.
    OneFrame,
    /// A node and a chain of the reverse map, for memory that is written for the first time or forked.
    Anon,
    /// A promise of memory (`security_vm_enough_memory`).
    Promise,
    /// A mapping, by the guardian (`security_mmap_file`).
    Map,
    /// An address, by the guardian (`security_mmap_addr`).
    Address,
    /// A flush, in each way that there is: what the sink says then is [`Broken`](crate::error::Broken).
    Flush,
}

impl Kind {
    pub(super) const ALL: [Kind; 8] = [
        Kind::Vmas,
        Kind::Frame,
        Kind::OneFrame,
        Kind::Anon,
        Kind::Promise,
        Kind::Map,
        Kind::Address,
        Kind::Flush,
    ];

    /// What the call says then; `None` where the machine ends.
    pub(super) fn errno(self) -> Option<Errno> {
        match self {
            Kind::Vmas | Kind::Frame | Kind::OneFrame | Kind::Anon | Kind::Promise => {
                Some(Errno::ENOMEM)
            }
            Kind::Map | Kind::Address => Some(Errno::EACCES),
            Kind::Flush => None,
        }
    }
}

/// A guardian that vetoes when told to.
#[derive(Debug, Default)]
struct Vetoes {
    promises: FailPoint,
    maps: FailPoint,
    addresses: FailPoint,
}

fn unless(refused: bool) -> Result<(), Errno> {
    if refused { Err(Errno::EACCES) } else { Ok(()) }
}

#[derive(Debug)]
struct Veto(Arc<Vetoes>);

impl Guardian for Veto {
    fn may_map(&self, _: &MapRequest) -> Result<(), Errno> {
        unless(self.0.maps.refuses())
    }

    fn may_use_address(&self, _: VirtAddr) -> Result<(), Errno> {
        unless(self.0.addresses.refuses())
    }

    fn may_commit(&self, _: u64) -> Result<(), Errno> {
        if self.0.promises.refuses() { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}

/// The space and what its maps are of.
pub(super) struct Fixture {
    pub(super) m: SoftwareMachine,
    pub(super) file: Arc<FileBacking<Bytes>>,
    pub(super) memfd: Arc<SharedMemory>,
    pub(super) uffd: Arc<Userfault>,
    /// Processes forked from it, which name the same pages.
    pub(super) children: RefCell<Vec<AddressSpace>>,
    /// Frames that somebody else has.
    taken: RefCell<Vec<Frame>>,
    pub(super) system: Arc<System>,
    pub(super) flushes: Arc<FailingSink>,
    vetoes: Arc<Vetoes>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(2048))));
        let flushes = Arc::new(FailingSink::default());
        let sink = Arc::clone(&flushes.counts);
        let kernel = KernelHalf::default();
        let mut system = System::new(Arc::clone(&frames), Box::new(Arc::clone(&flushes)), kernel);
        let vetoes = Arc::new(Vetoes::default());
        system.set_guardian(Box::new(Veto(Arc::clone(&vetoes))));
        let system = Arc::new(system);
        let space = AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap();
        let m = SoftwareMachine { space: SharedSpace::new(space), sink, frames };
        let name = BackingName { inode: 9, path: "/memfd:x".to_owned(), ..Default::default() };
        let memfd = SharedMemory::file(Arc::clone(&m.frames), 16, name);
        let memfd = Arc::new(memfd.promised_by_page(system.no_promise()));
        let (file, uffd, children) = (file_of(&m), Arc::default(), RefCell::default());
        let fixture = Fixture {
            m,
            file,
            memfd,
            uffd,
            children,
            taken: RefCell::default(),
            system,
            flushes,
            vetoes,
        };
        fixture.fill();
        fixture
    }

    fn fill(&self) {
        let m = &self.m;
        map_at(m, 0, 4, RW).unwrap();
        map_at(m, 4, 4, Prot::READ).unwrap();
        map_at(m, 10, 4, RW).unwrap();
        self.map(14, 4, MapType::Shared, None).unwrap();
        self.map(18, 4, MapType::Private, Some(self.file.clone())).unwrap();
        map_at(m, 30, 4, RW).unwrap();
        self.map(40, 8, MapType::Shared, Some(self.memfd.clone())).unwrap();
        map_at(m, 64, 4, Prot::READ).unwrap();
        map_at(m, 508, 8, RW).unwrap();
        for i in [0, 1, 2, 3, 14, 19, 30, 32, 40, 508, 509, 515] {
            m.store(page(i), 100 + (i % 100) as u8).unwrap();
        }
        m.load(page(18)).unwrap();
        let mut space = m.space.change();
        space.mlock2(page(30), 4 * PAGE_SIZE, 0).unwrap();
        space.set_start_brk(page(600));
        space.brk(page(603)).unwrap();
        space.map_stack(VirtAddr::new(STACK_TOP), 0, Exec::Forbidden).unwrap();
        drop(space);
        m.store(page(601), 7).unwrap();
        m.store(VirtAddr::new(STACK_TOP - 1), 8).unwrap();
    }

    /// Maps at a fixed page, readable and writable.
    pub(super) fn map(
        &self,
        at: u64,
        pages: u64,
        kind: MapType,
        file: Option<Arc<dyn Backing>>,
    ) -> CallResult<VirtAddr> {
        let flags = MapFlags::FIXED | kind.into();
        let flags = if file.is_none() { flags | MapFlags::ANONYMOUS } else { flags };
        self.m.space.change().mmap(&MapRequest {
            addr: page(at),
            len: pages * PAGE_SIZE,
            prot: RW,
            flags,
            file,
            offset: 0,
        })
    }

    /// Counts what `kind` of allocation is asked for; with `nth`, refuses that one.
    pub(super) fn watch(&self, kind: Kind, nth: Option<NonZeroU64>) {
        self.with_point(kind, |point| match nth {
            Some(nth) if kind == Kind::Frame => point.refuse_from(nth),
            Some(nth) => point.refuse(nth),
            None => point.watch(),
        });
    }

    /// How many there were.
    pub(super) fn stop(&self, kind: Kind) -> u64 {
        self.with_point(kind, FailPoint::stop)
    }

    fn with_point<T>(&self, kind: Kind, then: impl FnOnce(&FailPoint) -> T) -> T {
        match kind {
            Kind::Vmas => then(&self.m.space.look().system().vma_failures),
            Kind::Frame | Kind::OneFrame => then(self.m.frames.failures()),
            Kind::Anon => then(&self.m.space.look().system().anon().failures),
            Kind::Promise => then(&self.vetoes.promises),
            Kind::Map => then(&self.vetoes.maps),
            Kind::Address => then(&self.vetoes.addresses),
            Kind::Flush => then(&self.flushes.point),
        }
    }

    /// Forks a child that stays, and whose pages are the parent's.
    pub(super) fn keep_child(&self) {
        let child = self.m.space.change().fork(Vcpus::Running).unwrap();
        self.children.borrow_mut().push(child);
    }

    /// Takes all the memory that is left.
    pub(super) fn use_up(&self) {
        let all = || self.m.frames.alloc(FrameKind::Anonymous, Contents::Any).ok();
        self.taken.borrow_mut().extend(std::iter::from_fn(all));
    }

    /// Checks all spaces, and the counts of all frames.
    pub(super) fn audit(&self) -> Result<(), String> {
        let (space, children) = (self.m.space.look(), self.children.borrow());
        let all: Vec<&AddressSpace> = [&*space].into_iter().chain(children.iter()).collect();
        audit_all(&all)
    }

    /// Ends the space: not a frame may be left, nor a promise.
    pub(super) fn end(self) {
        let Fixture { m, file, memfd, system, children, taken, .. } = self;
        taken.into_inner().into_iter().for_each(|frame| m.frames.put(frame).unwrap());
        children.into_inner().into_iter().for_each(|child| child.exit().unwrap());
        m.space.exit().unwrap();
        drop((file, memfd));
        system.free_retired().unwrap();
        let stats = m.frames.stats();
        assert_eq!((stats.pages, stats.tables), (0, 0), "frames are left after the end");
        assert_eq!(system.committed(), 0, "promises are left after the end");
        assert_eq!(system.anon().nodes(), 0, "the reverse map is not empty after the end");
    }
}

/// Where the stack ends.
pub(super) const STACK_TOP: u64 = 0x7fff_ffff_f000;
