//! What several vCPUs in one space may see while one of them changes it. The sink asks, at the moment of the
//! flush: what was cached until then is what the others still use.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;
use crate::error::Broken;
use crate::paging::{FlushRequest, FlushSink, KernelHalf};
use crate::phys::{Frames, SoftwareMemory};

/// What is done at the next flush.
type Question = Box<dyn FnOnce(&FlushRequest) -> Result<(), Broken> + Send>;

/// Asks one question, at the next flush after it was set.
#[derive(Default)]
struct AskingSink(Mutex<Option<Question>>);

impl std::fmt::Debug for AskingSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AskingSink")
    }
}

impl AskingSink {
    fn ask(&self, question: impl FnOnce(&FlushRequest) -> Result<(), Broken> + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(question));
    }

    fn was_asked(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

impl FlushSink for AskingSink {
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
        let question = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        question.map_or(Ok(()), |ask| ask(request))
    }
}

struct Machine {
    first: Arc<SpaceUser>,
    sink: Arc<AskingSink>,
}

/// A space with two users, so that vCPUs may run while it changes; `pages` of it are mapped.
fn machine(pages: u64) -> (Machine, SpaceUser) {
    let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(1024))));
    let sink = Arc::new(AskingSink::default());
    let system = Arc::new(System::new(frames, Box::new(Arc::clone(&sink)), KernelHalf::default()));
    let first = SpaceUser::new(AddressSpace::new(system, Limits::default()).unwrap());
    let second = first.share();
    let request = MapRequest::anonymous(page(0), pages * PAGE_SIZE, RW, MapFlags::FIXED);
    first.change().mmap(&request).unwrap();
    (Machine { first: Arc::new(first), sink }, second)
}

fn entry(space: &SharedSpace, index: u64) -> Entry {
    let space = space.look();
    let slot = space.table.slot(page(index)).unwrap();
    Entry::new(slot.load(Ordering::Relaxed))
}

fn byte(space: &SharedSpace, index: u64) -> u8 {
    let mut byte = [0];
    space.read(page(index), &mut byte).unwrap();
    byte[0]
}

/// Has both ended, and nothing left.
fn end(m: Machine, second: SpaceUser, child: Option<SharedSpace>) {
    if let Some(child) = &child {
        audit_all(&[&m.first.look(), &child.look()]).unwrap();
    } else {
        audit_all(&[&m.first.look()]).unwrap();
    }
    let frames = Arc::clone(m.first.look().system().frames());
    let system = Arc::clone(m.first.look().system());
    if let Some(child) = child {
        child.exit().unwrap();
    }
    second.put().unwrap();
    Arc::into_inner(m.first).unwrap().put().unwrap();
    system.free_retired().unwrap();
    assert_eq!(frames.stats().pages + frames.stats().tables, 0);
}

#[test]
fn a_copy_is_in_nobodys_reach_before_the_old_page_is_flushed() {
    let (m, second) = machine(4);
    for i in 0..4 {
        m.first.write(page(i), &[7]).unwrap();
    }
    let child = SharedSpace::new(m.first.change().fork(Vcpus::Running).unwrap());
    // In use by both.
    (0..4).for_each(|i| assert_eq!((byte(&m.first, i), byte(&child, i)), (7, 7)));
    let old: Vec<_> = (0..4).map(|i| entry(&m.first, i).frame()).collect();
    let space = Arc::clone(&m.first);
    let at_flush = old.clone();
    m.sink.ask(move |request| {
        let look = space.look();
        let seen = entry(&space, 1);
        assert!(!seen.is_present() && seen.frame() == at_flush[1], "{seen:?} at the flush");
        assert!(look.table.walk(page(1), AccessKind::Read).is_err());
        // Who only looks sees a page still; and it counts.
        assert_eq!(look.mincore(page(0), 4 * PAGE_SIZE).unwrap(), [1; 4]);
        assert_eq!(look.resident().own(), 4);
        assert!(request.leaves.iter().any(|run| Some(run.start) == at_flush[1]));
        assert_eq!(request.others, Others::In(look.table.root()));
        Ok(())
    });
    m.first.write(page(1), &[8]).unwrap();
    assert!(m.sink.was_asked());
    assert_ne!(entry(&m.first, 1).frame(), old[1]);
    assert_eq!((byte(&m.first, 1), byte(&child, 1)), (8, 7));
    end(m, second, Some(child));
}

#[test]
fn the_page_of_zeros_is_in_nobodys_reach_when_a_page_takes_its_place() {
    let (m, second) = machine(1);
    assert_eq!(byte(&m.first, 0), 0);
    let space = Arc::clone(&m.first);
    m.sink.ask(move |_| {
        assert!(space.look().table.walk(page(0), AccessKind::Read).is_err());
        Ok(())
    });
    m.first.write(page(0), &[8]).unwrap();
    assert!(m.sink.was_asked());
    assert_eq!(byte(&m.first, 0), 8);
    end(m, second, None);
}

#[test]
fn a_fault_on_a_page_that_is_being_replaced_waits_for_the_new_one() {
    let (m, second) = machine(1);
    m.first.write(page(0), &[7]).unwrap();
    let child = SharedSpace::new(m.first.change().fork(Vcpus::Running).unwrap());
    assert_eq!((byte(&m.first, 0), byte(&child, 0)), (7, 7));
    let space = Arc::clone(&m.first);
    let others: Arc<Mutex<Vec<JoinHandle<u8>>>> = Arc::default();
    let (begun, asked) = (Arc::clone(&others), Arc::clone(&m.first));
    m.sink.ask(move |_| {
        // Others that read and write meanwhile, as the host does for them: many tries.
        for offset in [0, 1] {
            let space = Arc::clone(&space);
            begun.lock().unwrap().push(thread::spawn(move || {
                if offset == 1 {
                    space.write(page(0).offset(1), &[9]).unwrap();
                }
                byte(&space, 0)
            }));
        }
        // As long as it may take them to do what they must not; if they wait, this only takes its time.
        let until = Instant::now() + Duration::from_millis(50);
        let through = || begun.lock().unwrap().iter().any(JoinHandle::is_finished);
        while !through() && Instant::now() < until {
            thread::yield_now();
        }
        assert!(entry(&asked, 0).is_leaving(), "somebody did not wait");
        Ok(())
    });
    m.first.write(page(0), &[8]).unwrap();
    let seen: Vec<_> =
        others.lock().unwrap().drain(..).map(|thread| thread.join().unwrap()).collect();
    // Never zeros, and no error. The write that faulted may still be to come.
    assert!(seen.len() == 2 && seen.iter().all(|seen| [7, 8].contains(seen)), "{seen:?}");
    assert_eq!(byte(&m.first, 0), 8);
    let mut written = [0; 2];
    m.first.read(page(0), &mut written).unwrap();
    assert_eq!((written, byte(&child, 0)), ([8, 9], 7));
    end(m, second, Some(child));
}

#[test]
fn a_copy_that_cannot_be_flushed_for_leaves_the_old_page() {
    let (m, second) = machine(1);
    m.first.write(page(0), &[7]).unwrap();
    let child = SharedSpace::new(m.first.change().fork(Vcpus::Running).unwrap());
    assert_eq!((byte(&m.first, 0), byte(&child, 0)), (7, 7));
    let before = entry(&m.first, 0);
    m.sink.ask(|_| Err(Broken::Invariant("no flush".into())));
    let refused = m.first.write(page(0), &[8]);
    assert!(matches!(refused, Err(AccessError::Broken(_))), "{refused:?}");
    assert_eq!((entry(&m.first, 0), byte(&m.first, 0)), (before, 7));
    m.first.write(page(0), &[8]).unwrap();
    end(m, second, Some(child));
}

#[test]
fn one_vcpu_alone_replaces_at_once() {
    let (m, second) = machine(1);
    m.first.write(page(0), &[7]).unwrap();
    let child = SharedSpace::new(m.first.change().fork(Vcpus::Running).unwrap());
    assert_eq!((byte(&m.first, 0), byte(&child, 0)), (7, 7));
    second.put().unwrap();
    let space = Arc::clone(&m.first);
    m.sink.ask(move |_| {
        assert!(entry(&space, 0).is_writable());
        Ok(())
    });
    m.first.write(page(0), &[8]).unwrap();
    assert!(m.sink.was_asked());
    let second = m.first.share();
    end(m, second, Some(child));
}

#[test]
fn what_a_fork_write_protects_stays_cached_and_its_entry_says_so() {
    let (m, second) = machine(1);
    m.first.write(page(0), &[7]).unwrap();
    let table = Arc::clone(&m.first.look().table);
    m.sink.ask(move |request| {
        assert_eq!((request.leaves.len(), request.writes.len()), (0, 1));
        // So who takes the page away meanwhile flushes it himself.
        let entry = Entry::new(table.slot(page(0)).unwrap().load(Ordering::Relaxed));
        assert!(entry.is_accessed() && !entry.is_writable());
        Ok(())
    });
    let child = SharedSpace::new(m.first.change().fork(Vcpus::Running).unwrap());
    assert!(m.sink.was_asked());
    end(m, second, Some(child));
}
