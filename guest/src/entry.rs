//! What only a program may define, and so a macro expands into each payload: its entry point, its
//! panic handler, and the six C functions that compiled code calls by name. In the library
//! itself they would collide with std's in any program that uses `guest` as an ordinary crate.

#![allow(unsafe_code)]

use core::arch::asm;
use core::panic::PanicInfo;

use crate::{eprintln, memory, process};

/// The status a payload exits with after a panic (what std's programs use).
pub const PANICKED: u8 = 101;

/// Makes this crate a payload whose `fn main(args: guest::process::Args)` is run; the payload exits
/// with 0 when it returns.
#[macro_export]
macro_rules! payload {
    ($main:ident) => {
        // The stack pointer at entry is what the loader left: argc, argv, envp, auxv. A call needs
        // it 16-byte aligned, and rbp 0 ends a debugger's backtrace (AMD64 ABI, 3.4.1).
        #[allow(unsafe_code)]
        mod payload_entry {
            ::core::arch::global_asm!(
                ".globl _start",
                ".type _start, @function",
                "_start:",
                "xor ebp, ebp",
                "mov rdi, rsp",
                "and rsp, -16",
                "call {start}",
                "ud2",
                start = sym start,
            );

            unsafe extern "C" {
                // The linker script's.
                static __image_start: u8;
                static __image_end: u8;
            }

            extern "C" fn start(stack: *const u64) -> ! {
                let image = (&raw const __image_start as u64)..(&raw const __image_end as u64);
                // SAFETY: _start passes the stack pointer that the loader left, once.
                unsafe { $crate::entry::run(stack, image, super::$main) }
            }

            #[panic_handler]
            fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
                $crate::entry::panicked(info)
            }

            // core was compiled with unwinding tables that name it; nothing here unwinds.
            #[unsafe(no_mangle)]
            extern "C" fn rust_eh_personality() {}

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
                // SAFETY: the caller keeps memcpy's contract.
                unsafe { $crate::entry::copy(to, from, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
                // SAFETY: the caller keeps memmove's contract.
                unsafe { $crate::entry::copy_overlapping(to, from, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
                // SAFETY: the caller keeps memset's contract.
                unsafe { $crate::entry::set(to, byte, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
                // SAFETY: the caller keeps memcmp's contract.
                unsafe { $crate::entry::compare(a, b, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
                // SAFETY: the caller keeps bcmp's contract, which memcmp's includes.
                unsafe { $crate::entry::compare(a, b, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn strlen(string: *const u8) -> usize {
                // SAFETY: the caller keeps strlen's contract.
                unsafe { $crate::entry::length(string) }
            }
        }
    };
}

/// Runs a payload from its entry point on, and exits with 0 when `main` returns.
///
/// # Safety
/// `stack` is the stack pointer as the loader left it (AMD64 ABI, 3.4.1), and `image` the bytes that
/// hold the program; called once, before anything else of the runtime.
pub unsafe fn run(stack: *const u64, image: core::ops::Range<u64>, main: fn(process::Args)) -> ! {
    memory::reserve(image, stack as u64);
    // SAFETY: the caller's promise is this function's.
    main(unsafe { process::Args::from_stack(stack) });
    process::exit(0)
}

/// Says where the payload panicked and why, and exits with [`PANICKED`].
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    eprintln!("{}: {info}", process::name());
    process::exit(PANICKED)
}

/// `memcpy`. String instructions, so that the compiler cannot turn the body into a call of itself.
///
/// # Safety
/// As memcpy(3): `len` bytes readable and writable, not overlapping.
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller owns both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// `memmove`.
///
/// # Safety
/// As memmove(3): `len` bytes readable and writable.
pub unsafe fn copy_overlapping(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    let ahead = (to as usize).wrapping_sub(from as usize);
    if ahead >= len {
        // SAFETY: the end of the source is not overwritten before it is read, going upwards.
        return unsafe { copy(to, from, len) };
    }
    // SAFETY: the caller owns both ranges; the target starts inside the source, so the copy goes
    // downwards, and the direction flag is clear again afterwards.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    to
}

/// `memset`.
///
/// # Safety
/// As memset(3): `len` bytes writable.
pub unsafe fn set(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller owns the range; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            in("eax") byte,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// `memcmp`.
///
/// # Safety
/// As memcmp(3): `len` bytes of each readable.
#[must_use]
pub unsafe fn compare(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: i is below len.
        let x = unsafe { *a.wrapping_add(i) };
        // SAFETY: i is below len.
        let y = unsafe { *b.wrapping_add(i) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// `strlen`. A string instruction, because the compiler knows a loop that does this by that name.
///
/// # Safety
/// As strlen(3): bytes readable up to the first zero.
#[must_use]
pub unsafe fn length(string: *const u8) -> usize {
    let end: *const u8;
    // SAFETY: reads up to the zero byte; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "repne scasb",
            inout("rcx") usize::MAX => _,
            inout("rdi") string => end,
            in("al") 0_u8,
            options(nostack, readonly),
        );
    }
    (end as usize).wrapping_sub(string as usize).wrapping_sub(1)
}
