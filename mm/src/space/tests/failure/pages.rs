//! Operations on pages that several processes name, on pages that came ahead of a touch, and on what an
//! object or a page table gives up: what each asks for is failed like the rest of the [`table`](super::table).

use super::table::{case, done, fork_case, touched};
use super::*;
use crate::backing::Backing;

/// Tables enough for a flush of them to be worth it at once: the 32nd part of half the memory.
const MANY_TABLES: u64 = 40;
/// More tables than an address space keeps for no use.
const TOO_MANY_TABLES: u64 = 420;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(of_two());
    all.extend(ahead());
    all.extend(used_up());
    all.extend(tables());
    all.extend(objects());
    all
}

fn fault(at: u64, kind: AccessKind) -> impl Fn(&Fixture) -> Answer {
    move |f| touched(f.m.space.fault(page(at), kind))
}

/// Others may run in the space from now on.
fn others_run(f: &Fixture) {
    f.m.space.look().users.store(2, Ordering::Relaxed);
}

fn of_two() -> Vec<Case> {
    let write = AccessKind::Write;
    let killed = [(Told::OutOfMemory, Leaves::Same)];
    let fewer = [(Told::OutOfMemory, Leaves::Same), (Told::Nothing, Leaves::Vmas)];
    vec![
        case("a write to a page that the other never used", fault(2, write))
            .after(Fixture::keep_child)
            .on(Kind::Frame, &fewer),
        case("a write to a page that the other uses", fault(2, write))
            .after(both_use)
            .on(Kind::Frame, &killed),
        case("a write to a page of two, others run", fault(2, write))
            .after(|f| {
                both_use(f);
                others_run(f);
            })
            .on(Kind::Frame, &killed),
        case("a write to pages of two, one after the other", fault(1, write))
            .after(|f| {
                both_use(f);
                f.m.store(page(0), 1).unwrap();
            })
            .on(Kind::Frame, &fewer),
        case("a write to pages of two, one after the other, others run", fault(1, write))
            .after(|f| {
                both_use(f);
                f.m.store(page(0), 1).unwrap();
                others_run(f);
            })
            .on(Kind::Frame, &fewer),
        case("a write to memory that was read, others run", fault(10, write))
            .after(|f| {
                assert_eq!(f.m.load(page(10)).unwrap(), 0);
                others_run(f);
            })
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &[(Told::OutOfMemory, Leaves::Unseen)]),
        case("mprotect of pages of two", |f| done(protect(&f.m, 0, 4, Prot::READ))).after(both_use),
        case("munmap of pages of two", |f| done(unmap(&f.m, 0, 4))).after(both_use),
    ]
}

/// A child that has looked at its pages.
fn both_use(f: &Fixture) {
    f.keep_child();
    for child in f.children.borrow().iter() {
        for i in 0..4 {
            assert_eq!(child.fault(page(i), AccessKind::Read).unwrap(), Resolved::Done);
        }
    }
}

fn ahead() -> Vec<Case> {
    let write = AccessKind::Write;
    // A page of its own reads as zeros as well as the page of zeros does.
    let settled = [(Told::Nothing, Leaves::Vmas)];
    let fewer = [(Told::OutOfMemory, Leaves::Same), (Told::Nothing, Leaves::Vmas)];
    vec![
        case("a write that goes on where the last one was", fault(11, write))
            .after(|f| f.m.store(page(10), 1).unwrap())
            .on(Kind::Frame, &fewer),
        case("a write that closes the oldest window", fault(108, write))
            .after(|f| {
                read_ahead(f);
                map_at(&f.m, 100, 100, RW).unwrap();
                for at in (120..190).step_by(10) {
                    f.m.store(page(at), 1).unwrap();
                    f.m.store(page(at + 1), 1).unwrap();
                }
                f.m.store(page(107), 1).unwrap();
            })
            .on(Kind::Frame, &fewer),
        case("madvise Free of what was read ahead", |f| {
            let mut space = f.m.space.change();
            done(space.madvise(page(10), 4 * PAGE_SIZE, Advice::Free as i32))
        })
        .after(read_ahead)
        .on(Kind::Frame, &settled),
        case("mremap of what was read ahead", |f| done(remap(&f.m, 10, 4, 4, Some(200)).map(drop)))
            .after(read_ahead)
            .on(Kind::Frame, &settled),
        case("madvise PopulateWrite in new tables", |f| {
            let mut space = f.m.space.change();
            done(space.madvise(page(2040), 16 * PAGE_SIZE, Advice::PopulateWrite as i32))
        })
        .after(|f| drop(map_at(&f.m, 2040, 16, RW)))
        .on(Kind::Anon, &[(Told::Refusal, Leaves::Part)])
        .on(Kind::Frame, &[(Told::Refusal, Leaves::Part), (Told::Nothing, Leaves::Vmas)]),
    ]
}

/// A page that came ahead, and of which zeros have been read since.
fn read_ahead(f: &Fixture) {
    f.m.store(page(10), 1).unwrap();
    f.m.store(page(11), 1).unwrap();
    assert_eq!(f.m.load(page(12)).unwrap(), 0);
}

/// There is no memory but what nobody would miss: that is given up, with one flush.
fn used_up() -> Vec<Case> {
    let killed = [(Told::OutOfMemory, Leaves::Otherwise)];
    let refused = [(Told::Refusal, Leaves::Otherwise)];
    vec![
        case("a write where memory is used up", fault(10, AccessKind::Write))
            .after(only_lazy)
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &killed),
        case("a read of shared memory where memory is used up", fault(200, AccessKind::Read))
            .after(|f| {
                f.map(200, 4, crate::vma::MapType::Shared, None).unwrap();
                only_lazy(f);
            })
            .on(Kind::Frame, &killed),
        fork_case("fork where memory is used up", Vcpus::Running)
            .after(only_lazy)
            .on(Kind::Vmas, &refused)
            .on(Kind::Anon, &refused)
            .on(Kind::Promise, &refused)
            .on(Kind::Frame, &refused),
        case("mremap to a new table where memory is used up", |f| {
            done(remap(&f.m, 30, 4, 4, Some(9000)).map(drop))
        })
        .after(only_lazy)
        .on(Kind::Vmas, &refused)
        .on(Kind::Promise, &refused)
        .on(Kind::Address, &refused)
        .on(Kind::Frame, &refused),
    ]
}

/// Four pages that nobody needs, one of them read since; and nothing else is left.
fn only_lazy(f: &Fixture) {
    let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END).unwrap();
    let mut space = f.m.space.change();
    space.madvise(page(0), 4 * PAGE_SIZE, Advice::Free as i32).unwrap();
    space.settle(all).unwrap();
    drop(space);
    assert_eq!(f.m.load(page(1)).unwrap(), 101);
    f.use_up();
}

/// Pages in so many tables of their own.
fn spread(f: &Fixture, tables: u64) {
    map_at(&f.m, 1 << 20, tables * 512, RW).unwrap();
    for i in 0..tables {
        f.m.store(page((1 << 20) + i * 512), 1).unwrap();
    }
}

fn tables() -> Vec<Case> {
    vec![
        fork_case("fork with a fresh root", Vcpus::Stopped),
        fork_case("fork with a fresh root, of many tables", Vcpus::Stopped)
            .after(|f| spread(f, MANY_TABLES)),
        case("the end of a child with many tables", |f| {
            let child = f.children.borrow_mut().pop();
            done(child.map_or(Ok(()), |child| Ok(child.exit()?)))
        })
        .after(|f| {
            spread(f, MANY_TABLES);
            f.keep_child();
        }),
        case("munmap that leaves too many tables empty", |f| {
            done(unmap(&f.m, 1 << 20, TOO_MANY_TABLES * 512))
        })
        .after(|f| spread(f, TOO_MANY_TABLES)),
    ]
}

fn objects() -> Vec<Case> {
    let advise = |advice: Advice, at: u64, pages: u64| {
        move |f: &Fixture| {
            done(f.m.space.change().madvise(page(at), pages * PAGE_SIZE, advice as i32))
        }
    };
    vec![
        case("ftruncate", |f| done(f.memfd.truncate(0, &f.system))),
        case("madvise Remove of a page", advise(Advice::Remove, 40, 2)),
        case("madvise PageOut of a file's page", advise(Advice::PageOut, 18, 4)),
        case("madvise PageOut of what nobody needs", advise(Advice::PageOut, 0, 4)).after(|f| {
            let mut space = f.m.space.change();
            space.madvise(page(0), 4 * PAGE_SIZE, Advice::Free as i32).unwrap();
            drop(space);
            assert_eq!(f.m.load(page(1)).unwrap(), 101);
        }),
        case("ftruncate of what is mapped privately", |f| {
            let Some(whole) = f.memfd.pages().checked_mul(PAGE_SIZE) else { return done(Ok(())) };
            done(f.memfd.truncate(whole / 2, &f.system))
        })
        .after(|f| {
            let memfd: Arc<dyn Backing> = f.memfd.clone();
            f.map(200, 16, crate::vma::MapType::Private, Some(memfd)).unwrap();
            f.m.store(page(215), 1).unwrap();
        }),
    ]
}
