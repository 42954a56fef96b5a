//! A checked program at a definite place: what to map, in `mmap`'s terms, and what the new process
//! has to be told about it.

use mm::addr::{PAGE_SIZE, PageRange, TASK_SIZE, VirtAddr};
use nix::sys::mman::ProtFlags;

use super::{Elf, LoadError, Placement, Segment};

/// Where the heap of a static PIE starts when ASLR is off: `ELF_ET_DYN_BASE` (two thirds of the user
/// half) rounded up to a page. Its own end is in the mmap area, where a heap could not grow.
const PIE_HEAP: VirtAddr = VirtAddr::new((TASK_SIZE / 3 * 2).next_multiple_of(PAGE_SIZE));

/// Whether the stack may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackAccess {
    /// Read and write: everything built in this century.
    ReadWrite,
    /// Read, write and execute: `PT_GNU_STACK` has the X flag.
    Executable,
}

/// One private mapping to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Pages of the file.
    File {
        /// Which pages.
        range: PageRange,
        /// What the program may do there.
        prot: ProtFlags,
        /// The file offset of the first page, in bytes, page-aligned.
        offset: u64,
        /// From here to the end of `range` the bytes are to be zeroed, in the program's private copy
        /// (`padzero`): what follows the segment's bytes in the file's last page is not the
        /// program's. `None` where the segment ends in a whole page, has no zero part (the rest of the
        /// page then is the file's) or is not writable (Linux cannot clear it and goes on).
        zero_from: Option<VirtAddr>,
    },
    /// Zero pages past those of the file: the rest of `.bss` (`vm_brk_flags`).
    Anonymous {
        /// Which pages.
        range: PageRange,
        /// Read and write whatever the segment says, and execute if it says so.
        prot: ProtFlags,
    },
}

impl Mapping {
    /// Which pages it covers.
    #[must_use]
    pub fn range(&self) -> PageRange {
        match *self {
            Mapping::File { range, .. } | Mapping::Anonymous { range, .. } => range,
        }
    }
}

/// A program at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// What to map, by ascending address, no two overlapping.
    pub mappings: Vec<Mapping>,
    /// The first instruction (`AT_ENTRY`).
    pub entry: VirtAddr,
    /// The program headers in memory (`AT_PHDR`).
    pub program_headers: VirtAddr,
    /// How many program headers (`AT_PHNUM`).
    pub header_count: u16,
    /// Where the heap starts, page-aligned (`start_brk` and `brk`): after the highest segment, or for a
    /// static PIE far from it, at 0x555555555000.
    pub start_brk: VirtAddr,
    /// The lowest address of an executable segment (`start_code`).
    pub start_code: VirtAddr,
    /// The end of the highest executable segment's bytes in the file (`end_code`).
    pub end_code: VirtAddr,
    /// The address of the highest segment (`start_data`).
    pub start_data: VirtAddr,
    /// The end of the highest segment's bytes in the file (`end_data`). `RLIMIT_DATA` counts
    /// `end_data - start_data` against the heap.
    pub end_data: VirtAddr,
    /// Whether the stack may be executed.
    pub stack: StackAccess,
}

impl Layout {
    /// Bytes of one program header (`AT_PHENT`).
    pub const HEADER_SIZE: u64 = 56;
}

impl Elf {
    /// The program with its first page at `start`. For a fixed program that is its own
    /// [`Placement::Fixed`] address; for a static PIE what the mapper chose, and the load bias is
    /// `start` minus the link address of the first page.
    ///
    /// # Errors
    /// [`LoadError::Place`] where `start` is not page-aligned, below `vm.mmap_min_addr`, too high
    /// for the program's size, or not where a fixed program belongs.
    pub fn at(&self, start: VirtAddr) -> Result<Layout, LoadError> {
        let refuse = |why| LoadError::Place { start: start.get(), why };
        let linked = match (self.placement(), self.segments().first()) {
            (Placement::Fixed(fixed), _) if fixed != start => {
                return Err(refuse("it was linked for another address"));
            }
            (_, None) => return Err(LoadError::NothingToLoad),
            (_, Some(first)) => first.pages.start(),
        };
        if !start.is_page_aligned() {
            return Err(refuse("that is not the start of a page"));
        }
        if start.get() < LoadError::MIN_ADDRESS {
            return Err(refuse("that is below the lowest address a program may map"));
        }
        let move_by = Bias(start.get().wrapping_sub(linked.get()));
        let mut mappings = Vec::new();
        for segment in self.segments() {
            let pages =
                move_by.range(segment.pages).ok_or(refuse("its end is past the user half"))?;
            push_mappings(&mut mappings, segment, pages, move_by);
        }

        let code = || self.segments().iter().filter(|s| s.prot.contains(ProtFlags::PROT_EXEC));
        let file_end = |s: &Segment| s.address + s.file_size;
        let place = |link: Option<u64>| move_by.address(link.unwrap_or(0));
        let end = place(self.segments().iter().map(Segment::end).max());
        let start_brk = match self.placement() {
            Placement::Fixed(_) => {
                end.page_ceil().ok_or(refuse("its end is past the user half"))?
            }
            Placement::Anywhere { .. } => PIE_HEAP,
        };
        Ok(Layout {
            mappings,
            entry: move_by.address(self.entry()),
            program_headers: move_by.address(self.program_headers()),
            header_count: self.header_count(),
            start_brk,
            start_code: place(code().map(|s| s.address).min()),
            end_code: place(code().map(file_end).max()),
            start_data: place(self.segments().iter().map(|s| s.address).max()),
            end_data: place(self.segments().iter().map(file_end).max()),
            stack: self.stack(),
        })
    }
}

/// Linux's `load_bias`: what is added, modulo 2^64, to a link address.
#[derive(Clone, Copy)]
struct Bias(u64);

impl Bias {
    fn address(self, link: u64) -> VirtAddr {
        VirtAddr::new(link.wrapping_add(self.0))
    }

    fn range(self, link: PageRange) -> Option<PageRange> {
        let start = self.address(link.start().get());
        PageRange::new(start, start.checked_add(link.len())?)
    }
}

/// One segment's mappings (`elf_load`).
///
/// ```text
///     page      page      page      page
///     |.........|.........|.........|.........|
///        ^ address      ^ + file_size     ^ + mem_size
///     |<------ File ----+-->|<-- Anonymous -->|
///                       |<->| zero_from: cleared in the private copy
/// ```
fn push_mappings(to: &mut Vec<Mapping>, segment: &Segment, pages: PageRange, move_by: Bias) {
    let file_end = move_by.address(segment.address + segment.file_size);
    // At least the segment's first page, at most all of its pages.
    let split = match file_end.page_ceil() {
        Some(end) if segment.file_size != 0 => end,
        _ => pages.start(),
    };
    if let Some(range) = PageRange::new(pages.start(), split) {
        let has_zero_part = segment.mem_size > segment.file_size && !file_end.is_page_aligned();
        let writable = segment.prot.contains(ProtFlags::PROT_WRITE);
        to.push(Mapping::File {
            range,
            prot: segment.prot,
            offset: segment.offset - segment.offset % PAGE_SIZE,
            zero_from: (has_zero_part && writable).then_some(file_end),
        });
    }
    if let Some(range) = PageRange::new(split, pages.end()) {
        let executable = segment.prot & ProtFlags::PROT_EXEC;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | executable;
        to.push(Mapping::Anonymous { range, prot });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Image;
    use super::super::fixture::{Builder, Waiting, host_is_reference};
    use super::*;
    use linux_loader::elf as abi;
    use std::path::Path;

    const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(VirtAddr::new(start), VirtAddr::new(end)).unwrap()
    }

    #[test]
    fn bss_clears_the_rest_of_the_last_file_page_and_goes_on_in_anonymous_ones() {
        let elf = Elf::from_bytes(&Builder::fixed().bytes()).unwrap();
        let layout = elf.at(VirtAddr::new(0x40_0000)).unwrap();
        let rx = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
        assert_eq!(
            layout.mappings,
            [
                Mapping::File {
                    range: range(0x40_0000, 0x40_1000),
                    prot: rx,
                    offset: 0,
                    zero_from: None
                },
                Mapping::File {
                    range: range(0x40_1000, 0x40_2000),
                    prot: RW,
                    offset: 0,
                    zero_from: Some(VirtAddr::new(0x40_1f80)),
                },
                Mapping::Anonymous { range: range(0x40_2000, 0x40_4000), prot: RW },
            ]
        );
        assert_eq!(layout.start_brk, VirtAddr::new(0x40_4000));
        assert_eq!((layout.start_code.get(), layout.end_code.get()), (0x40_0000, 0x40_0800));
        assert_eq!((layout.start_data.get(), layout.end_data.get()), (0x40_1f00, 0x40_1f80));
    }

    #[test]
    fn a_read_only_segment_keeps_the_file_s_bytes_behind_its_own_as_linux_cannot_clear_them() {
        let mut builder = Builder::fixed();
        builder.segments[1].p_flags = abi::PF_R;
        let elf = Elf::from_bytes(&builder.bytes()).unwrap();
        let layout = elf.at(VirtAddr::new(0x40_0000)).unwrap();
        assert!(matches!(layout.mappings[1], Mapping::File { zero_from: None, .. }));
        assert!(matches!(layout.mappings[2], Mapping::Anonymous { prot: RW, .. }));
    }

    #[test]
    fn a_segment_without_file_bytes_is_anonymous_from_its_first_page() {
        let mut builder = Builder::fixed();
        builder.segments[1].p_filesz = 0;
        builder.segments[1].p_flags = abi::PF_R | abi::PF_W | abi::PF_X;
        let elf = Elf::from_bytes(&builder.bytes()).unwrap();
        let layout = elf.at(VirtAddr::new(0x40_0000)).unwrap();
        let anonymous = Mapping::Anonymous {
            range: range(0x40_1000, 0x40_4000),
            prot: RW | ProtFlags::PROT_EXEC,
        };
        assert_eq!(layout.mappings[1..], [anonymous]);
    }

    #[test]
    fn a_static_pie_moves_whole_and_its_heap_is_at_0x555555555000() {
        let elf = Elf::from_bytes(&Builder::position_independent().bytes()).unwrap();
        let start = VirtAddr::new(0x7fff_f7ff_b000);
        let layout = elf.at(start).unwrap();
        assert_eq!(layout.mappings[0].range(), range(0x7fff_f7ff_b000, 0x7fff_f7ff_c000));
        assert_eq!(layout.mappings[2].range(), range(0x7fff_f7ff_d000, 0x7fff_f7ff_f000));
        assert_eq!(layout.entry, start.offset(0x100));
        assert_eq!(layout.program_headers, start.offset(0x40));
        assert_eq!(layout.start_brk, VirtAddr::new(0x5555_5555_5000));
    }

    #[test]
    fn a_place_that_does_not_fit_is_refused() {
        let fixed = Elf::from_bytes(&Builder::fixed().bytes()).unwrap();
        assert!(matches!(fixed.at(VirtAddr::new(0x50_0000)), Err(LoadError::Place { .. })));
        let pie = Elf::from_bytes(&Builder::position_independent().bytes()).unwrap();
        for start in [0, 0x1001, 0x7fff_ffff_c000, 0xffff_ffff_ffff_f000] {
            assert!(
                matches!(pie.at(VirtAddr::new(start)), Err(LoadError::Place { .. })),
                "{start:#x}"
            );
        }
        assert!(pie.at(VirtAddr::new(0x7fff_ffff_b000)).is_ok());
    }

    /// Compares what the host kernel made of a program with a layout: the mapped pages of the file with
    /// their offsets, the addresses in the auxiliary vector, the heap's start. Protections are left
    /// out: the program has changed them by now (RELRO).
    fn compare_with_host(program: &str, arguments: &[&str]) {
        let path = std::fs::canonicalize(program).unwrap();
        let path = path.to_str().unwrap();
        let command: Vec<_> = [path].iter().chain(arguments).copied().collect();
        let Some(host) = Waiting::start(&command, &[]) else {
            return;
        };
        let maps = String::from_utf8(host.read("maps")).unwrap();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let mut pages = Vec::new();
        let mut heap = None;
        for line in maps.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (start, end) = fields[0].split_once('-').unwrap();
            if fields.get(5) == Some(&path) {
                let offset = hex(fields[2]);
                let range = hex(start)..hex(end);
                pages.extend(range.step_by(4096).zip((offset..).step_by(4096)));
            } else if fields.get(5) == Some(&"[heap]") {
                heap = Some(hex(start));
            }
        }

        let elf = Image::open_any(Path::new(path)).unwrap().elf;
        let start = match elf.placement() {
            Placement::Fixed(start) => start,
            Placement::Anywhere { alignment, .. } => {
                assert_eq!(pages[0].0 % alignment, 0);
                VirtAddr::new(pages[0].0)
            }
        };
        let layout = elf.at(start).unwrap();
        let mut ours = Vec::new();
        for mapping in &layout.mappings {
            if let Mapping::File { range, offset, .. } = mapping {
                let addresses = range.start().get()..range.end().get();
                ours.extend(addresses.step_by(4096).zip((*offset..).step_by(4096)));
            }
        }
        assert_eq!(ours, pages, "{maps}");
        let auxv = host.auxv();
        let value = |key| auxv.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        assert_eq!(value(nix::libc::AT_ENTRY), Some(layout.entry.get()));
        assert_eq!(value(nix::libc::AT_PHDR), Some(layout.program_headers.get()));
        assert_eq!(value(nix::libc::AT_PHNUM), Some(u64::from(layout.header_count)));
        if host_is_reference() {
            assert_eq!(heap, Some(layout.start_brk.get()), "{maps}");
        } else {
            eprintln!("skipped: this kernel is not the one whose heap placement is the rule");
        }
        let fields = [
            (26, layout.start_code),
            (27, layout.end_code),
            (45, layout.start_data),
            (46, layout.end_data),
        ];
        for (field, ours) in fields {
            assert_eq!(host.stat(field), ours.get(), "field {field} of /proc/PID/stat");
        }
    }

    #[test]
    fn a_fixed_program_is_laid_out_as_the_host_kernel_does() {
        if Path::new("/bin/busybox").exists() && Image::open(Path::new("/bin/busybox")).is_ok() {
            compare_with_host("/bin/busybox", &["cat"]);
        } else {
            eprintln!("skipped: there is no static /bin/busybox on this machine");
        }
    }

    #[test]
    fn a_program_with_an_interpreter_is_laid_out_as_the_host_kernel_does() {
        compare_with_host("/bin/cat", &[]);
    }

    #[test]
    fn a_static_pie_is_laid_out_as_the_host_kernel_does() {
        // The dynamic linker is one, and there is always one.
        compare_with_host("/lib64/ld-linux-x86-64.so.2", &["/bin/cat"]);
    }
}
