//! msync(2): Linux's `mm/msync.c`.

use std::ops::Range;
use std::sync::Arc;

use super::{AddressSpace, SharedSpace};
use crate::addr::{PageRange, VirtAddr, page_align};
use crate::backing::Backing;
use crate::error::{CallResult, Errno};
use crate::vma::VmFlags;

const MS_ASYNC: u64 = 1;
const MS_INVALIDATE: u64 = 2;
const MS_SYNC: u64 = 4;

/// What msync(2) has to write, found under the space's lock and written under none.
#[derive(Debug, Default)]
struct Syncs(Vec<(Arc<dyn Backing>, Range<u64>)>);

impl SharedSpace {
    /// Writes changed pages of shared files to where they last, with `MS_SYNC`; else there is nothing to do
    /// but the checks. The space is not locked while a file is written, as in Linux.
    ///
    /// # Errors
    /// In this order: `EINVAL` unknown flags, address unaligned, both `ASYNC` and `SYNC`; `ENOMEM` the
    /// range wraps; then going upwards `ENOMEM` a hole (at once with `MS_ASYNC` alone, else at the
    /// end), `EBUSY` locked with `MS_INVALIDATE`, what the file says. Source: msync(2).
    pub fn msync(&self, addr: VirtAddr, len: u64, flags: u64) -> CallResult<()> {
        let mut syncs = Syncs::default();
        let (checked, system) = {
            let space = self.look();
            let checked = space.check_msync(addr, len, flags, &mut syncs);
            if syncs.0.is_empty() {
                return checked;
            }
            (checked, Arc::clone(space.system()))
        };
        // What lies before the first thing that is wrong is written before that is said.
        syncs.0.into_iter().try_for_each(|(file, pages)| file.sync(pages, &system))?;
        checked
    }
}

impl AddressSpace {
    /// What [`SharedSpace::msync`] finds under the lock.
    fn check_msync(
        &self,
        addr: VirtAddr,
        len: u64,
        flags: u64,
        syncs: &mut Syncs,
    ) -> CallResult<()> {
        if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
            || !addr.is_page_aligned()
            || flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC
        {
            return Err(Errno::EINVAL.into());
        }
        // A length that overflows is an empty range.
        let len = page_align(len).unwrap_or(0);
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        let (mut at, mut hole) = (addr, false);
        while at < end {
            let range = self.vmas.find_range(at).ok_or(Errno::ENOMEM)?;
            if at < range.start() {
                if flags == MS_ASYNC || range.start() >= end {
                    return Err(Errno::ENOMEM.into());
                }
                hole = true;
            }
            if flags & MS_INVALIDATE != 0
                && self.vmas.find(at).is_some_and(|vma| vma.flags.contains(VmFlags::LOCKED))
            {
                return Err(Errno::EBUSY.into());
            }
            if flags & MS_SYNC != 0 {
                self.find_file(range, at, end, syncs);
            }
            at = range.end();
        }
        if hole { Err(Errno::ENOMEM.into()) } else { Ok(()) }
    }

    /// The part from `at` to `end` of a VMA, if it is a shared file's.
    fn find_file(&self, range: PageRange, at: VirtAddr, end: VirtAddr, syncs: &mut Syncs) {
        let vma = self.vmas.find(range.start()).filter(|vma| !vma.is_private());
        let Some((vma, backing)) = vma.and_then(|vma| Some((vma, vma.backing.as_ref()?))) else {
            return;
        };
        let (first, last) = (at.max(range.start()), end.min(range.end()));
        syncs.0.push((Arc::clone(backing), vma.page_index(first)..vma.page_index(last)));
    }
}
