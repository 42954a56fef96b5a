//! What becomes of a call that a signal interrupts (Linux's `ERESTARTSYS` and its kin).
//!
//! ```text
//!                       a handler without     with SA_RESTART     no handler
//!   IfAsked             EINTR                 made again          made again
//!   IfUnhandled         EINTR                 EINTR               made again
//!   Continued           EINTR                 EINTR               restart_syscall(2) takes it up
//! ```

use std::fmt;
use std::time::Instant;

use mm::addr::VirtAddr;
use mm::error::Errno;

use super::SignalAction;
use super::actions::SA_RESTART;
use crate::hypercall::{Awaited, negated};
use crate::kvm::Registers;

/// Bytes of a `syscall` instruction.
const SYSCALL_BYTES: u64 = 2;
/// restart_syscall(2).
const RESTART_SYSCALL: u64 = nix::libc::SYS_restart_syscall as u64;

/// How a call that was interrupted goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// `ERESTARTSYS`.
    IfAsked,
    /// `ERESTARTNOHAND`.
    IfUnhandled,
    /// `ERESTART_RESTARTBLOCK`.
    Continued(Continuation),
}

/// What is left of a call that restart_syscall(2) takes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Continuation {
    /// A sleep.
    Sleep {
        /// Its end.
        until: Instant,
        /// Where the time left goes if it is interrupted again.
        left_at: VirtAddr,
    },
    /// A poll(2).
    Poll {
        /// Its descriptors.
        at: VirtAddr,
        /// How many.
        count: u64,
        /// Its end; `None` for never.
        until: Option<Instant>,
    },
    /// A wait for a futex.
    Futex(Awaited),
}

impl Restart {
    /// What is in rax until it is decided how the program goes on, negated (Linux's `include/linux/errno.h`).
    #[must_use]
    pub fn code(self) -> u64 {
        let code: i64 = match self {
            Restart::IfAsked => 512,
            Restart::IfUnhandled => 514,
            Restart::Continued(_) => 516,
        };
        (-code).cast_unsigned()
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Restart::IfAsked => "ERESTARTSYS (To be restarted if SA_RESTART is set)",
            Restart::IfUnhandled => "ERESTARTNOHAND (To be restarted if no handler)",
            Restart::Continued(_) => "ERESTART_RESTARTBLOCK (Interrupted by signal)",
        })
    }
}

/// A call that was interrupted, until its program goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptedCall {
    /// How it goes on.
    pub restart: Restart,
    /// What was in rax.
    pub number: u64,
}

impl InterruptedCall {
    /// A handler is called (`handle_signal`).
    pub(super) fn before_handler(self, action: &SignalAction, registers: &mut Registers) {
        if self.restart == Restart::IfAsked && action.has(SA_RESTART) {
            again(self.number, registers);
        } else {
            registers.rax = negated(Errno::EINTR);
        }
    }

    /// No handler is called (`arch_do_signal_or_restart`).
    pub(super) fn unhandled(self, registers: &mut Registers) {
        match self.restart {
            Restart::IfAsked | Restart::IfUnhandled => again(self.number, registers),
            Restart::Continued(_) => again(RESTART_SYSCALL, registers),
        }
    }
}

/// Goes back to the `syscall` instruction.
fn again(number: u64, registers: &mut Registers) {
    registers.rax = number;
    registers.rip = registers.rip.wrapping_sub(SYSCALL_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;

    const EINTR: (u64, u64) = (0_u64.wrapping_sub(4), 12);
    const AGAIN: (u64, u64) = (7, 10);

    #[test]
    fn each_kind_goes_on_as_linux_has_it() {
        let until = Instant::now();
        let sleep = Continuation::Sleep { until, left_at: VirtAddr::ZERO };
        for (restart, plain, asked, unhandled) in [
            (Restart::IfAsked, EINTR, AGAIN, AGAIN),
            (Restart::IfUnhandled, EINTR, EINTR, AGAIN),
            (Restart::Continued(sleep), EINTR, EINTR, (219, 10)),
        ] {
            let call = InterruptedCall { restart, number: 7 };
            let after = |act: &dyn Fn(&mut Registers)| {
                let mut registers = Registers { rip: 12, ..Default::default() };
                act(&mut registers);
                (registers.rax, registers.rip)
            };
            let with = |flags| SignalAction { handler: 9, flags, ..SignalAction::default() };
            assert_eq!(after(&|r| call.before_handler(&with(0), r)), plain, "{restart}");
            assert_eq!(after(&|r| call.before_handler(&with(SA_RESTART), r)), asked, "{restart}");
            assert_eq!(after(&|r| call.unhandled(r)), unhandled, "{restart}");
        }
    }
}
