//! Runs the jobs: starts each with its streams on the ports, waits for it, clears up after it.
//!
//! ```text
//!   port stdin ──frames──► feed ──pipe──► ┌─────┐ ──pipe──► drain ──► port stdout
//!                                         │ job │ ──pipe──► drain ──► port stderr
//!                                         │     │ ──named pipe► drain ► port side
//!   port control ──► obey ──flags, ack──► └─────┘ ──status──────────► port control
//! ```

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo};

use super::super::wire::{CHUNK, Command, JobDescription, Output, Report, read_frame};
use super::super::{Outcome, SIDE_OUTPUT};
use super::{Ports, power_off, report};

/// How long killed processes may take to be gone, before the next job begins all the same.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// Which outputs of the running job nobody takes any more, as the host said.
type Closed = [AtomicBool; 3];

/// Runs all jobs, then waits for the host to switch the machine off.
pub(super) fn all(jobs: &[JobDescription], ports: Ports) -> Result<Infallible, String> {
    let Ports { mut control, stdin, outputs } = ports;
    mkfifo(SIDE_OUTPUT, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| format!("making the pipe {SIDE_OUTPUT}: {errno}"))?;
    let closed = Closed::default();
    let commands = control.try_clone().map_err(|e| format!("duplicating the control port: {e}"))?;
    std::thread::scope(|scope| {
        let (acknowledge, acknowledged) = channel();
        let closed = &closed;
        scope.spawn(move || obey(commands, closed, &acknowledge));
        let mut run = |job| {
            closed.iter().for_each(|closed| closed.store(false, Ordering::Relaxed));
            report(&mut control, &Report::Started)?;
            one(job, &mut control, &stdin, &outputs, closed, &acknowledged)
        };
        if let Err(why) = jobs.iter().try_for_each(&mut run) {
            report(&mut control, &Report::Failed(why))?;
        }
        // `obey` switches the machine off when the host hangs up.
        loop {
            std::thread::park();
        }
    })
}

/// Does what the host says until it hangs up, which is the end of the machine.
fn obey(mut control: File, closed: &Closed, acknowledge: &Sender<()>) {
    let mut byte = [0];
    loop {
        match control.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(1) => {}
            _ => power_off(),
        }
        match Command::from_byte(byte[0]) {
            Some(Command::Continue) if acknowledge.send(()).is_ok() => {}
            Some(Command::Closed(output)) => closed[output.index()].store(true, Ordering::Relaxed),
            Some(Command::Continue) | None => power_off(),
        }
    }
}

/// Runs one job to its end, tells the host, and waits until it has everything.
fn one(
    job: &JobDescription,
    control: &mut File,
    stdin: &File,
    [stdout, stderr, side]: &[File; 3],
    closed: &Closed,
    acknowledged: &Receiver<()>,
) -> Result<(), String> {
    let (side_pipe, side_kept) = open_side()?;
    let (child, not_started) = match spawn(job) {
        Ok(child) => (Some(child), None),
        Err(why) => (None, Some(why)),
    };
    std::thread::scope(|scope| {
        let (mut child, mut pipes) = (child, (None, None, None));
        if let Some(child) = &mut child {
            pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        }
        let (to_job, from_job, from_job_error) = pipes;
        let feeding = scope.spawn(move || feed(stdin, to_job));
        let draining = [
            scope.spawn(|| drain(from_job, stdout, &closed[Output::Stdout.index()])),
            scope.spawn(|| drain(from_job_error, stderr, &closed[Output::Stderr.index()])),
            scope.spawn(|| drain(Some(side_pipe), side, &closed[Output::Side.index()])),
        ];
        let outcome = match child {
            Some(child) => wait(child, job.limit),
            None => Outcome::NotStarted(not_started.unwrap_or_default()),
        };
        clear_up();
        drop(side_kept);
        let [stdout, stderr, side] =
            draining.map(|thread| thread.join().unwrap_or(Err("a thread panicked".into())));
        report(control, &Report::Finished { outcome, written: [stdout?, stderr?, side?] })?;
        acknowledged.recv().map_err(|_| "the host hung up".to_owned())?;
        feeding.join().unwrap_or(Err("a thread panicked".into()))
    })
}

/// The reading end of the job's named pipe, and what keeps it from its end until the job has ended:
/// a job need not open it at once, or at all.
fn open_side() -> Result<(File, File), String> {
    let fail = |error| format!("opening the pipe {SIDE_OUTPUT}: {error}");
    // An end that both reads and writes waits for no other.
    let both = File::options().read(true).write(true).open(SIDE_OUTPUT).map_err(fail)?;
    let read = File::open(SIDE_OUTPUT).map_err(fail)?;
    let kept = File::options().write(true).open(SIDE_OUTPUT).map_err(fail)?;
    // With a reader left here, the job would never be told that nobody reads.
    drop(both);
    Ok((read, kept))
}

fn spawn(job: &JobDescription) -> Result<Child, String> {
    let [program, arguments @ ..] = job.argv.as_slice() else {
        return Err("the command is empty".to_owned());
    };
    Process::new(program)
        .args(arguments)
        .env_clear()
        .envs(job.env.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            format!("starting {} in the nested machine: {error}", program.to_string_lossy())
        })
}

/// Carries frames to the job until the empty one. A job that does not read is no reason to stop: the
/// port has to be empty for the next.
fn feed(mut port: &File, job: Option<impl Write>) -> Result<(), String> {
    let (mut job, mut frame) = (job, Vec::with_capacity(CHUNK));
    while read_frame(&mut port, &mut frame)
        .map_err(|e| format!("reading the port for standard input: {e}"))?
    {
        if job.as_mut().is_some_and(|job| job.write_all(&frame).is_err()) {
            job = None;
        }
    }
    Ok(())
}

/// Carries the job's output to the port until it ends, or until nobody reads it on the host: then the
/// pipe is closed, and the job's next write fails as it would there. Says how many bytes it carried.
fn drain(job: Option<impl Read>, mut port: &File, closed: &AtomicBool) -> Result<u64, String> {
    let (mut buffer, mut carried) = (vec![0; CHUNK], 0);
    let Some(mut job) = job else { return Ok(0) };
    loop {
        let length = match job.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A pipe cannot fail in another way that has anything left to read.
            Ok(0) | Err(_) => return Ok(carried),
            Ok(length) => length,
        };
        if closed.load(Ordering::Relaxed) {
            return Ok(carried);
        }
        port.write_all(&buffer[..length]).map_err(|e| format!("writing to a port: {e}"))?;
        carried += u64::try_from(length).unwrap_or(u64::MAX);
    }
}

/// Waits for the job, no longer than its limit.
fn wait(mut child: Child, limit: Option<Duration>) -> Outcome {
    let (sender, ended) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(child.wait()));
        let status = match limit {
            None => ended.recv().map_err(RecvTimeoutError::from),
            Some(limit) => ended.recv_timeout(limit),
        };
        match status {
            Ok(Ok(status)) => outcome(status),
            Ok(Err(error)) => Outcome::NotStarted(format!("waiting for the command: {error}")),
            Err(_) => {
                kill_all();
                Outcome::TimedOut
            }
        }
    })
}

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => Outcome::Killed(signal.and_then(|s| u8::try_from(s).ok()).unwrap_or(0)),
    }
}

/// Every process but this one: a job's children end with it.
fn kill_all() {
    // Fails when there is none.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}

/// Kills what a job has left running, and collects it.
fn clear_up() {
    kill_all();
    let deadline = Instant::now() + REAP_LIMIT;
    while Instant::now() < deadline {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::ECHILD) => return,
            Ok(_) | Err(_) => {}
        }
    }
}
