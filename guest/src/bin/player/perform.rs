//! A process of a script: performs its own steps, each when it is its turn.

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::fault::{self, Caught};
use guest::process;
use guest::script::{Access, Arg, Kind, Op, Steps};

use crate::area::{self, Sheet};
use crate::inspect::Inspector;

/// A process: its number in the script, and what it looks at its memory with.
#[derive(Debug)]
pub(crate) struct Process {
    number: u8,
    inspector: Inspector,
}

/// How a fork's copy differs from a plain one's: it is the root's child, not the forking process's, so
/// that the root learns of every process's end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parent {
    /// The process that forks is the root.
    Caller,
    /// The root is the process's own parent (CLONE_PARENT).
    Root,
}

const CLONE_PARENT: u64 = 0x8000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
/// SIGCHLD
pub(crate) const SIGCHLD: u64 = 17;
const SIGKILL: u64 = 9;
const PR_SET_PDEATHSIG: u64 = 1;

/// Makes the process with this number; `None` in the calling process.
///
/// # Errors
/// fork(2)'s.
pub(crate) fn fork(number: u8, parent: Parent, root: u64) -> Result<Option<Process>, Errno> {
    // The kernel writes the pid before the new process runs.
    let flags = CLONE_PARENT_SETTID
        | match parent {
            Parent::Caller => SIGCHLD,
            Parent::Root => CLONE_PARENT | SIGCHLD,
        };
    let pid = area::control().pid(number).as_ptr() as u64;
    // SAFETY: a copy of the address space, which goes on where this one does; the pid is an atomic's.
    if unsafe { syscall(number::CLONE, [flags, 0, pid, 0, 0]) }? != 0 {
        return Ok(None);
    }
    // SAFETY: whatever kills the root kills this process too.
    let _ = unsafe { syscall(number::PRCTL, [PR_SET_PDEATHSIG, SIGKILL]) };
    // SAFETY: the call touches no memory.
    if unsafe { syscall::<0>(number::GETPPID, []) } != Ok(root) {
        process::exit(0);
    }
    Ok(Some(Process { number, inspector: Inspector::new() }))
}

impl Process {
    /// The first process, where there are no others.
    pub(crate) fn only() -> Self {
        Process { number: 0, inspector: Inspector::new() }
    }

    /// Performs the process's steps, and ends.
    pub(crate) fn play(mut self, script: &[u8], root: u64) -> ! {
        let control = area::control();
        let mut steps = Steps::new(script);
        let mut at = 0;
        // The script was checked: there is no malformed step.
        while let Some(Ok(step)) = steps.next() {
            if step.process == self.number {
                control.wait(at, self.number);
                match step.op {
                    Op::Fork { child } => match fork(child, Parent::Root, root) {
                        Ok(Some(child)) => {
                            // The inherited file is the parent's memory's.
                            self.inspector.close();
                            self = child;
                            at += 1;
                            continue;
                        }
                        Ok(None) => answer_result(0),
                        Err(error) => {
                            control.set_absent(child);
                            answer_result(raw(Err(error)));
                        }
                    },
                    Op::Exit => {
                        answer_result(0);
                        control.leave(self.number);
                    }
                    op => self.perform(op),
                }
                control.pass(at, steps.clone());
            }
            at += 1;
        }
        // Its memory is still the others' relative.
        control.wait(at, self.number);
        process::exit(0)
    }

    /// Performs all steps of a script that has one process; Fork answers ENOSYS.
    pub(crate) fn play_alone(mut self, script: &[u8]) {
        let control = area::control();
        let mut steps = Steps::new(script);
        let mut at = 0;
        while let Some(Ok(step)) = steps.next() {
            // Otherwise it is an absent process's, and answered.
            if at == control.turn() {
                match step.op {
                    Op::Fork { child } => {
                        control.set_absent(child);
                        answer_result(raw(Err(Errno::ENOSYS)));
                    }
                    // The script was checked: this process has no more steps.
                    Op::Exit => answer_result(0),
                    op => self.perform(op),
                }
                control.pass(at, steps.clone());
            }
            at += 1;
        }
    }

    fn perform(&mut self, op: Op<'_>) {
        match op {
            Op::Call { number, args } => call(number, args),
            Op::Touch { addr, access } => {
                let tried = match access {
                    Access::Read => fault::read(addr).map(drop),
                    Access::Write => fault::write(addr),
                    // SAFETY: what the script has put there, or the zeros that were there.
                    Access::Execute => unsafe { fault::fetch(addr) },
                };
                answer_access(tried.map(|()| 0));
            }
            Op::Load { addr } => answer_access(fault::read(addr)),
            Op::Store { addr, byte } => {
                // SAFETY: scripts do not write to what is the player's.
                answer_access(unsafe { fault::write_byte(addr, byte) }.map(|()| 0));
            }
            Op::Maps { start, end } => self.inspector.vmas(start, end),
            Op::VmFlags { start, end } => Inspector::vm_flags(start, end),
            Op::Pagemap { start, end } => Inspector::pagemap(start, end),
            Op::Status => Inspector::status(),
            // Answered by those who call this.
            Op::Fork { .. } | Op::Exit => answer_result(raw(Err(Errno::ENOSYS))),
        }
    }
}

/// What rax held.
const fn raw(result: Result<u64, Errno>) -> u64 {
    match result {
        Ok(value) => value,
        Err(Errno(number)) => (number as u64).wrapping_neg(),
    }
}

fn answer_result(value: u64) {
    let mut sheet = Sheet::begin();
    sheet.word(value);
    sheet.finish(Kind::Result);
}

fn answer_access(tried: Result<u8, Caught>) {
    let mut sheet = Sheet::begin();
    let (signal, code, address, byte) = match tried {
        Ok(byte) => (0, 0, 0, byte),
        Err(Caught { signal, code, address, .. }) => (signal, code, address, 0),
    };
    for word in [signal, code, address, byte.into()] {
        sheet.word(word);
    }
    sheet.finish(Kind::Access);
}

fn call(number: u64, args: [Arg<'_>; 6]) {
    let mut sheet = Sheet::begin();
    let value = sheet.word(0);
    let args = args.map(|arg| match arg {
        Arg::Value(value) => value,
        Arg::In(bytes) => bytes.as_ptr() as u64,
        Arg::Out(length) => {
            sheet.word(length.into());
            sheet.zeros(length.into())
        }
        Arg::InOut(bytes) => {
            sheet.word(bytes.len() as u64);
            sheet.bytes(bytes)
        }
    });
    // SAFETY: the script's own memory is what it changes; what the script does to the player's ends
    // this process, and the root says so.
    let result = unsafe { syscall(number, args) };
    sheet.set(value, raw(result));
    sheet.finish(Kind::Result);
}
