//! What goes over the player's standard input and output: a script with its time limit one way, the
//! answers with how it ended the other way.

use super::Words;
use super::words::Malformed;

/// What precedes a script: length in bytes, and the time limit in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Bytes of the script.
    pub length: u64,
    /// How long it may take, in milliseconds.
    pub limit: u64,
}

impl Request {
    /// Bytes of one, encoded.
    pub const BYTES: usize = 16;

    /// Encoded.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        bytes([self.length, self.limit])
    }

    /// Decoded.
    #[must_use]
    pub fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let [length, limit] = words(&bytes);
        Request { length, limit }
    }
}

/// How a script ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// All steps were performed.
    Finished,
    /// A process was killed by a signal.
    Killed {
        /// Which process.
        process: u8,
        /// By which signal.
        signal: u8,
    },
    /// A process ended without being told to.
    Exited {
        /// Which process.
        process: u8,
        /// With which status.
        status: u8,
    },
    /// The time limit passed.
    Late,
    /// There are more answers than [`super::ANSWER_BYTES`].
    Full,
    /// The script cannot be performed ([`super::check`] says why).
    Refused,
    /// The player could not make the first process.
    NoProcess {
        /// Why.
        errno: u16,
    },
}

/// What precedes the answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Bytes of the answers.
    pub length: u64,
    /// How the script ended.
    pub ending: Ending,
    /// The first step that was not performed to its end.
    pub step: u32,
}

impl Report {
    /// Bytes of one, encoded.
    pub const BYTES: usize = 40;

    /// Encoded.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let (code, a, b) = match self.ending {
            Ending::Finished => (0, 0, 0),
            Ending::Killed { process, signal } => (1, process.into(), signal.into()),
            Ending::Exited { process, status } => (2, process.into(), status.into()),
            Ending::Late => (3, 0, 0),
            Ending::Full => (4, 0, 0),
            Ending::Refused => (5, 0, 0),
            Ending::NoProcess { errno } => (6, errno.into(), 0),
        };
        bytes([self.length, code, a, b, self.step.into()])
    }

    /// Decoded.
    ///
    /// # Errors
    /// When the bytes are not what [`Report::encode`] makes.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, Malformed> {
        let [length, code, a, b, step] = words(&bytes);
        let ending = match code {
            0 => Ending::Finished,
            1 => Ending::Killed { process: narrow(a)?, signal: narrow(b)? },
            2 => Ending::Exited { process: narrow(a)?, status: narrow(b)? },
            3 => Ending::Late,
            4 => Ending::Full,
            5 => Ending::Refused,
            6 => Ending::NoProcess { errno: narrow(a)? },
            other => return Err(Malformed::Code(other)),
        };
        Ok(Report { length, ending, step: narrow(step)? })
    }
}

fn narrow<T: TryFrom<u64>>(word: u64) -> Result<T, Malformed> {
    T::try_from(word).map_err(|_| Malformed::Code(word))
}

fn bytes<const W: usize, const B: usize>(words: [u64; W]) -> [u8; B] {
    let mut bytes = [0; B];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn words<const W: usize>(bytes: &[u8]) -> [u64; W] {
    let mut words = [0; W];
    let mut rest = Words(bytes);
    for word in &mut words {
        // As many words as the constant arrays have; a missing one reads as 0.
        *word = rest.word().unwrap_or(0);
    }
    words
}
