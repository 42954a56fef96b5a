//! Bringing a program into a fresh address space (Linux's `load_elf_binary`).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use mm::addr::{PageRange, VirtAddr};
use mm::backing::{Backing, BackingName, FileBacking, FileSource};
use mm::error::{AccessError, CallError};
use mm::phys::AllocError;
use mm::space::{AddressSpace, Exec, MapRequest, SharedSpace};
use mm::vma::limits::Limits;
use mm::vma::{MapFlags, MapType, Prot};
use nix::sys::mman::ProtFlags;

use crate::load::{
    Aux, Image, InitialStack, Layout, LoadError, Mapping, Placement, StackAccess, StackInputs,
};
use crate::machine::Machine;

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The file is not a program that can be run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its memory could not be mapped.
    #[error("cannot map the program's memory: {0}; a larger --mem may help")]
    Map(#[from] CallError),
    /// Its memory could not be written.
    #[error("cannot fill the program's memory: {0}; a larger --mem may help")]
    Fill(#[from] AccessError),
    /// There was no memory for the page table.
    #[error("cannot make an address space: {0}")]
    Space(#[from] AllocError),
    /// The host's randomness failed.
    #[error("cannot get random bytes from the host: {0}")]
    Random(#[source] io::Error),
}

/// A program in memory, ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// Its address space.
    pub space: SharedSpace,
    /// The first instruction.
    pub entry: VirtAddr,
    /// The first stack pointer.
    pub stack: VirtAddr,
}

/// Loads a program into a fresh address space.
///
/// # Errors
/// [`ExecError`]; nothing is left behind.
pub fn exec(
    machine: &Machine,
    image: &Image,
    path: &Path,
    argv: &[CString],
    envp: &[CString],
) -> Result<Loaded, ExecError> {
    let limits = Limits::default();
    let mut space = AddressSpace::new(Arc::clone(machine.system()), limits)?;
    let backing = backing(machine, image, path)?;
    let layout = place(&space, image, &backing)?;
    for mapping in &layout.mappings {
        map(&mut space, mapping, &backing)?;
    }
    let execfn = argv.first().cloned().unwrap_or_default();
    let stack = InitialStack::build(&StackInputs {
        top: VirtAddr::TASK_END,
        stack_limit: limits.stack.soft,
        execfn: &execfn,
        argv,
        envp,
        aux: aux(&layout)?,
    })?;
    let exec = match layout.stack {
        StackAccess::ReadWrite => Exec::Forbidden,
        StackAccess::Executable => Exec::Allowed,
    };
    space.map_stack(VirtAddr::TASK_END, stack.bytes.len() as u64, exec)?;
    space.set_start_stack(stack.start);
    space.set_start_brk(layout.start_brk);
    space.set_code(layout.start_code..layout.end_code);
    space.set_data(layout.start_data..layout.end_data);
    space.set_strings(stack.arg_start..stack.arg_end, stack.env_start..stack.env_end);
    space.set_auxv(stack.auxv.iter().flat_map(|&(key, value)| [key, value]).collect());
    let space = SharedSpace::new(space);
    for mapping in &layout.mappings {
        clear_tail(&space, mapping)?;
    }
    space.write(stack.start, &stack.bytes)?;
    Ok(Loaded { space, entry: layout.entry, stack: stack.start })
}

/// Decides where the program goes.
fn place(
    space: &AddressSpace,
    image: &Image,
    file: &Arc<dyn Backing>,
) -> Result<Layout, ExecError> {
    let start = match image.elf.placement() {
        Placement::Fixed(start) => start,
        Placement::Anywhere { size, alignment } => {
            let at = space.free_area(file, size)?;
            VirtAddr::new(at.get() - at.get() % alignment)
        }
    };
    Ok(image.elf.at(start)?)
}

fn map(
    space: &mut AddressSpace,
    mapping: &Mapping,
    backing: &Arc<dyn Backing>,
) -> Result<(), ExecError> {
    let (range, prot, file, offset): (PageRange, ProtFlags, _, u64) = match *mapping {
        Mapping::File { range, prot, offset, .. } => {
            (range, prot, Some(Arc::clone(backing)), offset)
        }
        Mapping::Anonymous { range, prot } => (range, prot, None, 0),
    };
    space.mmap(&MapRequest {
        addr: range.start(),
        len: range.len(),
        prot: Prot::from_bits_truncate(u64::try_from(prot.bits()).unwrap_or(0)),
        flags: MapFlags::FIXED_NOREPLACE | MapType::Private.into(),
        file,
        offset,
    })?;
    Ok(())
}

/// Clears what follows a segment's bytes in its last file page.
fn clear_tail(space: &SharedSpace, mapping: &Mapping) -> Result<(), AccessError> {
    let Mapping::File { range, zero_from: Some(from), .. } = *mapping else { return Ok(()) };
    let zeros = [0; mm::addr::PAGE_BYTES];
    let len = usize::try_from(range.end().bytes_from(from)).unwrap_or(0).min(zeros.len());
    space.write(from, &zeros[..len])
}

fn aux(layout: &Layout) -> Result<Aux, ExecError> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| ExecError::Random(errno.into()))?;
    let (hwcap, hwcap2) = rustix::param::linux_hwcap();
    Ok(Aux::of(layout, hwcap as u64, hwcap2 as u64, random))
}

fn backing(machine: &Machine, image: &Image, path: &Path) -> Result<Arc<dyn Backing>, ExecError> {
    let metadata = image.file.metadata().map_err(LoadError::Read)?;
    let device = metadata.dev();
    let name = BackingName {
        major: rustix::fs::major(device),
        minor: rustix::fs::minor(device),
        inode: metadata.ino(),
        path: path.display().to_string(),
    };
    let frames = Arc::clone(machine.system().frames());
    Ok(Arc::new(FileBacking::new(frames, HostFile(Arc::clone(&image.file)), name)))
}

/// An open file of the host.
#[derive(Debug)]
struct HostFile(Arc<File>);

impl FileSource for HostFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        into[done..].fill(0);
        Ok(done)
    }
}
