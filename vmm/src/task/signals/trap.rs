//! From what stopped a vCPU to the signal that Linux would send for it (`arch/x86/kernel/traps.c`,
//! `arch/x86/mm/fault.c`).

use mm::addr::VirtAddr;
use mm::error::Fault;

use super::{Info, Signal};

/// `SEGV_MAPERR`, `SEGV_ACCERR`.
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
/// `BUS_ADRALN`, `BUS_ADRERR`.
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;
/// `FPE_INTDIV`.
const FPE_INTDIV: i32 = 1;
/// `ILL_ILLOPN`.
const ILL_ILLOPN: i32 = 2;
/// `TRAP_BRKPT`, `TRAP_TRACE`.
const TRAP_BRKPT: i32 = 1;
const TRAP_TRACE: i32 = 2;

/// Vectors.
pub(super) const DEBUG: u8 = 1;
const GENERAL_PROTECTION: u8 = 13;
/// The page fault's vector.
pub(crate) const PAGE_FAULT: u8 = 14;

/// DR6.BS: a single step.
const SINGLE_STEP: u64 = 1 << 14;
/// A page fault's error: the page was there. Of addresses that are not the program's Linux always says so.
const PRESENT: u64 = 1;
/// What a page fault's error can have in it: present, write, user, fetch. Software KVM says of addresses that are
/// not the program's that a reserved bit is set.
const PAGE_FAULT_ERROR: u64 = 0x17;

/// The last exception of a task, as a handler's `ucontext` tells it. It stays what it is until the next
/// (`thread_struct`'s `trap_nr`, `error_code`, `cr2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trap {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 where the vector has none.
    pub error: u64,
    /// The address of the last page fault.
    pub cr2: u64,
}

/// What an exception other than a page fault is asked about, where it matters.
pub(crate) trait Details {
    /// The exceptions that are raised and not masked, of x87 and SSE, as MXCSR's low six bits.
    fn raised(&self) -> u32;
    /// DR6.
    fn debug_status(&self) -> u64;
}

/// What a #GP in ring 3 becomes, with this error code: `SIGSEGV` without an address.
#[must_use]
pub(crate) fn general_protection(last: Trap, error: u64) -> (Info, Trap) {
    (Info::from_kernel(Signal::SEGV), Trap { vector: GENERAL_PROTECTION, error, ..last })
}

/// What a page fault becomes that cannot be resolved.
#[must_use]
pub(crate) fn page_fault(fault: Fault, error: u64) -> (Info, Trap) {
    let cr2 = fault.address().get();
    let is_kernels = fault.address() >= VirtAddr::TASK_END;
    let error = error & PAGE_FAULT_ERROR | if is_kernels { PRESENT } else { 0 };
    let info = match fault {
        Fault::NotMapped(_) => Info::fault(Signal::SEGV, SEGV_MAPERR, cr2),
        Fault::Denied(_) => Info::fault(Signal::SEGV, SEGV_ACCERR, cr2),
        Fault::NoBacking(_) => Info::fault(Signal::BUS, BUS_ADRERR, cr2),
        Fault::Poisoned(_) => Info::lost_page(cr2),
        Fault::OutOfMemory(_) => Info::from_kernel(Signal::KILL),
    };
    (info, Trap { vector: PAGE_FAULT, error, cr2 })
}

/// What an exception other than a page fault becomes; `None` for one that ring 3 cannot cause.
#[must_use]
pub(crate) fn exception(vector: u8, error: u64, rip: u64, of: &dyn Details) -> Option<Info> {
    let fault = |signal, code| Info::fault(signal, code, rip);
    Some(match vector {
        0 => fault(Signal::FPE, FPE_INTDIV),
        DEBUG if of.debug_status() & SINGLE_STEP != 0 => fault(Signal::TRAP, TRAP_TRACE),
        DEBUG => fault(Signal::TRAP, TRAP_BRKPT),
        3 => Info::from_kernel(Signal::TRAP),
        4 | 5 | 10 | GENERAL_PROTECTION => Info::from_kernel(Signal::SEGV),
        6 => fault(Signal::ILL, ILL_ILLOPN),
        11 | 12 => Info::from_kernel(Signal::BUS),
        16 | 19 => fault(Signal::FPE, floating_point_code(of.raised())),
        17 => Info::fault(Signal::BUS, BUS_ADRALN, 0),
        _ => {
            log::debug!("exception {vector}, error {error:#x}, is none that ring 3 can cause");
            return None;
        }
    })
}

/// The si_code of a floating-point exception, from the exceptions that are raised and not masked
/// (Linux's `fpu__exception_code`).
fn floating_point_code(raised: u32) -> i32 {
    match raised {
        r if r & 0x01 != 0 => 7,
        r if r & 0x04 != 0 => 3,
        r if r & 0x08 != 0 => 4,
        r if r & 0x12 != 0 => 5,
        r if r & 0x20 != 0 => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen(u32, u64);

    impl Details for Seen {
        fn raised(&self) -> u32 {
            self.0
        }
        fn debug_status(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn each_exception_has_linux_s_signal_code_and_address() {
        let seen = Seen(4, 0xffff_4ff0);
        for (vector, signal, code, address) in [
            (0, Signal::FPE, 1, Some(0x1234)),
            (1, Signal::TRAP, 2, Some(0x1234)),
            (3, Signal::TRAP, 0x80, None),
            (6, Signal::ILL, 2, Some(0x1234)),
            (12, Signal::BUS, 0x80, None),
            (13, Signal::SEGV, 0x80, None),
            (17, Signal::BUS, 1, Some(0)),
            (19, Signal::FPE, 3, Some(0x1234)),
        ] {
            let info = exception(vector, 0, 0x1234, &seen).unwrap();
            assert_eq!((info.signal(), info.code(), info.address()), (signal, code, address));
        }
        assert_eq!(exception(1, 0, 0, &Seen(0, 0)).unwrap().code(), 1, "int1 is no step");
        assert_eq!(exception(2, 0, 0, &seen), None);
    }

    #[test]
    fn a_page_that_is_not_the_program_s_always_counts_as_there() {
        let outside = Fault::NotMapped(VirtAddr::new(0xffff_ffff_8000_0000));
        assert_eq!(page_fault(outside, 4).1.error, 5);
        assert_eq!(page_fault(outside, 0xd).1.error, 5, "no reserved bit");
        let inside = Fault::NotMapped(VirtAddr::new(0x1000));
        assert_eq!(page_fault(inside, 4).1, Trap { vector: 14, error: 4, cr2: 0x1000 });
    }

    #[test]
    fn a_general_protection_leaves_the_last_page_fault_s_address() {
        let last = Trap { vector: 14, error: 6, cr2: 0x1000 };
        let (info, trap) = general_protection(last, 0x50);
        assert_eq!((info.address(), trap.cr2, trap.error), (None, 0x1000, 0x50));
    }
}
