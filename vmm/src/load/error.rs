//! Why a program cannot be loaded, in sentences for the person who asked to run it.
//!
//! Each says what is wrong and what to do; the caller puts "cannot run PATH: " before it.

use std::io;

/// Why a program file or its arguments were refused.
///
/// Linux notices the same with `ENOENT`, `EACCES`, `ENOEXEC`, `EINVAL` or `E2BIG`, or not at all: a
/// file cut off behind its program headers, segments outside the user half or an entry point
/// outside the code start there and die of `SIGSEGV` or `SIGBUS` (measured on 6.18). Those are
/// refused here instead. Linux also ignores the class and byte order in the header's first bytes;
/// here they must be those of x86-64.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `ENOENT` or `ENOTDIR`.
    #[error("there is no such file: check the path")]
    NotFound,
    /// `EACCES` at open.
    #[error(
        "no permission to read it: check the modes of the file and of its directories (chmod +rx)"
    )]
    PermissionDenied,
    /// The file has no execute permission; `execve` says `EACCES`.
    #[error("it may not be executed: make it executable (chmod +x)")]
    NotExecutable,
    /// `execve` says `EACCES`.
    #[error("it is a directory: name the program in it")]
    Directory,
    /// A device, a pipe, a socket; `execve` says `EACCES`.
    #[error("it is not a regular file: name a program file")]
    NotRegular,
    /// Any other failure at open.
    #[error("it could not be opened ({0}): check the path and the file system")]
    Open(#[source] io::Error),
    /// The file could not be read.
    #[error("it could not be read ({0}): check the file system")]
    Read(#[source] io::Error),

    /// The first four bytes are not an ELF file's.
    #[error("it is not an ELF program: give a static x86-64 Linux executable")]
    NotElf,
    /// `#!`.
    #[error(
        "it is a script: run its interpreter instead ({interpreter}), if that is a static program"
    )]
    Script {
        /// The rest of the first line.
        interpreter: String,
    },
    /// `EI_CLASS` is not 64.
    #[error("it is a 32-bit program: mmvisor runs 64-bit ones only; build it with -m64")]
    Not64Bit,
    /// `EI_DATA` is not little-endian.
    #[error("it is a big-endian program: mmvisor runs x86-64, which is little-endian")]
    BigEndian,
    /// `e_machine` is not x86-64.
    #[error(
        "it is a program for {machine}: mmvisor runs x86-64 programs only; build it for x86-64"
    )]
    OtherMachine {
        /// The architecture's name.
        machine: String,
    },
    /// `ET_REL`.
    #[error("it is an object file (.o), not a program: link it first (gcc -static)")]
    ObjectFile,
    /// `ET_CORE`.
    #[error("it is a core dump, not a program: name the program that dumped it")]
    CoreDump,
    /// Another `e_type`.
    #[error(
        "its ELF type is {0}: only executables (2) and static position-independent ones (3) can run"
    )]
    OtherType(u16),
    /// It asks for a dynamic linker.
    #[error(
        "it is dynamically linked and dynamic programs come later; its interpreter is {interpreter}; \
         link it with -static"
    )]
    Dynamic {
        /// The path in `PT_INTERP`.
        interpreter: String,
    },

    /// The file ends inside its ELF header or its program headers; `execve` says `ENOEXEC` or `EIO`.
    #[error(
        "it is truncated: its {what} should reach byte {needed}, but the file has {len} bytes; copy or build it again"
    )]
    Truncated {
        /// Which headers.
        what: &'static str,
        /// The first byte past them.
        needed: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// The file ends inside a segment; Linux maps it and the program dies of `SIGBUS` or `SIGSEGV`.
    #[error(
        "it is truncated: segment {index} should reach byte {needed}, but the file has {len} bytes; copy or build it again"
    )]
    TruncatedSegment {
        /// Which program header.
        index: usize,
        /// The first byte past the segment.
        needed: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// `e_phentsize` is wrong; `ENOEXEC`.
    #[error(
        "its program headers are {0} bytes each instead of 56: the file is damaged; build it again"
    )]
    HeaderSize(u16),
    /// No program headers, or more than 64 KiB of them; `ENOEXEC`.
    #[error("it has {0} program headers: Linux takes 1 to {max}; build it again", max = Self::MAX_HEADERS)]
    HeaderCount(u16),
    /// `EINVAL` for a position-independent file, else the program dies at its first instruction.
    #[error(
        "none of its segments is to be loaded (no PT_LOAD): it has nothing to run; build it again"
    )]
    NothingToLoad,
    /// `p_filesz > p_memsz`; `EINVAL` and death.
    #[error(
        "segment {index} has more bytes in the file ({file_size:#x}) than in memory ({mem_size:#x}): the file is damaged; build it again"
    )]
    FileLargerThanMemory {
        /// Which program header.
        index: usize,
        /// `p_filesz`.
        file_size: u64,
        /// `p_memsz`.
        mem_size: u64,
    },
    /// `p_offset` and `p_vaddr` differ in their offset from a page; `EINVAL` from mmap, and death.
    #[error(
        "segment {index} cannot be mapped: its file offset {offset:#x} and its address {address:#x} differ within a page; link it with -z max-page-size=4096"
    )]
    Misaligned {
        /// Which program header.
        index: usize,
        /// `p_offset`.
        offset: u64,
        /// `p_vaddr`.
        address: u64,
    },
    /// An address or offset plus a size does not fit 64 bits.
    #[error(
        "segment {index} is impossible: its {what} and its size overflow 64 bits; the file is damaged; build it again"
    )]
    Overflow {
        /// Which program header.
        index: usize,
        /// What the size was added to.
        what: &'static str,
    },
    /// A segment reaches past the user half.
    #[error(
        "segment {index} ends at {end:#x}, outside the user half (it ends at 0x7ffffffff000): link it lower"
    )]
    OutsideUserHalf {
        /// Which program header.
        index: usize,
        /// The first address past it.
        end: u64,
    },
    /// A segment starts below `vm.mmap_min_addr`.
    #[error("segment {index} starts at {start:#x}, below the lowest address a program may map ({min:#x}): link it higher", min = Self::MIN_ADDRESS)]
    TooLow {
        /// Which program header.
        index: usize,
        /// Its first page.
        start: u64,
    },
    /// Two segments share a page. Linux lets the later one in the table replace the other's page.
    #[error(
        "segments {first} and {second} overlap (both use the page at {page:#x}): link it with -z separate-code or without a linker script"
    )]
    Overlap {
        /// One program header.
        first: usize,
        /// The other.
        second: usize,
        /// A page in both.
        page: u64,
    },
    /// `e_entry` is in no executable segment.
    #[error(
        "its entry point {0:#x} is not in an executable segment: the file is damaged or has no _start; link it again"
    )]
    EntryOutside(u64),
    /// The place given to [`super::Elf::at`] does not fit.
    #[error("it cannot be placed at {start:#x}: {why}")]
    Place {
        /// Where its first page was to go.
        start: u64,
        /// What is wrong with that.
        why: &'static str,
    },

    /// An argument or variable is longer than `MAX_ARG_STRLEN`; `E2BIG`.
    #[error("{what} {index} has {len} bytes: one may have {max} at most, with its end; shorten it", max = super::stack::MAX_ARG_STRLEN)]
    StringTooLong {
        /// "argument" or "environment variable".
        what: &'static str,
        /// Which one.
        index: usize,
        /// Its length in bytes with its terminating null.
        len: usize,
    },
    /// The arguments and the environment take more than their share of the stack; `E2BIG`.
    #[error(
        "the arguments and the environment need {needed} bytes of stack: {limit} are allowed (a quarter of the stack limit); pass fewer or raise the limit"
    )]
    ArgumentsTooBig {
        /// Bytes of strings and pointers.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl LoadError {
    /// As many program headers as fit 64 KiB (`load_elf_phdrs`).
    pub(crate) const MAX_HEADERS: u16 = 1170;
    /// The lowest address an `ET_EXEC` may use: Linux's default `vm.mmap_min_addr`.
    pub(crate) const MIN_ADDRESS: u64 = 4096;

    /// What a failed open means.
    pub(crate) fn from_open(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => LoadError::NotFound,
            io::ErrorKind::PermissionDenied => LoadError::PermissionDenied,
            _ => LoadError::Open(error),
        }
    }
}
