//! A page is written and unmapped just when its bytes have been read.

use super::*;
use crate::addr::{Frame, FrameRun, GuestPhysAddr};
use crate::error::Broken;
use crate::phys::{HostPages, PhysMemory, Words};

type Then = Box<dyn FnOnce() + Send>;

/// Memory that has something done once, when bytes have been read.
struct Hooked {
    memory: SoftwareMemory,
    then: Mutex<Option<Then>>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(f)
    }
}

impl PhysMemory for Hooked {
    fn read(&self, from: GuestPhysAddr, into: &mut [u8]) {
        self.memory.read(from, into);
        let then = self.then.lock().unwrap().take();
        then.into_iter().for_each(|then| then());
    }

    fn frames(&self) -> u64 {
        self.memory.frames()
    }

    fn grow(&self) -> Result<u64, Broken> {
        self.memory.grow()
    }

    fn words(&self, frame: Frame) -> &Words {
        self.memory.words(frame)
    }

    fn write(&self, to: GuestPhysAddr, from: &[u8]) {
        self.memory.write(to, from);
    }

    fn zero(&self, frame: Frame) {
        self.memory.zero(frame);
    }

    fn copy(&self, from: Frame, to: Frame) {
        self.memory.copy(from, to);
    }

    fn populate(&self, run: FrameRun) {
        self.memory.populate(run);
    }

    fn host_pages(&self) -> HostPages {
        self.memory.host_pages()
    }

    fn release(&self, run: FrameRun) -> Result<(), Broken> {
        self.memory.release(run)
    }

    fn release_parts(&self, block: FrameRun, parts: &[FrameRun]) -> Result<(), Broken> {
        self.memory.release_parts(block, parts)
    }
}

#[test]
fn what_is_written_and_unmapped_as_it_is_taken_is_taken_again() {
    let memory = Arc::new(Hooked { memory: SoftwareMemory::new(1024), then: Mutex::default() });
    let frames = Frames::new(Arc::clone(&memory) as Arc<dyn PhysMemory>);
    let m = Arc::new(SoftwareMachine::on(frames, Limits::default(), |_| {}).unwrap());
    let store: Arc<Store> = Arc::default();
    let paged = pager(1, &store).open(&system(&m));
    map(&m, 0, &paged);
    m.store(page(0), 7).unwrap();
    let vcpu = Arc::clone(&m);
    *memory.then.lock().unwrap() = Some(Box::new(move || {
        vcpu.store(page(0), 8).unwrap();
        unmap(&vcpu, 0, 1).unwrap();
    }));
    paged.sync().unwrap();
    assert_eq!((store.byte(0), store.counts()), (Some(7), (1, 1)));
    paged.sync().unwrap();
    assert_eq!((store.byte(0), store.counts()), (Some(8), (1, 2)));
    end(Arc::into_inner(m).unwrap(), paged);
}
