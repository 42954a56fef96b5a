//! What a task is doing, as others see it in `/proc`.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Signals;

/// What a task is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// It runs.
    Runs,
    /// It waits in a call, and a signal ends that.
    Sleeps,
    /// A signal has stopped it.
    Stopped,
}

impl Doing {
    /// As `/proc/PID/stat` says it.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Doing::Runs => 'R',
            Doing::Sleeps => 'S',
            Doing::Stopped => 'T',
        }
    }
}

/// As `/proc/PID/status` says it.
impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doing::Runs => "R (running)",
            Doing::Sleeps => "S (sleeping)",
            Doing::Stopped => "T (stopped)",
        })
    }
}

/// The task sleeps as long as it has this.
#[derive(Debug)]
pub struct Asleep<'a>(&'a AtomicBool);

impl Signals {
    /// The task waits for something from now on.
    pub fn asleep(&self) -> Asleep<'_> {
        self.sleeps.store(true, Ordering::Relaxed);
        Asleep(&self.sleeps)
    }

    /// What it is doing.
    #[must_use]
    pub fn doing(&self) -> Doing {
        if self.is_stopped() {
            return Doing::Stopped;
        }
        if self.sleeps.load(Ordering::Relaxed) { Doing::Sleeps } else { Doing::Runs }
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
