//! Memory that is in use all the time goes too, before anybody is told that there is none.

use std::io;
use std::sync::{OnceLock, Weak};

use super::*;
use crate::addr::SwapSlot;
use crate::error::Broken;
use crate::paging::{FlushRequest, FlushSink, KernelHalf};
use crate::phys::{Frames, SoftwareMemory};

/// Pages that are in use.
const PAGES: u64 = 40;

/// When a vCPU touches its pages, over and over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    /// At each flush, those that are there: they are always young.
    Flushed,
    /// Before pages are written, as many times, all of them: they are back by then.
    Written(u64),
}

#[derive(Debug)]
struct Toucher {
    machine: OnceLock<Weak<SoftwareMachine>>,
    when: When,
    times: AtomicU64,
}

impl Toucher {
    fn touch(&self, those: impl Fn(Entry) -> bool) {
        let Some(m) = self.machine.get().and_then(Weak::upgrade) else { return };
        for at in (0..PAGES).map(page) {
            let entry = m.space.look().entry_at(at);
            if those(entry) {
                m.load(at).unwrap();
            }
        }
        self.times.fetch_add(1, Ordering::Relaxed);
    }
}

impl FlushSink for Toucher {
    fn flush(&self, _: &FlushRequest) -> Result<(), Broken> {
        if self.when == When::Flushed {
            self.touch(|entry| entry.frame().is_some());
        }
        Ok(())
    }
}

#[derive(Debug)]
struct TouchedStore(MemoryStore, Arc<Toucher>);

impl SwapStore for TouchedStore {
    fn slots(&self) -> u64 {
        self.0.slots()
    }

    fn write(&self, first: SwapSlot, pages: &[u8]) -> io::Result<()> {
        let times = self.1.times.load(Ordering::Relaxed);
        if matches!(self.1.when, When::Written(most) if times < most) {
            self.1.touch(|_| true);
        }
        self.0.write(first, pages)
    }

    fn read(&self, first: SwapSlot, pages: &mut [u8]) -> io::Result<()> {
        self.0.read(first, pages)
    }
}

/// All memory is in use, and a page more is written.
fn one_page_more(when: When) {
    let toucher = Arc::new(Toucher { machine: OnceLock::new(), when, times: AtomicU64::new(0) });
    let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(512))));
    let sink = Box::new(Arc::clone(&toucher));
    let mut system = System::new(Arc::clone(&frames), sink, KernelHalf::default());
    system.set_swap(Box::new(TouchedStore(MemoryStore::new(100), Arc::clone(&toucher))));
    system.sysctl.set_fault_ahead(1);
    let space = AddressSpace::new(Arc::new(system), Limits::default()).unwrap();
    let space = SharedSpace::new(space);
    let m = Arc::new(SoftwareMachine { space, sink: Arc::default(), frames });
    toucher.machine.set(Arc::downgrade(&m)).unwrap();
    map_at(&m, 0, PAGES + 1, RW).unwrap();
    fill(&m, 0..PAGES);
    let taken = use_up(&m, 0);
    m.store(page(PAGES), 9).unwrap();
    assert!(toucher.times.load(Ordering::Relaxed) > 0);
    assert_eq!((m.load(page(PAGES)).unwrap(), bytes(&m, 0..PAGES).len()), (9, 40));
    end(vec![Arc::into_inner(m).unwrap()], taken);
}

#[test]
fn pages_that_are_always_young_go_too() {
    one_page_more(When::Flushed);
}

#[test]
fn pages_that_come_back_before_they_are_written_are_tried_again() {
    one_page_more(When::Written(8));
}
