//! A job, the thing the nested machine is given to do, and its result.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a job reads on standard input.
#[derive(Debug, Default)]
pub enum Input {
    /// Nothing: end of file at once.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// Whatever can be read from this descriptor, streamed: it is never held in memory as a whole.
    Descriptor(OwnedFd),
}

impl Input {
    /// This process's own standard input.
    ///
    /// # Errors
    /// If it is closed, or the descriptor cannot be duplicated.
    pub fn own() -> io::Result<Self> {
        Ok(Input::Descriptor(io::stdin().as_fd().try_clone_to_owned()?))
    }
}

impl From<File> for Input {
    fn from(file: File) -> Self {
        Input::Descriptor(file.into())
    }
}

/// One command to run in the nested machine.
#[derive(Debug)]
pub struct Job {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) stdin: Input,
    pub(super) limit: Option<Duration>,
}

impl Job {
    /// A command: the first of `argv` is a path in the machine, the rest its arguments. Its
    /// environment and its input are empty.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let argv = argv.into_iter().map(Into::into).collect();
        Job { argv, env: Vec::new(), stdin: Input::Empty, limit: None }
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// What it reads on standard input.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Input>) -> Self {
        self.stdin = input.into();
        self
    }

    /// How long it may run, counted in the machine. Past it the job and all it started are killed.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl From<Vec<u8>> for Input {
    fn from(bytes: Vec<u8>) -> Self {
        Input::Bytes(bytes)
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It exited with this status.
    Exited(u8),
    /// This signal killed it.
    Killed(u8),
    /// It ran longer than its time limit and was killed.
    TimedOut,
    /// It could not be started; the reason, as a sentence.
    NotStarted(String),
}

impl Outcome {
    /// The status a shell would show: the job's own, or 128+N when signal N killed it, 124 past the
    /// time limit (as timeout(1) does), 125 when it could not be started.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Outcome::Exited(status) => *status,
            Outcome::Killed(signal) => 128_u8.saturating_add(*signal),
            Outcome::TimedOut => 124,
            Outcome::NotStarted(_) => 125,
        }
    }
}

/// How a job ended, and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobResult {
    /// How it ended.
    pub outcome: Outcome,
    /// What it wrote on standard output.
    pub stdout: Vec<u8>,
    /// What it wrote on standard error.
    pub stderr: Vec<u8>,
    /// What it wrote to [`SIDE_OUTPUT`](super::SIDE_OUTPUT).
    pub side: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_125_and_a_signal_are_told_as_a_shell_tells_them() {
        assert_eq!(Outcome::Exited(125).exit_status(), 125);
        assert_eq!(Outcome::Killed(11).exit_status(), 139);
        assert_eq!(Outcome::TimedOut.exit_status(), 124);
    }
}
