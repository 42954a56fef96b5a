//! Whether a userfaultfd is told of a fault (Linux's `handle_userfault`, and where it is called).
//!
//! ```text
//!   no page, no swap entry ── the object has the page ─> MODE_MINOR: told as a minor fault
//!                          ── past its end ────────────> not told: SIGBUS
//!                          ── else ────────────────────> MODE_MISSING: told
//!   a page, protected, written ────────────────────────> told; WP_ASYNC: not protected any more
//! ```

use std::sync::atomic::Ordering;

use crate::addr::VirtAddr;
use crate::backing::Backing;
use crate::error::{AccessError, Fault};
use crate::paging::{AccessKind, Below, Entry};
use crate::space::fault::no_frame;
use crate::space::{AddressSpace, Resolved};
use crate::userfault::{Accessor, Asked, Features, Reason, Served, Waiting};
use crate::vma::{VmFlags, Vma};

impl AddressSpace {
    /// What becomes of a fault in memory that is registered; nothing if it is one like others.
    ///
    /// # Errors
    /// `SIGBUS` where that was asked for; no memory.
    #[cold]
    pub(in crate::space) fn ask_userfault(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Option<Resolved>, AccessError> {
        let Some(uffd) = vma.userfault().filter(|uffd| !uffd.is_unserved()) else {
            return Ok(None);
        };
        let Some(reason) = self.reason_to_ask(vma, addr.page_floor(), kind) else {
            return Ok(None);
        };
        if reason == Reason::Protected && uffd.has(Features::WP_ASYNC) {
            self.unprotect(addr.page_floor());
            return Ok(None);
        }
        self.prepare_to_ask(vma, addr, kind, reason)?;
        if uffd.has(Features::SIGBUS) {
            return Err(Fault::NoBacking(addr).into());
        }
        if uffd.handler().is_none() {
            // It is about to be unregistered.
            if reason == Reason::Protected {
                self.unprotect(addr.page_floor());
            }
            return Ok(None);
        }
        Ok(Some(Resolved::ForHandler))
    }

    /// Tells the fault, if it is still to be told; the wait is the caller's, who lets go of the space first.
    ///
    /// # Errors
    /// The [`Fault`] that the program gets as a signal, which is `SIGBUS` for a call where its program's own accesses
    /// alone are served, and for a visitor.
    pub(in crate::space) fn tell_handler(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        accessor: Accessor,
    ) -> Result<Option<Box<dyn Waiting>>, AccessError> {
        if self.fault(addr, kind)? != Resolved::ForHandler {
            return Ok(None);
        }
        let Some(vma) = self.vmas.find_exact(addr) else { return Ok(None) };
        let Some(uffd) = vma.userfault() else { return Ok(None) };
        let served = accessor == Accessor::Program
            || accessor == Accessor::Call && uffd.served() == Served::All;
        if !served {
            return Err(Fault::NoBacking(addr).into());
        }
        let page = VirtAddr::new(addr.get() & !(vma.page_size() - 1));
        let reason = self.reason_to_ask(vma, addr.page_floor(), kind);
        let (Some(reason), Some(handler)) = (reason, uffd.handler()) else { return Ok(None) };
        Ok(Some(handler.ask(Asked { addr, page, kind, reason }, uffd.features())))
    }

    /// Whether a userfaultfd is told of a page that is not there, or not mapped.
    pub(in crate::space) fn is_for_userfaultfd(&self, vma: &Vma, page: VirtAddr) -> bool {
        vma.flags.intersects(VmFlags::UFFD)
            && self.reason_to_ask(vma, page, AccessKind::Read).is_some()
    }

    /// The same where a call brings pages in ahead, with the space locked. Says whether that is to be done later, when it
    /// is not.
    ///
    /// # Errors
    /// `SIGBUS` where the program's own accesses alone are served, or nothing is told; no memory.
    pub(in crate::space) fn populates_later(
        &self,
        vma: &Vma,
        page: VirtAddr,
        kind: AccessKind,
    ) -> Result<bool, AccessError> {
        let Some(uffd) = vma.userfault() else { return Ok(false) };
        let Some(reason) = self.reason_to_ask(vma, page, kind) else { return Ok(false) };
        if reason == Reason::Protected && uffd.has(Features::WP_ASYNC) {
            return Ok(false);
        }
        self.prepare_to_ask(vma, page, kind, reason)?;
        if uffd.served() == Served::Program || uffd.has(Features::SIGBUS) {
            return Err(Fault::NoBacking(page).into());
        }
        Ok(uffd.handler().is_some())
    }

    /// Why a userfaultfd is told of an access, if it is.
    fn reason_to_ask(&self, vma: &Vma, page: VirtAddr, kind: AccessKind) -> Option<Reason> {
        let entry = self.entry_at(page);
        if entry.frame().is_some() {
            let told = entry.is_protected() && kind == AccessKind::Write;
            return told.then_some(Reason::Protected);
        }
        if entry.swap_slot().is_some() || entry.is_guard() || entry.is_poison() {
            return None;
        }
        let (reason, mode) = match &vma.backing {
            None => (Reason::Missing, VmFlags::UFFD_MISSING),
            Some(backing) => {
                let index = vma.page_index(page);
                if has_page(&**backing, index) {
                    (Reason::Unmapped, VmFlags::UFFD_MINOR)
                } else if backing.shared_memory().is_some_and(|memory| index >= memory.pages()) {
                    return None;
                } else {
                    (Reason::Missing, VmFlags::UFFD_MISSING)
                }
            }
        };
        vma.flags.contains(mode).then_some(reason)
    }

    /// Linux looks whom to tell only when it has all that the page would need.
    fn prepare_to_ask(
        &self,
        vma: &Vma,
        addr: VirtAddr,
        kind: AccessKind,
        reason: Reason,
    ) -> Result<(), AccessError> {
        let huge = || {
            let nothing = matches!(self.table.below(addr), Below::Nothing | Below::Vacated);
            self.wants_huge(vma, addr) && nothing
        };
        if reason == Reason::Protected || vma.flags.contains(VmFlags::HUGETLB) {
            return Ok(());
        }
        let own = kind == AccessKind::Write && vma.is_private();
        let huge = huge();
        if own || huge {
            self.prepare_anon(vma).map_err(|error| no_frame(error, addr))?;
        }
        match &vma.backing {
            None if !huge => {
                self.table.ensure(addr).map(drop).map_err(|error| no_frame(error, addr))
            }
            Some(backing) if reason == Reason::Missing && kind != AccessKind::Write => {
                self.look_around(vma, &**backing, addr, kind)
            }
            _ => Ok(()),
        }
    }

    /// Has nobody told of the next write of a page.
    fn unprotect(&self, page: VirtAddr) {
        if let Some(large) = self.table.large(page) {
            large.update(Entry::unprotected);
        } else if let Some(slot) = self.table.slot(page) {
            let clear = |raw| Some(Entry::new(raw).unprotected().raw());
            // It always has something to put there.
            let _ = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, clear);
        }
    }
}

/// Whether a page of an object is there, in memory or in the swap area.
fn has_page(backing: &dyn Backing, page: u64) -> bool {
    backing.is_resident(page) || !backing.swapped(page..page + 1).is_empty()
}
