use super::*;
use crate::task::signals::info::SI_USER;

fn send(signals: &Signals, signal: Signal) -> Sent {
    signals.post(Info::from_process(signal, SI_USER, 1), To::Process, 100).unwrap()
}

fn died(signal: Signal) -> Due {
    Due::Die(Info::from_process(signal, SI_USER, 1))
}

fn handled(flags: u64) -> SignalAction {
    SignalAction { handler: 7, flags, ..SignalAction::default() }
}

fn handles(due: Due, signal: Signal) -> bool {
    matches!(due, Due::Handle(info, _) if info.signal() == signal)
}

#[test]
fn what_is_blocked_waits_until_it_is_not() {
    let signals = Signals::default();
    signals.set_blocked(!SignalSet::NONE);
    assert_eq!(send(&signals, Signal::TERM), Sent::Nothing);
    assert_eq!((signals.due(), signals.fatal()), (Due::Nothing, None));
    assert_eq!(signals.waiting(), Signal::TERM.into());
    signals.set_blocked(SignalSet::NONE);
    assert!(signals.needs_attention());
    assert_eq!(signals.due(), died(Signal::TERM));
}

#[test]
fn sigkill_cannot_be_blocked_or_ignored() {
    let signals = Signals::default();
    signals.set_blocked(!SignalSet::NONE);
    assert_eq!(send(&signals, Signal::KILL), Sent::Kills);
    assert_eq!(signals.due(), died(Signal::KILL));
}

#[test]
fn a_waiting_signal_that_is_ignored_now_is_forgotten() {
    let signals = Signals::default();
    signals.set_blocked(!SignalSet::NONE);
    send(&signals, Signal::TERM);
    signals.set_action(Signal::TERM, SignalAction::IGNORE);
    signals.set_action(Signal::TERM, SignalAction::default());
    signals.set_blocked(SignalSet::NONE);
    assert_eq!(signals.due(), Due::Nothing);
}

#[test]
fn a_copy_has_actions_of_its_own_and_nothing_waits_for_it() {
    let signals = Signals::default();
    signals.set_blocked(!SignalSet::NONE);
    send(&signals, Signal::TERM);
    let (copy, share) = (signals.copy(), signals.share());
    assert_eq!((copy.waiting(), copy.blocked()), (SignalSet::NONE, signals.blocked()));
    signals.set_action(Signal::TERM, handled(0));
    assert!(!copy.action(Signal::TERM).is_handled() && share.action(Signal::TERM).is_handled());
    // Up to an execve of one of them.
    signals.begin_program();
    assert!(!signals.action(Signal::TERM).is_handled());
    assert!(share.action(Signal::TERM).is_handled());
}

#[test]
fn children_are_reaped_for_who_ignores_sigchld_not_for_who_does_not_care() {
    let signals = Signals::default();
    assert!(!signals.reaps_itself());
    for action in [SignalAction::IGNORE, SignalAction { flags: 2, ..SignalAction::default() }] {
        signals.set_action(Signal::CHLD, action);
        assert!(signals.reaps_itself());
    }
}

#[test]
fn the_lowest_is_due_first_and_what_the_task_was_sent_before_what_the_process_was() {
    let signals = Signals::default();
    signals.set_blocked(!SignalSet::NONE);
    for signal in [Signal::USR2, Signal::USR1] {
        signals.set_action(signal, handled(0));
        send(&signals, signal);
    }
    signals.post_from_kernel(Info::from_kernel(Signal::USR2), To::Task);
    signals.set_blocked(SignalSet::NONE);
    for signal in [Signal::USR2, Signal::USR1, Signal::USR2] {
        assert!(handles(signals.due(), signal), "{signal}");
    }
    assert_eq!((signals.due(), signals.needs_attention()), (Due::Nothing, false));
}

#[test]
fn a_handler_blocks_its_signal_unless_told_otherwise_and_may_be_for_once() {
    let signals = Signals::default();
    let once = handled(SA_RESETHAND | SA_NODEFER);
    signals.set_action(Signal::USR1, once);
    send(&signals, Signal::USR1);
    assert!(handles(signals.due(), Signal::USR1));
    signals.enter_handler(Signal::USR1, &once);
    assert_eq!(signals.blocked(), SignalSet::NONE);
    assert_eq!(send(&signals, Signal::USR1), Sent::Kills);
    signals.enter_handler(Signal::USR2, &handled(0));
    assert_eq!(signals.blocked(), Signal::USR2.into());
}

#[test]
fn a_forced_signal_that_is_blocked_or_ignored_kills() {
    let fault = Info::fault(Signal::SEGV, 1, 0);
    let blocked = Signals::default();
    blocked.set_action(Signal::SEGV, handled(0));
    blocked.set_blocked(Signal::SEGV.into());
    assert!(!blocked.would_handle(Signal::SEGV));
    blocked.force(fault);
    assert_eq!(blocked.due(), Due::Die(fault));
    let ignored = Signals::default();
    ignored.set_action(Signal::SEGV, SignalAction::IGNORE);
    ignored.force(fault);
    assert_eq!(ignored.due(), Due::Die(fault));
}

#[test]
fn a_handler_of_sigsegv_that_cannot_be_called_kills_and_another_one_has_it_called() {
    let signals = Signals::default();
    signals.set_action(Signal::SEGV, handled(0));
    signals.force_after(Signal::USR1);
    assert!(handles(signals.due(), Signal::SEGV));
    signals.force_after(Signal::SEGV);
    assert_eq!(signals.due(), Due::Die(Info::from_kernel(Signal::SEGV)));
}

#[test]
fn who_waits_for_a_signal_gets_it_though_it_is_blocked_and_handled() {
    let signals = Signals::default();
    signals.set_action(Signal::USR1, handled(0));
    signals.set_blocked(Signal::USR1.into());
    signals.set_awaited(Signal::USR1.into());
    assert!(!signals.interrupts());
    assert_eq!(send(&signals, Signal::USR1), Sent::Wakes);
    assert!(signals.interrupts() && !signals.needs_attention());
    assert_eq!(signals.take(Signal::USR1.into()).map(|info| info.signal()), Some(Signal::USR1));
    assert_eq!(signals.take(!SignalSet::NONE), None);
}

#[test]
fn a_stop_and_a_continuation_undo_each_other() {
    let signals = Signals::default();
    signals.set_blocked(SignalSet::of(&[Signal::TSTP, Signal::CONT]));
    send(&signals, Signal::CONT);
    send(&signals, Signal::TSTP);
    assert_eq!(signals.waiting(), Signal::TSTP.into());
    send(&signals, Signal::CONT);
    assert_eq!(signals.waiting(), Signal::CONT.into());
    send(&signals, Signal::STOP);
    assert_eq!(signals.due(), Due::Stop(Signal::STOP));
    send(&signals, Signal::TERM);
    assert!(signals.is_stopped());
    assert_eq!(send(&signals, Signal::CONT), Sent::Wakes);
    assert!(!signals.is_stopped());
    assert_eq!(signals.due(), died(Signal::TERM));
}
