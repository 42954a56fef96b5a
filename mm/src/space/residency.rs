//! mincore(2): which pages are in memory (Linux's `mm/mincore.c`).

use super::AddressSpace;
use super::range::Coverage;
use crate::addr::{PAGE_BYTES, PAGE_SHIFT, PageRange, TASK_SIZE, VirtAddr, index};
use crate::error::{CallResult, Errno};
use crate::paging::Entry;
use crate::rules::Rule;
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// A byte for each page of the range, 1 where it is in memory. Also the pages of a backing that
    /// this process has not touched count, if the backing has them.
    ///
    /// # Errors
    /// In this order: `EINVAL` address unaligned; `ENOMEM` the range passes the user half, or a hole.
    /// Source: mincore(2).
    pub fn mincore(&self, addr: VirtAddr, len: u64) -> CallResult<Vec<u8>> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        let last = TASK_SIZE.checked_sub(len).ok_or(Errno::ENOMEM)?;
        if addr.get() > last {
            return Err(Errno::ENOMEM.into());
        }
        let Some(range) = PageRange::from_len(addr, len) else { return Ok(Vec::new()) };
        if self.coverage(range.into()) == Coverage::Holes {
            return Err(Errno::ENOMEM.into());
        }
        self.notice_files(range);
        let mut resident = Vec::new();
        for vma in self.vmas.range(range) {
            if let Some(part) = vma.range().intersect(range) {
                self.residency_of(vma, part, &mut resident);
            }
        }
        Ok(resident)
    }

    fn residency_of(&self, vma: &Vma, part: PageRange, resident: &mut Vec<u8>) {
        let first = resident.len();
        match &vma.backing {
            // Linux looks at the entries of huge pages alone, but where there could be none (`walk_hugetlb_range`).
            Some(backing) if vma.flags.contains(VmFlags::HUGETLB) => {
                let pages = (part.start().get()..part.end().get()).step_by(PAGE_BYTES);
                resident.extend(pages.map(VirtAddr::new).map(|page| {
                    let bare = !self.table.has_link(page);
                    u8::from(bare && backing.is_resident(vma.page_index(page)))
                }));
            }
            Some(backing) if self.rule(Rule::PageCache) => {
                let from = vma.page_index(part.start());
                let pages = from..from.saturating_add(part.pages());
                resident.extend(backing.residency(pages).into_iter().map(u8::from));
                resident.resize(first + index(part.pages()), 0);
            }
            _ => resident.resize(first + index(part.pages()), 0),
        }
        let is_there = |entry: Entry| entry.is_resident() || self.is_swap_cached(entry);
        for leaf in self.table.look(part).filter(|leaf| is_there(leaf.entry)) {
            let at = leaf.addr.bytes_from(part.start()) >> PAGE_SHIFT;
            let slot = usize::try_from(at).ok().and_then(|at| resident.get_mut(first + at));
            if let Some(slot) = slot {
                *slot = 1;
            }
        }
    }
}
