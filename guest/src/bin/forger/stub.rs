//! Jumps into the kernel half with registers that the machine may trust: every byte of the stub
//! page, every start of an exception entry.
//!
//! On Linux nothing is mapped there. In mmvisor the stub may be the program's to run (software KVM
//! runs it at CPL 3): then a jump to it is a call, which goes on at rcx with r11 as its flags.

use core::arch::asm;

use guest::{abi, fault};

use crate::Family;
use crate::ends::{ANY, Ends, SEGV};

/// What the registers hold at the jump. A call returns to rcx.
#[derive(Clone, Copy)]
struct Forged {
    /// The call's number.
    rax: u64,
    /// Where to go on; 0 stands for an address that goes on honestly.
    rcx: u64,
    /// The flags.
    r11: u64,
    /// The stack pointer; 0 stands for the true one.
    rsp: u64,
}

const GETPID: u64 = 39;
const HONEST: Forged = Forged { rax: GETPID, rcx: 0, r11: 0x202, rsp: 0 };
/// The top of the first vCPU's ring-0 stack.
const KERNEL_STACK: u64 = abi::VCPU_BASE + abi::VCPU_STRIDE;

static FORGED: [Forged; 21] = [
    HONEST,
    Forged { rax: u64::MAX, ..HONEST },
    Forged { rax: abi::OWN_CALLS + 0xff, ..HONEST },
    Forged { rcx: 0x10, ..HONEST },
    Forged { rcx: (1 << 47) - 4096, ..HONEST },
    Forged { rcx: abi::ENTRY_PAGE, ..HONEST },
    Forged { rcx: abi::STUB_PAGE + 8, ..HONEST },
    Forged { rcx: KERNEL_STACK - 8, ..HONEST },
    Forged { rcx: 0xffff_8000_0000_0000, ..HONEST },
    Forged { rcx: 1 << 47, ..HONEST },
    Forged { r11: 0x302, ..HONEST },
    Forged { r11: 0x3202, ..HONEST },
    Forged { r11: 0x4202, ..HONEST },
    Forged { r11: 0x4_0202, ..HONEST },
    Forged { r11: 0x2_0202, ..HONEST },
    Forged { r11: 0x2, ..HONEST },
    Forged { r11: 0, ..HONEST },
    Forged { r11: !0x100, ..HONEST },
    Forged { r11: u64::MAX, ..HONEST },
    Forged { rsp: KERNEL_STACK, ..HONEST },
    Forged { rsp: 0x8000_0000_0000_0000, ..HONEST },
];

const KINDS: u64 = FORGED.len() as u64;
/// Bytes at the start of the stub page that are tried with all forged registers; each later one
/// with one of them in turn.
const CLOSE: u64 = 2 * abi::STUB_COMPAT;
const PAGE: u64 = 4096;

pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "jump into the stub's code",
        count: CLOSE * KINDS,
        code: jump,
        argument: close,
        ends: in_stub,
    },
    Family {
        name: "jump into the stub page",
        count: PAGE - CLOSE,
        code: jump,
        argument: far,
        ends: in_stub,
    },
    Family {
        name: "jump to an exception's entry",
        count: abi::VECTORS * KINDS,
        code: jump,
        argument: entry,
        ends: |_| SEGV,
    },
    Family {
        name: "jump to a non-canonical address",
        count: 4,
        code: jump,
        argument: |n| (1 << 47) + n,
        ends: |_| SEGV,
    },
];

fn in_stub(_: u64) -> Ends {
    if fault::in_mmvisor() { ANY } else { SEGV }
}

/// An attempt's argument: the address to jump to, and in the bits that a canonical address of the
/// kernel half has set anyway, which registers.
fn argument(address: u64, kind: u64) -> u64 {
    (address & ((1 << 48) - 1)) | kind << 48
}

fn close(index: u64) -> u64 {
    argument(abi::STUB_PAGE + index / KINDS, index % KINDS)
}

fn far(index: u64) -> u64 {
    argument(abi::STUB_PAGE + CLOSE + index, index % KINDS)
}

fn entry(index: u64) -> u64 {
    argument(abi::ENTRY_PAGE + index / KINDS * abi::ENTRY_STRIDE, index % KINDS)
}

unsafe extern "C" fn jump(argument: u64, _: u64) {
    let kind = usize::try_from(argument >> 48).unwrap_or(0);
    let forged = FORGED.get(kind).copied().unwrap_or(HONEST);
    let low = argument & ((1 << 48) - 1);
    // Bit 47 set without those above it is what a non-canonical address has.
    let address = if low < (1 << 47) + PAGE { low } else { low | 0xffff << 48 };
    // SAFETY: what comes back does so at 2, with the stack pointer that rbx kept; nothing else does.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov rbp, rsp",
            "test rcx, rcx",
            "jnz 3f",
            "lea rcx, [rip + 2f]",
            "3:",
            "test r8, r8",
            "jz 4f",
            "mov rsp, r8",
            "4:",
            "jmp r9",
            "2:",
            "mov rsp, rbp",
            "push 0x202",
            "popfq",
            "pop rbp",
            "pop rbx",
            in("rax") forged.rax,
            in("rcx") forged.rcx,
            in("r11") forged.r11,
            in("r8") forged.rsp,
            in("r9") address,
            clobber_abi("C"),
        );
    }
}
