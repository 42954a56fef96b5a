//! Runs a program whose code and constants come out of a compressed file: each page is decompressed when it is first
//! touched, and may be dropped and decompressed again.
//!
//! ```text
//! cargo run --example compressed PROGRAM [ARGS]...
//! ```
//!
//! The program's file is compressed first, in blocks of 16 KiB by themselves, so that a page can be had without what
//! comes before it.

#![allow(unreachable_pub, reason = "an example is a crate of its own")]

mod support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mm::addr::{PAGE_BYTES, PAGE_SIZE};
use mm::backing::{PageBytes, PagedMemory, Pager};
use mm::space::{MapRequest, SharedSpace};
use mm::vma::{MapFlags, MapType, Prot};
use support::{Outcome, Program, end};

/// Bytes that are compressed together.
const BLOCK: usize = 4 * PAGE_BYTES;
/// The guest's memory, in bytes.
const MEMORY: u64 = 16 << 20;

/// A file of blocks, each compressed by itself.
struct Compressed {
    file: File,
    /// Where each block begins, and where the last one ends.
    starts: Vec<u64>,
    /// Of what was compressed.
    len: u64,
}

impl Compressed {
    /// Compresses some bytes into a file that has no name.
    fn new(bytes: &[u8]) -> io::Result<Self> {
        let name = rustix::fs::memfd_create("compressed", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = File::from(name);
        let mut starts = vec![0];
        let mut at = 0;
        for block in bytes.chunks(BLOCK) {
            let packed = lz4_flex::compress_prepend_size(block);
            file.write_all(&packed)?;
            at += packed.len() as u64;
            starts.push(at);
        }
        Ok(Compressed { file, starts, len: bytes.len() as u64 })
    }

    /// The page at an offset in what was compressed.
    fn page(&self, offset: u64, into: &mut PageBytes) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let block = offset / BLOCK;
        let &[start, end] = self.starts.get(block..block + 2).unwrap_or_default() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut packed = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut packed, start)?;
        let bytes = lz4_flex::decompress_size_prepended(&packed).map_err(io::Error::other)?;
        let page = bytes.get(offset % BLOCK..).unwrap_or_default();
        // The rest of the file's last page is zeros.
        let len = page.len().min(PAGE_BYTES);
        into[..len].copy_from_slice(&page[..len]);
        Ok(())
    }
}

fn main() -> ExitCode {
    end(run(&std::env::args().skip(1).collect::<Vec<_>>()))
}

fn run(arguments: &[String]) -> Outcome<ExitCode> {
    let path = arguments.first().ok_or("usage: compressed PROGRAM [ARGS]...")?;
    let compressed = Arc::new(Compressed::new(&fs::read(path)?)?);
    let packed = compressed.starts.last().copied().unwrap_or(0);
    let program = Program::load(arguments, MEMORY)?;

    let filled = Arc::new(AtomicU64::new(0));
    let (source, count) = (Arc::clone(&compressed), Arc::clone(&filled));
    let pager = Pager::new(path.as_str(), compressed.len, move |offset, page| {
        count.fetch_add(1, Ordering::Relaxed);
        source.page(offset, page)
    });
    let memory = pager.open(program.machine.system());
    let replaced = replace(&program.task.process().space, &memory)?;
    let status = program.run()?;
    eprintln!(
        "{replaced} pages of {path} came from {packed} compressed bytes of {}; decompressed: {}",
        compressed.len,
        filled.load(Ordering::Relaxed)
    );
    Ok(status)
}

/// Puts the pager's memory where the program's file is mapped and cannot be written; says how many pages.
fn replace(space: &SharedSpace, memory: &PagedMemory) -> Outcome<u64> {
    let mut requests = Vec::new();
    for vma in space.look().vmas().iter() {
        let prot = vma.flags.prot();
        if vma.backing.is_none() || prot.contains(Prot::WRITE) {
            continue;
        }
        requests.push(MapRequest {
            addr: vma.range().start(),
            len: vma.range().len(),
            prot,
            flags: MapFlags::FIXED | MapType::Private.into(),
            file: Some(memory.backing()),
            offset: vma.pgoff * PAGE_SIZE,
        });
    }
    for request in &requests {
        space.change().mmap(request)?;
    }
    Ok(requests.iter().map(|request| request.len / PAGE_SIZE).sum())
}
