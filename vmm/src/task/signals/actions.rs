//! What a process wants done about each signal (sigaction(2), Linux's `sighand_struct`).

use super::number::SIGNALS;
use super::{Effect, Signal, SignalSet};

/// `SIG_DFL`.
const DEFAULT: u64 = 0;
/// `SIG_IGN`.
const IGNORE: u64 = 1;

/// `SA_NOCLDSTOP`: no `SIGCHLD` when a child stops or goes on.
pub(super) const SA_NOCLDSTOP: u64 = 1;
/// `SA_NOCLDWAIT`: children leave no zombies.
pub(super) const SA_NOCLDWAIT: u64 = 2;
/// `SA_SIGINFO`: the handler is told more.
pub(super) const SA_SIGINFO: u64 = 4;
/// `SA_RESTORER`: there is a restorer; on x86-64 there must be.
pub(super) const SA_RESTORER: u64 = 0x0400_0000;
/// `SA_ONSTACK`: on the alternate stack.
pub(super) const SA_ONSTACK: u64 = 0x0800_0000;
/// `SA_RESTART`: calls that it interrupts are made again.
pub(super) const SA_RESTART: u64 = 0x1000_0000;
/// `SA_NODEFER`: not blocked in its own handler.
pub(super) const SA_NODEFER: u64 = 0x4000_0000;
/// `SA_RESETHAND`: once.
pub(super) const SA_RESETHAND: u64 = 0x8000_0000;
/// All flags that are kept (`UAPI_SA_FLAGS`): those above, and `SA_EXPOSE_TAGBITS`.
const KNOWN: u64 = SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_RESTORER
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | 0x800;

/// A `struct sigaction` as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SignalAction {
    /// The handler's address, 0 (default) or 1 (ignore).
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: SignalSet,
}

impl SignalAction {
    /// To ignore the signal.
    pub const IGNORE: SignalAction =
        SignalAction { handler: IGNORE, flags: 0, restorer: 0, mask: SignalSet::NONE };

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Whether there is a handler to call.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        self.handler > IGNORE
    }

    /// Whether it is to be ignored by the program's own word.
    #[must_use]
    pub fn is_ignore(&self) -> bool {
        self.handler == IGNORE
    }

    /// What comes of `signal`, unless there is a handler.
    pub(super) fn effect(&self, signal: Signal) -> Option<Effect> {
        match self.handler {
            DEFAULT => Some(signal.effect()),
            IGNORE => Some(Effect::None),
            _ => None,
        }
    }
}

/// All of a process's.
#[derive(Clone, Debug)]
pub(super) struct Actions([SignalAction; SIGNALS]);

impl Default for Actions {
    fn default() -> Self {
        Actions([SignalAction::default(); SIGNALS])
    }
}

impl Actions {
    pub(super) fn get(&self, signal: Signal) -> SignalAction {
        self.0.get(signal.index()).copied().unwrap_or_default()
    }

    /// Sets one, as far as the kernel knows its flags; `SIGKILL` and `SIGSTOP` are never blocked.
    pub(super) fn set(&mut self, signal: Signal, action: SignalAction) {
        let mask = action.mask - SignalSet::UNBLOCKABLE;
        if let Some(place) = self.0.get_mut(signal.index()) {
            *place = SignalAction { flags: action.flags & KNOWN, mask, ..action };
        }
    }

    /// Back to the default, all else as it is.
    pub(super) fn reset_handler(&mut self, signal: Signal) {
        if let Some(place) = self.0.get_mut(signal.index()) {
            place.handler = DEFAULT;
        }
    }

    /// Those that are ignored, and those that have handlers.
    pub(super) fn ignored_and_caught(&self) -> (SignalSet, SignalSet) {
        let all = |wanted: fn(&SignalAction) -> bool| {
            let wanted = (0..).zip(&self.0).filter(|(_, action)| wanted(action));
            SignalSet(wanted.fold(0, |bits, (index, _)| bits | 1 << index))
        };
        (all(SignalAction::is_ignore), all(SignalAction::is_handled))
    }

    /// What a program that is executed has: handlers are gone with the old one, what is ignored stays so
    /// (`flush_signal_handlers`).
    pub(super) fn for_new_program(&self) -> Self {
        Actions(self.0.map(|action| {
            if action.is_ignore() { SignalAction::IGNORE } else { SignalAction::default() }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_flags_and_the_unblockable_signals_are_left_out() {
        let mut actions = Actions::default();
        let asked =
            SignalAction { handler: 7, flags: u64::MAX, restorer: 9, mask: !SignalSet::NONE };
        actions.set(Signal::USR1, asked);
        let kept = actions.get(Signal::USR1);
        assert_eq!((kept.handler, kept.flags, kept.restorer), (7, 0xdc00_0807, 9));
        assert_eq!(kept.mask, !SignalSet::UNBLOCKABLE);
    }

    #[test]
    fn a_new_program_keeps_what_is_ignored_and_no_handler() {
        let mut actions = Actions::default();
        actions.set(Signal::USR1, SignalAction { handler: 7, ..SignalAction::default() });
        actions.set(Signal::USR2, SignalAction { flags: SA_RESTART, ..SignalAction::IGNORE });
        let new = actions.for_new_program();
        assert_eq!(new.get(Signal::USR1), SignalAction::default());
        assert_eq!(new.get(Signal::USR2), SignalAction::IGNORE);
    }
}
