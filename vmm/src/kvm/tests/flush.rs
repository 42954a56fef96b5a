//! Flushing, asked of the KVM at hand: what a vCPU sees after each method, and without one.

use std::num::NonZeroU64;
use std::sync::mpsc::channel;
use std::thread;

use mm::addr::FrameRun;
use mm::error::Broken;
use mm::failure::FailPoint;
use mm::paging::{FlushRequest, FlushSink, Others, TableChange};

use super::super::lab::{CODE, DATA, Lab, READ, Revoked, Visibility, WRITE, load_store};
use super::super::presence::Presence;
use super::super::{Exit, FlushPolicy, Kicker, Kind, Kvm, Registers};
use super::{kvm, lab};

/// The policies that can take anything away.
const REVOKING: [FlushPolicy; 2] = [FlushPolicy::NotifierOnly, FlushPolicy::DummyOnly];

/// Shadow paging keeps a translation until it is told; hardware that flushes at each entry does not.
fn keeps_translations_between_runs() -> bool {
    matches!(Kind::detect(), Kind::Soft | Kind::Shadow)
}

#[test]
fn a_revoked_page_is_seen_at_once_with_either_method_and_not_without() {
    let Some(kvm) = kvm() else { return };
    for policy in [FlushPolicy::Chosen].iter().chain(&REVOKING).copied() {
        assert_eq!(
            lab::revoked_page(&kvm, policy).unwrap().visibility,
            Visibility::New,
            "{policy:?}"
        );
    }
    if keeps_translations_between_runs() {
        assert_eq!(
            lab::revoked_page(&kvm, FlushPolicy::None).unwrap().visibility,
            Visibility::Stale
        );
    }
}

#[test]
fn a_page_that_lost_its_permission_to_write_is_read_on_with_each_method_and_not_written() {
    let Some(kvm) = kvm() else { return };
    let ask = |policy| lab::write_protected_page(&kvm, policy).unwrap().visibility;
    for policy in [FlushPolicy::Chosen, FlushPolicy::WriteProtection].iter().chain(&REVOKING) {
        assert_eq!(ask(*policy), Visibility::New, "{policy:?}");
    }
    if keeps_translations_between_runs() {
        assert_eq!(ask(FlushPolicy::None), Visibility::Stale);
    }
}

#[test]
fn a_running_vcpu_writes_nothing_more_once_a_flush_has_returned() {
    let Some(kvm) = kvm() else { return };
    let ask = |policy, revoked| lab::running_vcpus(&kvm, policy, revoked).unwrap().visibility;
    for policy in REVOKING {
        assert_eq!(ask(policy, Revoked::Page), Visibility::New, "{policy:?}");
        assert_eq!(ask(policy, Revoked::Writes), Visibility::New, "{policy:?}");
    }
    assert_eq!(ask(FlushPolicy::WriteProtection, Revoked::Writes), Visibility::New);
    if keeps_translations_between_runs() {
        assert_eq!(ask(FlushPolicy::None, Revoked::Page), Visibility::Stale);
        assert_eq!(ask(FlushPolicy::None, Revoked::Writes), Visibility::Stale);
    }
}

#[test]
fn write_protection_is_repeated_as_often_as_it_is_asked_for() {
    let Some(kvm) = kvm() else { return };
    let lab = Lab::new(&kvm, FlushPolicy::WriteProtection).unwrap();
    let page = lab.map(DATA, WRITE);
    let mut vcpu = lab.vcpu(load_store()).unwrap();
    let again = *vcpu.registers();
    for round in 1..=5 {
        lab.set(DATA, page, WRITE);
        vcpu.resume_user(&Registers { rsi: round, ..again }).unwrap();
        lab.run_to_call(&mut vcpu).unwrap();
        lab.run_to_call(&mut vcpu).unwrap();
        lab.set(DATA, page, READ);
        lab.flush_writes(page).unwrap();
        vcpu.resume_user(&again).unwrap();
        assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), round);
        assert_eq!(lab.run_to_fault(&mut vcpu).unwrap(), (14, 7));
    }
    let made = if keeps_translations_between_runs() { 5 } else { 0 };
    assert_eq!(lab.sink.counts().write_protection, made);
}

#[test]
fn a_reused_table_shows_its_new_content_after_the_dummy_slot_and_not_after_the_notifier() {
    let Some(kvm) = kvm() else { return };
    for policy in [FlushPolicy::Chosen, FlushPolicy::NotifierOnly, FlushPolicy::DummyOnly] {
        let seen = lab::reused_tables(&kvm, policy, TableChange::Unlinked).unwrap();
        assert_eq!(seen.visibility, Visibility::New, "{policy:?}");
    }
    if keeps_translations_between_runs() {
        // Why an unlinked table must be said: leaf notifiers alone give the other address's page.
        let seen = lab::reused_tables(&kvm, FlushPolicy::NotifierOnly, TableChange::None).unwrap();
        assert_eq!(seen.visibility, Visibility::Stale);
    }
}

#[test]
fn a_vcpu_is_inside_on_its_own_page_table_and_on_no_other() {
    let presence = Presence::default();
    let [first, second] = [presence.add(), presence.add()];
    assert!(!presence.is_any_inside(None));
    let inside = first.enter(0x1000);
    assert!(presence.is_any_inside(None) && presence.is_any_inside(Some(0x1000)));
    assert!(!presence.is_any_inside(Some(0x2000)));
    let also = second.enter(0x2000);
    drop(inside);
    assert!(presence.is_any_inside(Some(0x2000)) && !presence.is_any_inside(Some(0x1000)));
    drop(also);
    assert!(!presence.is_any_inside(None));
}

#[test]
fn a_flush_waits_for_page_faults_only_where_a_vcpu_of_the_space_is_inside() {
    let Some(lab) = lab() else { return };
    let page = lab.map(DATA, WRITE);
    let mut vcpu = lab.vcpu(lab::count_up()).unwrap();
    let flush = |others| {
        let leaves = vec![FrameRun { start: page, count: 1 }];
        lab.sink.flush(&FlushRequest { leaves, others, ..FlushRequest::default() }).unwrap();
        let counts = lab.sink.counts();
        (counts.graces, counts.graces_spared)
    };
    let other = lab.frame();
    assert_eq!(flush(Others::In(lab.root)), (0, 1), "none has run yet");
    let (send, receive) = channel();
    thread::scope(|scope| {
        let vcpu = &mut vcpu;
        scope.spawn(move || {
            send.send(Kicker::of_this_thread()).unwrap();
            assert!(matches!(vcpu.run(), Exit::Interrupted(_)));
        });
        let kicker = receive.recv().unwrap();
        while lab.load(page, 0) == 0 {
            thread::yield_now();
        }
        assert_eq!(flush(Others::In(lab.root)), (1, 1));
        assert_eq!(flush(Others::In(other)), (1, 2), "it is in another space");
        assert_eq!(flush(Others::MayRun), (2, 2), "it may be in any");
        assert_eq!(flush(Others::Stopped), (2, 2));
        kicker.kick().unwrap();
    });
    assert_eq!(flush(Others::In(lab.root)), (2, 3), "it has left");
    assert_eq!(flush(Others::MayRun), (2, 4));
}

#[test]
fn a_write_heals_the_translation_that_it_faulted_on_and_a_read_does_not() {
    let Some(lab) = lab() else { return };
    // What breaks copy-on-write does, without the flush that goes with it.
    let (old, copy) = (lab.map(DATA, READ), lab.frame());
    lab.store(old, 1);
    lab.store(copy, 2);
    let mut vcpu = lab.vcpu(lab::load_store()).unwrap();
    assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 1);
    lab.set(DATA, copy, WRITE);
    // The program reads once more before it writes: the old page, where translations are kept.
    let stale = lab.run_to_call(&mut vcpu).unwrap();
    assert_eq!(stale, if keeps_translations_between_runs() { 1 } else { 2 });
    let rsi = vcpu.registers().rsi;
    assert_eq!((lab.load(old, 0), lab.load(copy, 0)), (1, rsi), "the write found the copy");
}

#[test]
fn each_flush_is_counted_by_its_method() {
    let Some(lab) = lab() else { return };
    let page = lab.map(DATA, READ);
    lab.flush(&[page, page.offset(1), page.offset(5)], TableChange::None).unwrap();
    lab.flush(&[page], TableChange::Unlinked).unwrap();
    let scattered: Vec<_> = (0..200).map(|n| page.offset(2 * n)).collect();
    lab.flush(&scattered, TableChange::None).unwrap();
    let counts = lab.sink.counts();
    assert_eq!((counts.notifier, counts.notifier_runs, counts.notifier_frames), (1, 2, 3));
    assert_eq!(counts.dummy_slot, 2, "a table, and 200 scattered runs");
}

/// A page whose translation a vCPU has, and loses by `policy`; or the permission to write it alone. Calls to the host are refused as `refuse` says. Answers with the flush's own answer and how many
/// calls there were; where it said that all is well, the vCPU has seen it.
fn with_refusals(
    kvm: &Kvm,
    policy: FlushPolicy,
    takes: Takes,
    refuse: impl Fn(&FailPoint),
) -> (Result<(), Broken>, u64) {
    let lab = Lab::new(kvm, policy).unwrap();
    let page = lab.map(DATA, WRITE);
    let mut vcpu = lab.vcpu(load_store()).unwrap();
    lab.run_to_call(&mut vcpu).unwrap();
    lab.run_to_call(&mut vcpu).unwrap();
    let runs = vec![FrameRun { start: page, count: 1 }];
    let mut request = FlushRequest { others: Others::MayRun, ..FlushRequest::default() };
    match takes {
        Takes::Page => {
            lab.clear(DATA);
            request.leaves = runs;
        }
        Takes::Writes => {
            lab.set(DATA, page, READ);
            request.writes = runs;
        }
        Takes::Table => {
            lab.clear(DATA);
            request.leaves = runs;
            request.tables = TableChange::Unlinked;
        }
    }
    // Somebody is inside, so that the notifier has to wait.
    let other = lab.vm.presence().add();
    let inside = other.enter(lab.root.addr().get());
    let refusals = &lab.memory().host().refusals;
    refuse(refusals);
    let flushed = lab.sink.flush(&request);
    let calls = refusals.stop();
    if flushed.is_err() {
        lab.sink.flush(&request).unwrap();
    }
    drop(inside);
    let again = Registers { rip: CODE, rdi: DATA, rsi: 9, ..*vcpu.registers() };
    vcpu.resume_user(&again).unwrap();
    if takes == Takes::Writes {
        lab.run_to_call(&mut vcpu).unwrap();
    }
    let error = if takes == Takes::Writes { 7 } else { 4 };
    assert_eq!(lab.run_to_fault(&mut vcpu).unwrap(), (14, error), "{policy:?}, {takes:?}");
    (flushed, calls)
}

/// What a flush is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    Page,
    Writes,
    Table,
}

#[test]
fn a_flush_of_which_a_step_is_refused_takes_the_dummy_slot_and_fails_only_with_that() {
    let Some(kvm) = kvm() else { return };
    let (notifier, dummy) = (FlushPolicy::NotifierOnly, FlushPolicy::DummyOnly);
    let protection = FlushPolicy::WriteProtection;
    // Up to which call, counted from 1, one refusal is too much; and up to which one all later ones are. The dummy
    // slot is added, deleted and added again: the last one is for the next time, as is the end of logging writes.
    let protects = if keeps_translations_between_runs() { (0, 1) } else { (2, 2) };
    let ways = [
        (notifier, Takes::Page, (0, 3)),
        (notifier, Takes::Writes, (0, 3)),
        (protection, Takes::Writes, protects),
        (dummy, Takes::Page, (2, 2)),
        (notifier, Takes::Table, (2, 2)),
    ];
    for (policy, takes, (one, all)) in ways {
        let (flushed, calls) = with_refusals(&kvm, policy, takes, FailPoint::watch);
        flushed.unwrap();
        assert!(calls >= all, "{policy:?}, {takes:?}: {calls}");
        for nth in (1..=calls).filter_map(NonZeroU64::new) {
            let said = format!("{policy:?}, {takes:?}, {nth} of {calls}");
            let (flushed, _) = with_refusals(&kvm, policy, takes, |point| point.refuse(nth));
            assert_eq!(flushed.is_err(), nth.get() <= one, "{said}");
            let (flushed, _) = with_refusals(&kvm, policy, takes, |point| point.refuse_from(nth));
            assert_eq!(flushed.is_err(), nth.get() <= all, "{said} and all later ones");
            if let Err(broken) = flushed {
                let said = "the host could not change the slots that flush translations: ";
                assert!(broken.to_string().starts_with(said), "{broken}");
            }
        }
    }
}
