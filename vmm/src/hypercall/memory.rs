//! The memory calls: arguments decoded, [`mm::space`] does the work.

use mm::error::Errno;
use mm::space::{Advice, MapRequest, MapSource, RemapFlags, RemapRequest};
use mm::vma::{MapFlags, MapType, Prot};

use super::{Context, Served};

/// mmap(2). Of descriptors only the standard streams exist, and none of them can be mapped.
pub(super) fn mmap(c: &mut Context<'_>) -> Served {
    let [_, len, prot, flags, _, offset] = c.args;
    if offset % mm::addr::PAGE_SIZE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let map = MapFlags::from_bits_truncate(flags);
    if !map.contains(MapFlags::ANONYMOUS) {
        c.process.streams.get(c.int(4))?;
        return Err(if len == 0 { Errno::EINVAL } else { Errno::ENODEV }.into());
    }
    if map.contains(MapFlags::HUGETLB) {
        // No pool of huge pages: as on a host whose pool is empty.
        return Err(if len == 0 { Errno::EINVAL } else { Errno::ENOMEM }.into());
    }
    let kind = match MapType::from_flags(flags) {
        // Anonymous memory does not know the validating type.
        Some(kind) if kind != MapType::SharedValidate => kind,
        _ => return Err(Errno::EINVAL.into()),
    };
    let request = MapRequest {
        addr: c.address(0),
        len,
        prot: Prot::from_bits_truncate(prot),
        kind,
        flags: map,
        source: MapSource::Anonymous,
    };
    Ok(c.process.space.change().mmap(&request)?.get())
}

/// munmap(2).
pub(super) fn munmap(c: &mut Context<'_>) -> Served {
    c.process.space.change().munmap(c.address(0), c.args[1])?;
    Ok(0)
}

/// mprotect(2).
pub(super) fn mprotect(c: &mut Context<'_>) -> Served {
    c.process.space.change().mprotect(c.address(0), c.args[1], c.args[2])?;
    Ok(0)
}

/// mremap(2).
pub(super) fn mremap(c: &mut Context<'_>) -> Served {
    let [_, old_len, new_len, flags, ..] = c.args;
    let flags = RemapFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
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
    let advice = u64::from(c.int(2).cast_unsigned());
    let advice = Advice::from_number(advice).ok_or(Errno::EINVAL)?;
    c.process.space.change().madvise(c.address(0), c.args[1], advice)?;
    Ok(0)
}
