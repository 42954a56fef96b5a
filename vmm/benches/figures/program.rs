//! The programs that floor and mmvisor both run: one page of a static ELF file each, so that both get
//! the very same bytes at the same address.

#![allow(unsafe_code, reason = "assembly is reached through the linker's symbols")]

use std::arch::global_asm;
use std::fs::File;
use std::io::Write;

use crate::rounds::Outcome;

/// Where the page of every program is.
pub(crate) const CODE: u64 = 0x40_0000;
/// Offset of the first instruction in the page.
pub(crate) const ENTRY: u64 = 0x100;
/// Where the touching programs map their memory.
pub(crate) const DATA: u64 = 0x1000_0000;
/// Bytes that they map.
pub(crate) const DATA_BYTES: u64 = 12 << 20;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// Bytes from one touch to the next where each shall be a fault of its own: every other page.
pub(crate) const APART: u64 = 2 * PAGE;
/// Touches of the program that touches every other page.
pub(crate) const TOUCHES_APART: u64 = DATA_BYTES / APART;
/// Touches of the program that touches page after page.
pub(crate) const TOUCHES_IN_ORDER: u64 = DATA_BYTES / PAGE;

macro_rules! program {
    ($name:ident: $($line:literal),+ $(; $($operand:tt)+)?) => {
        global_asm!(
            ".pushsection .rodata.mmvisor_figures, \"a\", @progbits",
            concat!("mmvisor_figures_", stringify!($name), ":"),
            $($line,)+
            concat!("mmvisor_figures_", stringify!($name), "_end:"),
            ".popsection",
            $($($operand)+,)?
            options(att_syntax),
        );
        /// The program's page.
        pub(crate) fn $name() -> Vec<u8> {
            unsafe extern "C" {
                #[link_name = concat!("mmvisor_figures_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("mmvisor_figures_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the assembly above puts both symbols around its read-only bytes.
            page(unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) })
        }
    };
}

// getpid for ever.
program! { calls:
    "2: movl $39, %eax",
    "   syscall",
    "   jmp 2b"
}

// Maps DATA; getpid; writes a byte to each page or every other page; getpid for ever.
macro_rules! touching {
    ($name:ident, $stride:expr, $count:expr) => {
        program! { $name:
            "   movl $9, %eax",
            "   movl ${data}, %edi",
            "   movl ${bytes}, %esi",
            "   movl $3, %edx",            // PROT_READ | PROT_WRITE
            "   movl $0x100022, %r10d",    // MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
            "   movq $-1, %r8",
            "   xorl %r9d, %r9d",
            "   syscall",
            "   movl $39, %eax",
            "   syscall",
            "   movl ${data}, %ebx",
            "   movl ${count}, %r12d",
            "2: movb $1, (%rbx)",
            "   addq ${stride}, %rbx",
            "   decl %r12d",
            "   jnz 2b",
            "3: movl $39, %eax",
            "   syscall",
            "   jmp 3b";
            data = const DATA,
            bytes = const DATA_BYTES,
            stride = const $stride,
            count = const $count
        }
    };
}
touching!(touch_apart, APART, TOUCHES_APART);
touching!(touch_in_order, PAGE, TOUCHES_IN_ORDER);

// getpid; reads a byte of each page of DATA, which somebody else has mapped; getpid for ever.
program! { read_in_order:
    "   movl $39, %eax",
    "   syscall",
    "   movl ${data}, %ebx",
    "   movl ${count}, %r12d",
    "2: movb (%rbx), %al",
    "   addq ${page}, %rbx",
    "   decl %r12d",
    "   jnz 2b",
    "3: movl $39, %eax",
    "   syscall",
    "   jmp 3b";
    data = const DATA,
    page = const PAGE,
    count = const TOUCHES_IN_ORDER
}

// Writes a line to standard output and exits with 0.
program! { hello:
    "   movl $1, %eax",
    "   movl $1, %edi",
    "   leaq 2f(%rip), %rsi",
    "   movl $6, %edx",
    "   syscall",
    "   movl $231, %eax",
    "   xorl %edi, %edi",
    "   syscall",
    "2: .ascii \"hello\\n\""
}

/// A static ELF file of one page, readable and executable at [`CODE`] (System V ABI, chapters 4, 5).
fn page(code: &[u8]) -> Vec<u8> {
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // ET_EXEC, EM_X86_64.
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    // e_entry, e_phoff, e_shoff.
    let words = [CODE + ENTRY, u64::from(HEADER), 0];
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    // e_ehsize, e_phentsize, e_phnum, and no sections.
    let halves = [HEADER, PROGRAM_HEADER, 1, 0, 0, 0];
    file.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    // PT_LOAD, PF_R | PF_X; offset, vaddr, paddr, filesz, memsz, align.
    file.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let words = [0, CODE, CODE, PAGE, PAGE, PAGE];
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file.resize(usize::try_from(ENTRY).unwrap_or(0), 0);
    file.extend(code);
    file.resize(usize::try_from(PAGE).unwrap_or(0), 0);
    file
}

/// A file in memory with these bytes.
pub(crate) fn in_memory(bytes: &[u8]) -> Outcome<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("figures", flags)?);
    file.write_all(bytes)?;
    Ok(file)
}
