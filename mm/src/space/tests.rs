//! Address spaces on the software executor: single facts about Linux, and random calls against a plain
//! model.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::addr::PAGE_SIZE;
use crate::backing::{BackingName, FileBacking, FileSource};
use crate::error::{AccessError, CallError, Fault};
use crate::inspect::{audit, maps_text};
use crate::paging::AccessKind;
use crate::replay::SoftwareMachine;
use crate::vma::{MapFlags, MapType, Prot};

const BASE: u64 = 0x1_0000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn machine() -> SoftwareMachine {
    SoftwareMachine::new(8192, Limits::default()).unwrap()
}

fn page(index: u64) -> VirtAddr {
    VirtAddr::new(BASE + index * PAGE_SIZE)
}

fn map_at(m: &SoftwareMachine, index: u64, pages: u64, prot: Prot) -> CallResult<VirtAddr> {
    let request = MapRequest::anonymous(page(index), pages * PAGE_SIZE, prot, MapFlags::FIXED);
    m.space.change().mmap(&request)
}

use crate::error::CallResult;

fn protect(m: &SoftwareMachine, index: u64, pages: u64, prot: Prot) -> CallResult<()> {
    m.space.change().mprotect(page(index), pages * PAGE_SIZE, prot)
}

fn unmap(m: &SoftwareMachine, index: u64, pages: u64) -> CallResult<()> {
    m.space.change().munmap(page(index), pages * PAGE_SIZE)
}

fn remap(
    m: &SoftwareMachine,
    from: u64,
    old: u64,
    new: u64,
    to: Option<u64>,
) -> CallResult<VirtAddr> {
    let (may_move, fixed) = (1, if to.is_some() { 2 } else { 0 });
    m.space.change().mremap(&RemapRequest {
        addr: page(from),
        old_len: old * PAGE_SIZE,
        new_len: new * PAGE_SIZE,
        flags: may_move | fixed,
        new_addr: to.map_or(VirtAddr::ZERO, page),
    })
}

fn lines(m: &SoftwareMachine) -> Vec<String> {
    maps_text(&m.space.look()).lines().map(|line| line[..line.len().min(28)].to_owned()).collect()
}

fn fault_of<T: std::fmt::Debug>(result: Result<T, AccessError>) -> Fault {
    match result {
        Err(AccessError::Fault(fault)) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

fn errno_of<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    match result {
        Err(CallError::Errno(errno)) => errno,
        other => panic!("expected an errno, got {other:?}"),
    }
}

#[test]
fn memory_reads_as_zeros_until_it_is_written() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 0);
    m.store(page(1), 7).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 7);
    audit(&m.space.look()).unwrap();
}

#[test]
fn memory_does_not_exist_until_it_is_touched() {
    let m = machine();
    map_at(&m, 0, 4096, RW).unwrap();
    assert_eq!(m.frames.stats().pages, 0);
    m.store(page(9), 1).unwrap();
    assert_eq!(m.frames.stats().pages, 1);
}

#[test]
fn touching_page_after_page_brings_in_more_and_more_at_once() {
    let m = machine();
    map_at(&m, 0, 256, RW).unwrap();
    for i in 0..256 {
        m.store(page(i), 1).unwrap();
    }
    let space = m.space.look();
    let faults = space.counters().faults.zero.load(std::sync::atomic::Ordering::Relaxed);
    assert!(faults < 20, "{faults} faults");
    assert_eq!(space.counters().resident.own(), 256);
}

#[test]
fn pages_brought_in_ahead_are_as_touched_as_the_page_that_faulted() {
    for (kind, dirty) in [(AccessKind::Write, true), (AccessKind::Read, false)] {
        let m = machine();
        map_at(&m, 0, 64, RW).unwrap();
        for i in [0, 1, 3] {
            m.space.fault(page(i), kind).unwrap();
        }
        let space = m.space.look();
        let range = PageRange::new(page(0), page(64)).unwrap();
        let leaves: Vec<_> = space
            .table
            .cursor(range)
            .map(|leaf| (leaf.entry.is_accessed(), leaf.entry.is_dirty()))
            .collect();
        assert!(leaves.len() == 7, "{kind:?} brought in {} pages", leaves.len());
        assert!(leaves.iter().all(|&leaf| leaf == (true, dirty)), "{kind:?}: {leaves:?}");
    }
}

#[test]
fn munmap_takes_the_page_away_at_once_with_one_flush() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    for i in 0..8 {
        m.store(page(i), 1).unwrap();
    }
    let before = m.sink.flushes();
    unmap(&m, 2, 4).unwrap();
    assert_eq!(m.sink.flushes(), before + 1);
    assert_eq!(m.sink.table_flushes(), 0);
    assert_eq!(fault_of(m.load(page(3))), Fault::NotMapped(page(3)));
    assert_eq!(m.load(page(6)).unwrap(), 1);
    audit(&m.space.look()).unwrap();
}

#[test]
fn untouched_pages_are_unmapped_without_a_flush() {
    let m = machine();
    map_at(&m, 0, 8, RW).unwrap();
    unmap(&m, 0, 8).unwrap();
    assert_eq!(m.sink.flushes(), 0);
}

#[test]
fn prot_none_keeps_the_bytes() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 9).unwrap();
    protect(&m, 0, 1, Prot::empty()).unwrap();
    assert_eq!(fault_of(m.load(page(0))), Fault::Denied(page(0)));
    protect(&m, 0, 1, Prot::READ).unwrap();
    assert_eq!(m.load(page(0)).unwrap(), 9);
    assert_eq!(fault_of(m.store(page(0), 1)), Fault::Denied(page(0)));
    audit(&m.space.look()).unwrap();
}

#[test]
fn mprotect_in_the_middle_splits_and_back_again_merges() {
    let m = machine();
    map_at(&m, 0, 3, RW).unwrap();
    m.store(page(1), 1).unwrap();
    protect(&m, 1, 1, Prot::READ).unwrap();
    assert_eq!(
        lines(&m),
        [
            "100000000-100001000 rw-p 000",
            "100001000-100002000 r--p 000",
            "100002000-100003000 rw-p 000"
        ]
    );
    protect(&m, 1, 1, RW).unwrap();
    assert_eq!(lines(&m), ["100000000-100003000 rw-p 000"]);
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_hole_filled_between_two_separately_written_maps_merges_with_one_of_them_only() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    map_at(&m, 2, 1, RW).unwrap();
    m.store(page(2), 1).unwrap();
    map_at(&m, 1, 1, RW).unwrap();
    assert_eq!(m.space.look().vmas().len(), 2);
    audit(&m.space.look()).unwrap();
}

#[test]
fn mprotect_over_a_hole_changes_the_part_before_it_and_says_enomem() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    map_at(&m, 2, 1, RW).unwrap();
    assert_eq!(errno_of(protect(&m, 0, 3, Prot::READ)), Errno::ENOMEM);
    let is = lines(&m);
    assert!(is[0].contains("r--p") && is[1].contains("rw-p"), "{is:?}");
}

#[test]
fn munmap_refuses_bad_ranges_with_einval() {
    let m = machine();
    let mut space = m.space.change();
    for (addr, len) in [(BASE + 1, 4096), (BASE, 0), (u64::MAX - 4095, 4096), (BASE, u64::MAX)] {
        assert_eq!(errno_of(space.munmap(VirtAddr::new(addr), len)), Errno::EINVAL);
    }
}

#[test]
fn mremap_moves_bytes_and_leaves_nothing_behind() {
    let m = machine();
    map_at(&m, 0, 4, RW).unwrap();
    for i in 0..4 {
        m.store(page(i), 10 + i as u8).unwrap();
    }
    map_at(&m, 4, 1, Prot::READ).unwrap();
    let at = remap(&m, 0, 4, 8, None).unwrap();
    assert_ne!(at, page(0));
    for i in 0..4 {
        assert_eq!(m.load(at.offset(i * PAGE_SIZE)).unwrap(), 10 + i as u8);
        assert_eq!(fault_of(m.load(page(i))), Fault::NotMapped(page(i)));
    }
    assert_eq!(m.load(at.offset(7 * PAGE_SIZE)).unwrap(), 0);
    audit(&m.space.look()).unwrap();
}

#[test]
fn mremap_grows_in_place_where_there_is_room() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    m.store(page(0), 1).unwrap();
    assert_eq!(remap(&m, 0, 2, 6, None).unwrap(), page(0));
    assert_eq!(m.space.look().vmas().len(), 1);
    assert_eq!(remap(&m, 0, 6, 1, None).unwrap(), page(0));
    assert_eq!(m.space.look().account().total, 1);
    audit(&m.space.look()).unwrap();
}

#[test]
fn an_unwritten_map_moved_beside_another_merges_and_a_written_one_does_not() {
    for (written, vmas) in [(false, 1), (true, 2)] {
        let m = machine();
        map_at(&m, 0, 1, RW).unwrap();
        map_at(&m, 8, 1, RW).unwrap();
        if written {
            m.store(page(8), 1).unwrap();
        }
        remap(&m, 8, 1, 1, Some(1)).unwrap();
        assert_eq!(m.space.look().vmas().len(), vmas, "written: {written}");
        audit(&m.space.look()).unwrap();
    }
}

#[test]
fn the_heap_grows_and_shrinks_and_stops_at_a_mapping() {
    let m = machine();
    m.space.change().set_start_brk(page(0));
    let mut space = m.space.change();
    assert_eq!(space.brk(VirtAddr::ZERO).unwrap(), page(0));
    assert_eq!(space.brk(page(3).offset(5)).unwrap(), page(3).offset(5));
    drop(space);
    m.store(page(3), 1).unwrap();
    assert!(maps_text(&m.space.look()).contains("[heap]"));
    assert_eq!(m.space.change().brk(page(1)).unwrap(), page(1));
    assert_eq!(fault_of(m.load(page(3))), Fault::NotMapped(page(3)));
    map_at(&m, 5, 1, Prot::READ).unwrap();
    // One page stays free below the mapping.
    assert_eq!(m.space.change().brk(page(5)).unwrap(), page(1));
    assert_eq!(m.space.change().brk(page(4)).unwrap(), page(4));
    audit(&m.space.look()).unwrap();
}

#[test]
fn the_stack_grows_while_256_pages_stay_free_below_it() {
    let m = machine();
    let top = VirtAddr::new(0x7fff_ffff_f000);
    let stack = m.space.change().map_stack(top, 4096, Exec::Forbidden).unwrap();
    assert_eq!(stack.pages(), 33);
    let deep = VirtAddr::new(top.get() - (2 << 20));
    m.store(deep, 1).unwrap();
    assert_eq!(m.load(deep).unwrap(), 1);
    let too_deep = VirtAddr::new(top.get() - (9 << 20));
    assert_eq!(fault_of(m.load(too_deep)), Fault::NotMapped(too_deep));
    audit(&m.space.look()).unwrap();
}

#[test]
fn madvise_dontneed_gives_zeros_back_and_goes_on_past_a_hole() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    map_at(&m, 2, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    m.store(page(2), 1).unwrap();
    let advised = m.space.change().madvise(page(0), 3 * PAGE_SIZE, Advice::DontNeed as i32);
    assert_eq!(errno_of(advised), Errno::ENOMEM);
    assert_eq!((m.load(page(0)).unwrap(), m.load(page(2)).unwrap()), (0, 0));
}

#[test]
fn without_memory_a_touch_is_out_of_memory_and_a_later_one_works_again() {
    let m = SoftwareMachine::new(512, Limits::default()).unwrap();
    map_at(&m, 0, 600, RW).unwrap();
    let full = (0..600).find(|&i| m.store(page(i), 1).is_err()).unwrap();
    assert_eq!(fault_of(m.store(page(full), 1)), Fault::OutOfMemory(page(full)));
    unmap(&m, 0, 8).unwrap();
    m.store(page(full), 1).unwrap();
    audit(&m.space.look()).unwrap();
}

#[test]
fn nothing_is_in_use_after_exit() {
    let m = machine();
    map_at(&m, 0, 600, RW).unwrap();
    for i in (0..600).step_by(7) {
        m.store(page(i), 1).unwrap();
    }
    m.space.exit().unwrap();
    let stats = m.frames.stats();
    assert_eq!((stats.pages, stats.tables), (0, 0));
}

#[test]
fn emptied_tables_do_not_pile_up() {
    let m = machine();
    for i in 0..2000u64 {
        map_at(&m, i * 512, 1, RW).unwrap();
        m.store(page(i * 512), 1).unwrap();
        unmap(&m, i * 512, 1).unwrap();
    }
    assert!(m.space.look().table().table_frames() < 400);
    assert!(m.sink.table_flushes() < 20);
    audit(&m.space.look()).unwrap();
}

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl FileSource for Bytes {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let from = self.0.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        into[len..].fill(0);
        Ok(len)
    }
}

fn file(m: &SoftwareMachine) -> Arc<FileBacking<Bytes>> {
    let bytes: Vec<u8> = (0..6000).map(|i| (i / 16) as u8).collect();
    let name = BackingName { path: "/bin/test".to_owned(), ..Default::default() };
    Arc::new(FileBacking::new(Arc::clone(&m.frames), Bytes(bytes), name))
}

#[test]
fn a_private_write_to_a_file_page_is_seen_by_nobody_else() {
    let m = machine();
    let file = file(&m);
    let map = |index| {
        m.space.change().mmap(&MapRequest {
            addr: page(index),
            len: 3 * PAGE_SIZE,
            prot: RW,
            flags: MapFlags::FIXED | MapType::Private.into(),
            file: Some(file.clone()),
            offset: 0,
        })
    };
    map(0).unwrap();
    map(10).unwrap();
    assert_eq!(m.load(page(0).offset(32)).unwrap(), 2);
    m.store(page(0).offset(32), 99).unwrap();
    assert_eq!(m.load(page(0).offset(32)).unwrap(), 99);
    assert_eq!(m.load(page(0).offset(64)).unwrap(), 4);
    assert_eq!(m.load(page(10).offset(32)).unwrap(), 2);
    // The rest of the last page is zeros; the page past it is SIGBUS.
    assert_eq!(m.load(page(1).offset(4000)).unwrap(), 0);
    assert_eq!(fault_of(m.load(page(2))), Fault::NoBacking(page(2)));
    audit(&m.space.look()).unwrap();
    m.space.exit().unwrap();
    drop(file);
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn a_second_read_of_a_file_page_needs_no_flush_and_breaking_cow_needs_one() {
    let m = machine();
    let file = file(&m);
    m.space
        .change()
        .mmap(&MapRequest {
            addr: page(0),
            len: PAGE_SIZE,
            prot: RW,
            flags: MapFlags::FIXED | MapType::Private.into(),
            file: Some(file),
            offset: 0,
        })
        .unwrap();
    m.load(page(0)).unwrap();
    assert_eq!(m.sink.flushes(), 0);
    m.store(page(0), 1).unwrap();
    assert_eq!(m.sink.flushes(), 1);
}

#[test]
fn the_hosts_own_accesses_cross_pages_and_stop_at_a_hole() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    let at = page(1).checked_sub(3).unwrap();
    m.space.write(at, b"across").unwrap();
    let mut bytes = [0; 6];
    m.space.read(at, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    let end = page(2).checked_sub(2).unwrap();
    assert_eq!(fault_of(m.space.write(end, b"long")), Fault::NotMapped(page(2)));
    assert_eq!(
        fault_of(m.space.read(VirtAddr::new(u64::MAX), &mut bytes)),
        Fault::NotMapped(VirtAddr::new(u64::MAX))
    );
}

/// What the model knows of a page: its permission, and its byte once it was written.
type Model = BTreeMap<u64, (Prot, u8)>;

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, Prot),
    Unmap(u64, u64),
    Protect(u64, u64, Prot),
    Move(u64, u64, u64, u64),
    Store(u64, u8),
    DontNeed(u64, u64),
}

fn prot() -> impl Strategy<Value = Prot> {
    prop_oneof![Just(RW), Just(RW), Just(Prot::READ), Just(Prot::empty())]
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..48u64;
    let len = || 1..12u64;
    prop_oneof![
        (at(), len(), prot()).prop_map(|(a, l, p)| Step::Map(a, l, p)),
        (at(), len()).prop_map(|(a, l)| Step::Unmap(a, l)),
        (at(), len(), prot()).prop_map(|(a, l, p)| Step::Protect(a, l, p)),
        (at(), len(), len(), at()).prop_map(|(a, o, n, t)| Step::Move(a, o, n, t)),
        (at(), 1..255u8).prop_map(|(a, b)| Step::Store(a, b)),
        (at(), 1..255u8).prop_map(|(a, b)| Step::Store(a, b)),
        (at(), len()).prop_map(|(a, l)| Step::DontNeed(a, l)),
    ]
}

fn apply(m: &SoftwareMachine, model: &mut Model, step: &Step) {
    match *step {
        Step::Map(at, len, prot) => {
            map_at(m, at, len, prot).unwrap();
            model.extend((at..at + len).map(|i| (i, (prot, 0))));
        }
        Step::Unmap(at, len) => {
            unmap(m, at, len).unwrap();
            model.retain(|i, _| !(at..at + len).contains(i));
        }
        Step::Protect(at, len, prot) => {
            let hole = (at..at + len).find(|i| !model.contains_key(i));
            let changed = protect(m, at, len, prot);
            assert_eq!(changed.is_err(), hole.is_some());
            for (_, page) in model.range_mut(at..hole.unwrap_or(at + len)) {
                page.0 = prot;
            }
        }
        Step::Move(from, old, new, to) => {
            if let Ok(at) = remap(m, from, old, new, Some(to)) {
                assert_eq!(at, page(to));
                let whole = model[&from].0;
                let moved: Vec<_> = (0..old.min(new)).map(|i| model[&(from + i)].1).collect();
                model.retain(|i, _| !(from..from + old).contains(i));
                model.retain(|i, _| !(to..to + new).contains(i));
                for i in 0..new {
                    let byte = moved.get(i as usize).copied().unwrap_or(0);
                    model.insert(to + i, (whole, byte));
                }
            } else {
                // A refused FIXED move may have unmapped its target, as Linux does.
                let space = m.space.look();
                model.retain(|&i, _| space.vmas().find_exact(page(i)).is_some());
            }
        }
        Step::Store(at, byte) => match (model.get_mut(&at), m.store(page(at), byte)) {
            (Some((prot, now)), Ok(())) if prot.contains(Prot::WRITE) => *now = byte,
            (Some((prot, _)), Err(AccessError::Fault(Fault::Denied(_))))
                if !prot.contains(Prot::WRITE) => {}
            (None, Err(AccessError::Fault(Fault::NotMapped(_)))) => {}
            other => panic!("{other:?}"),
        },
        Step::DontNeed(at, len) => {
            let _ = m.space.change().madvise(page(at), len * PAGE_SIZE, Advice::DontNeed as i32);
            for (_, page) in model.range_mut(at..at + len) {
                page.1 = 0;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_calls_leave_every_byte_and_permission_as_the_model_has_them(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let m = SoftwareMachine::new(2048, Limits::default()).unwrap();
        let mut model = Model::new();
        for step in &steps {
            apply(&m, &mut model, step);
            audit(&m.space.look()).unwrap();
        }
        for i in 0..64 {
            let got = m.access(page(i), AccessKind::Read);
            match model.get(&i) {
                Some((prot, byte)) if prot.contains(Prot::READ) => {
                    prop_assert_eq!(m.load(page(i)).unwrap(), *byte);
                }
                Some(_) => prop_assert_eq!(fault_of(got), Fault::Denied(page(i))),
                None => prop_assert_eq!(fault_of(got), Fault::NotMapped(page(i))),
            }
        }
        m.space.exit().unwrap();
        let stats = m.frames.stats();
        prop_assert_eq!((stats.pages, stats.tables), (0, 0));
    }
}
