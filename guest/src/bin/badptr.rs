//! Hypercalls with arguments that are no good: pointers outside the program's memory (EFAULT), into
//! the middle of it, calls that do not exist (ENOSYS), and output that it has closed (EBADF). None may
//! do more than fail.
//!
//! Usage: badptr

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::process::{self, Args};
use guest::{abi, check_eq, eprintln, must, println};

guest::payload!(main);

/// Answers that were not Linux's.
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Compares an answer with Linux's, says so where it is another, and goes on.
macro_rules! expect {
    ($came:expr, $wanted:expr, $($what:tt)+) => {
        let (came, wanted) = ($came, $wanted);
        if came != wanted {
            WRONG.fetch_add(1, Ordering::Relaxed);
            eprintln!("badptr: {}: {came:?}, not {wanted:?}", format_args!($($what)+));
        }
    };
}

/// Addresses that no program may name.
const NOWHERE: [u64; 10] = [
    0,
    8,
    memory::TASK_SIZE - 4,
    memory::TASK_SIZE,
    1 << 47,
    0x8000_0000_0000_0000,
    abi::ENTRY_PAGE,
    abi::VCPU_BASE,
    u64::MAX - 7,
    u64::MAX,
];

/// A call that may write to nothing but the memory named in its arguments, none of it Rust's.
fn call<const N: usize>(number: u64, args: [u64; N]) -> Result<u64, Errno> {
    // SAFETY: every call here is one that fails, or that reads or writes memory of `mmap`'s.
    unsafe { syscall(number, args) }
}

/// Each call that takes a pointer, with one that is no good.
fn bad_pointers(addr: u64) {
    let fault = Err(Errno::EFAULT);
    expect!(call(number::WRITE, [1, addr, 8]), fault, "write from {addr:#x}");
    expect!(call(number::WRITEV, [1, addr, 1]), fault, "writev by {addr:#x}");
    expect!(call(number::UNAME, [addr]), fault, "uname to {addr:#x}");
    expect!(call(number::GETRANDOM, [addr, 8, 0]), fault, "getrandom to {addr:#x}");
    // A null action asks; a null stack asks.
    if addr != 0 {
        expect!(call(number::RT_SIGACTION, [10, addr, 0, 8]), fault, "rt_sigaction by {addr:#x}");
        expect!(call(number::RT_SIGPROCMASK, [0, addr, 0, 8]), fault, "sigprocmask by {addr:#x}");
    }
}

/// Memory that ends in the middle of an argument, and memory that may only be read.
fn halves() {
    let page = must!(memory::map(Place::Anywhere, 2 * PAGE, Prot::RW, Flags::OWN));
    let end = page + PAGE;
    must!(memory::unmap(end, PAGE));
    expect!(call(number::UNAME, [end - 16]), Err(Errno::EFAULT), "uname across the end of memory");
    expect!(
        call(number::GETRANDOM, [end - 4, 8, 0]),
        Ok(4),
        "getrandom across the end of memory, as far as it goes"
    );

    memory::store(page, 0x1122_3344_5566_7788);
    must!(memory::protect(page, PAGE, Prot::READ));
    expect!(call(number::UNAME, [page]), Err(Errno::EFAULT), "uname to read-only memory");
    expect!(call(number::GETRANDOM, [page, 8, 0]), Err(Errno::EFAULT), "getrandom to it");
    expect!(memory::load(page), 0x1122_3344_5566_7788, "read-only memory after calls that write");

    must!(memory::protect(page, PAGE, Prot::empty()));
    expect!(call(number::WRITE, [1, page, 8]), Err(Errno::EFAULT), "write from PROT_NONE");
    expect!(call(number::UNAME, [page]), Err(Errno::EFAULT), "uname to PROT_NONE");
    must!(memory::unmap(page, PAGE));

    // A page that nobody touched is there for the host to fill.
    let fresh = must!(memory::map(Place::Anywhere, PAGE, Prot::RW, Flags::OWN));
    expect!(call(number::UNAME, [fresh]), Ok(0), "uname to an untouched page");
    expect!(
        memory::load(fresh) & 0xff_ffff_ffff,
        u64::from_le_bytes(*b"Linux\0\0\0"),
        "the system's name"
    );
    must!(memory::unmap(fresh, PAGE));
}

fn unknown() {
    for number in [abi::OWN_CALLS - 1, abi::OWN_CALLS + 0xff, 0x3fff, 1 << 20, 1 << 31, u64::MAX] {
        expect!(call::<0>(number, []), Err(Errno::ENOSYS), "call {number:#x}");
    }
    // A number is the low 32 bits of rax (Linux's do_syscall_64 takes an int).
    let id = process::id();
    expect!(call::<0>(number::GETPID | 1 << 63, []), Ok(id), "a number with high bits set");
}

fn bad_arguments() {
    expect!(call(number::WRITE, [99, 0, 0]), Err(Errno::EBADF), "write to descriptor 99");
    expect!(call(number::WRITE, [u64::MAX, 0, 0]), Err(Errno::EBADF), "write to descriptor -1");
    expect!(call(number::CLOSE, [99]), Err(Errno::EBADF), "close of descriptor 99");
    for (addr, len, wanted) in [
        (1, PAGE, Errno::EINVAL),
        (0, 0, Errno::EINVAL),
        (memory::TASK_SIZE, PAGE, Errno::EINVAL),
        (PAGE, u64::MAX, Errno::EINVAL),
        (PAGE, memory::TASK_SIZE, Errno::EINVAL),
        (1 << 63, PAGE, Errno::EINVAL),
    ] {
        expect!(call(number::MUNMAP, [addr, len]), Err(wanted), "munmap of {len:#x} at {addr:#x}");
    }
    let map = |addr, len, prot, flags| call(number::MMAP, [addr, len, prot, flags, u64::MAX, 0]);
    expect!(map(0, 0, 3, 0x22), Err(Errno::EINVAL), "mmap of nothing");
    expect!(map(0, PAGE, 3, 0x20), Err(Errno::EINVAL), "mmap, neither shared nor private");
    expect!(map(1, PAGE, 3, 0x32), Err(Errno::EINVAL), "mmap at a fixed address inside a page");
    expect!(map(0, u64::MAX, 3, 0x22), Err(Errno::ENOMEM), "mmap of everything");
    expect!(map(0, 1 << 47, 3, 0x22), Err(Errno::ENOMEM), "mmap of more than the user half");
    let top = memory::TASK_SIZE;
    expect!(map(top, PAGE, 3, 0x32), Err(Errno::ENOMEM), "mmap past the user half");
    expect!(map(top - PAGE, 2 * PAGE, 3, 0x32), Err(Errno::ENOMEM), "mmap across its end");
    expect!(map(1 << 63, PAGE, 3, 0x32), Err(Errno::ENOMEM), "mmap in the kernel half");
    expect!(map(0, PAGE, 3, 0x2), Err(Errno::EBADF), "mmap of descriptor -1");
    let protect = |addr, len, prot| call(number::MPROTECT, [addr, len, prot]);
    expect!(protect(1, PAGE, 1), Err(Errno::EINVAL), "mprotect inside a page");
    expect!(protect(PAGE, PAGE, 1), Err(Errno::ENOMEM), "mprotect of a hole");
    expect!(protect(1 << 63, PAGE, 1), Err(Errno::ENOMEM), "mprotect of the kernel half");
    expect!(protect(PAGE, u64::MAX - PAGE, 1), Err(Errno::ENOMEM), "mprotect of everything");
    expect!(protect(PAGE, PAGE, 1 << 20), Err(Errno::EINVAL), "mprotect to what is no protection");
}

/// Nothing can be printed on standard output after this.
fn closed_output() {
    expect!(call(number::CLOSE, [1]), Ok(0), "close of standard output");
    expect!(call(number::CLOSE, [1]), Err(Errno::EBADF), "close of it again");
    let byte = b"x".as_ptr() as u64;
    expect!(call(number::WRITE, [1, byte, 1]), Err(Errno::EBADF), "write to it when closed");
}

fn main(_: Args) {
    for addr in NOWHERE {
        bad_pointers(addr);
    }
    halves();
    unknown();
    bad_arguments();
    println!(
        "badptr: every bad argument was refused, as Linux does, unless standard error says more"
    );
    closed_output();
    check_eq!(WRONG.load(Ordering::Relaxed), 0, "answers that were not Linux's");
}
