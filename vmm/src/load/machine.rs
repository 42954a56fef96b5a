//! Names of the architectures an ELF file can be for, so that the refusal of one names it.

use linux_loader::elf;

/// What people call the architecture with the ELF number `e_machine`.
pub(crate) fn name(e_machine: u16) -> String {
    let known = match e_machine {
        elf::EM_386 => "32-bit x86 (i386)",
        elf::EM_X86_64 => "x86-64",
        elf::EM_AARCH64 => "64-bit ARM (aarch64)",
        elf::EM_ARM => "32-bit ARM",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC => "32-bit PowerPC",
        elf::EM_PPC64 => "64-bit PowerPC",
        elf::EM_S390 => "s390x",
        elf::EM_MIPS => "MIPS",
        elf::EM_SPARC | elf::EM_SPARC32PLUS | elf::EM_SPARCV9 => "SPARC",
        elf::EM_LOONGARCH => "LoongArch",
        elf::EM_IA_64 => "Itanium (ia64)",
        elf::EM_68K => "Motorola 68000",
        elf::EM_SH => "SuperH",
        elf::EM_ALPHA => "Alpha",
        elf::EM_BPF => "BPF",
        elf::EM_NONE => "no machine at all",
        other => return format!("an unknown machine (ELF number {other})"),
    };
    known.to_owned()
}
