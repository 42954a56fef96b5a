//! What becomes of processes, and who is told.

use super::*;
use crate::task::SignalAction;

/// `SIGCHLD`.
pub(in crate::task) const CHILD: i32 = 17;
const ANY: Wanted = Wanted {
    which: Which::Any,
    kinds: Kinds::Ordinary,
    ends: Asked::For,
    stops: Asked::NotFor,
    continuations: Asked::NotFor,
    taking: Taking::Reap,
};

/// A new process.
pub(in crate::task) fn born(table: &mut Table, parent: i32, exit_signal: i32) -> i32 {
    let signals = Arc::new(Signals::default());
    let counters = Arc::default();
    let (base, credentials) = (Usage::default(), SharedCredentials::default());
    let birth =
        Birth { parent, exit_signal, signals, counters, base, credentials, holds_parent: false };
    table.add(birth).unwrap()
}

/// The first process and `children` of it.
fn family(children: usize) -> Table {
    let mut table = Table::default();
    assert_eq!(born(&mut table, 0, 0), FIRST);
    for _ in 0..children {
        born(&mut table, FIRST, CHILD);
    }
    table
}

fn end(table: &mut Table, pid: i32, status: u8) {
    table.end(pid, Status::Exited(status), Usage { faults: 1, ..Usage::default() });
}

fn ended(look: Look) -> (i32, Status) {
    match look {
        Look::Found(told) => (told.pid, told.status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_zombie_stays_until_it_is_waited_for_and_no_longer() {
    let mut table = family(1);
    assert_eq!(table.look(FIRST, &ANY), Look::NotYet);
    end(&mut table, 2, 7);
    let leave = Wanted { taking: Taking::Leave, ..ANY };
    assert_eq!(ended(table.look(FIRST, &leave)), (2, Status::Exited(7)));
    assert_eq!(ended(table.look(FIRST, &ANY)), (2, Status::Exited(7)));
    assert_eq!(table.look(FIRST, &ANY), Look::Nobody);
    assert_eq!(table.get(FIRST).unwrap().reaped.faults, 1);
}

#[test]
fn a_wait_sees_only_what_it_asks_for() {
    let mut table = family(2);
    end(&mut table, 3, 0);
    let child = |pid| Wanted { which: Which::Child(pid), ..ANY };
    assert_eq!(table.look(FIRST, &child(2)), Look::NotYet);
    assert_eq!(table.look(FIRST, &child(4)), Look::Nobody);
    assert_eq!(table.look(2, &ANY), Look::Nobody);
    let group = |group| Wanted { which: Which::Group(group), ..ANY };
    assert_eq!(table.look(FIRST, &group(9)), Look::Nobody);
    assert_eq!(ended(table.look(FIRST, &group(FIRST))).0, 3);
}

#[test]
fn a_child_that_sends_no_sigchld_is_waited_for_as_a_clone() {
    let mut table = family(0);
    let pid = born(&mut table, FIRST, 0);
    end(&mut table, pid, 0);
    assert_eq!(table.look(FIRST, &ANY), Look::Nobody);
    let clones = Wanted { kinds: Kinds::Clones, taking: Taking::Leave, ..ANY };
    assert_eq!(ended(table.look(FIRST, &clones)).0, pid);
    assert_eq!(ended(table.look(FIRST, &Wanted { kinds: Kinds::All, ..ANY })).0, pid);
}

#[test]
fn a_zombie_is_gone_for_who_waits_for_stops_alone() {
    let mut table = family(1);
    let stops = Wanted { ends: Asked::NotFor, stops: Asked::For, ..ANY };
    assert_eq!(table.look(FIRST, &stops), Look::NotYet);
    end(&mut table, 2, 0);
    assert_eq!(table.look(FIRST, &stops), Look::Nobody);
    assert_eq!(table.look(FIRST, &Wanted { continuations: Asked::For, ..stops }), Look::NotYet);
}

#[test]
fn orphans_dead_or_alive_become_the_first_processs_children() {
    let mut table = family(1);
    let (dead, alive) = (born(&mut table, 2, CHILD), born(&mut table, 2, 0));
    end(&mut table, dead, 5);
    end(&mut table, 2, 0);
    assert_eq!(table.get(alive).unwrap().parent, FIRST);
    let child = |pid| Wanted { which: Which::Child(pid), ..ANY };
    assert_eq!(ended(table.look(FIRST, &child(dead))).1, Status::Exited(5));
    // It sends SIGCHLD now, whatever it was to send its first parent.
    assert_eq!(table.look(FIRST, &child(alive)), Look::NotYet);
}

#[test]
fn who_ignores_sigchld_has_no_zombies_nor_do_those_it_adopts() {
    let mut table = family(2);
    table.get(FIRST).unwrap().signals.set_action(Signal::CHLD, SignalAction::IGNORE);
    let orphan = born(&mut table, 2, CHILD);
    end(&mut table, orphan, 0);
    assert!(table.get(orphan).is_some(), "its own parent does not ignore it");
    end(&mut table, 2, 0);
    assert_eq!(table.look(FIRST, &ANY), Look::NotYet);
    end(&mut table, 3, 0);
    assert_eq!(table.look(FIRST, &ANY), Look::Nobody);
    assert_eq!(table.pids().collect::<Vec<_>>(), [FIRST]);
}

#[test]
fn numbers_begin_again_past_the_highest_and_leave_out_those_in_use() {
    let mut table = family(0);
    table.last = PID_MAX - 2;
    assert_eq!(born(&mut table, FIRST, CHILD), PID_MAX - 1);
    assert_eq!(born(&mut table, FIRST, CHILD), PID_AGAIN);
    table.last = PID_MAX - 2;
    assert_eq!(born(&mut table, FIRST, CHILD), PID_AGAIN + 1);
}

#[test]
fn a_parent_dies_of_what_its_child_sends_it_at_its_end() {
    let mut table = family(1);
    let grandchild = born(&mut table, 2, Signal::USR1.number());
    end(&mut table, grandchild, 0);
    let fatal = table.get(2).unwrap().signals.fatal().unwrap();
    assert_eq!(fatal.signal(), Signal::USR1);
}

#[test]
fn a_stop_and_a_continuation_are_told_once_and_only_to_who_asks() {
    let mut table = family(1);
    let all = Wanted { stops: Asked::For, continuations: Asked::For, ..ANY };
    table.stop(2, Signal::TSTP);
    assert_eq!(table.look(FIRST, &ANY), Look::NotYet);
    let leave = Wanted { taking: Taking::Leave, ..all };
    for wanted in [leave, all] {
        assert_eq!(ended(table.look(FIRST, &wanted)), (2, Status::Stopped(Signal::TSTP)));
    }
    assert_eq!(table.look(FIRST, &all), Look::NotYet);
    table.go_on(2);
    assert_eq!(ended(table.look(FIRST, &all)), (2, Status::Continued));
    end(&mut table, 2, 0);
    assert_eq!(ended(table.look(FIRST, &all)), (2, Status::Exited(0)));
}

#[test]
fn a_parent_that_wants_no_word_of_stops_gets_no_signal_but_can_wait() {
    let mut table = family(1);
    let signals = Arc::clone(&table.get(FIRST).unwrap().signals);
    signals.set_blocked(Signal::CHLD.into());
    let quiet = SignalAction { handler: 7, flags: 1, ..SignalAction::default() };
    signals.set_action(Signal::CHLD, quiet);
    table.stop(2, Signal::STOP);
    assert!(signals.waiting().is_empty());
    signals.set_action(Signal::CHLD, SignalAction { flags: 0, ..quiet });
    table.go_on(2);
    assert_eq!(signals.waiting(), Signal::CHLD.into());
}
