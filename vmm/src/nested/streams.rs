//! Where a job's output goes to on the host, and how its input gets into the machine.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::wire::{CHUNK, Output, write_frame};
use super::{Input, NestedError};

/// Where a job's output goes. A stream that refuses a write (a closed pipe) is closed for the job too.
pub struct Streams<'a> {
    /// Takes standard output, as it comes.
    pub stdout: &'a mut dyn Write,
    /// Takes standard error, as it comes.
    pub stderr: &'a mut dyn Write,
    /// Takes what the job writes to [`SIDE_OUTPUT`](super::SIDE_OUTPUT), as it comes.
    pub side: &'a mut dyn Write,
}

impl Streams<'_> {
    /// Where this output goes.
    pub(super) fn of(&mut self, output: Output) -> &mut dyn Write {
        match output {
            Output::Stdout => self.stdout,
            Output::Stderr => self.stderr,
            Output::Side => self.side,
        }
    }
}

impl fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

/// The thread that carries a job's input to the machine. It always ends with the empty frame, so the
/// machine knows where the next job's input begins.
#[derive(Debug)]
pub(super) struct Pump {
    /// Dropped to end the thread while it waits for a descriptor that has nothing to read.
    cancel: UnixStream,
    thread: JoinHandle<()>,
}

impl Pump {
    /// Starts it.
    ///
    /// # Errors
    /// [`NestedError::Host`] if the host has no descriptor or thread left.
    pub(super) fn start(input: Input, mut port: UnixStream) -> Result<Self, NestedError> {
        let (cancel, cancelled) =
            UnixStream::pair().map_err(NestedError::host("making a pair of sockets"))?;
        let carry = move || {
            // A failed read is the end of the input, as it would be for a program; a failed write
            // means that the machine is gone, which the session is told by other ways.
            let carried = match input {
                Input::Empty => Ok(()),
                Input::Bytes(bytes) => {
                    bytes.chunks(CHUNK).try_for_each(|piece| write_frame(&mut port, piece))
                }
                Input::Descriptor(source) => copy(&mut File::from(source), &cancelled, &mut port),
            };
            if let Err(error) = carried.and_then(|()| write_frame(&mut port, &[])) {
                log::debug!("carrying a job's input: {error}");
            }
        };
        let thread = std::thread::Builder::new()
            .name("nested stdin".to_owned())
            .spawn(carry)
            .map_err(NestedError::host("starting a thread"))?;
        Ok(Pump { cancel, thread })
    }

    /// Ends it, whether or not the input was read to its end. The machine must still take frames, or
    /// be gone.
    pub(super) fn stop(self) {
        drop(self.cancel);
        if self.thread.join().is_err() {
            log::error!("the thread that carries a job's input panicked");
        }
    }
}

/// Copies until the end of the source, a read error, or until the other end of `cancelled` is closed.
fn copy(source: &mut File, cancelled: &UnixStream, port: &mut UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut ready = [
            PollFd::new(source.as_fd(), PollFlags::POLLIN),
            PollFd::new(cancelled.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        if ready[1].any() == Some(true) {
            return Ok(());
        }
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => write_frame(port, &buffer[..length])?,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => {
                log::warn!("reading standard input: {error}");
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::super::wire::read_frame;
    use super::*;

    fn received(port: &mut UnixStream) -> Vec<u8> {
        let (mut all, mut frame) = (Vec::new(), Vec::new());
        while read_frame(port, &mut frame).unwrap() {
            all.extend_from_slice(&frame);
        }
        all
    }

    #[test]
    fn bytes_larger_than_a_frame_arrive_whole_and_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let bytes: Vec<u8> = (0..CHUNK * 3 + 7).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let pump = Pump::start(Input::Bytes(bytes.clone()), ours).unwrap();
        assert_eq!(received(&mut theirs), bytes);
        pump.stop();
    }

    #[test]
    fn an_input_that_never_comes_can_be_given_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (silent, _kept_open) = UnixStream::pair().unwrap();
        let pump = Pump::start(Input::Descriptor(OwnedFd::from(silent)), ours).unwrap();
        pump.stop();
        assert_eq!(received(&mut theirs), b"");
    }

    #[test]
    fn a_descriptor_that_cannot_be_read_is_an_empty_input() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let directory = File::open("/").unwrap();
        let pump = Pump::start(directory.into(), ours).unwrap();
        assert_eq!(received(&mut theirs), b"");
        pump.stop();
    }
}
