//! A core file's bytes: headers, notes, and the pages that there are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mm::addr::{PAGE_BYTES, PAGE_SIZE, PageRange, VirtAddr};
use mm::inspect::{CoreSegment, core_pages};
use mm::space::SharedSpace;
use mm::vma::VmFlags;

/// Bytes of the file's header, of a program header, of a section header.
const FILE_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const SECTION_HEADER: u16 = 64;
/// So many program headers are told elsewhere (`PN_XNUM`).
const MANY: usize = 0xffff;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// How many pages of files that are in no page table are looked at: who has mapped endless files does not keep
/// mmvisor busy for ever. The others read as zeros.
const MOST_FILE_PAGES: u64 = 1 << 18;

/// A file that grows, sparsely, up to a limit of bytes written (`RLIMIT_CORE`).
struct Sink<'a> {
    file: &'a File,
    left: u64,
}

impl Sink<'_> {
    /// Says whether there was room, also within the largest file that the host has.
    fn put(&mut self, bytes: &[u8], at: u64) -> io::Result<bool> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else { return Ok(false) };
        match self.file.write_all_at(bytes, at) {
            Ok(()) => self.left = left,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Writes it. What `limit` cuts off is a hole at its end.
pub(super) fn write(
    file: &File,
    space: &SharedSpace,
    segments: &[CoreSegment],
    notes: &[u8],
    limit: u64,
) -> io::Result<()> {
    let count = segments.len() + 1;
    let headers = u64::from(FILE_HEADER) + u64::from(PROGRAM_HEADER) * count as u64;
    let data = (headers + notes.len() as u64).next_multiple_of(PAGE_SIZE);
    let sections = data + segments.iter().map(|segment| segment.dumped).sum::<u64>();
    let many = count >= MANY;

    let mut head = header(count, if many { sections } else { 0 });
    program(&mut head, PT_NOTE, 0, headers, 0, [notes.len() as u64, 0], 4);
    let mut at = data;
    for segment in segments {
        let (range, dumped) = (segment.line.range, segment.dumped);
        let sizes = [dumped, range.len()];
        program(
            &mut head,
            PT_LOAD,
            rights(segment.line.flags),
            at,
            range.start().get(),
            sizes,
            PAGE_SIZE,
        );
        at += dumped;
    }
    head.extend(notes);
    let mut sink = Sink { file, left: limit };
    if !sink.put(&head, 0)? {
        return Ok(());
    }
    // As long as it would be without holes, if the host has so long ones.
    let _ = file.set_len(sections);
    let mut at = data;
    let mut of_files = MOST_FILE_PAGES;
    for segment in segments {
        if !pages(&mut sink, space, segment, at, &mut of_files)? {
            return Ok(());
        }
        at += segment.dumped;
    }
    if many {
        let mut section = [0; SECTION_HEADER as usize];
        // sh_size, the sections, and sh_info, the program headers.
        section[32] = 1;
        section[44..48].copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        sink.put(&section, sections)?;
    }
    Ok(())
}

/// The file's header.
fn header(count: usize, sections: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    // A core file, x86-64, version 1; no entry.
    header.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    header.extend([0; 8]);
    header.extend(u64::from(FILE_HEADER).to_le_bytes());
    header.extend(sections.to_le_bytes());
    let sizes = if sections == 0 { [0, 0] } else { [SECTION_HEADER, 1] };
    let count = u16::try_from(count.min(MANY)).unwrap_or(u16::MAX);
    let last = [0, 0, FILE_HEADER, PROGRAM_HEADER, count, sizes[0], sizes[1], 0];
    header.extend(last.iter().flat_map(|half| half.to_le_bytes()));
    header
}

/// A program header; the sizes are those in the file and in memory.
fn program(
    head: &mut Vec<u8>,
    kind: u32,
    flags: u32,
    offset: u64,
    addr: u64,
    [in_file, in_memory]: [u64; 2],
    align: u64,
) {
    head.extend(kind.to_le_bytes());
    head.extend(flags.to_le_bytes());
    for word in [offset, addr, 0, in_file, in_memory, align] {
        head.extend(word.to_le_bytes());
    }
}

fn rights(flags: VmFlags) -> u32 {
    let of = |flag, bit| if flags.contains(flag) { bit } else { 0 };
    of(VmFlags::READ, 4) | of(VmFlags::WRITE, 2) | of(VmFlags::EXEC, 1)
}

/// The bytes of a segment, from `at` in the file on. Says whether there was room.
fn pages(
    sink: &mut Sink<'_>,
    space: &SharedSpace,
    segment: &CoreSegment,
    at: u64,
    of_files: &mut u64,
) -> io::Result<bool> {
    let start = segment.start();
    let Some(range) = PageRange::from_len(start, segment.dumped) else { return Ok(true) };
    let place = |addr: VirtAddr| at + addr.bytes_from(start);
    let mut next = start;
    let runs = core_pages(&space.look(), range);
    for run in runs {
        if !of_file(sink, segment, next, run.start(), of_files, place)? {
            return Ok(false);
        }
        let mut addr = run.start();
        while addr < run.end() {
            let mut page = [0; PAGE_BYTES];
            // What is not there is zeros; what is broken is told as the process ends.
            let count = space.read_forced(addr, &mut page).unwrap_or(0);
            if count > 0 && page != [0; PAGE_BYTES] && !sink.put(&page, place(addr))? {
                return Ok(false);
            }
            addr = addr.offset(PAGE_SIZE);
        }
        next = run.end();
    }
    of_file(sink, segment, next, range.end(), of_files, place)
}

/// Pages that no entry names: what the file has, if it is one.
fn of_file(
    sink: &mut Sink<'_>,
    segment: &CoreSegment,
    from: VirtAddr,
    to: VirtAddr,
    left: &mut u64,
    place: impl Fn(VirtAddr) -> u64,
) -> io::Result<bool> {
    let Some(backing) = &segment.backing else { return Ok(true) };
    let mut addr = from;
    while addr < to && *left > 0 {
        let mut page = [0; PAGE_BYTES];
        let offset = segment.line.offset.saturating_add(addr.bytes_from(segment.start()));
        if backing.read_file(offset, &mut page) == 0 {
            break;
        }
        if page != [0; PAGE_BYTES] && !sink.put(&page, place(addr))? {
            return Ok(false);
        }
        *left -= 1;
        addr = addr.offset(PAGE_SIZE);
    }
    Ok(true)
}
