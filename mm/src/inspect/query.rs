//! Which VMA an address is in, or comes before (the ioctl `PROCMAP_QUERY` of `/proc/PID/maps`; Linux's
//! `query_matching_vma`, `fs/proc/task_mmu.c`).

use std::sync::Arc;

use bitflags::bitflags;

use super::maps::{MapsLine, line};
use crate::addr::VirtAddr;
use crate::backing::Backing;
use crate::space::AddressSpace;
use crate::vma::{VmFlags, Vma};

bitflags! {
    /// What is asked for (include/uapi/linux/fs.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Asked: u64 {
        /// It can be read.
        const READABLE = 1;
        /// It can be written.
        const WRITABLE = 2;
        /// It can be executed.
        const EXECUTABLE = 4;
        /// It is shared.
        const SHARED = 8;
        /// If none has the address, the next one will do.
        const COVERING_OR_NEXT = 0x10;
        /// It shows a file.
        const FILE_BACKED = 0x20;
    }
}

/// A VMA that was asked for.
#[derive(Clone, Debug)]
pub struct FoundVma {
    /// Its line of `/proc/PID/maps`.
    pub line: MapsLine,
    /// The first four bits of [`Asked`].
    pub permissions: Asked,
    /// Bytes of its pages.
    pub page_size: u64,
    /// What it shows.
    pub backing: Option<Arc<dyn Backing>>,
}

/// The permissions, and what a VMA has that has them.
const PERMISSIONS: [(Asked, VmFlags); 4] = [
    (Asked::READABLE, VmFlags::READ),
    (Asked::WRITABLE, VmFlags::WRITE),
    (Asked::EXECUTABLE, VmFlags::EXEC),
    (Asked::SHARED, VmFlags::MAYSHARE),
];

fn permissions(vma: &Vma) -> Asked {
    let has = PERMISSIONS.iter().filter(|(_, flag)| vma.flags.contains(*flag));
    has.fold(Asked::empty(), |all, (permission, _)| all | *permission)
}

/// The VMA that is asked for, with all that is asked of it.
#[must_use]
pub fn query_vma(space: &AddressSpace, addr: VirtAddr, asked: Asked) -> Option<FoundVma> {
    let wanted = asked - Asked::COVERING_OR_NEXT - Asked::FILE_BACKED;
    let will_do = |vma: &Vma| {
        permissions(vma).contains(wanted)
            && (!asked.contains(Asked::FILE_BACKED) || vma.backing.is_some())
    };
    let next = asked.contains(Asked::COVERING_OR_NEXT);
    let mut at = addr;
    let vma = loop {
        let vma = space.vmas().find(at)?;
        if will_do(vma) && (next || vma.range().start() <= addr) {
            break vma;
        }
        if !next {
            return None;
        }
        at = vma.range().end();
    };
    Some(FoundVma {
        line: line(space, vma),
        permissions: permissions(vma),
        page_size: vma.page_size(),
        backing: vma.backing.clone(),
    })
}
