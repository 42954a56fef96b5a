//! Ways into other segments and through gates: far returns, interrupt returns and far jumps to every
//! selector, `int` with every number.

use core::arch::{asm, global_asm};

use guest::fault;

use crate::Family;
use crate::ends::{ANY, DIES, Ends, ILL, RETURNS_OR_DIES, SEGV, SEGV_OR_ILL, TRAP_OR_ILL};

/// Selectors to try: those of the first 16 descriptors, with each table bit and privilege level.
const SELECTORS: u64 = 16 * 8;
/// The program's own code segment.
const USER_CODE: u64 = 0x33;
/// Linux's 32-bit code segment, which mmvisor does not have.
const USER_CODE_32: u64 = 0x23;

pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "far return to selector",
        count: SELECTORS,
        code: far_return,
        argument: same,
        ends: code_segment,
    },
    Family {
        name: "far jump to selector",
        count: SELECTORS,
        code: far_jump,
        argument: same,
        ends: jumped_segment,
    },
    Family {
        name: "iretq to selector",
        count: SELECTORS,
        code: interrupt_return,
        argument: same,
        ends: code_segment,
    },
    Family {
        name: "iretq to stack selector",
        count: SELECTORS,
        code: interrupt_return_stack,
        argument: same,
        ends: stack_segment,
    },
    Family {
        name: "iretq to flags, bit",
        count: 22,
        code: interrupt_return_flags,
        argument: same,
        ends: flags,
    },
    Family {
        name: "a call from selector",
        count: SELECTORS,
        code: call_from,
        argument: same,
        ends: call_from_segment,
    },
    Family { name: "int", count: 256, code: interrupt, argument: same, ends: gate },
];

fn same(index: u64) -> u64 {
    index
}

/// A selector that is not the program's to load. Software KVM emulates these transfers its own way:
/// it finds a descriptor absent (#NP), gives up on the instruction (#UD), or goes on without having
/// loaded anything, to the `ud2`.
fn refused() -> Ends {
    if fault::in_mmvisor() { DIES } else { SEGV }
}

fn code_segment(selector: u64) -> Ends {
    match selector {
        USER_CODE => ILL,
        USER_CODE_32 if !fault::in_mmvisor() => SEGV_OR_ILL,
        _ => refused(),
    }
}

/// A jump, unlike a return, may ask for more privilege than it has, and gets none.
fn jumped_segment(selector: u64) -> Ends {
    code_segment(if selector & 4 == 0 { selector | 3 } else { selector })
}

fn stack_segment(selector: u64) -> Ends {
    match selector {
        0x2b => ILL,
        // Linux has descriptors of TLS and of the CPU's number there, data a program may load.
        0x63 | 0x6b | 0x73 | 0x7b if !fault::in_mmvisor() => SEGV_OR_ILL,
        _ => refused(),
    }
}

fn call_from_segment(selector: u64) -> Ends {
    match selector {
        USER_CODE => ILL,
        // Linux serves a 32-bit call, on CPUs that have it, and goes on.
        USER_CODE_32 if !fault::in_mmvisor() => SEGV_OR_ILL,
        _ => refused(),
    }
}

fn flags(bit: u64) -> Ends {
    match bit {
        // TF traps before the ud2 is reached; VIP may raise #GP.
        8 | 19 | 20 => ANY,
        _ => ILL,
    }
}

fn gate(vector: u64) -> Ends {
    match vector {
        3 => TRAP_OR_ILL,
        // Software KVM does nothing for this one, and goes on.
        26 if fault::in_mmvisor() => RETURNS_OR_DIES,
        // Linux's 32-bit calls, where they are compiled in.
        0x80 => RETURNS_OR_DIES,
        _ => SEGV_OR_ILL,
    }
}

// All of these go to a `ud2`: a segment that lets them shows as SIGILL.

unsafe extern "C" fn far_return(selector: u64, _: u64) {
    // SAFETY: never goes on: the return faults, or ud2 does.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "push rdi",
            "push rax",
            "retfq",
            "2: ud2",
            in("rdi") selector,
            options(noreturn),
        );
    }
}

unsafe extern "C" fn far_jump(selector: u64, scratch: u64) {
    // SAFETY: writes ten bytes of the scratch page, and never goes on.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "mov dword ptr [rsi], eax",
            "mov word ptr [rsi + 4], di",
            ".byte 0xff, 0x2e", // jmp far m16:32 [rsi]: code lies below 4 GiB
            "2: ud2",
            in("rdi") selector,
            in("rsi") scratch,
            options(noreturn),
        );
    }
}

unsafe extern "C" fn interrupt_return(selector: u64, _: u64) {
    // SAFETY: never goes on.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "mov rcx, rsp",
            "push 0x2b",
            "push rcx",
            "push 0x202",
            "push rdi",
            "push rax",
            "iretq",
            "2: ud2",
            in("rdi") selector,
            options(noreturn),
        );
    }
}

unsafe extern "C" fn interrupt_return_stack(selector: u64, _: u64) {
    // SAFETY: never goes on.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "mov rcx, rsp",
            "push rdi",
            "push rcx",
            "push 0x202",
            "push 0x33",
            "push rax",
            "iretq",
            "2: ud2",
            in("rdi") selector,
            options(noreturn),
        );
    }
}

unsafe extern "C" fn interrupt_return_flags(bit: u64, _: u64) {
    // SAFETY: never goes on.
    unsafe {
        asm!(
            "mov ecx, edi",
            "mov eax, 1",
            "shl rax, cl",
            "or rax, 0x202",
            "lea rdx, [rip + 2f]",
            "mov rcx, rsp",
            "push 0x2b",
            "push rcx",
            "push rax",
            "push 0x33",
            "push rdx",
            "iretq",
            "2: ud2",
            in("rdi") bit,
            options(noreturn),
        );
    }
}

unsafe extern "C" fn call_from(selector: u64, _: u64) {
    // SAFETY: getpid (20 in 32-bit code, writev with no arguments in 64-bit code) changes nothing,
    // and then it does not go on.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "push rdi",
            "push rax",
            "xor esi, esi",
            "xor edx, edx",
            "retfq",
            "2: mov eax, 20",
            "syscall",
            "ud2",
            in("rdi") selector,
            options(noreturn),
        );
    }
}

global_asm!(
    ".pushsection .text.forger_interrupts, \"ax\", @progbits",
    "forger_interrupts:",
    ".set forger_vector, 0",
    ".rept 256",
    ".byte 0xcd, forger_vector, 0xc3, 0xcc", // int n; ret
    ".set forger_vector, forger_vector + 1",
    ".endr",
    ".popsection",
);

unsafe extern "C" {
    fn forger_interrupts();
}

unsafe extern "C" fn interrupt(vector: u64, _: u64) {
    // SAFETY: an `int n` and a RET; int 0x80 is getpid, where it is anything.
    unsafe {
        asm!(
            "mov eax, 20",
            "call {}",
            in(reg) forger_interrupts as *const () as u64 + 4 * vector,
            clobber_abi("C"),
        );
    }
}
