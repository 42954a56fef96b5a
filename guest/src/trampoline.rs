//! All of mmvisor that runs in ring 0: the system-call stub and the exception entries.
//!
//! The VMM copies the two pages into guest memory. They are position-independent, touch no register
//! of the program, and do nothing but tell the host where the program stopped:
//!
//! ```text
//!   stub page                                  entry page
//!   +0x00  out %al, PORT_CALL  <- LSTAR        +0x00  entry of vector 0 (#DE)
//!          ud2                                 +0x10  entry of vector 1 (#DB)
//!   +0x40  out %al, PORT_CALL  <- CSTAR         ...     out %al, PORT_FAULT
//!          ud2                                          add $8, %rsp   (with an error code only)
//!   rest   int3                                         iretq
//!                                              rest   int3
//! ```
//!
//! The stub never returns: the host sets ring 3's registers itself, and the `ud2` is there for a host
//! that forgets. On software KVM the stub runs at ring 3 and the program can jump to any byte of it;
//! every byte sequence in it exits as a call, which the program may make anyway, or traps.
//!
//! An entry does return: a demand fault is answered by mapping the page and letting `iretq` run.

#![allow(unsafe_code, reason = "assembly is reached through the linker's symbols")]

use core::arch::global_asm;

use crate::abi::{ENTRY_STRIDE, PORT_CALL, PORT_FAULT, STUB_COMPAT, VECTORS};

/// Bytes in each of the two pages.
const PAGE: usize = 4096;

/// Exception vectors for which the CPU pushes an error code (Intel SDM volume 3, table 6-1; AMD APM
/// volume 2, section 8.2), as a bit set: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
pub const ERROR_CODE_VECTORS: u32 = 1 << 8
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 17
    | 1 << 21
    | 1 << 29
    | 1 << 30;

/// Bytes of the `out` instruction that both pages use.
pub const OUT_LENGTH: u64 = 2;

global_asm!(
    ".pushsection .rodata.mmvisor_trampoline, \"a\", @progbits",
    ".balign 4096, 0xcc",
    ".globl mmvisor_stub_page",
    "mmvisor_stub_page:",
    "  outb %al, ${call}",
    "  ud2",
    ".fill {compat} - (. - mmvisor_stub_page), 1, 0xcc",
    "  outb %al, ${call}",
    "  ud2",
    ".fill 4096 - (. - mmvisor_stub_page), 1, 0xcc",
    ".globl mmvisor_entry_page",
    "mmvisor_entry_page:",
    ".set mmvisor_vector, 0",
    ".rept {vectors}",
    "  outb %al, ${fault}",
    "  .if ({errors} >> mmvisor_vector) & 1",
    "    addq $8, %rsp",
    "  .endif",
    "  iretq",
    "  .set mmvisor_vector, mmvisor_vector + 1",
    "  .fill mmvisor_vector * {stride} - (. - mmvisor_entry_page), 1, 0xcc",
    ".endr",
    ".fill 4096 - (. - mmvisor_entry_page), 1, 0xcc",
    ".popsection",
    call = const PORT_CALL,
    fault = const PORT_FAULT,
    compat = const STUB_COMPAT,
    vectors = const VECTORS,
    errors = const ERROR_CODE_VECTORS,
    stride = const ENTRY_STRIDE,
    options(att_syntax),
);

unsafe extern "C" {
    #[link_name = "mmvisor_stub_page"]
    static STUB: [u8; PAGE];
    #[link_name = "mmvisor_entry_page"]
    static ENTRIES: [u8; PAGE];
}

/// The bytes of [`abi::STUB_PAGE`](crate::abi::STUB_PAGE): a whole page.
#[must_use]
pub fn stub_page() -> &'static [u8] {
    // SAFETY: the assembly above defines the symbol as 4096 read-only bytes.
    unsafe { &STUB }
}

/// The bytes of [`abi::ENTRY_PAGE`](crate::abi::ENTRY_PAGE): a whole page.
#[must_use]
pub fn entry_page() -> &'static [u8] {
    // SAFETY: the assembly above defines the symbol as 4096 read-only bytes.
    unsafe { &ENTRIES }
}

/// Whether the CPU pushes an error code for this vector.
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    vector < 32 && ERROR_CODE_VECTORS & (1 << vector) != 0
}
