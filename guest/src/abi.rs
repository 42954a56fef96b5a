//! What host and guest agree on: ports, the kernel half's layout, segment selectors and mmvisor's
//! own call numbers. Everything else of the call interface is Linux's x86-64 one.

/// The port the system-call stub writes to (one byte, value ignored): "serve the call in the
/// registers".
pub const PORT_CALL: u16 = 0x4d;
/// The port the exception entries write to: "look at the frame on this vCPU's ring-0 stack".
pub const PORT_FAULT: u16 = 0x4e;

/// First address of the kernel half in use: entry 511 of the top-level table.
///
/// ```text
///   KERNEL_BASE + 0x0000   stub page          user, read-only, executable (SOFT runs it at CPL 3)
///               + 0x1000   exception entries  supervisor, read-only, executable
///               + 0x2000   GDT                supervisor, read-only
///               + 0x3000   IDT                supervisor, read-only
///               + 0x4000   accesses           user, read-only, executable; only where traces are replayed
///   VCPU_BASE + n * VCPU_STRIDE
///               + 0x0000   TSS of vCPU n      supervisor, read-only to the guest's code
///               + 0x1000   ring-0 stack       supervisor, writable
/// ```
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// The stub page.
pub const STUB_PAGE: u64 = KERNEL_BASE;
/// The exception entries' page.
pub const ENTRY_PAGE: u64 = KERNEL_BASE + 0x1000;
/// The global descriptor table's page.
pub const GDT_PAGE: u64 = KERNEL_BASE + 0x2000;
/// The interrupt descriptor table's page.
pub const IDT_PAGE: u64 = KERNEL_BASE + 0x3000;
/// The page of accesses, in machines that replay traces.
pub const ACCESS_PAGE: u64 = KERNEL_BASE + 0x4000;
/// The first vCPU's pages.
pub const VCPU_BASE: u64 = KERNEL_BASE + 0x10_0000;
/// Bytes from one vCPU's pages to the next one's.
pub const VCPU_STRIDE: u64 = 0x2000;

/// Offset in the stub page where `SYSCALL` lands (MSR_LSTAR).
pub const STUB_CALL: u64 = 0;
/// Offset in the stub page where a 32-bit `SYSCALL` lands on AMD (MSR_CSTAR). The ABI has no 32-bit
/// calls; the landing place keeps such a jump from running the program's own bytes in ring 0.
pub const STUB_COMPAT: u64 = 0x40;
/// Offset in the access page: reads the byte at rdi into sil, then makes a system call.
pub const ACCESS_LOAD: u64 = 0;
/// Offset in the access page: writes sil to the byte at rdi, then makes a system call.
pub const ACCESS_STORE: u64 = 0x10;
/// Offset in the access page: writes the byte at rdi as it is, then makes a system call.
pub const ACCESS_REWRITE: u64 = 0x20;
/// Bytes of one access.
pub const ACCESS_STRIDE: u64 = 16;

/// Bytes of one exception entry: vector n's lies at `ENTRY_PAGE + n * ENTRY_STRIDE`.
pub const ENTRY_STRIDE: u64 = 16;
/// How many exception vectors have an entry.
pub const VECTORS: u64 = 32;

/// Ring-0 code segment (Linux's `__KERNEL_CS`).
pub const KERNEL_CS: u16 = 0x10;
/// Ring-0 data segment (Linux's `__KERNEL_DS`).
pub const KERNEL_DS: u16 = 0x18;
/// Ring-3 data segment (Linux's `__USER_DS`).
pub const USER_DS: u16 = 0x2b;
/// Ring-3 64-bit code segment (Linux's `__USER_CS`). Linux's 32-bit one, 0x23, has no descriptor
/// here: loading it raises #GP.
pub const USER_CS: u16 = 0x33;
/// The task-state segment.
pub const TSS_SELECTOR: u16 = 0x40;

/// The first number of mmvisor's own calls: "MM" and two digits.
pub const OWN_CALLS: u64 = 0x4d4d00;
/// `recover(address)`: arms a recovery address. The next fault that would kill the program continues
/// there instead, once, with rdi = signal number, rsi = si_code, rdx = si_addr, rcx = the rip that
/// faulted, rax = the page-fault error code or 0; rsp, rbp, rbx and r12 to r15 as they were at the
/// fault. Address 0 disarms. Returns the address armed before.
pub const CALL_RECOVER: u64 = OWN_CALLS;
/// `maps(buffer, length)`: writes what `/proc/self/maps` would say, cut at `length`. Returns the
/// length of the whole text.
pub const CALL_MAPS: u64 = OWN_CALLS + 1;
