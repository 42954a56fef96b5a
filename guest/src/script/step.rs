//! The steps of a script.

use core::fmt;

use super::words::{Header, Malformed, WORD, Words, padded};
use super::{PROCESSES, SCRIPT_BYTES};
use crate::call::number;

/// How an address is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Its byte is read.
    Read,
    /// Its byte is written over itself.
    Write,
    /// The instruction there is fetched; whether it can run does not matter.
    Execute,
}

/// An argument of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg<'a> {
    /// A number.
    Value(u64),
    /// The address of these bytes.
    In(&'a [u8]),
    /// The address of so many zeros; what they are after the call is part of the answer.
    Out(u32),
    /// The address of these bytes; what they are after the call is part of the answer.
    InOut(&'a [u8]),
}

impl Arg<'_> {
    const fn code(self) -> u16 {
        match self {
            Arg::Value(_) => 0,
            Arg::In(_) => 1,
            Arg::Out(_) => 2,
            Arg::InOut(_) => 3,
        }
    }

    /// The argument's word: the number, or the length.
    const fn word(self) -> u64 {
        match self {
            Arg::Value(value) => value,
            Arg::In(bytes) | Arg::InOut(bytes) => bytes.len() as u64,
            Arg::Out(length) => length as u64,
        }
    }

    /// The bytes that go with it.
    const fn bytes(&self) -> &[u8] {
        match self {
            Arg::In(bytes) | Arg::InOut(bytes) => bytes,
            Arg::Value(_) | Arg::Out(_) => &[],
        }
    }
}

/// What a process does in a step. The words after the header are the fields in their order, unless
/// something else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// A system call. Words: number, a word for each argument (the number or the length), then the
    /// bytes of each `In` and `InOut`. Detail: two bits for each argument's kind, the first lowest.
    Call {
        /// Linux's x86-64 number of it.
        number: u64,
        /// rdi rsi rdx r10 r8 r9
        args: [Arg<'a>; 6],
    },
    /// An access, survived if it faults. Detail: read 0, write 1, execute 2.
    Touch {
        /// The address.
        addr: u64,
        /// Which access.
        access: Access,
    },
    /// Reads a byte.
    Load {
        /// Its address.
        addr: u64,
    },
    /// Writes a byte.
    Store {
        /// Its address.
        addr: u64,
        /// The byte, in a word.
        byte: u8,
    },
    /// The VMAs that have an address in the range, as /proc/PID/maps has them.
    Maps {
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
    },
    /// Their VmFlags, as /proc/PID/smaps has them.
    VmFlags {
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
    },
    /// The words of /proc/PID/pagemap of the range's pages.
    Pagemap {
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
    },
    /// The lines of /proc/PID/status that begin with Vm and Rss.
    Status,
    /// Forks; the child has the next step's point of view. Word: the child's number.
    Fork {
        /// The number of the new process.
        child: u8,
    },
    /// Ends the process; the next step comes when its address space is gone.
    Exit,
}

mod code {
    pub(super) const CALL: u8 = 1;
    pub(super) const TOUCH: u8 = 2;
    pub(super) const LOAD: u8 = 3;
    pub(super) const STORE: u8 = 4;
    pub(super) const MAPS: u8 = 5;
    pub(super) const VM_FLAGS: u8 = 6;
    pub(super) const STATUS: u8 = 7;
    pub(super) const FORK: u8 = 8;
    pub(super) const EXIT: u8 = 9;
    pub(super) const PAGEMAP: u8 = 10;
}

/// A step: an operation, and who performs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step<'a> {
    /// The process's number; the first process is 0.
    pub process: u8,
    /// What it does.
    pub op: Op<'a>,
}

impl<'a> Step<'a> {
    /// Encodes the step, in pieces.
    pub fn encode(&self, put: &mut impl FnMut(&[u8])) {
        let mut step = |code: u8, detail: u16, words: &[u64], runs: &[Arg<'_>]| {
            let bytes: usize = runs.iter().map(|run| padded(run.bytes().len())).sum();
            let length = 1 + words.len() + bytes / WORD;
            // A length that does not fit is far past SCRIPT_BYTES, which the check refuses.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            put(&Header { code, process: self.process, detail, words: length }
                .word()
                .to_le_bytes());
            for word in words {
                put(&word.to_le_bytes());
            }
            for run in runs {
                let bytes = run.bytes();
                put(bytes);
                put([0; WORD].get(..padded(bytes.len()) - bytes.len()).unwrap_or(&[]));
            }
        };
        match self.op {
            Op::Call { number, args } => {
                let [a, b, c, d, e, f] = args.map(Arg::word);
                let kinds = args.iter().rev().fold(0, |kinds, arg| kinds << 2 | arg.code());
                step(code::CALL, kinds, &[number, a, b, c, d, e, f], &args);
            }
            Op::Touch { addr, access } => {
                let detail = match access {
                    Access::Read => 0,
                    Access::Write => 1,
                    Access::Execute => 2,
                };
                step(code::TOUCH, detail, &[addr], &[]);
            }
            Op::Load { addr } => step(code::LOAD, 0, &[addr], &[]),
            Op::Store { addr, byte } => step(code::STORE, 0, &[addr, u64::from(byte)], &[]),
            Op::Maps { start, end } => step(code::MAPS, 0, &[start, end], &[]),
            Op::VmFlags { start, end } => step(code::VM_FLAGS, 0, &[start, end], &[]),
            Op::Pagemap { start, end } => step(code::PAGEMAP, 0, &[start, end], &[]),
            Op::Status => step(code::STATUS, 0, &[], &[]),
            Op::Fork { child } => step(code::FORK, 0, &[u64::from(child)], &[]),
            Op::Exit => step(code::EXIT, 0, &[], &[]),
        }
    }

    fn decode(words: &mut Words<'a>) -> Result<Self, Malformed> {
        let (header, mut body) = words.record()?;
        let op = match header.code {
            code::CALL => Self::decode_call(header.detail, &mut body)?,
            code::TOUCH => {
                let access = match header.detail {
                    0 => Access::Read,
                    1 => Access::Write,
                    2 => Access::Execute,
                    other => return Err(Malformed::Code(u64::from(other))),
                };
                Op::Touch { addr: body.word()?, access }
            }
            code::LOAD => Op::Load { addr: body.word()? },
            code::STORE => Op::Store { addr: body.word()?, byte: byte(body.word()?)? },
            code::MAPS => Op::Maps { start: body.word()?, end: body.word()? },
            code::VM_FLAGS => Op::VmFlags { start: body.word()?, end: body.word()? },
            code::STATUS => Op::Status,
            code::PAGEMAP => Op::Pagemap { start: body.word()?, end: body.word()? },
            code::FORK => Op::Fork { child: byte(body.word()?)? },
            code::EXIT => Op::Exit,
            other => return Err(Malformed::Code(u64::from(other))),
        };
        body.end()?;
        Ok(Step { process: header.process, op })
    }

    fn decode_call(kinds: u16, body: &mut Words<'a>) -> Result<Op<'a>, Malformed> {
        let number = body.word()?;
        let mut args = [Arg::Value(0); 6];
        let mut lengths = [0; 6];
        for length in &mut lengths {
            *length = body.word()?;
        }
        for (i, (arg, word)) in args.iter_mut().zip(lengths).enumerate() {
            *arg = match kinds >> (2 * i) & 3 {
                0 => Arg::Value(word),
                1 => Arg::In(body.bytes(word)?),
                2 => Arg::Out(u32::try_from(word).map_err(|_| Malformed::Short)?),
                _ => Arg::InOut(body.bytes(word)?),
            };
        }
        Ok(Op::Call { number, args })
    }
}

fn byte(word: u64) -> Result<u8, Malformed> {
    u8::try_from(word).map_err(|_| Malformed::Code(word))
}

/// The steps of a script. After a [`Malformed`] there are no more.
#[derive(Clone, Debug)]
pub struct Steps<'a>(Words<'a>);

impl<'a> Steps<'a> {
    /// The steps that these bytes hold.
    #[must_use]
    pub const fn new(script: &'a [u8]) -> Self {
        Steps(Words(script))
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<Step<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let step = Step::decode(&mut self.0);
        if step.is_err() {
            self.0 = Words(&[]);
        }
        Some(step)
    }
}

/// Why a script cannot be performed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// It has more than [`SCRIPT_BYTES`] bytes.
    TooLong,
    /// A step cannot be decoded.
    Malformed(Malformed),
    /// A step's process was never forked, or has exited.
    NoProcess(u8),
    /// A fork's child has a number that was used before, or one of [`PROCESSES`] and up.
    BadChild(u8),
    /// A call that would end the process, copy it or replace its program. Forks and exits are
    /// operations of their own.
    BadCall(u64),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::TooLong => write!(f, "the script has more than {SCRIPT_BYTES} bytes"),
            Wrong::Malformed(malformed) => malformed.fmt(f),
            Wrong::NoProcess(process) => write!(f, "there is no process {process} at that point"),
            Wrong::BadChild(child) => write!(
                f,
                "{child} cannot be the new process's number: it was used before, or is not below \
                 {PROCESSES}"
            ),
            Wrong::BadCall(number) => write!(
                f,
                "call {number} would end, copy or replace the process; use Op::Fork and Op::Exit"
            ),
        }
    }
}

/// The calls that cannot be an [`Op::Call`]: the player would not come back from them as itself.
const BARRED: [u64; 9] = [
    number::RT_SIGRETURN,
    number::CLONE,
    number::FORK,
    number::VFORK,
    number::EXECVE,
    number::EXIT,
    number::EXIT_GROUP,
    number::EXECVEAT,
    number::CLONE3,
];

/// The number of steps of a script that can be performed.
///
/// # Errors
/// What is wrong with it, and with which step (from 0).
pub fn check(script: &[u8]) -> Result<u32, (u32, Wrong)> {
    const _: () = assert!(PROCESSES <= 64);
    if script.len() > SCRIPT_BYTES {
        return Err((0, Wrong::TooLong));
    }
    let mut used: u64 = 1;
    let mut alive: u64 = 1;
    let mut at = 0;
    for step in Steps::new(script) {
        let step = step.map_err(|malformed| (at, Wrong::Malformed(malformed)))?;
        let bit = 1_u64.checked_shl(u32::from(step.process)).unwrap_or(0);
        if alive & bit == 0 {
            return Err((at, Wrong::NoProcess(step.process)));
        }
        match step.op {
            Op::Fork { child } => {
                let bit = 1_u64.checked_shl(u32::from(child)).unwrap_or(0);
                if usize::from(child) >= PROCESSES || used & bit != 0 {
                    return Err((at, Wrong::BadChild(child)));
                }
                used |= bit;
                alive |= bit;
            }
            Op::Exit => alive &= !bit,
            Op::Call { number, .. } if BARRED.contains(&number) => {
                return Err((at, Wrong::BadCall(number)));
            }
            _ => {}
        }
        // At most SCRIPT_BYTES / WORD steps.
        at += 1;
    }
    Ok(at)
}
