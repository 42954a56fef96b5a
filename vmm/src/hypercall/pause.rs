//! Waiting for signals, and calls taken up again after one.

use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::Errno;

use super::signals::set_at;
use super::{Context, Served, Stop, futex, poll, time};
use crate::task::{Continuation, Restart, Signal, SignalSet, rest};

/// pause(2).
pub(super) fn pause(c: &mut Context<'_>) -> Served {
    until_a_signal(c)
}

/// rt_sigsuspend(2): the mask comes back once a handler has been called.
pub(super) fn rt_sigsuspend(c: &mut Context<'_>) -> Served {
    let mask = set_at(c, 0, 1)?;
    c.delivery.saved_mask = Some(c.process.signals.blocked());
    c.process.signals.set_blocked(mask);
    until_a_signal(c)
}

fn until_a_signal(c: &Context<'_>) -> Served {
    loop {
        // With nothing to wait for and for ever, only a signal ends it.
        if rest(c.process, &mut [], None).is_err() {
            return Err(Stop::Interrupted(Restart::IfUnhandled));
        }
    }
}

/// rt_sigtimedwait(2).
pub(super) fn rt_sigtimedwait(c: &mut Context<'_>) -> Served {
    let these = set_at(c, 0, 3)?;
    let time = match c.address(2) {
        VirtAddr::ZERO => None,
        at => Some(time::timespec(c, at)?),
    };
    let signals = &c.process.signals;
    let mut found = signals.take(these);
    if found.is_none() && time != Some(Duration::ZERO) {
        signals.set_awaited(these);
        let waited = rest(c.process, &mut [], time);
        signals.set_awaited(SignalSet::NONE);
        found = signals.take(these);
        if found.is_none() && waited.is_err() {
            return Err(Errno::EINTR.into());
        }
    }
    let info = found.ok_or(Errno::EAGAIN)?;
    if info.signal() == Signal::ALRM {
        c.process.family.restart_timer(c.process.pid);
    }
    if c.address(1) != VirtAddr::ZERO {
        c.write_bytes(c.address(1), &info.to_bytes())?;
    }
    Ok(u64::from(info.signal().number().unsigned_abs()))
}

/// restart_syscall(2): what a signal has interrupted, with the time that is left.
pub(super) fn restart_syscall(c: &mut Context<'_>) -> Served {
    match c.delivery.continuation.take() {
        None => Err(Errno::EINTR.into()),
        Some(Continuation::Sleep { until, left_at }) => time::sleep_until(c, until, left_at),
        Some(Continuation::Poll { at, count, until }) => poll::poll_until(c, at, count, until),
        Some(Continuation::Futex(awaited)) => futex::wait(c, awaited),
    }
}

/// A call that is taken up again if no handler is called.
pub(super) fn continued(c: &mut Context<'_>, continuation: Continuation) -> Stop {
    c.delivery.continuation = Some(continuation);
    Stop::Interrupted(Restart::Continued(continuation))
}

/// How much time there is left, none if it is past.
pub(super) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
