//! The run loop: run the vCPU, serve what it stopped for, go on.
//!
//! ```text
//!        ┌──────────── KVM_RUN <───────────────────────────────┐
//!        v                                                     │
//!   Call ──> hypercall::serve ──> value in rax ────────────────┤
//!   Fault 14 ──> SharedSpace::fault ──> Ok: the same again ────┤
//!        │                         └──> signal ──┐             │
//!   Fault n ──> signal ──────────────────────────┤             │
//!   a signal from elsewhere ─────────────────────┤             │
//!                               handler, call of │             │
//!                               recover, default ├─ goes on ───┘
//!                                                └─ Death
//! ```
//!
//! What signals come to is in `signals/deliver`.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::{AccessError, Broken};
use mm::inspect::maps;
use mm::numa;

use super::Stats;
use super::out_of_memory::OutOfMemory;
use super::process::Process;
use super::signals::{
    self, Death, Delivery, Details, Info, InterruptedCall, PAGE_FAULT, Place, Trap,
};
use crate::hypercall::{self, Answer, Call, Caller, Tracer};
use crate::kvm::{Exit, Position, Registers, Vcpu, faulting_access};

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
    pub(super) vcpu: Vcpu,
    pub(super) process: Arc<Process>,
    pub(super) delivery: Delivery,
    /// The number of the call that its program is in; `None` where it is anywhere else.
    pub(super) calling: Option<u64>,
    stats: Stats,
    /// How often the host has refused the program's memory since anything else happened.
    refused: u32,
}

/// How often that may be.
const MOST_REFUSED: u32 = 1000;
/// How often it may be another vCPU that has seen to it already.
const RACES: u32 = 2;

/// What serving an exit came to.
pub(super) enum Next {
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
        Ok(Task::from_parts(vcpu, process, Delivery::default()))
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
    pub(super) fn from_parts(vcpu: Vcpu, process: Arc<Process>, delivery: Delivery) -> Self {
        Task { vcpu, process, delivery, calling: None, stats: Stats::default(), refused: 0 }
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
        self.process.family.enter(self.process.pid, self.vcpu.index());
        super::process::enter(&self.process);
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
        let can_deliver = self.vcpu.position() != Position::Entering;
        let next = if can_deliver && self.is_signal_due() {
            self.deliver(*self.vcpu.registers())?
        } else {
            let started = self.now();
            let exit = self.vcpu.run();
            self.stats.guest_time += since(started);
            if !matches!(exit, Exit::Unbacked(_)) {
                self.refused = 0;
            }
            self.serve(exit)?
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
        self.calling = None;
        match exit {
            Exit::Call => self.call(),
            Exit::CompatCall => self.compat_call(),
            Exit::Fault { vector: PAGE_FAULT, error, address, .. } => {
                self.stats.exits.page_faults += 1;
                self.page_fault(address, error)
            }
            Exit::Fault { vector, error, frame, .. } => {
                self.stats.exits.exceptions += 1;
                let Some(info) = signals::exception(vector, error, frame.rip, &self.vcpu) else {
                    return Err(TaskError::Vcpu(format!("exception {vector} at {:#x}", frame.rip)));
                };
                let trap = Trap { vector, error, ..self.delivery.trap };
                self.caused(info, trap, *self.vcpu.registers())
            }
            Exit::UserPort { .. } => self.general_protection(),
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
        self.general_protection()
    }

    fn general_protection(&mut self) -> Result<Next, TaskError> {
        self.stats.exits.exceptions += 1;
        let (info, trap) = signals::general_protection(self.delivery.trap, 0);
        self.caused(info, trap, *self.vcpu.registers())
    }

    pub(super) fn tracer(&self) -> &Tracer {
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
        self.calling = Some(registers.rax);
        let started = self.now();
        let line = self.tracer().enter(call, &self.process.space);
        let mut newborn = None;
        let caller = Caller {
            process: &self.process,
            vcpu: &mut self.vcpu,
            delivery: &mut self.delivery,
            newborn: &mut newborn,
        };
        let answer = hypercall::serve(&call, caller)?;
        let counted = self.stats.calls.entry(call.number).or_default();
        counted.count += 1;
        counted.errors += u64::from(matches!(answer, Answer::Error(_)));
        counted.time += since(started);
        self.tracer().leave(self.process.pid, line, &answer, &self.process.space);
        if let Some(newborn) = newborn {
            newborn.begin(&self.process);
        }
        match answer {
            Answer::Exit(status) => Ok(Next::End(End::Exited(status))),
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
            Answer::Interrupted(restart) => {
                let number = registers.rax;
                self.delivery.interrupted = Some(InterruptedCall { restart, number });
                self.deliver(registers)
            }
            answer @ (Answer::Returned | Answer::BadFrame) => {
                self.calling = None;
                if let Some(returned) = self.delivery.returned.take() {
                    self.delivery.selectors = returned.selectors;
                    registers = returned.registers;
                }
                if matches!(answer, Answer::Returned) {
                    return self.deliver(registers);
                }
                let info = Info::from_kernel(signals::Signal::SEGV);
                self.caused(info, self.delivery.trap, registers)
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
                let (info, trap) = signals::page_fault(fault, error);
                self.caused(info, trap, *self.vcpu.registers())
            }
            Err(AccessError::Broken(broken)) => Err(broken.into()),
        }
    }

    /// Goes on in ring 3; where it cannot be entered there, `deliver` says what comes of it.
    fn resume(&mut self, registers: &Registers) -> Result<Next, TaskError> {
        match self.vcpu.resume_user(registers) {
            Ok(()) => Ok(Next::Run),
            Err(_) => self.deliver(*registers),
        }
    }

    pub(super) fn die(&self, by: Info, at: &Registers) -> Next {
        let rip = at.rip;
        if by.is_out_of_memory() {
            log::warn!("{}", OutOfMemory::now(&self.process.family, self.process.pid));
        }
        let missed = by.is_out_of_memory().then_some(self.delivery.trap.cr2);
        // A null pointer is an address, too; without any, the instruction is all there is to look at.
        let address = by.address().or(missed);
        let place = self.place_of(VirtAddr::new(address.unwrap_or(rip)));
        let core = self.write_core(&by, at);
        Next::End(End::Killed(Death { by, address: address.unwrap_or(0), rip, place, core }))
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

    fn now(&self) -> Option<Instant> {
        (self.process.family.timing() == Timing::On).then(Instant::now)
    }
}

impl Details for Vcpu {
    fn raised(&self) -> u32 {
        self.xsave().map_or(0, |state| signals::raised(&state.to_bytes()))
    }

    fn debug_status(&self) -> u64 {
        self.take_debug_status().unwrap_or(0)
    }
}

fn since(started: Option<Instant>) -> Duration {
    started.map_or(Duration::ZERO, |instant| instant.elapsed())
}
