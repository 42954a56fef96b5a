//! A system call as a line of text, in strace's own format: what `--trace` prints and `--record` keeps,
//! and what TRACE files are made of.
//!
//! A line is made in two steps, as strace makes it: at entry everything the program passes, before
//! the call can change it; at exit what the call wrote, and the result.

use mm::error::Errno;
use nix::libc;

use super::flags::{self, Names};
use super::structs;
use super::table::{self, Arg, Outcome, Signature};
use super::text::{self, Reader, Style};

/// A system call as the program made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// rax.
    pub number: u64,
    /// rdi, rsi, rdx, r10, r8, r9.
    pub args: [u64; 6],
}

/// A line that grows: begun at the call's entry, finished at its exit.
#[derive(Debug, Clone)]
pub struct Line {
    call: Call,
    signature: Option<Signature>,
    /// The name, and the arguments up to the first that the call writes through.
    text: String,
    /// How many arguments that are.
    done: usize,
}

/// What a call that has not (yet) returned is printed with, and one that has.
#[derive(Clone, Copy)]
enum Stage {
    Entered,
    Failed,
    Returned(u64),
}

impl Line {
    /// Begins the line of `call`; `read` reads the program's memory.
    #[must_use]
    pub fn enter(call: Call, read: Reader<'_>) -> Self {
        let signature = table::signature(call.number);
        let name = match signature {
            Some(known) => known.name.to_owned(),
            None => format!("syscall_{:#x}", call.number),
        };
        let mut line = Line { call, signature, text: name + "(", done: 0 };
        let kinds = line.kinds();
        let first_out = kinds.iter().position(|kind| line.is_written(*kind));
        line.print(first_out.unwrap_or(kinds.len()), Stage::Entered, read);
        line
    }

    /// Finishes the line of a call that returned `rax`: a result, or a negative error number.
    #[must_use]
    pub fn leave(mut self, rax: u64, read: Reader<'_>) -> String {
        let error = error_number(rax);
        let stage = if error.is_some() { Stage::Failed } else { Stage::Returned(rax) };
        self.print(self.kinds().len(), stage, read);
        let outcome = self.signature.map_or(Outcome::Number, |s| s.outcome);
        let result = match (error, outcome) {
            (Some(error), _) => error_text(error),
            (None, Outcome::Number) => text::signed(rax).to_string(),
            (None, Outcome::Hex) => text::hex(rax),
            (None, Outcome::Mode) => text::octal(rax),
            (None, Outcome::Never) => "?".to_owned(),
        };
        format!("{}) = {result}", self.text)
    }

    /// Finishes the line of a call that does not return: `exit_group(0) = ?`.
    #[must_use]
    pub fn never_returns(mut self, read: Reader<'_>) -> String {
        self.print(self.kinds().len(), Stage::Failed, read);
        format!("{}) = ?", self.text)
    }

    fn kinds(&self) -> &'static [Arg] {
        self.signature.and_then(|s| s.args).unwrap_or(&[Arg::Hex; 6])
    }

    /// Appends the arguments up to number `end`.
    fn print(&mut self, end: usize, stage: Stage, read: Reader<'_>) {
        for (index, kind) in self.kinds().iter().enumerate().take(end).skip(self.done) {
            if let Some(argument) = self.argument(index, *kind, stage, read) {
                if index != 0 {
                    self.text.push_str(", ");
                }
                self.text.push_str(&argument);
            }
        }
        self.done = self.done.max(end);
    }

    /// Whether the call writes through an argument of this kind, so that it is printed at exit.
    fn is_written(&self, kind: Arg) -> bool {
        match kind {
            Arg::BytesOut
            | Arg::RandomOut
            | Arg::VectorOut
            | Arg::LimitOut
            | Arg::ActionOut
            | Arg::SignalsOut
            | Arg::TimeOut
            | Arg::MicrosOut
            | Arg::IntervalOut
            | Arg::StackOut
            | Arg::StatOut
            | Arg::NamesOut
            | Arg::PairOut
            | Arg::PathOut
            | Arg::NodesOut
            | Arg::PolicyOut
            | Arg::PageStatusOut
            | Arg::StatusOut
            | Arg::ResidentOut => true,
            Arg::ArchValue => matches!(self.call.args[0], 0x1003 | 0x1004),
            _ => false,
        }
    }

    /// One argument; `None` where this call has no use for it.
    fn argument(&self, index: usize, kind: Arg, stage: Stage, read: Reader<'_>) -> Option<String> {
        let args = &self.call.args;
        let value = args[index];
        let previous = index.checked_sub(1).map_or(0, |i| args[i]);
        let next = args.get(index + 1).copied().unwrap_or(0);
        let or_address = |text: Option<String>| text.unwrap_or_else(|| text::address(value));
        // What the call wrote is shown only if it succeeded.
        let written = |print: fn(u64, Reader<'_>) -> Option<String>| match stage {
            Stage::Returned(_) => or_address(print(value, read)),
            Stage::Entered | Stage::Failed => text::address(value),
        };
        let written_bytes = |style| match stage {
            Stage::Returned(len) => text::bytes(value, len, style, read),
            Stage::Entered | Stage::Failed => text::address(value),
        };
        Some(match kind {
            Arg::Address => text::address(value),
            Arg::Size => value.to_string(),
            Arg::Hex => text::hex(value),
            Arg::Int | Arg::Fd => int(value).to_string(),
            Arg::Long => text::signed(value).to_string(),
            Arg::Unsigned => low(value).to_string(),
            Arg::DirFd if int(value) == nix::libc::AT_FDCWD => "AT_FDCWD".to_owned(),
            Arg::DirFd => int(value).to_string(),
            Arg::Mode => text::octal(value & 0xffff),
            Arg::CreateMode if flags::makes_file(previous) => text::octal(value & 0xffff),
            Arg::CreateMode => return None,
            Arg::Flags64(set) => set.text(value),
            Arg::Flags(set) => set.text(low(value)),
            Arg::Choice(set) => set.text(low(value)),
            Arg::FixedAddress if previous & 3 == 3 => text::address(value),
            Arg::FixedAddress => return None,
            Arg::FutexOp => futex_op(low(value)),
            Arg::FutexTail => return futex_tail(low(args[1]), index, value, read),
            Arg::FcntlValue => return fcntl_value(low(previous), value),
            Arg::Request => request(low(value)),
            Arg::Signal => signal(value),
            Arg::Path => text::path(value, read),
            Arg::Text => text::text(value, read),
            Arg::BytesIn => text::bytes(value, next, Style::Escaped, read),
            Arg::BytesOut => written_bytes(Style::Escaped),
            Arg::RandomOut => written_bytes(Style::Hex),
            Arg::VectorIn => or_address(structs::vector(value, next, u64::MAX, read)),
            Arg::VectorOut => match stage {
                Stage::Returned(len) => or_address(structs::vector(value, next, len, read)),
                Stage::Entered | Stage::Failed => text::address(value),
            },
            Arg::RangesIn => or_address(structs::ranges(value, next, read)),
            Arg::NodesIn => or_address(structs::nodes(value, next, read)),
            Arg::NodesOut if matches!(stage, Stage::Returned(_)) => {
                or_address(structs::nodes(value, next, read))
            }
            Arg::NodesOut => text::address(value),
            Arg::NodesOfSecond => or_address(structs::nodes(value, args[1], read)),
            Arg::PagesIn => or_address(structs::addresses(value, args[1], read)),
            Arg::PageNodesIn => or_address(structs::ints(value, args[1], read)),
            Arg::PageStatusOut if matches!(stage, Stage::Returned(_)) => {
                or_address(structs::statuses(value, args[1], read))
            }
            Arg::PageStatusOut => text::address(value),
            Arg::PolicyOut => written(structs::policy),
            Arg::Persona if low(value) == low(u64::MAX) => text::hex(low(value)),
            Arg::Persona => flags::PERSONALITY.text(low(value)),
            Arg::PrctlTail => return prctl_tail(args, index, read),
            Arg::RequestTail if low(previous) & 0xff00 == 0xaa00 => text::address(value),
            Arg::RequestTail => text::hex(value),
            Arg::LimitIn => or_address(structs::limit(value, read)),
            Arg::LimitOut => written(structs::limit),
            Arg::ActionIn => or_address(structs::action(value, read)),
            Arg::ActionOut => written(structs::action),
            Arg::SignalsIn => or_address(structs::signals(value, read)),
            Arg::SignalsOut => written(structs::signals),
            Arg::TimeIn => or_address(structs::time(value, read)),
            Arg::TimeOut => written(structs::time),
            Arg::MicrosOut => written(structs::micros),
            Arg::IntervalIn => or_address(structs::interval(value, read)),
            Arg::IntervalOut => written(structs::interval),
            Arg::StackIn => or_address(structs::stack(value, read)),
            Arg::StackOut => written(structs::stack),
            Arg::StatOut => written(structs::stat),
            Arg::NamesOut => written(structs::names),
            Arg::PairOut => written(structs::pair),
            Arg::PathOut => written(|at, read| Some(text::path(at, read))),
            Arg::ResidentOut if matches!(stage, Stage::Returned(_)) => {
                or_address(structs::resident(value, previous, read))
            }
            Arg::ResidentOut => text::address(value),
            // 0 is no child: nothing was written.
            Arg::StatusOut if matches!(stage, Stage::Returned(1..)) => {
                or_address(structs::status(value, read))
            }
            Arg::StatusOut => text::address(value),
            Arg::CloneStack => format!("child_stack={}", text::address(args[1])),
            Arg::CloneFlags => format!("flags={}", clone_flags(low(args[0]))),
            Arg::CloneTail => return clone_tail(args, index, stage, read),
            Arg::ArchValue if self.is_written(kind) => written(structs::written_address),
            Arg::ArchValue => text::hex(value),
        })
    }
}

/// The error number in a result, if it is one: -4095 to -1.
fn error_number(rax: u64) -> Option<i32> {
    let negative = text::signed(rax);
    let is_error = (-4095..0).contains(&negative);
    i32::try_from(-negative).ok().filter(|_| is_error)
}

/// `-1 EINVAL (Invalid argument)`, also for a number that has no name.
fn error_text(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => format!("-1 (errno {number})"),
        known => flags::errno_text(known),
    }
}

/// The low 32 bits, where the kernel looks at no more.
fn low(value: u64) -> u64 {
    value & 0xffff_ffff
}

/// The low 32 bits as `int`.
fn int(value: u64) -> i32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

fn signal(value: u64) -> String {
    flags::signal(low(value)).map_or_else(|| int(value).to_string(), |name| format!("SIG{name}"))
}

fn futex_op(value: u64) -> String {
    const PRIVATE: u64 = libc::FUTEX_PRIVATE_FLAG as u64;
    const REALTIME: u64 = libc::FUTEX_CLOCK_REALTIME as u64;
    let operation = value & !(PRIVATE | REALTIME);
    let mut text = flags::FUTEX.text(operation);
    if value & PRIVATE != 0 {
        let known = flags::FUTEX.names.iter().any(|(v, _)| *v == operation);
        text.push_str(if known { "_PRIVATE" } else { "|FUTEX_PRIVATE_FLAG" });
    }
    if value & REALTIME != 0 {
        text.push_str("|FUTEX_CLOCK_REALTIME");
    }
    text
}

/// `futex`'s timeout or second value, second address and third value, as far as the operation has them.
fn futex_tail(operation: u64, index: usize, value: u64, read: Reader<'_>) -> Option<String> {
    let has_timeout = matches!(operation & 0x7f, 0 | 6 | 9 | 11 | 13);
    let has = match operation & 0x7f {
        // WAIT, LOCK_PI, LOCK_PI2; WAKE, FD, UNLOCK_PI, TRYLOCK_PI; WAIT_BITSET; WAKE_BITSET; REQUEUE.
        0 | 6 | 13 => index == 3,
        1 | 2 | 7 | 8 => false,
        9 => index != 4,
        10 => index == 5,
        3 => index != 5,
        _ => true,
    };
    has.then(|| match index {
        3 if has_timeout => structs::time(value, read).unwrap_or_else(|| text::address(value)),
        5 => text::hex(low(value)),
        _ => text::address(value),
    })
}

fn fcntl_value(command: u64, value: u64) -> Option<String> {
    use nix::libc as c;
    Some(match i32::try_from(command).unwrap_or(-1) {
        c::F_GETFD | c::F_GETFL | c::F_GETOWN | c::F_GET_SEALS | c::F_GETPIPE_SZ => return None,
        c::F_DUPFD | c::F_DUPFD_CLOEXEC | c::F_SETPIPE_SZ | c::F_SETOWN => int(value).to_string(),
        c::F_SETFD if value == 1 => "FD_CLOEXEC".to_owned(),
        c::F_SETFL => flags::OPEN.text(low(value)),
        _ => text::hex(value),
    })
}

/// `clone`'s flags, and the signal in their low byte.
fn clone_flags(value: u64) -> String {
    let (bits, exit_signal) = (value & !0xff, value & 0xff);
    let name = (exit_signal != 0).then(|| signal(exit_signal));
    let bits = (bits != 0 || name.is_none()).then(|| flags::CLONE.text(bits));
    bits.into_iter().chain(name).collect::<Vec<_>>().join("|")
}

/// `clone`'s addresses in the order in which strace prints them: the parent's number's, the thread pointer,
/// the child's number's.
fn clone_tail(args: &[u64; 6], index: usize, stage: Stage, read: Reader<'_>) -> Option<String> {
    use nix::libc as c;
    let has = |flags: i32| args[0] & u64::from(flags.cast_unsigned()) != 0;
    match index {
        2 if has(c::CLONE_PARENT_SETTID | c::CLONE_PIDFD) => {
            let number = match stage {
                Stage::Returned(_) => structs::number(args[2], read),
                Stage::Entered | Stage::Failed => None,
            };
            let number = number.unwrap_or_else(|| text::address(args[2]));
            Some(format!("parent_tid={number}"))
        }
        3 if has(c::CLONE_SETTLS) => Some(format!("tls={}", text::hex(args[4]))),
        4 if has(c::CLONE_CHILD_SETTID | c::CLONE_CHILD_CLEARTID) => {
            Some(format!("child_tidptr={}", text::address(args[3])))
        }
        _ => None,
    }
}

/// `prctl`'s arguments after the option.
fn prctl_tail(args: &[u64; 6], index: usize, read: Reader<'_>) -> Option<String> {
    use nix::libc as c;
    let value = args[index];
    Some(match (int(args[0]), index) {
        (c::PR_SET_NAME, 1) => text::text(value, read),
        (c::PR_SET_NAME | c::PR_GET_NAME, _) if index > 1 => return None,
        (c::PR_SET_VMA, 1) => flags::PR_SET_VMA.text(value),
        (c::PR_SET_VMA, 2) => text::address(value),
        (c::PR_SET_VMA, 3) => value.to_string(),
        (c::PR_SET_VMA, 4) => text::text(value, read),
        (c::PR_SET_THP_DISABLE, 1) => value.to_string(),
        (c::PR_SET_MM, 1) => flags::PR_SET_MM.text(value),
        (c::PR_SET_MDWE, 1) => flags::PR_MDWE.text(value),
        _ => text::hex(value),
    })
}

/// `ioctl`'s request: a name, or its four parts.
fn request(value: u64) -> String {
    if flags::IOCTL.names.iter().any(|(known, _)| *known == value) {
        return flags::IOCTL.text(value);
    }
    let direction = match value >> 30 {
        0 => "_IOC_NONE",
        1 => "_IOC_WRITE",
        2 => "_IOC_READ",
        _ => "_IOC_READ|_IOC_WRITE",
    };
    let [kind, number, size] =
        [value >> 8 & 0xff, value & 0xff, value >> 16 & 0x3fff].map(text::hex);
    format!("_IOC({direction}, {kind}, {number}, {size})")
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
