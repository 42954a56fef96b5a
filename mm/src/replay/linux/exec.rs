//! execve(2) of a traced process: a fresh address space, and the program in it.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use super::import::Special;
use super::{Linux, Process, Task};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};
use crate::backing::{Backing, BackingName};
use crate::error::{Broken, CallError, CallResult};
use crate::phys::AllocError;
use crate::replay::calls::{Extent, Text};
use crate::replay::trace::MapLine;
use crate::space::{AddressSpace, SharedSpace, SpaceUser};
use crate::vma::Vma;

/// Where the heap of a program begins that could not be loaded: where Linux has it for a
/// position-independent one without ASLR, far from everything.
const HEAP: VirtAddr = VirtAddr::new(0x5555_5555_5000);
/// What a process's own program is called.
const OWN_PROGRAM: &[u8] = b"/proc/self/exe";
/// The kernel's own pages in a program, from the lowest up, and how many they are (Linux 6.18's
/// `__VDSO_PAGES` and the vDSO's image).
const KERNEL_PAGES: [(&str, u64); 3] = [("[vvar]", 4), ("[vvar_vclock]", 2), ("[vdso]", 2)];

/// Reads program files and maps them: what `mm` knows nothing of.
pub trait Loader: Debug {
    /// Maps the program at `path` and its interpreter into an empty address space, with a stack and the
    /// heap's start, as execve(2) does. Answers with the path of the file that was mapped, which differs
    /// for a script; none where there is no such program that can be loaded: what it has mapped by then
    /// does not matter.
    ///
    /// # Errors
    /// As the calls that map; an errno is taken as `None`.
    fn load(&self, space: &SharedSpace, path: &[u8]) -> CallResult<Option<Vec<u8>>>;
}

/// Whether a program is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loaded {
    /// It is.
    Whole,
    /// Nothing is there.
    Nothing,
}

impl Linux {
    /// The same machine, whose processes can execute what `loader` finds.
    #[must_use]
    pub fn with_loader(self, loader: Box<dyn Loader>) -> Self {
        Linux { loader: Some(loader), ..self }
    }

    /// Gives a task an empty address space, descriptors of its own, and everything else as it was.
    pub(super) fn begin_program(&mut self, task: Task) -> Result<Result<(), AllocError>, Broken> {
        let old = self.process(task)?;
        let space = match old.space.look().for_exec() {
            Ok(space) => SpaceUser::new(space),
            Err(error) => return Ok(Err(error)),
        };
        let process = Process {
            space,
            files: Arc::new(Mutex::new(old.files().clone())),
            policy: old.policy,
            uffd: Arc::default(),
            executable: old.executable.clone(),
        };
        self.end(task)?;
        self.processes.insert(task, process);
        Ok(Ok(()))
    }

    /// Takes the file that is mapped lowest for the program: Linux puts it there.
    pub(super) fn set_executable(&mut self, task: Task, maps: &[MapLine]) {
        let program = maps.iter().find(|line| line.inode != 0);
        if let Some(process) = self.processes.get_mut(&task) {
            process.executable = program.map(|line| line.name.clone().into_bytes());
        }
    }

    /// Loads a program into the task's empty address space.
    pub(super) fn load_program(&mut self, task: Task, path: &Text) -> Result<Loaded, Broken> {
        let space = self.space(task)?;
        match self.try_load(task, space, path) {
            Ok(Some(executable)) => {
                if let Some(process) = self.processes.get_mut(&task) {
                    process.executable = Some(executable);
                }
                Ok(Loaded::Whole)
            }
            Ok(None) | Err(CallError::Errno(_)) => {
                let mut space = space.change();
                if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
                    broken_only(space.clear(all))?;
                }
                space.set_start_brk(HEAP);
                Ok(Loaded::Nothing)
            }
            Err(CallError::Broken(broken)) => Err(broken),
        }
    }

    fn try_load(
        &self,
        task: Task,
        space: &SharedSpace,
        path: &Text,
    ) -> CallResult<Option<Vec<u8>>> {
        let Some(loader) = self.loader.as_deref() else { return Ok(None) };
        if path.extent == Extent::Cut {
            return Ok(None);
        }
        let own = self.process(task)?.executable.as_deref();
        let path = match (&path.bytes[..], own) {
            (OWN_PROGRAM, None) => return Ok(None),
            (OWN_PROGRAM, Some(own)) => own,
            (path, _) => path,
        };
        let executable = loader.load(space, path)?;
        if executable.is_some() {
            map_kernel_pages(&mut space.change())?;
        }
        Ok(executable)
    }
}

/// Maps the vDSO and its data (Linux's `map_vdso`).
fn map_kernel_pages(space: &mut AddressSpace) -> CallResult<()> {
    let backing = |name: &str| {
        let path = name.to_owned();
        let name = BackingName { major: 0, minor: 0, inode: 0, path };
        Arc::new(Special::new(name)) as Arc<dyn Backing>
    };
    let pages: u64 = KERNEL_PAGES.iter().map(|(_, pages)| pages).sum();
    let mut start = space.free_area(&backing("[vdso]"), pages * PAGE_SIZE)?;
    for (name, pages) in KERNEL_PAGES {
        let end = start.offset(pages << PAGE_SHIFT);
        let Some(range) = PageRange::new(start, end) else { continue };
        let mut vma = Vma::anonymous(range, Special::flags(name));
        vma.backing = Some(backing(name));
        vma.pgoff = 0;
        space.adopt(vma)?;
        start = end;
    }
    Ok(())
}

fn broken_only(result: CallResult<()>) -> Result<(), Broken> {
    match result {
        Ok(()) | Err(CallError::Errno(_)) => Ok(()),
        Err(CallError::Broken(broken)) => Err(broken),
    }
}
