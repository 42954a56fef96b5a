//! What an attempt may end as: what Linux does with it, and where CPUs and KVMs differ, what each of
//! them makes of it.

use core::fmt;

use guest::fault::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The code went on to its end.
    Returns,
    /// It would have been killed by this signal.
    Signal(u64),
}

/// The ends that an attempt may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends(&'static [End]);

/// It goes on.
pub(crate) const RETURNS: Ends = Ends(&[End::Returns]);
/// What #GP and #PF become.
pub(crate) const SEGV: Ends = Ends(&[End::Signal(SIGSEGV)]);
/// What #UD becomes.
pub(crate) const ILL: Ends = Ends(&[End::Signal(SIGILL)]);
/// What #DB and #BP become.
pub(crate) const TRAP: Ends = Ends(&[End::Signal(SIGTRAP)]);
/// What #DE becomes.
pub(crate) const FPE: Ends = Ends(&[End::Signal(SIGFPE)]);
/// Privileged, or not there at all, by the CPU.
pub(crate) const SEGV_OR_ILL: Ends = Ends(&[End::Signal(SIGSEGV), End::Signal(SIGILL)]);
/// An `int n` whose gate is the program's to use: software KVM knows no `int n`.
pub(crate) const TRAP_OR_ILL: Ends = Ends(&[End::Signal(SIGTRAP), End::Signal(SIGILL)]);
/// As the CPU has it: allowed, emulated or refused.
pub(crate) const RETURNS_OR_DIES: Ends =
    Ends(&[End::Returns, End::Signal(SIGSEGV), End::Signal(SIGILL)]);
/// An alignment check, where CR0.AM is set.
pub(crate) const RETURNS_OR_BUS: Ends = Ends(&[End::Returns, End::Signal(SIGBUS)]);
/// An access by a bad stack pointer: #SS, or #GP where it is emulated.
pub(crate) const BUS_OR_SEGV: Ends = Ends(&[End::Signal(SIGBUS), End::Signal(SIGSEGV)]);
/// Refused in one way or another.
pub(crate) const DIES: Ends =
    Ends(&[End::Signal(SIGSEGV), End::Signal(SIGILL), End::Signal(SIGBUS)]);
/// Anything that is only the program's own.
pub(crate) const ANY: Ends = Ends(&[
    End::Returns,
    End::Signal(SIGSEGV),
    End::Signal(SIGILL),
    End::Signal(SIGTRAP),
    End::Signal(SIGBUS),
]);

impl Ends {
    pub(crate) fn holds(self, end: End) -> bool {
        self.0.contains(&end)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            End::Returns => f.write_str("status 0"),
            End::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, end) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(" or ")?;
            }
            end.fmt(f)?;
        }
        Ok(())
    }
}
