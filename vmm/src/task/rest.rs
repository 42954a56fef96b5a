//! Waiting for the host, in such a way that a process that gets a signal meanwhile notices.
//!
//! The signal of a kick is blocked up to `ppoll`, which lets it in as it begins to wait: one that came
//! before ends the wait at once.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use mm::userfault::Accessor;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::time::TimeSpec;

use super::process::current_signals;
use super::{Process, Signals};

/// A signal came, and there is something to be done about it before the program goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted;

/// Waits until one of `streams` is ready, or for `time`; how many are ready.
///
/// # Errors
/// Outer: a signal came. Inner: the host's errno, never `EINTR`.
pub fn rest(
    process: &Process,
    streams: &mut [PollFd<'_>],
    time: Option<Duration>,
) -> Result<Result<i32, Errno>, Interrupted> {
    rest_until(&process.signals, Signals::interrupts, streams, time)
}

/// Waits until a bell rings, for an access that the process of the calling thread makes.
///
/// # Errors
/// A signal came, or for a call's access one that kills.
pub fn rest_of_thread(bell: BorrowedFd<'_>, accessor: Accessor) -> Result<(), Interrupted> {
    let signals = current_signals().ok_or(Interrupted)?;
    let ends = match accessor {
        Accessor::Program => Signals::interrupts,
        Accessor::Call | Accessor::Visitor => |signals: &Signals| signals.fatal().is_some(),
    };
    let mut bells = [PollFd::new(bell, PollFlags::POLLIN)];
    // The host refuses only what it is out of.
    rest_until(&signals, ends, &mut bells, None)?.map(drop).map_err(|_| Interrupted)
}

/// The same until `ends` says that a signal came.
fn rest_until(
    signals: &Signals,
    ends: fn(&Signals) -> bool,
    streams: &mut [PollFd<'_>],
    time: Option<Duration>,
) -> Result<Result<i32, Errno>, Interrupted> {
    // All of them: nix has no names for real-time signals, which a kick is.
    let before = match SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK) {
        Ok(before) => before,
        Err(errno) => return Ok(Err(errno)),
    };
    let started = std::time::Instant::now();
    let _asleep = signals.asleep();
    let answer = loop {
        let interrupted = ends(signals);
        let time = if interrupted { Some(Duration::ZERO) } else { time };
        let left = time.map(|time| TimeSpec::from(time.saturating_sub(started.elapsed())));
        match ppoll(streams, left, Some(before)) {
            // What is ready already comes first.
            Ok(0) | Err(Errno::EINTR) if interrupted => break Err(Interrupted),
            Err(Errno::EINTR) => {}
            answer => break Ok(answer),
        }
    };
    // Setting a mask that was read back cannot fail.
    let _ = before.thread_set_mask();
    answer
}
