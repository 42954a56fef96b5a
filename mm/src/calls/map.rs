//! The calls that place, move, protect and remove mappings (Linux's `mm/mmap.c`, `mm/mprotect.c`,
//! `mm/mremap.c`).

use super::{Call, done};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::space::{AddressSpace, MapRequest, Populate, RemapRequest};
use crate::vma::{MapFlags, Prot};

/// mmap(2): Linux's `sys_mmap` and `ksys_mmap_pgoff`. The offset is looked at before the descriptor, and
/// the descriptor before everything else.
pub(super) fn mmap(c: &Call<'_>) -> CallResult<u64> {
    let [_, len, prot, flags, _, offset] = c.args;
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let flags = MapFlags::from_bits_retain(flags);
    let space = c.caller.space();
    let file = if flags.contains(MapFlags::ANONYMOUS) {
        None
    } else {
        if let Some(observer) = space.look().system().observer() {
            observer.descriptor_mapped(c.int(4), flags);
        }
        Some(c.caller.file(c.int(4))?)
    };
    let prot = Prot::from_bits_retain(prot);
    let request = MapRequest { addr: c.address(0), len, prot, flags, file, offset };
    let mapped = space.map_and_populate(&request);
    c.served(mapped.map(VirtAddr::get))
}

/// munmap(2).
pub(super) fn munmap(c: &Call<'_>) -> CallResult<u64> {
    let unmapped = c.caller.space().change_and_tell(|space| {
        if let Some(observer) = space.system().observer() {
            observer.unmap_called(c.address(0));
        }
        space.munmap(c.address(0), c.args[1])
    });
    c.served(done(unmapped))
}

/// mprotect(2).
pub(super) fn mprotect(c: &Call<'_>) -> CallResult<u64> {
    let prot = Prot::from_bits_retain(c.args[2]);
    let (addr, len) = (c.address(0), c.args[1]);
    let protected =
        c.caller.space().protect_and_populate(addr, len, |space| space.mprotect(addr, len, prot));
    done(protected)
}

/// pkey_mprotect(2).
pub(super) fn pkey_mprotect(c: &Call<'_>) -> CallResult<u64> {
    let prot = Prot::from_bits_retain(c.args[2]);
    let (addr, len, key) = (c.address(0), c.args[1], c.int(3));
    let protect = |space: &mut AddressSpace| space.pkey_mprotect(addr, len, prot, key);
    done(c.caller.space().protect_and_populate(addr, len, protect))
}

/// mremap(2).
pub(super) fn mremap(c: &Call<'_>) -> CallResult<u64> {
    let [_, old_len, new_len, flags, ..] = c.args;
    let request =
        RemapRequest { addr: c.address(0), old_len, new_len, flags, new_addr: c.address(4) };
    let (space, len) = (c.caller.space(), request.new_len);
    let moved = space.change_and_tell(|space| space.mremap(&request));
    if let Ok(addr) = moved {
        space.populate_all_paged(addr, len, Populate::Locked)?;
    }
    c.served(moved.map(VirtAddr::get))
}

/// brk(2).
pub(super) fn brk(c: &Call<'_>) -> CallResult<u64> {
    Ok(c.caller.space().change_and_tell(|space| space.brk(c.address(0)))?.get())
}

/// remap_file_pages(2).
pub(super) fn remap_file_pages(c: &Call<'_>) -> CallResult<u64> {
    let [_, len, prot, pgoff, flags, _] = c.args;
    done(
        c.caller
            .space()
            .change_and_tell(|space| space.remap_file_pages(c.address(0), len, prot, pgoff, flags)),
    )
}
