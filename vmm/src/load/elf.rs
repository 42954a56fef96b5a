//! The checks: what an ELF file's headers say, refused wherever they cannot be carried out whole.
//! Only the ELF header, the program headers and an interpreter's name are read.

use std::io;

use linux_loader::elf as abi;
use mm::addr::{PAGE_SIZE, PageRange, TASK_SIZE, VirtAddr};
use nix::sys::mman::ProtFlags;
use vm_memory::ByteValued;

use super::{LoadError, StackAccess, machine};

/// Bytes of an ELF64 header.
const HEADER_SIZE: u64 = 64;
/// Bytes of an ELF64 program header.
const PROGRAM_HEADER_SIZE: u16 = 56;
/// Where a position-independent program with an interpreter goes when ASLR is off, if its alignment is a
/// page: two thirds of the user half (`ELF_ET_DYN_BASE`).
const DYN_BASE: u64 = TASK_SIZE / 3 * 2;
/// The longest interpreter path that is read (`PATH_MAX`).
const PATH_MAX: u64 = 4096;
/// How much of a script's first line Linux looks at (`BINPRM_BUF_SIZE`).
const SCRIPT_LINE: u64 = 256;

/// One `PT_LOAD`, at the address the file was linked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its place in the table of program headers.
    pub index: usize,
    /// `p_vaddr`, in bytes; need not be page-aligned.
    pub address: u64,
    /// `p_offset`, in bytes; the same offset within a page as `address`.
    pub offset: u64,
    /// `p_filesz`: bytes that come from the file.
    pub file_size: u64,
    /// `p_memsz`: bytes in memory, never fewer than `file_size`, never 0; those past the file's are
    /// zero.
    pub mem_size: u64,
    /// What the program may do there, from `p_flags`.
    pub prot: ProtFlags,
    /// All of its pages, at link addresses. No other segment has any of them.
    pub pages: PageRange,
}

impl Segment {
    /// The first address past its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address + self.mem_size
    }

    fn contains(&self, address: u64) -> bool {
        self.address <= address && address < self.end()
    }
}

/// Where a program can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Here only: its link address (`ET_EXEC`), or, of a position-independent program with an
    /// interpreter, where Linux loads those when ASLR is off. [`Elf::at`] with this.
    Fixed(VirtAddr),
    /// Anywhere (static PIE: `ET_DYN` without `PT_INTERP`).
    ///
    /// Linux 6.18 asks `mmap` for `size` bytes of the file at no given address: in the mmap area,
    /// directly below `mmap_base` (as the file system places file mappings: on ext4 one of 2 MiB or
    /// more starts at a multiple of 2 MiB, on tmpfs not). Then, if `alignment` is more than a
    /// page, it rounds that address down to it and maps there with `MAP_FIXED_NOREPLACE`.
    Anywhere {
        /// From the first page to the last, in bytes (`total_mapping_size`).
        size: u64,
        /// The largest `p_align` that is a power of two, at least a page, in bytes
        /// (`maximum_alignment`).
        alignment: u64,
    },
}

/// What an ELF file asks for, checked: segments are sorted, share no page, and lie in the user half;
/// the entry point is in an executable one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    segments: Vec<Segment>,
    placement: Placement,
    entry: u64,
    program_headers: u64,
    header_count: u16,
    stack: StackAccess,
    interpreter: Option<String>,
}

impl Elf {
    /// Checks a file of `len` bytes that `read_at(offset, buffer)` reads.
    ///
    /// # Errors
    /// Every [`LoadError`] about a file's content; [`LoadError::Read`] where `read_at` fails.
    pub fn parse(
        len: u64,
        mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Self, LoadError> {
        let header = read_header(len, &mut read_at)?;
        let table = read_table(&header, len, &mut read_at)?;
        match read_interpreter(&table, len, &mut read_at)? {
            Some(interpreter) => Err(LoadError::Dynamic { interpreter }),
            None => Elf::of(&header, &table, None, len),
        }
    }

    /// Checks a file that may ask for an interpreter; otherwise [`Elf::parse`].
    ///
    /// # Errors
    /// As [`Elf::parse`], but for [`LoadError::Dynamic`].
    pub fn parse_any(
        len: u64,
        mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Self, LoadError> {
        let header = read_header(len, &mut read_at)?;
        let table = read_table(&header, len, &mut read_at)?;
        let interpreter = read_interpreter(&table, len, &mut read_at)?;
        Elf::of(&header, &table, interpreter, len)
    }

    fn of(
        header: &abi::Elf64_Ehdr,
        table: &[abi::Elf64_Phdr],
        interpreter: Option<String>,
        len: u64,
    ) -> Result<Self, LoadError> {
        let mut segments = Vec::new();
        for (index, entry) in table.iter().enumerate() {
            // An empty one maps nothing.
            if entry.p_type == abi::PT_LOAD && entry.p_memsz != 0 {
                segments.push(check_segment(index, entry, len)?);
            } else if entry.p_type == abi::PT_LOAD && entry.p_filesz != 0 {
                return Err(LoadError::FileLargerThanMemory {
                    index,
                    file_size: entry.p_filesz,
                    mem_size: entry.p_memsz,
                });
            }
        }
        segments.sort_by_key(|s| s.address);
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Err(LoadError::NothingToLoad);
        };
        for pair in segments.windows(2) {
            if let Some(shared) = pair[0].pages.intersect(pair[1].pages) {
                return Err(LoadError::Overlap {
                    first: pair[0].index,
                    second: pair[1].index,
                    page: shared.start().get(),
                });
            }
        }

        let start = first.pages.start();
        let placement = if header.e_type == abi::ET_DYN {
            let size = last.pages.end().bytes_from(start);
            let alignment = largest_alignment(table);
            match interpreter {
                Some(_) => Placement::Fixed(VirtAddr::new(DYN_BASE - DYN_BASE % alignment)),
                None => Placement::Anywhere { size, alignment },
            }
        } else if start.get() < LoadError::MIN_ADDRESS {
            return Err(LoadError::TooLow { index: first.index, start: start.get() });
        } else {
            Placement::Fixed(start)
        };
        let executable = |s: &Segment| s.prot.contains(ProtFlags::PROT_EXEC);
        if !segments.iter().any(|s| executable(s) && s.contains(header.e_entry)) {
            return Err(LoadError::EntryOutside(header.e_entry));
        }
        Ok(Elf {
            program_headers: header_address(table, header.e_phoff),
            segments,
            placement,
            entry: header.e_entry,
            header_count: header.e_phnum,
            stack: stack_access(table),
            interpreter,
        })
    }

    /// Checks a file that is in memory; errors as [`Elf::parse`].
    ///
    /// # Errors
    /// As [`Elf::parse`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Elf::parse(bytes.len() as u64, |offset, buffer| {
            let source = usize::try_from(offset)
                .ok()
                .and_then(|start| bytes.get(start..)?.get(..buffer.len()))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(source);
            Ok(())
        })
    }

    /// The segments, sorted by address, at least one.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where the program can go.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// `e_entry`: the first instruction, at its link address.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The link address of the program headers; 0 where no segment holds them, as Linux has it.
    #[must_use]
    pub fn program_headers(&self) -> u64 {
        self.program_headers
    }

    /// How many program headers (`AT_PHNUM`).
    #[must_use]
    pub fn header_count(&self) -> u16 {
        self.header_count
    }

    /// The path in `PT_INTERP`, escaped, since it is shown on a terminal.
    #[must_use]
    pub fn interpreter(&self) -> Option<&str> {
        self.interpreter.as_deref()
    }

    /// What `PT_GNU_STACK` says.
    #[must_use]
    pub fn stack(&self) -> StackAccess {
        self.stack
    }
}

/// A plain-data value at `offset`, which the caller knows to be inside the file.
fn read_value<T: ByteValued + Default>(
    offset: u64,
    read_at: &mut impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<T, LoadError> {
    let mut value = T::default();
    read_at(offset, value.as_mut_slice()).map_err(LoadError::Read)?;
    Ok(value)
}

fn read_header(
    len: u64,
    read_at: &mut impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<abi::Elf64_Ehdr, LoadError> {
    let mut head = vec![0; usize::try_from(len.min(SCRIPT_LINE)).unwrap_or(0)];
    read_at(0, &mut head).map_err(LoadError::Read)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&b| b == b'\n').next().unwrap_or(line);
        let interpreter = line.trim_ascii().escape_ascii().to_string();
        return Err(LoadError::Script { interpreter });
    }
    if !head.starts_with(abi::ELFMAG) {
        return Err(LoadError::NotElf);
    }
    if len < HEADER_SIZE {
        return Err(LoadError::Truncated { what: "ELF header", needed: HEADER_SIZE, len });
    }
    let header: abi::Elf64_Ehdr = read_value(0, read_at)?;
    // The order of these decides what a person is told of an ARM or i386 program. Byte order first:
    // e_machine cannot be read without it.
    if header.e_ident[abi::EI_DATA] == abi::ELFDATA2MSB {
        return Err(LoadError::BigEndian);
    }
    if header.e_machine != abi::EM_X86_64 {
        return Err(LoadError::OtherMachine { machine: machine::name(header.e_machine) });
    }
    if header.e_ident[abi::EI_CLASS] != abi::ELFCLASS64 {
        return Err(LoadError::Not64Bit);
    }
    match header.e_type {
        abi::ET_EXEC | abi::ET_DYN => Ok(header),
        abi::ET_REL => Err(LoadError::ObjectFile),
        abi::ET_CORE => Err(LoadError::CoreDump),
        other => Err(LoadError::OtherType(other)),
    }
}

/// The program headers (`load_elf_phdrs`).
fn read_table(
    header: &abi::Elf64_Ehdr,
    len: u64,
    read_at: &mut impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<Vec<abi::Elf64_Phdr>, LoadError> {
    if header.e_phentsize != PROGRAM_HEADER_SIZE {
        return Err(LoadError::HeaderSize(header.e_phentsize));
    }
    if header.e_phnum == 0 || header.e_phnum > LoadError::MAX_HEADERS {
        return Err(LoadError::HeaderCount(header.e_phnum));
    }
    let size = u64::from(PROGRAM_HEADER_SIZE);
    let needed = header.e_phoff.saturating_add(size * u64::from(header.e_phnum));
    if needed > len {
        return Err(LoadError::Truncated { what: "program headers", needed, len });
    }
    (0..u64::from(header.e_phnum)).map(|i| read_value(header.e_phoff + i * size, read_at)).collect()
}

/// The path in `PT_INTERP`, as far as the file has it; none where there is no such header.
fn read_interpreter(
    table: &[abi::Elf64_Phdr],
    len: u64,
    read_at: &mut impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<Option<String>, LoadError> {
    let Some(entry) = table.iter().find(|p| p.p_type == abi::PT_INTERP) else { return Ok(None) };
    let size = entry.p_filesz.min(PATH_MAX).min(len.saturating_sub(entry.p_offset));
    if size == 0 {
        return Ok(Some("not in the file".to_owned()));
    }
    let mut path = vec![0; usize::try_from(size).unwrap_or(0)];
    read_at(entry.p_offset, &mut path).map_err(LoadError::Read)?;
    let path = path.split(|&b| b == 0).next().unwrap_or_default();
    Ok(Some(path.escape_ascii().to_string()))
}

/// One `PT_LOAD` that is not empty.
fn check_segment(index: usize, entry: &abi::Elf64_Phdr, len: u64) -> Result<Segment, LoadError> {
    let (address, offset) = (entry.p_vaddr, entry.p_offset);
    let (file_size, mem_size) = (entry.p_filesz, entry.p_memsz);
    if file_size > mem_size {
        return Err(LoadError::FileLargerThanMemory { index, file_size, mem_size });
    }
    if file_size != 0 {
        if offset % PAGE_SIZE != address % PAGE_SIZE {
            return Err(LoadError::Misaligned { index, offset, address });
        }
        let needed = offset
            .checked_add(file_size)
            .ok_or(LoadError::Overflow { index, what: "file offset" })?;
        if needed > len {
            return Err(LoadError::TruncatedSegment { index, needed, len });
        }
    }
    let end =
        address.checked_add(mem_size).ok_or(LoadError::Overflow { index, what: "address" })?;
    let pages = VirtAddr::new(end)
        .page_ceil()
        .and_then(|end| PageRange::new(VirtAddr::new(address).page_floor(), end))
        .ok_or(LoadError::OutsideUserHalf { index, end })?;
    let prot = protection(entry.p_flags);
    Ok(Segment { index, address, offset, file_size, mem_size, prot, pages })
}

/// `make_prot`.
fn protection(flags: u32) -> ProtFlags {
    let mut prot = ProtFlags::PROT_NONE;
    prot.set(ProtFlags::PROT_READ, flags & abi::PF_R != 0);
    prot.set(ProtFlags::PROT_WRITE, flags & abi::PF_W != 0);
    prot.set(ProtFlags::PROT_EXEC, flags & abi::PF_X != 0);
    prot
}

/// `maximum_alignment`: values that are no power of two are skipped.
fn largest_alignment(table: &[abi::Elf64_Phdr]) -> u64 {
    let loads = table.iter().filter(|p| p.p_type == abi::PT_LOAD);
    let alignments = loads.map(|p| p.p_align).filter(|a| a.is_power_of_two());
    alignments.max().unwrap_or(0).max(PAGE_SIZE)
}

/// Where the table of program headers is in memory. Linux asks the segments, not `PT_PHDR`, and lets
/// the last one in the table that holds it win.
fn header_address(table: &[abi::Elf64_Phdr], e_phoff: u64) -> u64 {
    let holds = |p: &&abi::Elf64_Phdr| {
        p.p_type == abi::PT_LOAD
            && e_phoff.checked_sub(p.p_offset).is_some_and(|inside| inside < p.p_filesz)
    };
    let holder = table.iter().rfind(holds);
    holder.map_or(0, |p| (e_phoff - p.p_offset).wrapping_add(p.p_vaddr))
}

/// The last `PT_GNU_STACK` decides; without one an x86-64 stack is not executable (`EXSTACK_DEFAULT`,
/// since Linux 5.8).
fn stack_access(table: &[abi::Elf64_Phdr]) -> StackAccess {
    match table.iter().rfind(|p| p.p_type == abi::PT_GNU_STACK) {
        Some(entry) if entry.p_flags & abi::PF_X != 0 => StackAccess::Executable,
        _ => StackAccess::ReadWrite,
    }
}

#[cfg(test)]
mod tests;
