//! From what stopped a vCPU to the signal that Linux would send for it (`arch/x86/kernel/traps.c`,
//! `arch/x86/mm/fault.c`).

use std::fmt;

use mm::error::Fault;
use nix::sys::signal::Signal;

/// `si_code`: why a signal was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// `SI_USER`: by a process.
    User,
    /// `SI_TKILL`: by tkill or tgkill.
    Tkill,
    /// `CLD_EXITED` and the other codes of a child's end, by their number.
    Child(i32),
    /// `SI_KERNEL`: by the kernel, without an address.
    Kernel,
    /// `FPE_INTDIV`.
    IntegerDivide,
    /// `FPE_FLTINV` and the other floating-point codes, by their number.
    FloatingPoint(i32),
    /// `ILL_ILLOPN`.
    IllegalOperand,
    /// `TRAP_TRACE`.
    Trace,
    /// `SEGV_MAPERR`.
    NotMapped,
    /// `SEGV_ACCERR`.
    Denied,
    /// `BUS_ADRALN`.
    Alignment,
    /// `BUS_ADRERR`.
    NoBacking,
}

impl Code {
    /// Linux's number.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Code::User => 0,
            Code::Tkill => -6,
            Code::Kernel => 0x80,
            Code::FloatingPoint(code) | Code::Child(code) => code,
            Code::IntegerDivide | Code::NotMapped | Code::Alignment => 1,
            Code::IllegalOperand | Code::Trace | Code::Denied | Code::NoBacking => 2,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Code::User => "SI_USER",
            Code::Tkill => "SI_TKILL",
            Code::Child(2) => "CLD_KILLED",
            Code::Child(_) => "CLD_EXITED",
            Code::Kernel => "SI_KERNEL",
            Code::IntegerDivide => "FPE_INTDIV",
            Code::FloatingPoint(2) => "FPE_INTOVF",
            Code::FloatingPoint(3) => "FPE_FLTDIV",
            Code::FloatingPoint(4) => "FPE_FLTOVF",
            Code::FloatingPoint(5) => "FPE_FLTUND",
            Code::FloatingPoint(6) => "FPE_FLTRES",
            Code::FloatingPoint(_) => "FPE_FLTINV",
            Code::IllegalOperand => "ILL_ILLOPN",
            Code::Trace => "TRAP_TRACE",
            Code::NotMapped => "SEGV_MAPERR",
            Code::Denied => "SEGV_ACCERR",
            Code::Alignment => "BUS_ADRALN",
            Code::NoBacking => "BUS_ADRERR",
        };
        f.write_str(name)
    }
}

/// A signal with what siginfo says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signalled {
    /// Which signal.
    pub signal: Signal,
    /// Why.
    pub code: Code,
    /// `si_addr`.
    pub address: u64,
    /// The page fault's error code, else 0.
    pub error: u64,
}

impl Signalled {
    /// A signal without an address.
    #[must_use]
    pub fn plain(signal: Signal, code: Code) -> Self {
        Signalled { signal, code, address: 0, error: 0 }
    }

    /// What a #GP in ring 3 becomes: `SIGSEGV` without an address.
    #[must_use]
    pub fn general_protection() -> Self {
        Signalled::plain(Signal::SIGSEGV, Code::Kernel)
    }

    /// What a page fault becomes that cannot be resolved.
    #[must_use]
    pub fn page_fault(fault: Fault, error: u64) -> Self {
        let (signal, code) = match fault {
            Fault::NotMapped(_) => (Signal::SIGSEGV, Code::NotMapped),
            Fault::Denied(_) => (Signal::SIGSEGV, Code::Denied),
            Fault::NoBacking(_) => (Signal::SIGBUS, Code::NoBacking),
            Fault::OutOfMemory(_) => (Signal::SIGKILL, Code::Kernel),
        };
        Signalled { signal, code, address: fault.address().get(), error }
    }

    /// Whether it is what a page fault becomes for which there is no memory left.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.signal == Signal::SIGKILL && self.code == Code::Kernel
    }

    /// What an exception other than a page fault becomes; `None` for one that ring 3 cannot cause.
    /// `floating_point` is asked for the code of a floating-point exception.
    #[must_use]
    pub fn exception(vector: u8, rip: u64, floating_point: impl FnOnce() -> i32) -> Option<Self> {
        let (signal, code, address) = match vector {
            0 => (Signal::SIGFPE, Code::IntegerDivide, rip),
            1 => (Signal::SIGTRAP, Code::Trace, rip),
            3 => (Signal::SIGTRAP, Code::Kernel, 0),
            4 | 5 | 10 | 13 => (Signal::SIGSEGV, Code::Kernel, 0),
            6 => (Signal::SIGILL, Code::IllegalOperand, rip),
            11 | 12 => (Signal::SIGBUS, Code::Kernel, 0),
            16 | 19 => (Signal::SIGFPE, Code::FloatingPoint(floating_point()), rip),
            17 => (Signal::SIGBUS, Code::Alignment, 0),
            _ => return None,
        };
        Some(Signalled { signal, code, address, error: 0 })
    }
}

/// The si_code of a floating-point exception, from the exceptions that are raised and not masked
/// (Linux's `fpu__exception_code`).
#[must_use]
pub(super) fn floating_point_code(raised: u32) -> i32 {
    match raised {
        r if r & 0x01 != 0 => 7,
        r if r & 0x04 != 0 => 3,
        r if r & 0x08 != 0 => 4,
        r if r & 0x12 != 0 => 5,
        r if r & 0x20 != 0 => 6,
        _ => 7,
    }
}

/// How a program was killed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Death {
    /// By what.
    pub by: Signalled,
    /// Where it was.
    pub rip: u64,
    /// What is mapped there.
    pub place: Place,
}

/// Where an address lies, by lines of maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In this VMA.
    In(String),
    /// In none; these are next to it, at most one below and one above.
    Near(Vec<String>),
}

impl Death {
    /// The exit status a shell would show: 128 and the signal's number.
    #[must_use]
    pub fn status(&self) -> u8 {
        128 + u8::try_from(self.by.signal as i32).unwrap_or(0)
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signalled { signal, code, address, .. } = self.by;
        write!(f, "killed by {signal} ({code}) at address {address:#x}, rip {:#x}", self.rip)?;
        if self.by.is_out_of_memory() {
            write!(f, "; the guest's memory is full, a larger --mem may help")?;
        }
        match &self.place {
            Place::In(line) => write!(f, "; in {line}"),
            Place::Near(lines) => match &lines[..] {
                [] => write!(f, "; nothing is mapped"),
                [one] => write!(f, "; the nearest is {one}"),
                lines => write!(f, "; between {}", lines.join(" and ")),
            },
        }
    }
}
