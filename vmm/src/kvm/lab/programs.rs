//! Programs of a few instructions, assembled into this program's read-only data.

/// Defines a function that returns the bytes of a position-independent program.
macro_rules! program {
    ($name:ident: $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata",
            // Global, because the function below may be inlined into another object file.
            concat!(".globl mmvisor_program_", stringify!($name)),
            concat!("mmvisor_program_", stringify!($name), ":"),
            $($line,)+
            concat!(".globl mmvisor_program_", stringify!($name), "_end"),
            concat!("mmvisor_program_", stringify!($name), "_end:"),
            ".popsection",
            options(att_syntax),
        );
        /// The program's bytes.
        pub(crate) fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("mmvisor_program_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("mmvisor_program_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the assembly above puts both symbols around its read-only bytes.
            unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
        }
    };
}
#[cfg(test)]
pub(crate) use program;

// Reads, calls, reads, writes rsi, calls, jumps: all at rdi.
program!(load_store:
    "mov (%rdi), %rax",
    "syscall",
    "mov (%rdi), %rax",
    "mov %rsi, (%rdi)",
    "syscall",
    "jmp *%rdi",
);
program!(load_loop: "1: mov (%rdi), %rax", "jmp 1b");
program!(load_two:
    "1: mov (%rdi), %rax",
    "mov 0x200000(%rdi), %rbx",
    "syscall",
    "jmp 1b",
);
program!(count_up: "1: incq (%rdi)", "jmp 1b");
program!(call_loop: "1: syscall", "jmp 1b");
program!(breakpoint: "1: int3", "jmp 1b");
// Adds all general registers that SYSCALL leaves alone into rax.
program!(sum_registers:
    "add %rbx, %rax", "add %rdx, %rax", "add %rsi, %rax", "add %rdi, %rax", "add %rbp, %rax",
    "add %rsp, %rax", "add %r8, %rax", "add %r9, %rax", "add %r10, %rax", "add %r12, %rax",
    "add %r13, %rax", "add %r14, %rax", "add %r15, %rax",
    "syscall",
);
program!(fill_xmm:
    "pcmpeqd %xmm5, %xmm5",
    "movaps %xmm5, %xmm15",
    "movl $0x1f00, (%rdi)",
    "ldmxcsr (%rdi)",
    "syscall",
);
program!(read_xmm:
    "movups %xmm5, (%rdi)",
    "movups %xmm15, 32(%rdi)",
    "stmxcsr 64(%rdi)",
    "syscall",
);
program!(fill_ymm:
    "vpcmpeqd %ymm5, %ymm5, %ymm5",
    "vmovaps %ymm5, %ymm15",
    "movl $0x1f00, (%rdi)",
    "vldmxcsr (%rdi)",
    "syscall",
);
program!(read_ymm:
    "vmovups %ymm5, (%rdi)",
    "vmovups %ymm15, 32(%rdi)",
    "vstmxcsr 64(%rdi)",
    "syscall",
);
