//! Signals as a task goes back to its program (Linux's `exit_to_user_mode`, `arch_do_signal_or_restart`).
//!
//! ```text
//!   something due ─┬─ a handler ── frame on the program's stack ── not writable: SIGSEGV ─┐
//!        ^         ├─ a stop ── until it is continued                                     │
//!        │         └─ death                                                               │
//!        └── again, until nothing is due <────────────────────────────────────────────────┘
//!   a call that was interrupted is made again ── the mask that was set aside is back ── ring 3
//! ```

use std::sync::atomic::Ordering;

use mm::addr::VirtAddr;
use mm::error::{AccessError, Broken, Fault};
use mm::paging::AccessKind;

use super::actions::{SA_ONSTACK, SA_RESTORER, SA_SIGINFO};
use super::frame::{self, Interrupted, Placement, Returned, Selectors, Wanted};
use super::restart::{Continuation, InterruptedCall};
use super::stack::SS_AUTODISARM;
use super::{AltStack, Due, Info, Signal, SignalAction, SignalSet, Trap, trap, xstate};
use crate::kvm::{KvmError, Registers};
use crate::task::run::{Next, Task, TaskError};

/// Flags that a handler starts without: trace, direction, resume.
const HANDLER_CLEARS: u64 = 1 << 8 | 1 << 10 | 1 << 16;

/// What the delivery of signals needs to know of a task, which its own thread alone changes.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Its alternate stack.
    pub stack: AltStack,
    /// Its last exception.
    pub trap: Trap,
    /// The segments that it asked to go on with.
    pub selectors: Selectors,
    /// The mask that is its own again once signals have been looked at (sigsuspend(2)).
    pub saved_mask: Option<SignalSet>,
    /// The call that was interrupted last.
    pub interrupted: Option<InterruptedCall>,
    /// What the frame gave back whose handler has returned last.
    pub(crate) returned: Option<Returned>,
    /// What restart_syscall(2) does; nothing after a handler has returned.
    pub continuation: Option<Continuation>,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            stack: AltStack::default(),
            trap: Trap::default(),
            selectors: Selectors::USER,
            saved_mask: None,
            interrupted: None,
            returned: None,
            continuation: None,
        }
    }
}

impl Delivery {
    /// A child's, which has the alternate stack `stack`.
    #[must_use]
    pub fn of_child(&self, stack: AltStack) -> Self {
        Delivery { stack, trap: self.trap, ..Delivery::default() }
    }
}

impl Task {
    /// Whether anything is to be done before the program goes on.
    pub(in crate::task) fn is_signal_due(&self) -> bool {
        self.process.signals.needs_attention() || self.delivery.interrupted.is_some()
    }

    /// Does what is due, and lets the program, which is at these registers, go on.
    pub(in crate::task) fn deliver(&mut self, mut at: Registers) -> Result<Next, TaskError> {
        loop {
            match self.process.signals.due() {
                Due::Nothing => {}
                Due::Die(info) => return Ok(self.die(info, &at)),
                Due::Stop(signal) => {
                    self.process.family.stop(&self.process, signal);
                    continue;
                }
                Due::Handle(info, action) => {
                    self.handle(&info, &action, &mut at)?;
                    continue;
                }
            }
            if let Some(call) = self.delivery.interrupted.take() {
                call.unhandled(&mut at);
            }
            if let Some(mask) = self.delivery.saved_mask.take() {
                self.process.signals.set_blocked(mask);
                continue;
            }
            match self.enter_user(&at) {
                Ok(()) => return Ok(Next::Run),
                Err(error) => {
                    let (info, trap) = trap::general_protection(self.delivery.trap, error);
                    if let Some(next) = self.cause(info, trap, at) {
                        return next;
                    }
                }
            }
        }
    }

    /// An instruction has caused a signal: what is due now, or where the program has said that it would be
    /// rather than die.
    pub(in crate::task) fn caused(
        &mut self,
        info: Info,
        trap: Trap,
        at: Registers,
    ) -> Result<Next, TaskError> {
        self.cause(info, trap, at).unwrap_or_else(|| self.deliver(at))
    }

    /// The same; `None` where it is due like others.
    fn cause(
        &mut self,
        info: Info,
        trap: Trap,
        mut at: Registers,
    ) -> Option<Result<Next, TaskError>> {
        let signal = info.signal();
        self.delivery.trap = trap;
        if signal == Signal::KILL {
            self.process.signals.doom(info);
            return None;
        }
        if !self.process.signals.would_handle(signal) {
            let recovery = self.process.recovery.swap(0, Ordering::Relaxed);
            if recovery != 0 {
                at.rcx = at.rip;
                at.rip = recovery;
                at.rdi = u64::from(signal.number().unsigned_abs());
                at.rsi = i64::from(info.code()).cast_unsigned();
                at.rdx = info.address().unwrap_or(0);
                at.rax = if trap.vector == trap::PAGE_FAULT { trap.error } else { 0 };
                at.rflags &= !HANDLER_CLEARS;
                self.delivery.selectors = Selectors::USER;
                return Some(self.deliver(at));
            }
        }
        self.process.signals.force(info);
        None
    }

    /// Enters ring 3 at the next run. What cannot be is a #GP there, with the error code given back, as where
    /// Linux's return to it fails.
    fn enter_user(&mut self, at: &Registers) -> Result<(), u64> {
        if let Some(error) = self.delivery.selectors.error() {
            return Err(error);
        }
        self.vcpu.resume_user(at).map_err(|_| 0)
    }

    /// Has a handler called (`handle_signal`).
    fn handle(
        &mut self,
        info: &Info,
        action: &SignalAction,
        at: &mut Registers,
    ) -> Result<(), TaskError> {
        let signal = info.signal();
        if let Some(call) = self.delivery.interrupted.take() {
            call.before_handler(action, at);
        }
        if signal == Signal::ALRM {
            self.process.family.restart_timer(self.process.pid);
        }
        self.tracer().signal(self.process.pid, info);
        match self.write_frame(info, action, at) {
            Ok(Some(placed)) => {
                // The stack may have grown for it, which a replay must know of.
                for written in [placed.fpstate, placed.frame] {
                    let (pid, space) = (self.process.pid, &self.process.space);
                    self.tracer().fault(
                        pid,
                        VirtAddr::new(written),
                        AccessKind::Write,
                        &Ok(()),
                        space,
                    );
                }
                *at = Registers {
                    rdi: u64::from(signal.number().unsigned_abs()),
                    rsi: placed.info(),
                    rdx: placed.context(),
                    rax: 0,
                    rip: action.handler,
                    rsp: placed.frame,
                    rflags: at.rflags & !HANDLER_CLEARS,
                    ..*at
                };
                self.delivery.selectors = Selectors::USER;
                self.delivery.saved_mask = None;
                self.process.signals.enter_handler(signal, action);
                if self.delivery.stack.flags & SS_AUTODISARM != 0 {
                    self.delivery.stack = AltStack::NONE;
                }
                self.vcpu.reset_xsave().map_err(|error| broken(&error))?;
            }
            Ok(None) | Err(AccessError::Fault(_)) => self.process.signals.force_after(signal),
            Err(AccessError::Broken(broken)) => return Err(broken.into()),
        }
        Ok(())
    }

    /// Puts a frame on the program's stack (`x64_setup_rt_frame`); `None` where there is no place for it.
    fn write_frame(
        &self,
        info: &Info,
        action: &SignalAction,
        at: &Registers,
    ) -> Result<Option<Placement>, AccessError> {
        let layout = self.vcpu.xsave_layout();
        let alternate = action.has(SA_ONSTACK);
        let wanted = if alternate { Wanted::Alternate } else { Wanted::Current };
        let image = xstate::frame_bytes(layout);
        let Some(placed) = Placement::of(at.rsp, image, &self.delivery.stack, wanted) else {
            log::debug!("process {}: the alternate stack overflows", self.process.pid);
            return Ok(None);
        };
        let end = placed.fpstate.checked_add(image).map(VirtAddr::new);
        let is_users = placed.frame <= placed.fpstate
            && end.is_some_and(|end| end <= VirtAddr::TASK_END)
            && action.has(SA_RESTORER);
        if !is_users {
            return Ok(None);
        }
        let state = self.vcpu.xsave().map_err(|error| AccessError::Broken(broken(&error)))?;
        self.copy_out(placed.fpstate, &xstate::to_frame(layout, &state.to_bytes()))?;
        let mask = self.delivery.saved_mask.unwrap_or_else(|| self.process.signals.blocked());
        let interrupted = Interrupted {
            registers: at,
            selectors: self.delivery.selectors,
            trap: self.delivery.trap,
            stack: self.delivery.stack,
            mask,
            fpstate: placed.fpstate,
            restorer: action.restorer,
        };
        self.copy_out(placed.frame, &interrupted.head())?;
        self.copy_out(placed.frame + frame::MASK, &mask.0.to_le_bytes())?;
        if action.has(SA_SIGINFO) {
            self.copy_out(placed.info(), &info.to_bytes())?;
        }
        Ok(Some(placed))
    }

    /// Writes to the program's memory. Where there is none left, it is to die of that.
    fn copy_out(&self, to: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let written = self.process.space.write(VirtAddr::new(to), bytes);
        if let Err(AccessError::Fault(Fault::OutOfMemory(_))) = written {
            self.process.signals.doom(Info::from_kernel(Signal::KILL));
        }
        written
    }
}

fn broken(error: &KvmError) -> Broken {
    Broken::Invariant(error.to_string())
}
