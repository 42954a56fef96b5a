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

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::{AccessError, Broken};
use mm::inspect::maps;
use mm::numa;

use super::out_of_memory::OutOfMemory;
use super::process::Process;
use super::signal::floating_point_code;
use super::{Code, Death, Place, Signalled, Stats};
use crate::hypercall::{self, Answer, Call, Tracer};
use crate::kvm::{Exit, Registers, Vcpu, faulting_access};

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
    stats: Stats,
    /// How often the host has refused the program's memory since anything else happened.
    refused: u32,
}

/// How often that may be.
const MOST_REFUSED: u32 = 1000;
/// How often it may be another vCPU that has seen to it already.
const RACES: u32 = 2;

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
    ) -> Result<Self, TaskError> {
        vcpu.set_root(process.space.look().table().root());
        let registers = Registers { rip: entry.get(), rsp: stack.get(), ..Registers::default() };
        vcpu.resume_user(&registers).map_err(|error| TaskError::Vcpu(error.to_string()))?;
        Ok(Task::from_parts(vcpu, process))
    }

    /// Has the vCPU, which is as new, begin with another process; gives the one that it ran.
    pub(super) fn start(
        &mut self,
        process: Arc<Process>,
        entry: VirtAddr,
        stack: VirtAddr,
    ) -> Result<Arc<Process>, TaskError> {
        self.vcpu.set_root(process.space.look().table().root());
        let registers = Registers { rip: entry.get(), rsp: stack.get(), ..Registers::default() };
        self.vcpu.resume_user(&registers).map_err(|error| TaskError::Vcpu(error.to_string()))?;
        Ok(std::mem::replace(&mut self.process, process))
    }

    /// A task whose vCPU is set by somebody else.
    pub(super) fn from_parts(vcpu: Vcpu, process: Arc<Process>) -> Self {
        Task { vcpu, process, stats: Stats::default(), refused: 0 }
    }

    /// Gives everything back that is not counted in the process table.
    pub(super) fn into_parts(self) -> (Vcpu, Arc<Process>, Stats) {
        (self.vcpu, self.process, self.stats)
    }

    /// Runs a process other than the first to its end, and ends it, on the calling thread.
    pub(super) fn live(mut self) {
        let family = Arc::clone(&self.process.family);
        let ended = self.run();
        family.bury(self, ended);
    }

    /// The process it runs.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(super) fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// [`TaskError`] when mmvisor itself cannot go on.
    pub fn run(&mut self) -> Result<End, TaskError> {
        self.process.family.enter(self.process.pid);
        super::process::enter(self.process.pid);
        self.process.family.show(&self.process);
        let policy = *self.process.policy.lock().unwrap_or_else(PoisonError::into_inner);
        numa::enter(policy, self.process.family.machine().node_of(&self.vcpu));
        loop {
            if let Some(end) = self.step()? {
                return Ok(end);
            }
        }
    }

    /// Runs the program to its next exit and serves that. `Some` if it ended the program, which must
    /// not be run any more then.
    ///
    /// # Errors
    /// [`TaskError`] when mmvisor itself cannot go on.
    pub fn step(&mut self) -> Result<Option<End>, TaskError> {
        let next = match self.process.signals.fatal() {
            Some(by) => self.die(by, self.vcpu.registers().rip),
            None => {
                let started = self.now();
                let exit = self.vcpu.run();
                self.stats.guest_time += since(started);
                if !matches!(exit, Exit::Unbacked(_)) {
                    self.refused = 0;
                }
                self.serve(exit)?
            }
        };
        match next {
            Next::Run => Ok(None),
            Next::End(end) => {
                self.tracer().end(self.process.pid, &end, &self.process.space);
                Ok(Some(end))
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
            Exit::CompatCall => self.compat_call(),
            Exit::Fault { vector: PAGE_FAULT, error, address, .. } => {
                self.stats.exits.page_faults += 1;
                self.page_fault(address, error)
            }
            Exit::Fault { vector, frame, .. } => {
                self.stats.exits.exceptions += 1;
                let by = Signalled::exception(vector, frame.rip, || self.floating_point_code());
                match by {
                    Some(by) => self.signal(by, *self.vcpu.registers()),
                    None => Err(TaskError::Vcpu(format!("exception {vector} at {:#x}", frame.rip))),
                }
            }
            Exit::UserPort { .. } => {
                self.stats.exits.exceptions += 1;
                self.signal(Signalled::general_protection(), *self.vcpu.registers())
            }
            Exit::Interrupted(_) => {
                self.stats.exits.interrupts += 1;
                Ok(Next::Run)
            }
            Exit::Unbacked(what) => self.unbacked(what),
            Exit::Broken(what) => Err(TaskError::Vcpu(what)),
        }
    }

    /// The host has no bytes where the program looked. Another vCPU may have seen to it already.
    fn unbacked(&mut self, what: String) -> Result<Next, TaskError> {
        self.stats.exits.interrupts += 1;
        let system = Arc::clone(self.process.space.look().system());
        let changed = system.recheck_files()?;
        self.refused = if changed { 0 } else { self.refused + 1 };
        if self.refused > MOST_REFUSED {
            return Err(TaskError::Vcpu(what));
        }
        if self.refused > RACES {
            system.doubt_files()?;
        }
        Ok(Next::Run)
    }

    /// A call by way of the 32-bit landing place. There is no 32-bit code segment and no 32-bit ABI, so
    /// only a jump into the stub page gets there. Linux has nothing to compare it with: 64-bit code enters
    /// its 32-bit ABI by `int 0x80` alone, and a jump into the kernel half is `SIGSEGV` there, as it is
    /// here.
    fn compat_call(&mut self) -> Result<Next, TaskError> {
        self.stats.exits.exceptions += 1;
        self.signal(Signalled::general_protection(), *self.vcpu.registers())
    }

    fn tracer(&self) -> &Tracer {
        self.process.family.tracer()
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
        let line = self.tracer().enter(call, &self.process.space);
        let mut newborn = None;
        let answer = hypercall::serve(&call, &self.process, &mut self.vcpu, &mut newborn)?;
        let counted = self.stats.calls.entry(call.number).or_default();
        counted.count += 1;
        counted.errors += u64::from(matches!(answer, Answer::Error(_)));
        counted.time += since(started);
        self.tracer().leave(self.process.pid, line, &answer, &self.process.space);
        if let Some(newborn) = newborn
            && let Err(by) = newborn.begin(&self.process)
        {
            return Ok(self.die(by, registers.rip));
        }
        match answer {
            Answer::Exit(status) => Ok(Next::End(End::Exited(status))),
            Answer::Signal(by) => Ok(self.die(by, self.vcpu.registers().rip)),
            Answer::Exec(replacement) => {
                self.replace(*replacement)?;
                Ok(Next::Run)
            }
            Answer::Value(value) => {
                registers.rax = value;
                self.resume(&registers)
            }
            Answer::Error(errno) => {
                registers.rax = hypercall::negated(errno);
                self.resume(&registers)
            }
        }
    }

    fn page_fault(&mut self, address: VirtAddr, error: u64) -> Result<Next, TaskError> {
        let kind = faulting_access(address, error)?;
        let started = self.now();
        let resolved = self.process.space.fault(address, kind);
        self.stats.fault_time += since(started);
        self.tracer().fault(self.process.pid, address, kind, &resolved, &self.process.space);
        match resolved {
            Ok(()) => {
                self.vcpu.retry_fault();
                Ok(Next::Run)
            }
            Err(AccessError::Fault(fault)) => {
                self.signal(Signalled::page_fault(fault, error), *self.vcpu.registers())
            }
            Err(AccessError::Broken(broken)) => Err(broken.into()),
        }
    }

    /// Sends the program, which was at these registers, to its recovery address, if one is armed; else
    /// it dies.
    fn signal(&mut self, by: Signalled, mut registers: Registers) -> Result<Next, TaskError> {
        let recovery = self.process.set_recovery(0);
        if recovery == 0 || by.signal == nix::sys::signal::Signal::SIGKILL {
            return Ok(self.die(by, registers.rip));
        }
        registers.rcx = registers.rip;
        registers.rip = recovery;
        registers.rdi = u64::from((by.signal as i32).unsigned_abs());
        registers.rsi = i64::from(by.code.number()).cast_unsigned();
        registers.rdx = by.address;
        registers.rax = by.error;
        registers.rflags &= !HANDLER_CLEARS;
        self.resume(&registers)
    }

    /// Goes on in ring 3. An address that ring 3 cannot be entered at is a #GP of the program there, as
    /// where Linux's return to it fails. If it was the recovery address itself, none is armed any more,
    /// and the program dies.
    fn resume(&mut self, registers: &Registers) -> Result<Next, TaskError> {
        match self.vcpu.resume_user(registers) {
            Ok(()) => Ok(Next::Run),
            Err(_) => self.signal(Signalled::general_protection(), *registers),
        }
    }

    fn die(&self, by: Signalled, rip: u64) -> Next {
        if by.is_out_of_memory() {
            log::warn!("{}", OutOfMemory::now(&self.process.family, self.process.pid));
        }
        // A null pointer is an address, too; without any, the instruction is all there is to look at.
        let has_address =
            by.address != 0 || matches!(by.code, Code::NotMapped | Code::Denied | Code::NoBacking);
        let at = VirtAddr::new(if has_address { by.address } else { rip });
        Next::End(End::Killed(Death { by, rip, place: self.place_of(at) }))
    }

    fn place_of(&self, at: VirtAddr) -> Place {
        let mut below = None;
        for line in maps(&self.process.space.look()) {
            let text = || line.to_string().trim_end().to_owned();
            if line.range.contains(at) {
                return Place::In(text());
            }
            if line.range.start() > at {
                return Place::Near(below.into_iter().chain([text()]).collect());
            }
            below = Some(text());
        }
        Place::Near(below.into_iter().collect())
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
        (self.process.family.timing() == Timing::On).then(Instant::now)
    }
}

fn since(started: Option<Instant>) -> Duration {
    started.map_or(Duration::ZERO, |instant| instant.elapsed())
}
