//! The same where there are huge pages, and promoted entries.

use super::table::{case, done, fork_case, touched};
use super::*;
use crate::sysctl::Thp;

/// Where a table begins, behind all else.
const AT: u64 = 1024;
/// Pages of a table.
const TABLE: u64 = 512;

/// A huge page.
fn huge(f: &Fixture) {
    f.system.sysctl.set_thp(Thp::Always);
    map_at(&f.m, AT, TABLE, RW).unwrap();
    f.m.store(page(AT + 7), 7).unwrap();
    f.system.sysctl.set_thp(Thp::Never);
    assert!(f.m.space.look().table().large(page(AT)).is_some());
}

/// A huge page that a child has, too.
fn shared(f: &Fixture) {
    huge(f);
    let child = f.m.space.change().fork(Vcpus::Stopped).unwrap();
    f.children.borrow_mut().push(child);
}

/// A table of pages that were all written.
fn full(f: &Fixture) {
    // The frames before it, so that it begins a block.
    map_at(&f.m, AT - 200, 200 + TABLE, RW).unwrap();
    for i in AT - 200..AT + TABLE {
        f.m.store(page(i), 9).unwrap();
    }
}

/// A promoted entry.
fn promoted(f: &Fixture) {
    full(f);
    f.m.space.change().fork(Vcpus::Stopped).unwrap().exit().unwrap();
    assert!(f.m.space.look().table().large(page(AT)).is_some());
}

/// One that a child's table names the pages of, too.
fn promoted_of_two(f: &Fixture) {
    full(f);
    let child = f.m.space.change().fork(Vcpus::Stopped).unwrap();
    f.children.borrow_mut().push(child);
    assert!(f.m.space.look().table().large(page(AT)).is_some());
}

/// Some small pages where a huge one could be.
fn small(f: &Fixture) {
    map_at(&f.m, AT, TABLE, RW).unwrap();
    for i in [3, 9, 500] {
        f.m.store(page(AT + i), 5).unwrap();
    }
}

/// The same of shared memory, which a child shows, too.
fn small_shared(f: &Fixture) {
    let flags = MapFlags::FIXED | MapFlags::ANONYMOUS | MapType::Shared.into();
    let (addr, len) = (page(AT), TABLE * PAGE_SIZE);
    let request = MapRequest { addr, len, prot: RW, flags, file: None, offset: 0 };
    f.m.space.change().mmap(&request).unwrap();
    for i in [3, 9, 500] {
        f.m.store(page(AT + i), 5).unwrap();
    }
    let child = f.m.space.change().fork(Vcpus::Stopped).unwrap();
    f.children.borrow_mut().push(child);
}

/// A huge page of shared memory.
fn huge_shared(f: &Fixture) {
    small_shared(f);
    let len = TABLE * PAGE_SIZE;
    f.m.space.change().madvise(page(AT), len, Advice::Collapse as i32).unwrap();
    assert!(f.m.space.look().table().large(page(AT)).is_some());
}

/// The same, not mapped now.
fn dropped_shared(f: &Fixture) {
    huge_shared(f);
    advise(f, AT, TABLE, Advice::DontNeed);
}

fn advise(f: &Fixture, at: u64, pages: u64, advice: Advice) -> Answer {
    done(f.m.space.change().madvise(page(at), pages * PAGE_SIZE, advice as i32))
}

fn moved(f: &Fixture, at: u64, pages: u64, to: u64) -> Answer {
    done(remap(&f.m, at, pages, pages, Some(to)).map(drop))
}

/// What is done to some pages, and how it is called.
type Deed = (&'static str, fn(&Fixture) -> Answer);
/// What they are made of, and how that is called.
type Made = (&'static str, fn(&Fixture));

const DEEDS: [Deed; 8] = [
    ("mprotect of a part", |f| done(protect(&f.m, AT + 100, 10, Prot::READ))),
    ("mprotect", |f| done(protect(&f.m, AT, TABLE, Prot::READ))),
    ("munmap of a part", |f| done(unmap(&f.m, AT + 100, 10))),
    ("mremap", |f| moved(f, AT, TABLE, 4 * TABLE)),
    ("mremap to another alignment", |f| moved(f, AT, TABLE, 4 * TABLE + 3)),
    ("mremap of a part", |f| moved(f, AT + 100, 10, 4 * TABLE)),
    ("MADV_DONTNEED of a part", |f| advise(f, AT + 100, 10, Advice::DontNeed)),
    ("MADV_FREE", |f| advise(f, AT, TABLE, Advice::Free)),
];

pub(super) fn cases() -> Vec<Case> {
    let kinds: [Made; 4] = [
        ("a huge page", huge),
        ("a huge page of two", shared),
        ("a promoted entry", promoted),
        ("a promoted entry of two", promoted_of_two),
    ];
    let mut all: Vec<Case> = kinds
        .iter()
        .flat_map(|&(of, prepare)| {
            DEEDS.map(|(name, deed)| case(format!("{name}, {of}"), deed).after(prepare))
        })
        .collect();
    // The writer is killed, or gets fewer copies ahead.
    let copied = [(Told::OutOfMemory, Leaves::Same), (Told::Nothing, Leaves::Vmas)];
    let write = |name: &str| case(name, |f| touched(f.m.store(page(AT + 300), 1)));
    let more = [
        write("a write, a huge page").after(huge),
        write("a write, a huge page of two").after(shared).on(Kind::Frame, &copied),
        write("a write, a promoted entry").after(promoted),
        write("a write, a promoted entry of two").after(promoted_of_two).on(Kind::Frame, &copied),
        fork_case("fork, a huge page", Vcpus::Running).after(huge),
        fork_case("fork of one that stands still, a huge page", Vcpus::Stopped).after(huge),
        fork_case("fork of one that stands still, a promoted entry", Vcpus::Stopped)
            .after(promoted),
        fork_case("fork that promotes", Vcpus::Stopped).after(full),
        case("MADV_COLLAPSE", |f| advise(f, AT, TABLE, Advice::Collapse)).after(small),
        // The second is for the caller's table: the object has its huge page then.
        case("MADV_COLLAPSE of shared memory", |f| advise(f, AT, TABLE, Advice::Collapse))
            .after(small_shared)
            .on(Kind::Frame, &[(Told::Refusal, Leaves::Same), (Told::Refusal, Leaves::Vmas)]),
        case("MADV_REMOVE of a part of shared memory's huge page", |f| {
            advise(f, AT + 100, 10, Advice::Remove)
        })
        .after(huge_shared),
        write("a touch of a huge page of shared memory")
            .after(dropped_shared)
            .on(Kind::Frame, &[(Told::OutOfMemory, Leaves::Same)]),
    ];
    all.extend(more);
    all
}
