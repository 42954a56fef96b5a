//! Where others look in on address spaces: [`Observer`] is told, [`Guardian`] may refuse. They are called
//! where Linux calls its perf events, uprobes, mmu notifiers and audit, and its security modules.
//!
//! The address space's lock is held meanwhile: a hook must not use the space that it is told of.

use std::fmt::Debug;

use crate::addr::{PageRange, VirtAddr};
use crate::error::Errno;
use crate::paging::AccessKind;
use crate::space::MapRequest;
use crate::vma::{MapFlags, Prot, Vma};

/// Why translations become invalid (Linux's `enum mmu_notifier_event`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// The memory is unmapped there, or moved away (`MMU_NOTIFY_UNMAP`).
    Unmap,
    /// Pages go, or are replaced by others (`MMU_NOTIFY_CLEAR`).
    Clear,
    /// Permissions change (`MMU_NOTIFY_PROTECTION_VMA`).
    Protection,
    /// A child process gets the pages as well (`MMU_NOTIFY_PROTECTION_PAGE`).
    Fork,
}

/// Is told what happens to address spaces. It cannot refuse anything.
///
/// ```text
///   munmap:    unmap_called, (cut), invalidating Unmap, file_unmapped..., invalidated, unmapped
///   mmap:      descriptor_mapped, (what it replaces: as munmap, but unmap_called), (merged), mapped,
///              file_mapped
///   mprotect:  for each VMA (cut or merged), invalidating Protection, invalidated, mapped
///   mremap:    (merged), invalidating Unmap, invalidated; then as munmap, but unmap_called
///   madvise:   for each VMA (cut or merged), or invalidating Clear, invalidated
///   fork:      for each private VMA that was written to, invalidating Fork, invalidated
///   cut:       of a file: file_unmapped of the whole, file_mapped of both halves
///   merged:    of a file: file_unmapped, file_mapped of those that grow or shrink, file_unmapped of
///              those that are no more
///   a write to a page that is shared: invalidating Clear, invalidated, faulted; before that the same of
///              another space's page, if that one gets the copy
/// ```
pub trait Observer: Debug + Send + Sync {
    /// mmap(2) names a descriptor, open or not (`audit_mmap_fd`).
    fn descriptor_mapped(&self, _fd: i32, _flags: MapFlags) {}

    /// munmap(2) is called with this address, whatever comes of it (`profile_munmap`, while Linux had it).
    fn unmap_called(&self, _addr: VirtAddr) {}

    /// Memory was mapped or grew, or its permissions changed; `vma` is the VMA that it is part of now
    /// (`perf_event_mmap`). Moves are not told.
    fn mapped(&self, _vma: &Vma) {}

    /// Memory of a file was mapped, or the bounds of its VMA changed; `vma` is the VMA that it is part of
    /// now (`uprobe_mmap`).
    fn file_mapped(&self, _vma: &Vma) {}

    /// Memory of a file is being unmapped, or the bounds of its VMA change: `part` of `vma`, as it was
    /// (`uprobe_munmap`).
    fn file_unmapped(&self, _vma: &Vma, _part: PageRange) {}

    /// Translations of the range are about to become invalid
    /// (`mmu_notifier_invalidate_range_start`).
    fn invalidating(&self, _range: PageRange, _why: Invalidation) {}

    /// They are gone from the page table (`mmu_notifier_invalidate_range_end`); the flush follows.
    fn invalidated(&self, _range: PageRange, _why: Invalidation) {}

    /// Whatever was mapped in the range is gone.
    fn unmapped(&self, _range: PageRange) {}

    /// A page was brought in for an access at the address.
    fn faulted(&self, _addr: VirtAddr, _kind: AccessKind) {}

    /// The address space is about to go, and nothing more will be told of it (`mmu_notifier_release`).
    fn released(&self) {}
}

/// May veto what a program asks for. A veto is the call's errno, and nothing has changed, but for what
/// Linux too has changed by then: the VMAs of a `PROT_*` change before the one that was refused, the cut
/// at the ends of a range that was to be replaced, what was there where shared memory was refused its
/// promise, the target of an mremap.
pub trait Guardian: Debug + Send + Sync {
    /// mmap(2) or remap_file_pages(2), before anything else is looked at (`security_mmap_file`).
    ///
    /// # Errors
    /// The errno that the call shall return.
    fn may_map(&self, _request: &MapRequest) -> Result<(), Errno> {
        Ok(())
    }

    /// Before memory is placed at an address, by any call (`security_mmap_addr`).
    ///
    /// # Errors
    /// The errno that the call shall return.
    fn may_use_address(&self, _addr: VirtAddr) -> Result<(), Errno> {
        Ok(())
    }

    /// Before the permissions of a part of a VMA change: `asked` is what the program said, `prot` what
    /// it comes to under `READ_IMPLIES_EXEC` (`security_file_mprotect`).
    ///
    /// # Errors
    /// The errno that mprotect(2) shall return.
    fn may_protect(&self, _vma: &Vma, _asked: Prot, _prot: Prot) -> Result<(), Errno> {
        Ok(())
    }

    /// Before `pages` more are promised (`security_vm_enough_memory_mm`).
    ///
    /// # Errors
    /// The errno that the call shall return; Linux's is `ENOMEM` always.
    fn may_commit(&self, _pages: u64) -> Result<(), Errno> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
