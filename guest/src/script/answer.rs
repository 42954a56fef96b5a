//! The answers, one for each step, in the steps' order.
//!
//! The player writes them word by word where they are to be; the header's code says which kind:
//!
//! ```text
//!   RESULT   rax, then for each Out and InOut: length, bytes
//!   ACCESS   signal (0: none), si_code, si_addr, the byte that Load read
//!   VMAS     for each VMA: start, end, offset, inode, flags │ name << 8 │ device << 32
//!   FLAGS    for each VMA: start, end, each of SIZES, length, text
//!   TEXT     length, text
//!   PAGEMAP  length, a word for each page
//!   ERROR    the error number of what the player did to find out
//!   ABSENT   nothing: the process is not there, because the fork failed that should have made it
//! ```

use super::words::{Header, Malformed, Words};
use crate::errno::Errno;
use crate::fault;

/// The kinds of answers: a header's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// See the layout above, for all of them.
    Result = 1,
    /// An access.
    Access = 2,
    /// VMAs.
    Vmas = 3,
    /// VmFlags and sizes.
    Flags = 4,
    /// Text.
    Text = 5,
    /// An error of the player's own.
    Error = 6,
    /// No process, no answer.
    Absent = 7,
    /// Words of pagemap.
    Pagemap = 8,
}

/// What came of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// Of a call: rax as it came back, a result or a negated error number. Of Fork: 0 or a negated
    /// error number; of Exit: 0.
    Result {
        /// rax
        value: u64,
        /// What `Out` and `InOut` arguments hold now.
        outputs: Outputs<'a>,
    },
    /// Of Touch, Load, Store: the fault, if any.
    Access {
        /// What would have killed the process.
        fault: Option<fault::Answer>,
        /// What Load read; otherwise 0.
        byte: u8,
    },
    /// Of Maps.
    Maps(Vmas<'a>),
    /// Of VmFlags.
    VmFlags(FlagLines<'a>),
    /// Of Status.
    Text(&'a [u8]),
    /// Of Pagemap: a word of eight bytes for each page.
    Pagemap(&'a [u8]),
    /// The question could not be answered.
    Error(Errno),
    /// The process is not there: its fork failed.
    Absent,
}

impl<'a> Answer<'a> {
    /// The first answer of these bytes, and the bytes after it.
    ///
    /// # Errors
    /// When they are not what this module writes.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let mut words = Words(bytes);
        let (Header { code, .. }, mut body) = words.record()?;
        let answer = match code {
            code if code == Kind::Result as u8 => {
                let value = body.word()?;
                let outputs = Outputs(body);
                body = Words(&[]);
                Answer::Result { value, outputs }
            }
            code if code == Kind::Access as u8 => {
                let (signal, code, address) = (body.word()?, body.word()?, body.word()?);
                let fault = (signal != 0).then_some(fault::Answer { signal, code, address });
                let byte = body.word()?;
                let byte = u8::try_from(byte).map_err(|_| Malformed::Code(byte))?;
                Answer::Access { fault, byte }
            }
            code if code == Kind::Vmas as u8 => {
                let vmas = Vmas(body);
                body = Words(&[]);
                Answer::Maps(vmas)
            }
            code if code == Kind::Flags as u8 => {
                let lines = FlagLines(body);
                body = Words(&[]);
                Answer::VmFlags(lines)
            }
            code if code == Kind::Text as u8 => {
                let length = body.word()?;
                Answer::Text(body.bytes(length)?)
            }
            code if code == Kind::Pagemap as u8 => {
                let length = body.word()?;
                Answer::Pagemap(body.bytes(length)?)
            }
            code if code == Kind::Error as u8 => {
                let errno = body.word()?;
                Answer::Error(Errno(u16::try_from(errno).map_err(|_| Malformed::Code(errno))?))
            }
            code if code == Kind::Absent as u8 => Answer::Absent,
            other => return Err(Malformed::Code(u64::from(other))),
        };
        body.end()?;
        Ok((answer, words.0))
    }
}

/// What `Out` and `InOut` arguments hold after the call, in the arguments' order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outputs<'a>(Words<'a>);

impl<'a> Iterator for Outputs<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let run = self.0.word().and_then(|length| self.0.bytes(length));
            run.inspect_err(|_| self.0 = Words(&[]))
        })
    }
}

/// What a VMA's name is: the last column of its line in /proc/PID/maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Name {
    /// Nothing.
    None = 0,
    /// `[heap]`
    Heap = 1,
    /// `[stack]`
    Stack = 2,
    /// `[vdso]`
    Vdso = 3,
    /// `[vvar]`, `[vvar_vclock]`
    Vvar = 4,
    /// A file's path.
    Path = 5,
    /// Anything else.
    Other = 6,
}

impl Name {
    /// The kind that a name is of.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"" => Name::None,
            b"[heap]" => Name::Heap,
            b"[stack]" => Name::Stack,
            b"[vdso]" => Name::Vdso,
            [b'[', b'v', b'v', b'a', b'r', ..] => Name::Vvar,
            [b'/', ..] => Name::Path,
            _ => Name::Other,
        }
    }

    const fn from_code(code: u64) -> Result<Self, Malformed> {
        Ok(match code {
            0 => Name::None,
            1 => Name::Heap,
            2 => Name::Stack,
            3 => Name::Vdso,
            4 => Name::Vvar,
            5 => Name::Path,
            6 => Name::Other,
            _ => return Err(Malformed::Code(code)),
        })
    }
}

/// A VMA as /proc/PID/maps has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Where in the file it begins, in bytes; 0 where there is no file.
    pub offset: u64,
    /// The file's inode number, or 0.
    pub inode: u64,
    /// [`Vma::READ`] and so on.
    pub flags: u8,
    /// The last column.
    pub name: Name,
    /// The file's device, major << 20 | minor, or 0.
    pub device: u32,
}

impl Vma {
    /// In [`Vma::flags`]: may be read.
    pub const READ: u8 = 1;
    /// In [`Vma::flags`]: may be written.
    pub const WRITE: u8 = 2;
    /// In [`Vma::flags`]: may be executed.
    pub const EXEC: u8 = 4;
    /// In [`Vma::flags`]: shared.
    pub const SHARED: u8 = 8;

    /// Encoded.
    #[must_use]
    pub const fn words(&self) -> [u64; 5] {
        let rest = self.flags as u64 | (self.name as u64) << 8 | (self.device as u64) << 32;
        [self.start, self.end, self.offset, self.inode, rest]
    }

    /// The permissions as the line has them: `rw-p`.
    #[must_use]
    pub const fn permissions(&self) -> [u8; 4] {
        const fn letter(flags: u8, bit: u8, set: u8, clear: u8) -> u8 {
            if flags & bit != 0 { set } else { clear }
        }
        [
            letter(self.flags, Vma::READ, b'r', b'-'),
            letter(self.flags, Vma::WRITE, b'w', b'-'),
            letter(self.flags, Vma::EXEC, b'x', b'-'),
            letter(self.flags, Vma::SHARED, b's', b'p'),
        ]
    }
}

/// VMAs, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vmas<'a>(Words<'a>);

impl Vmas<'_> {
    fn decode(&mut self) -> Result<Vma, Malformed> {
        let mut word = || self.0.word();
        let (start, end, offset, inode, rest) = (word()?, word()?, word()?, word()?, word()?);
        let [flags, name, _, _, device @ ..] = rest.to_le_bytes();
        let name = Name::from_code(u64::from(name))?;
        Ok(Vma { start, end, offset, inode, flags, name, device: u32::from_le_bytes(device) })
    }
}

impl Iterator for Vmas<'_> {
    type Item = Result<Vma, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.decode().inspect_err(|_| self.0 = Words(&[])))
    }
}

/// The sizes that go with the flags, by the names of their lines in /proc/PID/smaps.
pub const SIZES: [&str; 15] = [
    "KernelPageSize",
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "Locked",
    "THPeligible",
];

/// The VmFlags and sizes of a VMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagLine<'a> {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What the lines of [`SIZES`] say, in kB but for the last one.
    pub sizes: [u64; SIZES.len()],
    /// The flags as /proc/PID/smaps has them, after `VmFlags:`: `rd wr mr mw me ac`.
    pub flags: &'a [u8],
}

/// VmFlags, in the VMAs' order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagLines<'a>(Words<'a>);

impl<'a> FlagLines<'a> {
    fn decode(&mut self) -> Result<FlagLine<'a>, Malformed> {
        let (start, end) = (self.0.word()?, self.0.word()?);
        let mut sizes = [0; SIZES.len()];
        for size in &mut sizes {
            *size = self.0.word()?;
        }
        let length = self.0.word()?;
        Ok(FlagLine { start, end, sizes, flags: self.0.bytes(length)? })
    }
}

impl<'a> Iterator for FlagLines<'a> {
    type Item = Result<FlagLine<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.decode().inspect_err(|_| self.0 = Words(&[])))
    }
}
