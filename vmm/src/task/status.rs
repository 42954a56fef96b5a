//! How a process ended and what it used, as its parent is told (wait(2), getrusage(2)).

use std::time::Duration;

use nix::libc;

use super::{Core, Death, End, Signal};

/// In what wait4(2) writes: there is a core file.
const WCOREFLAG: u32 = 0x80;

/// How a process ended, or what else has become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It exited with this status.
    Exited(u8),
    /// This signal killed it.
    Killed(Signal),
    /// Likewise, and it has left a core file.
    Dumped(Signal),
    /// This signal stopped it.
    Stopped(Signal),
    /// It goes on after a stop.
    Continued,
}

impl Status {
    /// What wait4(2) writes.
    #[must_use]
    pub fn word(self) -> u32 {
        match self {
            Status::Exited(status) => u32::from(status) << 8,
            Status::Killed(signal) => signal.number().unsigned_abs(),
            Status::Dumped(signal) => signal.number().unsigned_abs() | WCOREFLAG,
            Status::Stopped(signal) => signal.number().unsigned_abs() << 8 | 0x7f,
            Status::Continued => 0xffff,
        }
    }

    /// waitid(2)'s `si_code`.
    #[must_use]
    pub fn cause(self) -> i32 {
        match self {
            Status::Exited(_) => libc::CLD_EXITED,
            Status::Killed(_) => libc::CLD_KILLED,
            Status::Dumped(_) => libc::CLD_DUMPED,
            Status::Stopped(_) => libc::CLD_STOPPED,
            Status::Continued => libc::CLD_CONTINUED,
        }
    }

    /// waitid(2)'s `si_status`: the exit status or the signal's number.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Status::Exited(status) => i32::from(status),
            Status::Killed(signal) | Status::Dumped(signal) | Status::Stopped(signal) => {
                signal.number()
            }
            Status::Continued => Signal::CONT.number(),
        }
    }
}

impl From<&End> for Status {
    fn from(end: &End) -> Self {
        match end {
            End::Exited(status) => Status::Exited(*status),
            End::Killed(Death { by, core: Core::Dumped, .. }) => Status::Dumped(by.signal()),
            End::Killed(Death { by, core: Core::None, .. }) => Status::Killed(by.signal()),
        }
    }
}

/// Ticks a second of times(2) (`USER_HZ`).
pub(super) const CLOCK_TICKS: u64 = 100;

/// A time in ticks of times(2), the rest of one left out.
#[must_use]
pub fn ticks(time: Duration) -> u64 {
    time.as_secs() * CLOCK_TICKS + u64::from(time.subsec_millis()) * CLOCK_TICKS / 1000
}

/// What processes used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Processor time of their threads on the host, in the guest and in serving it.
    pub user: Duration,
    /// The same in the host's kernel.
    pub system: Duration,
    /// The most pages that one of them had.
    pub peak_pages: u64,
    /// Faults that needed no input (`ru_minflt`).
    pub faults: u64,
    /// Faults that did: for pages of the swap area (`ru_majflt`).
    pub major_faults: u64,
}

impl Usage {
    /// Adds what another process used.
    pub fn add(&mut self, other: Usage) {
        self.user += other.user;
        self.system += other.system;
        self.peak_pages = self.peak_pages.max(other.peak_pages);
        self.faults += other.faults;
        self.major_faults += other.major_faults;
    }

    /// Its times in ticks of times(2), the user's first.
    #[must_use]
    pub fn ticks(self) -> [u64; 2] {
        [ticks(self.user), ticks(self.system)]
    }

    /// As a `struct rusage`.
    #[must_use]
    pub fn words(self) -> [u64; 18] {
        let mut words = [0; 18];
        [words[0], words[1]] = [self.user.as_secs(), u64::from(self.user.subsec_micros())];
        [words[2], words[3]] = [self.system.as_secs(), u64::from(self.system.subsec_micros())];
        // ru_maxrss in KiB, ru_minflt, ru_majflt.
        words[4] = self.peak_pages * 4;
        [words[8], words[9]] = [self.faults, self.major_faults];
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_what_the_macros_of_wait_expect() {
        let exited = Status::Exited(7).word().cast_signed();
        assert!(libc::WIFEXITED(exited) && libc::WEXITSTATUS(exited) == 7);
        let killed = Status::Killed(Signal::SEGV).word().cast_signed();
        assert!(libc::WIFSIGNALED(killed) && libc::WTERMSIG(killed) == libc::SIGSEGV);
        assert!(!libc::WCOREDUMP(killed));
        let dumped = Status::Dumped(Signal::SEGV).word().cast_signed();
        assert!(libc::WIFSIGNALED(dumped) && libc::WCOREDUMP(dumped));
        assert_eq!(libc::WTERMSIG(dumped), libc::SIGSEGV);
        let stopped = Status::Stopped(Signal::TSTP).word().cast_signed();
        assert!(libc::WIFSTOPPED(stopped) && libc::WSTOPSIG(stopped) == libc::SIGTSTP);
        assert!(libc::WIFCONTINUED(Status::Continued.word().cast_signed()));
    }

    #[test]
    fn the_peak_of_several_is_the_highest_and_the_rest_is_the_sum() {
        let [user, system] = [1500, 250].map(Duration::from_millis);
        let one = Usage { user, system, peak_pages: 3, faults: 5, major_faults: 1 };
        let mut both = one;
        both.add(Usage { peak_pages: 2, ..one });
        assert_eq!(both.ticks(), [300, 50]);
        assert_eq!(both.words()[..10], [3, 0, 0, 500_000, 12, 0, 0, 0, 10, 2]);
    }
}
