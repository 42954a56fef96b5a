//! What Linux says about the process's memory: PROCMAP_QUERY, smaps and status.

use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::memory::PAGE;
use guest::proc::{CHUNK, close, kib, lines, open, range};
use guest::script::{Kind, Name, SIZES, Vma};

use crate::area::Sheet;

/// `struct procmap_query` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    addr: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// The VMA that holds the address, or else the next one.
const COVERING_OR_NEXT: u64 = 0x10;
/// `_IOWR('f', 17, struct procmap_query)`
const PROCMAP_QUERY: u64 =
    0xc000_0000 | (size_of::<Query>() as u64) << 16 | (b'f' as u64) << 8 | 17;

/// Bytes of a page's word in pagemap.
const WORD: u64 = 8;

/// Bytes of a name that are asked for. Longer names are files'.
const NAME: u32 = 128;

/// What a process looks at its memory with.
#[derive(Debug)]
pub(crate) struct Inspector {
    /// /proc/self/maps.
    maps: Option<u64>,
}

impl Inspector {
    /// Nothing is open yet.
    pub(crate) fn new() -> Self {
        Inspector { maps: None }
    }

    /// Closes what is open.
    pub(crate) fn close(&mut self) {
        if let Some(file) = self.maps.take() {
            close(file);
        }
    }

    /// Answers with the VMAs that have an address in the range.
    pub(crate) fn vmas(&mut self, start: u64, end: u64) {
        let mut sheet = Sheet::begin();
        match self.list(start, end, &mut sheet) {
            Ok(()) => sheet.finish(Kind::Vmas),
            Err(error) => fail(error),
        }
    }

    fn list(&mut self, start: u64, end: u64, sheet: &mut Sheet) -> Result<(), Errno> {
        let file = match self.maps {
            Some(file) => file,
            None => *self.maps.insert(open(c"/proc/self/maps")?),
        };
        let mut addr = start;
        while let Some(vma) = query(file, addr)?.filter(|vma| vma.start < end) {
            for word in vma.words() {
                sheet.word(word);
            }
            addr = vma.end;
        }
        Ok(())
    }

    /// Answers with the VmFlags and sizes of the VMAs that have an address in the range.
    pub(crate) fn vm_flags(start: u64, end: u64) {
        let mut sheet = Sheet::begin();
        let mut vma = None;
        let mut sizes = [0; SIZES.len()];
        let read = lines(c"/proc/self/smaps", |line| {
            if let Some(range) = range(line) {
                vma = Some(range);
                return;
            }
            for (size, name) in sizes.iter_mut().zip(SIZES) {
                if let Some(value) = kib(line, name) {
                    *size = value;
                }
            }
            let (Some(flags), Some((from, to))) = (line.strip_prefix(b"VmFlags:"), vma) else {
                return;
            };
            if from < end && to > start {
                let flags = flags.trim_ascii();
                sheet.word(from);
                sheet.word(to);
                for size in sizes {
                    sheet.word(size);
                }
                sheet.word(flags.len() as u64);
                sheet.bytes(flags);
            }
        });
        match read {
            Ok(()) => sheet.finish(Kind::Flags),
            Err(error) => fail(error),
        }
    }

    /// Answers with the words of /proc/self/pagemap of a range's pages; those that are missing are 0.
    pub(crate) fn pagemap(start: u64, end: u64) {
        let file = match open(c"/proc/self/pagemap") {
            Ok(file) => file,
            Err(error) => return fail(error),
        };
        let words = end.saturating_sub(start) / PAGE;
        let length = words * WORD;
        let mut sheet = Sheet::begin();
        sheet.word(length);
        let to = sheet.zeros(length);
        // SAFETY: the call writes to the sheet, as far as there was room for.
        let read = unsafe { syscall(number::PREAD64, [file, to, length, start / PAGE * WORD]) };
        close(file);
        match read {
            Ok(_) => sheet.finish(Kind::Pagemap),
            Err(error) => fail(error),
        }
    }

    /// Answers with the lines of /proc/self/status about memory.
    pub(crate) fn status() {
        let mut text = [0; CHUNK];
        let mut length = 0;
        let read = lines(c"/proc/self/status", |line| {
            let end = length + line.len();
            if !(line.starts_with(b"Vm") || line.starts_with(b"Rss")) {
                return;
            }
            if let Some([to @ .., newline]) = text.get_mut(length..=end) {
                to.copy_from_slice(line);
                *newline = b'\n';
                length = end + 1;
            }
        });
        if let Err(error) = read {
            return fail(error);
        }
        let mut sheet = Sheet::begin();
        sheet.word(length as u64);
        sheet.bytes(text.get(..length).unwrap_or(&[]));
        sheet.finish(Kind::Text);
    }
}

fn fail(error: Errno) {
    let mut sheet = Sheet::begin();
    sheet.word(error.0.into());
    sheet.finish(Kind::Error);
}

/// The VMA that holds the address, or else the next one; `None` if there is none.
fn query(file: u64, addr: u64) -> Result<Option<Vma>, Errno> {
    let mut name = [0_u8; NAME as usize];
    let mut asked = Query {
        size: size_of::<Query>() as u64,
        flags: COVERING_OR_NEXT,
        addr,
        name_size: NAME,
        name: name.as_mut_ptr() as u64,
        ..Query::default()
    };
    let ioctl = |asked: &mut Query| {
        let args = [file, PROCMAP_QUERY, core::ptr::from_mut(asked) as u64];
        // SAFETY: writes to the query, and to the name, as far as the query says.
        unsafe { syscall(number::IOCTL, args) }
    };
    let mut answered = ioctl(&mut asked);
    let mut long = false;
    if answered == Err(Errno::ENAMETOOLONG) {
        long = true;
        asked.name_size = 0;
        asked.name = 0;
        answered = ioctl(&mut asked);
    }
    match answered {
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    // With the zero that ends it.
    let length = (asked.name_size as usize).saturating_sub(1);
    Ok(Some(Vma {
        start: asked.start,
        end: asked.end,
        offset: asked.offset,
        inode: asked.inode,
        flags: asked.vma_flags.to_le_bytes()[0],
        name: if long { Name::Path } else { Name::of(name.get(..length).unwrap_or(&[])) },
        device: asked.major << 20 | asked.minor,
    }))
}
