//! Pages for those that wait, from who serves a userfaultfd: `UFFDIO_COPY`, `UFFDIO_ZEROPAGE`, `UFFDIO_CONTINUE`,
//! `UFFDIO_POISON` (Linux's `mfill_atomic`).
//!
//! ```text
//!               anonymous, private          shared memory, shared
//!   bytes       a page of its own           a page of the object, which must have none
//!   zeros       the page of zeros           the same, zeros
//!   continue    (EINVAL; private: the object's page)    the page that the object has
//!   poison      a mark                      a mark
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use super::Protection;
use crate::addr::{PAGE_BYTES, PAGE_SIZE, PageRange, VirtAddr};
use crate::backing::{Backing, BackingError};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::paging::{Access, Entry, Owner, Touch};
use crate::phys::{Contents, FrameKind};
use crate::space::anon::run_of;
use crate::space::protect::entry_access;
use crate::space::{AddressSpace, PageClass, maps_of};
use crate::vma::{VmFlags, Vma};

/// What comes where a page is missing.
#[derive(Clone, Copy, Debug)]
pub enum Filling<'a> {
    /// A page with these bytes.
    Bytes(&'a [u8; PAGE_BYTES]),
    /// A page of zeros.
    Zeros,
    /// The page that the object has.
    Present,
    /// None: each touch is an error.
    Poison,
}

/// What an entry may hold when a page comes to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    /// Nothing.
    Empty,
    /// A mark.
    Marker,
}

impl AddressSpace {
    /// Whether pages may come to all of a range, before any does.
    ///
    /// # Errors
    /// `ENOENT` the range does not lie in one VMA that is registered; `EINVAL` protected pages in one that is not
    /// registered for them, or `Present` in memory that has no object. Source: `mfill_atomic`.
    pub fn check_fill(
        &self,
        range: PageRange,
        filling: &Filling<'_>,
        protection: Protection,
    ) -> CallResult<()> {
        let vma = self.vmas.find_exact(range.start()).ok_or(Errno::ENOENT)?;
        if vma.is_private() && !vma.flags.contains(VmFlags::HUGETLB) {
            self.prepare_anon(vma)?;
        }
        if !vma.range().covers(range) || vma.userfault().is_none() {
            return Err(Errno::ENOENT.into());
        }
        if protection == Protection::On && !vma.flags.contains(VmFlags::UFFD_WP) {
            return Err(Errno::EINVAL.into());
        }
        if vma.flags.contains(VmFlags::HUGETLB)
            || matches!(filling, Filling::Present) && vma.backing.is_none()
        {
            return Err(Errno::EINVAL.into());
        }
        Ok(())
    }

    /// Makes a table for a page that is to come to an address, before its bytes are looked at.
    ///
    /// # Errors
    /// `EEXIST` there is a huge page; `ENOMEM` no frame for the table.
    pub fn make_room_to_fill(&self, page: VirtAddr) -> CallResult<()> {
        match self.table.large(page) {
            Some(large) if large.entry.is_huge() => Err(Errno::EEXIST.into()),
            _ => Ok(self.ensure_table(page)?),
        }
    }

    /// Has a page come. Who waits for it is woken by the caller.
    ///
    /// # Errors
    /// As of [`check_fill`](Self::check_fill); `ENOMEM` no memory; `EFAULT` past the object's end, `Present` where the
    /// object has no page; `EEXIST` there is one. Source: `mfill_atomic_pte`.
    pub fn fill(
        &mut self,
        page: VirtAddr,
        filling: &Filling<'_>,
        protection: Protection,
    ) -> CallResult<()> {
        let one = PageRange::from_len(page, PAGE_SIZE).ok_or(Errno::EINVAL)?;
        self.check_fill(one, filling, protection)?;
        let Some(vma) = self.vmas.find_exact(page) else { return Err(Errno::ENOENT.into()) };
        self.ensure_table(page)?;
        let system = self.system.clone();
        system.or_reclaim(|| self.try_fill(vma, page, filling, protection))
    }

    fn try_fill(
        &self,
        vma: &Vma,
        page: VirtAddr,
        filling: &Filling<'_>,
        protection: Protection,
    ) -> CallResult<()> {
        let _held = maps_of(vma).map(crate::rmap::ObjectMaps::hold);
        let slot = {
            let _still = self.table.hold_still();
            // A large entry maps it.
            self.table.slot_to_fill(page).ok_or(Errno::EEXIST)?
        };
        let protect = |entry: Entry| match protection {
            Protection::On => entry.protected(),
            Protection::Off => entry,
        };
        let shared = vma.flags.contains(VmFlags::SHARED);
        match (filling, &vma.backing) {
            (Filling::Poison, _) => {
                check_end(vma, page)?;
                let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                let poison = Entry::POISON.raw();
                let put = slot.compare_exchange(0, poison, done, failed);
                put.map(drop).map_err(|_| Errno::EEXIST.into())
            }
            (Filling::Present, Some(backing)) => {
                self.map_present(vma, page, &**backing, (slot, &protect))
            }
            (Filling::Bytes(_) | Filling::Zeros, Some(backing)) if shared => {
                self.fill_object(vma, page, &**backing, filling, (slot, &protect))
            }
            (Filling::Zeros, _) => {
                check_end(vma, page)?;
                let zero = self.system.frames().zero_frame()?;
                let access = entry_access(vma.flags, Owner::Backing) - Access::WRITE;
                let entry = Entry::leaf(zero, Owner::Backing, access, Touch::Read);
                self.put_filled(slot, entry, Room::Empty)
            }
            (Filling::Bytes(bytes), _) => self.fill_own(vma, page, bytes, (slot, &protect)),
            (Filling::Present, None) => Err(Errno::EINVAL.into()),
        }
    }

    /// A page of the process's own.
    fn fill_own(
        &self,
        vma: &Vma,
        page: VirtAddr,
        bytes: &[u8; PAGE_BYTES],
        (slot, protect): (&AtomicU64, &dyn Fn(Entry) -> Entry),
    ) -> CallResult<()> {
        let frames = self.system.frames();
        let wish = self.wish_for(vma, page);
        let frame = frames.alloc_on(FrameKind::Anonymous, Contents::Any, wish)?;
        frames.memory().write(frame.addr(), bytes);
        self.own_pages(vma, page, run_of(frame));
        let access = entry_access(vma.flags, Owner::Process);
        let entry = Entry::leaf(frame, Owner::Process, access, Touch::Written);
        let entry = protect(self.own_entry(vma, entry));
        if let Err(errno) = check_end(vma, page) {
            frames.put(frame)?;
            return Err(errno.into());
        }
        self.put_filled(slot, entry, Room::Marker)
    }

    /// A page of the object.
    fn fill_object(
        &self,
        vma: &Vma,
        page: VirtAddr,
        backing: &dyn Backing,
        filling: &Filling<'_>,
        (slot, protect): (&AtomicU64, &dyn Fn(Entry) -> Entry),
    ) -> CallResult<()> {
        let memory = backing.shared_memory().ok_or(Errno::EINVAL)?;
        let bytes = match filling {
            Filling::Bytes(bytes) => Some(*bytes),
            _ => None,
        };
        let frame = memory.add_page(vma.page_index(page), bytes, self)?;
        let access = entry_access(vma.flags, Owner::Backing);
        let entry = self.backing_entry(vma, frame, access, Touch::Written);
        self.put_filled(slot, protect(entry), Room::Marker)
    }

    /// The page that the object has.
    fn map_present(
        &self,
        vma: &Vma,
        page: VirtAddr,
        backing: &dyn Backing,
        (slot, protect): (&AtomicU64, &dyn Fn(Entry) -> Entry),
    ) -> CallResult<()> {
        let index = vma.page_index(page);
        check_end(vma, page).map_err(|_| Errno::EINVAL)?;
        if !backing.is_resident(index) && backing.swapped(index..index + 1).is_empty() {
            return Err(Errno::EFAULT.into());
        }
        let frame = backing.page(index, self).map_err(|error| match error {
            BackingError::NoPage => Errno::EFAULT.into(),
            BackingError::OutOfMemory => Errno::ENOMEM.into(),
            BackingError::Broken(broken) => CallError::Broken(broken),
        })?;
        let access = entry_access(vma.flags, Owner::Backing);
        // Also where it cannot be written before it is copied.
        let entry = self.backing_entry(vma, frame, access, Touch::Written);
        self.put_filled(slot, protect(entry), Room::Marker)
    }

    /// Puts an entry where there is room for it, else gives its frame up: other spaces take pages away meanwhile, nobody
    /// brings any.
    fn put_filled(&self, slot: &AtomicU64, entry: Entry, room: Room) -> CallResult<()> {
        let Some(frame) = entry.frame() else { return Ok(()) };
        let frames = self.system.frames();
        frames.map(frame);
        let class = PageClass::of(entry, frames);
        let put = |raw| {
            let old = Entry::new(raw);
            (raw == 0 || room == Room::Marker && old.is_marker()).then_some(entry.raw())
        };
        match slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, put) {
            Ok(_) => {
                self.counters.resident.add(class);
                Ok(())
            }
            Err(_) => {
                let given_up: Result<(), Broken> =
                    frames.unmap(frame).and_then(|()| frames.put(frame));
                given_up?;
                Err(Errno::EEXIST.into())
            }
        }
    }
}

/// Whether the object has the page, or could (`mfill_file_over_size`).
fn check_end(vma: &Vma, page: VirtAddr) -> Result<(), Errno> {
    let memory = vma.backing.as_ref().and_then(|backing| backing.shared_memory());
    if memory.is_some_and(|memory| vma.page_index(page) >= memory.pages()) {
        return Err(Errno::EFAULT);
    }
    Ok(())
}
