//! What ksmd does in a space, of which it is no user: pages become one with equal ones (Linux's `try_to_merge_one_page`,
//! `write_protect_page`, `replace_page`), and their own again (`break_ksm`).
//!
//! ```text
//!   entry, may be written ── read-only ── flush ── as the merged page? ── names that ── flush ── the old frame is free
//!                                                  else it stays: its only owner may write it at the next fault
//! ```

use std::sync::atomic::Ordering;

use super::anon::run_of;
use super::{AddressSpace, By};
use crate::addr::{Frame, PAGE_BYTES, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{Broken, CallResult};
use crate::paging::{Entry, FlushBatch, Owner};
use crate::phys::{AllocError, Contents, FrameKind, Frames, Marks};
use crate::vma::{VmFlags, Vma};

/// A page, and what it is to be one with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToMerge {
    pub(crate) addr: VirtAddr,
    pub(crate) into: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A merged page.
    Merged(Frame),
    /// A merged page that is made of it.
    New,
}

/// What was looked at in a space.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    /// How many entries.
    pub(crate) entries: u64,
    /// Pages that could be merged, with a hash of what is in them.
    pub(crate) pages: Vec<(VirtAddr, u64)>,
    /// The last one that was looked at.
    pub(crate) last: Option<VirtAddr>,
}

impl AddressSpace {
    /// Looks at so many entries from an address on, for pages that could be merged, and hashes what is in them. They
    /// may change meanwhile.
    pub(crate) fn mergeable_pages(
        &self,
        from: VirtAddr,
        most: u64,
        hash: impl Fn(&[u8]) -> u64,
    ) -> Looked {
        let mut looked = Looked { entries: 0, pages: Vec::new(), last: None };
        let Some(rest) = PageRange::new(from, VirtAddr::TASK_END) else { return looked };
        let parts = self.vmas.range(rest).filter(|vma| is_mergeable(vma));
        let leaves = parts
            .filter_map(|vma| vma.range().intersect(rest))
            .flat_map(|part| self.table.look(part));
        for leaf in leaves.take(usize::try_from(most).unwrap_or(usize::MAX)) {
            looked.entries += 1;
            looked.last = Some(leaf.addr);
            if self.could_merge(leaf.entry).is_some()
                && let Some(bytes) = self.bytes_to_merge(leaf.addr)
            {
                looked.pages.push((leaf.addr, hash(&bytes)));
            }
        }
        looked
    }

    /// The bytes of a page that could be merged.
    fn bytes_to_merge(&self, addr: VirtAddr) -> Option<[u8; PAGE_BYTES]> {
        // The page is the entry's that long: nobody who comes by the reverse map takes it away.
        let _still = self.table.hold_still();
        let frame = self.could_merge(self.entry_at(addr))?;
        let mut bytes = [0; PAGE_BYTES];
        self.system.memory().read(frame.addr(), &mut bytes);
        Some(bytes)
    }

    /// The page of an entry, if it is the process's own, and an ordinary one.
    fn could_merge(&self, entry: Entry) -> Option<Frame> {
        let frames = self.system.frames();
        let fits = entry.is_present()
            && entry.owner() == Owner::Process
            && !entry.is_huge()
            && !entry.is_unseen();
        let frame = entry.frame().filter(|_| fits)?;
        let unfit = Marks::LAZY | Marks::SWAP_CACHED;
        let is_plain = frames.kind(frame) == Some(FrameKind::Anonymous)
            && !frames.marks(frame).intersects(unfit);
        is_plain.then_some(frame)
    }

    /// Makes pages one with others that have the same bytes. Says for each what it is now, if it was.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn merge_as_visitor(
        &mut self,
        pages: &[ToMerge],
    ) -> Result<Vec<Option<Frame>>, Broken> {
        self.by = By::Visitor;
        let merged = self.merge(pages);
        self.by = By::User;
        merged
    }

    fn merge(&self, pages: &[ToMerge]) -> Result<Vec<Option<Frame>>, Broken> {
        let mut batch = FlushBatch::new();
        let mut protected = Vec::new();
        for page in pages {
            protected.push(self.protect_to_merge(page.addr, &mut batch)?);
        }
        self.flush(batch)?;
        let mut batch = FlushBatch::new();
        let mut merged = Vec::new();
        for (page, protected) in pages.iter().zip(protected) {
            merged.push(match protected {
                Some(frame) => self.merge_one(page, frame, &mut batch)?,
                None => None,
            });
        }
        self.flush(batch)?;
        Ok(merged)
    }

    /// Keeps vCPUs from writing a page, and says which frame has it; nothing if it is not to be merged any more.
    fn protect_to_merge(
        &self,
        addr: VirtAddr,
        batch: &mut FlushBatch,
    ) -> Result<Option<Frame>, Broken> {
        let Some(page) = PageRange::from_len(addr, PAGE_SIZE) else { return Ok(None) };
        if !self.vmas.find_exact(addr).is_some_and(is_mergeable) {
            return Ok(None);
        }
        self.settle(page)?;
        self.demote(page)?;
        let Some(slot) = self.table.slot(addr) else { return Ok(None) };
        loop {
            let entry = Entry::new(slot.load(Ordering::Acquire));
            let Some(frame) = self.could_merge(entry) else { return Ok(None) };
            if let Some(page) = self.folio_page(addr, entry) {
                // It is taken out of its folio, which Linux does also where others have that.
                if !self.has_folio_alone(page) {
                    return Ok(None);
                }
                self.split_folio(page)?;
                continue;
            }
            let read_only = entry.read_only();
            let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
            if slot.compare_exchange(entry.raw(), read_only.raw(), done, failed).is_ok() {
                if entry.is_writable() {
                    batch.write_protected(frame);
                }
                return Ok(Some(frame));
            }
        }
    }

    fn merge_one(
        &self,
        page: &ToMerge,
        frame: Frame,
        batch: &mut FlushBatch,
    ) -> Result<Option<Frame>, Broken> {
        let frames = self.system.frames();
        let Some(slot) = self.table.slot(page.addr) else { return Ok(None) };
        let _still = self.table.hold_still();
        if Entry::new(slot.load(Ordering::Acquire)).frame() != Some(frame) {
            // Somebody has given it another page, or swapped it out.
            return Ok(None);
        }
        let into = match page.into {
            Target::Merged(merged) if !frames.try_get(merged) => return Ok(None),
            Target::Merged(merged) => merged,
            Target::New => match frames.alloc(FrameKind::Merged, Contents::Any) {
                Ok(fresh) => {
                    frames.memory().copy(frame, fresh);
                    fresh
                }
                Err(AllocError::OutOfMemory) => return Ok(None),
                Err(AllocError::Broken(broken)) => return Err(broken),
            },
        };
        // It may have become another page by now.
        let fits = frames.kind(into) == Some(FrameKind::Merged) && are_equal(frames, frame, into);
        if fits {
            frames.map(into);
            let now = |raw| {
                let now = Entry::new(raw);
                let same = now.frame() == Some(frame) && now.is_present() && !now.is_writable();
                same.then(|| now.renamed(into, Owner::Process).raw())
            };
            let exchanged = self.tell_replaced(page.addr, || {
                slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, now)
            });
            if let Ok(old) = exchanged {
                batch.emptied(Entry::new(old), frames);
                return Ok(Some(into));
            }
            frames.unmap(into)?;
        }
        frames.put(into)?;
        Ok(None)
    }

    /// `MADV_UNMERGEABLE`: gives each merged page of a part of a VMA to its process again (`unmerge_ksm_pages`).
    ///
    /// # Errors
    /// `ENOMEM`: no frame is left for one; those before are the process's own.
    pub(super) fn unmerge(&self, vma: &Vma, part: PageRange) -> CallResult<()> {
        self.demote(part)?;
        let frames = self.system.frames();
        let mut batch = FlushBatch::new();
        let mut unmerged = Ok(());
        for leaf in self.table.cursor(part) {
            let Some(merged) = leaf.entry.frame().filter(|&frame| is_merged(frames, frame)) else {
                continue;
            };
            let alloc = || frames.alloc(FrameKind::Anonymous, Contents::Any);
            let own = match self.system.or_reclaim(alloc) {
                Ok(own) => own,
                Err(error) => {
                    unmerged = Err(error.into());
                    break;
                }
            };
            frames.memory().copy(merged, own);
            self.own_pages(vma, leaf.addr, run_of(own));
            frames.map(own);
            let old = self.tell_replaced(leaf.addr, || {
                // Nobody else changes it but vCPUs, its accessed bit.
                let own = |raw| Some(Entry::new(raw).renamed(own, Owner::Process).raw());
                leaf.slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, own)
            });
            old.into_iter().for_each(|old| batch.emptied(Entry::new(old), frames));
        }
        self.flush(batch)?;
        unmerged
    }
}

fn is_mergeable(vma: &Vma) -> bool {
    vma.flags.contains(VmFlags::MERGEABLE) && vma.backing.is_none()
}

fn is_merged(frames: &Frames, frame: Frame) -> bool {
    frames.kind(frame) == Some(FrameKind::Merged)
}

fn are_equal(frames: &Frames, one: Frame, other: Frame) -> bool {
    let mut bytes = [[0; PAGE_BYTES]; 2];
    for (frame, bytes) in [one, other].into_iter().zip(&mut bytes) {
        frames.memory().read(frame.addr(), bytes);
    }
    bytes[0] == bytes[1]
}
