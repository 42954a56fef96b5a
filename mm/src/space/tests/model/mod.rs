//! Random calls against a plain model, page by page: after each call the audit, and what each page is; at
//! the end what each page holds.

mod plain;

use proptest::prelude::*;

use super::*;
use crate::swap::MemoryStore;
use crate::vma::MapType;
use plain::{HEAP, KEPT, Plain, Sharing};

/// Pages, the first and how many.
type Pages = (u64, u64);

#[derive(Clone, Debug)]
enum Step {
    Map(Pages, Prot, Sharing),
    Unmap(Pages),
    Protect(Pages, Prot),
    /// mremap with a fixed target.
    Move(Pages, Pages),
    /// mremap with `MREMAP_DONTUNMAP`.
    MoveAndKeep(Pages, u64),
    /// mremap without a target, that must not move.
    Resize(Pages, u64),
    Brk(u64),
    Store(u64, u8),
    Load(u64),
    Advise(Pages, Advice),
    Lock(Pages, VmFlags),
    Unlock(Pages),
    LockAll,
    UnlockAll,
    Seal(Pages),
    Fork,
}

fn prot() -> impl Strategy<Value = Prot> {
    prop_oneof![4 => Just(RW), 2 => Just(Prot::READ), 1 => Just(Prot::empty())]
}

/// In the window of the maps, or in the heap.
fn at() -> impl Strategy<Value = u64> {
    prop_oneof![5 => 0..48_u64, 1 => HEAP..HEAP + 12]
}

fn pages() -> impl Strategy<Value = Pages> {
    (at(), 1..12_u64)
}

fn advice() -> impl Strategy<Value = Advice> {
    prop::sample::select(vec![
        Advice::DontNeed,
        Advice::DontNeed,
        Advice::DontNeedLocked,
        Advice::Free,
        Advice::DontFork,
        Advice::DoFork,
        Advice::WipeOnFork,
        Advice::KeepOnFork,
        Advice::GuardInstall,
        Advice::GuardRemove,
        Advice::PopulateRead,
        Advice::PopulateWrite,
        Advice::Sequential,
        Advice::Normal,
        Advice::HugePage,
        Advice::Cold,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    let sharing = || prop_oneof![4 => Just(Sharing::Private), 1 => Just(Sharing::Shared)];
    let lock = || prop_oneof![Just(VmFlags::LOCKED), Just(VmFlags::LOCKED_MASK)];
    prop_oneof![
        12 => (pages(), prot(), sharing()).prop_map(|(p, prot, s)| Step::Map(p, prot, s)),
        6 => pages().prop_map(Step::Unmap),
        8 => (pages(), prot()).prop_map(|(p, prot)| Step::Protect(p, prot)),
        8 => (pages(), pages()).prop_map(|(from, to)| Step::Move(from, to)),
        3 => (pages(), at()).prop_map(|((from, len), to)| Step::Move((from, len), (to, len))),
        3 => (pages(), at()).prop_map(|(from, to)| Step::MoveAndKeep(from, to)),
        4 => (pages(), 1..12_u64).prop_map(|(from, len)| Step::Resize(from, len)),
        4 => (HEAP - 1..HEAP + 20).prop_map(Step::Brk),
        20 => (at(), 1..255_u8).prop_map(|(at, byte)| Step::Store(at, byte)),
        6 => at().prop_map(Step::Load),
        14 => (pages(), advice()).prop_map(|(p, a)| Step::Advise(p, a)),
        4 => (pages(), lock()).prop_map(|(p, l)| Step::Lock(p, l)),
        3 => pages().prop_map(Step::Unlock),
        1 => Just(Step::LockAll),
        1 => Just(Step::UnlockAll),
        1 => pages().prop_map(Step::Seal),
        2 => Just(Step::Fork),
    ]
}

fn range((at, len): Pages) -> std::ops::Range<u64> {
    at..at + len
}

/// A call's errno, or none.
fn answer<T>(result: CallResult<T>) -> Result<(), Errno> {
    match result {
        Ok(_) => Ok(()),
        Err(CallError::Errno(errno)) => Err(errno),
        Err(CallError::Broken(broken)) => panic!("{broken}"),
    }
}

fn signal<T>(result: Result<T, AccessError>) -> Result<T, Fault> {
    result.map_err(|error| match error {
        AccessError::Fault(fault) => fault,
        AccessError::Broken(broken) => panic!("{broken}"),
    })
}

fn apply(m: &SoftwareMachine, model: &mut Plain, step: &Step) {
    match *step {
        Step::Map(at, prot, sharing) => {
            let kind = match sharing {
                Sharing::Private => MapType::Private,
                Sharing::Shared => MapType::Shared,
            };
            let flags = MapFlags::FIXED | MapFlags::ANONYMOUS | kind.into();
            let (addr, len) = (page(at.0), at.1 * PAGE_SIZE);
            let request = MapRequest { addr, len, prot, flags, file: None, offset: 0 };
            let mapped = answer(m.space.change().mmap(&request));
            assert_eq!(mapped, model.map(range(at), prot, sharing));
        }
        Step::Unmap(at) => assert_eq!(answer(unmap(m, at.0, at.1)), model.unmap(range(at))),
        Step::Protect(at, prot) => {
            assert_eq!(answer(protect(m, at.0, at.1, prot)), model.protect(range(at), prot));
        }
        Step::Move(from, to) => apply_move(m, model, from, to),
        Step::MoveAndKeep(from, to) => apply_move_and_keep(m, model, from, to),
        Step::Resize(from, new) => apply_resize(m, model, from, new),
        Step::Brk(end) => {
            let end_now = m.space.change().brk(page(end)).unwrap();
            assert_eq!(end_now, page(model.brk(end)));
        }
        Step::Store(at, byte) => {
            assert_eq!(signal(m.store(page(at), byte)), model.store(at, byte));
        }
        Step::Load(at) => assert_eq!(signal(m.load(page(at))), model.load(at)),
        Step::Advise(at, advice) => {
            let advised = m.space.change().madvise(page(at.0), at.1 * PAGE_SIZE, advice as i32);
            assert_eq!(answer(advised), model.advise(range(at), advice));
        }
        Step::Lock(at, lock) => {
            let on_fault = u64::from(lock.contains(VmFlags::LOCKONFAULT));
            let locked = m.space.change().mlock2(page(at.0), at.1 * PAGE_SIZE, on_fault);
            assert_eq!(answer(locked), model.lock(range(at), lock));
        }
        Step::Unlock(at) => {
            let unlocked = m.space.change().munlock(page(at.0), at.1 * PAGE_SIZE);
            assert_eq!(answer(unlocked), model.unlock(range(at)));
        }
        Step::LockAll => {
            m.space.change().mlockall(1).unwrap();
            model.lock_all(VmFlags::LOCKED);
        }
        Step::UnlockAll => {
            m.space.change().munlockall();
            model.lock_all(VmFlags::empty());
        }
        Step::Seal(at) => {
            let sealed = m.space.change().mseal(page(at.0), at.1 * PAGE_SIZE, 0);
            assert_eq!(answer(sealed), model.seal(range(at)));
        }
        Step::Fork => apply_fork(m, model),
    }
}

/// mremap(2) with a fixed target. Where the two are as long, all that is mapped in the range moves, and
/// what lies behind a gap stays; else one VMA moves, whose end the model does not know.
fn apply_move(m: &SoftwareMachine, model: &mut Plain, from: Pages, to: Pages) {
    if model.any(range(from), VmFlags::SEALED) || model.any(range(to), VmFlags::SEALED) {
        // How far it goes then depends on where VMAs end.
        return;
    }
    let result = remap(m, from.0, from.1, to.1, Some(to.0));
    let overlaps = from.0 < to.0 + to.1 && to.0 < from.0 + from.1;
    if overlaps || !model.pages.contains_key(&from.0) {
        assert!(result.is_err(), "{result:?}");
        return;
    }
    if result.is_err() && from.1 != to.1 {
        return;
    }
    assert_eq!(result.unwrap(), page(to.0));
    if from.1 != to.1 {
        model.unmap(range(to)).unwrap();
    }
    let last = model.pages.get(&(from.0 + from.1 - 1)).copied();
    model.shift(from.0, to.0, from.1.min(to.1));
    if to.1 < from.1 {
        model.unmap(from.0 + to.1..from.0 + from.1).unwrap();
    } else if to.1 > from.1 {
        model.extend(last.unwrap(), to.0 + from.1, to.1 - from.1);
    }
}

/// Where it is done, private memory reads as zeros at the source, and shared memory is there twice.
fn apply_move_and_keep(m: &SoftwareMachine, model: &mut Plain, from: Pages, to: u64) {
    let target = (to, from.1);
    let odd = VmFlags::SEALED | VmFlags::LOCKED_MASK;
    if odd.iter().any(|odd| model.any(0..200, odd)) {
        // The source is not locked afterwards, also beyond the range that moved.
        return;
    }
    let (may_move, fixed, keep) = (1, 2, 4);
    let (addr, len) = (page(from.0), from.1 * PAGE_SIZE);
    let flags = may_move | fixed | keep;
    let request = RemapRequest { addr, old_len: len, new_len: len, flags, new_addr: page(to) };
    if m.space.change().mremap(&request).is_ok() {
        let source: Vec<_> =
            range(from).filter_map(|at| Some((at, *model.pages.get(&at)?))).collect();
        model.shift(from.0, target.0, from.1);
        for (at, page) in source {
            model.pages.insert(at, plain::Page { byte: 0, guarded: false, ..page });
        }
    } else {
        let overlaps = from.0 < to + from.1 && to < from.0 + from.1;
        assert!(overlaps || !model.pages.contains_key(&from.0), "{from:?} to {to}");
    }
}

/// mremap(2) without `MREMAP_MAYMOVE`.
fn apply_resize(m: &SoftwareMachine, model: &mut Plain, from: Pages, new: u64) {
    let request = RemapRequest {
        addr: page(from.0),
        old_len: from.1 * PAGE_SIZE,
        new_len: new * PAGE_SIZE,
        flags: 0,
        new_addr: VirtAddr::ZERO,
    };
    let result = answer(m.space.change().mremap(&request));
    let (old_end, new_end) = (from.0 + from.1, from.0 + new);
    if new <= from.1 {
        let expected = match model.pages.get(&from.0) {
            None => Err(Errno::EFAULT),
            Some(page) if page.flags.contains(VmFlags::SEALED) => Err(Errno::EPERM),
            Some(_) if new == from.1 => Ok(()),
            Some(_) => model.unmap(new_end..old_end),
        };
        assert_eq!(result, expected);
    } else if result.is_ok() {
        let last = *model.pages.get(&(old_end - 1)).unwrap();
        assert!(model.pages.range(old_end..new_end).next().is_none());
        model.extend(last, old_end, new - from.1);
    }
}

/// The child has what the model says, and what is written there the parent does not see, but in shared
/// memory.
fn apply_fork(m: &SoftwareMachine, model: &mut Plain) {
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    audit_all(&[&m.space.look(), &child]).unwrap();
    let mut its = model.child();
    let shared = SoftwareMachine {
        space: SharedSpace::new(child),
        sink: Arc::clone(&m.sink),
        frames: Arc::clone(&m.frames),
    };
    check_pages(&shared, &its);
    check_bytes(&shared, &its);
    for at in (0..48).step_by(5) {
        assert_eq!(signal(shared.store(page(at), 255)), its.store(at, 255));
    }
    model.objects = its.objects;
    shared.space.exit().unwrap();
    check_bytes(m, model);
}

/// Each page's VMA is as the model has it.
fn check_pages(m: &SoftwareMachine, model: &Plain) {
    let space = m.space.look();
    for at in 0..200 {
        let is = space.vmas().find_exact(page(at)).map(|vma| (vma.flags.prot(), vma.flags & KEPT));
        let shall = model.pages.get(&at).map(|page| (page.prot, page.flags));
        assert_eq!(is, shall, "page {at}");
    }
}

fn check_bytes(m: &SoftwareMachine, model: &Plain) {
    for at in 0..200 {
        assert_eq!(signal(m.load(page(at))), model.load(at), "page {at}");
    }
}

/// Makes the calls, with `between` before each, and compares.
fn follow(m: SoftwareMachine, steps: &[Step], mut between: impl FnMut(&SoftwareMachine)) {
    let system = Arc::clone(m.space.look().system());
    m.space.change().set_start_brk(page(HEAP));
    let mut model = Plain::new();
    for step in steps {
        between(&m);
        apply(&m, &mut model, step);
        audit_all(&[&m.space.look()]).unwrap();
        check_pages(&m, &model);
    }
    between(&m);
    check_bytes(&m, &model);
    m.space.exit().unwrap();
    assert_eq!(system.swap().map_or(0, |swap| swap.stats().used), 0);
    drop(system);
    let stats = m.frames.stats();
    assert_eq!((stats.pages, stats.tables), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 1000 }))]
    #[test]
    fn random_calls_leave_every_page_as_the_model_has_it(
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 16 } else { 120 }),
    ) {
        follow(SoftwareMachine::new(2048, Limits::default()).unwrap(), &steps, |_| ());
    }

    /// Again and again something is swapped out, whatever it is. Of what is out `MADV_FREE` leaves nothing.
    #[test]
    fn nor_does_it_matter_to_them_what_is_swapped_out_meanwhile(
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 16 } else { 120 }),
        places in 0..40_u64,
        rests in 1..8_u32,
    ) {
        let prepare = |system: &mut System| {
            system.sysctl.set_fault_ahead(8);
            system.set_swap(Box::new(MemoryStore::new(places)));
        };
        let m = SoftwareMachine::prepared(2048, Limits::default(), prepare).unwrap();
        let mut count = 0;
        let kept = |step: &&Step| !matches!(step, Step::Advise(_, Advice::Free));
        let steps: Vec<Step> = steps.iter().filter(kept).cloned().collect();
        follow(m, &steps, |m| {
            count += 1;
            if count % rests == 0 {
                let system = Arc::clone(m.space.look().system());
                system.swap_out_old().unwrap();
                audit_all(&[&m.space.look()]).unwrap();
            }
        });
    }
}
