//! Pages of a backing that have no entry yet (Linux's `do_read_fault`, `do_cow_fault`,
//! `do_shared_fault`).

use std::sync::atomic::Ordering;

use super::{At, no_frame, page_in_table};
use crate::addr::{Frame, PAGE_BYTES, PAGE_SIZE, TABLE_SPAN, VirtAddr};
use crate::backing::{Backing, BackingError};
use crate::error::{AccessError, Fault};
use crate::paging::{Access, AccessKind, Entry, Owner, Touch};
use crate::phys::{Contents, FrameKind, Gone, Marks};
use crate::space::AddressSpace;
use crate::space::anon::run_of;
use crate::space::protect::entry_access;

/// How many pages of a file one fault maps, aligned (Linux's `fault_around_bytes`, 64 KiB).
const FILE_AROUND: u64 = 16;

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
        let access = entry_access(at.vma.flags, Owner::Backing);
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
        let faults = &self.counters.faults;
        if copies {
            let copied = self.copy_of(at, at.page, frame);
            self.system.frames().put(frame)?;
            let access = entry_access(at.vma.flags, Owner::Process);
            let entry = Entry::leaf(copied?, Owner::Process, access, at.touch());
            self.install(at.slot(), entry)?;
            faults.copied.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.install(at.slot(), Entry::leaf(frame, Owner::Backing, access, at.touch()))?;
        faults.backed.fetch_add(1, Ordering::Relaxed);
        if at.kind == AccessKind::Write {
            // Linux's `do_shared_fault` looks at nothing else, and notes at the page that it is written.
            self.system.frames().mark(frame, Marks::DIRTY);
            return Ok(());
        }
        self.map_around(at, backing, access)
    }

    /// Maps the pages around a touched one of a backing, where they can be had. A page that is not
    /// there is left to its own fault.
    fn map_around(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        access: Access,
    ) -> Result<(), AccessError> {
        let span = FILE_AROUND * PAGE_SIZE;
        // As many from where the VMA begins, if that is later (`do_fault_around`); all in one table.
        let first = (at.page.get() & !(span - 1)).max(at.vma.range().start().get());
        let end = (first + span).min((at.page.get() & !(TABLE_SPAN - 1)) + TABLE_SPAN);
        for page in (first..end).step_by(PAGE_BYTES).map(VirtAddr::new) {
            let slot = &at.words[page_in_table(page)];
            if !at.vma.range().contains(page) || slot.load(Ordering::Relaxed) != 0 {
                continue;
            }
            // A file is read ahead; shared memory does not come into being by being near.
            if backing.is_shared_memory() && !backing.is_resident(at.vma.page_index(page)) {
                continue;
            }
            let Ok(frame) = self.backing_page(at, backing, page) else { break };
            // Accessed, as Linux's `set_pte_range` has it.
            let entry = Entry::leaf(frame, Owner::Backing, access, Touch::Read);
            self.install(slot, entry)?;
            self.counters.faults.around.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn backing_page(
        &self,
        at: &At<'_>,
        backing: &dyn Backing,
        page: VirtAddr,
    ) -> Result<Frame, AccessError> {
        let index = at.vma.page_index(page);
        backing.page(index, self).map_err(|error| match error {
            BackingError::NoPage => Fault::NoBacking(at.addr).into(),
            BackingError::OutOfMemory => Fault::OutOfMemory(at.addr).into(),
            BackingError::Broken(broken) => broken.into(),
        })
    }

    /// A frame of the process's own with the bytes of another, to be its page at `page`.
    pub(super) fn copy_of(
        &self,
        at: &At<'_>,
        page: VirtAddr,
        from: Frame,
    ) -> Result<Frame, AccessError> {
        let frames = self.system.frames();
        let frame = frames
            .alloc(FrameKind::Anonymous, Contents::Any)
            .map_err(|error| no_frame(error, at.addr))?;
        if let Err(Gone) = frames.memory().try_copy(from, frame) {
            frames.put(frame)?;
            return Err(Fault::NoBacking(at.addr).into());
        }
        self.own_pages(at.vma, page, run_of(frame));
        Ok(frame)
    }
}
