//! What the host and the first process of the nested machine say to each other.
//!
//! ```text
//!   /mmvisor/jobs.json   host → machine   one Description, part of the initramfs
//!   port control         machine → host   one Report a line, JSON
//!                        host → machine   one byte a Command
//!   port stdin           host → machine   per job: frames of length (u32, little-endian) and bytes,
//!                                         ended by a frame of length 0
//!   ports stdout, stderr, side
//!                        machine → host   bytes as they are; which job's, the order of reports tells
//! ```
//!
//! A job's `Finished` carries how many bytes it wrote, and the machine goes on only when the host has
//! them all and says so ([`Command::Continue`]): so bytes of two jobs never mix, and nothing is lost
//! when the machine is switched off.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Job, Kind, Outcome};

/// Where the description is in the machine.
pub(super) const DESCRIPTION_PATH: &str = "/mmvisor/jobs.json";
/// Where the kernel modules are in the machine.
pub(super) const MODULES_PATH: &str = "/mmvisor/modules";
/// The ports' names: control and standard input, then the outputs in the order of [`Output`].
pub(super) const PORT_NAMES: [&str; 5] =
    ["mmvisor.control", "mmvisor.stdin", "mmvisor.stdout", "mmvisor.stderr", "mmvisor.side"];
/// The largest frame, and the largest piece of output passed on at once, in bytes.
pub(super) const CHUNK: usize = 64 << 10;

/// What the first process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    /// Which KVM.
    pub(super) kind: Kind,
    /// Files in [`MODULES_PATH`] of the modules that carry the ports, in load order.
    pub(super) transport: Vec<String>,
    /// The same of KVM's; the last is kvm-amd.
    pub(super) kvm: Vec<String>,
    /// The jobs, in their order.
    pub(super) jobs: Vec<JobDescription>,
}

/// A [`Job`] without its input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobDescription {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) limit: Option<Duration>,
}

impl From<&Job> for JobDescription {
    fn from(job: &Job) -> Self {
        JobDescription { argv: job.argv.clone(), env: job.env.clone(), limit: job.limit }
    }
}

/// What a job writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The pipe at [`SIDE_OUTPUT`](super::SIDE_OUTPUT), if the job opens it.
    Side,
}

impl Output {
    /// All of them, each at its [`index`](Output::index).
    pub(super) const ALL: [Output; 3] = [Output::Stdout, Output::Stderr, Output::Side];

    /// Its place in what is kept for each output.
    pub(super) fn index(self) -> usize {
        match self {
            Output::Stdout => 0,
            Output::Stderr => 1,
            Output::Side => 2,
        }
    }
}

/// What the machine tells the host.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// KVM is there; jobs begin.
    Ready,
    /// It cannot run jobs; why, as a sentence.
    Failed(String),
    /// A job begins: its input is wanted.
    Started,
    /// A job ended, having written so many bytes to each [`Output`].
    Finished { outcome: Outcome, written: [u64; 3] },
}

/// What the host tells the machine, a byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// All bytes of the job have arrived: go on.
    Continue,
    /// Nobody takes this output any more: the job's next write to it is to fail.
    Closed(Output),
}

impl Command {
    const ALL: [Command; 4] = [
        Command::Continue,
        Command::Closed(Output::Stdout),
        Command::Closed(Output::Stderr),
        Command::Closed(Output::Side),
    ];

    pub(super) fn byte(self) -> u8 {
        match self {
            Command::Continue => b'c',
            Command::Closed(Output::Stdout) => b'o',
            Command::Closed(Output::Stderr) => b'e',
            Command::Closed(Output::Side) => b's',
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Command::ALL.into_iter().find(|command| command.byte() == byte)
    }
}

impl Report {
    /// One line.
    pub(super) fn to_line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Writes a frame; an empty one is the end of the input.
pub(super) fn write_frame(port: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length =
        u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    port.write_all(&length.to_le_bytes())?;
    port.write_all(bytes)
}

/// Reads a frame into `buffer` and says whether there was one: `false` is the end of the input.
///
/// # Errors
/// `InvalidData` for a length past [`CHUNK`], `UnexpectedEof` if the port ends within a frame.
pub(super) fn read_frame(port: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    port.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > CHUNK {
        return Err(io::ErrorKind::InvalidData.into());
    }
    buffer.resize(length, 0);
    port.read_exact(buffer)?;
    Ok(length != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_give_back_the_bytes_and_the_end(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8)) {
            let mut port = Vec::new();
            for piece in &pieces {
                write_frame(&mut port, piece).unwrap();
            }
            write_frame(&mut port, &[]).unwrap();
            let mut port = port.as_slice();
            let mut buffer = Vec::new();
            for piece in &pieces {
                prop_assert!(read_frame(&mut port, &mut buffer).unwrap());
                prop_assert_eq!(&buffer, piece);
            }
            prop_assert!(!read_frame(&mut port, &mut buffer).unwrap());
            prop_assert!(port.is_empty());
        }
    }

    #[test]
    fn a_frame_past_the_limit_or_cut_short_is_an_error() {
        let mut buffer = Vec::new();
        let too_long = u32::MAX.to_le_bytes();
        assert_eq!(
            read_frame(&mut too_long.as_slice(), &mut buffer).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let cut = [3, 0, 0, 0, b'x'];
        assert_eq!(
            read_frame(&mut cut.as_slice(), &mut buffer).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_report_is_one_line_that_reads_back() {
        let report =
            Report::Finished { outcome: Outcome::NotStarted("no\nway".into()), written: [1, 2, 3] };
        let line = report.to_line().unwrap();
        assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<Report>(&line).unwrap(), report);
    }

    #[test]
    fn an_argument_that_is_not_utf8_survives() {
        use std::os::unix::ffi::OsStringExt;
        let argv = vec![OsString::from_vec(vec![0xff, b'a'])];
        let job = JobDescription {
            argv: argv.clone(),
            env: vec![],
            limit: Some(Duration::from_millis(1500)),
        };
        let back: JobDescription =
            serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!(back.argv, argv);
        assert_eq!(back.limit, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn every_output_is_at_its_index() {
        for (index, output) in Output::ALL.into_iter().enumerate() {
            assert_eq!(output.index(), index);
        }
    }

    #[test]
    fn every_command_is_a_byte_of_its_own() {
        for command in Command::ALL {
            assert_eq!(Command::from_byte(command.byte()), Some(command));
        }
        assert_eq!(Command::from_byte(b'?'), None);
    }
}
