//! The host kernel as an executor of scripts: the payload `player`, natively, at the other end of two
//! pipes. Or the nested machine's kernel, where the machine's settings can be changed.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use guest::script::{Ending, Malformed, Report, Request, Wrong};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::common;
use crate::script::{Answer, Script};

/// How long a script may take unless something else is said.
const LIMIT: Duration = Duration::from_secs(10);
/// The same in a nested machine, which has to come up first.
const NESTED_LIMIT: Duration = Duration::from_secs(240);
/// How much longer the player is waited for: it keeps the limit itself.
const GRACE: Duration = Duration::from_secs(5);

/// A running player. Each script begins in a fresh process; nothing of an earlier one is left.
#[derive(Debug)]
pub struct Oracle {
    player: Child,
    input: ChildStdin,
    output: ChildStdout,
    limit: Duration,
}

/// Why a script has no (or not all) answers. After `Refused` and `Stopped` the oracle can be used on;
/// after the others it is no more.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// No player.
    #[error("cannot run the player {program}: {error}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// The script is wrong.
    #[error("step {step} of the script cannot be performed: {wrong}")]
    Refused {
        /// Which step, from 0.
        step: u32,
        /// Why.
        wrong: Wrong,
    },
    /// The script did not run to its end.
    #[error("step {step} of the script was not completed: {}", describe(.ending))]
    Stopped {
        /// Which step, from 0.
        step: u32,
        /// Why.
        ending: Ending,
        /// The answers before it.
        answers: Vec<Answer>,
    },
    /// The player itself ended.
    #[error("the player ended ({status}); it said: {stderr:?}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The player itself hangs; it was killed.
    #[error("the player did not answer within {limit:?}, and was killed")]
    Silent {
        /// How long it had.
        limit: Duration,
    },
    /// The pipes failed.
    #[error("talking with the player failed: {0}")]
    Pipe(#[from] io::Error),
    /// What came is no report.
    #[error("the player's report cannot be read: {0}")]
    Garbled(Malformed),
}

fn describe(ending: &Ending) -> String {
    match ending {
        Ending::Finished => "it finished, but with too few answers".into(),
        Ending::Killed { process, signal } => {
            format!("signal {signal} killed process {process} of the script")
        }
        Ending::Exited { process, status } => {
            format!("process {process} of the script exited with status {status}")
        }
        Ending::Late => "the time limit passed, and its processes were killed".into(),
        Ending::Full => "there is no room for the answers; ask for less, or in two scripts".into(),
        Ending::Refused => "the player refused the script".into(),
        Ending::NoProcess { errno } => format!("fork failed with errno {errno}"),
    }
}

impl Oracle {
    /// Starts a player.
    pub fn start() -> Result<Self, OracleError> {
        Self::of(&mut Command::new(common::payload("player")))
    }

    /// Starts a player, as root, in a nested machine of its own. The first script has the boot to wait
    /// for.
    pub fn nested() -> Result<Self, OracleError> {
        let mut command = Command::new(common::MMVISOR);
        command.args(["nested", "run", "--"]).arg(common::payload("player"));
        let mut oracle = Self::of(&mut command)?;
        oracle.limit = NESTED_LIMIT;
        Ok(oracle)
    }

    /// Starts a player by its command.
    fn of(command: &mut Command) -> Result<Self, OracleError> {
        let program = command.get_program().to_owned();
        let mut start = || {
            let mut player = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .spawn()?;
            let (Some(input), Some(output)) = (player.stdin.take(), player.stdout.take()) else {
                return Err(io::Error::other("no pipes"));
            };
            let oracle = Oracle { player, input, output, limit: LIMIT };
            for pipe in [oracle.input.as_fd(), oracle.output.as_fd()] {
                rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
                rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20)?;
            }
            Ok(oracle)
        };
        start()
            .map_err(|error| OracleError::Start { program: program.display().to_string(), error })
    }

    /// Sets how long a script may take.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// The player's pid, which is also its process group's number.
    pub fn pid(&self) -> u32 {
        self.player.id()
    }

    /// Performs a script; there are as many answers as steps.
    pub fn run(&mut self, script: &Script) -> Result<Vec<Answer>, OracleError> {
        script.check().map_err(|(step, wrong)| OracleError::Refused { step, wrong })?;
        let until = Instant::now() + self.limit + GRACE;
        let (report, bytes) = match self.exchange(script.bytes(), until) {
            Ok(came) => came,
            Err(Failure::Garbled(malformed)) => return Err(OracleError::Garbled(malformed)),
            Err(Failure::Pipe(error)) => return Err(self.diagnose(error)),
        };
        let answers = Script::decode(&bytes).map_err(OracleError::Garbled)?;
        if report.ending != Ending::Finished || answers.len() != script.len() {
            return Err(OracleError::Stopped { step: report.step, ending: report.ending, answers });
        }
        Ok(answers)
    }

    fn exchange(&mut self, script: &[u8], until: Instant) -> Result<(Report, Vec<u8>), Failure> {
        let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        let request = Request { length: script.len() as u64, limit }.encode();
        write(&mut self.input, &[&request, script].concat(), until)?;
        let mut report = [0; Report::BYTES];
        read(&mut self.output, &mut report, until)?;
        let report = Report::decode(report).map_err(Failure::Garbled)?;
        let length = usize::try_from(report.length).ok();
        let length = length.filter(|&length| length <= guest::script::ANSWER_BYTES);
        let mut answers = vec![0; length.ok_or(Failure::Garbled(Malformed::Long))?];
        read(&mut self.output, &mut answers, until)?;
        Ok((report, answers))
    }

    /// What is behind a pipe that failed. The player is gone afterwards.
    fn diagnose(&mut self, error: io::Error) -> OracleError {
        match error.kind() {
            io::ErrorKind::TimedOut => {
                self.kill();
                OracleError::Silent { limit: self.limit + GRACE }
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                // Its end of the pipes is closed: it is a zombie, or about to be.
                let mut stderr = Vec::new();
                let said = self.player.stderr.take().map(|mut pipe| pipe.read_to_end(&mut stderr));
                match (said.transpose(), self.player.wait()) {
                    (Ok(_), Ok(status)) => {
                        let stderr = String::from_utf8_lossy(&stderr).trim_end().to_owned();
                        OracleError::Ended { status, stderr }
                    }
                    (Err(error), _) | (_, Err(error)) => OracleError::Pipe(error),
                }
            }
            _ => OracleError::Pipe(error),
        }
    }

    /// Kills the player and whatever it has running, and reaps it.
    fn kill(&mut self) {
        // Waited for already: the number may be another's by now.
        if matches!(self.player.try_wait(), Ok(None)) {
            // It cannot fail: the player is there, at least as a zombie.
            let _ = kill_process_group(Pid::from_child(&self.player), Signal::KILL);
            let _ = self.player.wait();
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An exchange that did not work.
enum Failure {
    Garbled(Malformed),
    Pipe(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Pipe(error)
    }
}

fn write(pipe: &mut ChildStdin, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match pipe.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) => retry(error, pipe.as_fd(), PollFlags::OUT, until)?,
        }
    }
    Ok(())
}

fn read(pipe: &mut ChildStdout, mut bytes: &mut [u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match pipe.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) => retry(error, pipe.as_fd(), PollFlags::IN, until)?,
        }
    }
    Ok(())
}

/// Waits until a pipe that was not ready is; any other error is handed back.
fn retry(
    error: io::Error,
    pipe: BorrowedFd<'_>,
    events: PollFlags,
    until: Instant,
) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => return Ok(()),
        io::ErrorKind::WouldBlock => {}
        _ => return Err(error),
    }
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::from_borrowed_fd(pipe, events)], Some(&left)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
