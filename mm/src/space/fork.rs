//! fork(2): Linux's `dup_mm` and `dup_mmap`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{AddressSpace, Ahead, Counters, PageClass};
use crate::addr::PAGE_SIZE;
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Entry, Owner, PageTable, Touch};
use crate::phys::{Contents, FrameKind};
use crate::rules::Rule;
use crate::vma::tree::Tree;
use crate::vma::{AnonId, Lineage, VmFlags, Vma};

impl AddressSpace {
    /// A copy of the address space for a child process: the same VMAs, but for those that
    /// `MADV_DONTFORK` keeps back; `MADV_WIPEONFORK` makes empty. Locks are not inherited.
    ///
    /// # Errors
    /// `ENOMEM`: the commit limit, or no memory for a VMA or a table; nothing is left behind.
    /// Source: fork(2), `dup_mmap` in Linux's `mm/mmap.c`.
    pub fn fork(&mut self) -> CallResult<Self> {
        let table = PageTable::new(Arc::clone(self.system.frames()), self.system.kernel())?;
        let mut child = AddressSpace {
            system: Arc::clone(&self.system),
            vmas: Tree::new(),
            table,
            layout: self.layout.clone(),
            account: Default::default(),
            limits: self.limits,
            modes: self.modes.inherited(),
            counters: Counters::default(),
            ahead: Ahead::default(),
        };
        let copied = child.reserve(self.vmas.len()).map_err(Into::into);
        let copied = copied.and_then(|()| self.copy_vmas(&mut child));
        if let Err(error) = copied {
            child.exit()?;
            return Err(error);
        }
        Ok(child)
    }

    fn copy_vmas(&mut self, child: &mut AddressSpace) -> CallResult<()> {
        for vma in self.vmas.iter().filter(|vma| !vma.flags.contains(VmFlags::DONTCOPY)) {
            let pages = vma.range().pages();
            if vma.flags.contains(VmFlags::ACCOUNT) {
                self.commit(pages)?;
            }
            let copy = self.child_of(vma);
            child.account.add(copy.flags, pages);
            if child.vmas.insert(copy).is_err() {
                return Err(Errno::ENOMEM.into());
            }
        }
        self.copy_pages(child)
    }

    /// Gives the child the pages that it would otherwise not find again: the process's own ones, each
    /// as a copy, and the guards. Pages of backings it finds there.
    fn copy_pages(&self, child: &AddressSpace) -> CallResult<()> {
        // Linux's `vma_needs_copy`: what was never written to is not looked at.
        let needed = |vma: &&Vma| {
            let kept = vma.anon().is_some() || vma.flags.contains(VmFlags::MAYBE_GUARD);
            kept && !vma.flags.contains(VmFlags::WIPEONFORK)
        };
        for vma in child.vmas.iter().filter(needed) {
            // Where Linux would let both share the pages until one writes (`is_cow_mapping`).
            let may = vma.flags & (VmFlags::SHARED | VmFlags::MAYWRITE);
            if may == VmFlags::MAYWRITE {
                self.invalidate(vma.range(), Invalidation::Fork, |space| {
                    space.copy_part(child, vma)
                })?;
            } else {
                self.copy_part(child, vma)?;
            }
        }
        Ok(())
    }

    /// The pages of one VMA (`copy_page_range`).
    fn copy_part(&self, child: &AddressSpace, vma: &Vma) -> CallResult<()> {
        let frames = self.system.frames();
        for leaf in self.table.cursor(vma.range()) {
            let entry = leaf.entry;
            if !entry.is_guard() && entry.owner() != Owner::Process {
                continue;
            }
            // The table first: what fails after the copy was made would leave the copy behind.
            let words = child.table.ensure(leaf.addr)?;
            let touch = if entry.is_dirty() { Touch::Written } else { Touch::Read };
            let copy = match entry.frame() {
                Some(frame) => {
                    let copy = frames.alloc(FrameKind::Anonymous, Contents::Any)?;
                    frames.memory().copy(frame, copy);
                    child.counters.resident.add(PageClass::Own);
                    Entry::leaf(copy, Owner::Process, entry.access(), touch)
                }
                None => entry,
            };
            let at = crate::addr::index((leaf.addr.get() / PAGE_SIZE) & 511);
            words[at].store(copy.raw(), Ordering::Release);
        }
        Ok(())
    }

    /// A VMA as the child gets it.
    fn child_of(&self, vma: &Vma) -> Vma {
        let mut copy = vma.clone();
        copy.flags.remove(VmFlags::LOCKED_MASK | VmFlags::UFFD);
        copy.set_userfault(None);
        // Each VMA becomes a branch of its own of the memory's family.
        let inherited = self.rule(Rule::ForkLineage);
        let lineage = if inherited { Lineage::Inherited } else { Lineage::Own };
        let branch = |_: AnonId| self.system.new_anon(lineage);
        let wiped = vma.flags.contains(VmFlags::WIPEONFORK);
        copy.set_anon(vma.anon().filter(|_| !wiped).map(branch));
        copy
    }
}
