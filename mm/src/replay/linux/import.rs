//! A starting state: the VMAs that `/proc/PID/maps` showed, and what it does not show.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::object::LONG_ENOUGH;
use super::{Linux, Task};
use crate::addr::{Frame, PAGE_SHIFT, PageRange, VirtAddr};
use crate::backing::{Backing, BackingError, BackingName, FileMode, OpenFile, Placement};
use crate::error::{CallResult, Errno};
use crate::promise::Payer;
use crate::replay::trace::{AnonOrigin, MapLine};
use crate::space::AddressSpace;
use crate::vma::{AnonId, Lineage, VmFlags, Vma};

/// The kernel's own pages in a program, such as the vDSO.
#[derive(Debug)]
pub(super) struct Special(BackingName);

impl Special {
    const NAMES: [&str; 3] = ["[vdso]", "[vvar]", "[vvar_vclock]"];

    pub(super) fn new(name: BackingName) -> Self {
        Special(name)
    }

    /// The flags of the pages with this name (Linux's `map_vdso`).
    pub(super) fn flags(name: &str) -> VmFlags {
        match name {
            "[vdso]" => VmFlags::READ | VmFlags::EXEC | VmFlags::MAY | VmFlags::DONTEXPAND,
            _ => {
                let may = VmFlags::MAY - VmFlags::MAYWRITE - VmFlags::MAYEXEC;
                let kernel = VmFlags::IO | VmFlags::DONTEXPAND | VmFlags::DONTDUMP;
                VmFlags::READ | may | kernel | VmFlags::PFNMAP
            }
        }
    }
}

impl Backing for Special {
    fn page(&self, _: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        Err(BackingError::NoPage)
    }

    fn name(&self) -> BackingName {
        self.0.clone()
    }

    fn mode(&self) -> FileMode {
        FileMode::READ
    }

    fn placement(&self) -> Placement {
        Placement::Anywhere
    }

    fn may_split(&self, _: VirtAddr) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn has_close_hook(&self) -> bool {
        true
    }
}

/// What the lines of one import have in common.
#[derive(Default)]
struct Known {
    files: BTreeMap<((u32, u32), u64), Arc<dyn Backing>>,
    families: BTreeMap<u64, AnonId>,
}

impl Linux {
    /// Puts these VMAs in place of all there are. Lines of the kernel half are passed over.
    ///
    /// # Errors
    /// `EINVAL` for lines that overlap or are no ranges of pages.
    pub fn import(&mut self, task: Task, lines: &[MapLine]) -> CallResult<()> {
        let space = self.space(task)?;
        let mut space = space.change();
        if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
            space.clear(all)?;
        }
        let mut known = Known::default();
        for line in lines.iter().filter(|line| line.span.start < VirtAddr::TASK_END) {
            let range = PageRange::new(line.span.start, line.span.end).ok_or(Errno::EINVAL)?;
            match line.name.as_str() {
                "[heap]" => space.set_brk(range.start(), range.end()),
                "[stack]" => space.set_start_stack(VirtAddr::new(range.end().get() - 1)),
                _ => {}
            }
            let vma = self.vma_of(&space, line, range, &mut known)?;
            space.adopt(vma)?;
        }
        Ok(())
    }

    fn vma_of(
        &self,
        space: &AddressSpace,
        line: &MapLine,
        range: PageRange,
        known: &mut Known,
    ) -> CallResult<Vma> {
        let flags = match &line.hidden.flags {
            Some(names) => names
                .0
                .iter()
                .filter_map(|name| std::str::from_utf8(name).ok())
                .filter_map(VmFlags::from_mnemonic)
                .fold(VmFlags::empty(), |flags, flag| flags | flag),
            None => flags_of(line),
        };
        let mut vma = Vma::anonymous(range, flags);
        if let Some(backing) = self.backing_of(line, known) {
            vma.backing = Some(backing);
            vma.pgoff = line.offset >> PAGE_SHIFT;
        }
        if let Some(pgoff) = line.hidden.pgoff {
            vma.pgoff = pgoff;
        }
        let private_writable = flags.contains(VmFlags::WRITE) && vma.is_private();
        let anon = match line.hidden.anon {
            Some(AnonOrigin::None) => None,
            Some(AnonOrigin::Inherited(family)) => Some(match known.families.entry(family) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(space.new_anon(Lineage::Inherited)?),
            }),
            Some(AnonOrigin::Own) => Some(space.new_anon(Lineage::Own)?),
            None if private_writable => Some(space.new_anon(Lineage::Own)?),
            None => None,
        };
        vma.set_anon(anon);
        Ok(vma)
    }

    fn backing_of(&self, line: &MapLine, known: &mut Known) -> Option<Arc<dyn Backing>> {
        let name = BackingName {
            major: line.device.0,
            minor: line.device.1,
            inode: line.inode,
            path: line.name.clone(),
        };
        if Special::NAMES.contains(&line.name.as_str()) {
            return Some(Arc::new(Special::new(name)));
        }
        if line.inode == 0 && line.device == (0, 0) {
            return None;
        }
        let file = known.files.entry((line.device, line.inode)).or_insert_with(|| {
            let object = if is_shared_memory(&name.path) {
                self.shared_memory(LONG_ENOUGH, name)
            } else {
                self.regular_file(LONG_ENOUGH, name)
            };
            Arc::new(OpenFile::new(object, FileMode::READ | FileMode::WRITE))
        });
        Some(Arc::clone(file))
    }
}

/// Whether it is shared memory that has this path; else it is a regular file.
fn is_shared_memory(path: &str) -> bool {
    let shared_memory = ["/memfd:", "/dev/zero (deleted)", "/dev/shm/", "/SYSV"];
    shared_memory.iter().any(|prefix| path.starts_with(prefix))
}

/// The flags that a line without a list of them stands for.
fn flags_of(line: &MapLine) -> VmFlags {
    if Special::NAMES.contains(&line.name.as_str()) {
        return Special::flags(&line.name);
    }
    let [read, write, execute, share] = line.permissions;
    let mut flags = VmFlags::MAY;
    flags.set(VmFlags::READ, read == b'r');
    flags.set(VmFlags::WRITE, write == b'w');
    flags.set(VmFlags::EXEC, execute == b'x');
    let shared = share == b's';
    flags.set(VmFlags::SHARED | VmFlags::MAYSHARE, shared);
    flags.set(VmFlags::ACCOUNT, !shared && write == b'w');
    if line.name == "[stack]" { flags | VmFlags::GROWSDOWN } else { flags }
}
