//! Each operation on memory that is swapped out, with each failure of each thing that it needs, one by one and from
//! one on: a read and a write of the store, a place, a frame. It may be refused then, or the program be killed; but
//! nothing is lost, and when there is no failure any more all goes as if there never was one.

use std::num::NonZeroU64;

use super::failure::Faulty;
use super::*;
use crate::failure::FailPoint;

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Place,
    Frame,
}

const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Place, Kind::Frame];

/// Pages of the process's own, and from there on of shared memory; all are swapped out.
const OWN: u64 = 24;
const PAGES: u64 = 32;

struct Fixture {
    m: SoftwareMachine,
    store: Arc<Faulty>,
}

/// What a call was told.
type Answer = Result<(), String>;

fn called<T>(result: CallResult<T>) -> Answer {
    match result {
        Ok(_) => Ok(()),
        Err(CallError::Errno(Errno::ENOMEM | Errno::EAGAIN | Errno::EFAULT | Errno::EIO)) => Ok(()),
        Err(error) => Err(format!("{error:?}")),
    }
}

fn touched<T>(result: Result<T, AccessError>) -> Answer {
    match result {
        Ok(_) | Err(AccessError::Fault(Fault::NoBacking(_) | Fault::OutOfMemory(_))) => Ok(()),
        Err(error) => Err(format!("{error:?}")),
    }
}

type Operation = (&'static str, fn(&Fixture) -> Answer);

/// None of them changes a byte.
const OPERATIONS: [Operation; 15] = [
    ("a read", |f| touched(f.m.load(page(3)))),
    ("a write", |f| touched(f.m.store(page(3), 103))),
    ("reads of all, one after the other", |f| {
        (0..PAGES).try_for_each(|i| touched(f.m.load(page(i))))
    }),
    ("writes of all", |f| {
        (0..PAGES).rev().try_for_each(|i| touched(f.m.store(page(i), 100 + i as u8)))
    }),
    ("the host reads", |f| touched(f.m.space.read(page(0), &mut [0; 32 * 4096]))),
    ("the host writes", |f| {
        (0..PAGES).try_for_each(|i| touched(f.m.space.write(page(i), &[100 + i as u8])))
    }),
    ("fork, and the child writes", |f| {
        let forked = f.m.space.change().fork(Vcpus::Running);
        let child = match forked {
            Ok(child) => child,
            Err(error) => return called(Err::<(), _>(error)),
        };
        let answer = (0..OWN).try_for_each(|i| touched(child.fault(page(i), AccessKind::Write)));
        child.exit().unwrap();
        answer
    }),
    ("WillNeed", |f| called(f.madvise(0, PAGES, Advice::WillNeed))),
    ("PopulateRead", |f| called(f.madvise(0, PAGES, Advice::PopulateRead))),
    ("PopulateWrite", |f| called(f.madvise(0, PAGES, Advice::PopulateWrite))),
    ("all in, and out again", |f| {
        (0..PAGES).try_for_each(|i| touched(f.m.store(page(i), 100 + i as u8)))?;
        called(f.madvise(0, PAGES, Advice::PageOut))
    }),
    ("in and out again, one by one", |f| {
        (0..PAGES).step_by(3).try_for_each(|i| {
            touched(f.m.store(page(i), 100 + i as u8))?;
            called(f.madvise(i, 1, Advice::PageOut))
        })
    }),
    ("all in, and reclaimed", |f| {
        (0..PAGES).try_for_each(|i| touched(f.m.store(page(i), 100 + i as u8)))?;
        let system = Arc::clone(f.m.space.look().system());
        (0..4).try_for_each(|_| system.swap_out_old().map(drop).map_err(|e| format!("{e:?}")))
    }),
    ("mlock, munlock", |f| {
        called(f.m.space.change().mlock2(page(0), PAGES * PAGE_SIZE, 0))?;
        called(f.m.space.change().munlock(page(0), PAGES * PAGE_SIZE))
    }),
    ("there and back", |f| {
        let go = |from, to| remap(&f.m, from, 8, 8, Some(to));
        if let Err(error) = go(4, 2000) {
            return called(Err::<(), _>(error));
        }
        go(2000, 4).map(drop).map_err(|error| format!("{error:?}"))
    }),
];

impl Fixture {
    fn new() -> Self {
        let store = Faulty::new();
        let m = stored(1024, Box::new(Arc::clone(&store)));
        let system = Arc::clone(m.space.look().system());
        // The usual read-ahead.
        system.sysctl.set_fault_ahead(64);
        map_at(&m, 0, OWN, RW).unwrap();
        shared::map_shared(&m, OWN, PAGES - OWN);
        let f = Fixture { m, store };
        fill(&f.m, 0..PAGES);
        page_out(&f.m, 0, PAGES);
        audited(&[&f.m]);
        f
    }

    fn madvise(&self, at: u64, pages: u64, advice: Advice) -> CallResult<()> {
        self.m.space.change().madvise(page(at), pages * PAGE_SIZE, advice as i32)
    }

    fn with_point<T>(&self, kind: Kind, then: impl FnOnce(&FailPoint) -> T) -> T {
        match kind {
            Kind::Read => then(&self.store.reads),
            Kind::Write => then(&self.store.writes),
            Kind::Place => then(&self.m.space.look().system().swap().unwrap().failures),
            Kind::Frame => then(self.m.frames.failures()),
        }
    }

    /// All bytes are there, and nothing is left at the end.
    fn end(self) -> Result<(), String> {
        audited(&[&self.m]);
        for i in 0..PAGES {
            let found = self.m.load(page(i)).map_err(|error| format!("page {i}: {error:?}"))?;
            if found != 100 + i as u8 {
                return Err(format!("page {i} is {found}"));
            }
        }
        end(vec![self.m], vec![]);
        Ok(())
    }
}

#[test]
#[cfg_attr(miri, ignore = "a thousand spaces take hours")]
fn nothing_is_lost_by_any_failure_of_any_operation_on_what_is_swapped_out() {
    let (mut failures, mut wrong) = ([0; KINDS.len()], Vec::new());
    for (name, operation) in OPERATIONS {
        for (kind, failures) in KINDS.into_iter().zip(&mut failures) {
            let f = Fixture::new();
            f.with_point(kind, FailPoint::watch);
            operation(&f).unwrap();
            let count = f.with_point(kind, FailPoint::stop);
            f.end().unwrap();
            *failures += count;
            for nth in (1..=count).filter_map(NonZeroU64::new) {
                for fail in [FailPoint::refuse, FailPoint::refuse_from] {
                    let f = Fixture::new();
                    f.with_point(kind, |point| fail(point, nth));
                    let told = operation(&f);
                    f.with_point(kind, FailPoint::stop);
                    audited(&[&f.m]);
                    // Now it works.
                    let end = told.and_then(|()| operation(&f)).and_then(|()| f.end());
                    if let Err(what) = end {
                        wrong.push(format!("{name}: {kind:?} {nth} of {count}: {what}"));
                    }
                }
            }
        }
    }
    println!("{KINDS:?}: {failures:?} failures");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(failures.iter().all(|&count| count > 10), "{failures:?}");
}
