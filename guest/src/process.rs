//! The program as its starter sees it: arguments, environment, output and exit status.

#![allow(unsafe_code)]

use core::arch::asm;
use core::ffi::CStr;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::call::{number, syscall};
use crate::errno::Errno;

/// The program's first argument, for messages. Null until the program has started.
static NAME: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// Ends the program with a status.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: the call does not return. (The loop is for the type: a host that let it return
        // would be asked again.)
        let _ = unsafe { syscall(number::EXIT_GROUP, [u64::from(status)]) };
    }
}

/// Continues at an address where nothing can be run: the program's death.
///
/// A page that can be run is refused, with a line that says so.
pub fn jump(addr: u64) -> ! {
    if crate::fault::read(addr).is_ok() {
        crate::check::fail(format_args!("a jump to {addr:#x}, where there is something"));
    }
    // SAFETY: the address cannot be read, so nothing runs there.
    unsafe { asm!("jmp {}", in(reg) addr, options(noreturn)) }
}

/// Goes on with `code` on another stack, whose top, 16-byte aligned, is given.
///
/// # Safety
/// The memory below `top` is writable, large enough, and used for nothing else.
pub unsafe fn on_stack(top: u64, code: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller's promise; the call leaves the stack as the ABI has it at a function's entry.
    unsafe {
        asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "call {code}",
            "ud2",
            top = in(reg) top,
            code = in(reg) code,
            options(noreturn),
        )
    }
}

/// Ends the program by the instruction that is never valid (SIGILL).
pub fn trap() -> ! {
    // SAFETY: ud2 does nothing but fault.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// The program's process number (getpid(2)): the cheapest honest call there is.
#[must_use]
pub fn id() -> u64 {
    // SAFETY: the call touches no memory.
    unsafe { syscall::<0>(number::GETPID, []) }.unwrap_or(0)
}

/// Sleeps for some seconds: nanosleep(2).
pub fn sleep(seconds: u64) {
    let time = [seconds, 0];
    // SAFETY: the call only reads the two words.
    let _ = unsafe { syscall(number::NANOSLEEP, [time.as_ptr() as u64, 0]) };
}

/// The privilege level the program runs at: 3, wherever it is a program.
#[must_use]
pub fn ring() -> u64 {
    let selector: u64;
    // SAFETY: only reads a register.
    unsafe { asm!("mov {:e}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector & 3
}

/// Writes all of the bytes to a file descriptor, as often as it takes. What the descriptor refuses
/// is dropped.
pub fn write_all(descriptor: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let args = [descriptor, bytes.as_ptr() as u64, bytes.len() as u64];
        // SAFETY: the call only reads the bytes.
        match unsafe { syscall(number::WRITE, args) } {
            Ok(written) => {
                let written = usize::try_from(written).unwrap_or(usize::MAX);
                bytes = bytes.get(written..).unwrap_or(&[]);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// What the program was called as, without the directories; "payload" where nobody said.
#[must_use]
pub fn name() -> &'static str {
    let name = NAME.load(Ordering::Relaxed);
    if name.is_null() {
        return "payload";
    }
    // SAFETY: set once, to an argument of the initial stack, which nothing changes.
    let path = text(unsafe { CStr::from_ptr(name.cast()) });
    path.rsplit('/').next().unwrap_or(path)
}

/// The strings the program was started with. Those that are not UTF-8 read as "?".
#[derive(Clone, Copy, Debug)]
pub struct Args {
    count: usize,
    vector: *const *const u8,
}

impl Args {
    /// Reads the stack that a loader left: argc, argv, null, envp, null, auxv.
    ///
    /// # Safety
    /// `stack` is the stack pointer at the program's entry, and nothing has changed the words and
    /// strings above it.
    pub(crate) unsafe fn from_stack(stack: *const u64) -> Self {
        // SAFETY: the caller's promise: the first word is argc.
        let count = usize::try_from(unsafe { *stack }).unwrap_or(0);
        let args = Args { count, vector: stack.wrapping_add(1).cast() };
        NAME.store(args.pointer(0).cast_mut(), Ordering::Relaxed);
        args
    }

    /// The word `index` after argc; null past the environment's end is never asked for.
    fn pointer(&self, index: usize) -> *const u8 {
        // SAFETY: from_stack's promise holds for all of argv and envp, each ended by a null, past
        // which no caller here goes.
        unsafe { *self.vector.wrapping_add(index) }
    }

    fn string(&self, index: usize) -> Option<&'static str> {
        let start = self.pointer(index);
        if start.is_null() {
            return None;
        }
        // SAFETY: a string of the initial stack, ended by a zero byte, there for as long as the
        // program is.
        Some(text(unsafe { CStr::from_ptr(start.cast()) }))
    }

    /// The argument with this number; 0 is what the program was called as.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'static str> {
        if index < self.count { self.string(index) } else { None }
    }

    /// The argument with this number as a number, decimal or `0x` hexadecimal; `None` where there is
    /// none or it is not a number.
    #[must_use]
    pub fn number(&self, index: usize) -> Option<u64> {
        let text = self.get(index)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// The arguments after the program's name.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> {
        let args = *self;
        (1..args.count).map_while(move |index| args.get(index))
    }

    /// Becomes the program that the argument with this number names, with it and all after it for arguments and the
    /// same environment: execve(2). What it returns is why it did not.
    #[must_use]
    pub fn execute(&self, index: usize) -> Errno {
        if index >= self.count {
            return Errno::EINVAL;
        }
        let vector = self.vector.wrapping_add(index) as u64;
        let environment = self.vector.wrapping_add(self.count + 1) as u64;
        // SAFETY: the call reads strings and the words that name them; if it returns, nothing has changed.
        match unsafe { syscall(number::EXECVE, [self.pointer(index) as u64, vector, environment]) }
        {
            Err(error) => error,
            Ok(_) => Errno::EINVAL,
        }
    }

    /// Executes the program again with the same arguments and an empty environment: execve(2). What it returns is why
    /// it did not.
    #[must_use]
    pub fn again(&self) -> Errno {
        let environment: [*const u8; 1] = [ptr::null()];
        let path = c"/proc/self/exe".as_ptr() as u64;
        let vectors = [self.vector as u64, environment.as_ptr() as u64];
        // SAFETY: the call reads strings and the words that name them; if it returns, nothing has changed.
        match unsafe { syscall(number::EXECVE, [path, vectors[0], vectors[1]]) } {
            Err(error) => error,
            Ok(_) => Errno::EINVAL,
        }
    }

    /// The environment's `NAME=value` strings.
    pub fn environment(&self) -> impl Iterator<Item = &'static str> {
        let args = *self;
        (args.count + 1..).map_while(move |index| args.string(index))
    }
}

fn text(string: &'static CStr) -> &'static str {
    string.to_str().unwrap_or("?")
}
