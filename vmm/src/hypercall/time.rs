//! Clocks and sleeping: the host's.

use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_getres as host_getres, clock_gettime as host_gettime};

use super::pause::{continued, left};
use super::{Context, Served, Stop};
use crate::task::{Continuation, Restart, rest, ticks};

const NANOS: u64 = 1_000_000_000;

/// Host time that the calling thread has used: a guest process's, for each has a thread of its own.
pub(crate) fn thread_time() -> Duration {
    duration(host_gettime(ClockId::ThreadCPUTime))
}

/// Since the host was started.
pub(crate) fn uptime() -> Duration {
    duration(host_gettime(ClockId::Boottime))
}

fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn clock(number: i32) -> Result<ClockId, Stop> {
    Ok(match number {
        libc::CLOCK_REALTIME => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        // Both: a guest process has one thread.
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID => ClockId::ThreadCPUTime,
        libc::CLOCK_MONOTONIC_RAW => ClockId::MonotonicRaw,
        libc::CLOCK_REALTIME_COARSE => ClockId::RealtimeCoarse,
        libc::CLOCK_MONOTONIC_COARSE => ClockId::MonotonicCoarse,
        libc::CLOCK_BOOTTIME => ClockId::Boottime,
        _ => return Err(Errno::EINVAL.into()),
    })
}

/// What a clock shows.
pub(super) fn now(number: i32) -> Result<Duration, Stop> {
    Ok(duration(host_gettime(clock(number)?)))
}

/// What a negative number of a clock says (`MAKE_PROCESS_CPUCLOCK`): the processor time of a process or task, 0 for the
/// caller. `None` where it says nothing.
fn processor_clock(c: &Context<'_>, number: i32) -> Option<Duration> {
    // The kind, and whether it is a task's: all the same here, where there is one. 3 is a descriptor's.
    if number >= 0 || number & 3 == 3 {
        return None;
    }
    let pid = !(number >> 3);
    if pid == 0 || pid == c.process.pid {
        return Some(thread_time());
    }
    c.process.family.has(pid).then(|| c.process.family.time_of(pid))
}

fn words(time: Timespec) -> [u64; 2] {
    [time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned()]
}

/// clock_gettime(2).
pub(super) fn clock_gettime(c: &mut Context<'_>) -> Served {
    let time = match processor_clock(c, c.int(0)) {
        Some(used) => [used.as_secs(), used.subsec_nanos().into()],
        None => words(host_gettime(clock(c.int(0))?)),
    };
    c.write_words(c.address(1), &time)?;
    Ok(0)
}

/// clock_getres(2).
pub(super) fn clock_getres(c: &mut Context<'_>) -> Served {
    let clock = match processor_clock(c, c.int(0)) {
        Some(_) => ClockId::ThreadCPUTime,
        None => clock(c.int(0))?,
    };
    let resolution = host_getres(clock);
    if c.address(1) != VirtAddr::ZERO {
        c.write_words(c.address(1), &words(resolution))?;
    }
    Ok(0)
}

/// gettimeofday(2). The time zone is not kept: zeros.
pub(super) fn gettimeofday(c: &mut Context<'_>) -> Served {
    let time = host_gettime(ClockId::Realtime);
    if c.address(0) != VirtAddr::ZERO {
        let [seconds, nanos] = words(time);
        c.write_words(c.address(0), &[seconds, nanos / 1000])?;
    }
    if c.address(1) != VirtAddr::ZERO {
        c.write_words(c.address(1), &[0])?;
    }
    Ok(0)
}

/// time(2).
pub(super) fn time(c: &mut Context<'_>) -> Served {
    let [seconds, _] = words(host_gettime(ClockId::Realtime));
    if c.address(0) != VirtAddr::ZERO {
        c.write_words(c.address(0), &[seconds])?;
    }
    Ok(seconds)
}

/// A `struct timespec` of the program's.
pub(super) fn timespec(c: &Context<'_>, at: VirtAddr) -> Result<Duration, Stop> {
    let [seconds, nanos] = c.read_words(at)?;
    if nanos >= NANOS || seconds > i64::MAX.cast_unsigned() {
        return Err(Errno::EINVAL.into());
    }
    Ok(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

/// nanosleep(2).
pub(super) fn nanosleep(c: &mut Context<'_>) -> Served {
    let time = timespec(c, c.address(0))?;
    sleep(c, time, c.address(1))
}

/// clock_nanosleep(2).
pub(super) fn clock_nanosleep(c: &mut Context<'_>) -> Served {
    let clock = clock(c.int(0))?;
    let wanted = timespec(c, c.address(2))?;
    if c.int(1) & libc::TIMER_ABSTIME == 0 {
        return sleep(c, wanted, c.address(3));
    }
    let left = wanted.saturating_sub(duration(host_gettime(clock)));
    match rest(c.process, &mut [], Some(left)) {
        Ok(answer) => {
            answer?;
            Ok(0)
        }
        Err(_) => Err(Stop::Interrupted(Restart::IfUnhandled)),
    }
}

/// The end of a time that begins now. What is longer than any clock goes on for a century.
pub(super) fn end_of(time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(time.min(CENTURY)).unwrap_or(now)
}

fn sleep(c: &mut Context<'_>, time: Duration, left_at: VirtAddr) -> Served {
    sleep_until(c, end_of(time), left_at)
}

/// Sleeps; if a signal ends that, the time left goes to `left_at` (`hrtimer_nanosleep`).
pub(super) fn sleep_until(c: &mut Context<'_>, until: Instant, left_at: VirtAddr) -> Served {
    match rest(c.process, &mut [], Some(left(until))) {
        Ok(answer) => {
            answer?;
            return Ok(0);
        }
        Err(_) if left(until).is_zero() => return Ok(0),
        Err(_) => {}
    }
    if left_at != VirtAddr::ZERO {
        let left = left(until);
        c.write_words(left_at, &[left.as_secs(), u64::from(left.subsec_nanos())])?;
    }
    Err(continued(c, Continuation::Sleep { until, left_at }))
}

/// times(2).
pub(super) fn times(c: &mut Context<'_>) -> Served {
    if c.address(0) != VirtAddr::ZERO {
        let family = &c.process.family;
        let [user, system] = family.usage(c.process).ticks();
        let [of_children, in_kernel] = family.children_usage(c.process.pid).ticks();
        c.write_words(c.address(0), &[user, system, of_children, in_kernel])?;
    }
    Ok(ticks(uptime()))
}
