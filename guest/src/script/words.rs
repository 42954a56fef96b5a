//! Reading words and runs of bytes, with every bound checked.

use core::fmt;

/// Bytes in a word.
pub(super) const WORD: usize = 8;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// They end too early, or a length among them is too large.
    Short,
    /// They hold a code that means nothing.
    Code(u64),
    /// A step or an answer is longer than what it says.
    Long,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Short => f.write_str("it ends too early"),
            Malformed::Code(code) => write!(f, "it has the unknown code {code}"),
            Malformed::Long => f.write_str("it is longer than what it holds"),
        }
    }
}

/// The first word of a step or an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What kind of step or answer.
    pub code: u8,
    /// The process that performs the step.
    pub process: u8,
    /// What the code makes of it.
    pub detail: u16,
    /// Length in words, this one included.
    pub words: u32,
}

impl Header {
    /// The header as a word.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.code as u64
            | (self.process as u64) << 8
            | (self.detail as u64) << 16
            | (self.words as u64) << 32
    }

    /// The header that a word holds.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let b = word.to_le_bytes();
        Header {
            code: b[0],
            process: b[1],
            detail: u16::from_le_bytes([b[2], b[3]]),
            words: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

/// How many bytes a run of `len` bytes takes.
pub(super) const fn padded(len: usize) -> usize {
    len.saturating_add(WORD - 1) & !(WORD - 1)
}

/// What is left of the bytes to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Words<'a>(pub(super) &'a [u8]);

impl<'a> Words<'a> {
    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next word.
    pub(super) fn word(&mut self) -> Result<u64, Malformed> {
        let (word, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*word))
    }

    /// The next `len` bytes, and past what fills them up to words.
    pub(super) fn bytes(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed::Short)?;
        let (run, rest) = self.0.split_at_checked(padded(len)).ok_or(Malformed::Short)?;
        self.0 = rest;
        run.get(..len).ok_or(Malformed::Short)
    }

    /// The next header, and the words that belong to it.
    pub(super) fn record(&mut self) -> Result<(Header, Words<'a>), Malformed> {
        let mut ahead = *self;
        let header = Header::from_word(ahead.word()?);
        let more = u64::from(header.words).checked_sub(1).ok_or(Malformed::Short)?;
        let body = ahead.bytes(more.saturating_mul(WORD as u64))?;
        *self = ahead;
        Ok((header, Words(body)))
    }

    /// Whether everything has been read.
    pub(super) const fn end(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::Long) }
    }
}
