//! mmvisor's own calls, and what stands in for them where there is no mmvisor: signal handlers for
//! `recover`, /proc/self/maps for `maps`. So a payload also runs as an ordinary Linux program, and
//! the kernel there judges what the payload expects of mmvisor.

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::call::{number, syscall};
use crate::errno::Errno;
use crate::fault::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
use crate::{abi, check};

/// What the payload runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// mmvisor.
    Mmvisor,
    /// A Linux kernel.
    Linux,
}

/// 0: not asked yet; 1: mmvisor; 2: Linux.
static HOST: AtomicU8 = AtomicU8::new(0);

/// What the payload runs on: mmvisor is where mmvisor's own calls are known.
#[must_use]
pub fn host() -> Host {
    match HOST.load(Ordering::Relaxed) {
        1 => Host::Mmvisor,
        2 => Host::Linux,
        _ => find_host(),
    }
}

/// Goes on as on Linux, also in mmvisor: what signals are for is theirs to do. To be called first of all.
pub fn be_as_on_linux() {
    HOST.store(2, Ordering::Relaxed);
    catch_signals();
}

fn find_host() -> Host {
    // SAFETY: asks for the length of the text and writes none of it.
    match unsafe { syscall(abi::CALL_MAPS, [0, 0]) } {
        Err(Errno::ENOSYS) => {
            be_as_on_linux();
            Host::Linux
        }
        _ => {
            HOST.store(1, Ordering::Relaxed);
            Host::Mmvisor
        }
    }
}

/// Arms a recovery address, 0 for none; the answer is the one that was armed
/// ([`abi::CALL_RECOVER`]).
pub(crate) fn recover(address: u64) -> u64 {
    match host() {
        Host::Linux => ARMED.swap(address, Ordering::Relaxed),
        // SAFETY: what happens at the address is the caller's concern; arming changes nothing.
        Host::Mmvisor => match unsafe { syscall(abi::CALL_RECOVER, [address]) } {
            Ok(before) => before,
            Err(error) => check::fail(format_args!("recover({address:#x}): {error}")),
        },
    }
}

/// The lines of /proc/self/maps, as many as fit into the buffer ([`abi::CALL_MAPS`]).
///
/// # Errors
/// What the call answers; natively, that of opening or reading the file.
pub fn maps(buffer: &mut [u8]) -> Result<&str, Errno> {
    let length = match host() {
        Host::Linux => read_file(c"/proc/self/maps", buffer)?,
        Host::Mmvisor => {
            let args = [buffer.as_mut_ptr() as u64, buffer.len() as u64];
            // SAFETY: the call writes to the buffer and no further.
            let length = unsafe { syscall(abi::CALL_MAPS, args) }?;
            usize::try_from(length).unwrap_or(usize::MAX)
        }
    };
    let text = buffer.get(..length.min(buffer.len())).unwrap_or(&[]);
    core::str::from_utf8(text).map_err(|_| Errno::EINVAL)
}

fn read_file(path: &core::ffi::CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the call only reads the path.
    let file = unsafe { syscall(number::OPEN, [path.as_ptr() as u64]) }?;
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        let args = [file, rest.as_mut_ptr() as u64, rest.len() as u64];
        // SAFETY: the call writes to the rest of the buffer and no further.
        match unsafe { syscall(number::READ, args) }? {
            0 => break,
            read => length += usize::try_from(read).unwrap_or(rest.len()),
        }
    }
    // SAFETY: the file is ours, and this is its last use.
    unsafe { syscall(number::CLOSE, [file]) }?;
    Ok(length)
}

/// The recovery address, natively.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// Bytes of the handlers' own stack: an attempt may leave none of the payload's.
const HANDLER_STACK: usize = 64 << 10;

#[repr(align(16))]
struct HandlerStack(UnsafeCell<[u8; HANDLER_STACK]>);
// SAFETY: never touched by Rust code except as the stack that handlers run on, one at a time.
unsafe impl Sync for HandlerStack {}
static STACK: HandlerStack = HandlerStack(UnsafeCell::new([0; HANDLER_STACK]));

/// The kernel's `struct kernel_sigaction` (x86-64).
#[repr(C)]
struct SigAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// The kernel's `stack_t`.
#[repr(C)]
struct StackT {
    pointer: u64,
    flags: u64,
    size: u64,
}

const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;

global_asm!(
    ".pushsection .text.guest_native, \"ax\", @progbits",
    "guest_sigreturn:",
    "mov eax, {rt_sigreturn}",
    "syscall",
    "ud2",
    ".popsection",
    rt_sigreturn = const number::RT_SIGRETURN,
);

unsafe extern "C" {
    fn guest_sigreturn();
}

fn set_action(signal: u64, action: &SigAction) {
    let args = [signal, core::ptr::from_ref(action) as u64, 0, 8];
    // SAFETY: the call only reads the action; its handler, if any, is this file's.
    if let Err(error) = unsafe { syscall(number::RT_SIGACTION, args) } {
        check::fail(format_args!("rt_sigaction({signal}): {error}; this payload needs mmvisor"));
    }
}

fn catch_signals() {
    let stack = StackT { pointer: STACK.0.get() as u64, flags: 0, size: HANDLER_STACK as u64 };
    // SAFETY: the stack is static and used for nothing else.
    let set = unsafe { syscall(number::SIGALTSTACK, [&raw const stack as u64, 0]) };
    if let Err(error) = set {
        check::fail(format_args!("sigaltstack: {error}; this payload needs mmvisor"));
    }
    let action = SigAction {
        handler: handle as *const () as u64,
        flags: SA_SIGINFO | SA_RESTORER | SA_ONSTACK,
        restorer: guest_sigreturn as *const () as u64,
        mask: 0,
    };
    for signal in [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV] {
        set_action(signal, &action);
    }
}

/// Words of the kernel's `struct ucontext` (x86-64; `sigcontext` begins at byte 40).
mod word {
    pub(super) const RDI: usize = 5 + 8;
    pub(super) const RSI: usize = 5 + 9;
    pub(super) const RDX: usize = 5 + 12;
    pub(super) const RAX: usize = 5 + 13;
    pub(super) const RCX: usize = 5 + 14;
    pub(super) const RIP: usize = 5 + 16;
    pub(super) const FLAGS: usize = 5 + 17;
    /// cs, gs, fs, ss: 16 bits each.
    pub(super) const SEGMENTS: usize = 5 + 18;
    pub(super) const ERROR: usize = 5 + 19;
    pub(super) const TRAP: usize = 5 + 20;
}

/// The exception vector of a page fault.
const PAGE_FAULT: u64 = 14;

/// `siginfo_t`, as far as faults fill it in.
#[repr(C)]
struct SigInfo {
    signal: i32,
    errno: i32,
    code: i32,
    pad: i32,
    address: u64,
}

/// Does what [`abi::CALL_RECOVER`] promises, by changing what the handler returns to.
extern "C" fn handle(signal: i32, info: *const SigInfo, context: *mut u64) {
    let armed = ARMED.swap(0, Ordering::Relaxed);
    let signal = u64::from(signal.unsigned_abs());
    if armed == 0 {
        die_of(signal);
    }
    // SAFETY: the kernel passes a siginfo_t.
    let info = unsafe { &*info };
    // SAFETY: the kernel passes a ucontext, which has more words than are used here.
    let words = unsafe { &mut *context.cast::<[u64; 28]>() };
    let error = if words[word::TRAP] == PAGE_FAULT { words[word::ERROR] } else { 0 };
    words[word::RDI] = signal;
    words[word::RSI] = u64::from(info.code.unsigned_abs());
    // si_addr shares its bytes with the sender's pid where the code is SI_KERNEL: both are 0.
    words[word::RDX] = info.address;
    words[word::RCX] = words[word::RIP];
    words[word::RAX] = error;
    words[word::RIP] = armed;
    words[word::FLAGS] = 0x202;
    words[word::SEGMENTS] = u64::from(abi::USER_CS) | u64::from(abi::USER_DS) << 48;
}

/// Sends the signal again, to be delivered, deadly, when the handler returns.
fn die_of(signal: u64) {
    set_action(signal, &SigAction { handler: 0, flags: SA_RESTORER, restorer: 0, mask: 0 });
    // SAFETY: a signal to ourselves, blocked until the handler returns.
    let _ = unsafe { syscall(number::KILL, [crate::process::id(), signal]) };
}
