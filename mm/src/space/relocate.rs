//! The move of a mapping: Linux's `move_vma`, `copy_vma`, `move_page_tables`, `dontunmap_complete`.

use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::link::maps_of;
use super::remap::{MOVE_SPARE, Remap, RemapFlags};
use super::userfault::Moved;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange, TABLE_SPAN, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::hooks::Invalidation;
use crate::paging::{Entry, FlushBatch};
use crate::rules::Rule;
use crate::vma::VmFlags;
use crate::vma::merge::Origin;

impl AddressSpace {
    /// Moves `old_len` bytes at `addr` to the free range of `new_len` bytes at `new_addr`.
    pub(super) fn move_vma(&mut self, remap: &Remap) -> CallResult<VirtAddr> {
        let vma = self.vmas.find_exact(remap.addr).ok_or(Errno::EFAULT)?;
        let target = PageRange::from_len(remap.new_addr, remap.new_len).ok_or(Errno::ENOMEM)?;
        if self.vmas.len() + MOVE_SPARE >= self.max_map_count() {
            return Err(Errno::ENOMEM.into());
        }
        if let Some(backing) = &vma.backing {
            let end = remap.addr.offset(remap.old_len);
            if vma.range().start() != remap.addr {
                backing.may_split(remap.addr)?;
            }
            if vma.range().end() != end {
                backing.may_split(end)?;
            }
        }
        let flags = vma.flags;
        let mut moved = vma.clone();
        moved.pgoff = vma.page_index(remap.addr);
        let pgoff = moved.pgoff;
        let mut moved = moved.moved(target);
        if !self.rule(Rule::MovedOffset) {
            moved.pgoff = pgoff;
        }
        let keeps = remap.flags.contains(RemapFlags::DONTUNMAP);
        let charge = if keeps { remap.new_len } else { remap.growth() } >> PAGE_SHIFT;
        self.reserve(3)?;
        // Old length 0 (of a shared mapping) copies the mapping and moves nothing.
        let old = PageRange::from_len(remap.addr, remap.old_len);
        if let Some(old) = old {
            self.ensure_tables(old, target.start())?;
        }
        if flags.contains(VmFlags::ACCOUNT) {
            // Linux asks for what was cut off as well, and even keeps it; here the asking is enough.
            let cut = remap.cut >> PAGE_SHIFT;
            self.commit(charge + cut)?;
            self.system.uncommit(cut);
        }
        // While both are mapped the process has no more than before.
        let peak = self.account.peak;
        self.account.add(flags, target.pages());
        self.account.peak = peak;
        self.link(&moved);
        let merged = self.insert_merged(moved, Origin::Moved);
        let moved = self.note_moved(merged, (remap.addr, target.start(), remap.old_len));
        if let Some(old) = old {
            let mut batch = FlushBatch::new();
            self.invalidate(old, Invalidation::Unmap, |space| {
                space.move_pages(old, target.start(), &mut batch);
            });
            if moved == Moved::Unprotected {
                self.forget_protection(target);
            }
            if keeps && self.rule(Rule::EmptySource) {
                self.empty_source(old, merged);
            } else if !keeps {
                self.note_unmapped(old);
                // What was promised for the source is promised for the target now.
                self.gather(old)?;
                self.leave_promise(old, target.start());
                self.invalidate(old, Invalidation::Unmap, |space| space.tell_files_unmapped(old));
                self.remove_vmas(old);
            }
            self.finish(batch)?;
        }
        self.account.peak = peak.max(self.account.total);
        Ok(target.start())
    }

    /// The target of a move has what the source was promised of the pool of huge pages, and what was taken from it.
    fn leave_promise(&mut self, old: PageRange, to: VirtAddr) {
        let Some(vma) = self.vmas.get(old.start()) else { return };
        if !vma.flags.contains(VmFlags::HUGETLB) {
            return;
        }
        if let Some(maps) = maps_of(vma) {
            maps.move_taken(self.number, old, to);
        }
        self.vmas.update(old.start(), |vma| vma.set_promise(None));
    }

    /// The source of a move that keeps it mapped: it is not locked any more, also where only a part of
    /// it went, and if all of it went, it is as if never written to. What was locked stays counted:
    /// Linux 6.18 does so.
    fn empty_source(&mut self, old: PageRange, merged: VirtAddr) {
        let Some(vma) = self.vmas.find_exact(old.start()) else { return };
        let (range, flags) = (vma.range(), vma.flags);
        let bare = flags.difference(VmFlags::LOCKED_MASK);
        let forget = range == old && range.start() != merged;
        if forget {
            self.chains.detach(self.system.anon(), vma);
        }
        self.vmas.update(range.start(), |vma| {
            vma.flags = bare;
            if forget {
                vma.set_anon(None);
            }
        });
        // What stays of it, where only a part went.
        self.note_locked(range, bare);
        let locked = self.account.locked;
        self.account.remove(flags, range.pages());
        self.account.add(bare, range.pages());
        self.account.locked = locked;
    }

    /// Makes the tables that the moved entries will need, so that moving them cannot fail.
    fn ensure_tables(&self, old: PageRange, to: VirtAddr) -> CallResult<()> {
        self.settle(old)?;
        self.make_room(old, to)?;
        // Linux has one wherever entries of an old table could go, and a huge page comes to none of them.
        for addr in self.table.tables_in(old) {
            let part = PageRange::from_len(addr.table_floor(), TABLE_SPAN);
            let Some(part) = part.and_then(|part| part.intersect(old)) else { continue };
            let ends = [part.start(), VirtAddr::new(part.end().get() - PAGE_SIZE)];
            for end in ends {
                self.ensure_table(to.offset(end.bytes_from(old.start())))?;
            }
        }
        Ok(())
    }

    /// Large entries move as they are where both places have their alignment, and are split else.
    fn make_room(&self, old: PageRange, to: VirtAddr) -> CallResult<()> {
        if old.start().get() % TABLE_SPAN != to.get() % TABLE_SPAN {
            return Ok(self.split_large(old)?);
        }
        self.demote(old)?;
        self.split_ends(old)?;
        let mut batch = FlushBatch::new();
        for large in self.table.large_in(old) {
            let to = to.offset(large.addr.bytes_from(old.start()));
            self.system.or_reclaim(|| self.table.make_link(to, &mut batch))?;
        }
        Ok(self.flush(batch)?)
    }

    /// Moves the entries; the frames stay where they are (`move_page_tables`).
    fn move_pages(&self, old: PageRange, to: VirtAddr, batch: &mut FlushBatch) {
        // Who takes an object's pages away must find each in one of the two places.
        let _still = self.table.hold_still();
        for large in self.table.large_in(old) {
            let to = to.offset(large.addr.bytes_from(old.start()));
            self.table.move_large(&large, to, batch);
        }
        for leaf in self.table.cursor(old) {
            let addr = to.offset(leaf.addr.bytes_from(old.start()));
            let Some(slot) = self.table.slot_to_fill(addr) else { continue };
            let entry = Entry::new(leaf.slot.swap(0, Ordering::AcqRel));
            slot.store(entry.raw(), Ordering::Release);
            if let (true, Some(frame)) = (entry.is_accessed(), entry.frame()) {
                batch.lowered(frame);
            }
        }
        if old.start().get() % TABLE_SPAN == to.get() % TABLE_SPAN {
            // Linux moves whole tables as they are (`move_normal_pmd`).
            self.table.vacate(old);
        }
    }
}
