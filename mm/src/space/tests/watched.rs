//! A machine whose spaces are known to those who go through all of them in the background, and a process.

use super::*;
use crate::paging::KernelHalf;
use crate::phys::{Frames, SoftwareMemory};
use crate::replay::{CountingSink, access};

pub(super) struct Watched {
    pub(super) user: SpaceUser,
    pub(super) frames: Arc<Frames>,
    pub(super) system: Arc<System>,
    pub(super) sink: Arc<CountingSink>,
}

impl Watched {
    pub(super) fn new(frames: u64) -> Self {
        Self::prepared(frames, |_| {})
    }

    pub(super) fn prepared(frames: u64, prepare: impl FnOnce(&mut System)) -> Self {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(frames))));
        let sink = Arc::new(CountingSink::default());
        let out = Box::new(Arc::clone(&sink));
        let mut system = System::new(Arc::clone(&frames), out, KernelHalf::default());
        prepare(&mut system);
        system.sysctl.set_fault_ahead(1);
        system.enable_khugepaged();
        let system = Arc::new(system);
        let space = AddressSpace::new(Arc::clone(&system), Limits::default()).unwrap();
        Watched { user: SpaceUser::new(space), frames, system, sink }
    }

    pub(super) fn map(&self, at: u64, pages: u64) {
        let request = MapRequest::anonymous(page(at), pages * PAGE_SIZE, RW, MapFlags::FIXED);
        self.user.change().mmap(&request).unwrap();
    }

    /// Writes the first byte of a page as a vCPU does.
    pub(super) fn store(&self, at: u64, byte: u8) {
        store(&self.user, at, byte);
    }

    pub(super) fn load(&self, at: u64) -> u8 {
        load(&self.user, at)
    }

    pub(super) fn advise(&self, at: u64, pages: u64, advice: Advice) {
        self.user.change().madvise(page(at), pages * PAGE_SIZE, advice as i32).unwrap();
    }

    /// A process that has all it has.
    pub(super) fn fork(&self) -> SpaceUser {
        SpaceUser::new(self.user.change().fork(Vcpus::Running).unwrap())
    }

    pub(super) fn audited(&self, others: &[SpaceUser]) {
        let spaces: Vec<_> = [&self.user].into_iter().chain(others).map(|s| s.look()).collect();
        audit_all(&spaces.iter().map(|space| &**space).collect::<Vec<_>>()).unwrap();
    }

    pub(super) fn end(self, others: Vec<SpaceUser>) {
        self.audited(&others);
        self.user.put().unwrap();
        for user in others {
            user.put().unwrap();
        }
        self.system.free_retired().unwrap();
        assert_eq!((self.frames.stats().pages, self.frames.stats().tables), (0, 0));
    }
}

pub(super) fn store(user: &SpaceUser, at: u64, byte: u8) {
    access(user, page(at), AccessKind::Write).unwrap();
    user.write(page(at), &[byte]).unwrap();
}

pub(super) fn load(user: &SpaceUser, at: u64) -> u8 {
    let mut byte = [0];
    user.read(page(at), &mut byte).unwrap();
    byte[0]
}
