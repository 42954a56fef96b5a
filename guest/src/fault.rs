//! Surviving faults: try an access, and learn what would have killed the program.
//!
//! The recovery call ([`CALL_RECOVER`](crate::abi::CALL_RECOVER)) sends the next fatal fault to
//! an address of ours. An attempt keeps its frame in memory, so that it comes back whatever the
//! attempt has done to the registers, the stack pointer included:
//!
//! ```text
//!   attempt: arm LANDING -> save registers, FRAME = rsp -> call the code --- returns --> disarm
//!                                                             |
//!                                                           faults
//!                                                             v
//!                                LANDING: rsp = FRAME, note signal, code, address, rip, error
//! ```

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::AtomicU64;

use crate::{abi, memory, native};

/// SIGILL
pub const SIGILL: u64 = 4;
/// SIGTRAP
pub const SIGTRAP: u64 = 5;
/// SIGBUS
pub const SIGBUS: u64 = 7;
/// SIGFPE
pub const SIGFPE: u64 = 8;
/// SIGSEGV
pub const SIGSEGV: u64 = 11;
/// si_code of SIGSEGV: nothing is mapped there.
pub const SEGV_MAPERR: u64 = 1;
/// si_code of SIGSEGV: what is mapped there does not allow it.
pub const SEGV_ACCERR: u64 = 2;
/// si_code of SIGBUS: the mapping goes on there, what is mapped does not.
pub const BUS_ADRERR: u64 = 2;
/// si_code of a fault that names no address (#GP, #SS, int3).
pub const SI_KERNEL: u64 = 128;

/// A fault that would have killed the program: what sigaction(2)'s `siginfo_t` says of it, and where
/// it happened.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Caught {
    /// The signal's number.
    pub signal: u64,
    /// `si_code`.
    pub code: u64,
    /// `si_addr`.
    pub address: u64,
    /// The instruction pointer at the fault.
    pub rip: u64,
    /// The page-fault error code (Intel SDM volume 3, 5.7), or 0 for other faults.
    pub error: u64,
}

impl Caught {
    /// Signal, si_code and si_addr: what a fault is compared by.
    #[must_use]
    pub const fn answer(&self) -> Answer {
        Answer { signal: self.signal, code: self.code, address: self.address }
    }
}

impl fmt::Debug for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at rip {:#x} (error code {:#x})", self.answer(), self.rip, self.error)
    }
}

/// What the system says of a fault: the part of [`Caught`] that does not depend on where the code
/// lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The signal's number.
    pub signal: u64,
    /// `si_code`.
    pub code: u64,
    /// `si_addr`.
    pub address: u64,
}

impl Answer {
    /// SIGSEGV at an address where nothing is mapped.
    #[must_use]
    pub const fn unmapped(address: u64) -> Self {
        Answer { signal: SIGSEGV, code: SEGV_MAPERR, address }
    }

    /// SIGSEGV at an address whose mapping does not allow the access.
    #[must_use]
    pub const fn denied(address: u64) -> Self {
        Answer { signal: SIGSEGV, code: SEGV_ACCERR, address }
    }

    /// What #GP becomes: SIGSEGV without an address.
    #[must_use]
    pub const fn protection() -> Self {
        Answer { signal: SIGSEGV, code: SI_KERNEL, address: 0 }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = match self.signal {
            SIGILL => "SIGILL",
            SIGTRAP => "SIGTRAP",
            SIGBUS => "SIGBUS",
            SIGFPE => "SIGFPE",
            SIGSEGV => "SIGSEGV",
            other => {
                return write!(f, "signal {other} code {} address {:#x}", self.code, self.address);
            }
        };
        match (self.signal, self.code) {
            (_, SI_KERNEL) => write!(f, "{signal} SI_KERNEL")?,
            (SIGSEGV, SEGV_MAPERR) => write!(f, "{signal} SEGV_MAPERR")?,
            (SIGSEGV, SEGV_ACCERR) => write!(f, "{signal} SEGV_ACCERR")?,
            (SIGBUS, BUS_ADRERR) => write!(f, "{signal} BUS_ADRERR")?,
            (_, code) => write!(f, "{signal} code {code}")?,
        }
        write!(f, " address {:#x}", self.address)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The stack pointer of the innermost attempt.
static FRAME: AtomicU64 = AtomicU64::new(0);

/// What an attempt leaves: the fault, or the value that the code returned.
#[repr(C)]
#[derive(Default)]
struct Outcome {
    caught: Caught,
    value: u64,
}

/// The value of rax while an unknown page is run by [`execute`]. A page of zeros is `add [rax], al`
/// all through, so running it shows as a fault at this address, where nothing is ever mapped.
const ZEROS_RAN: u64 = 8;

/// Every register's value while [`fetch`] runs an instruction: not canonical, neither as it is nor
/// scaled by 2, 3, 4, 5, 8 or 9, so what the instruction does to memory by register faults.
const NOWHERE: u64 = 0x8888_8888_8888_8888;

/// The trap flag, the interrupt flag and the bit that is always set.
const FLAGS_STEP: u64 = 0x302;

/// Bit 4 of a page fault's error code: an instruction fetch (Intel SDM volume 3, 5.7).
const ERROR_FETCH: u64 = 0x10;

global_asm!(
    ".pushsection .text.guest_fault, \"ax\", @progbits",
    // guest_attempt(code, a, b, outcome) -> 0 returned, 1 faulted
    "guest_attempt:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push qword ptr [rip + {frame}]", // an attempt may hold another
    "push rcx",
    "sub rsp, 8", // the ABI's alignment at the call
    "mov qword ptr [rip + {frame}], rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "call rax",
    "mov rcx, qword ptr [rsp + 8]",
    "mov qword ptr [rcx + 40], rax",
    "xor eax, eax",
    "jmp 2f",
    "guest_landing:",
    "mov rsp, qword ptr [rip + {frame}]",
    "push 0x202", // whatever flags the attempt has set
    "popfq",
    "mov r8, qword ptr [rsp + 8]",
    "mov qword ptr [r8], rdi",
    "mov qword ptr [r8 + 8], rsi",
    "mov qword ptr [r8 + 16], rdx",
    "mov qword ptr [r8 + 24], rcx",
    "mov qword ptr [r8 + 32], rax",
    "mov eax, 1",
    "2:",
    "add rsp, 16",
    "pop qword ptr [rip + {frame}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    // The accesses, as code for guest_attempt.
    "guest_load:",
    "mov rax, qword ptr [rdi]",
    "ret",
    "guest_store:",
    "mov qword ptr [rdi], rsi",
    "ret",
    "guest_read_byte:",
    "movzx eax, byte ptr [rdi]",
    "ret",
    "guest_write_byte:", // asks for write permission and changes nothing
    "lock or byte ptr [rdi], 0",
    "ret",
    "guest_execute:",
    "sub rsp, 8",
    "mov eax, {zeros_ran}",
    "call rdi",
    "add rsp, 8",
    "ret",
    "guest_write_one:",
    "mov byte ptr [rdi], sil",
    "ret",
    // By iretq the trap flag takes effect after the instruction at the target; after a popfq it would
    // after the jump there. Nothing here comes back: guest_landing restores all registers.
    "guest_fetch:",
    "mov rcx, {nowhere}",
    "mov eax, ss",
    "push rax",
    "push rcx",
    "push {flags_step}",
    "mov eax, cs",
    "push rax",
    "push rdi",
    "mov rax, rcx",
    "mov rbx, rcx",
    "mov rdx, rcx",
    "mov rsi, rcx",
    "mov rdi, rcx",
    "mov rbp, rcx",
    "mov r8, rcx",
    "mov r9, rcx",
    "mov r10, rcx",
    "mov r11, rcx",
    "mov r12, rcx",
    "mov r13, rcx",
    "mov r14, rcx",
    "mov r15, rcx",
    "iretq",
    ".popsection",
    frame = sym FRAME,
    zeros_ran = const ZEROS_RAN,
    nowhere = const NOWHERE,
    flags_step = const FLAGS_STEP,
);

unsafe extern "C" {
    fn guest_attempt(code: u64, a: u64, b: u64, outcome: *mut Outcome) -> u64;
    fn guest_landing();
    fn guest_load();
    fn guest_store();
    fn guest_read_byte();
    fn guest_write_byte();
    fn guest_execute();
    fn guest_write_one();
    fn guest_fetch();
}

/// Calls the code at an address with two arguments (rdi, rsi) and a stack aligned as the ABI has it;
/// the answer is what it leaves in rax, or the fault that would have killed the program. Attempts
/// nest; they are one thread's.
///
/// # Errors
/// The fault, after which the registers that a call preserves are as they were before the attempt.
///
/// # Safety
/// Until it returns or faults, the code does nothing to memory that Rust relies on.
pub unsafe fn attempt(code: u64, a: u64, b: u64) -> Result<u64, Caught> {
    let mut outcome = Outcome::default();
    let before = native::recover(guest_landing as *const () as u64);
    // SAFETY: the frame is saved and the recovery armed; the caller answers for the code.
    let faulted = unsafe { guest_attempt(code, a, b, &raw mut outcome) };
    if faulted == 0 || before != 0 {
        native::recover(before);
    }
    if faulted == 0 { Ok(outcome.value) } else { Err(outcome.caught) }
}

/// Reads the eight bytes at an address, of any alignment.
///
/// # Errors
/// The fault.
pub fn load(addr: u64) -> Result<u64, Caught> {
    // SAFETY: it only reads.
    unsafe { attempt(guest_load as *const () as u64, addr, 0) }
}

/// Writes eight bytes at an address, of any alignment, which must not be
/// [`reserved`](memory::reserved) (the fault of a reserved address is asked for by [`write()`]).
///
/// # Errors
/// The fault.
pub fn store(addr: u64, value: u64) -> Result<(), Caught> {
    if memory::reserved(addr, 8) {
        crate::check::fail(format_args!("a store at {addr:#x}: this is the payload's own"));
    }
    // SAFETY: the bytes are not reserved, so Rust has no reference to them.
    unsafe { attempt(guest_store as *const () as u64, addr, value) }.map(drop)
}

/// Asks for read permission by reading the byte at an address.
///
/// # Errors
/// The fault.
pub fn read(addr: u64) -> Result<u8, Caught> {
    // SAFETY: it only reads.
    let byte = unsafe { attempt(guest_read_byte as *const () as u64, addr, 0) }?;
    Ok(byte.to_le_bytes()[0])
}

/// Asks for write permission by writing the byte at an address over itself, atomically.
///
/// # Errors
/// The fault.
pub fn write(addr: u64) -> Result<(), Caught> {
    // SAFETY: it leaves every byte as it was.
    unsafe { attempt(guest_write_byte as *const () as u64, addr, 0) }.map(drop)
}

/// Asks for execute permission by running what is at an address.
///
/// # Errors
/// The fault of the attempt to run it. That a page of zeros, once running, faults is no error.
///
/// # Safety
/// What is there, if it can be run, is zeros or begins with RET (0xc3).
pub unsafe fn execute(addr: u64) -> Result<(), Caught> {
    // SAFETY: RET comes straight back; zeros write to an address that is never mapped, and fault.
    match unsafe { attempt(guest_execute as *const () as u64, addr, 0) } {
        Err(caught) if caught.answer() == Answer::unmapped(ZEROS_RAN) && caught.rip == addr => {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Writes the byte at an address.
///
/// # Errors
/// The fault.
///
/// # Safety
/// Rust has no reference to the byte.
pub unsafe fn write_byte(addr: u64, byte: u8) -> Result<(), Caught> {
    // SAFETY: the caller's promise.
    unsafe { attempt(guest_write_one as *const () as u64, addr, byte.into()) }.map(drop)
}

/// Asks for execute permission by running the one instruction at an address, whatever it is, and
/// stopping behind it (the trap flag). What the instruction itself comes to does not matter: that it
/// was fetched does.
///
/// # Errors
/// The fault of the fetch. (Its address is the next page's where the instruction goes on there.)
///
/// # Safety
/// The instruction is not one that writes to memory of Rust's by an absolute or rip-relative address.
pub unsafe fn fetch(addr: u64) -> Result<(), Caught> {
    // SAFETY: every register leads nowhere; the rest is the caller's promise.
    match unsafe { attempt(guest_fetch as *const () as u64, addr, 0) } {
        Ok(_) => Ok(()),
        Err(caught) if caught.error & ERROR_FETCH != 0 => Err(caught),
        // The trap, or the instruction's own fault, or that of the one after it (after a system call
        // the trap flag is one instruction late).
        Err(_) if canonical(addr) => Ok(()),
        // What iretq says of such an address.
        Err(caught) => Err(caught),
    }
}

/// Whether bits 47 to 63 of an address are alike (Intel SDM volume 1, 3.3.7.1).
const fn canonical(addr: u64) -> bool {
    let top = addr.cast_signed() >> 47;
    top == 0 || top == -1
}

/// Disarms a recovery that is left armed. (An attempt does so by itself.)
pub fn disarm() -> u64 {
    native::recover(0)
}

/// Whether the recovery call is mmvisor's own, that is, whether this runs in mmvisor.
#[must_use]
pub fn in_mmvisor() -> bool {
    native::host() == native::Host::Mmvisor
}

const _: () = assert!(abi::OWN_CALLS == abi::CALL_RECOVER);
