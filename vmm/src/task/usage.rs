//! What a process has used so far: the host's time of its thread, and faults and pages of its memory (Linux's
//! `getrusage`).
//!
//! Faults are counted by spaces. A process that shares one begins where that is; what it has of a space when it takes
//! another is what it had earlier.

use std::time::Duration;

use mm::space::Counters;
use nix::sys::resource::{UsageWho, getrusage};

use super::family::Family;
use super::process::Process;
use super::status::CLOCK_TICKS;
use super::{Usage, ticks};
use crate::kvm::Kicker;

/// The calling thread's processor time: of its own, and in the host's kernel.
fn own_times() -> [Duration; 2] {
    let Ok(used) = getrusage(UsageWho::RUSAGE_THREAD) else { return [Duration::ZERO; 2] };
    [used.user_time(), used.system_time()].map(|time| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(micros)
    })
}

/// The same of another thread, in whole ticks; none if it has ended.
fn times_of(thread: Kicker) -> Option<[Duration; 2]> {
    let path = format!("/proc/self/task/{}/stat", thread.thread_id());
    let text = std::fs::read_to_string(path).ok()?;
    // Behind the name, which may have anything in it, the 14th and 15th field.
    let fields = text.rsplit_once(')')?.1;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse);
    let mut next =
        || fields.next()?.ok().map(|ticks: u64| Duration::from_millis(ticks * 1000 / CLOCK_TICKS));
    Some([next()?, next()?])
}

/// What a space has counted.
pub(super) fn of_space(counters: &Counters) -> Usage {
    let major_faults = counters.faults.swapped.load(std::sync::atomic::Ordering::Relaxed);
    Usage {
        peak_pages: counters.resident.peak(),
        faults: counters.faults.total().saturating_sub(major_faults),
        major_faults,
        ..Usage::default()
    }
}

impl Family {
    /// What a process used itself, all its programs together. It must still be there, and its thread be the caller's.
    #[must_use]
    pub fn usage(&self, process: &Process) -> Usage {
        let [user, system] = own_times();
        Usage { user, system, ..self.memory_usage(process) }
    }

    /// The same of any process, without its times.
    #[must_use]
    pub fn memory_usage(&self, process: &Process) -> Usage {
        let space = process.space.look();
        // With what was brought in ahead and has been touched since.
        let peak_pages = space.resident().peak();
        let now = Usage { peak_pages, ..of_space(space.counters()) };
        drop(space);
        self.lock().get(process.pid).map_or(now, |member| member.earlier_and(now))
    }

    /// The ticks of times(2) that a process has used so far, its own and in the host's kernel; none if it has ended.
    #[must_use]
    pub fn ticks_of(&self, pid: i32) -> [u64; 2] {
        let thread = self.lock().get(pid).and_then(|member| member.kicker);
        thread.and_then(times_of).unwrap_or_default().map(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_s_times_are_what_it_has_of_itself() {
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(0);
        }
        // Ticks are cut off, and what is asked later is more.
        let [before, of, after] =
            [own_times(), times_of(Kicker::of_this_thread()).unwrap(), own_times()];
        assert!(of[0] + of[1] <= after[0] + after[1] + Duration::from_millis(10));
        assert!(of[0] + of[1] + Duration::from_millis(30) >= before[0] + before[1]);
        assert!(after[0] + after[1] > Duration::ZERO);
    }
}
