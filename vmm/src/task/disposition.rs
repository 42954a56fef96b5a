//! What a process does about signals: its actions, what it blocks, what waits for it, and whether it is to
//! die of one (Linux's `sighand_struct`, `blocked`, `pending`).
//!
//! Handlers are not called yet: a signal that has one kills, with a warning.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::libc;
use nix::sys::signal::Signal;

use super::{Code, Signalled};

/// How many signals there are; numbered from 1.
const SIGNALS: usize = 64;
/// `SIG_IGN`.
const IGNORE: u64 = 1;
/// Signals that cannot be blocked, ignored or caught.
const UNBLOCKABLE: u64 = bit(Signal::SIGKILL) | bit(Signal::SIGSTOP);

/// A `struct sigaction` as the kernel has it: handler, flags, restorer, mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SignalAction {
    /// The handler's address, 0 (default) or 1 (ignore).
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// What came of sending a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The process goes on: it ignores the signal, or blocks it.
    GoesOn,
    /// The process is to die of it.
    Dies(Signalled),
}

/// The signals of one process.
#[derive(Debug)]
pub struct Signals {
    actions: Arc<Mutex<[SignalAction; SIGNALS]>>,
    state: Mutex<State>,
    /// Whether `state.fatal` is set, for the run loop to ask cheaply.
    doomed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Blocked signals, a bit each, signal 1 lowest.
    blocked: u64,
    /// Those that came while they were blocked, by number.
    waiting: BTreeMap<i32, Code>,
    /// What it is to die of.
    fatal: Option<Signalled>,
}

impl Default for Signals {
    /// Of a fresh process: all as by default.
    fn default() -> Self {
        let actions = Arc::new(Mutex::new([SignalAction::default(); SIGNALS]));
        Signals::new(actions, 0)
    }
}

impl Signals {
    fn new(actions: Arc<Mutex<[SignalAction; SIGNALS]>>, blocked: u64) -> Self {
        let state = Mutex::new(State { blocked, ..State::default() });
        Signals { actions, state, doomed: AtomicBool::new(false) }
    }

    /// A child's: the same actions, of its own, and mask; nothing waits for it.
    #[must_use]
    pub fn copy(&self) -> Self {
        Signals::new(Arc::new(Mutex::new(*self.actions())), self.blocked())
    }

    /// A child's that shares the actions (`CLONE_SIGHAND`).
    #[must_use]
    pub fn share(&self) -> Self {
        Signals::new(Arc::clone(&self.actions), self.blocked())
    }

    fn actions(&self) -> MutexGuard<'_, [SignalAction; SIGNALS]> {
        self.actions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done about signal `number`; the default for a number that is none.
    #[must_use]
    pub fn action(&self, number: i32) -> SignalAction {
        index(number).and_then(|index| self.actions().get(index).copied()).unwrap_or_default()
    }

    /// Sets what is done about signal `number`. One that waits and is ignored now is forgotten.
    pub fn set_action(&self, number: i32, action: SignalAction) {
        if let Some(index) = index(number) {
            self.actions()[index] = action;
        }
        if self.is_ignored(number) {
            self.state().waiting.remove(&number);
        }
    }

    /// Sets what has a handler to its default (execve(2)); what is ignored stays so.
    pub fn forget_handlers(&self) {
        for action in self.actions().iter_mut() {
            let handler = if action.handler == IGNORE { IGNORE } else { 0 };
            *action = SignalAction { handler, ..SignalAction::default() };
        }
    }

    /// Whether the process has its children reaped for it: it ignores `SIGCHLD`, or says `SA_NOCLDWAIT`.
    #[must_use]
    pub fn reaps_itself(&self) -> bool {
        let action = self.action(Signal::SIGCHLD as i32);
        let no_wait = u64::try_from(libc::SA_NOCLDWAIT).is_ok_and(|flag| action.flags & flag != 0);
        action.handler == IGNORE || no_wait
    }

    /// Which signals are ignored, and which have handlers, a bit each, signal 1 lowest.
    #[must_use]
    pub fn ignored_and_caught(&self) -> (u64, u64) {
        let actions = self.actions();
        let bits = |wanted: fn(u64) -> bool| {
            let wanted = (0..).zip(actions.iter()).filter(|(_, action)| wanted(action.handler));
            wanted.fold(0, |bits, (index, _)| bits | 1 << index)
        };
        (bits(|handler| handler == IGNORE), bits(|handler| handler > IGNORE))
    }

    /// Signals that wait, a bit each.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.state().waiting.keys().fold(0, |bits, &number| bits | number_bit(number))
    }

    /// Blocked signals, a bit each, signal 1 lowest.
    #[must_use]
    pub fn blocked(&self) -> u64 {
        self.state().blocked
    }

    /// Sets the blocked signals. What waited and is blocked no more may be the process's end.
    pub fn set_blocked(&self, mask: u64) -> Sent {
        let waiting: Vec<(i32, Code)> = {
            let mut state = self.state();
            state.blocked = mask & !UNBLOCKABLE;
            let blocked = state.blocked;
            let mut freed = Vec::new();
            state.waiting.retain(|&number, &mut code| {
                let stays = blocked & number_bit(number) != 0;
                if !stays {
                    freed.push((number, code));
                }
                stays
            });
            freed
        };
        let sent = waiting.into_iter().filter_map(|(number, code)| {
            Signal::try_from(number).ok().map(|signal| self.send(signal, code))
        });
        sent.fold(Sent::GoesOn, |first, next| if first == Sent::GoesOn { next } else { first })
    }

    /// Sends a signal to the process.
    pub fn send(&self, signal: Signal, code: Code) -> Sent {
        let number = signal as i32;
        let ignored = self.is_ignored(number);
        let mut state = self.state();
        if state.blocked & number_bit(number) != 0 {
            state.waiting.entry(number).or_insert(code);
            return Sent::GoesOn;
        }
        if ignored {
            return Sent::GoesOn;
        }
        if self.action(number).handler > IGNORE && signal != Signal::SIGKILL {
            log::warn!("{signal} has a handler, but handlers are not called yet");
        }
        Sent::Dies(self.set_fatal(&mut state, Signalled::plain(signal, code)))
    }

    /// Has the process die of `by`, whatever it wants done about it. The first such signal counts.
    pub fn doom(&self, by: Signalled) {
        self.set_fatal(&mut self.state(), by);
    }

    fn set_fatal(&self, state: &mut State, by: Signalled) -> Signalled {
        self.doomed.store(true, Ordering::Release);
        *state.fatal.get_or_insert(by)
    }

    /// What the process is to die of, if anything.
    #[must_use]
    pub fn fatal(&self) -> Option<Signalled> {
        if self.doomed.load(Ordering::Acquire) { self.state().fatal } else { None }
    }

    /// Whether the signal would come to nothing if it were not blocked. Nothing stops a process yet.
    fn is_ignored(&self, number: i32) -> bool {
        let by_default = [
            Signal::SIGCHLD,
            Signal::SIGURG,
            Signal::SIGWINCH,
            Signal::SIGCONT,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ];
        match self.action(number).handler {
            _ if number == Signal::SIGKILL as i32 => false,
            _ if number == Signal::SIGSTOP as i32 => true,
            handler => handler == IGNORE || by_default.iter().any(|&one| one as i32 == number),
        }
    }
}

fn index(number: i32) -> Option<usize> {
    usize::try_from(number - 1).ok().filter(|&index| index < SIGNALS)
}

const fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

fn number_bit(number: i32) -> u64 {
    index(number).map_or(0, |index| 1 << index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = Signal::SIGTERM as i32;

    fn died(by: Signal) -> Sent {
        Sent::Dies(Signalled::plain(by, Code::User))
    }

    #[test]
    fn what_is_blocked_waits_until_it_is_not() {
        let signals = Signals::default();
        assert_eq!(signals.set_blocked(u64::MAX), Sent::GoesOn);
        assert_eq!(signals.send(Signal::SIGTERM, Code::User), Sent::GoesOn);
        assert_eq!(signals.fatal(), None);
        assert_eq!(signals.set_blocked(0), died(Signal::SIGTERM));
        assert!(signals.fatal().is_some());
    }

    #[test]
    fn sigkill_cannot_be_blocked_or_ignored() {
        let signals = Signals::default();
        signals.set_action(9, SignalAction { handler: IGNORE, ..SignalAction::default() });
        signals.set_blocked(u64::MAX);
        assert_eq!(signals.send(Signal::SIGKILL, Code::User), died(Signal::SIGKILL));
    }

    #[test]
    fn a_waiting_signal_that_is_ignored_now_is_forgotten() {
        let signals = Signals::default();
        signals.set_blocked(u64::MAX);
        signals.send(Signal::SIGTERM, Code::User);
        signals.set_action(TERM, SignalAction { handler: IGNORE, ..SignalAction::default() });
        signals.set_action(TERM, SignalAction::default());
        assert_eq!(signals.set_blocked(0), Sent::GoesOn);
    }

    #[test]
    fn a_copy_has_actions_of_its_own_and_nothing_waits_for_it() {
        let signals = Signals::default();
        signals.set_blocked(u64::MAX);
        signals.send(Signal::SIGTERM, Code::User);
        let (copy, share) = (signals.copy(), signals.share());
        assert_eq!(copy.set_blocked(0), Sent::GoesOn);
        signals.set_action(TERM, SignalAction { handler: 7, ..SignalAction::default() });
        assert_eq!((copy.action(TERM).handler, share.action(TERM).handler), (0, 7));
    }

    #[test]
    fn children_are_reaped_for_who_ignores_sigchld_not_for_who_does_not_care() {
        let signals = Signals::default();
        assert!(!signals.reaps_itself());
        for action in [
            SignalAction { handler: IGNORE, ..SignalAction::default() },
            SignalAction { flags: 2, ..SignalAction::default() },
        ] {
            signals.set_action(Signal::SIGCHLD as i32, action);
            assert!(signals.reaps_itself());
        }
    }
}
