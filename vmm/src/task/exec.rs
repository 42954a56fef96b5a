//! Bringing a program into a fresh address space (Linux's `load_elf_binary`).

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use mm::addr::{PageRange, VirtAddr};
use mm::backing::{Backing, BackingName, FileBacking, FileSource};
use mm::error::{AccessError, CallError};
use mm::phys::AllocError;
use mm::space::{AddressSpace, Exec, MapRequest, SharedSpace, SpaceUser};
use mm::system::System;
use mm::vma::limits::Limits;
use mm::vma::{Aslr, MapFlags, MapType, Prot};
use nix::sys::mman::ProtFlags;

use super::signals::{frame_bytes, largest};
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

/// How a program is started, beside its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Launch {
    /// Its personality(2).
    pub personality: u32,
    /// Where its parts are moved; ignored under `ADDR_NO_RANDOMIZE`.
    pub aslr: Aslr,
    /// The most bytes that a signal frame takes, as it is told; `None` for nothing.
    pub signal_frame: Option<u64>,
    /// Whose it is: the real and the effective user, and group.
    pub ids: [u32; 4],
}

impl Launch {
    /// As by default, on a vCPU of this machine.
    #[must_use]
    pub fn on(machine: &Machine) -> Self {
        let signal_frame = Some(largest(frame_bytes(machine.xsave_layout())));
        Launch { signal_frame, ..Launch::default() }
    }
}

/// `ADDR_NO_RANDOMIZE` of personality(2).
const ADDR_NO_RANDOMIZE: u32 = nix::libc::ADDR_NO_RANDOMIZE as u32;

/// A program in memory, ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// Its address space.
    pub space: SpaceUser,
    /// The first instruction.
    pub entry: VirtAddr,
    /// The first stack pointer.
    pub stack: VirtAddr,
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The file.
    pub image: &'a Image,
    /// Where that is: what maps call it.
    pub path: &'a Path,
    /// What it was called by (`AT_EXECFN`).
    pub name: &'a CStr,
    /// Its arguments.
    pub argv: &'a [CString],
    /// Its environment.
    pub envp: &'a [CString],
}

/// Loads a program into a fresh address space of `system`.
///
/// # Errors
/// [`ExecError`]; nothing is left behind.
pub fn exec(
    system: &Arc<System>,
    image: &Image,
    path: &Path,
    argv: &[CString],
    envp: &[CString],
    launch: &Launch,
) -> Result<Loaded, ExecError> {
    let space = AddressSpace::new(Arc::clone(system), Limits::default())?;
    let name = argv.first().map_or(c"", |name| name.as_c_str());
    exec_in(space, &Program { image, path, name, argv, envp }, launch)
}

/// Loads a program into an empty address space.
///
/// # Errors
/// [`ExecError`]; nothing is left behind.
pub fn exec_in(
    space: AddressSpace,
    program: &Program<'_>,
    launch: &Launch,
) -> Result<Loaded, ExecError> {
    let space = SpaceUser::new(space);
    match load(&space, program, launch) {
        Ok(Start { entry, stack }) => Ok(Loaded { space, entry, stack }),
        Err(error) => {
            if let Err(broken) = space.put() {
                let path = program.path.display();
                log::error!("what was mapped of {path} cannot be given up: {broken}");
            }
            Err(error)
        }
    }
}

/// Where a program starts.
struct Start {
    entry: VirtAddr,
    stack: VirtAddr,
}

/// Fills an empty address space with a program.
fn load(user: &SharedSpace, program: &Program<'_>, launch: &Launch) -> Result<Start, ExecError> {
    let Program { image, path, name, argv, envp } = *program;
    let mut space = user.change();
    let randomized = launch.personality & ADDR_NO_RANDOMIZE == 0;
    let aslr = if randomized { launch.aslr } else { Aslr::OFF };
    space.modes_mut().personality = launch.personality;
    space.pick_layout(&aslr);
    let top = aslr.stack_top();
    let layout = map_image(&mut space, image, path)?;
    let stack = InitialStack::build(&StackInputs {
        top,
        random_gap: aslr.stack_bytes(),
        stack_limit: space.limits().stack.soft,
        execfn: name,
        argv,
        envp,
        aux: Aux { min_signal_stack: launch.signal_frame, ids: launch.ids, ..aux(&layout)? },
    })?;
    space.map_stack(top, stack.bytes.len() as u64, layout.stack.into())?;
    space.set_start_stack(stack.start);
    space.set_start_brk(aslr.start_brk(layout.start_brk));
    space.set_code(layout.start_code..layout.end_code);
    space.set_data(layout.start_data..layout.end_data);
    space.set_strings(stack.arg_start..stack.arg_end, stack.env_start..stack.env_end);
    space.set_auxv(stack.auxv.iter().flat_map(|&(key, value)| [key, value]).collect());
    drop(space);
    clear_tails(user, &layout)?;
    user.write(stack.start, &stack.bytes)?;
    Ok(Start { entry: layout.entry, stack: stack.start })
}

/// Maps a program, or a program's interpreter, at its place. What [`clear_tails`] clears is not yet.
///
/// # Errors
/// [`ExecError::Load`], [`ExecError::Map`]; some of it may be mapped then.
pub(crate) fn map_image(
    space: &mut AddressSpace,
    image: &Image,
    path: &Path,
) -> Result<Layout, ExecError> {
    let backing = backing(space.system(), image, path)?;
    let layout = place(space, image, &backing)?;
    for mapping in &layout.mappings {
        map(space, mapping, &backing)?;
    }
    Ok(layout)
}

/// Clears what follows each segment's bytes in its last file page.
///
/// # Errors
/// [`ExecError::Fill`].
pub(crate) fn clear_tails(space: &SharedSpace, layout: &Layout) -> Result<(), ExecError> {
    for mapping in &layout.mappings {
        clear_tail(space, mapping)?;
    }
    Ok(())
}

impl From<StackAccess> for Exec {
    fn from(access: StackAccess) -> Self {
        match access {
            StackAccess::ReadWrite => Exec::Forbidden,
            StackAccess::Executable => Exec::Allowed,
        }
    }
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

fn backing(system: &System, image: &Image, path: &Path) -> Result<Arc<dyn Backing>, ExecError> {
    let metadata = image.file.metadata().map_err(LoadError::Read)?;
    let device = metadata.dev();
    let name = BackingName {
        major: rustix::fs::major(device),
        minor: rustix::fs::minor(device),
        inode: metadata.ino(),
        path: path.display().to_string(),
    };
    let frames = Arc::clone(system.frames());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::fixture::Builder;
    use mm::paging::KernelHalf;
    use mm::phys::{Frames, SoftwareMemory};
    use mm::replay::CountingSink;
    use std::io::Write;

    /// Executes a small program with one argument; says how many frames were in use meanwhile.
    fn executed(system: &Arc<System>, argument: &str) -> Result<u64, ExecError> {
        let path = std::env::temp_dir().join(format!("mmvisor-{}-exec", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&Builder::fixed().bytes()).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let image = Image::from_file(Arc::new(file)).unwrap();
        let argv = [CString::new(argument).unwrap()];
        let loaded = exec(system, &image, &path, &argv, &[], &Launch::default())?;
        let in_use = in_use(system);
        loaded.space.put().unwrap();
        Ok(in_use)
    }

    fn in_use(system: &System) -> u64 {
        system.free_retired().unwrap();
        let stats = system.frames().stats();
        stats.pages + stats.tables
    }

    #[test]
    fn nothing_is_left_of_a_program_that_could_not_be_started() {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(4096))));
        let sink = Box::new(CountingSink::default());
        let system = Arc::new(System::new(frames, sink, KernelHalf::default()));
        assert!(executed(&system, "short").unwrap() > 0);
        assert_eq!(in_use(&system), 0);
        let error = executed(&system, &"long".repeat(1 << 20)).unwrap_err();
        assert!(matches!(error, ExecError::Load(_)), "{error}");
        assert_eq!((in_use(&system), system.committed()), (0, 0));
    }
}
