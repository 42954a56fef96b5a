//! `PR_SET_MEMORY_MERGE` (Linux's `ksm_enable_merge_any`): all memory of a process as if `MADV_MERGEABLE` had been said of
//! it, also what it maps later.

use super::AddressSpace;
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::vma::VmFlags;

/// Whether equal pages of all memory may be shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MergeAny {
    /// Only of what was advised to be.
    #[default]
    No,
    /// Of all that can be.
    Yes,
}

/// What cannot be (`ksm_compatible`).
const UNFIT: VmFlags = VmFlags::SHARED
    .union(VmFlags::MAYSHARE)
    .union(VmFlags::SPECIAL)
    .union(VmFlags::HUGETLB)
    .union(VmFlags::DROPPABLE);

/// A VMA's flags after `MADV_MERGEABLE`.
pub(super) fn mergeable(flags: VmFlags) -> VmFlags {
    if flags.intersects(UNFIT) { flags } else { flags | VmFlags::MERGEABLE }
}

impl AddressSpace {
    /// `prctl(PR_SET_MEMORY_MERGE, any, rest...)`. VMAs change where they are: none merge that are alike then.
    ///
    /// # Errors
    /// In this order: `EINVAL` the other arguments are not 0; `ENOMEM` no frame for a page that becomes the process's
    /// own again, and then all are mergeable as before. Source: PR_SET_MEMORY_MERGE(2const).
    pub fn set_merge_any(&mut self, any: MergeAny, rest: [u64; 3]) -> CallResult<()> {
        if rest != [0; 3] {
            return Err(Errno::EINVAL.into());
        }
        if self.modes.merge_any == any {
            return Ok(());
        }
        match any {
            MergeAny::Yes => self.each_vma(mergeable),
            MergeAny::No => {
                if let Err(error) = self.unmerge_all() {
                    self.each_vma(mergeable);
                    return Err(error);
                }
            }
        }
        self.modes.merge_any = any;
        Ok(())
    }

    /// What a new VMA's flags are besides.
    #[inline]
    pub(super) fn with_merge_any(&self, flags: VmFlags) -> VmFlags {
        match self.modes.merge_any {
            MergeAny::No => flags,
            MergeAny::Yes => mergeable(flags),
        }
    }

    fn unmerge_all(&mut self) -> CallResult<()> {
        for start in self.starts() {
            let Some(vma) = self.vmas.get(start) else { continue };
            if vma.flags.contains(VmFlags::MERGEABLE) {
                self.unmerge(vma, vma.range())?;
                self.vmas.update(start, |vma| vma.flags -= VmFlags::MERGEABLE);
            }
        }
        Ok(())
    }

    fn each_vma(&mut self, change: impl Fn(VmFlags) -> VmFlags) {
        for start in self.starts() {
            self.vmas.update(start, |vma| vma.flags = change(vma.flags));
        }
    }

    fn starts(&self) -> Vec<VirtAddr> {
        self.vmas.iter().map(|vma| vma.range().start()).collect()
    }
}
