//! What must be as before after every attempt: the program's memory, and what an honest call leaves
//! of its registers.

use core::arch::global_asm;

use guest::call::number;
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::{check_eq, must, process};

/// Where the canary lies: far from anything, so that no attempt has a reason to go there.
const CANARY: u64 = 0x2000_0000_0000;
/// The page before it may be read only; the page after it is not mapped.
const PAGES: u64 = 2;

const fn word(addr: u64) -> u64 {
    addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5aa5_0ff0_c33c_6996
}

/// Puts the canary into memory.
pub(crate) fn plant() {
    must!(memory::map(Place::IfFree(CANARY), PAGES * PAGE, Prot::RW, Flags::OWN));
    for addr in (CANARY..CANARY + PAGES * PAGE).step_by(8) {
        memory::store(addr, word(addr));
    }
    must!(memory::protect(CANARY, PAGE, Prot::READ));
    check_eq!(harm(), None, "before the first attempt");
}

/// What is not as it was; `None` if everything is.
pub(crate) fn harm() -> Option<&'static str> {
    // A line in 64 words of each page, and the ends: a stray write is rarely a single byte.
    let mut at = (CANARY..CANARY + PAGES * PAGE).step_by(8 * 9);
    if at.any(|addr| memory::load(addr) != word(addr)) {
        return Some("the canary has changed");
    }
    if process::id() == 0 {
        return Some("a call is refused");
    }
    // SAFETY: the function keeps to the ABI and to its own frame.
    let lost = unsafe { forger_registers_lost(number::GETPID) };
    match lost {
        0 => None,
        1 => Some("a call has lost rbx, rbp or r12 to r15"),
        2 => Some("a call has lost rdi, rsi, rdx, r8, r9 or r10"),
        3 => Some("a call has lost rsp"),
        4 => Some("a call has lost an xmm register"),
        5 => Some("a call has lost mxcsr"),
        _ => Some("a call has lost its flags"),
    }
}

// Fills the registers with numbers that occur nowhere else, makes a call, and compares.
global_asm!(
    ".pushsection .text.forger_registers, \"ax\", @progbits",
    "forger_registers_lost:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 24",
    "mov eax, edi",
    "stmxcsr [rsp]",
    "mov rbx, 0x1b1b1b1b1b1b1b1b",
    "mov r12, 0x1212121212121212",
    "mov r13, 0x1313131313131313",
    "mov r14, 0x1414141414141414",
    "mov r15, 0x1515151515151515",
    "mov rdi, 0x1d1d1d1d1d1d1d1d",
    "mov rsi, 0x1e1e1e1e1e1e1e1e",
    "mov rdx, 0x2d2d2d2d2d2d2d2d",
    "mov r8, 0x0808080808080808",
    "mov r9, 0x0909090909090909",
    "mov r10, 0x1010101010101010",
    "movq xmm0, rbx",
    "pinsrw xmm0, r12d, 7",
    "movdqa xmm1, xmm0",
    "psllq xmm1, 1",
    "movdqa xmm7, xmm0",
    "psllq xmm7, 2",
    "movdqa xmm8, xmm0",
    "psllq xmm8, 3",
    "movdqa xmm15, xmm0",
    "psllq xmm15, 4",
    "mov rbp, rsp",
    "stc",
    "syscall",
    // Of the flags a call may change: none (they come back from r11).
    "mov eax, 6",
    "jnc 3f",
    "mov eax, 3",
    "cmp rbp, rsp",
    "jne 3f",
    "mov eax, 1",
    "mov rcx, 0x1b1b1b1b1b1b1b1b",
    "cmp rbx, rcx",
    "jne 2f",
    "mov rcx, 0x1212121212121212",
    "cmp r12, rcx",
    "jne 2f",
    "mov rcx, 0x1313131313131313",
    "cmp r13, rcx",
    "jne 2f",
    "mov rcx, 0x1414141414141414",
    "cmp r14, rcx",
    "jne 2f",
    "mov rcx, 0x1515151515151515",
    "cmp r15, rcx",
    "jne 2f",
    "mov eax, 2",
    "mov rcx, 0x1d1d1d1d1d1d1d1d",
    "cmp rdi, rcx",
    "jne 2f",
    "mov rcx, 0x1e1e1e1e1e1e1e1e",
    "cmp rsi, rcx",
    "jne 2f",
    "mov rcx, 0x2d2d2d2d2d2d2d2d",
    "cmp rdx, rcx",
    "jne 2f",
    "mov rcx, 0x0808080808080808",
    "cmp r8, rcx",
    "jne 2f",
    "mov rcx, 0x0909090909090909",
    "cmp r9, rcx",
    "jne 2f",
    "mov rcx, 0x1010101010101010",
    "cmp r10, rcx",
    "jne 2f",
    "mov eax, 5",
    "stmxcsr [rsp + 4]",
    "mov ecx, [rsp]",
    "cmp ecx, [rsp + 4]",
    "jne 2f",
    // xmm0 is rebuilt and compared with all the others, shifted alike.
    "mov rcx, 0x1b1b1b1b1b1b1b1b",
    "movq xmm2, rcx",
    "pinsrw xmm2, r12d, 7",
    "pcmpeqb xmm0, xmm2",
    "movdqa xmm3, xmm2",
    "psllq xmm3, 1",
    "pcmpeqb xmm1, xmm3",
    "pand xmm0, xmm1",
    "movdqa xmm3, xmm2",
    "psllq xmm3, 2",
    "pcmpeqb xmm7, xmm3",
    "pand xmm0, xmm7",
    "movdqa xmm3, xmm2",
    "psllq xmm3, 3",
    "pcmpeqb xmm8, xmm3",
    "pand xmm0, xmm8",
    "psllq xmm2, 4",
    "pcmpeqb xmm15, xmm2",
    "pand xmm0, xmm15",
    "pmovmskb ecx, xmm0",
    "mov eax, 4",
    "cmp ecx, 0xffff",
    "jne 2f",
    "xor eax, eax",
    "2:",
    "add rsp, 24",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // The stack pointer is gone or the flags are; rbp, if anything, tells where the frame is.
    "3:",
    "mov rsp, rbp",
    "jmp 2b",
    ".popsection",
);

unsafe extern "C" {
    /// Makes the call with this number and says which registers it lost: 0 for none.
    fn forger_registers_lost(number: u64) -> u64;
}
