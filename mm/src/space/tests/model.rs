//! Random calls against a plain model, page by page.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
        Step::Move(from, old, new, to) => apply_move(m, model, (from, old), (to, new)),
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

/// mremap(2) of pages `(from, old)` to the fixed target `(to, new)`. Where the two are as long, all that
/// is mapped in the range moves, and what lies behind a gap stays; else one VMA moves, whose end the model
/// does not know.
fn apply_move(m: &SoftwareMachine, model: &mut Model, source: (u64, u64), target: (u64, u64)) {
    let ((from, old), (to, new)) = (source, target);
    let result = remap(m, from, old, new, Some(to));
    let overlaps = from < to + new && to < from + old;
    let Some(&(whole, _)) = model.get(&from).filter(|_| !overlaps) else {
        assert!(result.is_err(), "{result:?}");
        return;
    };
    if result.is_err() && old != new {
        return;
    }
    assert_eq!(result.unwrap(), page(to));
    let moved: Vec<_> = (from..from + old).map(|i| model.remove(&i)).collect();
    if old != new {
        model.retain(|i, _| !(to..to + new).contains(i));
    }
    for i in 0..new {
        match moved.get(i as usize) {
            Some(Some(page)) => drop(model.insert(to + i, *page)),
            Some(None) => {}
            None => drop(model.insert(to + i, (whole, 0))),
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
