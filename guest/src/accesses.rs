//! Accesses of one byte, for a machine that replays traces: the traced address space has no code of ours
//! in it, so the instruction that touches memory is in the kernel half, on a page of its own.
//!
//! ```text
//!   +0x00  ACCESS_LOAD     mov (%rdi), %sil      syscall
//!   +0x10  ACCESS_STORE    mov %sil, (%rdi)      syscall
//!   +0x20  ACCESS_REWRITE  lock orb $0, (%rdi)   syscall
//!   rest   int3
//! ```
//!
//! Ring 3 runs it with ring 3's rights, so it can do nothing that a program could not do with an
//! instruction of its own. Ring 0 never runs it: it is not on the page where `SYSCALL` lands. A machine
//! that runs programs does not have the page.

#![allow(unsafe_code, reason = "assembly is reached through the linker's symbols")]

use core::arch::global_asm;

use crate::abi::{ACCESS_LOAD, ACCESS_REWRITE, ACCESS_STORE};

/// Bytes of the page.
const PAGE: usize = 4096;

global_asm!(
    ".pushsection .rodata.mmvisor_accesses, \"a\", @progbits",
    ".balign 4096, 0xcc",
    ".globl mmvisor_access_page",
    "mmvisor_access_page:",
    ".fill {load} - (. - mmvisor_access_page), 1, 0xcc",
    "  movb (%rdi), %sil",
    "  syscall",
    ".fill {store} - (. - mmvisor_access_page), 1, 0xcc",
    "  movb %sil, (%rdi)",
    "  syscall",
    ".fill {rewrite} - (. - mmvisor_access_page), 1, 0xcc",
    "  lock orb $0, (%rdi)",
    "  syscall",
    ".fill 4096 - (. - mmvisor_access_page), 1, 0xcc",
    ".popsection",
    load = const ACCESS_LOAD,
    store = const ACCESS_STORE,
    rewrite = const ACCESS_REWRITE,
    options(att_syntax),
);

unsafe extern "C" {
    #[link_name = "mmvisor_access_page"]
    static ACCESSES: [u8; PAGE];
}

/// The bytes of [`abi::ACCESS_PAGE`](crate::abi::ACCESS_PAGE): a whole page.
#[must_use]
pub fn access_page() -> &'static [u8] {
    // SAFETY: the assembly above defines the symbol as 4096 read-only bytes.
    unsafe { &ACCESSES }
}
