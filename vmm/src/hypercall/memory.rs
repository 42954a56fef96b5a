//! The memory calls: arguments decoded, [`mm::space`] does the work.

use mm::error::Errno;
use mm::space::{MapRequest, RemapRequest};
use mm::vma::{MapFlags, Prot};

use super::{Context, Served};

/// mmap(2). Of descriptors only the standard streams exist, and none of them can be mapped.
pub(super) fn mmap(c: &mut Context<'_>) -> Served {
    let [_, len, prot, flags, _, offset] = c.args;
    let flags = MapFlags::from_bits_retain(flags);
    if !flags.contains(MapFlags::ANONYMOUS) {
        if offset % mm::addr::PAGE_SIZE != 0 {
            return Err(Errno::EINVAL.into());
        }
        c.process.streams.get(c.int(4))?;
        return Err(if len == 0 { Errno::EINVAL } else { Errno::ENODEV }.into());
    }
    let prot = Prot::from_bits_retain(prot);
    let request = MapRequest { addr: c.address(0), len, prot, flags, file: None, offset };
    Ok(c.process.space.change().mmap(&request)?.get())
}

/// munmap(2).
pub(super) fn munmap(c: &mut Context<'_>) -> Served {
    c.process.space.change().munmap(c.address(0), c.args[1])?;
    Ok(0)
}

/// mprotect(2).
pub(super) fn mprotect(c: &mut Context<'_>) -> Served {
    let prot = Prot::from_bits_retain(c.args[2]);
    c.process.space.change().mprotect(c.address(0), c.args[1], prot)?;
    Ok(0)
}

/// mremap(2).
pub(super) fn mremap(c: &mut Context<'_>) -> Served {
    let [_, old_len, new_len, flags, ..] = c.args;
    let request =
        RemapRequest { addr: c.address(0), old_len, new_len, flags, new_addr: c.address(4) };
    Ok(c.process.space.change().mremap(&request)?.get())
}

/// brk(2).
pub(super) fn brk(c: &mut Context<'_>) -> Served {
    Ok(c.process.space.change().brk(c.address(0))?.get())
}

/// madvise(2).
pub(super) fn madvise(c: &mut Context<'_>) -> Served {
    c.process.space.change().madvise(c.address(0), c.args[1], c.int(2))?;
    Ok(0)
}
