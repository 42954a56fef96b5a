//! The run loop: run the vCPU, serve what it stopped for, go on.
//!
//! ```text
//!        ┌──────────── KVM_RUN <───────────────────────────────┐
//!        v                                                     │
//!   Call ──> hypercall::serve ──> value in rax ────────────────┤
//!   Fault 14 ──> SharedSpace::fault ──> Ok: the same again ────┤
//!        │                         └──> signal ──┐             │
//!   Fault n ──> signal ──────────────────────────┤             │
//!                                recovery armed? ├─ yes: there ┘
//!                                                └─ no: Death
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::{AccessError, Broken};
use mm::inspect::maps;
use mm::paging::AccessKind;

use super::process::Process;
use super::signal::floating_point_code;
use super::{Death, Signalled, Stats};
use crate::hypercall::{self, Answer, Call, Tracer};
use crate::kvm::{Exit, Registers, Vcpu};

/// Bits of a page fault's error code (SDM volume 3, figure 5-12).
const ERROR_WRITE: u64 = 1 << 1;
const ERROR_RESERVED: u64 = 1 << 3;
const ERROR_FETCH: u64 = 1 << 4;
/// Flags that a program at its recovery address starts without, as a signal handler does: trace,
/// direction, resume.
const HANDLER_CLEARS: u64 = 1 << 8 | 1 << 10 | 1 << 16;
/// The page fault's vector.
const PAGE_FAULT: u8 = 14;

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It exited with this status.
    Exited(u8),
    /// A signal killed it.
    Killed(Death),
}

/// Why a task had to be given up.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A failure of ours or the host's.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The vCPU did something that it must not do.
    #[error("the vCPU stopped for a reason that cannot be: {0}")]
    Vcpu(String),
}

/// Whether host time is taken at every exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timing {
    /// It is.
    On,
    /// It is not: reading the clock twice an exit is not free.
    Off,
}

/// A vCPU that runs in a process.
#[derive(Debug)]
pub struct Task {
    vcpu: Vcpu,
    process: Arc<Process>,
    tracer: Tracer,
    timing: Timing,
    stats: Stats,
}

/// What serving an exit came to.
enum Next {
    /// Run again.
    Run,
    /// The program has ended.
    End(End),
}

impl Task {
    /// A task that begins at `entry` with the stack pointer `stack`, everything else zero.
    ///
    /// # Errors
    /// [`TaskError::Vcpu`] if the entry is no address that ring 3 can be entered at.
    pub fn new(
        mut vcpu: Vcpu,
        process: Arc<Process>,
        entry: VirtAddr,
        stack: VirtAddr,
        tracer: Tracer,
        timing: Timing,
    ) -> Result<Self, TaskError> {
        vcpu.set_root(process.space.look().table().root());
        let registers = Registers { rip: entry.get(), rsp: stack.get(), ..Registers::default() };
        vcpu.resume_user(&registers).map_err(|error| TaskError::Vcpu(error.to_string()))?;
        Ok(Task { vcpu, process, tracer, timing, stats: Stats::default() })
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// [`TaskError`] when mmvisor itself cannot go on.
    pub fn run(&mut self) -> Result<End, TaskError> {
        loop {
            let started = self.now();
            let exit = self.vcpu.run();
            self.stats.guest_time += since(started);
            if let Next::End(end) = self.serve(exit)? {
                self.tracer.end(&end);
                return Ok(end);
            }
        }
    }

    /// What it counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Gives the vCPU back.
    #[must_use]
    pub fn into_vcpu(self) -> Vcpu {
        self.vcpu
    }

    fn serve(&mut self, exit: Exit) -> Result<Next, TaskError> {
        match exit {
            Exit::Call => self.call(),
            // There is no 32-bit ABI: Linux without IA32 emulation answers ENOSYS to it.
            Exit::CompatCall => self.signal(Signalled::general_protection()),
            Exit::Fault { vector: PAGE_FAULT, error, address, .. } => {
                self.stats.exits.page_faults += 1;
                self.page_fault(address, error)
            }
            Exit::Fault { vector, frame, .. } => {
                self.stats.exits.exceptions += 1;
                let by = Signalled::exception(vector, frame.rip, || self.floating_point_code());
                match by {
                    Some(by) => self.signal(by),
                    None => Err(TaskError::Vcpu(format!("exception {vector} at {:#x}", frame.rip))),
                }
            }
            Exit::UserPort { .. } => {
                self.stats.exits.exceptions += 1;
                self.signal(Signalled::general_protection())
            }
            Exit::Interrupted(_) => {
                self.stats.exits.interrupts += 1;
                Ok(Next::Run)
            }
            Exit::Broken(what) => Err(TaskError::Vcpu(what)),
        }
    }

    fn call(&mut self) -> Result<Next, TaskError> {
        self.stats.exits.calls += 1;
        let mut registers = *self.vcpu.registers();
        let call = Call {
            // Linux looks at eax only.
            number: registers.rax & u64::from(u32::MAX),
            args: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
        };
        let started = self.now();
        let line = self.tracer.enter(call, &self.process.space);
        let answer = hypercall::serve(&call, &self.process, &mut self.vcpu)?;
        let counted = self.stats.calls.entry(call.number).or_default();
        counted.count += 1;
        counted.errors += u64::from(matches!(answer, Answer::Error(_)));
        counted.time += since(started);
        self.tracer.leave(line, &answer, &self.process.space);
        match answer {
            Answer::Exit(status) => Ok(Next::End(End::Exited(status))),
            Answer::Signal(by) => Ok(Next::End(End::Killed(self.death(by)))),
            Answer::Value(value) => {
                registers.rax = value;
                self.resume(&registers)
            }
            Answer::Error(errno) => {
                registers.rax = i64::from(-(errno as i32)).cast_unsigned();
                self.resume(&registers)
            }
        }
    }

    fn page_fault(&mut self, address: VirtAddr, error: u64) -> Result<Next, TaskError> {
        // Software KVM says so of any address in the upper half, where its own tables are.
        if error & ERROR_RESERVED != 0 && address < VirtAddr::TASK_END {
            let what = format!("a page-table entry for {address} has reserved bits set");
            return Err(Broken::Invariant(what).into());
        }
        let kind = if error & ERROR_FETCH != 0 {
            AccessKind::Execute
        } else if error & ERROR_WRITE != 0 {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let started = self.now();
        let resolved = self.process.space.fault(address, kind);
        self.stats.fault_time += since(started);
        self.tracer.fault(address, kind, &resolved);
        match resolved {
            Ok(()) => {
                self.vcpu.retry_fault();
                Ok(Next::Run)
            }
            Err(AccessError::Fault(fault)) => self.signal(Signalled::page_fault(fault, error)),
            Err(AccessError::Broken(broken)) => Err(broken.into()),
        }
    }

    /// Sends the program to its recovery address, if one is armed; else it dies.
    fn signal(&mut self, by: Signalled) -> Result<Next, TaskError> {
        let recovery = self.process.set_recovery(0);
        if recovery == 0 || by.signal == nix::sys::signal::Signal::SIGKILL {
            return Ok(Next::End(End::Killed(self.death(by))));
        }
        let mut registers = *self.vcpu.registers();
        registers.rcx = registers.rip;
        registers.rip = recovery;
        registers.rdi = u64::from((by.signal as i32).unsigned_abs());
        registers.rsi = i64::from(by.code.number()).cast_unsigned();
        registers.rdx = by.address;
        registers.rax = by.error;
        registers.rflags &= !HANDLER_CLEARS;
        self.resume(&registers)
    }

    /// Goes on in ring 3. An address that ring 3 cannot be entered at is a #GP of the program, which
    /// can end only in its death: the recovery address is the program's too.
    fn resume(&mut self, registers: &Registers) -> Result<Next, TaskError> {
        match self.vcpu.resume_user(registers) {
            Ok(()) => Ok(Next::Run),
            Err(_) => {
                let mut death = self.death(Signalled::general_protection());
                death.rip = registers.rip;
                Ok(Next::End(End::Killed(death)))
            }
        }
    }

    fn death(&self, by: Signalled) -> Death {
        let at =
            VirtAddr::new(if by.address != 0 { by.address } else { self.vcpu.registers().rip });
        let space = self.process.space.look();
        let mut nearby = Vec::new();
        for line in maps(&space) {
            if line.range.contains(at) {
                nearby = vec![line.to_string()];
                break;
            }
            if line.range.start() > at {
                nearby.push(line.to_string());
                break;
            }
            nearby = vec![line.to_string()];
        }
        Death { by, rip: self.vcpu.registers().rip, nearby }
    }

    /// The si_code of the floating-point exception that the vCPU's state shows.
    fn floating_point_code(&self) -> i32 {
        let Ok(area) = self.vcpu.xsave() else { return floating_point_code(0) };
        let bytes = area.to_bytes();
        let word = |at: usize| {
            bytes.get(at..at + 2).map_or(0, |b| u32::from(u16::from_le_bytes([b[0], b[1]])))
        };
        let (control, status, mxcsr) = (word(0), word(2), word(24));
        floating_point_code((status & !control | mxcsr & !(mxcsr >> 7)) & 0x3f)
    }

    fn now(&self) -> Option<Instant> {
        (self.timing == Timing::On).then(Instant::now)
    }
}

fn since(started: Option<Instant>) -> Duration {
    started.map_or(Duration::ZERO, |instant| instant.elapsed())
}
