//! Timers that send signals (setitimer(2), alarm(2)): one thread for all processes, begun with the first one.
//!
//! ```text
//!   ITIMER_REAL      at its time: SIGALRM; the next period begins when that is delivered (dequeue_signal)
//!   ITIMER_VIRTUAL,  no sooner than that much processor time can have passed the thread looks how much has:
//!   ITIMER_PROF      SIGVTALRM, SIGPROF. All of it is the guest's own, as for times(2) and getrusage(2)
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::family::{Family, join};
use super::{Info, Signal, To};
use crate::kvm::Kicker;

/// How often the thread looks at least at a process that may have used its time (a tick of Linux's).
const TICK: Duration = Duration::from_millis(1);
/// What is left of a timer that is running is never told as nothing.
const LEAST: Duration = Duration::from_micros(1);
/// More than any program runs; a time that is longer is as long.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a timer measures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Measured {
    /// Time (`ITIMER_REAL`).
    Real,
    /// The program's processor time (`ITIMER_VIRTUAL`).
    Virtual,
    /// Its processor time, with the kernel's for it (`ITIMER_PROF`).
    Profile,
}

impl Measured {
    fn signal(self) -> Signal {
        match self {
            Measured::Real => Signal::ALRM,
            Measured::Virtual => Signal::VTALRM,
            Measured::Profile => Signal::PROF,
        }
    }
}

/// What is left of a timer, and its period; zero for none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Setting {
    /// Until the next signal.
    pub value: Duration,
    /// From then on.
    pub interval: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// When the thread looks at it next; `None` if it does not run.
    look_at: Option<Instant>,
    /// When it was due last, if it measures time.
    was_due: Option<Instant>,
    /// The processor time at which it is due; nothing for one that measures time.
    due_at: Duration,
    interval: Duration,
}

/// All timers.
#[derive(Debug, Default)]
pub(super) struct Timers {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    timers: BTreeMap<(i32, Measured), Timer>,
    thread: Option<JoinHandle<()>>,
    closing: bool,
}

impl Timer {
    /// Of these, `used` being the processor time so far; `None` where there is nothing to keep.
    fn new(setting: Setting, used: Duration, now: Instant) -> Option<Self> {
        let Setting { value, interval } = setting;
        if value.is_zero() {
            return None;
        }
        let value = value.min(CENTURY);
        let look_at = now.checked_add(value);
        Some(Timer { look_at, was_due: None, due_at: used + value, interval })
    }

    fn left(&self, of: Measured, used: Duration, now: Instant) -> Setting {
        let value = match (self.look_at, of) {
            (None, _) => Duration::ZERO,
            (Some(at), Measured::Real) => at.saturating_duration_since(now).max(LEAST),
            (Some(_), _) => self.due_at.saturating_sub(used).max(LEAST),
        };
        Setting { value, interval: self.interval }
    }

    /// The next period of one that measures time, from where the last one ended (`hrtimer_forward`).
    fn next_period(&mut self, last: Instant, now: Instant) {
        let late = now.saturating_duration_since(last).as_nanos();
        let period = self.interval.as_nanos().max(1);
        let ahead = u64::try_from((late / period + 1) * period).unwrap_or(u64::MAX);
        self.look_at = last.checked_add(Duration::from_nanos(ahead).min(CENTURY));
    }

    /// Looks at one that measures processor time, of which `used` has passed; says whether it is due.
    fn look(&mut self, used: Duration, now: Instant) -> bool {
        let is_due = used >= self.due_at;
        if is_due && self.interval.is_zero() {
            self.look_at = None;
            return true;
        }
        if is_due {
            self.due_at = used + self.interval.min(CENTURY);
        }
        self.look_at = now.checked_add((self.due_at - used).max(TICK));
        is_due
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is looked at next.
    fn next(state: &State) -> Option<((i32, Measured), Instant)> {
        let running = state.timers.iter();
        let running = running.filter_map(|(&key, timer)| Some((key, timer.look_at?)));
        running.min_by_key(|&(_, at)| at)
    }

    /// Waits until a timer is to be looked at: which; `None` when there will be none.
    fn wait(&self) -> Option<(i32, Measured)> {
        let mut state = self.lock();
        loop {
            if state.closing {
                return None;
            }
            state = match Timers::next(&state) {
                None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some((key, at)) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Some(key);
                    }
                    let waited = self.bell.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Family {
    /// Sets a timer of process `pid`, which the calling thread runs, and has used so much processor time; what
    /// was left of the one before.
    ///
    /// # Errors
    /// The host's, if it gives no thread.
    pub fn set_timer(
        self: &Arc<Self>,
        (pid, of): (i32, Measured),
        setting: Setting,
        used: Duration,
    ) -> io::Result<Setting> {
        let mut state = self.timers.lock();
        let now = Instant::now();
        let timer = Timer::new(setting, used, now);
        if timer.is_some() && state.thread.is_none() {
            let family = Arc::clone(self);
            let named = thread::Builder::new().name("timers".to_owned());
            state.thread = Some(named.spawn(move || family.run_timers())?);
        }
        let before = match timer {
            Some(timer) => state.timers.insert((pid, of), timer),
            None => state.timers.remove(&(pid, of)),
        };
        self.timers.bell.notify_all();
        Ok(before.map_or(Setting::default(), |timer| timer.left(of, used, now)))
    }

    /// What is left of a timer of process `pid`, which has used so much processor time.
    #[must_use]
    pub fn timer(&self, (pid, of): (i32, Measured), used: Duration) -> Setting {
        let state = self.timers.lock();
        let timer = state.timers.get(&(pid, of));
        timer.map_or(Setting::default(), |timer| timer.left(of, used, Instant::now()))
    }

    /// Process `pid` has been delivered a `SIGALRM`: its timer's next period begins, if it has one.
    pub fn restart_timer(&self, pid: i32) {
        let mut state = self.timers.lock();
        let Some(timer) = state.timers.get_mut(&(pid, Measured::Real)) else { return };
        if timer.look_at.is_none() && !timer.interval.is_zero() {
            let now = Instant::now();
            timer.next_period(timer.was_due.unwrap_or(now), now);
            self.timers.bell.notify_all();
        }
    }

    /// Process `pid` has ended.
    pub(super) fn forget_timers(&self, pid: i32) {
        let mut state = self.timers.lock();
        if !state.timers.is_empty() {
            state.timers.retain(|&(of, _), _| of != pid);
        }
    }

    /// Ends the thread.
    pub(super) fn close_timers(&self) {
        let thread = {
            let mut state = self.timers.lock();
            state.closing = true;
            self.timers.bell.notify_all();
            state.thread.take()
        };
        thread.into_iter().for_each(join);
    }

    fn run_timers(&self) {
        while let Some((pid, of)) = self.timers.wait() {
            // Not under the lock of the timers.
            let used = if of == Measured::Real { Duration::ZERO } else { self.time_of(pid) };
            let is_due = {
                let mut state = self.timers.lock();
                let now = Instant::now();
                match state.timers.get_mut(&(pid, of)) {
                    // It has been set anew meanwhile.
                    Some(timer) if timer.look_at.is_none_or(|at| at > now) => false,
                    Some(timer) if of == Measured::Real => {
                        timer.was_due = timer.look_at.take();
                        true
                    }
                    Some(timer) => timer.look(used, now),
                    None => false,
                }
            };
            if is_due {
                let info = Info::from_kernel(of.signal());
                // There is always room for one of the kernel's.
                let _ = self.send(pid, info, To::Process, u64::MAX);
            }
        }
    }

    /// The processor time that process `pid` has used; none if it has ended.
    #[must_use]
    pub fn time_of(&self, pid: i32) -> Duration {
        let thread = self.lock().get(pid).and_then(|member| member.kicker);
        let Some(thread) = thread.map(Kicker::thread_id) else { return Duration::ZERO };
        let nanos = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn setting(value: u64, interval: u64) -> Setting {
        Setting { value: MS(value), interval: MS(interval) }
    }

    #[test]
    fn a_timer_tells_what_is_left_and_never_nothing_while_it_runs() {
        let now = Instant::now();
        assert!(Timer::new(setting(0, 5), MS(0), now).is_none());
        let mut timer = Timer::new(setting(10, 5), MS(100), now).unwrap();
        assert_eq!(timer.left(Measured::Real, MS(0), now + MS(4)), setting(6, 5));
        assert_eq!(timer.left(Measured::Real, MS(0), now + MS(40)).value, LEAST);
        assert_eq!(timer.left(Measured::Virtual, MS(103), now), setting(7, 5));
        timer.look_at = None;
        assert_eq!(timer.left(Measured::Real, MS(0), now), setting(0, 5));
    }

    #[test]
    fn periods_that_are_past_are_left_out() {
        let now = Instant::now();
        let mut timer = Timer::new(setting(10, 5), MS(0), now).unwrap();
        timer.next_period(now, now + MS(12));
        assert_eq!(timer.look_at, Some(now + MS(15)));
    }

    #[test]
    fn processor_time_is_looked_at_no_more_often_than_every_tick() {
        let now = Instant::now();
        let mut timer = Timer::new(setting(10, 0), MS(100), now).unwrap();
        assert!(!timer.look(MS(109) + Duration::from_micros(999), now));
        assert_eq!(timer.look_at, Some(now + TICK));
        assert!(timer.look(MS(110), now));
        assert_eq!(timer.look_at, None);
        let mut timer = Timer::new(setting(10, 20), MS(100), now).unwrap();
        assert!(timer.look(MS(115), now));
        assert_eq!(timer.look_at, Some(now + MS(20)));
    }
}
