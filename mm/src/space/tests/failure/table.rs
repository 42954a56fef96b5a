//! The operations, and what Linux leaves of each when an allocation fails. Where nothing is said, it is
//! an errno and a space that has not changed.

use super::fixture::STACK_TOP;
use super::*;
use crate::vma::MapType;

fn value<T: Into<u64>>(result: CallResult<T>) -> Answer {
    match result {
        Ok(value) => Answer::Value(value.into()),
        Err(CallError::Errno(errno)) => Answer::Errno(errno),
        Err(CallError::Broken(broken)) => Answer::Broken(broken.to_string()),
    }
}

fn addr(result: CallResult<VirtAddr>) -> Answer {
    value(result.map(VirtAddr::get))
}

pub(super) fn done(result: CallResult<()>) -> Answer {
    value(result.map(|()| 0_u64))
}

pub(super) fn touched(result: Result<(), AccessError>) -> Answer {
    match result {
        Ok(()) => Answer::Value(0),
        Err(AccessError::Fault(fault)) => Answer::Signal(fault),
        Err(AccessError::Broken(broken)) => Answer::Broken(broken.to_string()),
    }
}

/// A case without particulars, on the space as it is.
pub(super) fn case(name: impl Into<String>, call: impl Fn(&Fixture) -> Answer + 'static) -> Case {
    Case { name: name.into(), prepare: |_| (), call: Box::new(call), rules: Vec::new() }
}

impl Case {
    pub(super) fn after(self, prepare: fn(&Fixture)) -> Self {
        Case { prepare, ..self }
    }

    /// One of these outcomes where an allocation of that kind fails.
    pub(super) fn on(mut self, kind: Kind, outcomes: &[(Told, Leaves)]) -> Self {
        self.rules.push((kind, outcomes.to_vec()));
        self
    }

    /// What comes after the call proper, bringing in pages, is not missed.
    fn without_pages(self) -> Self {
        self.on(Kind::Frame, &[(Told::Nothing, Leaves::Vmas)])
    }

    /// [`without_pages`](Self::without_pages), of memory that was never written to.
    fn without_first_pages(self) -> Self {
        self.without_pages().on(Kind::Anon, &[(Told::Nothing, Leaves::Vmas)])
    }

    /// VMA by VMA: what is before the one that failed is changed.
    fn in_parts(self, errno: Errno) -> Self {
        self.on(Kind::Vmas, &[(Told::Errno(errno), Leaves::Part)])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(maps());
    all.extend(changes());
    all.extend(moves());
    all.extend(heap());
    all.extend(advice());
    all.extend(locks());
    all.extend(attributes());
    all.extend(faults());
    all.extend(spaces());
    all.extend(super::pages::cases());
    all.extend(super::huges::cases());
    all
}

fn mmap(f: &Fixture, at: u64, pages: u64, prot: Prot, flags: MapFlags) -> Answer {
    let place = if at == 0 { VirtAddr::ZERO } else { page(at) };
    let mut request = MapRequest::anonymous(place, pages * PAGE_SIZE, prot, flags);
    if flags.map_type().is_some() {
        request.flags = flags | MapFlags::ANONYMOUS;
    }
    addr(f.m.space.change().mmap(&request))
}

fn lock_future(f: &Fixture) {
    f.m.space.change().mlockall(2).unwrap();
}

fn maps() -> Vec<Case> {
    let none = MapFlags::empty();
    vec![
        case("mmap anywhere", move |f| mmap(f, 0, 4, RW, none)),
        case("mmap of nothing", move |f| mmap(f, 0, 4, Prot::empty(), none)),
        case("mmap at a hint, beside a VMA", move |f| mmap(f, 68, 4, Prot::READ, none)),
        case("mmap over parts of VMAs", |f| mmap(f, 2, 14, RW, MapFlags::FIXED))
            .on(Kind::Promise, &[(Told::Refusal, Leaves::Cut)]),
        case("mmap inside a VMA", |f| mmap(f, 1, 2, Prot::READ, MapFlags::FIXED)),
        case("mmap in a hole", |f| mmap(f, 8, 2, RW, MapFlags::FIXED_NOREPLACE)),
        case("mmap over two tables", |f| mmap(f, 510, 4, RW, MapFlags::FIXED)),
        case("mmap without reserve", |f| mmap(f, 0, 4, RW, MapFlags::NORESERVE)),
        case("mmap that grows down", |f| mmap(f, 0, 4, RW, MapFlags::GROWSDOWN)),
        case("mmap of shared memory", |f| mmap(f, 0, 4, RW, MapType::Shared.into())),
        case("mmap of shared memory over others", |f| addr(f.map(2, 14, MapType::Shared, None)))
            .on(Kind::Promise, &[(Told::Refusal, Leaves::Without(2, 16))]),
        case("mmap of shared memory without reserve", |f| {
            mmap(f, 0, 4, RW, MapFlags::NORESERVE | MapType::Shared.into())
        }),
        case("mmap of droppable memory", |f| mmap(f, 0, 4, RW, MapType::Droppable.into())),
        case("mmap of huge pages", |f| {
            mmap(f, 0, 512, RW, MapFlags::HUGETLB | MapFlags::NORESERVE)
        }),
        case("mmap of a file", |f| addr(f.map(200, 2, MapType::Private, Some(f.file.clone())))),
        case("mmap of a memfd, shared, over others", |f| {
            addr(f.map(2, 14, MapType::Shared, Some(f.memfd.clone())))
        }),
        case("mmap populated", |f| mmap(f, 1000, 40, RW, MapFlags::FIXED | MapFlags::POPULATE))
            .without_first_pages(),
        case("mmap locked", |f| mmap(f, 1000, 40, RW, MapFlags::FIXED | MapFlags::LOCKED))
            .without_first_pages(),
        case("mmap after MCL_FUTURE", move |f| mmap(f, 0, 4, RW, none))
            .after(lock_future)
            .without_first_pages(),
    ]
}

fn changes() -> Vec<Case> {
    let protect = |at, pages, prot| move |f: &Fixture| done(protect(&f.m, at, pages, prot));
    let unmap = |at, pages| move |f: &Fixture| done(unmap(&f.m, at, pages));
    let none = Prot::empty();
    vec![
        case("munmap of a middle", unmap(1, 2)),
        case("munmap of one end", unmap(0, 2)),
        case("munmap of a VMA", unmap(10, 4)),
        case("munmap over parts of VMAs", unmap(2, 18)),
        case("munmap over two tables", unmap(510, 4)),
        case("munmap of nothing", unmap(100, 4)),
        case("mprotect of a middle", protect(1, 2, Prot::READ)),
        case("mprotect of a VMA", protect(0, 4, none)),
        case("mprotect that merges", protect(4, 4, RW)),
        case("mprotect that moves a border", protect(4, 2, RW)),
        case("mprotect over parts of VMAs", protect(1, 6, none)).in_parts(Errno::ENOMEM),
        case("mprotect to writable over two VMAs", protect(4, 8, RW))
            .after(|f| drop(map_at(&f.m, 8, 4, Prot::READ | Prot::EXEC)))
            .in_parts(Errno::ENOMEM)
            .on(Kind::Promise, &[(Told::Refusal, Leaves::Part)]),
        case("mprotect of a file's and shared memory", protect(15, 6, Prot::READ))
            .in_parts(Errno::ENOMEM),
        case("mprotect of locked memory to writable", protect(64, 4, RW))
            .after(|f| f.m.space.change().mlock2(page(64), 4 * PAGE_SIZE, 1).unwrap()),
        case("mprotect over two tables", protect(510, 4, none)),
        case("pkey_mprotect", |f| {
            done(f.m.space.change().pkey_mprotect(page(1), PAGE_SIZE, Prot::READ, -1))
        }),
        case("mprotect over a hole", protect(6, 6, none)).in_parts(Errno::ENOMEM),
    ]
}

fn moves() -> Vec<Case> {
    let remap = |from, old, new, to| move |f: &Fixture| addr(remap(&f.m, from, old, new, to));
    let gone =
        |from, to| [(Told::Refusal, Leaves::Same), (Told::Refusal, Leaves::Without(from, to))];
    let some = [(Told::Refusal, Leaves::Same), (Told::Refusal, Leaves::Moved)];
    // What cannot grow where it is, grows elsewhere.
    let moves = [(Told::Elsewhere, Leaves::Otherwise)];
    let other = |from: u64, old: u64, new: u64, flags: u64| {
        move |f: &Fixture| {
            addr(f.m.space.change().mremap(&RemapRequest {
                addr: page(from),
                old_len: old * PAGE_SIZE,
                new_len: new * PAGE_SIZE,
                flags,
                new_addr: VirtAddr::ZERO,
            }))
        }
    };
    vec![
        case("mremap that shrinks", remap(0, 4, 2, None)),
        case("mremap that shrinks over VMAs", remap(0, 8, 2, None)),
        case("mremap that grows in place", remap(64, 4, 6, None)).on(Kind::Address, &moves),
        case("mremap that grows locked memory", remap(30, 4, 6, None))
            .on(Kind::Address, &moves)
            .without_pages(),
        case("mremap that grows elsewhere", remap(0, 4, 8, None)),
        case("mremap of a middle that grows", remap(1, 2, 8, None)),
        case("mremap that grows a file's map", remap(18, 4, 9, None)).on(Kind::Address, &moves),
        case("mremap of a part of a file's map", remap(19, 2, 9, None)),
        case("mremap that grows over tables", remap(508, 8, 600, None)),
        case("mremap to a free place", remap(0, 4, 4, Some(200))),
        case("mremap to a place in another table", remap(0, 4, 4, Some(9000))),
        case("mremap to a place in two tables", remap(0, 4, 4, Some(9214))),
        case("mremap that grows, onto others", remap(0, 4, 8, Some(508)))
            .on(Kind::Vmas, &gone(508, 516))
            .on(Kind::Promise, &gone(508, 516))
            .on(Kind::Address, &gone(508, 516)),
        case("mremap that shrinks, elsewhere", remap(508, 8, 4, Some(200)))
            .on(Kind::Vmas, &gone(512, 516))
            .on(Kind::Promise, &gone(512, 516))
            .on(Kind::Address, &gone(512, 516)),
        case("mremap of several", remap(0, 14, 14, Some(9000)))
            .on(Kind::Vmas, &some)
            .on(Kind::Promise, &some)
            .on(Kind::Address, &some),
        case("mremap that keeps the source", other(0, 4, 4, 5)),
        case("mremap of old length 0", other(40, 0, 8, 1)),
    ]
}

fn heap() -> Vec<Case> {
    let brk = |to: u64| {
        move |f: &Fixture| {
            // It has no errno.
            match f.m.space.change().brk(page(to)) {
                Ok(brk) => Answer::Value(brk.get()),
                Err(broken) => Answer::Broken(broken.to_string()),
            }
        }
    };
    let stays = [(Told::Value(page(603).get()), Leaves::Same)];
    vec![
        case("brk that grows", brk(610))
            .on(Kind::Vmas, &stays)
            .on(Kind::Address, &stays)
            .on(Kind::Promise, &stays),
        case("brk that shrinks", brk(601)).on(Kind::Vmas, &stays),
        case("brk after MCL_FUTURE", brk(610))
            .after(lock_future)
            .on(Kind::Vmas, &stays)
            .on(Kind::Address, &stays)
            .on(Kind::Promise, &stays)
            .without_first_pages(),
        case("the stack of a program", |f| {
            let stack = f.m.space.change().map_stack(page(9000), 4096, Exec::Allowed);
            addr(stack.map(PageRange::start))
        }),
    ]
}

fn advice() -> Vec<Case> {
    let advise = |advice: Advice, at: u64, pages: u64| {
        move |f: &Fixture| {
            done(f.m.space.change().madvise(page(at), pages * PAGE_SIZE, advice as i32))
        }
    };
    let mut all = Vec::new();
    let split = [
        Advice::Random,
        Advice::Sequential,
        Advice::DontFork,
        Advice::Mergeable,
        Advice::HugePage,
        Advice::NoHugePage,
        Advice::DontDump,
        Advice::WipeOnFork,
    ];
    for one in split {
        all.push(case(format!("madvise {one:?}"), advise(one, 1, 6)).in_parts(Errno::EAGAIN));
    }
    // What takes back what another advice has done.
    let undo = [
        Advice::Normal,
        Advice::DoFork,
        Advice::Unmergeable,
        Advice::DoDump,
        Advice::KeepOnFork,
        Advice::NoHugePage,
    ];
    for one in undo {
        let undone = case(format!("madvise {one:?}, undoing"), advise(one, 1, 6));
        all.push(undone.after(advise_all).in_parts(Errno::EAGAIN));
    }
    let pages = [
        Advice::WillNeed,
        Advice::DontNeed,
        Advice::DontNeedLocked,
        Advice::Free,
        Advice::Remove,
        Advice::Cold,
        Advice::PageOut,
        Advice::Collapse,
        Advice::HwPoison,
        Advice::SoftOffline,
        Advice::GuardRemove,
    ];
    for one in pages {
        all.push(case(format!("madvise {one:?}"), advise(one, 1, 6)));
    }
    let part = [(Told::Refusal, Leaves::Part)];
    all.push(case("madvise Remove of a memfd", advise(Advice::Remove, 41, 2)));
    all.push(
        case("madvise GuardInstall in new tables", advise(Advice::GuardInstall, 2040, 16))
            .after(|f| drop(map_at(&f.m, 2040, 16, RW)))
            .on(Kind::Frame, &[(Told::Refusal, Leaves::Unseen)]),
    );
    all.push(
        case("madvise PopulateRead", advise(Advice::PopulateRead, 4, 4)).on(Kind::Frame, &part),
    );
    all.push(
        case("madvise PopulateWrite", advise(Advice::PopulateWrite, 10, 8))
            .on(Kind::Frame, &[(Told::Refusal, Leaves::Part), (Told::Nothing, Leaves::Vmas)]),
    );
    all
}

/// Every advice that sets a flag, on pages 0 to 8.
fn advise_all(f: &Fixture) {
    let all = [
        Advice::Sequential,
        Advice::DontFork,
        Advice::Mergeable,
        Advice::HugePage,
        Advice::DontDump,
        Advice::WipeOnFork,
    ];
    for advice in all {
        f.m.space.change().madvise(page(0), 8 * PAGE_SIZE, advice as i32).unwrap();
    }
}

fn locks() -> Vec<Case> {
    let lock = |at: u64, pages: u64, flags: u64| {
        move |f: &Fixture| done(f.m.space.change().mlock2(page(at), pages * PAGE_SIZE, flags))
    };
    let unlock = |at: u64, pages: u64| {
        move |f: &Fixture| done(f.m.space.change().munlock(page(at), pages * PAGE_SIZE))
    };
    let lock_all = |flags| move |f: &Fixture| done(f.m.space.change().mlockall(flags));
    let all_the_same = [(Told::Nothing, Leaves::Each)];
    vec![
        case("mlock", lock(1, 6, 0))
            .in_parts(Errno::ENOMEM)
            .on(Kind::Frame, &[(Told::Errno(Errno::EAGAIN), Leaves::Vmas)]),
        case("mlock2 on fault", lock(1, 6, 1)).in_parts(Errno::ENOMEM),
        case("munlock of a middle", unlock(31, 2)),
        case("munlock of a VMA", unlock(30, 4)),
        case("mlockall of what is there", lock_all(1))
            .on(Kind::Vmas, &all_the_same)
            .without_first_pages()
            .on(Kind::Promise, &[(Told::Nothing, Leaves::Vmas)]),
        case("mlockall of what comes", lock_all(2)),
        case("munlockall", |f| {
            f.m.space.change().munlockall();
            Answer::Value(0)
        })
        .after(|f| f.m.space.change().mlock2(page(1), 2 * PAGE_SIZE, 0).unwrap())
        .on(Kind::Vmas, &all_the_same),
    ]
}

fn attributes() -> Vec<Case> {
    let six = 6 * PAGE_SIZE;
    vec![
        case("mseal", move |f| done(f.m.space.change().mseal(page(1), six, 0)))
            .in_parts(Errno::ENOMEM),
        case("mbind", move |f| done(f.m.space.change().mbind(page(1), six, 2, 1, 0)))
            .in_parts(Errno::ENOMEM),
        case("a name", move |f| done(f.m.space.change().set_name(page(1), six, Some(b"heap"))))
            .in_parts(Errno::EAGAIN),
        case("userfaultfd, a middle", |f| {
            let mut space = f.m.space.change();
            done(space.userfault_register(&f.uffd, page(1), 2 * PAGE_SIZE, 1).map(drop))
        }),
        case("userfaultfd, over VMAs", move |f| {
            let registered = f.m.space.change().userfault_register(&f.uffd, page(1), six, 1);
            done(registered.map(drop))
        })
        .in_parts(Errno::ENOMEM),
        case("userfaultfd, moved", |f| {
            let [to, from] = [1600, 508].map(|at| PageRange::from_len(page(at), 2 * PAGE_SIZE));
            let (to, from) = (to.unwrap(), from.unwrap());
            value(f.m.space.change().userfault_move(&f.uffd, to, from, Holes::Refused))
        })
        .after(|f| {
            f.map(1600, 4, MapType::Private, None).unwrap();
            let mut space = f.m.space.change();
            space.userfault_register(&f.uffd, page(1600), 4 * PAGE_SIZE, 1).unwrap();
        })
        .on(Kind::Frame, &[(Told::Refusal, Leaves::Unseen)]),
        case("userfaultfd, ended", move |f| {
            done(f.m.space.change().userfault_unregister(&f.uffd, page(1), six))
        })
        .after(|f| {
            let mut space = f.m.space.change();
            space.userfault_register(&f.uffd, page(0), 8 * PAGE_SIZE, 1).unwrap();
        })
        .in_parts(Errno::ENOMEM),
        case("remap_file_pages", |f| {
            done(f.m.space.change().remap_file_pages(page(41), 2 * PAGE_SIZE, 0, 12, 0))
        })
        .without_pages()
        .on(Kind::Promise, &[(Told::Nothing, Leaves::Vmas)]),
        case("msync", |f| done(f.m.space.msync(page(0), 4 * PAGE_SIZE, 4))),
        case("mincore", |f| {
            let pages = f.m.space.look().mincore(page(0), 4 * PAGE_SIZE);
            value(pages.map(|pages| pages.len() as u64))
        }),
    ]
}

fn faults() -> Vec<Case> {
    let fault = |at: u64, kind| move |f: &Fixture| touched(f.m.space.fault(page(at), kind));
    let (read, write) = (AccessKind::Read, AccessKind::Write);
    let killed = [(Told::OutOfMemory, Leaves::Same)];
    let unseen = [(Told::OutOfMemory, Leaves::Unseen)];
    // The pages around the one that was touched come where they can be had.
    let around = [(Told::OutOfMemory, Leaves::Same), (Told::Nothing, Leaves::Vmas)];
    let deep = STACK_TOP - (1 << 20);
    vec![
        case("a read of untouched memory", fault(10, read)).on(Kind::Frame, &killed),
        case("a write to untouched memory", fault(10, write))
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &unseen),
        case("a write in new tables", fault(1 << 21, write))
            .after(|f| drop(map_at(&f.m, 1 << 21, 1, RW)))
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &unseen),
        case("a write to memory that was read", fault(10, write))
            .after(|f| assert_eq!(f.m.load(page(10)).unwrap(), 0))
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &unseen),
        case("a read of shared memory", fault(200, read))
            .after(map_shared)
            .on(Kind::Frame, &around),
        case("a write to shared memory", fault(200, write))
            .after(map_shared)
            .on(Kind::Frame, &around),
        case("a write to a memfd that has no such page yet", fault(41, write))
            .on(Kind::Promise, &[(Told::NoBacking, Leaves::Same)])
            .on(Kind::Frame, &around),
        case("a read of a file", fault(200, read)).after(map_file).on(Kind::Frame, &around),
        case("a write to a file's page", fault(200, write))
            .after(map_file)
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &unseen),
        case("a write to a file's page that was read", fault(18, write)).on(Kind::Frame, &unseen),
        case("a write below the stack", move |f| {
            touched(f.m.space.fault(VirtAddr::new(deep), write))
        })
        .on(Kind::Promise, &[(Told::NotMapped, Leaves::Unseen)])
        .on(Kind::Frame, &[(Told::OutOfMemory, Leaves::Vmas)]),
        case("the host writes", |f| touched(f.m.space.write(page(10), &[1; 16384])))
            .on(Kind::Anon, &killed)
            .on(Kind::Frame, &[(Told::OutOfMemory, Leaves::Part)]),
        case("the host reads", |f| touched(f.m.space.read(page(10), &mut [0; 16384])))
            .on(Kind::Frame, &[(Told::OutOfMemory, Leaves::Part)]),
    ]
}

/// Another open of the file, of which no page has been read.
fn map_file(f: &Fixture) {
    let fresh = super::super::files::file_of(&f.m);
    f.map(200, 2, MapType::Private, Some(fresh)).unwrap();
}

/// Shared memory of which no page was touched.
fn map_shared(f: &Fixture) {
    f.map(200, 4, MapType::Shared, None).unwrap();
}

/// fork(2) of the space, and the end of the child.
pub(super) fn fork_case(name: &str, vcpus: Vcpus) -> Case {
    case(name, move |f| {
        let child = f.m.space.change().fork(vcpus);
        match child {
            Ok(child) => {
                audit_all(&[&f.m.space.look(), &child]).unwrap();
                let seen = Snapshot::of(&child);
                match child.exit() {
                    Ok(()) => Answer::Child(Box::new(seen)),
                    Err(broken) => Answer::Broken(broken.to_string()),
                }
            }
            Err(CallError::Errno(errno)) => Answer::Errno(errno),
            Err(CallError::Broken(broken)) => Answer::Broken(broken.to_string()),
        }
    })
}

fn spaces() -> Vec<Case> {
    vec![
        fork_case("fork", Vcpus::Running).after(|f| {
            let mut space = f.m.space.change();
            for (at, advice) in
                [(1, Advice::GuardInstall), (2, Advice::WipeOnFork), (508, Advice::DontFork)]
            {
                space.madvise(page(at), PAGE_SIZE, advice as i32).unwrap();
            }
        }),
        case("a new space", |f| {
            let system = Arc::clone(f.m.space.look().system());
            match AddressSpace::new(system, Limits::default()) {
                Ok(space) => {
                    space.exit().unwrap();
                    Answer::Value(0)
                }
                Err(_) => Answer::Errno(Errno::ENOMEM),
            }
        }),
    ]
}
