//! Pages of a backing that have no entry yet (Linux's `do_read_fault`, `do_cow_fault`,
//! `do_shared_fault`).

use std::sync::atomic::Ordering;

use super::{At, no_frame, page_in_table};
use crate::addr::{Frame, PAGE_BYTES, PageRange, TABLE_SPAN, VirtAddr};
use crate::backing::{Backing, BackingError};
use crate::error::{AccessError, Broken, Fault};
use crate::paging::{Access, AccessKind, Entry, Owner, Touch, holds_nothing};
use crate::phys::{Contents, FrameKind, Gone, Marks, Place};
use crate::space::AddressSpace;
use crate::space::ahead::{FILE_AROUND, Stretch, around};
use crate::space::anon::run_of;
use crate::space::protect::entry_access;
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    pub(super) fn backed_fault(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
    ) -> Result<(), AccessError> {
        let copies = at.kind == AccessKind::Write && at.vma.is_private();
        if copies {
            // Before the backing is asked, so also where it has no such page (`do_cow_fault`).
            self.prepare_anon(at.vma).map_err(|error| no_frame(error, at.addr))?;
        }
        let access = match at.kind {
            AccessKind::Write => entry_access(at.vma.flags, Owner::Backing),
            AccessKind::Read | AccessKind::Execute => read_access(at.vma, backing),
        };
        if self.system.swap().is_some() {
            self.read_swapped(at, backing)?;
        }
        let frame = match self.backing_page(at, backing, at.page) {
            Err(error @ AccessError::Fault(Fault::NoBacking(_)))
                if at.kind != AccessKind::Write =>
            {
                // Linux looks around before it asks for the page itself (`do_fault_around`).
                self.map_around(at, backing, access)?;
                return Err(error);
            }
            page => page?,
        };
        if let Err(error) = self.prepare(at, backing) {
            self.system.frames().put(frame)?;
            return Err(error);
        }
        let faults = &self.counters.faults;
        if copies {
            let copied = self.copy_of(at, at.page, frame, Place::Anywhere);
            self.system.frames().put(frame)?;
            let access = entry_access(at.vma.flags, Owner::Process);
            let entry = Entry::leaf(copied?, Owner::Process, access, at.kind.touch());
            self.install(at.slot(), self.own_entry(at.vma, entry))?;
            faults.copied.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.install(at.slot(), self.backing_entry(at.vma, frame, access, at.kind.touch()))?;
        faults.backed.fetch_add(1, Ordering::Relaxed);
        if at.kind == AccessKind::Write {
            // Linux's `do_shared_fault` looks at nothing else, and notes at the page that it is written.
            self.system.frames().mark(frame, Marks::DIRTY);
            return self.map_rest_of_folio(at, backing, access);
        }
        self.map_around(at, backing, access)
    }

    /// Maps what is there around a page that is not, before anybody is asked for that (`do_fault_around`).
    ///
    /// # Errors
    /// No memory for a table.
    pub(in crate::space) fn look_around(
        &self,
        vma: &Vma,
        backing: &dyn Backing,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<(), AccessError> {
        let page = addr.page_floor();
        match self.table.ensure(page).map_err(|error| no_frame(error, addr))? {
            None => Ok(()),
            Some(words) => {
                let at = At { vma, page, addr, kind, words };
                self.map_around(&at, backing, read_access(vma, backing))
            }
        }
    }

    /// Has a page of shared memory that is in the swap area come with those after it, where a program goes on page by
    /// page.
    fn read_swapped(&self, at: &At<'_>, backing: &dyn Backing) -> Result<(), Broken> {
        let page = at.vma.page_index(at.page);
        if backing.swapped(page..page.saturating_add(1)).is_empty() {
            return Ok(());
        }
        let wanted = self.ahead.stretch(at.page, at.usual_way());
        let wanted = wanted.at_most(self.system.sysctl.fault_ahead());
        let wanted = wanted.at_most(wanted.way.room(at.page, at.vma.range()));
        let Some(pages) = wanted.range(at.page) else { return Ok(()) };
        let first = at.vma.page_index(pages.start());
        let held = backing.swapped(first..first.saturating_add(wanted.pages));
        let mut runs = held.chunk_by(|one, next| one + 1 == *next);
        let Some(run) = runs.find(|run| run.contains(&page)) else { return Ok(()) };
        self.ahead.came(at.page, Stretch { pages: run.len() as u64, ..wanted });
        if run.len() < 2 { Ok(()) } else { backing.read_ahead(run) }
    }

    /// Maps the pages around a touched one of a backing, where they can be had. A page that is not
    /// there is left to its own fault.
    fn map_around(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        access: Access,
    ) -> Result<(), AccessError> {
        if at.vma.flags.intersects(VmFlags::UFFD_WP | VmFlags::UFFD_MINOR) {
            // Each page is told of (`uffd_disable_fault_around`).
            return Ok(());
        }
        let Some(around) = around(at.page, at.vma.range()) else { return Ok(()) };
        let mut done = around.start();
        let pages = (around.start().get()..around.end().get()).step_by(PAGE_BYTES);
        for page in pages.map(VirtAddr::new) {
            if page < done {
                continue;
            }
            if let Some(piece) = self.piece_at(at, backing, page) {
                self.map_piece(at, &piece, access, Touch::Read)?;
                done = piece.range.end();
                continue;
            }
            let slot = &at.words[page_in_table(page)];
            if slot.load(Ordering::Relaxed) != 0 {
                self.see(slot);
                continue;
            }
            // A file is read ahead; shared memory does not come into being by being near, nor is a pager asked.
            let index = at.vma.page_index(page);
            if backing.is_shared_memory() && !backing.is_resident(index) || !backing.is_ready(index)
            {
                continue;
            }
            let Ok(frame) = self.backing_page(at, backing, page) else { break };
            // Accessed, as Linux's `set_pte_range` has it.
            let entry = self.backing_entry(at.vma, frame, access, Touch::Read);
            self.install(slot, entry)?;
            self.counters.faults.around.fetch_add(1, Ordering::Relaxed);
        }
        self.map_ahead(at, backing, access)
    }

    /// Brings in the rest of a table that the program comes to again, of what is in memory.
    fn map_ahead(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        access: Access,
    ) -> Result<(), AccessError> {
        if access.contains(Access::WRITE) || self.system.sysctl.fault_ahead() == 1 {
            return Ok(());
        }
        let here = page_in_table(at.page) / FILE_AROUND;
        let mut others =
            at.words.chunks(FILE_AROUND).enumerate().filter(|&(group, _)| group != here);
        if others.all(|(_, words)| holds_nothing(words)) {
            return Ok(());
        }
        let table = at.page.table_floor();
        let vma = at.vma.range();
        let end = vma.end().get().min(table.get() + TABLE_SPAN);
        let Some(part) = PageRange::new(vma.start().max(table), VirtAddr::new(end)) else {
            return Ok(());
        };
        let first = at.vma.page_index(part.start());
        let at_hand = backing.at_hand(first..first.saturating_add(part.pages()));
        let before = page_in_table(part.start());
        let mut brought = 0;
        for (group, words) in at.words.chunks(FILE_AROUND).enumerate() {
            // A group comes whole, so it lies in the VMA.
            let of_group = (group * FILE_AROUND)
                .checked_sub(before)
                .and_then(|at| at_hand.get(at..at + FILE_AROUND));
            let Some(pages) = of_group.filter(|pages| pages.iter().all(Option::is_some)) else {
                continue;
            };
            if !holds_nothing(words) {
                continue;
            }
            for (slot, frame) in words.iter().zip(pages.iter().flatten()) {
                self.system.frames().get(*frame);
                self.install(slot, self.backing_entry(at.vma, *frame, access, Touch::Ahead))?;
                brought += 1;
            }
        }
        if brought > 0 {
            self.counters.faults.around.fetch_add(brought, Ordering::Relaxed);
            self.brought_files_ahead(table);
        }
        Ok(())
    }

    pub(in crate::space) fn backing_entry(
        &self,
        vma: &Vma,
        frame: Frame,
        access: Access,
        touch: Touch,
    ) -> Entry {
        let entry = Entry::leaf(frame, Owner::Backing, access, touch);
        let stays = vma.flags.contains(VmFlags::LOCKED) && self.object_page_could_go(vma, entry);
        if stays { entry.locked() } else { entry }
    }

    /// Makes sure that the page that was asked for can be accessed so in place; a copy of it needs no more than
    /// its bytes.
    pub(super) fn prepare(&self, at: &At<'_>, backing: &dyn Backing) -> Result<(), AccessError> {
        let kind = if at.vma.is_private() { AccessKind::Read } else { at.kind };
        let prepared = backing.prepare(at.vma.page_index(at.page), kind);
        prepared.map_err(|error| fault_of(error, at))
    }

    fn backing_page(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        page: VirtAddr,
    ) -> Result<Frame, AccessError> {
        let index = at.vma.page_index(page);
        backing.page(index, self).map_err(|error| fault_of(error, at))
    }

    /// A frame of the process's own with the bytes of another, to be its page at `page`.
    pub(super) fn copy_of(
        &self,
        at: &At<'_>,
        page: VirtAddr,
        from: Frame,
        place: Place,
    ) -> Result<Frame, AccessError> {
        let frames = self.system.frames();
        let frame = frames
            .alloc_run_at(
                FrameKind::Anonymous,
                Contents::Any,
                1,
                place,
                self.wish_for(at.vma, page),
            )
            .map_err(|error| no_frame(error, at.addr))?
            .start;
        if let Err(Gone) = frames.memory().try_copy(from, frame) {
            frames.put(frame)?;
            return Err(Fault::NoBacking(at.addr).into());
        }
        self.own_pages(at.vma, page, run_of(frame));
        Ok(frame)
    }
}

fn fault_of(error: BackingError, at: &At<'_>) -> AccessError {
    match error {
        BackingError::NoPage => Fault::NoBacking(at.addr).into(),
        BackingError::OutOfMemory => Fault::OutOfMemory(at.addr).into(),
        BackingError::Broken(broken) => broken.into(),
    }
}

/// What an entry that no write has asked for allows.
fn read_access(vma: &Vma, backing: &dyn Backing) -> Access {
    let access = entry_access(vma.flags, Owner::Backing);
    // Linux's `vma_wants_writenotify`.
    let noted = backing.wants_write_notify() || vma.flags.contains(VmFlags::UFFD_WP);
    if noted { access.difference(Access::WRITE) } else { access }
}
