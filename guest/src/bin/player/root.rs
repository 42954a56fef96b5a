//! The root process: pristine, it forks a process for each script, waits for all that come of it, and
//! reports.

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::process;
use guest::script::{Ending, Report, Request, SCRIPT_BYTES, Steps, check};
use guest::{check as require, must};

use crate::area;
use crate::perform::{self, Parent, SIGCHLD};

const SIGKILL: u64 = 9;
const WNOHANG: u64 = 1;
const CLOCK_MONOTONIC: u64 = 1;
const SIG_BLOCK: u64 = 0;
/// The time in a clock's two words.
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
const CHILDREN: u64 = 1 << (SIGCHLD - 1);

/// Whether there is another script.
pub(crate) fn next(input: u64) -> Option<(&'static [u8], u64)> {
    let mut request = [0; Request::BYTES];
    if read(input, request.as_mut_ptr() as u64, request.len() as u64) == 0 {
        return None;
    }
    let Request { length, limit } = Request::decode(request);
    require!(
        length <= SCRIPT_BYTES as u64,
        "a script of {length} bytes; at most {SCRIPT_BYTES} are taken"
    );
    require!(
        read(input, area::SCRIPT, length) == length,
        "the input ends within a script of {length} bytes"
    );
    Some((area::script(usize::try_from(length).unwrap_or(0)), limit))
}

/// Reads so many bytes, or as many as there are.
fn read(input: u64, addr: u64, length: u64) -> u64 {
    let mut got = 0;
    while got < length {
        // SAFETY: the memory is this function's caller's to fill.
        match must!(unsafe { syscall(number::READ, [input, addr + got, length - got]) }) {
            0 => break,
            bytes => got += bytes,
        }
    }
    got
}

/// Writes how a script ended, and the answers.
pub(crate) fn report(output: u64, ending: Ending) {
    let control = area::control();
    let length = control.written();
    let report = Report { length, ending, step: control.turn() };
    process::write_all(output, &report.encode());
    process::write_all(output, area::answers(usize::try_from(length).unwrap_or(0)));
}

/// Keeps the ends of processes for [`perform()`] to wait for.
pub(crate) fn hold_signals() {
    let set = CHILDREN;
    let args = [SIG_BLOCK, &raw const set as u64, 0, 8];
    // SAFETY: the call only reads the set.
    must!(unsafe { syscall(number::RT_SIGPROCMASK, args) });
}

/// Performs a script in processes of its own. None of them is left when this returns.
pub(crate) fn perform(script: &[u8], limit: u64) -> Ending {
    let control = area::control();
    control.reset();
    let steps = match check(script) {
        Ok(steps) => steps,
        Err((step, _)) => return refuse(step),
    };
    let late = now().saturating_add(limit.saturating_mul(MILLISECOND));
    let root = process::id();
    match perform::fork(0, Parent::Caller, root) {
        Ok(Some(first)) => first.play(script, root),
        Ok(None) => {}
        Err(error) => return Ending::NoProcess { errno: error.0 },
    }
    let mut ending = Ending::Finished;
    let mut step = 0;
    loop {
        let ended = match next_end() {
            Next::Gone => break,
            Next::None if ending != Ending::Finished => {
                await_signal(SECOND);
                continue;
            }
            Next::None if await_signal(late.saturating_sub(now())) => continue,
            Next::None => Some(Ending::Late),
            Next::Ended { process, status } => judge(script, steps, process, status),
        };
        if let (Some(ended), Ending::Finished) = (ended, ending) {
            ending = ended;
            step = control.turn();
        }
        // Again after each end: a process may have forked before it was killed.
        if ending != Ending::Finished {
            kill_all();
        }
    }
    if ending != Ending::Finished {
        control.set_turn(step);
    }
    ending
}

/// Says that a script cannot be performed because of this step.
pub(crate) fn refuse(step: u32) -> Ending {
    area::control().set_turn(step);
    Ending::Refused
}

enum Next {
    /// There is no process left.
    Gone,
    /// None has ended.
    None,
    /// This one has ended.
    Ended { process: u8, status: u32 },
}

/// Looks for a process that has ended.
fn next_end() -> Next {
    let control = area::control();
    let mut status: u32 = 0;
    let args = [u64::MAX, &raw mut status as u64, WNOHANG, 0];
    // SAFETY: the call writes the status.
    match unsafe { syscall(number::WAIT4, args) } {
        Err(Errno::ECHILD) => Next::Gone,
        Ok(0) | Err(_) => Next::None,
        Ok(pid) => match control.processes().find(|&(_, known)| u64::from(known) == pid) {
            Some((process, _)) => {
                control.pid(process).store(0, core::sync::atomic::Ordering::SeqCst);
                Next::Ended { process, status }
            }
            // Not a process of a script: nothing the root has made.
            None => Next::None,
        },
    }
}

/// What a process's end means; `None` if it is as the script says.
fn judge(script: &[u8], steps: u32, process: u8, status: u32) -> Option<Ending> {
    let control = area::control();
    let [signal, code, ..] = status.to_le_bytes();
    match (signal & 0x7f, code) {
        (0, 0) if control.turn() == steps => None,
        (0, 0) if control.left(process) => {
            let turn = control.turn();
            let mut rest = Steps::new(script);
            let _ = rest.nth(turn as usize);
            control.pass(turn, rest);
            None
        }
        (0, _) if control.is_full() => Some(Ending::Full),
        (0, status) => Some(Ending::Exited { process, status }),
        (signal, _) => Some(Ending::Killed { process, signal }),
    }
}

fn kill_all() {
    for (_, pid) in area::control().processes() {
        // SAFETY: a process of this script's, not waited for yet, so the pid is still its.
        let _ = unsafe { syscall(number::KILL, [pid.into(), SIGKILL]) };
    }
}

/// Waits until a process ends; false when the time, in nanoseconds, has passed.
fn await_signal(time: u64) -> bool {
    let set = CHILDREN;
    let time = [time / SECOND, time % SECOND];
    let args = [&raw const set as u64, 0, &raw const time as u64, 8];
    // SAFETY: the call only reads the set and the time.
    let came = unsafe { syscall(number::RT_SIGTIMEDWAIT, args) };
    came != Err(Errno::EAGAIN)
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: the call writes the two words.
    must!(unsafe { syscall(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, &raw mut time as u64]) });
    time[0].saturating_mul(SECOND).saturating_add(time[1])
}
