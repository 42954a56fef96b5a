//! The instructions that belong to a kernel, flags and stack pointers that do not belong to a
//! program, ports, and segment registers.

use core::arch::asm;

use guest::abi;

use crate::Family;
use crate::ends::{
    ANY, BUS_OR_SEGV, Ends, FPE, ILL, RETURNS, RETURNS_OR_BUS, RETURNS_OR_DIES, SEGV, SEGV_OR_ILL,
    TRAP,
};

/// The attempts: a name, what it may end as, and its instructions (rdi 0, rsi the scratch page),
/// which change only what a call may change, unless they fault.
macro_rules! attempts {
    ($($name:literal: $ends:expr, $($line:literal)+;)*) => {
        &[$({
            unsafe extern "C" fn code(argument: u64, scratch: u64) {
                // SAFETY: what comes back has kept to the ABI; what does not come back is caught,
                // with the stack pointer and the registers of before.
                unsafe {
                    asm!(
                        $($line,)+
                        inout("rdi") argument => _,
                        inout("rsi") scratch => _,
                        clobber_abi("C"),
                    );
                }
            }
            fn ends(_: u64) -> Ends {
                $ends
            }
            Family { name: $name, count: 1, code, argument: |_| 0, ends }
        }),*]
    };
}

const CALL: u16 = abi::PORT_CALL;
const FAULT: u16 = abi::PORT_FAULT;
const _: () = assert!(CALL == 0x4d && FAULT == 0x4e);

pub(crate) const FAMILIES: &[Family] = attempts! {
    // Instructions of ring 0.
    "hlt": SEGV, "hlt";
    "cli": SEGV, "cli";
    "sti": SEGV, "sti";
    "clts": SEGV, "clts";
    "invd": SEGV, "invd";
    "wbinvd": SEGV, "wbinvd";
    "invlpg": SEGV, "invlpg [rsi]";
    "mov from cr0": SEGV, "mov rax, cr0";
    "mov from cr2": SEGV, "mov rax, cr2";
    "mov from cr3": SEGV, "mov rax, cr3";
    "mov to cr0": SEGV, "xor eax, eax" "mov cr0, rax";
    "mov to cr3": SEGV, "xor eax, eax" "mov cr3, rax";
    "mov to cr4": SEGV, "xor eax, eax" "mov cr4, rax";
    "mov to cr8": SEGV, "xor eax, eax" "mov cr8, rax";
    "mov from dr7": SEGV, "mov rax, dr7";
    "mov to dr7": SEGV, "xor eax, eax" "mov dr7, rax";
    "lgdt": SEGV, "lgdt [rsi]";
    "lidt": SEGV, "lidt [rsi]";
    "lldt": SEGV, "xor eax, eax" "lldt ax";
    "ltr": SEGV, "mov eax, 0x40" "ltr ax";
    "lmsw": SEGV, "xor eax, eax" "lmsw ax";
    "rdmsr": SEGV, "mov ecx, 0xc0000080" "rdmsr";
    "wrmsr LSTAR": SEGV, "mov ecx, 0xc0000082" "lea rax, [rip]" "xor edx, edx" "wrmsr";
    "wrmsr EFER": SEGV, "mov ecx, 0xc0000080" "xor eax, eax" "xor edx, edx" "wrmsr";
    "rdpmc": SEGV, "xor ecx, ecx" "rdpmc";
    "xsetbv": SEGV_OR_ILL, "xor ecx, ecx" "mov eax, 1" "xor edx, edx" "xsetbv";
    "swapgs": SEGV, "swapgs";
    "sysretq": SEGV_OR_ILL, "lea rcx, [rip + 2f]" "mov r11d, 0x202" "sysretq" "2:";
    "sysexit": SEGV_OR_ILL, "lea rdx, [rip + 2f]" "mov rcx, rsp" "sysexit" "2:";
    "vmrun": SEGV_OR_ILL, "mov rax, rsi" "vmrun";
    "vmload": SEGV_OR_ILL, "mov rax, rsi" "vmload";
    "stgi": SEGV_OR_ILL, "stgi";
    "vmxon": SEGV_OR_ILL, "vmxon [rsi]";
    // A hypervisor may answer these to anyone, with an error.
    "vmcall": RETURNS_OR_DIES, "mov eax, 11" "vmcall";
    "vmmcall": RETURNS_OR_DIES, "mov eax, 11" "vmmcall";
    // UMIP makes these privileged; Linux emulates them then.
    "sgdt": RETURNS_OR_DIES, "sgdt [rsi]";
    "sidt": RETURNS_OR_DIES, "sidt [rsi]";
    "sldt": RETURNS_OR_DIES, "sldt ax";
    "smsw": RETURNS_OR_DIES, "smsw ax";
    "str": RETURNS_OR_DIES, "str ax";

    // Exceptions by instruction.
    "ud2": ILL, "ud2";
    "int3": TRAP, "int3";
    "int1": TRAP, ".byte 0xf1";
    "div by zero": FPE, "xor ecx, ecx" "mov eax, 1" "xor edx, edx" "div ecx";
    "sysenter": SEGV_OR_ILL, "mov rbp, rsp" "mov eax, 20" "sysenter" "ud2";
    "lock on a register": ILL, ".byte 0xf0, 0x01, 0xc0";
    "an instruction of 16 bytes": SEGV,
        ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90";

    // Ports: those of the trampoline from the program's own code, and others.
    "out to the call port": SEGV, "mov eax, 39" "out 0x4d, al";
    "out to the call port, by dx": SEGV, "mov eax, 39" "mov edx, 0x4d" "out dx, al";
    "out of a word to the call port": SEGV, "mov eax, 39" "out 0x4d, ax";
    "out of a long to the call port": SEGV, "mov eax, 39" "out 0x4d, eax";
    "out of a long that ends at the call port": SEGV, "mov eax, 39" "out 0x4a, eax";
    "in from the call port": SEGV, "in al, 0x4d";
    "in of a word from the call port": SEGV, "in ax, 0x4d";
    "outsb to the call port": SEGV, "mov edx, 0x4d" "outsb";
    "rep outsb to the call port": SEGV, "mov edx, 0x4d" "mov ecx, 4096" "rep outsb";
    "insb from the call port": SEGV, "mov edx, 0x4d" "mov rdi, rsi" "insb";
    "rep insb from the call port": SEGV, "mov edx, 0x4d" "mov rdi, rsi" "mov ecx, 4096" "rep insb";
    "rep insb over the kernel half": SEGV,
        "mov edx, 0x4d" "mov rdi, 0xffffffff80001000" "mov ecx, 64" "rep insb";
    "out to the fault port": SEGV, "out 0x4e, al";
    "in from the fault port": SEGV, "in al, 0x4e";
    // A page fault's frame as the entry would find it: error code, rip, cs, rflags, rsp, ss.
    "out to the fault port, with a page fault's frame": SEGV,
        "lea rax, [rip + 2f]" "mov rcx, rsp" "push 0x2b" "push rcx" "push 0x202" "push 0x33"
        "push rax" "push 7" "out 0x4e, al" "2:";
    "out to the fault port, with a frame of ring 0": SEGV,
        "lea rax, [rip + 2f]" "mov rcx, rsp" "push 0x18" "push rcx" "push 0x3202" "push 0x10"
        "push rax" "push 0" "out 0x4e, al" "2:";
    "out to port 0x80": SEGV, "out 0x80, al";
    "out to the keyboard's reset": SEGV, "mov al, 0xfe" "out 0x64, al";
    "out to port 0xffff": SEGV, "mov edx, 0xffff" "out dx, al";
    "in from the PCI ports": SEGV, "mov edx, 0xcf8" "in eax, dx";
    "out to port 0": SEGV, "out 0, al";
    "out to the port before": SEGV, "out 0x4c, al";

    // Flags.
    "popf TF": TRAP, "pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "nop";
    "popf TF, then a call": TRAP,
        "mov eax, 39" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "syscall" "nop";
    "popf IOPL 3, then out": SEGV, "pushfq" "or qword ptr [rsp], 0x3000" "popfq" "out 0x80, al";
    "popf IOPL 3, then cli": SEGV, "pushfq" "or qword ptr [rsp], 0x3000" "popfq" "cli";
    "popf without IF": RETURNS, "pushfq" "and qword ptr [rsp], -513" "popfq" "mov eax, 39" "syscall";
    "popf NT, then a call": RETURNS,
        "pushfq" "or qword ptr [rsp], 0x4000" "popfq" "mov eax, 39" "syscall" "push 0x202" "popfq";
    "popf DF, then a call": RETURNS, "std" "mov eax, 39" "syscall" "cld";
    "popf ID, VIF, VIP": RETURNS_OR_DIES,
        "pushfq" "or qword ptr [rsp], 0x380000" "popfq" "mov eax, 39" "syscall" "push 0x202" "popfq";
    "popf AC, then a call": RETURNS,
        "pushfq" "or qword ptr [rsp], 0x40000" "popfq" "mov eax, 39" "syscall" "push 0x202" "popfq";
    "popf AC, then an odd address": RETURNS_OR_BUS,
        "pushfq" "or qword ptr [rsp], 0x40000" "popfq" "mov rax, [rsi + 1]" "push 0x202" "popfq";
    "popf all": ANY, "push -1" "popfq" "nop" "mov eax, 39" "syscall" "push 0x202" "popfq";
    "popf NT, then a page fault": SEGV,
        "pushfq" "or qword ptr [rsp], 0x4000" "popfq" "mov rax, [0x10]";
    "popf AC and DF, then a page fault": SEGV,
        "pushfq" "or qword ptr [rsp], 0x40400" "popfq" "mov rax, [0x10]";

    // Stack pointers that are none, when the machine needs one.
    "rsp 0 at a call": RETURNS, "mov r8, rsp" "xor esp, esp" "mov eax, 39" "syscall" "mov rsp, r8";
    "rsp non-canonical at a call": RETURNS,
        "mov r8, rsp" "mov rsp, 0x8000000000000000" "mov eax, 39" "syscall" "mov rsp, r8";
    "rsp in the kernel half at a call": RETURNS,
        "mov r8, rsp" "mov rsp, 0xffffffff80102000" "mov eax, 39" "syscall" "mov rsp, r8";
    "rsp in the entries at a call": RETURNS,
        "mov r8, rsp" "mov rsp, 0xffffffff80001800" "mov eax, 39" "syscall" "mov rsp, r8";
    "rsp 0 at a fault": ILL, "xor esp, esp" "ud2";
    "rsp non-canonical at a fault": ILL, "mov rsp, 0x8000000000000000" "ud2";
    "rsp in the kernel half at a fault": ILL, "mov rsp, 0xffffffff80102000" "ud2";
    "rsp in the entries at a page fault": SEGV, "mov rsp, 0xffffffff80002000" "mov rax, [0x10]";
    "rsp non-canonical at a page fault": SEGV, "mov rsp, 0x8000000000000000" "mov rax, [0x10]";
    "rsp unaligned at a page fault": SEGV, "or rsp, 7" "mov rax, [0x10]";
    "push to a non-canonical stack": BUS_OR_SEGV, "mov rsp, 0x8000000000000000" "push rax";
    "push to the ring-0 stack": SEGV, "mov rsp, 0xffffffff80102000" "push rax";
    "push to the entries": SEGV, "mov rsp, 0xffffffff80002000" "push rax";
    "ret from the kernel half": SEGV, "mov rsp, 0xffffffff80101000" "ret";
    "a load by rbp, non-canonical": BUS_OR_SEGV, "mov rbp, 0x8000000000000000" "mov rax, [rbp]";

    // Segment registers. What is loaded stays loaded: in 64-bit mode it has no effect on ds and es.
    "ds 0": RETURNS, "xor eax, eax" "mov ds, eax" "mov eax, 39" "syscall";
    "es 0": RETURNS, "xor eax, eax" "mov es, eax" "mov eax, 39" "syscall";
    "ds of the program": RETURNS, "mov eax, 0x2b" "mov ds, eax" "mov eax, 39" "syscall";
    "ss of the program": RETURNS, "mov eax, 0x2b" "mov ss, eax" "mov eax, 39" "syscall";
    "ds of ring 0": SEGV, "mov eax, 0x18" "mov ds, eax";
    "ds of ring 0, RPL 3": SEGV, "mov eax, 0x1b" "mov ds, eax";
    "es, the code of ring 0": SEGV, "mov eax, 0x10" "mov es, eax";
    "es, a task-state segment": SEGV, "mov eax, 0x43" "mov es, eax";
    "ds past the table": SEGV, "mov eax, 0xfffb" "mov ds, eax";
    "ds of a local table": SEGV, "mov eax, 0x7" "mov ds, eax";
    "fs of ring 0": SEGV, "mov eax, 0x18" "mov fs, eax";
    "gs 0": RETURNS, "xor eax, eax" "mov gs, eax" "mov eax, 39" "syscall";
    "ss 0": SEGV, "xor eax, eax" "mov ss, eax";
    "ss of ring 0": SEGV, "mov eax, 0x18" "mov ss, eax";
    "ss of ring 0, RPL 3": SEGV, "mov eax, 0x1b" "mov ss, eax";
    "ss, the program's code": SEGV, "mov eax, 0x33" "mov ss, eax";
    "fs base non-canonical, by arch_prctl": RETURNS,
        "mov edi, 0x1002" "mov rsi, 0x8000000000000000" "mov eax, 158" "syscall"
        "cmp eax, -1" "je 2f" "ud2" "2:";
    "fs base in the kernel half, by arch_prctl": RETURNS,
        "mov edi, 0x1002" "mov rsi, 0xffffffff80102000" "mov eax, 158" "syscall"
        "cmp eax, -1" "je 2f" "ud2" "2:";
    "gs base in the kernel half, by arch_prctl": RETURNS,
        "mov edi, 0x1001" "mov rsi, 0xffffffff80102000" "mov eax, 158" "syscall"
        "cmp eax, -1" "je 2f" "ud2" "2:";
    "fs base non-canonical, by wrfsbase": SEGV_OR_ILL, "mov rax, 0x8000000000000000" "wrfsbase rax";
    "fs base in the kernel half, by wrfsbase, then a call": RETURNS_OR_DIES,
        "mov rax, 0xffffffff80102000" "wrfsbase rax" "mov eax, 39" "syscall" "xor eax, eax"
        "wrfsbase rax";
    "gs base in the kernel half, by wrgsbase, then a write": SEGV_OR_ILL,
        "mov rax, 0xffffffff80102000" "wrgsbase rax" "mov qword ptr gs:[0], rax";

    // Where memory is the machine's.
    "write to the stub page": SEGV, "mov rax, 0xffffffff80000000" "mov byte ptr [rax], 0x90";
    "jump into an entry": SEGV, "mov rax, 0xffffffff800010e0" "jmp rax";
    "jump past the out of an entry": SEGV, "mov rax, 0xffffffff800010e2" "jmp rax";
    "read the descriptor tables": SEGV, "mov rax, 0xffffffff80002000" "mov rax, [rax]";
    "write an interrupt gate": SEGV, "mov rax, 0xffffffff80003000" "mov [rax], rax";
    "write the task-state segment": SEGV, "mov rax, 0xffffffff80100004" "mov [rax], rax";
    "write the ring-0 stack": SEGV, "mov rax, 0xffffffff80101ff8" "mov [rax], rax";
    "call into the ring-0 stack": SEGV, "mov rax, 0xffffffff80101000" "call rax";
    "write past the vCPUs": SEGV, "mov rax, 0xffffffff80200000" "mov [rax], rax";
    "xsave onto the kernel half": SEGV_OR_ILL,
        "mov rdi, 0xffffffff80101000" "mov eax, 7" "xor edx, edx" "xsave [rdi]";
    "xrstor of nonsense": SEGV_OR_ILL,
        "lea rdi, [rsi + 64]" "and rdi, -64" "mov qword ptr [rdi + 512], -1"
        "mov eax, 7" "xor edx, edx" "xrstor [rdi]";
    "fxrstor with a reserved mxcsr": SEGV,
        "lea rdi, [rsi + 64]" "and rdi, -16" "fxsave [rdi]" "mov dword ptr [rdi + 24], -1"
        "fxrstor [rdi]";
    // Software KVM gives up on this one (#UD).
    "ldmxcsr of reserved bits": SEGV_OR_ILL, "mov dword ptr [rsi], -1" "ldmxcsr [rsi]";
    "movaps from an odd address": SEGV, "movaps xmm0, [rsi + 1]";
};
