//! The host's side of a running machine: brings it up, gives it one job after another, carries their
//! streams, and notices when it goes away.
//!
//! One thread a port reads and sends events here; the channel is short, so a caller that takes output
//! slowly slows the job down and nothing piles up.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::qemu::{Hardware, Qemu};
use super::streams::Pump;
use super::wire::{CHUNK, Command, Output, Report};
use super::{Assets, Input, NestedError, Outcome, Streams};

/// How long a machine may take to come up. It takes 2 s; this is for a host that does much else.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Events on their way at most.
const QUEUE: usize = 8;

/// What a port's thread tells.
#[derive(Debug)]
enum Event {
    Report(Report),
    Bytes(Output, Vec<u8>),
    Nonsense(String),
    /// The control port is closed: QEMU has ended or is ending.
    Gone,
}

/// A machine that is up.
#[derive(Debug)]
pub(super) struct Session {
    qemu: Qemu,
    control: UnixStream,
    stdin: UnixStream,
    events: Receiver<Event>,
    deadline: Deadline,
}

/// The caller's limit for all of it.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    limit: Option<Duration>,
    start: Instant,
}

impl Deadline {
    /// What is left, `None` for ever.
    fn left(self) -> Option<Duration> {
        self.limit.map(|limit| limit.saturating_sub(self.start.elapsed()))
    }
}

impl Session {
    /// Starts the machine and waits until it is ready for its first job.
    ///
    /// # Errors
    /// Whatever keeps it from coming up; see [`NestedError`].
    pub(super) fn start(
        assets: &Assets,
        hardware: Hardware,
        launcher: &Path,
        initramfs: &File,
        limit: Option<Duration>,
    ) -> Result<Self, NestedError> {
        let deadline = Deadline { limit, start: Instant::now() };
        let boot_limit = limit.unwrap_or(BOOT_LIMIT).min(BOOT_LIMIT);
        let (qemu, [control, stdin, outputs @ ..]) =
            Qemu::start(assets, hardware, launcher, initramfs, boot_limit)?;
        let (sender, events) = sync_channel(QUEUE);
        let reports = control.try_clone().map_err(NestedError::host("duplicating a socket"))?;
        spawn("nested control", sender.clone(), move |sender| {
            read_reports(reports, sender);
        })?;
        for (output, port) in Output::ALL.into_iter().zip(outputs) {
            spawn("nested output", sender.clone(), move |sender| {
                read_output(port, output, sender);
            })?;
        }
        drop(sender);
        let mut session = Session { qemu, control, stdin, events, deadline };
        match session.next(Some(boot_limit.saturating_sub(deadline.start.elapsed()))) {
            Ok(Event::Report(Report::Ready)) => Ok(session),
            Ok(event) => Err(session.unexpected(event)),
            Err(NestedError::Timeout(_)) => {
                Err(NestedError::BootTimeout { limit: boot_limit, log: session.qemu.log() })
            }
            Err(NestedError::Lost { status, log }) => Err(NestedError::QemuDied { status, log }),
            Err(error) => Err(error),
        }
    }

    /// Carries the streams of the next job of the machine's list until it ends.
    ///
    /// # Errors
    /// [`NestedError::Timeout`] past the caller's limit, [`NestedError::Lost`] or
    /// [`NestedError::KernelPanic`] if the machine goes away, [`NestedError::Protocol`].
    pub(super) fn run(
        &mut self,
        input: Input,
        streams: &mut Streams<'_>,
    ) -> Result<Outcome, NestedError> {
        match self.next(self.deadline.left())? {
            Event::Report(Report::Started) => {}
            event => return Err(self.unexpected(event)),
        }
        let port = self.stdin.try_clone().map_err(NestedError::host("duplicating a socket"))?;
        let pump = Pump::start(input, port)?;
        let end = self.carry(streams);
        if end.is_err() {
            // The pump may wait for a machine that takes nothing any more.
            self.qemu.stop();
        }
        pump.stop();
        let outcome = end?;
        self.command(Command::Continue);
        Ok(outcome)
    }

    /// Passes output on until the job has ended and all it wrote is here.
    fn carry(&mut self, streams: &mut Streams<'_>) -> Result<Outcome, NestedError> {
        let (mut arrived, mut open) = ([0_u64; 3], [true; 3]);
        let mut end: Option<(Outcome, [u64; 3])> = None;
        loop {
            if let Some((outcome, _)) = end.take_if(|(_, written)| *written == arrived) {
                return Ok(outcome);
            }
            match self.next(self.deadline.left())? {
                Event::Bytes(output, bytes) => {
                    let (sink, index) = (streams.of(output), output.index());
                    arrived[index] += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    if open[index] && sink.write_all(&bytes).and_then(|()| sink.flush()).is_err() {
                        open[index] = false;
                        self.command(Command::Closed(output));
                    }
                }
                Event::Report(Report::Finished { outcome, written }) if end.is_none() => {
                    end = Some((outcome, written));
                }
                event => return Err(self.unexpected(event)),
            }
        }
    }

    /// The next event; `wait` is the time until the caller's limit.
    fn next(&mut self, wait: Option<Duration>) -> Result<Event, NestedError> {
        let event = match wait {
            // Asked first: a job that never stops writing would always have an event ready.
            Some(Duration::ZERO) => Err(RecvTimeoutError::Timeout),
            Some(wait) => self.events.recv_timeout(wait),
            None => self.events.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => {
                let status = self.qemu.wait_end();
                Err(match self.qemu.panic() {
                    Some(log) => NestedError::KernelPanic { log },
                    None => NestedError::Lost { status, log: self.qemu.log() },
                })
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(NestedError::Timeout(self.deadline.limit.unwrap_or_default()))
            }
            Ok(event) => Ok(event),
        }
    }

    fn unexpected(&self, event: Event) -> NestedError {
        match event {
            Event::Report(Report::Failed(why)) => NestedError::Boot(why),
            Event::Nonsense(what) => NestedError::Protocol(what),
            event => NestedError::Protocol(format!("{event:?} at the wrong time")),
        }
    }

    fn command(&mut self, command: Command) {
        // A machine that is gone is told by its next event.
        if let Err(error) = self.control.write_all(&[command.byte()]) {
            log::debug!("telling the nested machine {command:?}: {error}");
        }
    }
}

/// Starts a thread that reads a port; it ends when QEMU does, or when nobody takes events any more.
fn spawn(
    name: &str,
    sender: SyncSender<Event>,
    read: impl FnOnce(&SyncSender<Event>) + Send + 'static,
) -> Result<(), NestedError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || read(&sender));
    thread.map(drop).map_err(NestedError::host("starting a thread"))
}

fn read_reports(port: UnixStream, sender: &SyncSender<Event>) {
    for line in BufReader::new(port).split(b'\n') {
        let Ok(line) = line else { break };
        let event = serde_json::from_slice(&line).map_or_else(
            |_| Event::Nonsense(String::from_utf8_lossy(&line).into_owned()),
            Event::Report,
        );
        if sender.send(event).is_err() {
            return;
        }
    }
    // Nobody left to tell is fine.
    let _ = sender.send(Event::Gone);
}

fn read_output(mut port: UnixStream, output: Output, sender: &SyncSender<Event>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match port.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(length @ 1..)
                if sender.send(Event::Bytes(output, buffer[..length].to_vec())).is_ok() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session in which these events happen, and the machine's end of its control port.
    fn session(happening: Vec<Event>) -> (Session, UnixStream) {
        let (control, machine) = UnixStream::pair().unwrap();
        let (stdin, _) = UnixStream::pair().unwrap();
        let (sender, events) = sync_channel(happening.len());
        happening.into_iter().for_each(|event| sender.send(event).unwrap());
        let deadline = Deadline { limit: None, start: Instant::now() };
        (Session { qemu: Qemu::stand_in(), control, stdin, events, deadline }, machine)
    }

    fn finished(stdout: u64) -> Event {
        Event::Report(Report::Finished { outcome: Outcome::Exited(7), written: [stdout, 0, 0] })
    }

    fn started() -> Event {
        Event::Report(Report::Started)
    }

    fn bytes(bytes: &[u8]) -> Event {
        Event::Bytes(Output::Stdout, bytes.to_vec())
    }

    fn run(session: &mut Session, mut stdout: impl Write) -> Result<Outcome, NestedError> {
        let mut streams =
            Streams { stdout: &mut stdout, stderr: &mut Vec::new(), side: &mut Vec::new() };
        session.run(Input::Empty, &mut streams)
    }

    fn told(session: Session, mut machine: UnixStream) -> Vec<u8> {
        drop(session);
        let mut told = Vec::new();
        machine.read_to_end(&mut told).unwrap();
        told
    }

    #[test]
    fn output_that_arrives_after_the_end_of_its_job_is_waited_for() {
        let (mut session, machine) =
            session(vec![started(), bytes(b"a"), finished(3), bytes(b"bc")]);
        let mut stdout = Vec::new();
        assert_eq!(run(&mut session, &mut stdout).unwrap(), Outcome::Exited(7));
        assert_eq!(stdout, b"abc");
        assert_eq!(told(session, machine), [Command::Continue.byte()]);
    }

    #[test]
    fn a_closed_output_is_told_once_and_the_job_still_ends() {
        let (mut session, machine) =
            session(vec![started(), bytes(b"ab"), bytes(b"cd"), finished(4)]);
        let (closed, other) = UnixStream::pair().unwrap();
        drop(other);
        assert_eq!(run(&mut session, closed).unwrap(), Outcome::Exited(7));
        assert_eq!(
            told(session, machine),
            [Command::Closed(Output::Stdout).byte(), Command::Continue.byte()]
        );
    }

    #[test]
    fn a_machine_that_goes_away_or_talks_nonsense_is_an_error() {
        let (mut gone, _machine) = session(vec![started(), bytes(b"a"), Event::Gone]);
        assert!(matches!(run(&mut gone, Vec::new()), Err(NestedError::Lost { .. })));
        let (mut strange, _machine) = session(vec![finished(0)]);
        assert!(matches!(run(&mut strange, Vec::new()), Err(NestedError::Protocol(_))));
    }

    #[test]
    fn a_limit_holds_even_if_there_is_always_something_to_read() {
        let (mut session, _machine) = session(vec![started(), bytes(b"a")]);
        session.deadline.limit = Some(Duration::ZERO);
        assert!(matches!(run(&mut session, Vec::new()), Err(NestedError::Timeout(_))));
    }
}
