//! The host's own reads and writes of a program's memory (Linux's `copy_from_user` and
//! `copy_to_user`). They fault pages in, respect permissions and leave accessed and dirty bits as the
//! program's own accesses would.

use super::fault::Rights;
use super::{AddressSpace, Resolved};
use crate::addr::{GuestPhysAddr, VirtAddr};
use crate::error::{AccessError, Broken, Fault};
use crate::paging::{AccessKind, Owner};
use crate::phys::Gone;

/// How often a page may vanish between its fault and its use before we call it a bug.
const RETRIES: u32 = 64;

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accessed {
    /// It was made.
    Done,
    /// The space must make way first ([`make_way`](AddressSpace::make_way)).
    NeedsExclusive,
    /// The page must be brought first.
    NeedsPage,
    /// Who serves a userfaultfd is to be told, and waited for.
    ForHandler,
}

impl From<Resolved> for Accessed {
    fn from(resolved: Resolved) -> Self {
        match resolved {
            Resolved::Done => Accessed::Done,
            Resolved::NeedsExclusive => Accessed::NeedsExclusive,
            Resolved::NeedsPage => Accessed::NeedsPage,
            Resolved::ForHandler => Accessed::ForHandler,
        }
    }
}

impl AddressSpace {
    /// Translates one address for an access, faulting the page in, and makes it while the page stays.
    pub(super) fn access(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        rights: Rights,
        access: &mut dyn FnMut(GuestPhysAddr) -> Result<(), Gone>,
    ) -> Result<Accessed, AccessError> {
        for attempt in 0..RETRIES {
            {
                let _held = self.hold(addr);
                // What may be given up is not, while it is used.
                let _still = self.table.hold_still();
                let allowed = self.table.walk(addr, kind).ok();
                // A fault has just made it possible.
                let forced = || match rights {
                    Rights::Forced if attempt > 0 => self.walk_forced(addr, kind),
                    _ => None,
                };
                if let Some(at) = allowed.or_else(forced) {
                    let gone = |Gone| Fault::NoBacking(addr).into();
                    return access(at).map(|()| Accessed::Done).map_err(gone);
                }
            }
            match self.fault_with(addr, kind, rights)? {
                Resolved::Done => {}
                resolved => return Ok(resolved.into()),
            }
        }
        Err(Broken::Invariant(format!("a page at {addr} does not stay for a {kind:?}")).into())
    }

    /// Where a page is that the program may not access so, right after a fault with [`Rights::Forced`]. It is written
    /// only if it is the process's own and nobody else's (Linux's `can_follow_write_pte`); the fault has marked it.
    fn walk_forced(&self, addr: VirtAddr, kind: AccessKind) -> Option<GuestPhysAddr> {
        let entry = self.entry_at(addr.page_floor());
        let frame = entry.frame().filter(|_| !entry.is_leaving())?;
        let own = entry.owner() == Owner::Process && !entry.is_large();
        if kind == AccessKind::Write && !(own && self.is_only_owner(entry)) {
            return None;
        }
        Some(GuestPhysAddr::new(frame.addr().get() + addr.page_offset()))
    }
}

/// One page's part of a span of bytes.
pub(super) struct Piece {
    pub(super) addr: VirtAddr,
    /// Which bytes of the buffer.
    pub(super) bytes: std::ops::Range<usize>,
}

/// Cuts `len` bytes at `addr` at page boundaries.
///
/// # Errors
/// A fault at the end of the user half if the span passes it.
pub(super) fn pieces(
    addr: VirtAddr,
    len: usize,
) -> Result<impl Iterator<Item = Piece>, AccessError> {
    let end = addr.checked_add(len as u64).filter(|&end| end <= VirtAddr::TASK_END);
    if end.is_none() {
        return Err(Fault::NotMapped(addr).into());
    }
    let mut done = 0;
    Ok(std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let addr = addr.offset(done as u64);
        let bytes = done..(done + addr.left_in_page()).min(len);
        done = bytes.end;
        Some(Piece { addr, bytes })
    }))
}
