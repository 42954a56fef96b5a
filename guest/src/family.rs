//! Other processes: making them, waiting for them, ending them.

#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::call::{number, syscall};
use crate::errno::Errno;

/// `SIGKILL`.
pub const SIGKILL: u64 = 9;
/// `SIGUSR1`.
pub const SIGUSR1: u64 = 10;
/// `SIGTERM`.
pub const SIGTERM: u64 = 15;
/// `SIGCHLD`.
pub const SIGCHLD: u64 = 17;
/// `WNOHANG` of wait4(2).
pub const WNOHANG: u64 = 1;
/// `CLONE_VM`.
pub const CLONE_VM: u64 = 0x100;
/// `CLONE_VFORK`.
pub const CLONE_VFORK: u64 = 0x4000;

/// Which of the two that fork(2) returns to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The process that called; the number is the child's.
    Parent(u64),
}

/// A copy of this process: fork(2).
///
/// # Errors
/// `EAGAIN`: there can be no more processes; `ENOMEM`: there is no memory for one.
pub fn fork() -> Result<Forked, Errno> {
    // SAFETY: the child has a copy of all memory, so neither sees what the other does.
    let pid = unsafe { syscall::<0>(number::FORK, []) }?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid) })
}

/// How a process ended (wait(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It exited with this status.
    Exited(u64),
    /// This signal killed it.
    Killed(u64),
}

impl End {
    /// From the word that wait4(2) writes.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        match word & 0x7f {
            0 => End::Exited(word >> 8 & 0xff),
            signal => End::Killed(signal),
        }
    }
}

/// Waits for a child: its number and how it ended. `pid` and `options` are wait4(2)'s; the number is 0 where
/// `WNOHANG` finds none that has ended.
///
/// # Errors
/// wait4(2)'s.
pub fn wait(pid: i64, options: u64) -> Result<(u64, End), Errno> {
    let word = AtomicU64::new(0);
    let args = [pid.cast_unsigned(), word.as_ptr() as u64, options, 0];
    // SAFETY: the call writes four bytes of the word.
    let pid = unsafe { syscall(number::WAIT4, args) }?;
    Ok((pid, End::from_word(word.load(Ordering::Relaxed))))
}

/// Sends a signal: kill(2).
///
/// # Errors
/// kill(2)'s.
pub fn kill(pid: i64, signal: u64) -> Result<(), Errno> {
    // SAFETY: the call touches no memory.
    unsafe { syscall(number::KILL, [pid.cast_unsigned(), signal]) }.map(|_| ())
}

/// The parent's number: getppid(2).
#[must_use]
pub fn parent() -> u64 {
    // SAFETY: the call touches no memory.
    unsafe { syscall::<0>(number::GETPPID, []) }.unwrap_or(0)
}

/// A process that runs `code(argument)` on another stack, whose top, 16-byte aligned, is given: clone(2).
/// With [`CLONE_VM`] it is in this process's memory. The child's number.
///
/// # Errors
/// clone(2)'s.
///
/// # Safety
/// The memory below `top` is writable, large enough, and used for nothing else; with `CLONE_VM` the code
/// changes nothing that Rust relies on here, as a signal handler does not.
pub unsafe fn clone(
    flags: u64,
    top: u64,
    code: extern "C" fn(u64) -> !,
    argument: u64,
) -> Result<u64, Errno> {
    let result: u64;
    // SAFETY: the caller's promise; in the child the registers that the compiler knows of are never used.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") number::CLONE => result,
            in("rdi") flags,
            in("rsi") top,
            in("rdx") 0_u64,
            in("r10") 0_u64,
            in("r8") 0_u64,
            in("r12") code,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    crate::call::answer(result)
}

/// Forks with marks in registers, and says whether the child finds them all: the general ones that a call
/// keeps, and the vector ones.
///
/// # Errors
/// fork(2)'s.
pub fn fork_with_marks() -> Result<(Forked, bool), Errno> {
    let (result, same): (u64, u64);
    // SAFETY: fork as in `fork`; all registers that change are named.
    unsafe {
        asm!(
            "mov r12, 0x1212121212121212",
            "mov r13, 0x1313131313131313",
            "mov r15, 0x1515151515151515",
            "movq xmm0, r12",
            "movq xmm9, r13",
            "movq xmm15, r15",
            "syscall",
            "xor edx, edx",
            "movq r8, xmm0",
            "movq r9, xmm9",
            "movq r10, xmm15",
            "cmp r8, r12",
            "jne 3f",
            "cmp r9, r13",
            "jne 3f",
            "cmp r10, r15",
            "jne 3f",
            "mov r8, 0x1212121212121212",
            "cmp r8, r12",
            "jne 3f",
            "mov r8, 0x1515151515151515",
            "cmp r8, r15",
            "jne 3f",
            "mov edx, 1",
            "3:",
            inlateout("rax") number::FORK => result,
            lateout("rdx") same,
            out("r8") _, out("r9") _, out("r10") _,
            out("r12") _, out("r13") _, out("r15") _,
            out("xmm0") _, out("xmm9") _, out("xmm15") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    let pid = crate::call::answer(result)?;
    Ok((if pid == 0 { Forked::Child } else { Forked::Parent(pid) }, same == 1))
}
