//! The hypercall itself: the one place where a payload's request leaves it.
//!
//! Number in rax, arguments in rdi rsi rdx r10 r8 r9, result or a negated error number in rax; rcx
//! and r11 are the only registers lost (syscall(2), and the AMD64 ABI's appendix A.2.1).

#![allow(unsafe_code)]

use core::arch::asm;

use crate::errno::Errno;

/// Linux's x86-64 call numbers, those that payloads use.
pub mod number {
    /// read(2)
    pub const READ: u64 = 0;
    /// write(2)
    pub const WRITE: u64 = 1;
    /// open(2)
    pub const OPEN: u64 = 2;
    /// close(2)
    pub const CLOSE: u64 = 3;
    /// mmap(2)
    pub const MMAP: u64 = 9;
    /// mprotect(2)
    pub const MPROTECT: u64 = 10;
    /// munmap(2)
    pub const MUNMAP: u64 = 11;
    /// brk(2)
    pub const BRK: u64 = 12;
    /// rt_sigaction(2)
    pub const RT_SIGACTION: u64 = 13;
    /// rt_sigprocmask(2)
    pub const RT_SIGPROCMASK: u64 = 14;
    /// rt_sigreturn(2)
    pub const RT_SIGRETURN: u64 = 15;
    /// ioctl(2)
    pub const IOCTL: u64 = 16;
    /// pread(2)
    pub const PREAD64: u64 = 17;
    /// pwrite(2)
    pub const PWRITE64: u64 = 18;
    /// writev(2)
    pub const WRITEV: u64 = 20;
    /// pipe(2)
    pub const PIPE: u64 = 22;
    /// mremap(2)
    pub const MREMAP: u64 = 25;
    /// msync(2)
    pub const MSYNC: u64 = 26;
    /// mincore(2)
    pub const MINCORE: u64 = 27;
    /// madvise(2)
    pub const MADVISE: u64 = 28;
    /// dup2(2)
    pub const DUP2: u64 = 33;
    /// nanosleep(2)
    pub const NANOSLEEP: u64 = 35;
    /// getpid(2)
    pub const GETPID: u64 = 39;
    /// clone(2)
    pub const CLONE: u64 = 56;
    /// fork(2)
    pub const FORK: u64 = 57;
    /// vfork(2)
    pub const VFORK: u64 = 58;
    /// execve(2)
    pub const EXECVE: u64 = 59;
    /// exit(2)
    pub const EXIT: u64 = 60;
    /// wait4(2)
    pub const WAIT4: u64 = 61;
    /// kill(2)
    pub const KILL: u64 = 62;
    /// uname(2)
    pub const UNAME: u64 = 63;
    /// fcntl(2)
    pub const FCNTL: u64 = 72;
    /// ftruncate(2)
    pub const FTRUNCATE: u64 = 77;
    /// unlink(2)
    pub const UNLINK: u64 = 87;
    /// getrlimit(2)
    pub const GETRLIMIT: u64 = 97;
    /// getppid(2)
    pub const GETPPID: u64 = 110;
    /// rt_sigtimedwait(2)
    pub const RT_SIGTIMEDWAIT: u64 = 128;
    /// sigaltstack(2)
    pub const SIGALTSTACK: u64 = 131;
    /// personality(2)
    pub const PERSONALITY: u64 = 135;
    /// mlock(2)
    pub const MLOCK: u64 = 149;
    /// munlock(2)
    pub const MUNLOCK: u64 = 150;
    /// mlockall(2)
    pub const MLOCKALL: u64 = 151;
    /// munlockall(2)
    pub const MUNLOCKALL: u64 = 152;
    /// prctl(2)
    pub const PRCTL: u64 = 157;
    /// arch_prctl(2)
    pub const ARCH_PRCTL: u64 = 158;
    /// setrlimit(2)
    pub const SETRLIMIT: u64 = 160;
    /// futex(2)
    pub const FUTEX: u64 = 202;
    /// remap_file_pages(2)
    pub const REMAP_FILE_PAGES: u64 = 216;
    /// clock_gettime(2)
    pub const CLOCK_GETTIME: u64 = 228;
    /// exit_group(2)
    pub const EXIT_GROUP: u64 = 231;
    /// mbind(2)
    pub const MBIND: u64 = 237;
    /// set_mempolicy(2)
    pub const SET_MEMPOLICY: u64 = 238;
    /// get_mempolicy(2)
    pub const GET_MEMPOLICY: u64 = 239;
    /// move_pages(2)
    pub const MOVE_PAGES: u64 = 279;
    /// waitid(2)
    pub const WAITID: u64 = 247;
    /// prlimit(2)
    pub const PRLIMIT64: u64 = 302;
    /// getrandom(2)
    pub const GETRANDOM: u64 = 318;
    /// memfd_create(2)
    pub const MEMFD_CREATE: u64 = 319;
    /// execveat(2)
    pub const EXECVEAT: u64 = 322;
    /// userfaultfd(2)
    pub const USERFAULTFD: u64 = 323;
    /// mlock2(2)
    pub const MLOCK2: u64 = 325;
    /// pkey_mprotect(2)
    pub const PKEY_MPROTECT: u64 = 329;
    /// pkey_alloc(2)
    pub const PKEY_ALLOC: u64 = 330;
    /// clone3(2)
    pub const CLONE3: u64 = 435;
    /// close_range(2)
    pub const CLOSE_RANGE: u64 = 436;
    /// process_madvise(2)
    pub const PROCESS_MADVISE: u64 = 440;
    /// mseal(2)
    pub const MSEAL: u64 = 462;
}

/// The largest error number; results from `-MAX_ERRNO` to -1 are errors (Linux's `IS_ERR_VALUE`).
const MAX_ERRNO: u64 = 4095;

/// Makes the call `number` with up to six arguments (the rest 0).
///
/// # Errors
/// Whatever the call answers.
///
/// # Safety
/// The call is free to change any memory its arguments name, the address space, or where the
/// program runs on; the caller knows that nothing Rust relies on is touched.
#[inline]
pub unsafe fn syscall<const N: usize>(number: u64, args: [u64; N]) -> Result<u64, Errno> {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    let result: u64;
    // SAFETY: the operands name every register that the instruction changes, memory is taken to be
    // changed, and the caller answers for what the call does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arg(0),
            in("rsi") arg(1),
            in("rdx") arg(2),
            in("r10") arg(3),
            in("r8") arg(4),
            in("r9") arg(5),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer(result)
}

/// What rax says after a call.
pub(crate) fn answer(result: u64) -> Result<u64, Errno> {
    match u16::try_from(result.wrapping_neg()) {
        Ok(errno) if errno != 0 && u64::from(errno) <= MAX_ERRNO => Err(Errno(errno)),
        _ => Ok(result),
    }
}
