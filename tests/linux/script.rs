//! Scripts as tests write them, and answers as tests read them: `guest::script` with memory of its own.

use std::fmt;
use std::ops::Range;

use guest::call::number;
use guest::errno::Errno;
use guest::fault;
use guest::script::{self, Access, Arg, Malformed, Op, SIZES, Step, Vma, Wrong};

/// A script under construction. Each step has an answer with the same number.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Script {
    bytes: Vec<u8>,
    steps: usize,
}

impl Script {
    /// No steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps
    }

    /// As the player reads it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the player would perform it.
    pub fn check(&self) -> Result<(), (u32, Wrong)> {
        script::check(&self.bytes).map(drop)
    }

    /// Adds a step of a process; the answer is its number.
    pub fn step(&mut self, process: u8, op: Op<'_>) -> usize {
        let bytes = &mut self.bytes;
        Step { process, op }.encode(&mut |piece| bytes.extend_from_slice(piece));
        self.steps += 1;
        self.steps - 1
    }

    /// Adds a system call of a process, with up to six arguments (the rest 0).
    pub fn call_of(&mut self, process: u8, number: u64, given: &[Arg<'_>]) -> usize {
        let mut args = [Arg::Value(0); 6];
        args[..given.len()].copy_from_slice(given);
        self.step(process, Op::Call { number, args })
    }

    /// Adds a system call of process 0 whose arguments are numbers.
    pub fn call(&mut self, number: u64, given: &[u64]) -> usize {
        let given: Vec<_> = given.iter().map(|&value| Arg::Value(value)).collect();
        self.call_of(0, number, &given)
    }

    /// Adds an access by process 0.
    pub fn touch(&mut self, addr: u64, access: Access) -> usize {
        self.step(0, Op::Touch { addr, access })
    }

    /// Adds the question for the VMAs of process 0 in a range.
    pub fn maps(&mut self, range: Range<u64>) -> usize {
        self.step(0, Op::Maps { start: range.start, end: range.end })
    }

    /// Adds mincore(2) by process 0 for so many pages: its only output has a byte a page.
    pub fn resident(&mut self, addr: u64, pages: u32) -> usize {
        let length = u64::from(pages) * guest::memory::PAGE;
        self.call_of(0, number::MINCORE, &[Arg::Value(addr), Arg::Value(length), Arg::Out(pages)])
    }

    /// The answers in these bytes, which may be fewer than the steps.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Vec<Answer>, Malformed> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let (answer, rest) = script::Answer::decode(bytes)?;
            answers.push(Answer::from_borrowed(answer)?);
            bytes = rest;
        }
        Ok(answers)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(script::Steps::new(&self.bytes).flatten()).finish()
    }
}

/// What came of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Of a call, and of Fork and Exit (0).
    Result {
        /// What the call answered.
        value: Result<u64, Errno>,
        /// What `Out` and `InOut` arguments held afterwards.
        outputs: Vec<Vec<u8>>,
    },
    /// Of Touch, Load and Store.
    Access {
        /// What would have killed the process.
        fault: Option<fault::Answer>,
        /// What Load read; otherwise 0.
        byte: u8,
    },
    /// Of Maps.
    Maps(Vec<Vma>),
    /// Of VmFlags: for each VMA its range, flags such as `rd wr mr mw me ac`, and sizes.
    VmFlags(Vec<VmaFlags>),
    /// Of Status.
    Text(String),
    /// Of Pagemap.
    Pagemap(Vec<u64>),
    /// The player could not find out.
    Error(Errno),
    /// There is no such process: its fork failed.
    Absent,
}

/// What smaps says of a VMA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmaFlags {
    /// The addresses.
    pub range: Range<u64>,
    /// Its VmFlags, such as `rd wr mr mw me ac`.
    pub flags: String,
    /// What the lines of [`SIZES`] say, in kB.
    pub sizes: [u64; SIZES.len()],
}

impl Answer {
    fn from_borrowed(answer: script::Answer<'_>) -> Result<Self, Malformed> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(match answer {
            script::Answer::Result { value, outputs } => Answer::Result {
                value: result(value),
                outputs: outputs.map(|run| run.map(<[u8]>::to_vec)).collect::<Result<_, _>>()?,
            },
            script::Answer::Access { fault, byte } => Answer::Access { fault, byte },
            script::Answer::Maps(vmas) => Answer::Maps(vmas.collect::<Result<_, _>>()?),
            script::Answer::VmFlags(lines) => Answer::VmFlags(
                lines
                    .map(|line| {
                        line.map(|line| VmaFlags {
                            range: line.start..line.end,
                            flags: text(line.flags),
                            sizes: line.sizes,
                        })
                    })
                    .collect::<Result<_, _>>()?,
            ),
            script::Answer::Text(bytes) => Answer::Text(text(bytes)),
            script::Answer::Pagemap(bytes) => {
                let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(0);
                Answer::Pagemap(bytes.chunks(8).map(word).collect())
            }
            script::Answer::Error(errno) => Answer::Error(errno),
            script::Answer::Absent => Answer::Absent,
        })
    }
}

/// rax as a result: -4095 to -1 are errors (Linux's `IS_ERR_VALUE`).
fn result(rax: u64) -> Result<u64, Errno> {
    match u16::try_from(rax.wrapping_neg()) {
        Ok(errno @ 1..=4095) => Err(Errno(errno)),
        _ => Ok(rax),
    }
}

/// capset(2): here and below, calls that `guest` has no name for.
pub const CAPSET: u64 = libc::SYS_capset as u64;
/// memfd_create(2)
pub const MEMFD_CREATE: u64 = libc::SYS_memfd_create as u64;
/// ftruncate(2)
pub const FTRUNCATE: u64 = libc::SYS_ftruncate as u64;
/// migrate_pages(2)
pub const MIGRATE_PAGES: u64 = libc::SYS_migrate_pages as u64;
/// set_mempolicy_home_node(2)
pub const HOME_NODE: u64 = libc::SYS_set_mempolicy_home_node as u64;
