//! futex(2): waiting for a word of memory to change, and waking who waits.
//!
//! `FUTEX_WAKE_OP` and the operations for priority inheritance are refused: the host does not change words of a program
//! that runs.

use std::time::Instant;

use mm::addr::VirtAddr;
use mm::error::Errno;
use mm::space::Word;
use nix::libc;
use nix::poll::{PollFd, PollFlags};

use super::pause::{continued, left};
use super::{Context, Served, Stop, time};
use crate::task::{Continuation, Restart, Woken, rest};

/// Bytes of a word.
const WORD: u64 = 4;
/// `FUTEX_BITSET_MATCH_ANY`.
const ANY: u32 = u32::MAX;

/// A futex that is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Awaited {
    /// Its address.
    pub at: VirtAddr,
    /// Whether other spaces' users may wake him (no `FUTEX_PRIVATE_FLAG`).
    pub reach: Reach,
    /// What it should hold.
    pub value: u32,
    /// What he is woken for.
    pub bits: u32,
    /// When he goes on all the same; `None` for never.
    pub until: Option<Instant>,
}

/// Who means the same word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The users of the space.
    Space,
    /// Who has the same memory.
    All,
}

/// futex(2). `ENOSYS` an operation that is not known, or a flag that it does not have; `EINVAL` an address that is not
/// of a word, no bits, or a time that is none; `EFAULT`; `EAGAIN` the word holds something else; `ETIMEDOUT`.
/// Source: `do_futex` in Linux's `kernel/futex/syscalls.c`.
pub(super) fn futex(c: &mut Context<'_>) -> Served {
    let operation = c.int(1);
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    let until = match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => deadline(c, operation, command)?,
        _ => None,
    };
    if operation & libc::FUTEX_CLOCK_REALTIME != 0 && command != libc::FUTEX_WAIT_BITSET {
        return Err(Errno::ENOSYS.into());
    }
    let reach = if operation & libc::FUTEX_PRIVATE_FLAG == 0 { Reach::All } else { Reach::Space };
    let (at, value, bits) = (c.address(0), c.int(2).cast_unsigned(), c.int(5).cast_unsigned());
    match command {
        libc::FUTEX_WAIT => wait(c, Awaited { at, reach, value, bits: ANY, until }),
        libc::FUTEX_WAIT_BITSET => wait(c, Awaited { at, reach, value, bits, until }),
        libc::FUTEX_WAKE => wake(c, reach, ANY),
        libc::FUTEX_WAKE_BITSET => wake(c, reach, bits),
        libc::FUTEX_REQUEUE => requeue(c, reach, None),
        libc::FUTEX_CMP_REQUEUE => requeue(c, reach, Some(bits)),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// When a wait ends: after a time, or at one.
fn deadline(c: &Context<'_>, operation: i32, command: i32) -> Result<Option<Instant>, Stop> {
    if c.address(3) == VirtAddr::ZERO {
        return Ok(None);
    }
    let time = time::timespec(c, c.address(3))?;
    let time = match (command, operation & libc::FUTEX_CLOCK_REALTIME) {
        (libc::FUTEX_WAIT, _) => time,
        (_, 0) => time.saturating_sub(time::now(libc::CLOCK_MONOTONIC)?),
        _ => time.saturating_sub(time::now(libc::CLOCK_REALTIME)?),
    };
    Ok(Instant::now().checked_add(time))
}

/// The word at an address.
fn word(c: &Context<'_>, at: VirtAddr, reach: Reach) -> Result<Word, Stop> {
    if !at.get().is_multiple_of(WORD) {
        return Err(Errno::EINVAL.into());
    }
    c.check_user(at, WORD)?;
    match reach {
        Reach::Space => Ok(c.process.space.look().own_word(at)),
        Reach::All => {
            value(c, at)?;
            Ok(c.process.space.look().word(at)?)
        }
    }
}

fn value(c: &Context<'_>, at: VirtAddr) -> Result<u32, Stop> {
    let mut bytes = [0; 4];
    c.process.space.read(at, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Waits, or goes on with it after a signal.
pub(super) fn wait(c: &mut Context<'_>, awaited: Awaited) -> Served {
    let Awaited { at, reach, value: expected, bits, until } = awaited;
    if bits == 0 {
        return Err(Errno::EINVAL.into());
    }
    let word = word(c, at, reach)?;
    let futexes = &c.process.family.futexes;
    let waiting = futexes.wait(word, bits)?;
    let now = value(c, at);
    if !matches!(now, Ok(now) if now == expected) {
        if waiting.leave() == Woken::Yes {
            // That was for somebody who waits.
            futexes.wake(word, 1, bits);
        }
        return now.and(Err(Errno::EAGAIN.into()));
    }
    let mut told = [PollFd::new(waiting.told(), PollFlags::POLLIN)];
    let rested = rest(c.process, &mut told, until.map(left));
    if waiting.leave() == Woken::Yes {
        return Ok(0);
    }
    match (rested, until) {
        (Ok(answer), _) => {
            answer?;
            Err(Errno::ETIMEDOUT.into())
        }
        (Err(_), None) => Err(Stop::Interrupted(Restart::IfAsked)),
        (Err(_), Some(_)) => Err(continued(c, Continuation::Futex(awaited))),
    }
}

/// A count of those who are woken: of 0 and less it is 1, as in Linux.
fn count(number: i32) -> u64 {
    u64::try_from(number).unwrap_or(1).max(1)
}

fn wake(c: &Context<'_>, reach: Reach, bits: u32) -> Served {
    if bits == 0 {
        return Err(Errno::EINVAL.into());
    }
    let word = word(c, c.address(0), reach)?;
    Ok(c.process.family.futexes.wake(word, count(c.int(2)), bits))
}

/// Wakes some, and has others wait for another word; if a value is told, only while the first word holds it. The answer is
/// how many those are.
fn requeue(c: &Context<'_>, reach: Reach, expected: Option<u32>) -> Served {
    let (wake, most) = (c.int(2), c.int(3));
    let (Ok(wake), Ok(most)) = (u64::try_from(wake), u64::try_from(most)) else {
        return Err(Errno::EINVAL.into());
    };
    let (from, to) = (word(c, c.address(0), reach)?, word(c, c.address(4), reach)?);
    if let Some(expected) = expected
        && value(c, c.address(0))? != expected
    {
        return Err(Errno::EAGAIN.into());
    }
    let (woken, moved) = c.process.family.futexes.requeue(from, to, wake, most);
    Ok(woken + moved)
}
