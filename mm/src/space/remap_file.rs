//! remap_file_pages(2), which Linux emulates by mapping the file anew.

use super::AddressSpace;
use super::map::MapRequest;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::vma::{MapFlags, MapType, VmFlags};

impl AddressSpace {
    /// Lets a part of a shared mapping show other pages of its file, from page `pgoff` on.
    ///
    /// # Errors
    /// `EINVAL`: `prot` is not 0, the range is empty or wraps, the offset wraps, or the range is not
    /// all of one shared mapping (in one or several equal VMAs). Then as mmap(2) with `MAP_FIXED`.
    /// Source: remap_file_pages(2), Linux's `mm/mmap.c`.
    pub fn remap_file_pages(
        &mut self,
        start: VirtAddr,
        size: u64,
        prot: u64,
        pgoff: u64,
        flags: u64,
    ) -> CallResult<()> {
        let (start, size) = (start.page_floor(), size & !(PAGE_SIZE - 1));
        let range = PageRange::from_len(start, size).ok_or(Errno::EINVAL)?;
        if prot != 0 || pgoff.checked_add(size >> PAGE_SHIFT).is_none() {
            return Err(Errno::EINVAL.into());
        }
        let vma = self.vmas.find_exact(start).ok_or(Errno::EINVAL)?;
        if !vma.flags.contains(VmFlags::SHARED) {
            return Err(Errno::EINVAL.into());
        }
        let mut covered = vma.range().end();
        for next in self.vmas.range(range).skip(1) {
            let equal = next.flags == vma.flags
                && crate::vma::merge::same(next.backing.as_ref(), vma.backing.as_ref());
            if next.range().start() != covered || !equal {
                return Err(Errno::EINVAL.into());
            }
            covered = next.range().end();
        }
        if covered < range.end() {
            return Err(Errno::EINVAL.into());
        }
        let kept = MapFlags::from_bits_retain(flags) & MapFlags::NONBLOCK;
        let mut how = kept | MapFlags::FIXED | MapFlags::POPULATE | MapType::Shared.into();
        how.set(MapFlags::LOCKED, vma.flags.contains(VmFlags::LOCKED));
        let request = MapRequest {
            addr: start,
            len: size,
            prot: vma.flags.prot(),
            flags: how,
            file: vma.backing.clone(),
            offset: pgoff.checked_mul(PAGE_SIZE).ok_or(Errno::EOVERFLOW)?,
        };
        self.do_mmap(request)?;
        Ok(())
    }
}
