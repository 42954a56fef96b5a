//! The signals of one process: what it wants done about each, what it blocks, what waits, and whether it is
//! to die or has been stopped (Linux's `sighand_struct`, `signal_struct`, `blocked`, `pending`).
//!
//! ```text
//!   post ── ignored and not blocked: nothing ── deadly by default: fatal ── else it waits
//!   due  ── fatal ── caused by an instruction ── sent to the task ── sent to the process ──> what is to be done
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::actions::{Actions, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_RESETHAND};
use super::pending::{Pending, Queued};
use super::{Effect, Info, QueueFull, Signal, SignalAction, SignalSet};

/// Whom a signal is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// The task: tkill, tgkill, what its own instructions cause.
    Task,
    /// The process: kill, timers, children.
    Process,
}

/// What came of sending a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Nothing that the process need know of now.
    Nothing,
    /// There is something to be done: its thread must look.
    Wakes,
    /// The process is to die of it, wherever it waits.
    Kills,
}

/// What is to be done before the program goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// It dies.
    Die(Info),
    /// A handler is called.
    Handle(Info, SignalAction),
    /// It stops.
    Stop(Signal),
}

/// The signals of one process.
#[derive(Debug)]
pub struct Signals {
    /// Which others may share (`CLONE_SIGHAND`), until execve(2).
    actions: Mutex<Arc<Mutex<Actions>>>,
    state: Mutex<State>,
    queued: Queued,
    /// Whether there is anything to be done, for the run loop to ask cheaply.
    attention: AtomicBool,
    /// Whether its task waits for something, for `/proc` to tell.
    pub(super) sleeps: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    blocked: SignalSet,
    /// What rt_sigtimedwait(2) waits for.
    awaited: SignalSet,
    to_task: Pending,
    to_process: Pending,
    /// What it is to die of.
    fatal: Option<Info>,
    /// Whether it has stopped.
    stopped: bool,
}

impl State {
    fn waiting(&self) -> SignalSet {
        self.to_task.set() | self.to_process.set()
    }

    fn forget(&mut self, these: SignalSet) {
        self.to_task.forget(these);
        self.to_process.forget(these);
    }

    fn take(&mut self, among: SignalSet) -> Option<Info> {
        self.to_task.take(among).or_else(|| self.to_process.take(among))
    }

    fn needs_attention(&self) -> bool {
        self.fatal.is_some() || !(self.waiting() - self.blocked).is_empty()
    }
}

impl Default for Signals {
    /// Of a fresh process that shares nothing with others.
    fn default() -> Self {
        Signals::new(Queued::default())
    }
}

impl Signals {
    /// Of a fresh process: all as by default. `queued` counts for all processes.
    #[must_use]
    pub fn new(queued: Queued) -> Self {
        Signals::with(Arc::default(), SignalSet::NONE, queued)
    }

    fn with(actions: Arc<Mutex<Actions>>, blocked: SignalSet, queued: Queued) -> Self {
        let state = Mutex::new(State { blocked, ..State::default() });
        let actions = Mutex::new(actions);
        let no = || AtomicBool::new(false);
        Signals { actions, state, queued, attention: no(), sleeps: no() }
    }

    /// A child's: the same actions, of its own, and mask; nothing waits for it.
    #[must_use]
    pub fn copy(&self) -> Self {
        let actions = self.actions(|actions| actions.clone());
        Signals::with(Arc::new(Mutex::new(actions)), self.blocked(), self.queued.clone())
    }

    /// A child's that shares the actions (`CLONE_SIGHAND`).
    #[must_use]
    pub fn share(&self) -> Self {
        Signals::with(self.shared(), self.blocked(), self.queued.clone())
    }

    fn shared(&self) -> Arc<Mutex<Actions>> {
        Arc::clone(&self.actions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at what is done about signals, or changes it.
    fn actions<T>(&self, act: impl FnOnce(&mut Actions) -> T) -> T {
        act(&mut self.shared().lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and says what has come of it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        self.attention.store(state.needs_attention(), Ordering::Release);
        result
    }

    /// What is done about `signal`.
    #[must_use]
    pub fn action(&self, signal: Signal) -> SignalAction {
        self.actions(|actions| actions.get(signal))
    }

    /// Sets what is done about `signal`. One that waits and comes to nothing now is forgotten.
    pub fn set_action(&self, signal: Signal, action: SignalAction) {
        self.change(|state| {
            self.actions(|actions| actions.set(signal, action));
            if action.effect(signal) == Some(Effect::None) {
                state.forget(signal.into());
            }
        });
    }

    /// Whether the process has its children reaped for it: it ignores `SIGCHLD`, or says `SA_NOCLDWAIT`.
    #[must_use]
    pub fn reaps_itself(&self) -> bool {
        let action = self.action(Signal::CHLD);
        action.is_ignore() || action.has(SA_NOCLDWAIT)
    }

    /// Whether it wants to know when a child stops or goes on.
    #[must_use]
    pub fn hears_of_stops(&self) -> bool {
        let action = self.action(Signal::CHLD);
        !action.is_ignore() && !action.has(SA_NOCLDSTOP)
    }

    /// For a program that takes this one's place (execve(2)): what is ignored stays so, handlers are gone, the
    /// mask and what waits stay. Who shared what is done about signals keeps it as it was (`unshare_sighand`).
    pub fn begin_program(&self) {
        let own = self.actions(|actions| actions.for_new_program());
        let mut actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        *actions = Arc::new(Mutex::new(own));
    }

    /// Which signals are ignored by the program's own word, and which have handlers.
    #[must_use]
    pub fn ignored_and_caught(&self) -> (SignalSet, SignalSet) {
        self.actions(|actions| actions.ignored_and_caught())
    }

    /// Blocked signals.
    #[must_use]
    pub fn blocked(&self) -> SignalSet {
        self.state().blocked
    }

    /// Sets the blocked signals.
    pub fn set_blocked(&self, mask: SignalSet) {
        self.change(|state| state.blocked = mask - SignalSet::UNBLOCKABLE);
    }

    /// Those that wait and are blocked (sigpending(2)).
    #[must_use]
    pub fn waiting(&self) -> SignalSet {
        let state = self.state();
        state.waiting() & state.blocked
    }

    /// A signal comes (`send_signal_locked`, `complete_signal`). `limit` is the sender's
    /// `RLIMIT_SIGPENDING`.
    ///
    /// # Errors
    /// [`QueueFull`] for a real-time signal of which something is told.
    pub fn post(&self, info: Info, to: To, limit: u64) -> Result<Sent, QueueFull> {
        let signal = info.signal();
        self.change(|state| {
            if SignalSet::STOPS.contains(signal) {
                state.forget(Signal::CONT.into());
            }
            if signal == Signal::CONT {
                state.forget(SignalSet::STOPS);
                state.stopped = false;
            }
            let blocked = state.blocked.contains(signal);
            let effect = self.action(signal).effect(signal);
            if effect == Some(Effect::None) && !blocked {
                // It has gone on nonetheless.
                return Ok(if signal == Signal::CONT { Sent::Wakes } else { Sent::Nothing });
            }
            // Who has stopped dies of others only as it goes on (`wants_signal`).
            let dies = effect == Some(Effect::Dies) && !blocked && !state.stopped;
            if signal == Signal::KILL || dies {
                state.fatal.get_or_insert(info);
                return Ok(Sent::Kills);
            }
            let pending = match to {
                To::Task => &mut state.to_task,
                To::Process => &mut state.to_process,
            };
            pending.post(info, &self.queued, limit)?;
            let wakes = !blocked || state.awaited.contains(signal) || signal == Signal::CONT;
            Ok(if wakes { Sent::Wakes } else { Sent::Nothing })
        })
    }

    /// The kernel sends one: there is always room.
    pub fn post_from_kernel(&self, info: Info, to: To) -> Sent {
        self.post(info, to, u64::MAX).unwrap_or(Sent::Nothing)
    }

    /// A signal that cannot be put off, since the program cannot go on as it is (`force_sig_info`): where it
    /// is blocked or ignored, its default comes.
    pub fn force(&self, info: Info) {
        let signal = info.signal();
        self.change(|state| {
            self.actions(|actions| {
                if state.blocked.contains(signal) || actions.get(signal).is_ignore() {
                    actions.reset_handler(signal);
                    state.blocked = state.blocked - signal.into();
                }
            });
            // One of these always has room.
            let _ = state.to_task.post(info, &self.queued, u64::MAX);
        });
    }

    /// Whether [`force`](Signals::force) would have a handler called.
    #[must_use]
    pub fn would_handle(&self, signal: Signal) -> bool {
        let blocked = self.state().blocked.contains(signal);
        !blocked && self.action(signal).is_handled()
    }

    /// The handler of `failed` could not be called (`force_sigsegv`).
    pub fn force_after(&self, failed: Signal) {
        if failed == Signal::SEGV {
            self.change(|_| self.actions(|actions| actions.reset_handler(Signal::SEGV)));
        }
        self.force(Info::from_kernel(Signal::SEGV));
    }

    /// Has the process die of `by`, whatever it wants done about it. The first such signal counts.
    pub fn doom(&self, by: Info) {
        self.change(|state| {
            state.fatal.get_or_insert(by);
        });
    }

    /// What the process is to die of, if anything.
    #[must_use]
    pub fn fatal(&self) -> Option<Info> {
        if self.needs_attention() { self.state().fatal } else { None }
    }

    /// Whether something may be [due](Signals::due).
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Whether a call that waits is to give up.
    #[must_use]
    pub fn interrupts(&self) -> bool {
        if self.needs_attention() {
            return true;
        }
        let state = self.state();
        !(state.waiting() & state.awaited).is_empty()
    }

    /// What is to be done now (`get_signal`). A signal that is told here is no longer waiting.
    pub fn due(&self) -> Due {
        self.change(|state| {
            loop {
                if let Some(info) = state.fatal {
                    return Due::Die(info);
                }
                let free = !state.blocked;
                let caused = state.to_task.take_caused(free);
                let Some(info) = caused.or_else(|| state.take(free)) else { return Due::Nothing };
                let signal = info.signal();
                let action = self.action(signal);
                match action.effect(signal) {
                    None => {
                        if action.has(SA_RESETHAND) {
                            self.actions(|actions| actions.reset_handler(signal));
                        }
                        return Due::Handle(info, action);
                    }
                    Some(Effect::None) => {}
                    Some(Effect::Stops) => {
                        state.stopped = true;
                        return Due::Stop(signal);
                    }
                    Some(Effect::Dies | Effect::DumpsCore) => state.fatal = Some(info),
                }
            }
        })
    }

    /// It does not stop after all.
    pub fn go_on(&self) {
        self.change(|state| state.stopped = false);
    }

    /// Whether it has stopped, and nothing has it go on or die.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let state = self.state();
        state.stopped && state.fatal.is_none()
    }

    /// A handler has been called (`signal_delivered`): its signals are blocked until it returns.
    pub fn enter_handler(&self, signal: Signal, action: &SignalAction) {
        let own = if action.has(SA_NODEFER) { SignalSet::NONE } else { signal.into() };
        let mask = self.blocked() | action.mask | own;
        self.set_blocked(mask);
    }

    /// Takes one of `among` that waits, whatever is done about it (`do_sigtimedwait`).
    pub fn take(&self, among: SignalSet) -> Option<Info> {
        self.change(|state| state.take(among - SignalSet::UNBLOCKABLE))
    }

    /// Has the calling task woken by `these`, though they are blocked; by none after that.
    pub fn set_awaited(&self, these: SignalSet) {
        self.change(|state| state.awaited = these - SignalSet::UNBLOCKABLE);
    }
}

#[cfg(test)]
mod tests;
