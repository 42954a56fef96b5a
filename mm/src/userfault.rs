//! A userfaultfd(2) as address spaces know it: what it was asked to be, and whom they tell (Linux's `userfaultfd_ctx`).
//!
//! ```text
//!   vCPU, or a call's copy ── fault ── ForHandler ── Handler::ask, under the space's lock ── Waiting::wait, under none
//!                               ^                                                               │
//!                               └─────────────────────── again <──── Handler::wake <────────────┘
//!   who serves it   reads what was asked ── UFFDIO_COPY and its kin change the space, alone in it ── wake
//! ```
//!
//! Whether a fault is to be told is looked at under the same hold of the space's lock under which it is told; who serves
//! faults changes entries with the lock exclusively, and wakes afterwards. So none is told too late to be woken.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;

use crate::addr::{PageRange, VirtAddr};
use crate::error::Errno;
use crate::paging::AccessKind;
use crate::space::{SpaceHolder, SpaceUser};

bitflags! {
    /// What `UFFDIO_API` can ask for (`UFFD_FEATURE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u64 {
        /// Writes of what is protected are told.
        const PAGEFAULT_FLAG_WP = 1;
        /// fork(2) is told, and the child's memory is watched as well.
        const EVENT_FORK = 1 << 1;
        /// mremap(2) is told, and what was moved is watched as before.
        const EVENT_REMAP = 1 << 2;
        /// `MADV_DONTNEED` and its kin are told.
        const EVENT_REMOVE = 1 << 3;
        /// Pages of the pool of huge ones can be missing.
        const MISSING_HUGETLBFS = 1 << 4;
        /// Pages of shared memory can be missing.
        const MISSING_SHMEM = 1 << 5;
        /// munmap(2) is told.
        const EVENT_UNMAP = 1 << 6;
        /// Nothing is told: what would be is a `SIGBUS`.
        const SIGBUS = 1 << 7;
        /// It is said which task's fault it is.
        const THREAD_ID = 1 << 8;
        /// Huge pages of the pool that are there, but not mapped.
        const MINOR_HUGETLBFS = 1 << 9;
        /// The same of shared memory.
        const MINOR_SHMEM = 1 << 10;
        /// The address is told to the byte, not to the page.
        const EXACT_ADDRESS = 1 << 11;
        /// Huge pages of the pool and shared memory can be write-protected.
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Also anonymous memory where no page is.
        const WP_UNPOPULATED = 1 << 13;
        /// `UFFDIO_POISON`.
        const POISON = 1 << 14;
        /// A write of what is protected is not told, but ends the protection.
        const WP_ASYNC = 1 << 15;
        /// `UFFDIO_MOVE`.
        const MOVE = 1 << 16;
    }
}

/// Why a fault is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There is no page.
    Missing,
    /// There is one, but not mapped (a minor fault).
    Unmapped,
    /// A page that is write-protected is written.
    Protected,
}

/// A fault that is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Where, to the byte.
    pub addr: VirtAddr,
    /// The page, as it is told: of the pool a huge one's first byte.
    pub page: VirtAddr,
    /// What the access was.
    pub kind: AccessKind,
    /// Why.
    pub reason: Reason,
}

impl Asked {
    /// The address that is told, and that wakes.
    #[must_use]
    pub fn told_at(&self, features: Features) -> VirtAddr {
        if features.contains(Features::EXACT_ADDRESS) { self.addr } else { self.page }
    }
}

/// What else is told of an address space, if that was asked for.
#[derive(Clone, Debug)]
pub enum Event {
    /// It was forked: the child's memory is watched by this one.
    Fork(Arc<Userfault>),
    /// Memory was moved: from, to, bytes.
    Remap(VirtAddr, VirtAddr, u64),
    /// Pages will be dropped.
    Remove(PageRange),
    /// Memory was unmapped.
    Unmap(PageRange),
}

/// On whose behalf memory is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accessor {
    /// The program's: what it waits for can be interrupted, and is tried again.
    Program,
    /// A call of its: it waits until that is done, or the process is to die.
    Call,
    /// Somebody else's, who does not wait.
    Visitor,
}

/// A wait that came to nothing: there is something else to be done first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenUp;

/// A wait that begins: what it is for has been told.
pub trait Waiting {
    /// Waits until that is done. No lock is held.
    ///
    /// # Errors
    /// [`GivenUp`]: a signal came, or for a call one that kills; an event has not been read, and will not be.
    fn wait(self: Box<Self>, accessor: Accessor) -> Result<(), GivenUp>;
}

/// Who is told, and has others tell it. None of this waits.
pub trait Handler: Any + Debug + Send + Sync {
    /// Tells a fault. The space is locked.
    fn ask(&self, asked: Asked, features: Features) -> Box<dyn Waiting>;

    /// Has those that wait for faults in a range try again.
    fn wake(&self, range: PageRange);

    /// Tells an event. No lock is held.
    fn tell(&self, event: Event) -> Box<dyn Waiting>;

    /// The same for the memory of a child (`UFFD_FEATURE_EVENT_FORK`).
    ///
    /// # Errors
    /// `ENOMEM` there can be no more.
    fn of_child(&self) -> Result<Arc<dyn Handler>, Errno>;

    /// Says which memory it is about: a child's is there only after it has been told.
    fn set_space(&self, space: SpaceHolder);
}

/// A userfaultfd. Two VMAs that are registered with different ones do not merge.
#[derive(Debug, Default)]
pub struct Userfault {
    /// `UFFD_FEATURE_*` that were agreed on, and [`Self::INITIALIZED`] once they were.
    features: AtomicU64,
    served: Served,
    /// Nobody has it open any more.
    released: AtomicBool,
    /// How many changes of the space are under way that are told (`mmap_changing`).
    changing: AtomicU32,
    handler: Option<Arc<dyn Handler>>,
}

/// Whose faults are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Served {
    /// All.
    #[default]
    All,
    /// The program's own accesses, not calls' (`UFFD_USER_MODE_ONLY`).
    Program,
}

impl Userfault {
    /// `UFFD_FEATURE_INITIALIZED`, a bit that no feature has.
    const INITIALIZED: u64 = 1 << 31;

    /// One whose faults `handler` is told of. One by [`Default`] tells nobody: its memory faults as if it were not
    /// registered.
    #[must_use]
    pub fn new(served: Served, handler: Arc<dyn Handler>) -> Self {
        Userfault { served, handler: Some(handler), ..Userfault::default() }
    }

    /// One whose faults nobody is told of, though it serves these.
    #[must_use]
    pub fn unattended(served: Served) -> Self {
        Userfault { served, ..Userfault::default() }
    }

    /// Agrees on features (`UFFDIO_API`).
    ///
    /// # Errors
    /// `EINVAL` the second time.
    pub fn initialize(&self, features: Features) -> Result<(), Errno> {
        let agreed = features.bits() | Self::INITIALIZED;
        let first = self.features.compare_exchange(0, agreed, Ordering::Relaxed, Ordering::Relaxed);
        first.map(|_| ()).map_err(|_| Errno::EINVAL)
    }

    /// Whether features were agreed on.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.features.load(Ordering::Relaxed) != 0
    }

    /// Whether one of the features was agreed on.
    #[must_use]
    pub fn has(&self, feature: Features) -> bool {
        self.features().intersects(feature)
    }

    /// What was agreed on.
    #[must_use]
    pub fn features(&self) -> Features {
        Features::from_bits_truncate(self.features.load(Ordering::Relaxed))
    }

    /// Whose faults it serves.
    pub(crate) fn served(&self) -> Served {
        self.served
    }

    /// Who is told; nobody once it was [released](Self::release).
    pub(crate) fn handler(&self) -> Option<&Arc<dyn Handler>> {
        self.handler.as_ref().filter(|_| !self.released.load(Ordering::Acquire))
    }

    /// Who is told, as what it is.
    #[must_use]
    pub fn handler_as<H: Handler>(&self) -> Option<&H> {
        let handler: &dyn Any = self.handler.as_deref()?;
        handler.downcast_ref()
    }

    /// Whether faults are of no interest to anybody: there is nobody, and never was.
    pub(crate) fn is_unserved(&self) -> bool {
        self.handler.is_none() && !self.has(Features::SIGBUS)
    }

    /// Nobody is told any more. Its VMAs are to be unregistered then
    /// ([`AddressSpace::userfault_release`](crate::space::AddressSpace::userfault_release)), and who waits woken.
    pub fn release(&self) {
        self.released.store(true, Ordering::Release);
    }

    /// Has those that wait for faults in a range try again.
    pub(crate) fn wake(&self, range: PageRange) {
        if let Some(handler) = self.handler() {
            handler.wake(range);
        }
    }

    /// Whether a change that is told is under way: who serves faults has to read of it first.
    pub(crate) fn is_changing(&self) -> bool {
        self.changing.load(Ordering::Acquire) > 0
    }

    /// The same for a child's memory.
    ///
    /// # Errors
    /// `ENOMEM` there can be no more.
    pub(crate) fn of_child(&self) -> Result<Self, Errno> {
        let handler = match self.handler() {
            Some(handler) => Some(handler.of_child()?),
            None => None,
        };
        let features = AtomicU64::new(self.features.load(Ordering::Relaxed));
        Ok(Userfault { features, served: self.served, handler, ..Userfault::default() })
    }
}

/// An event that is to be told when no lock is held. Until it has been read, who serves faults is told `EAGAIN`.
#[derive(Debug)]
#[must_use = "it is to be told"]
pub(crate) struct ToTell {
    uffd: Arc<Userfault>,
    event: Event,
}

impl ToTell {
    /// Announces an event.
    pub(crate) fn new(uffd: &Arc<Userfault>, event: Event) -> Self {
        uffd.changing.fetch_add(1, Ordering::AcqRel);
        ToTell { uffd: Arc::clone(uffd), event }
    }

    /// The child's userfaultfd, if it is the fork of this one's memory.
    pub(crate) fn fork_of(&self, uffd: &Arc<Userfault>) -> Option<Arc<Userfault>> {
        match &self.event {
            Event::Fork(child) if Arc::ptr_eq(&self.uffd, uffd) => Some(Arc::clone(child)),
            _ => None,
        }
    }

    /// Tells it, and waits until it has been read, or nobody will. No lock is held.
    pub(crate) fn tell(self) {
        let waited = match self.uffd.handler() {
            Some(handler) => handler.tell(self.event.clone()).wait(Accessor::Call),
            None => Err(GivenUp),
        };
        if let (Err(GivenUp), Event::Fork(child)) = (waited, &self.event) {
            // Nobody has it.
            child.release();
        }
    }

    /// The same of a fork, once the child's memory is there.
    pub(crate) fn tell_of_child(self, space: &SpaceUser) {
        if let Event::Fork(child) = &self.event
            && let Some(handler) = child.handler()
        {
            handler.set_space(space.hold());
        }
        self.tell();
    }
}

impl Drop for ToTell {
    fn drop(&mut self) {
        self.uffd.changing.fetch_sub(1, Ordering::AcqRel);
    }
}
